"""The clock of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from hairline.system.signals import Signals


class Stages:
    """Seconds spent in each named stage of a run."""

    def __init__(self, signals: Signals) -> None:
        """Start the clock; `signals` are checked before each stage."""
        self._signals = signals
        self._seconds: dict[str, float] = {}
        self._started = time.perf_counter()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure the block's time as stage `name`."""
        self._signals.check()
        started = time.perf_counter()
        yield
        self._seconds[name] = time.perf_counter() - started

    def measured(self) -> dict[str, float]:
        """Return `seconds_<stage>` of each stage so far, and `seconds_total` since the start."""
        stages = {f"seconds_{name}": value for name, value in self._seconds.items()}
        return stages | {"seconds_total": time.perf_counter() - self._started}
