"""Atomic writes, paths in messages, and the lock of a run directory."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import filelock

from hairline.system.errors import HairlineError

LOCK = ".lock"


class LockedError(HairlineError):
    """Another process is working on the run directory."""


@contextlib.contextmanager
def atomic(path: Path, mode: str = "wb", **options: Any) -> Iterator[IO[Any]]:
    """Open a file that takes the place of `path` when the block ends, complete and on the disk.

    If the block fails, or the process or machine dies, `path` stays as it was.

    Args:
        path: The file.
        mode: Mode for writing, as for `open`.
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


def create_folder(target: Path, fill: Callable[[Path], Path]) -> None:
    """Create a folder that appears complete or not at all; processes that create the same one wait for each other.

    Args:
        target: The folder; nothing happens if it already has content.
        fill: Called with an empty temporary folder; returns the folder inside it that is moved to `target`.

    Raises:
        OSError: If it cannot be written; nothing is left behind then.
    """
    if target.is_dir() and any(target.iterdir()):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(target.parent / f".{target.name}.lock"):
        if target.is_dir() and any(target.iterdir()):
            return
        for leftover in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):  # of a killed process
            shutil.rmtree(leftover, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
        try:
            content = fill(partial)
            if target.is_dir():  # empty; Windows does not rename onto a folder
                target.rmdir()
            for pause_seconds in (0.1, 0.3, 1.0, 3.0, None):
                try:
                    content.rename(target)
                    break
                except PermissionError:  # on Windows, while a virus scanner reads the new files
                    if pause_seconds is None:
                        raise
                    time.sleep(pause_seconds)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    with atomic(path) as file:
        file.write(text.encode())


def sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def relative(path: Path) -> str:
    """Return a path for a command or a message: relative to the working directory if it lies there."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Lock a run directory, so that no second process works on the same run.

    Raises:
        LockedError: If another process has locked it.
    """
    lock = filelock.FileLock(directory / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise LockedError(
            f"{directory}: another process is working on this run; wait until it ends, or stop it"
        ) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows does not delete an open file
            (directory / LOCK).unlink()
        lock.release()
