"""Unpacking of zip and RAR archives that may be cut short, hostile or far too big."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import shutil
import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any

import rarfile
from filelock import FileLock

from hairline.data import rar
from hairline.data.members import ArchiveError, DamagedError, DiskError, vet
from hairline.system import progress

MAX_TOTAL_BYTES = 64 * 2**30
_CHUNK_BYTES = 2**18
# What zipfile and rarfile were seen to raise on damaged bytes.
_DAMAGE = (
    *(zipfile.BadZipFile, rarfile.Error, zlib.error, struct.error, EOFError, RuntimeError, UserWarning),
    *(ValueError, TypeError, AttributeError, LookupError, ArithmeticError),
)


def archive_format(path: Path) -> str | None:
    """Tell `zip` or `rar` by the first bytes of a file, whatever its name says; None for anything else."""
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
    wrapped_sha256: str | None = None,
) -> Path:
    """Unpack a zip or RAR into a folder that appears complete or not at all.

    Nothing is written outside `target`, and at most `MAX_TOTAL_BYTES` in `members.MAX_MEMBERS` files
    inside it. A zip around one other archive (what Mendeley Data serves) is unpacked through.

    Args:
        archive: The zip or RAR, told apart by content.
        target: The folder to make; one that already holds something is returned as it is.
        check: Called with the unpacked folder before it takes its name; what it raises stops all.
        wrapped_sha256: Expected checksum of the archive inside the zip, where there is one.

    Returns:
        `target`.

    Raises:
        MissingToolError, ToolError: If a compressed RAR is met and no installed program reads it.
        DiskError: If the disk is full or the folder cannot be written.
        ArchiveError: If the archive is damaged, encrypted, too big, or holds names or kinds of files that are
            refused.
    """
    archive, target = Path(archive), Path(target)
    try:
        if _holds_something(target):
            return target
        if not archive.is_file():
            raise ArchiveError(f"received {archive} as the archive; expected an existing zip or RAR file.")
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / f".{target.name}.lock"):
            if not _holds_something(target):
                _install(archive, target, check, wrapped_sha256)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
        reason = "the disk is full" if full else error.strerror or str(error)
        raise DiskError(
            f"{archive} could not be unpacked into {target}: {reason}; expected a folder that can be written. "
            f"{'Free some space' if full else 'Mend that'} or choose another folder; nothing was left half-done."
        ) from error
    return target


def _holds_something(target: Path) -> bool:
    return target.is_dir() and any(target.iterdir())


def _install(archive: Path, target: Path, check: Callable[[Path], object] | None, wrapped_sha256: str | None) -> None:
    # Whoever left these is dead: the living hold the lock.
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        # mkdtemp's folder is for its owner only; the ones inside it have the usual permissions.
        content = _unpack(archive, partial / "content")
        files = [path for path in content.rglob("*") if path.is_file() and "__MACOSX" not in path.parts]
        if len(files) == 1 and archive_format(files[0]) is not None:
            with open(files[0], "rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if wrapped_sha256 not in (None, sha256):
                raise DamagedError(archive, f"{files[0].name} in it has sha256 {sha256}, not {wrapped_sha256}")
            content = _unpack(files[0], partial / "inner")
        if check is not None:
            check(content)
        _take_name(content, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _take_name(content: Path, target: Path) -> None:
    if target.is_dir():
        target.rmdir()  # empty, or extract would have returned; Windows renames onto nothing
    for seconds in (0.1, 0.3, 1, 3, None):
        try:
            os.rename(content, target)
            return
        except PermissionError:  # on Windows, while a virus scanner reads the new files
            if seconds is None:
                raise
            time.sleep(seconds)


def _unpack(archive: Path, folder: Path) -> Path:
    kind = archive_format(archive)
    if kind is None:
        raise ArchiveError(
            f"{archive} ({archive.stat().st_size} bytes) is neither a zip nor a RAR; expected one of "
            "them. Unpack other formats by hand and give the folder."
        )
    try:
        with zipfile.ZipFile(archive) if kind == "zip" else rarfile.RarFile(archive, errors="strict") as opened:
            members = vet(archive, opened.infolist())
            if kind == "rar" and not _is_stored(opened):
                _unpack_with_tools(archive, folder, members)
            else:
                with _Writer(archive, folder, members) as writer:
                    for entry, path in members:
                        with opened.open(entry) as stream:
                            writer.write(entry, path, stream)
    except ArchiveError:
        raise
    except OSError as error:
        if error.errno != errno.EINVAL:  # a seek to an offset that a damaged header made up
            raise
        raise DamagedError(archive, str(error)) from error
    except _DAMAGE as error:
        raise DamagedError(archive, str(error) or type(error).__name__) from error
    return folder


def _is_stored(opened: rarfile.RarFile) -> bool:
    entries = [entry for entry in opened.infolist() if not entry.is_dir()]
    return len(opened.volumelist()) == 1 and all(entry.compress_type == rarfile.RAR_M0 for entry in entries)


def _unpack_with_tools(archive: Path, folder: Path, members: list[tuple[Any, PurePosixPath]]) -> None:
    failures = []
    # Each program lacks something (bsdtar: solid archives; unar: some RAR5; Debian's 7zz: RAR altogether).
    for command in rar.installed(archive):
        try:
            with (
                _Writer(archive, folder, members) as writer,
                rar.contents(command, archive, writer.bytes_so_far) as stream,
            ):
                for entry, path in members:
                    writer.write(entry, path, stream)
                if stream.read(1):
                    raise DamagedError(archive, "more bytes come out than its headers list")
            return
        except (DamagedError, rar.ToolError) as error:
            words = [getattr(error, "reason", str(error)), *getattr(error, "__notes__", [])]
            failures.append(f"{command[0]}: {', '.join(words)}")
            shutil.rmtree(folder, ignore_errors=True)
    raise rar.ToolError(
        f"{archive} ({archive.stat().st_size} bytes) is damaged, or the programs here cannot read it "
        f"({'; '.join(failures)}); expected a complete RAR. {rar.ADVICE}"
    )


class _Writer:
    """Writes members below a folder, and knows how many bytes really came out so far."""

    def __init__(self, archive: Path, folder: Path, members: list[tuple[Any, PurePosixPath]]) -> None:
        self.archive, self.folder, self.written_bytes = archive, folder, 0
        total_bytes = sum(entry.file_size for entry, _ in members)
        folder.mkdir()
        self._shown = contextlib.ExitStack()
        self.bar = self._shown.enter_context(progress.bar(total_bytes, f"unpack {archive.name}", "B"))

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.close()

    def bytes_so_far(self) -> int:
        """Tell how far it is; a number that stands still means a stuck program."""
        return self.written_bytes

    def write(self, entry: Any, path: PurePosixPath, stream: IO[bytes]) -> None:
        """Copy one member out of a stream, no further than the size its header gives."""
        destination = self.folder / path
        destination.parent.mkdir(parents=True, exist_ok=True)
        left_bytes, crc32 = entry.file_size, 0
        with open(destination, "xb") as file:
            while left_bytes and (chunk := stream.read(min(_CHUNK_BYTES, left_bytes))):
                self.written_bytes += len(chunk)
                # The bytes that came out count, not what the header said would.
                if self.written_bytes > MAX_TOTAL_BYTES:
                    raise ArchiveError(
                        f"{self.archive} unpacks to more than {MAX_TOTAL_BYTES} bytes; expected less. Unpack it "
                        "by hand if you trust it, and give the folder."
                    )
                file.write(chunk)
                crc32 = zlib.crc32(chunk, crc32)
                left_bytes -= len(chunk)
                self.bar.update(len(chunk))
        # Only RAR5 can do without a CRC: it may carry a BLAKE2 instead.
        if left_bytes or (entry.CRC is not None and crc32 != entry.CRC):
            reason = f"{left_bytes} bytes of {path} are missing" if left_bytes else f"{path} has another CRC-32"
            raise DamagedError(self.archive, reason)
