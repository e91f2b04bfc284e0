"""Unpack zip and RAR archives that may be damaged, hostile or too large."""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import re
import shutil
import stat
import struct
import subprocess
import threading
import time
import unicodedata
import zipfile
import zlib
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import rarfile

from hairline.data import folders
from hairline.system import errors, files, progress

MAX_MEMBERS = 1_000_000
MAX_TOTAL_BYTES = 64 * 2**30
_CHUNK_BYTES = 2**18
# Device names; a trailing dot or space (Windows drops it: ".. " is ".."); drives, streams, control characters.
_UNSAFE_PART = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*[. ]|.*[:\x00-\x1f\x7f].*", re.I | re.S)

# Each prints the content of all members, in the archive's order: one process for all files, and only this module
# chooses their paths. Each program has gaps (bsdtar: solid archives; unar: some RAR5; Debian's 7zz: all RAR).
RAR_COMMANDS = (
    ("unrar", "p", "-inul", "-p-"),
    ("7z", "e", "-so", "-bb0", "-p"),
    ("7zz", "e", "-so", "-bb0", "-p"),
    ("unar", "-q", "-o", "-"),
    ("bsdtar", "-x", "--to-stdout", "-f"),
)
_WINDOWS_PATHS = {  # 7-Zip and WinRAR are not added to PATH; bsdtar is called tar
    "unrar": r"%ProgramFiles%\WinRAR\UnRAR.exe",
    "7z": r"%ProgramFiles%\7-Zip\7z.exe",
    "bsdtar": r"%SystemRoot%\System32\tar.exe",
}
# A program that prints nothing for this time is killed (bsdtar 3.6.2 loops forever on RAR5 with an empty file).
_STALL_SECONDS = 60.0
# The exceptions that zipfile and rarfile raise on damaged bytes.
_DAMAGE = (
    *(zipfile.BadZipFile, rarfile.Error, rarfile.UnsupportedWarning, zlib.error, struct.error, EOFError),
    *(RuntimeError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError),
)
_INSTALL = (
    "Install one (Debian and Ubuntu: `sudo apt install unar`; macOS: `brew install unar`; Windows: 7-Zip from "
    "https://www.7-zip.org), or unpack the archive by hand and pass the folder."
)


class ArchiveError(errors.HairlineError):
    """An archive that is damaged, or whose content is refused."""


class UnpackError(ArchiveError):
    """This machine cannot unpack the archive: the disk is full, or no program reads it. A new download won't help."""


def archive_format(path: Path) -> str | None:
    """Return `zip` or `rar`, detected by the first bytes of a file; None for other formats."""
    with open(path, "rb") as file:
        magic = file.read(8)
    if magic.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    return "rar" if magic.startswith((rarfile.RAR_ID, rarfile.RAR5_ID)) else None


def extract(
    archive: Path,
    target: Path,
    *,
    check: Callable[[Path], object] | None = None,
    inner_sha256: str | None = None,
) -> Path:
    """Unpack a zip or RAR archive into a folder, which appears complete or not at all.

    A zip that holds exactly one other archive (the download of Mendeley Data) is unpacked with that archive. Processes
    that unpack the same target wait for each other.

    Args:
        archive: The zip or RAR file; the format is detected by content.
        target: The folder to create; returned unchanged if it already holds files.
        check: Called with the unpacked folder before it is moved to `target`; its exceptions cancel the extraction.
        inner_sha256: Expected digest of the archive inside the zip.

    Returns:
        `target`.

    Raises:
        ArchiveError: If the archive is damaged, encrypted or too large, or holds links, devices or unsafe paths.
        UnpackError: If the disk is full, the folder is not writable, or a program for RAR is missing.
    """

    def fill(partial: Path) -> Path:
        if not archive.is_file():
            raise ArchiveError(f"{archive} is not a file: expected an existing zip or RAR archive.")
        content = _unpack(archive, partial / "content")
        members = list(folders.read(content).all_files())
        if len(members) == 1 and archive_format(members[0]) is not None:
            if inner_sha256 not in (None, digest := files.sha256(members[0])):
                raise _damaged(archive, f"{members[0].name} in it has sha256 {digest}, not {inner_sha256}")
            content = _unpack(members[0], partial / "inner")
        if check is not None:
            check(content)
        return content

    try:
        files.create_folder(target, fill)
    except OSError as error:
        reason = errors.explained(error) or f"{error.strerror or error}; choose a folder that can be written"
        raise UnpackError(f"{archive} could not be unpacked into {target}: {reason}") from error
    return target


