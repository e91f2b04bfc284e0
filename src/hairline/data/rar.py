"""The programs that read RAR: which are installed, and what one of them prints."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from hairline.data.members import ArchiveError

# bsdtar 3.6.2 loops for ever on RAR5 archives with an empty file, printing or silent.
STALL_SECONDS = 60.0
# Each prints the content of all members, in the archive's order, to its standard output; so nothing but
# hairline's own code, which has vetted the names, writes files.
COMMANDS = (
    ("unrar", "p", "-inul", "-p-"),
    ("7z", "e", "-so", "-bb0", "-p"),
    ("7zz", "e", "-so", "-bb0", "-p"),
    ("unar", "-q", "-o", "-"),
    ("bsdtar", "-x", "--to-stdout", "-f"),
)
# Where Windows keeps them: outside PATH, and bsdtar under the name of tar.
_WINDOWS_PLACES = {
    "unrar": ("ProgramFiles", "WinRAR/UnRAR.exe"),
    "7z": ("ProgramFiles", "7-Zip/7z.exe"),
    "bsdtar": ("SystemRoot", "System32/tar.exe"),
}
ADVICE = (
    "Install one (Debian and Ubuntu: `sudo apt install unar`; macOS: `brew install unar`; Windows: 7-Zip from "
    "https://www.7-zip.org) and run again, or unpack the archive by hand and give the folder."
)


class MissingToolError(ArchiveError):
    """A RAR archive, and no program on this machine that reads it."""


class ToolError(ArchiveError):
    """A program that could not be started, or all that are there and could not read an archive."""


def installed(archive: Path) -> list[tuple[str, ...]]:
    """List the commands that print a RAR's content, the most able first.

    Args:
        archive: The RAR, for the message.

    Raises:
        MissingToolError: If there is none.
    """
    found = []
    for program, *options in COMMANDS:
        variable, place = _WINDOWS_PLACES.get(program, ("", ""))
        elsewhere = os.path.join(os.environ[variable], place) if os.environ.get(variable) else ""
        if path := shutil.which(program) or (elsewhere and shutil.which(elsewhere)):
            found.append((path, *options))
    if not found:
        raise MissingToolError(
            f"{archive} is a compressed RAR and no program that reads it was found; expected one of "
            f"{', '.join(command[0] for command in COMMANDS)}. {ADVICE}"
        )
    return found


@contextmanager
def contents(command: tuple[str, ...], archive: Path, progress: Callable[[], int]) -> Iterator[IO[bytes]]:
    """Run a command on a RAR and give its standard output: the bytes of all members, joined.

    Args:
        command: One of `installed`.
        archive: The RAR.
        progress: A number that grows while things go well; the program is killed `STALL_SECONDS` after it
            stopped, which ends the stream.

    Raises:
        ToolError: If the program cannot be started; with what it said, if it failed and the reader gave up.
    """
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                [*command, os.path.abspath(archive)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
            )
        except OSError as error:
            raise ToolError(f"could not be started ({error.strerror})") from error
        output = cast(IO[bytes], process.stdout)
        done = threading.Event()
        watch = threading.Thread(target=_kill_when_stalled, args=(process, done, progress), daemon=True)
        watch.start()
        try:
            yield output
        except ValueError as error:
            said.seek(0)
            if words := said.read(2000).decode(errors="replace").split("\n", 1)[0].strip():
                error.add_note(f"{command[0]} said: {words}")
            raise
        finally:
            done.set()
            process.kill()
            output.close()
            process.wait()
            watch.join()


def _kill_when_stalled(process: subprocess.Popen[bytes], done: threading.Event, progress: Callable[[], int]) -> None:
    last = -1
    while not done.wait(STALL_SECONDS):
        if progress() == last:
            process.kill()
            return
        last = progress()
