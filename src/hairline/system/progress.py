"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from tqdm import tqdm

log = logging.getLogger(__name__)

_LINE_SECONDS = 10.0
_Item = TypeVar("_Item")


class Bar(Protocol):
    """What work reports to."""

    def update(self, n: int = 1) -> object:
        """Say that `n` more units are done."""


class _Lines:
    """Says every few seconds how far the work is."""

    def __init__(self, total: int | None, description: str, unit: str, done: int) -> None:
        scale = 1e6 if unit == "B" else 1
        self._total, self._done, self._scale = total, done, scale
        self._description, self._unit = description, "MB" if unit == "B" else unit
        self._said = time.monotonic()
        self._first: tuple[float, int] | None = None

    def update(self, n: int = 1) -> None:
        self._done += n
        now = time.monotonic()
        if now - self._said >= _LINE_SECONDS:
            self._said = now
            log.info(f"{self._description}: {self._done / self._scale:,.0f}{self._rest(now)}")
        if self._first is None:
            self._first = now, self._done

    def _rest(self, now: float) -> str:
        of = f" of {self._total / self._scale:,.0f} {self._unit}" if self._total else f" {self._unit}"
        # What went before the first units, like tracing a graph, says nothing of their rate.
        if self._first is None or self._first[1] == self._done:
            return of
        rate = (self._done - self._first[1]) / (now - self._first[0])
        scaled = rate / self._scale
        speed = f"{scaled:,.0f} {self._unit}/s" if scaled >= 1 else f"{1 / scaled:,.1f} s/{self._unit.rstrip('s')}"
        return f"{of}, {speed}" + (f", {(self._total - self._done) / rate:,.0f} s left" if self._total else "")


@contextmanager
def bar(total: int | None, description: str, unit: str, *, done: int = 0) -> Iterator[Bar]:
    """Show the progress of a block that calls `update`.

    Args:
        total: Units in all, where known.
        description: What is being done.
        unit: Name of a unit; "B" are bytes, shown as such multiples as can be read.
        done: Units that were done before.
    """
    if not sys.stderr.isatty():
        yield _Lines(total, description, unit, done)
        return
    scaled = unit == "B"
    with tqdm(total=total, initial=done, desc=description, unit=unit, unit_scale=scaled, dynamic_ncols=True) as shown:
        yield shown


def over(items: Iterable[_Item], total: int, description: str, unit: str) -> Iterator[_Item]:
    """Show the progress of a loop."""
    with bar(total, description, unit) as shown:
        for item in items:
            yield item
            shown.update()
