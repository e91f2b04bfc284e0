"""What lasts for a process: one object, made in `app` and passed to the stories."""

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
        listings: Images that were listed and grouped, by settings: the jobs of a sweep share them.
    """

    signals: Signals = field(default_factory=Signals)
    sweep: str | None = None
    listings: dict[str, Any] = field(default_factory=dict)

    def enter(self, sweep: str) -> None:
        """Start working for a session of a sweep; listings of an earlier one are forgotten."""
        if sweep != self.sweep:
            self.sweep = sweep
            self.listings.clear()
