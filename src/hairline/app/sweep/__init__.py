"""Sweeps: the command line, one job, and the state in the sweep folder."""
