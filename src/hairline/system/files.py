"""Files that are there as a whole or not at all, whenever the process or the machine dies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import filelock

from hairline.system.errors import HairlineError

LOCK = ".lock"


class LockedError(HairlineError):
    """A run directory that another process is working on."""


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


def relative(path: Path) -> str:
    """Return an absolute path as messages show it: relative to the working directory where it lies in there."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Lock a run directory, so that no second process works on the same run.

    Raises:
        LockedError: If one does.
    """
    lock = filelock.FileLock(directory / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise LockedError(f"{directory}: another process is working on this run; wait for its end or stop it") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows does not delete a file that is open
            (directory / LOCK).unlink()
        lock.release()
