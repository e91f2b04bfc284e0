"""State of a process: one object, created in `app` and passed to the stories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from hairline.system import files
from hairline.system.signals import Signals

T = TypeVar("T")


@dataclass
class Process:
    """State that outlives a single run.

    Attributes:
        signals: The signals received so far.
        sweep: Session of the sweep whose jobs run in this process; None outside a sweep.
        latest: Key and value of the last `once`, by name.
        needs_person: Whether a photo of any inspection needs a person; the process then ends with status 1.
        moved: The working directory is that of a resumed run or sweep, not the one in which the user typed the command.
        outputs: Run directory of the job that writes to a folder of the user's choice, by folder.
    """

    signals: Signals = field(default_factory=Signals)
    sweep: str | None = None
    latest: dict[str, tuple[str, Any]] = field(default_factory=dict)
    needs_person: bool = False
    moved: bool = False
    outputs: dict[Path, Path] = field(default_factory=dict)

    def enter(self, sweep: str) -> None:
        """Start a session of a sweep; discard what an earlier one kept."""
        if sweep != self.sweep:
            self.sweep = sweep
            self.latest.clear()

    def shown(self, path: Path) -> str:
        """Return a path for a message or a command that the user pastes: short only if it holds where they are."""
        return str(path.absolute()) if self.moved else files.relative(path)

    def once(self, name: str, key: str, compute: Callable[[], T]) -> T:
        """Return a value; in a sweep, what the job before computed under the same key.

        Args:
            name: Name of the value; only its last one is kept.
            key: Whatever the value depends on.
            compute: Computes the value, which nobody changes afterwards.
        """
        if self.sweep is None:
            return compute()
        if name not in self.latest or self.latest[name][0] != key:
            self.latest[name] = key, compute()
        return cast(T, self.latest[name][1])
