"""Atomic writes, paths in messages, and the lock of a run directory."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import logging
import math
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import filelock

from hairline.system import errors
from hairline.system.errors import HairlineError

log = logging.getLogger(__name__)

LOCK, PARTIAL = ".lock", ".partial"
_MOST_OPEN = 65_536  # files of a process
_FIRST_NOTICE, _NOTICE = 2.0, 60.0  # seconds of waiting for another process until it is logged, and logged again


class LockedError(HairlineError):
    """Another process is working on the run directory."""


def allow_many_open() -> None:
    """Allow this process as many open files as the system lets it have: the usual limits are 256 and 1,024."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no such limit
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, _MOST_OPEN) if most > 0 else _MOST_OPEN, most))


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
    temporary = path.with_name(partial_name(path.name))
    try:
        with temporary.open(mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.filename is None and errors.is_disk_full(error):
            error.filename = str(path)  # Python names only files that it cannot open
        raise
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
    with waiting(filelock.FileLock(target.parent / f".{target.name}.lock"), f"creates {target}"):
        if target.is_dir() and any(target.iterdir()):
            return
        for leftover in target.parent.glob(f".{glob.escape(target.name)}.*{PARTIAL}"):  # of a killed process
            shutil.rmtree(leftover, ignore_errors=True)
        partial = target.with_name(partial_name(target.name))
        partial.mkdir(mode=0o700)
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


def partial_name(name: str) -> str:
    """Return a new hidden name for a file or folder that is not complete yet, or no longer."""
    return f".{name}.{uuid.uuid4().hex[:8]}{PARTIAL}"


def target_of(name: str) -> str:
    """Return the name that `partial_name` was given.

    >>> target_of(partial_name("v1.2"))
    'v1.2'
    """
    return name.removeprefix(".").removesuffix(PARTIAL).rpartition(".")[0]


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic(path) as file:
        file.write(content)


def sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def followed(place: str, inner: str, now: Path) -> str | None:
    """Return where a project folder lies now, in case it was moved or copied.

    Args:
        place: Where it was.
        inner: Where a folder inside it was; empty if unknown.
        now: Where the inner folder is now.

    Returns:
        `place` if nothing was moved; None if the inner folder was moved without the project.
    """
    if not inner or (os.path.exists(inner) and os.path.samefile(inner, now)):
        return place
    if not Path(inner).is_relative_to(place):
        return None
    path = Path(inner).relative_to(place)
    moved = Path(str(now.absolute()).removesuffix(str(path)))
    return str(moved) if moved / path == now.absolute() else None


def relative(path: Path) -> str:
    """Return a path for a command or a message: relative to the working directory if it lies there."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


@contextlib.contextmanager
def waiting(lock: filelock.BaseFileLock, what: str, *, timeout: float = math.inf) -> Iterator[None]:
    """Hold a lock during a block; log after 2 seconds of waiting, and every minute, what another process does.

    Args:
        lock: The lock.
        what: What the other process does, for "waiting for another process that ...".
        timeout: Seconds to wait.

    Raises:
        filelock.Timeout: If another process holds it for longer.
    """
    waited, pause = 0.0, _FIRST_NOTICE
    while True:
        pause = min(pause, timeout - waited)
        try:
            lock.acquire(timeout=pause)
            break
        except filelock.Timeout:
            waited += pause
            if waited >= timeout:
                raise
            log.info("waiting for another process that %s (%.0f s)", what, waited)
            pause = _NOTICE
    try:
        yield
    finally:
        lock.release()


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
            f"{directory}: another process is working in this folder; wait until it ends, or stop it"
        ) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows does not delete an open file
            (directory / LOCK).unlink()
        lock.release()
