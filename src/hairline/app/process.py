"""The one object that lasts for this process, and what a script's function is called with."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path

from hairline.system.process import Process


@functools.cache
def current() -> Process:
    """Return the object of this process; everything below `app` is handed it as an argument."""
    return Process()


@dataclass(frozen=True)
class Call:
    """What a script's function is called with, beside its settings.

    Attributes:
        directory: The run directory that Hydra made.
        overrides: What the command line changed.
        process: What lasts for the process.
    """

    directory: Path
    overrides: list[str] = field(default_factory=list)
    process: Process = field(default_factory=current)
