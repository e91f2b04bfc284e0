"""From a finished run to its use: exports, checked against the evaluated model, and the registry of models."""
