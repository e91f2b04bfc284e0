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
        self._total, self._description, self._unit = total, description, unit
        self._done, self._before = done, done
        self._started = self._said = time.monotonic()

    def update(self, n: int = 1) -> None:
        self._done += n
        now = time.monotonic()
        if now - self._said < _LINE_SECONDS:
            return
        self._said = now
        rate = (self._done - self._before) / (now - self._started)
        line = f"{self._description}: {self._done:,}"
        if self._total:
            left = (self._total - self._done) / rate if rate else 0.0
            line += f" of {self._total:,} {self._unit}, {rate:,.0f} {self._unit}/s, {left:,.0f} s left"
        log.info(line)


@contextmanager
def bar(total: int | None, description: str, unit: str, *, done: int = 0) -> Iterator[Bar]:
    """Show the progress of a block that calls `update`.

    Args:
        total: Units in all, where known.
        description: What is being done.
        unit: Name of a unit; "B" are bytes, shown as kB, MB and GB.
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