def _damaged(archive: Path, reason: str) -> ArchiveError:
    return ArchiveError(
        f"{archive} ({archive.stat().st_size} bytes) is damaged or incomplete: {reason.rstrip('.')}. Download it "
        "again, or unpack it by hand and pass the folder."
    )


def _unpack(archive: Path, folder: Path) -> Path:
    """Unpack one archive into a new folder and return the folder."""
    kind = archive_format(archive)
    if kind is None:
        size_bytes = archive.stat().st_size
        raise ArchiveError(
            f"{archive} ({size_bytes} bytes) is neither a zip nor a RAR archive: expected one of these. Unpack other "
            "formats by hand and pass the folder."
        )
    try:
        with zipfile.ZipFile(archive) if kind == "zip" else rarfile.RarFile(archive, errors="strict") as opened:
            members = _checked_members(archive, opened.infolist())
            if kind == "zip" or _is_stored(opened):
                _write_members(archive, folder, members, opened.open)
            else:
                _unpack_with_programs(archive, folder, members)
    except ArchiveError:
        raise
    except OSError as error:
        if error.errno != errno.EINVAL:  # a damaged header can give an invalid offset
            raise
        raise _damaged(archive, str(error)) from error
    except _DAMAGE as error:
        raise _damaged(archive, str(error) or type(error).__name__) from error
    return folder


def _is_stored(opened: rarfile.RarFile) -> bool:
    """Return whether a RAR is one file without compression, which needs no program."""
    entries = [entry for entry in opened.infolist() if not entry.is_dir()]
    return len(opened.volumelist()) == 1 and all(entry.compress_type == rarfile.RAR_M0 for entry in entries)


def _checked_members(archive: Path, entries: list[Any]) -> list[tuple[Any, PurePosixPath]]:
    """Return the files of an archive with their safe paths; refuse everything that is not a plain file or folder."""
    members = []
    for entry in entries:
        # zipfile cuts `filename` at a NUL; check the name as stored.
        name = entry.orig_filename if isinstance(entry, zipfile.ZipInfo) else entry.filename
        objection, path = _objection(entry), safe_path(name)
        if objection is None and entry.is_dir():
            continue
        if objection or path is None:
            raise ArchiveError(
                f"{archive} holds {name!r}, which is {objection or 'not a safe relative path'}: expected plain files "
                "inside one folder. If you trust it, unpack it by hand and pass the folder."
            )
        members.append((entry, path))
    total_bytes = sum(entry.file_size for entry, _ in members)
    if not 0 < len(members) <= MAX_MEMBERS or total_bytes > MAX_TOTAL_BYTES:
        raise ArchiveError(
            f"{archive} lists {len(members)} files of {total_bytes} bytes: expected 1 to {MAX_MEMBERS} files of at "
            f"most {MAX_TOTAL_BYTES} bytes. If you trust it, unpack it by hand and pass the folder (the list of an "
            "encrypted archive looks empty)."
        )
    _check_collisions(archive, [path for _, path in members])
    return members


def _check_collisions(archive: Path, paths: list[PurePosixPath]) -> None:
    """Check that the paths stay distinct on systems that ignore case or the Unicode form (Windows, macOS)."""
    seen: dict[str, tuple[PurePosixPath, bool]] = {}
    for path in paths:
        for part in (path, *path.parents[:-1]):
            key, is_file = unicodedata.normalize("NFC", str(part).casefold()), part is path
            if key in seen and (is_file or seen[key] != (part, False)):
                raise ArchiveError(
                    f"{archive} has two entries with the same path on some file systems ('{seen[key][0]}' and "
                    f"'{part}'): expected distinct paths. Unpack it by hand and pass the folder."
                )
            seen[key] = (part, is_file)


def _objection(entry: Any) -> str | None:
    if isinstance(entry, zipfile.ZipInfo):
        if entry.flag_bits & 0x2041:
            return "encrypted"
        # zipfile decompresses a whole chunk of bz2 or LZMA at once, without a bound on memory.
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            return f"compressed by the unusual method {entry.compress_type}"
        # Windows and DOS programs write 0 in place of the Unix mode.
        plain = stat.S_IFMT(entry.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR)
    else:
        if entry.needs_password():
            return "encrypted"
        plain = entry.file_redir is None and (entry.is_file() or entry.is_dir())
    return None if plain else "a link or special file"


