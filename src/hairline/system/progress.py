"""Progress of long work: a bar on a terminal, a log line every ten seconds elsewhere."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from tqdm import tqdm

log = logging.getLogger(__name__)

_LINE_SECONDS = 10.0
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Bar(tqdm):  # type: ignore[type-arg]
    """A tqdm bar whose rate is measured from the first unit on: tracing a graph before it is not part of the rate."""

    monitor_interval = 0  # no monitoring thread
    has_begun = False

    def update(self, n: float | None = 1) -> bool | None:
        """Add `n` units."""
        if not self.has_begun:
            self.has_begun = True
            self.unpause()  # restart the clock
            self.initial = self.last_print_n = self.n + (n or 0)
        return super().update(n)


class _LogFile(io.StringIO):
    """A file that logs what tqdm writes to it, a line each."""

    def write(self, text: str) -> int:
        if text.strip():
            log.info(" ".join(text.split()))
        return len(text)


def bar(total: int | None, description: str, unit: str, *, done: int = 0) -> Bar:
    """Return a progress bar, to be used in a `with` block that calls its `update`.

    Args:
        total: Number of units, if known.
        description: What is being done.
        unit: Name of a unit; "B" for bytes, shown in MB or GB.
        done: Units that were done before.
    """
    options: dict[str, Any] = {"dynamic_ncols": True}
    if not sys.stderr.isatty():
        units = unit if unit == "B" else f" {unit}"
        amount, left = ("{n_fmt} of {total_fmt}", ", {remaining} left") if total else ("{n_fmt}", "")
        options = {
            "file": _LogFile(),
            "bar_format": f"{{desc}}: {amount}{units}, {{rate_fmt}}{left}",
            "mininterval": _LINE_SECONDS,
            "miniters": 1,
            "delay": _LINE_SECONDS,
            "leave": False,
        }
    return Bar(total=total, initial=done, desc=description, unit=unit, unit_scale=unit == "B", **options)


def over(items: Iterable[_Item], total: int, description: str, unit: str) -> Iterator[_Item]:
    """Yield items and show the progress."""
    with bar(total, description, unit) as updated:
        for item in items:
            yield item
            updated.update()


def in_threads(
    function: Callable[[Sequence[_Item]], Sequence[_Result]],
    items: Sequence[_Item],
    description: str,
    unit: str,
    *,
    chunk: int = 32,
    threads: int | None = None,
) -> list[_Result]:
    """Map work on files over threads, show the progress, and return the results in order.

    Args:
        function: From a chunk of items to their results: threads that switch after every file wait for each other.
        items: What is mapped.
        description: What is being done.
        unit: Name of an item.
        chunk: Items per call.
        threads: Their number; None for one more than cores: several more would mostly wait for Python's lock, and take
            half as long again.
    """
    results: list[_Result] = []
    chunks = [items[start : start + chunk] for start in range(0, len(items), chunk)]
    workers = threads or (os.cpu_count() or 1) + 1
    with ThreadPoolExecutor(workers) as executor, bar(len(items), description, unit) as shown:
        for part in executor.map(function, chunks):
            results += part
            shown.update(len(part))
    return results
