"""A thread that brings a run's journal to MLflow beside the training, which never waits for it before its end."""

from __future__ import annotations

import logging
import threading
import time

from hairline.tracking import store
from hairline.tracking.journal import Journal
from hairline.tracking.mirror import LARGE, Mirror
from hairline.tracking.store import TrackingError

log = logging.getLogger(__name__)

# Seconds. A request that takes longer than SLOW does not come back soon; a file may take its time.
_SLOW, _SLOW_LARGE = 10.0, 120.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # between tries
_LAST_WAIT = 3.0  # at the end of a run, for a server that does not answer
_COLLECTED = 1.0  # points of so long go together: a request for every short epoch would take time from the training
_WARNED_AFTER = 2  # tries: a busy SQLite file is no outage


class Delivery:
    """Sends what the journal holds, tries again in growing pauses, and says once if it cannot."""

    def __init__(self, journal: Journal, mirror: Mirror, uri: str | None, *, required: bool) -> None:
        """Take a journal and its mirror.

        Args:
            journal: Of the run.
            mirror: Its MLflow run.
            uri: Tracking server or store, for messages.
            required: Whether the run must end where MLflow does not answer.
        """
        self._journal, self._mirror, self._required = journal, mirror, required
        self._target = store.address(uri)
        self._news = threading.Condition()
        self._closing = threading.Event()
        self._failures, self._reason, self._warned = 0, "", False
        self._trying: tuple[float, bool] | None = None  # since when, and whether it may take long
        self._moved, self._hurried = time.monotonic(), False
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Say that the journal has something new.

        Raises:
            TrackingError: If MLflow is required and does not answer.
        """
        self.check()
        self.notify()

    def check(self) -> None:
        """Raise where MLflow is required and does not answer.

        Raises:
            TrackingError: Then.
        """
        if self._required and self._failures >= _WARNED_AFTER:
            raise TrackingError(
                f"{self._told()}\ntracking.required=true stops the run; go on with it by resume= when the server is "
                "back, or without waiting for it by tracking.required=false"
            )

    def notify(self) -> None:
        """Say that the journal has something new, from a thread that cannot stop the run."""
        with self._news:
            self._news.notify_all()

    def close(self, *, hurried: bool = False) -> bool:
        """Wait until all is sent, or until it is clear that it will not be; gives whether it is.

        Args:
            hurried: Whether the process was asked to end: then files are waited for no longer than points.
        """
        self._moved = time.monotonic()
        self._hurried = hurried
        with self._news:
            self._closing.set()
            self._news.notify_all()
            while self._journal.waiting() and time.monotonic() < self._deadline():
                self._news.wait(0.05)
            left = len(self._journal.waiting())
        if left and not self._required:
            log.warning(
                "WARNING: %s\n%d entries of this run are not in MLflow yet. When the server is back: "
                "python sync.py run=%s",
                self._told(),
                left,
                self._journal.directory,
            )
        return not left

    def _deadline(self) -> float:
        """Say until when the end of a run waits, as things stand."""
        if self._failures:
            return self._moved + _LAST_WAIT
        since, large = self._trying or (time.monotonic(), False)
        return max(self._moved + _LAST_WAIT, since + (_SLOW_LARGE if large and not self._hurried else _SLOW))

    def _told(self) -> str:
        return f"the tracking server {store.redacted(self._target)} does not take what is logged: {self._reason}"

    def _run(self) -> None:
        while True:
            with self._news:
                while not (waiting := self._journal.waiting()):
                    if self._closing.is_set():
                        return
                    self._news.wait()
            kind = waiting[0]["kind"]
            self._trying = time.monotonic(), kind in LARGE
            try:
                store.refuse_unusable(self._target)  # within seconds, where requests would try for longer
                self._journal.mark(self._mirror.deliver(waiting))
            except Exception as error:  # SQLAlchemy's, requests' and MLflow's own have no common ancestor
                self._trying = None
                if not self._failed(error):
                    return
            else:
                self._trying, self._moved = None, time.monotonic()
                if self._warned and self._failures:
                    log.info("MLflow answers again")
                self._failures = 0
                with self._news:
                    self._news.notify_all()
                if kind == "metrics":
                    self._closing.wait(_COLLECTED)

    def _failed(self, error: Exception) -> bool:
        """Note that a try failed, and pause; gives whether to go on."""
        self._reason = store.redacted_text(str(error), self._target)
        self._failures += 1
        if self._failures >= _WARNED_AFTER and not self._warned and not self._required:
            self._warned = True
            log.warning("WARNING: %s\nTraining goes on; what is logged is kept and sent later", self._told())
        if not self._closing.wait(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**self._failures)):
            return True
        time.sleep(_FIRST_PAUSE)
        return time.monotonic() < self._moved + _LAST_WAIT
