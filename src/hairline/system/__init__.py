"""Files, cache, progress, errors, secrets and the machine."""