def safe_path(name: str) -> PurePosixPath | None:
    r"""Return the relative path under which a member may be written on any system; None if it is unsafe.

    Examples:
        >>> safe_path("Positive\\00001.jpg")
        PurePosixPath('Positive/00001.jpg')
        >>> [safe_path(name) for name in ("../evil", "/etc/passwd", "C:evil", "aux.jpg", ".. /evil")]
        [None, None, None, None, None]
    """
    name = name.replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or name.startswith("/") or any(_UNSAFE_PART.fullmatch(part) for part in parts):
        return None
    return PurePosixPath(*parts)


def _write_members(
    archive: Path,
    folder: Path,
    members: list[tuple[Any, PurePosixPath]],
    open_member: Callable[[Any], AbstractContextManager[IO[bytes] | _WatchedOutput]],
) -> None:
    """Write the members into a new folder, each with the size and CRC-32 of its header."""
    folder.mkdir()
    total_bytes = sum(entry.file_size for entry, _ in members)
    with progress.bar(total_bytes, f"unpack {archive.name}", "B") as bar:
        for entry, path in members:
            destination = folder / path
            destination.parent.mkdir(parents=True, exist_ok=True)
            left_bytes, crc32 = entry.file_size, 0
            with open_member(entry) as stream, open(destination, "xb") as file:
                while left_bytes and (chunk := stream.read(min(_CHUNK_BYTES, left_bytes))):
                    file.write(chunk)
                    crc32 = zlib.crc32(chunk, crc32)
                    left_bytes -= len(chunk)
                    bar.update(len(chunk))
            if left_bytes:
                raise _damaged(archive, f"{left_bytes} bytes of {path} are missing")
            if entry.CRC not in (None, crc32):  # a RAR5 may carry a BLAKE2 digest instead
                raise _damaged(archive, f"the CRC-32 of {path} does not match")


def _unpack_with_programs(archive: Path, folder: Path, members: list[tuple[Any, PurePosixPath]]) -> None:
    """Unpack a compressed RAR with the first installed program that can read it."""
    commands = []
    for program, *options in RAR_COMMANDS:
        windows_path = os.path.expandvars(_WINDOWS_PATHS.get(program, program))
        if path := shutil.which(program) or shutil.which(windows_path):
            commands.append((path, *options))
    if not commands:
        names = ", ".join(command[0] for command in RAR_COMMANDS)
        raise UnpackError(f"{archive} is a compressed RAR: expected one of the programs {names}. {_INSTALL}")
    failures = []
    for command in commands:
        try:
            _unpack_with(command, archive, folder, members)
            return
        except ArchiveError as error:
            failures.append(f"{command[0]}: {error}")
            shutil.rmtree(folder, ignore_errors=True)
    tried = "; ".join(failures)
    raise UnpackError(f"{archive} is damaged, or the installed programs cannot read it ({tried}). {_INSTALL}")


def _unpack_with(
    command: tuple[str, ...], archive: Path, folder: Path, members: list[tuple[Any, PurePosixPath]]
) -> None:
    """Unpack a compressed RAR with one program; raise ArchiveError with its last line on stderr if it fails."""
    arguments = [*command, os.path.abspath(archive)]
    try:
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        raise ArchiveError(f"it could not be started ({error.strerror})") from error
    with process:
        last_line: deque[bytes] = deque(maxlen=1)
        lines = filter(None, map(bytes.strip, cast(IO[bytes], process.stderr)))
        reader = threading.Thread(target=last_line.extend, args=(lines,), daemon=True)
        reader.start()
        output = _WatchedOutput(process)  # the content of all members in sequence
        try:
            _write_members(archive, folder, members, lambda _: contextlib.nullcontext(output))
            if output.read(1):
                raise ArchiveError("it prints more bytes than the headers list")
        except ArchiveError as error:
            process.kill()
            reader.join()
            text = " ".join(b"".join(last_line).decode(errors="replace").split())
            raise ArchiveError(f"{error} {command[0]} said: {text}" if text else str(error)) from error
        finally:
            process.kill()
            reader.join()


class _WatchedOutput:
    """The standard output of a program, which is killed when a read waits for `_STALL_SECONDS`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process, self._deadline = process, math.inf
        threading.Thread(target=self._watch, daemon=True).start()

    def read(self, size: int) -> bytes:
        """Return the next bytes, at least one and at most `size`; none at the end."""
        self._deadline = time.monotonic() + _STALL_SECONDS
        try:
            return cast(io.BufferedReader, self._process.stdout).read1(size)
        finally:
            self._deadline = math.inf

    def _watch(self) -> None:
        while self._process.poll() is None:
            if time.monotonic() > self._deadline:
                self._process.kill()
            time.sleep(0.5)
