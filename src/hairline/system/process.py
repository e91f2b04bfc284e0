"""State of a process: one object, created in `app` and passed to the stories."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hairline.system.signals import Signals


@dataclass
class Process:
    """State that outlives a single run.

    Attributes:
        signals: The signals received so far.
        sweep: Session of the sweep whose jobs run in this process; None outside a sweep.
        listings: Lists of images by settings; the jobs of a sweep share them.
        heads: Compiled heads by their form; later runs use them again.
        needs_person: Whether a photo of any inspection needs a person; the process then ends with status 1.
    """

    signals: Signals = field(default_factory=Signals)
    sweep: str | None = None
    listings: dict[str, Any] = field(default_factory=dict)
    heads: dict[str, Any] = field(default_factory=dict)
    needs_person: bool = False

    def enter(self, sweep: str) -> None:
        """Start a session of a sweep; discard the listings of an earlier one."""
        if sweep != self.sweep:
            self.sweep = sweep
            self.listings.clear()
