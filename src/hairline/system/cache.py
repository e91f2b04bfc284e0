"""Where results that can always be made again are kept."""

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


def folder(*parts: str) -> Path:
    """Give a folder below the cache, made on the first call.

    `HAIRLINE_CACHE` names the cache; without it the user's cache folder of the operating system is taken. Deleting
    the cache is always safe.

    Args:
        parts: Names of nested folders.

    Raises:
        HairlineError: If the folder cannot be made or written to.
    """
    root = os.environ.get("HAIRLINE_CACHE")
    path = Path(root).expanduser() if root else Path(platformdirs.user_cache_dir("hairline", appauthor=False))
    path = path.absolute().joinpath(*parts)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HairlineError(
            f"the cache folder {path} cannot be made ({error.strerror}): "
            "set the environment variable HAIRLINE_CACHE to a folder that you can write to"
        ) from error
    return path


@contextlib.contextmanager
def database(name: str, table: str) -> Iterator[sqlite3.Connection]:
    """Open a SQLite file of the cache for a block that is one transaction, safe for several processes at once.

    What cannot be read or written, as on a full disk, ends the block early with a warning: all it holds can be made
    again. A damaged file is made anew.

    Args:
        name: Of the file.
        table: The statement that makes its table where it is missing.

    Raises:
        HairlineError: If the cache folder cannot be made.
    """
    place = folder() / name
    try:
        with contextlib.closing(_connected(place, table)) as connection, connection:
            yield connection
    except sqlite3.Error as error:
        log.warning("WARNING: %s cannot be used (%s): going on without what it keeps", place, error)


def _connected(place: Path, table: str) -> sqlite3.Connection:
    """Open a database, or where that cannot be done one in memory that nobody keeps."""
    for _ in range(2):
        try:
            with contextlib.ExitStack() as stack:
                connection = sqlite3.connect(place, timeout=60)  # seconds that one process waits for another
                stack.callback(connection.close)
                connection.execute(table)
                stack.pop_all()
            return connection
        except sqlite3.OperationalError as error:  # locked, or a full disk
            log.warning("WARNING: %s cannot be used (%s): going on without what it keeps", place, error)
            break
        except sqlite3.DatabaseError as error:
            log.warning("WARNING: %s is damaged and made anew (%s)", place, error)
            place.unlink(missing_ok=True)
    connection = sqlite3.connect(":memory:")
    connection.execute(table)
    return connection
