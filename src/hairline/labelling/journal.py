"""The file of answers, `labels.csv`: each answer is on the disk before the next tile is shown.

Answers are only appended. To correct one is to append another for the same tile. To skip a tile, or to undo its only
answer, is to append one with an empty label.
"""

from __future__ import annotations

import csv
import io
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hairline.data import labels


class Journal:
    """Appends answers to a CSV file; safe for several threads."""

    def __init__(self, file: Path) -> None:
        """Open a file, created with its header where it is missing; remove a last line that a power cut left torn."""
        self.file = file
        self._lock = threading.Lock()
        new = not file.exists() or file.stat().st_size == 0
        if not new:
            _remove_torn_line(file)
        self._descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        if new:
            self._write(labels.COLUMNS)

    def add(self, answer: Sequence[Any]) -> None:
        """Append one answer, in the order of `labels.COLUMNS`, and wait until it is on the disk.

        Raises:
            OSError: If it cannot be written; the file then ends as before.
        """
        with self._lock:
            self._write(answer)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _write(self, values: Sequence[Any]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(values)
        content = line.getvalue().encode("utf-8", "surrogateescape")
        end = os.fstat(self._descriptor).st_size
        try:
            if os.write(self._descriptor, content) != len(content):
                raise OSError(f"{self.file} cannot be written: the disk is full")
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, end)
            raise


def _remove_torn_line(file: Path) -> None:
    """Cut off a last line without its line feed, unless it is a complete answer that an editor left so."""
    content = file.read_bytes()
    if content.endswith(b"\n"):
        return
    kept, _, last = content.rpartition(b"\n")
    complete = len(next(csv.reader([last.decode("utf-8", "surrogateescape")]), [])) == len(labels.COLUMNS)
    with file.open("r+b") as opened:
        if complete:
            opened.seek(0, os.SEEK_END)
            opened.write(b"\n")
        else:
            opened.truncate(len(kept) + 1 if kept else 0)
