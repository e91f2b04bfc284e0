"""Log files and handlers, and how errors are reported."""

from __future__ import annotations

import contextlib
import logging
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from hydra.errors import CompactHydraException

from hairline.app import commandline
from hairline.app.process import current
from hairline.system import cache, errors, redaction
from hairline.training import checkpoint

log = logging.getLogger("hairline")

_WRITTEN_FIRST = ("config.yaml", checkpoint.FILE)  # before the images are looked at


# --- handlers ---------------------------------------------------------------------------------------------------------


def redact() -> None:
    """Hide passwords and tokens in the output of all handlers; Hydra makes its handlers anew for each job."""
    for handler in logging.getLogger().handlers:
        formatter = handler.formatter
        if not isinstance(formatter, redaction.Formatter):
            style = "%(message)s" if formatter is None else formatter._fmt
            handler.setFormatter(redaction.Formatter(style, None if formatter is None else formatter.datefmt))


def plain() -> None:
    """Log to the screen without time and level, as within a job."""
    logging.basicConfig(level=logging.INFO)
    for handler in logging.getLogger().handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.setFormatter(redaction.Formatter("%(message)s"))


class _Brief(logging.Filter):
    """Passes errors, each warning once, and what is marked as the sweep's own."""

    def __init__(self, seen: set[str]) -> None:
        super().__init__()
        self._seen = seen

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno == logging.WARNING:
            text = record.getMessage()
            new = text not in self._seen
            self._seen.add(text)
            return new
        return record.levelno > logging.WARNING or hasattr(record, "sweep")


@contextlib.contextmanager
def brief(seen: set[str]) -> Iterator[None]:
    """Show only errors, new warnings and the sweep's own lines on the screen; log files get everything.

    Args:
        seen: Warnings that were shown already; extended.
    """
    shown = _Brief(seen)
    handlers = [handler for handler in logging.getLogger().handlers if not isinstance(handler, logging.FileHandler)]
    for handler in handlers:
        handler.addFilter(shown)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(shown)


@contextlib.contextmanager
def also_to(path: Path) -> Iterator[None]:
    """Log to a file as well."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(redaction.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def move(source: Path, target: Path, *, copy: bool) -> None:
    """Continue the log that Hydra started in `source` in the folder `target`, and remove `source` if it is empty.

    Args:
        source: Folder of the log.
        target: Folder that exists.
        copy: Copy the lines logged so far. They are another job's where a resumed sweep numbers its jobs anew.
    """
    if source.resolve() == target.resolve():
        return
    for handler in _file_handlers():
        handler.close()
        path = Path(handler.baseFilename)
        if copy:
            with (target / path.name).open("a", encoding="utf-8") as log_file:
                log_file.write(path.read_text(encoding="utf-8"))
        handler.baseFilename = str(target / path.name)
    remove_if_empty(source)


def begin(directory: Path) -> None:
    """Remember a run directory that holds nothing but the log that Hydra has just begun: only such a one is removed."""
    begun = [Path(handler.baseFilename) for handler in _file_handlers()]
    if all(path in begun and not path.stat().st_size for path in directory.iterdir()):
        current().created.add(directory)


def remove_if_empty(directory: Path) -> None:
    """Remove a run directory of this process with only a log and settings: the run ended before it began its work."""
    if directory not in current().created:
        return
    with contextlib.suppress(OSError):
        paths = list(directory.iterdir())
        if all(path.suffix == ".log" or path.name in _WRITTEN_FIRST for path in paths):
            for path in paths:
                path.unlink()
            directory.rmdir()
            directory.parent.rmdir()  # the date's folder, if this was its only run


def _file_handlers() -> list[logging.FileHandler]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler)]


# --- errors -----------------------------------------------------------------------------------------------------------


def exit_code(error: Exception) -> int:
    """Return the exit status for an error: 2 if the user can fix it, 1 for a bug."""
    return 2 if isinstance(error, CompactHydraException) or errors.is_user_error(error) else 1


def message(error: Exception) -> str:
    """Return an error as the terminal shows it: a sentence if the user can fix it, a traceback for a bug."""
    if exit_code(error) == 1:
        return "".join(traceback.format_exception(error))
    if isinstance(error, CompactHydraException):
        return commandline.explain(error)
    if isinstance(error, errors.QuestionError) and current().command.typed:
        return error.described(current().command.repeated)
    folders: dict[str, Callable[[], Path | str]] = {
        "the working directory": Path.cwd,
        "the cache": cache.root,
        "the folder of temporary files": tempfile.gettempdir,
    }
    return errors.explained(error, folders) or str(error)


def report(error: Exception) -> None:
    """Log the error of a job; the log file gets the traceback in any case."""
    log.error("ERROR: %s", message(error))
    if exit_code(error) == 2:
        trace = (type(error), error, error.__traceback__)
        record = log.makeRecord(log.name, logging.ERROR, __file__, 0, "traceback of this error", (), trace)
        for handler in _file_handlers():
            handler.handle(record)


def refuse(error: Exception) -> int:
    """Print an error that occurred outside a job, and return the exit status."""
    print(redaction.redacted(f"ERROR: {message(error)}"), file=sys.stderr)
    return exit_code(error)
