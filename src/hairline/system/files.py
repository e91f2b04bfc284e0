"""Files that are there as a whole or not at all, whenever the process or the machine dies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import filelock

from hairline.system.errors import HairlineError

LOCK = ".lock"


class LockedError(HairlineError):
    """A run directory that another process is working on."""


@contextlib.contextmanager
def atomic(path: Path, mode: str = "wb", **options: Any) -> Iterator[IO[Any]]:
    """Open a file that replaces `path` once the block has ended without an error; else `path` stays as it was.

    >>> with atomic(Path("metrics.json"), "w", encoding="utf-8") as file:
    ...     _ = file.write("{}")

    Args:
        path: The file.
        mode: As for `open`.
        options: Further arguments of `open`.

    Raises:
        OSError: If it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open(mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    with atomic(path) as file:
        file.write(text.encode())


def relative(path: Path) -> str:
    """Return a path for a command or a message: relative to the working directory if it lies there."""
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
