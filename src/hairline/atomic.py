"""Files that are there as a whole or not at all, whenever the process or the machine dies."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO


def write(path: Path, fill: Callable[[BinaryIO], Any]) -> None:
    """Write a file beside its place, to the disk, and move it there in one step.

    Args:
        path: The file; an earlier one is replaced.
        fill: Writes the content.

    Raises:
        OSError: If it cannot be written; what was there before still is.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, UTF-8, like `write`."""
    write(path, lambda file: file.write(text.encode()))
