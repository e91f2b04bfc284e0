"""What MLflow did not get while a run or a sweep went on is sent to it later."""

from __future__ import annotations

import logging
from pathlib import Path

from hairline import checkpoint, logs, sweeps, tracking
from hairline.config import Sync

log = logging.getLogger(__name__)


def synchronise(config: Sync, directory: Path) -> int:
    """Send what the journals of a run directory, or of all jobs of a sweep, hold and MLflow has not.

    Args:
        config: Checked configuration.
        directory: What Hydra made for this call; nothing is kept there.

    Returns:
        How many entries were sent.

    Raises:
        TrackingError: If there is nothing that could be sent, or the server or store cannot be used.
        CheckpointError: If a process still works on the run.
    """
    folder = Path(config.run).expanduser().absolute()
    sweep = sweeps.Sweep.read(folder) if (folder / sweeps.STATE).is_file() else None
    folders = [folder] if sweep is None else [sweep.directory(job) for job in sweep.jobs()]
    sent = 0
    for place in folders:
        with checkpoint.held(place):
            sent += tracking.synchronise(place, config.tracking.uri)
    if sweep is not None:
        sweep.update()
    log.info("%d entries sent to MLflow; all of %s is there", sent, folder)
    logs.remove_if_empty(directory)
    return sent
