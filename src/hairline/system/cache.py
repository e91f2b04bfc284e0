"""The cache folder: results that can be computed again. Deleting it is always safe.

One rule limits its size: of the parts (see `FOLDERS`), those that were used least recently are deleted, except those in
use. `use` marks a part for as long as an object lives, `hold` until the process ends.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path

import filelock
import platformdirs

from hairline.system import files
from hairline.system.errors import HairlineError

log = logging.getLogger(__name__)

# Every file or folder in these is a part that is counted and deleted as a whole.
FOLDERS = ("features", "composites", "litert", "synthetic", "windows", "datasets")
_USES = ".in-use"  # folder of a lock file for each use of a part
_UNUSABLE = "WARNING: %s cannot be used (%s): continuing without it"


def root() -> Path:
    """Return the cache folder: `HAIRLINE_CACHE`, or the operating system's folder for the user's caches."""
    try:
        folder = os.environ.get("HAIRLINE_CACHE") or platformdirs.user_cache_dir("hairline", appauthor=False)
        return Path(folder).expanduser().absolute()
    except RuntimeError as error:  # no HOME, and a user without an entry in the list of users
        raise HairlineError(
            "this user has no home folder, so the cache has no place: set the environment variable HOME or "
            "HAIRLINE_CACHE to a folder that you can write to"
        ) from error


def require_home() -> None:
    """Set the cache as home folder of this process if the user has none, for libraries that look for theirs.

    Raises:
        HairlineError: If the place of the cache is unknown as well.
    """
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = str(root())


def folder(*parts: str) -> Path:
    """Return a folder inside the cache; it is created if it is missing.

    Args:
        parts: Names of nested folders.

    Raises:
        HairlineError: If the folder cannot be created.
    """
    path = root().joinpath(*parts)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HairlineError(
            f"the cache folder {path} cannot be created ({error.strerror}): "
            "set the environment variable HAIRLINE_CACHE to a folder that you can write to"
        ) from error
    return path


def use(part: Path) -> filelock.BaseFileLock | None:
    """Mark a part of the cache as used now, and as in use while the returned object lives.

    Args:
        part: A file or folder in one of `FOLDERS`, or one of these with all its parts; it may be created later.

    Returns:
        A lock, released when it is deleted; None if the cache cannot be written, and for a path elsewhere.
    """
    if not part.is_relative_to(root()):
        return None
    lock = filelock.FileLock(folder(_USES) / f"{_digest(part)}-{uuid.uuid4().hex[:12]}.lock", thread_local=False)
    try:
        with _changing():
            lock.acquire()
    except OSError:
        return None
    touch(part)
    return lock


def touch(part: Path) -> None:
    """Make now the time of last use of a part."""
    with contextlib.suppress(OSError):
        os.utime(part)


@functools.cache
def hold(part: Path) -> filelock.BaseFileLock | None:
    """Mark a part of the cache as in use until this process ends; see `use`."""
    return use(part)


def evict(max_gigabytes: float) -> None:
    """Delete the least recently used parts that are not in use, until the cache is at most `max_gigabytes` large."""
    try:
        with _changing():
            sizes = {part: _size(part) for name in FOLDERS for part in _parts(root() / name)}
            total = sum(sizes.values())
            for part in sorted(sizes, key=lambda part: part.stat().st_mtime):
                if total <= max_gigabytes * 1e9:
                    return
                if not _is_used(part) and _delete(part):
                    total -= sizes[part]
                    log.info("deleted least recently used part of the cache (%.1f GB): %s", sizes[part] / 1e9, part)
    except OSError as error:
        log.warning(_UNUSABLE, root(), error)


def _changing() -> contextlib.AbstractContextManager[None]:
    """Lock the list of what is in use."""
    lock = filelock.FileLock(folder(_USES) / "lock", thread_local=False)
    return files.waiting(lock, "deletes old parts of the cache")


def _digest(part: Path) -> str:
    return hashlib.sha256(part.relative_to(root()).as_posix().encode("utf-8", "surrogateescape")).hexdigest()[:24]


def _parts(place: Path) -> list[Path]:
    return [part for part in place.iterdir() if part.suffix != ".lock"] if place.is_dir() else []


def _size(part: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    if not part.is_dir():
        return part.stat().st_size
    paths = (os.path.join(place, name) for place, _, names in os.walk(part) for name in names)
    return sum(os.lstat(path).st_size for path in paths if os.path.lexists(path))


def _is_used(part: Path) -> bool:
    """Return whether a living process uses a part; delete the marks of dead ones."""
    if part.name.endswith(files.PARTIAL):  # of a folder that is being created, or that a killed process left
        part = part.with_name(files.target_of(part.name))
    used = False
    marks = [mark for owner in (part, part.parent) for mark in folder(_USES).glob(f"{_digest(owner)}-*.lock")]
    for mark in marks:
        lock = filelock.FileLock(mark, thread_local=False)
        try:
            with lock.acquire(timeout=0):
                pass
            mark.unlink(missing_ok=True)
        except filelock.Timeout:
            used = True
    return used


def _delete(part: Path) -> bool:
    """Delete a part, which disappears in one step; return False if a program on Windows has it open."""
    doomed = part.with_name(files.partial_name(part.name))
    try:
        part.rename(doomed)
    except PermissionError:
        return False
    if doomed.is_dir():
        shutil.rmtree(doomed, ignore_errors=True)
    else:
        doomed.unlink(missing_ok=True)
    return True


@contextlib.contextmanager
def database(name: str, table: str) -> Iterator[sqlite3.Connection]:
    """Open a SQLite file of the cache; the block is one transaction. Several processes may use the file at once.

    A file that cannot be read or written (full disk, locked) costs a warning: its content can be computed again. A
    damaged file is replaced.

    Args:
        name: Name of the file.
        table: SQL statement that creates the table if it is missing.

    Raises:
        HairlineError: If the cache folder cannot be created.
    """
    path = folder() / name
    try:
        with contextlib.closing(_connect(path, table)) as connection, connection:
            yield connection
    except sqlite3.Error as error:
        log.warning(_UNUSABLE, path, error)


def _connect(path: Path, table: str) -> sqlite3.Connection:
    """Return a connection to a database; to one in memory if the file cannot be used."""
    for _ in range(2):
        try:
            with contextlib.ExitStack() as stack:
                connection = sqlite3.connect(path, timeout=60)  # seconds to wait for another process
                stack.callback(connection.close)
                connection.execute(table)
                stack.pop_all()
            return connection
        except sqlite3.OperationalError as error:  # locked, or a full disk
            log.warning(_UNUSABLE, path, error)
            break
        except sqlite3.DatabaseError as error:
            log.warning("WARNING: %s is damaged (%s): replacing it", path, error)
            path.unlink(missing_ok=True)
    connection = sqlite3.connect(":memory:")
    connection.execute(table)
    return connection
