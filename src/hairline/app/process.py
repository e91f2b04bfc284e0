"""The state of this process, and the arguments of a script's function."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path

import filelock

from hairline.app.commandline import CommandLine
from hairline.app.sweep.state import Sweep
from hairline.system.errors import HairlineError
from hairline.system.process import Process


@dataclass
class Application:
    """What the terminal remembers for the whole process.

    Attributes:
        command: The command line; empty in the worker processes of a launcher.
        process: State that is passed to the stories.
        sweep: The sweep that this process controls; None outside a sweep and in a launcher's workers.
        lock: Held while the sweep runs, so that a second process cannot start it.
        warnings: Warnings that jobs of the sweep have shown on the screen; each is shown once.
        failures: Failed jobs of a multirun that is no sweep, such as `evaluate.py -m`: directory and message.
        created: Run directories that held nothing before this process.
    """

    command: CommandLine = field(default_factory=CommandLine)
    process: Process = field(default_factory=Process)
    sweep: Sweep | None = None
    lock: filelock.BaseFileLock | None = None
    warnings: set[str] = field(default_factory=set)
    failures: list[tuple[str, str]] = field(default_factory=list)
    created: set[Path] = field(default_factory=set)


@functools.cache
def current() -> Application:
    """Return the application object of this process. Hydra calls our functions itself and cannot pass it on."""
    return Application()


@dataclass(frozen=True)
class Call:
    """Arguments of a script's function, beside its configuration.

    Attributes:
        directory: The run directory, made by Hydra.
        overrides: Settings changed on the command line.
        multirun: The call is one of several (`-m`).
        process: State that outlives the run.
    """

    directory: Path
    overrides: list[str]
    multirun: bool
    process: Process

    def reserve(self, output: Path) -> None:
        """Keep a folder of results for this job of the process.

        Raises:
            HairlineError: If it is an earlier job's, whose results would be replaced.
        """
        earlier = self.process.outputs.setdefault(output.expanduser().resolve(), self.directory)
        if earlier != self.directory:
            raise HairlineError(
                f"{output} is the output of job {earlier.name} of this command, whose results would be replaced: leave "
                "output= out, for a folder per job, or start one command per job"
            )
