"""What a run tells MLflow, on disk first: `tracking.jsonl` in the run directory, a JSON object a line.

A line is either something told (`kind` says what) or how many of those are in MLflow (`sent`). Points carry the time at
which they were told, so that one that is sent twice is the same point to MLflow, which keeps it once.
"""

from __future__ import annotations

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
    """Give the id of the MLflow run that mirrors a run directory; None where none does."""
    try:
        return (directory / RUN_ID).read_text(encoding="utf-8").strip()
    except OSError:
        return None


def forget(directory: Path) -> None:
    """Let a run directory be mirrored by a new MLflow run."""
    for name in (RUN_ID, FILE):
        (directory / name).unlink(missing_ok=True)


def start_count(directory: Path) -> int:
    """Give a number that changes each time the run of a directory begins or goes on."""
    path = directory / FILE
    lines = path.read_bytes().splitlines() if path.is_file() else []
    return sum(line.startswith(b'{"kind": "begin"') for line in lines)


class Journal:
    """The journal of one run directory; one process writes it, from several threads."""

    def __init__(self, directory: Path) -> None:
        """Read what earlier processes told; nothing is written before something is told."""
        self.directory = directory
        self._path = directory / FILE
        self._lock = threading.Lock()
        self._entries: list[Entry] = []
        self._sent = 0
        self._points: set[tuple[str, int]] = set()
        self._parameters: set[str] = set()
        content = self._path.read_bytes() if self._path.is_file() else b""
        whole = content[: content.rfind(b"\n") + 1]  # the last line is torn where a process was killed in it
        if whole != content:
            os.truncate(self._path, len(whole))
        for line in whole.splitlines():
            self._take(json.loads(line))

    def tell(self, kind: str, **values: Any) -> None:
        """Note something, on the disk when this returns; points and parameters that were told before are left out.

        Args:
            kind: What it is.
            values: What JSON can hold, but for NaN.
        """
        if kind == "metrics":
            step = int(values["step"])
            known = self._points if "dataset" not in values else set()  # the same name, of another data set
            values["values"] = {key: value for key, value in values["values"].items() if (key, step) not in known}
        if kind == "parameters":
            told = values["values"].items()
            values["values"] = {key: value for key, value in told if key not in self._parameters}
        if values.get("values") == {}:
            return
        # The one way to MLflow, and a file of the run directory itself.
        entry = {"kind": kind, "time": int(time.time() * 1000), **redaction.settings(values)}
        with self._lock:
            self._write(entry, durable=True)

    def waiting(self) -> list[Entry]:
        """Give what is not in MLflow yet."""
        with self._lock:
            return self._entries[self._sent :]

    def mark(self, count: int) -> None:
        """Note that so many more entries are in MLflow."""
        with self._lock:
            # No need to reach the disk: what is sent twice is kept once.
            self._write({"sent": self._sent + count}, durable=False)

    def rewind(self) -> None:
        """Note that nothing of it is in MLflow: another store is told all of it."""
        with self._lock:
            if self._sent:
                self._write({"sent": 0}, durable=True)

    @property
    def begun(self) -> bool:
        """Whether anything was told."""
        return bool(self._entries)

    @property
    def uri(self) -> str | None:
        """The tracking server or store of the last beginning, without a password; None: there was none."""
        begun = [entry for entry in self._entries if entry["kind"] == "begin"]
        return begun[-1].get("uri") if begun else None

    @property
    def ended(self) -> bool:
        """Whether the run's end was told after its last beginning."""
        kinds = [entry["kind"] for entry in self._entries if entry["kind"] in ("begin", "end")]
        return kinds[-1:] == ["end"]

    def next_step(self, start: str) -> int:
        """Give the step after the last point whose name starts so; 0 where there is none."""
        with self._lock:
            return max((step + 1 for key, step in self._points if key.startswith(start)), default=0)

    def _write(self, entry: Entry, durable: bool) -> None:
        line = (json.dumps(entry, allow_nan=False) + "\n").encode()
        with self._path.open("ab") as file:
            file.write(line)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        self._take(entry)

    def _take(self, entry: Entry) -> None:
        if "sent" in entry:
            self._sent = int(entry["sent"])
            return
        self._entries.append(entry)
        if entry["kind"] == "metrics" and "dataset" not in entry:
            self._points |= {(key, entry["step"]) for key in entry["values"]}
        elif entry["kind"] == "parameters":
            self._parameters |= set(entry["values"])
