"""Errors that a user can cause, and the faults of the machine: a full or read-only disk, too little memory."""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

_DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
# Libraries that write files themselves (SQLite, HDF5, TensorFlow) report these faults in their message only.
_DISK_FULL_TEXTS = ("disk is full", "No space left on device", "errno = 28")
_READ_ONLY_TEXTS = ("readonly database", "Read-only file system")
_OUT_OF_MEMORY_TEXTS = ("OOM when allocating", "ran out of memory", "bad_alloc", "Unable to allocate")
_ADVICE = (
    "free some space, or write elsewhere: hydra.run.dir=<folder> for a run (hydra.sweep.dir with -m), output=<folder> "
    "for photos, labels or an export, tracking.uri or tracking=none for MLflow, the environment variable "
    "HAIRLINE_CACHE for the cache, TMPDIR for temporary files"
)
_FREE_BYTES = 1 << 20  # a disk with less free space is full
_IMAGE_ERROR = re.compile(r"ImageError: (.+)")


class HairlineError(ValueError):
    """Base class of every error that a user can cause: says what was received, what is expected and how to fix it.

    Any other exception is a bug and shows its traceback.
    """


class QuestionError(HairlineError):
    """Input that can mean several things: the user has to choose.

    Attributes:
        question: What was received, and what is to be decided.
        choices: A description of each answer, and the settings that give it, quoted for a shell.
    """

    def __init__(self, question: str, choices: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Store the question; the message lists the settings of each answer."""
        self.question, self.choices = question, choices
        super().__init__(self.described(lambda words: f"add {' '.join(words)}"))

    def described(self, command: Callable[[Sequence[str]], str]) -> str:
        """Return the question with a command for each answer.

        Args:
            command: Returns the command with the settings of an answer.
        """
        lines = [f"  {text}:\n      {command(words)}" for text, words in self.choices]
        return "\n".join((self.question, *lines))


class UnreadableError(HairlineError):
    """An image that was readable when it was checked no longer is."""


class OutOfMemoryError(HairlineError):
    """A step needs more memory than the machine has."""


def is_user_error(error: BaseException) -> bool:
    """Return whether a user or the machine caused an error; any other one is a bug."""
    return isinstance(error, HairlineError | OSError) or explained(error) is not None


def is_disk_full(error: BaseException) -> bool:
    """Return whether a full disk caused an error, whichever library reports it."""
    return any(_is_disk_full(cause) for cause in causes(error))


def explained(error: BaseException, folders: Mapping[str, Callable[[], Path | str]] | None = None) -> str | None:
    """Return the message for a fault of the machine, or for a path that cannot be; None for any other error.

    Args:
        error: The error; its causes are searched too.
        folders: Functions that return the folders the program writes to, by what they hold. Most errors do not name
            the full disk: the message lists those of the folders that have no free space.
    """
    if isinstance(error, HairlineError):  # has its own advice
        return None
    for cause in causes(error):
        path = getattr(cause, "filename", None)
        unwritable = f"{path} cannot be written" if path else "a file cannot be written"
        if _is_disk_full(cause):
            full = "" if path else " and ".join(_without_space(folders or {}))
            return f"the disk is full: {f'no space is left in {full}' if full else unwritable}; {_ADVICE}"
        if getattr(cause, "errno", None) == errno.EROFS or _contains(cause, _READ_ONLY_TEXTS):
            return f"the disk is read-only: {unwritable}; {_ADVICE}"
        if getattr(cause, "errno", None) == errno.ENAMETOOLONG and path:
            name = max(Path(str(path)).parts, key=len)
            return f"{name[:40]}...: too long for a file: expected names up to 255 bytes and paths up to 4,096"
        if file := _file_in_the_way(cause):
            return f"{file} is a file; expected a folder: delete the file, or choose a folder"
        if _is_out_of_memory(cause):
            return "out of memory: set a smaller image_size, batch_size or finetune.batch_size, or runtime.threads=1"
    return None


@contextlib.contextmanager
def advised(setting: str, batch_size: int) -> Iterator[None]:
    """Run a block that processes images in batches; if it runs out of memory, advise a smaller batch.

    Args:
        setting: Key of the batch size.
        batch_size: Its value.

    Raises:
        OutOfMemoryError: Replaces the errors of TensorFlow, NumPy and Python.
        UnreadableError: Replaces TensorFlow's error for an image that cannot be read.
    """
    try:
        yield
    except Exception as error:
        if any(map(_is_out_of_memory, causes(error))):
            smaller = f"try {setting}={max(1, batch_size // 2)}" if batch_size > 1 else "try a smaller image_size"
            raise OutOfMemoryError(f"out of memory with {setting}={batch_size}: {smaller}") from error
        # TensorFlow keeps only the text of an error that a tf.data pipeline raises.
        if not isinstance(error, ValueError) and (match := _IMAGE_ERROR.search(str(error))):
            raise UnreadableError(match[1]) from error
        raise


def _is_disk_full(error: BaseException) -> bool:
    return getattr(error, "errno", None) in _DISK_FULL or _contains(error, _DISK_FULL_TEXTS)


def _file_in_the_way(error: BaseException) -> Path | None:
    """Return the file that lies where a folder was to be created or opened; None for any other error."""
    if not isinstance(error, FileExistsError | NotADirectoryError) or not isinstance(error.filename, str):
        return None
    path = Path(error.filename)
    return next((place for place in (path, *path.parents) if place.is_file()), None)


def _is_out_of_memory(error: BaseException) -> bool:
    by_name = type(error).__name__ in ("ResourceExhaustedError", "OutOfMemoryError")
    return isinstance(error, MemoryError) or by_name or _contains(error, _OUT_OF_MEMORY_TEXTS)


def _contains(error: BaseException, texts: tuple[str, ...]) -> bool:
    return any(text in str(error) for text in texts)


def _without_space(folders: Mapping[str, Callable[[], Path | str]]) -> Iterator[str]:
    """Yield the name and the path of each folder without free space."""
    for name, folder in folders.items():
        with contextlib.suppress(OSError, ValueError):  # a deleted folder; no folder for temporary files
            if shutil.disk_usage(folder()).free < _FREE_BYTES:
                yield f"{name} ({folder()})"


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and the errors it was raised from."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
