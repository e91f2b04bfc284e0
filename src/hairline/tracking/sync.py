"""The story of `sync.py`: send what MLflow missed of a run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from hairline import tracking
from hairline.system import files

log = logging.getLogger(__name__)


def synchronise(directories: Sequence[Path], uri: str | None) -> int:
    """Send the unsent journal entries of run directories to MLflow.

    Args:
        directories: Run directories.
        uri: Tracking server or store; None for the one the run was tracked in.

    Returns:
        Number of entries sent.

    Raises:
        TrackingError: If there is nothing to send, or the server or store cannot be used.
        LockedError: If a process is still working on one of the runs.
    """
    sent = 0
    for directory in directories:
        with files.locked(directory):
            sent += tracking.synchronise(directory, uri)
    return sent
