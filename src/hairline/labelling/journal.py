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
from hairline.system import files

_HEADER = (",".join(labels.COLUMNS) + "\n").encode()


class Journal:
    """Appends answers to a CSV file; safe for several threads."""

    def __init__(self, file: Path) -> None:
        """Open a file, created with its header where it is missing, and mend it (`_mend`).

        Raises:
            HairlineError: If it is no table of labels.
        """
        self.file = file
        self._lock = threading.Lock()
        if file.exists():
            _mend(file)
        self._descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        if file.stat().st_size == 0:
            self._append(_HEADER)

    def add(self, answer: Sequence[Any]) -> None:
        """Append one answer, in the order of `labels.COLUMNS`, and wait until it is on the disk.

        Raises:
            OSError: If it cannot be written; the file then ends as before.
        """
        with self._lock:
            self._append(_line(answer))

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _append(self, content: bytes) -> None:
        end = os.fstat(self._descriptor).st_size
        try:
            if os.write(self._descriptor, content) != len(content):
                raise OSError(f"{self.file} cannot be written: the disk is full")
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, end)
            raise


def _line(values: Sequence[Any]) -> bytes:
    """Return a line of the file; all values are quoted, as a name may hold any character, such as a carriage return."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n", quoting=csv.QUOTE_ALL).writerow(values)
    return line.getvalue().encode("utf-8", "surrogateescape")


def _mend(file: Path) -> None:
    """Cut off a last line that a power cut left torn; rewrite a file that another program saved in its own form."""
    content = file.read_bytes()
    last = content.rpartition(b"\n")[2]
    if _HEADER.startswith(content):
        os.truncate(file, 0)
    elif not content.startswith(_HEADER):
        answers = labels.read(file, history=True)
        with files.atomic(file) as opened:
            opened.writelines([_HEADER, *map(_line, answers.itertuples(index=False))])
    elif last:
        fields = next(csv.reader([last.decode("utf-8", "surrogateescape")]), [])
        if len(fields) == len(labels.COLUMNS) and (b'"' not in last or last.endswith(b'"')):  # an editor left it so
            with file.open("ab") as opened:
                opened.write(b"\n")
        else:
            os.truncate(file, len(content) - len(last))
