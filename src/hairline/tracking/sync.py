"""The story of `sync.py`: send the journals that MLflow does not have completely."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hairline.system import files
from hairline.tracking import store
from hairline.tracking.journal import Journal
from hairline.tracking.mirror import Mirror, own_store


def synchronise(directories: Sequence[Path], uri: str | None) -> int:
    """Send the unsent entries of run directories to MLflow; a run that was killed and not resumed ends KILLED.

    Args:
        directories: Run directories.
        uri: Tracking server or store; None for the one that the run was started with.

    Returns:
        Number of entries sent.

    Raises:
        TrackingError: If a directory has no journal, or the server or store cannot be used.
        LockedError: If a process is still working on one of the runs.
    """
    sent = 0
    for directory in directories:
        with files.locked(directory):
            journal = Journal(directory.absolute())
            if not journal.started:
                raise store.TrackingError(
                    f"run={directory}: nothing to send; expected a run directory with its tracking.jsonl"
                )
            if not journal.ended:
                journal.add("end", status="KILLED")
            mirror = Mirror(journal, uri or own_store(journal))
            with store.translated_at(mirror.uri):
                store.check(mirror.uri)
                mirror.attach()
                while count := mirror.send():
                    sent += count
    return sent
