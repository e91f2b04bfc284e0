"""The threads beside a run: one sends its journal to MLflow, one samples the machine's load into the journal."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from hairline.config import commands
from hairline.system import redaction
from hairline.tracking import store
from hairline.tracking.journal import Journal
from hairline.tracking.mirror import LARGE, Mirror
from hairline.tracking.store import TrackingError

log = logging.getLogger(__name__)

# All in seconds.
_TIMEOUT, _TIMEOUT_LARGE = 10.0, 120.0  # of one request at the end of a run
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # between retries
_LAST_WAIT = 3.0  # at the end of a run, for a server that does not answer
_COLLECT = 1.0  # metrics of this period share a request: one request per short epoch would slow the training down
_SAMPLE = 10.0  # between samples of the machine's load
_SAMPLE_FROM = 60.0  # after the start: in a shorter run their charts would outnumber the curves
_WARN_AFTER = 2  # failures: a busy SQLite file is no outage
_SYSTEM = "system/"  # prefix of MLflow's system metrics


class Delivery:
    """Sends a journal in a thread, retries with growing pauses, and warns once about an outage.

    Attributes:
        mirror: MLflow run of the journal.
    """

    def __init__(self, mirror: Mirror, *, required: bool) -> None:
        """Start the thread; with `required`, the run stops if MLflow does not answer."""
        self.mirror, self._journal, self._required = mirror, mirror.journal, required
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._failures, self._reason, self._warned = 0, "", False
        self._request: tuple[float, bool] | None = None  # start of the current request, and whether it may take long
        self._progress, self._hurried = time.monotonic(), False
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise if MLflow is required and does not answer.

        Raises:
            TrackingError: If so.
        """
        if self._required and self._failures >= _WARN_AFTER:
            raise TrackingError(
                f"{self._outage()}\ntracking.required=true stops the run: continue it with resume= when the server is "
                "back, or without waiting for the server with tracking.required=false"
            )

    def notify(self) -> None:
        """Wake the thread: the journal has new entries."""
        with self._changed:
            self._changed.notify_all()

    def close(self, *, hurried: bool = False) -> bool:
        """Wait until all entries are sent, or until the server fails or takes too long.

        Args:
            hurried: The process was interrupted: do not wait longer for files than for metrics.

        Returns:
            Whether all entries were sent.
        """
        self._progress = time.monotonic()
        self._hurried = hurried
        with self._changed:
            self._closing.set()
            self._changed.notify_all()
            while self._journal.unsent() and time.monotonic() < self._deadline():
                self._changed.wait(0.05)
            unsent = len(self._journal.unsent())
        if unsent and not self._required:
            log.warning(
                "WARNING: %s\n%d entries of this run are not in MLflow yet. When the server is back: %s",
                self._outage(),
                unsent,
                commands.command("sync", commands.override("run", str(self._journal.directory))),
            )
        return not unsent

    def _deadline(self) -> float:
        """Return the time until which `close` waits; it moves with every request that succeeds."""
        if self._failures:
            return self._progress + _LAST_WAIT
        start, large = self._request or (time.monotonic(), False)
        timeout = _TIMEOUT_LARGE if large and not self._hurried else _TIMEOUT
        return max(self._progress + _LAST_WAIT, start + timeout)

    def _outage(self) -> str:
        return f"the tracking server {redaction.setting(self.mirror.uri)} does not accept data: {self._reason}"

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (unsent := self._journal.unsent()):
                    if self._closing.is_set():
                        return
                    self._changed.wait()
            kind = unsent[0]["kind"]
            self._request = time.monotonic(), kind in LARGE
            try:
                store.check(self.mirror.uri)
                self.mirror.send()
            except Exception as error:  # those of SQLAlchemy, requests and MLflow have no common base class
                self._request = None
                if not self._retry(error):
                    return
            else:
                self._request, self._progress = None, time.monotonic()
                if self._warned and self._failures:
                    log.info("MLflow answers again")
                self._failures = 0
                self.notify()
                if kind == "metrics":
                    self._closing.wait(_COLLECT)

    def _retry(self, error: Exception) -> bool:
        """Count a failure and pause; return whether to try again."""
        self._reason = store.reason(error)
        self._failures += 1
        if self._failures >= _WARN_AFTER and not self._warned and not self._required:
            self._warned = True
            log.warning("WARNING: %s\nTraining continues; the journal is sent later", self._outage())
        doubled = min(self._failures, 10)  # a float overflows after a night without the server
        if not self._closing.wait(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**doubled)):
            return True
        time.sleep(_FIRST_PAUSE)
        return time.monotonic() < self._progress + _LAST_WAIT


@contextlib.contextmanager
def sampling(journal: Journal, *, enabled: bool, notify: Callable[[], None]) -> Iterator[None]:
    """Log CPU, memory, disk, network and GPU use every ten seconds from the second minute of a block on.

    Args:
        journal: Journal of the run.
        enabled: Sample at all.
        notify: Called after each sample.
    """
    if not enabled:
        yield
        return
    ended = threading.Event()

    def sample() -> None:
        if ended.wait(_SAMPLE_FROM):
            return
        store.load_mlflow()
        from mlflow.system_metrics import system_metrics_monitor

        # Its own thread would stop at the first outage.
        monitor: Any = system_metrics_monitor.SystemMetricsMonitor(run_id="")  # type: ignore[no-untyped-call]
        while True:
            monitor.collect_metrics()
            if ended.wait(_SAMPLE):
                return
            metrics = monitor.aggregate_metrics()
            values = {_SYSTEM + key: float(value) for key, value in metrics.items() if value == value}
            for part in monitor.monitors:
                part.clear_metrics()
            journal.add("metrics", values=values, step=journal.next_step(_SYSTEM))
            notify()

    thread = threading.Thread(target=sample, name="sampling", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=2)
