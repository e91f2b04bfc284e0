"""The cache folder: results that can be computed again. Deleting it is always safe."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from hairline.system.errors import HairlineError

log = logging.getLogger(__name__)

_UNUSABLE = "WARNING: %s cannot be used (%s): continuing without it"


def root() -> Path:
    """Return the cache folder: `HAIRLINE_CACHE`, or the operating system's folder for the user's caches."""
    folder = os.environ.get("HAIRLINE_CACHE") or platformdirs.user_cache_dir("hairline", appauthor=False)
    return Path(folder).expanduser().absolute()


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
