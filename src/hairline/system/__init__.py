"""Files, cache, progress, errors, redaction and the machine."""
