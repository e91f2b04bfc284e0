"""An object in a second Python process, for work that would otherwise wait for Python's lock or for imports."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO

from hairline.system import tensorflow
from hairline.system.errors import HairlineError

_END_SECONDS = 10.0  # for a process to end after it has closed its pipe


class WorkerError(HairlineError):
    """The second process was killed."""


class Worker:
    """Holds an object in a process of its own, and calls its methods and functions there, one after the other.

    The process ends with the block, and with this process.
    """

    def __init__(self, *modules: str) -> None:
        """Start the process.

        Args:
            modules: Names of modules that it imports while it waits, under `tensorflow.without_plots`.
        """
        self._messages = tempfile.TemporaryFile()
        # Libraries leave files behind in a process that is killed, as this one is in the end.
        self._temporary = tempfile.TemporaryDirectory(prefix="hairline-", ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, *modules],  # -P: no module of the folder it is started in
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            env=os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), self._temporary.name),
        )
        self._caller = ThreadPoolExecutor(1)

    def hold(self, held: object) -> None:
        """Pickle an object and hold it in the process; once."""
        self._caller.submit(self._send, pickle.dumps(held))

    def call(self, method: str, *arguments: Any, **settings: Any) -> Future[Any]:
        """Call a method of the object; arguments and value are pickled, and log records are handled here.

        Returns:
            The value to come. Its exception is the method's, or WorkerError or RuntimeError if the process has ended.
        """
        return self._submit(method, arguments, settings)

    def run(self, function: Callable[..., Any], *arguments: Any, **settings: Any) -> Future[Any]:
        """Call a function of a module, as `call` does with a method."""
        return self._submit(function, arguments, settings)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *raised: object) -> None:
        self._process.kill()
        self._caller.shutdown(cancel_futures=True)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._messages):
            with contextlib.suppress(BrokenPipeError):  # what was not yet sent
                stream.close()  # type: ignore[union-attr]
        self._temporary.cleanup()

    def _submit(
        self, called: str | Callable[..., Any], arguments: tuple[Any, ...], settings: dict[str, Any]
    ) -> Future[Any]:
        # Pickled now: the caller may change its arguments later.
        return self._caller.submit(self._exchange, pickle.dumps((called, arguments, settings)))

    def _end(self) -> Exception:
        """Return an error that says how the process has ended, with its last words."""
        try:
            status = self._process.wait(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:  # it sent what cannot be read, and lives
            self._process.kill()
            self._process.wait()
            return RuntimeError("the second process of this run sent an answer that cannot be read")
        if status < 0:
            return WorkerError(
                f"the second process of this run was killed by signal {-status}; perhaps memory ran out. Close other "
                "programs, then continue the run with resume=<its folder>"
            )
        self._messages.seek(0)
        said = self._messages.read().decode(errors="replace").strip()
        return RuntimeError(f"the second process of this run ended with status {status}:\n{said}")

    def _send(self, content: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # the process has ended: the answer is missing, too
            self._process.stdin.write(content)
            self._process.stdin.flush()

    def _exchange(self, content: bytes) -> Any:
        """Send a call, and return its value."""
        self._send(content)
        assert self._process.stdout is not None
        while True:
            try:
                kind, value = pickle.load(self._process.stdout)
            except (EOFError, ValueError, pickle.UnpicklingError) as ended:  # an answer may have stopped half-way
                raise self._end() from ended
            if kind == "record":
                logger = logging.getLogger(value.name)
                if logger.isEnabledFor(value.levelno):
                    logger.handle(value)
            elif kind == "error":
                error, trace = value
                raise error from RuntimeError(trace)
            else:
                return value


class Local:
    """Holds an object in this process, with the methods of `Worker`."""

    def hold(self, held: object) -> None:
        """Hold an object."""
        self._held = held

    def call(self, method: str, *arguments: Any, **settings: Any) -> Future[Any]:
        """Call a method of the object now; what it raises is raised here."""
        return self.run(getattr(self._held, method), *arguments, **settings)

    def run(self, function: Callable[..., Any], *arguments: Any, **settings: Any) -> Future[Any]:
        """Call a function now; what it raises is raised here."""
        future: Future[Any] = Future()
        future.set_result(function(*arguments, **settings))
        return future

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *raised: object) -> None:
        pass


def main() -> None:
    """Import the modules named on the command line, receive the object, then answer calls until the caller is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both processes; the other one ends this one
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not reach the answers
    logging.root.addHandler(_Forwarder(answers))
    logging.root.setLevel(logging.INFO)
    with tensorflow.quiet_import(), tensorflow.without_plots():
        for name in sys.argv[1:]:
            importlib.import_module(name)
    with contextlib.suppress(EOFError, BrokenPipeError):
        held = pickle.load(sys.stdin.buffer)
        while True:
            called, arguments, settings = pickle.load(sys.stdin.buffer)
            function = getattr(held, called) if isinstance(called, str) else called
            _write(answers, _answer(function, arguments, settings))


class _Forwarder(logging.Handler):
    """Sends log records to the caller."""

    def __init__(self, answers: BinaryIO) -> None:
        super().__init__()
        self._answers = answers

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record, with its arguments and traceback merged into its message."""
        plain = {key: value for key, value in vars(record).items() if isinstance(value, str | int | float)}
        sent = logging.makeLogRecord({**plain, "msg": self.format(record), "exc_text": None})
        _write(self._answers, ("record", sent))


def _answer(function: Any, arguments: tuple[Any, ...], settings: dict[str, Any]) -> tuple[str, Any]:
    try:
        return "value", function(*arguments, **settings)
    except Exception as error:
        return "error", (error, "".join(traceback.format_exception(error)))


def _write(answers: BinaryIO, content: tuple[str, Any]) -> None:
    try:
        pickled = pickle.dumps(content)
        if content[0] == "error":
            pickle.loads(pickled)
    except Exception:  # an exception may hold anything, and ask for more arguments than it passes on
        value = content[1][0] if content[0] == "error" else content[1]
        pickled = pickle.dumps(("error", (RuntimeError(f"{type(value).__name__}: {value}"), "")))
    answers.write(pickled)
    answers.flush()


if __name__ == "__main__":
    main()
