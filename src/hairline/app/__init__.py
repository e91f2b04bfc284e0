"""The terminal: compose and check the configuration, run a story, report errors; sweeps."""
