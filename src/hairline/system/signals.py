"""How a run is stopped from outside: SIGINT (Ctrl-C) and SIGTERM become an exception that lets every stage tidy up."""

from __future__ import annotations

import signal
from typing import Any

CODES = (128 + signal.SIGINT, 128 + signal.SIGTERM)

_received: list[Stopped] = []


class Stopped(KeyboardInterrupt):
    """A signal that asks the process to end.

    Attributes:
        name: Of the signal.
        code: Exit status by which shells know it: 130 for SIGINT, 143 for SIGTERM.
    """

    def __init__(self, number: int) -> None:
        """Name the signal `number`."""
        super().__init__(signal.Signals(number).name)
        self.name = signal.Signals(number).name
        self.code = 128 + number


def listen() -> None:
    """Raise `Stopped` in the main thread at the first SIGINT or SIGTERM; a second one ends the process at once."""
    _received.clear()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)


def check() -> None:
    """Raise `Stopped` again where a library has swallowed it, as some do while they are imported."""
    if _received:
        raise _received[0]


def exit_code(ending: KeyboardInterrupt) -> int:
    """Give the exit status of an interrupted process."""
    return ending.code if isinstance(ending, Stopped) else 128 + signal.SIGINT


def _stop(number: int, frame: Any) -> None:
    signal.signal(number, signal.SIG_DFL)
    _received.append(Stopped(number))
    raise _received[0]
