"""What a job says: its log file, and how an error is told."""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

from hairline.system import cache, errors, redaction
from hairline.training import checkpoint

log = logging.getLogger("hairline")

_BEGUN = ("config.yaml", checkpoint.FILE)  # written before the images are looked at


def redact() -> None:
    """Let no handler of this process show passwords and tokens; Hydra makes its handlers anew for each job."""
    for handler in logging.getLogger().handlers:
        told = handler.formatter
        if not isinstance(told, redaction.Formatter):
            style = "%(message)s" if told is None else told._fmt
            handler.setFormatter(redaction.Formatter(style, None if told is None else told.datefmt))


def move(fresh: Path, directory: Path) -> None:
    """Go on with the log of a sweep's job that is continued, and remove the folder that Hydra made for this call."""
    for handler in _files():
        handler.close()
        handler.baseFilename = str(directory / Path(handler.baseFilename).name)
    remove_if_empty(fresh)


def keep_beside(directory: Path, place: Path) -> None:
    """Move the log that Hydra began in `directory` beside results that lie elsewhere, and remove what Hydra made."""
    if directory.resolve() == place.resolve():
        return
    for handler in _files():
        handler.close()
        begun = Path(handler.baseFilename)
        with (place / begun.name).open("a", encoding="utf-8") as log_file:
            log_file.write(begun.read_text(encoding="utf-8"))
        handler.baseFilename = str(place / begun.name)
    remove_if_empty(directory)


@contextlib.contextmanager
def kept(path: Path) -> Iterator[None]:
    """Write what is said in the block to a log file as well."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(redaction.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def plain() -> None:
    """Show on the screen what is said and nothing else, as within a job."""
    logging.basicConfig(level=logging.INFO)
    for handler in logging.getLogger().handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.setFormatter(redaction.Formatter("%(message)s"))


def tell(error: Exception) -> None:
    """Say what went wrong: a fault of the user's in one line, ours with its traceback; the log file holds both."""
    if not errors.is_user_error(error):
        log.error("ERROR: %s", "".join(traceback.format_exception(error)))
        return
    log.error("ERROR: %s", errors.explained(error, Path.cwd(), cache.root(), Path(tempfile.gettempdir())) or error)
    record = log.makeRecord(
        log.name,
        logging.ERROR,
        __file__,
        0,
        "where it happened",
        (),
        (type(error), error, error.__traceback__),
    )
    for handler in _files():
        handler.handle(record)


def remove_if_empty(directory: Path) -> None:
    """Remove a run directory that holds no more than log and settings: the fault was found before the run began."""
    if directory.is_dir() and all(path.suffix == ".log" or path.name in _BEGUN for path in directory.iterdir()):
        shutil.rmtree(directory, ignore_errors=True)
        with contextlib.suppress(OSError):
            directory.parent.rmdir()  # the date's folder, if this would have been its first run


def _files() -> list[logging.FileHandler]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler)]
