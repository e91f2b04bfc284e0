"""Everything a run logs, on disk first: `tracking.jsonl` in the run directory, one JSON object per line.

A line is either an entry (`kind` says of what) or the number of entries that MLflow has (`sent`). Metrics keep the time
at which they were logged: one that is sent twice is the same point to MLflow, which stores it once.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from hairline.system import redaction

FILE = "tracking.jsonl"
RUN_ID = "mlflow_run_id.txt"

Entry = dict[str, Any]


def run_id(directory: Path) -> str | None:
    """Return the id of the MLflow run that mirrors a run directory; None if there is none."""
    try:
        return (directory / RUN_ID).read_text(encoding="utf-8").strip()
    except OSError:
        return None


def forget(directory: Path) -> None:
    """Delete the journal and the MLflow run id of a run directory: its next run starts a new MLflow run."""
    for name in (RUN_ID, FILE):
        (directory / name).unlink(missing_ok=True)


def start_count(directory: Path) -> int:
    """Return how often the run of a directory was started or resumed."""
    return _count(directory, "begin")


def begun_name(directory: Path) -> str | None:
    """Return the name with which the run of a directory was started; None if it was not."""
    return Journal(directory).start.get("name")


def has_metrics(directory: Path) -> bool:
    """Return whether the run of a directory has logged metrics, which later values would not replace."""
    return _count(directory, "metrics") > 0


def _count(directory: Path, kind: str) -> int:
    path, start = directory / FILE, f'{{"kind": "{kind}"'.encode()
    lines = path.read_bytes().splitlines() if path.is_file() else []
    return sum(line.startswith(start) for line in lines)


class Journal:
    """The journal of one run directory; one process writes it, from several threads."""

    def __init__(self, directory: Path) -> None:
        """Read what earlier processes logged; the file is created by the first entry."""
        self.directory = directory
        self._path = directory / FILE
        self._lock = threading.Lock()
        self._entries: list[Entry] = []
        self._sent = 0
        self._logged: set[tuple[str, int | None]] = set()  # metrics by step, parameters by None
        content = self._path.read_bytes() if self._path.is_file() else b""
        complete = content[: content.rfind(b"\n") + 1]
        if complete != content:  # the process was killed while it wrote the last line
            os.truncate(self._path, len(complete))
        for line in complete.splitlines():
            self._apply(json.loads(line))

    def add(self, kind: str, **values: Any) -> None:
        """Append an entry, on disk when this returns; metrics and parameters that are known already are skipped.

        Args:
            kind: A method of `mirror.Mirror`, without its underscore.
            values: Values that JSON can hold, except NaN.
        """
        if _is_unique(kind, values):
            step = values.get("step")
            new = {key: value for key, value in values["values"].items() if (key, step) not in self._logged}
            values = values | {"values": new}
        if values.get("values") == {}:
            return
        # Redacted here: the journal is the only way to MLflow, and a file of the run directory itself.
        entry = {"kind": kind, "time": int(time.time() * 1000), **redaction.settings(values)}
        with self._lock:
            self._write(entry, durable=True)

    def unsent(self) -> list[Entry]:
        """Return the entries that MLflow does not have yet."""
        with self._lock:
            return self._entries[self._sent :]

    def mark_sent(self, count: int) -> None:
        """Record that MLflow has `count` more entries."""
        with self._lock:
            # Not durable: an entry that is sent twice is stored once.
            self._write({"sent": self._sent + count}, durable=False)

    def mark_unsent(self) -> None:
        """Record that MLflow has no entry, for a new store."""
        with self._lock:
            if self._sent:
                self._write({"sent": 0}, durable=True)

    @property
    def started(self) -> bool:
        """Whether there are any entries."""
        return bool(self._entries)

    @property
    def start(self) -> Entry:
        """The entry of the last start: name, experiment and tags."""
        return next((entry for entry in reversed(self._entries) if entry["kind"] == "begin"), {})

    @property
    def tracked_start(self) -> Entry:
        """The entry of the last start with tracking, which has the store's `uri` too; empty if there was none."""
        return next((entry for entry in reversed(self._entries) if entry["kind"] == "begin" and "uri" in entry), {})

    @property
    def ended(self) -> bool:
        """Whether the run has ended since its last start."""
        kinds = [entry["kind"] for entry in self._entries if entry["kind"] in ("begin", "end")]
        return kinds[-1:] == ["end"]

    def next_step(self, prefix: str) -> int:
        """Return the step after the last metric whose name starts with `prefix`; 0 for the first."""
        with self._lock:
            steps = [step for key, step in self._logged if step is not None and key.startswith(prefix)]
            return max(steps, default=-1) + 1

    def _write(self, entry: Entry, durable: bool) -> None:
        line = (json.dumps(entry, allow_nan=False) + "\n").encode()
        size = self._path.stat().st_size if self._path.is_file() else 0
        try:
            with self._path.open("ab") as file:
                file.write(line)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
        except OSError:  # the disk is full: the next entry would be appended to the half of this one that fitted
            with contextlib.suppress(OSError):
                os.truncate(self._path, size)
            raise
        self._apply(entry)

    def _apply(self, entry: Entry) -> None:
        if "sent" in entry:
            self._sent = int(entry["sent"])
            return
        self._entries.append(entry)
        if _is_unique(entry["kind"], entry):
            self._logged |= {(key, entry.get("step")) for key in entry["values"]}


def _is_unique(kind: str, values: Entry) -> bool:
    """Return whether each value may be logged once only; metrics of another data set may share names."""
    return kind == "parameters" or (kind == "metrics" and "dataset" not in values)
