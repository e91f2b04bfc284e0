"""SIGINT (Ctrl-C) and SIGTERM become an exception, so that every stage can clean up."""

from __future__ import annotations

import signal
from typing import Any

CODES = (128 + signal.SIGINT, 128 + signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal asked the process to stop.

    Attributes:
        name: Name of the signal.
        code: Exit status of a process stopped by it: 130 for SIGINT, 143 for SIGTERM.
    """

    def __init__(self, number: int) -> None:
        """Initialise from the number of the signal."""
        super().__init__(signal.Signals(number).name)
        self.name = signal.Signals(number).name
        self.code = 128 + number


class Signals:
    """The signals that a process has received; created once in `app` and passed to the stories."""

    def __init__(self) -> None:
        """Start without a signal."""
        self._received: Stopped | None = None

    def listen(self) -> None:
        """Raise `Stopped` in the main thread at the first SIGINT or SIGTERM; a second one ends the process at once."""
        self._received = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)

    def check(self) -> None:
        """Raise `Stopped` again if a signal was received: some libraries swallow it while they are imported."""
        if self._received is not None:
            raise self._received

    def _stop(self, number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_DFL)
        self._received = Stopped(number)
        raise self._received


def exit_code(ending: KeyboardInterrupt) -> int:
    """Return the exit status of an interrupted process."""
    return ending.code if isinstance(ending, Stopped) else 128 + signal.SIGINT
