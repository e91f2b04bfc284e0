"""Which members of an archive may be written, and under what paths."""

from __future__ import annotations

import re
import stat
import unicodedata
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import rarfile

from hairline.system.errors import HairlineError

MAX_MEMBERS = 1_000_000
# Device names; a trailing dot or space (Windows drops it: ".. " is ".."); drives, streams, control characters.
_UNSAFE_PART = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*[. ]|.*[:\x00-\x1f\x7f].*", re.I | re.S)


class ArchiveError(HairlineError):
    """An archive that cannot, or must not, be unpacked."""


class DiskError(ArchiveError):
    """A disk that is full, or a folder that cannot be read or written."""


class DamagedError(ArchiveError):
    """Bytes that are not what an archive's own headers promise."""

    def __init__(self, archive: Path, reason: str) -> None:
        """Say which archive it is, and what is wrong with it."""
        self.reason = reason
        super().__init__(
            f"{archive} ({archive.stat().st_size} bytes) is damaged or cut short: {reason.rstrip('.')}; expected "
            "a complete archive. Get it again, or unpack it by hand and give the folder."
        )


def vet(archive: Path, entries: list[Any]) -> list[tuple[Any, PurePosixPath]]:
    """Pair each file with the path it gets; refuse what is no plain file, and names that leave or collide.

    Args:
        archive: The file, for the messages.
        entries: `ZipInfo`s or `RarInfo`s in the archive's order.

    Returns:
        The files in the archive's order, without its folders.

    Raises:
        ArchiveError: If a member is a link, a device or encrypted, if a name is not `safe_path`'s or two
            names are one on some systems, or if there are no members or more than `MAX_MEMBERS`.
    """
    members = []
    for entry in entries:
        objection = _zip_objection(entry) if isinstance(entry, zipfile.ZipInfo) else _rar_objection(entry)
        # zipfile cuts `filename` at a NUL; the name as stored is what has to be judged.
        name = entry.orig_filename if isinstance(entry, zipfile.ZipInfo) else entry.filename
        path = safe_path(name)
        if objection is None and entry.is_dir():
            continue
        if objection or path is None:
            raise ArchiveError(
                f"{archive} holds {name!r}, which is {objection or 'no safe relative path'}; expected plain "
                "files inside one folder. Unpack it by hand if you trust it, and give the folder."
            )
        members.append((entry, path))
    if not 0 < len(members) <= MAX_MEMBERS:
        raise ArchiveError(
            f"{archive} lists {len(members)} files; expected 1 to {MAX_MEMBERS}. Unpack it by hand if you trust "
            "it, and give the folder (an encrypted list looks empty)."
        )
    if (clash := _clash([path for _, path in members])) is not None:
        raise ArchiveError(
            f"{archive} holds '{clash[0]}' and '{clash[1]}', one name on some systems; expected distinct "
            "names. Unpack it by hand and give the folder."
        )
    return members


def safe_path(name: str) -> PurePosixPath | None:
    r"""Give the relative path a member may be written to on any system, None where there is none.

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


def _clash(paths: list[PurePosixPath]) -> tuple[PurePosixPath, PurePosixPath] | None:
    """Find two paths that are one on a system that ignores case or accent encoding."""
    folders: dict[str, PurePosixPath] = {}
    files: dict[str, PurePosixPath] = {}
    for path in paths:
        for folder in list(path.parents)[:-1]:
            folded = unicodedata.normalize("NFC", str(folder)).casefold()
            if folders.setdefault(folded, folder) != folder:
                return folders[folded], folder
        folded = unicodedata.normalize("NFC", str(path)).casefold()
        if folded in files:
            return files[folded], path
        files[folded] = path
    return next(((files[folded], folders[folded]) for folded in files.keys() & folders.keys()), None)


def _zip_objection(entry: zipfile.ZipInfo) -> str | None:
    if entry.flag_bits & 0x2041:
        return "encrypted"
    # 0 is what Windows and DOS programs leave in the place of the Unix mode.
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or special file"
    # zipfile decompresses a whole chunk of bz2 or LZMA at once, with no bound on the memory that takes.
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"compressed by the unusual method {entry.compress_type}"
    return None


def _rar_objection(entry: rarfile.RarInfo) -> str | None:
    if entry.needs_password():
        return "encrypted"
    if entry.file_redir is not None or not (entry.is_file() or entry.is_dir()):
        return "a link or special file"
    return None
