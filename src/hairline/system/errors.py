"""Faults of the machine that a run meets anywhere, in words for its user: a full disk, a read-only one, no memory."""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
# Libraries that write files by themselves, as SQLite and HDF5 do, say so in words only.
_FULL_WORDS = ("disk is full", "No space left on device", "errno = 28")
_READ_ONLY_WORDS = ("readonly database", "Read-only file system")
_MEMORY_WORDS = ("OOM when allocating", "ran out of memory", "bad_alloc", "Unable to allocate")
_ROOM = (
    "make room, or write elsewhere: hydra.run.dir=<folder> for the run (hydra.sweep.dir with -m), tracking.uri or "
    "tracking=none for MLflow, the environment variable HAIRLINE_CACHE for the cache"
)
_ROOM_BYTES = 1 << 20
_IMAGE = re.compile(r"ImageError: (.+)")


class HairlineError(ValueError):
    """Base class of every error that a user can cause: says what was received, what is expected and how to fix it.

    Any other exception is a bug and shows its traceback.
    """


class UnreadableError(HairlineError):
    """An image that could be read when it was checked, and no longer can."""


class OutOfMemoryError(HairlineError):
    """A step that the machine has too little memory for."""


def explained(error: BaseException) -> str | None:
    """Say what is wrong with the machine, if that is what an error goes back to; None for any other."""
    if isinstance(error, HairlineError):  # it says already what to do
        return None
    for cause in _causes(error):
        text = str(cause)
        place = getattr(cause, "filename", None)
        named = f"{place} cannot be written" if place else "a file cannot be written"
        if getattr(cause, "errno", None) in _FULL or any(words in text for words in _FULL_WORDS):
            return f"the disk is full: {named if place else _full() or named}; {_ROOM}"
        if getattr(cause, "errno", None) == errno.EROFS or any(words in text for words in _READ_ONLY_WORDS):
            return f"the disk is read-only: {named}; {_ROOM}"
        if _is_memory(cause):
            return "memory ran out: give smaller batches (batch_size, finetune.batch_size) or a smaller image_size"
    return None


def _full() -> str:
    """Name those of the places written to that have no room, as most errors do not; empty where none is known to."""
    from hairline.system import cache

    places: dict[str, Callable[[], Path | str]] = {
        "the working directory": Path.cwd,
        "the cache": cache.folder,
        "temporary files": tempfile.gettempdir,
    }
    found = []
    for name, place in places.items():
        with contextlib.suppress(OSError, ValueError):
            if shutil.disk_usage(place()).free < _ROOM_BYTES:
                found.append(f"{name} {place()}")
    return f"no room is left for {' and '.join(found)}" if found else ""


@contextlib.contextmanager
def advised(setting: str, batch_size: int) -> Iterator[None]:
    """Run a block that goes through images in batches; when memory runs out, say which batch size to try.

    Args:
        setting: The key that sets the batch size.
        batch_size: Its value.

    Raises:
        OutOfMemoryError: In place of what TensorFlow, NumPy or Python raise when memory runs out.
        UnreadableError: In place of what TensorFlow makes of an image that could not be read.
    """
    try:
        yield
    except Exception as error:
        causes = list(_causes(error))
        if any(map(_is_memory, causes)):
            smaller = f"try {setting}={max(1, batch_size // 2)}" if batch_size > 1 else "try a smaller image_size"
            raise OutOfMemoryError(f"memory ran out with {setting}={batch_size}: {smaller}") from error
        if not isinstance(error, ValueError) and (found := _IMAGE.search(str(error))):
            raise UnreadableError(found[1]) from error
        raise


def _is_memory(error: BaseException) -> bool:
    named = type(error).__name__ in ("ResourceExhaustedError", "OutOfMemoryError")
    return isinstance(error, MemoryError) or named or any(words in str(error) for words in _MEMORY_WORDS)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__
