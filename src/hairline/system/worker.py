"""A second Python process for work that would otherwise wait for Python's lock, such as drawing figures."""

from __future__ import annotations

import contextlib
import importlib
import logging
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

log = logging.getLogger(__name__)


class Worker:
    """Runs functions one after the other in a process of its own, which ends with the block, and with this process."""

    def __init__(self, *modules: str) -> None:
        """Start the process.

        Args:
            modules: Names of modules that it imports while it waits.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, *modules], stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._sender = ThreadPoolExecutor(1)  # a pipe holds 64 kB: sending waits for the process to read
        self._errors = ThreadPoolExecutor(1)
        assert self._process.stderr is not None
        self._said = self._errors.submit(self._process.stderr.read)

    def submit(self, function: Callable[..., object], *arguments: Any, **settings: Any) -> None:
        """Run a function; it and its arguments are pickled, and its value is discarded."""
        content = pickle.dumps((function, arguments, settings))
        self._sender.submit(self._send, content)

    def finish(self) -> None:
        """Wait for all functions; log what they warned of.

        Raises:
            RuntimeError: With the traceback, if one of them failed.
        """
        self._sender.shutdown()
        assert self._process.stdin is not None
        self._process.stdin.close()
        said = self._said.result().decode(errors="replace").strip()
        if self._process.wait():
            raise RuntimeError(f"a process that helps this one failed:\n{said}")
        if said:
            log.warning("%s", said)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *raised: object) -> None:
        self._process.kill()  # nothing to do where `finish` was called
        self._sender.shutdown(cancel_futures=True)
        self._errors.shutdown()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stderr):
            with contextlib.suppress(BrokenPipeError):  # what was not yet sent
                stream.close()  # type: ignore[union-attr]

    def _send(self, content: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # it failed: `finish` says why
            self._process.stdin.write(content)
            self._process.stdin.flush()


class Inline:
    """Runs functions at once in this process, with the methods of `Worker`."""

    def submit(self, function: Callable[..., object], *arguments: Any, **settings: Any) -> None:
        """Run a function."""
        function(*arguments, **settings)

    def finish(self) -> None:
        """Do nothing: all functions have run."""

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *raised: object) -> None:
        pass


def main() -> None:
    """Import the modules named on the command line, then run what comes in until the sender is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both processes; the other one ends this one
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for name in sys.argv[1:]:
        importlib.import_module(name)
    while True:
        try:
            function, arguments, settings = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        function(*arguments, **settings)


if __name__ == "__main__":
    main()
