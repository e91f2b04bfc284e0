"""Read folders of images as trees: in natural order, each real folder once, without clutter."""

from __future__ import annotations

import functools
import logging
import mimetypes
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hairline.data import clutter, images
from hairline.data.manifest import printable
from hairline.system.errors import HairlineError

log = logging.getLogger(__name__)

_NUMBER = re.compile("([0-9]+)")
_SEPARATE_DEPTH = 2  # of class folders below split folders
_MOST_COUNTED = 200_000  # files of one skipped folder


class FolderError(HairlineError):
    """A folder that cannot be listed."""


@dataclass(eq=False)
class Folder:
    """A folder with everything below it that is not clutter; equal to itself only.

    Attributes:
        path: Its path; of the first one if several are merged.
        files: The files directly in it, in natural order.
        folders: The folders directly in it, in natural order.
        skipped: Number of skipped files, there and below, by the name of the file or folder that was skipped.
        title: Its name, if several folders are merged under another one.
    """

    path: Path
    files: list[Path] = field(default_factory=list)
    folders: list[Folder] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    title: str = ""

    @property
    def name(self) -> str:
        """Its name in Unicode's composed form (NFC): the same text may be stored in two forms."""
        return nfc(self.title or self.path.name)

    @functools.cached_property
    def images(self) -> int:
        """Number of files directly in it that have the name of an image."""
        return sum(is_image(file) for file in self.files)

    @functools.cached_property
    def all_images(self) -> int:
        """Number of files in it and below that have the name of an image."""
        return self.images + sum(folder.all_images for folder in self.folders)

    def all_files(self) -> Iterator[Path]:
        """Yield its files, then those below it, in natural order."""
        yield from self.files
        for folder in self.folders:
            yield from folder.all_files()


def read(path: Path) -> Folder:
    """Read a folder with all that lies below it.

    Links are followed; a loop of links ends where it comes back. Clutter is skipped below `path`, whatever
    `path` itself is called.

    Raises:
        FolderError: If a folder cannot be listed: skipping it silently would lose images.
    """
    return _read(path, set())


def merge(parts: Sequence[Folder], title: str = "") -> Folder:
    """Return several folders as one: their files, and their sub-folders with those of the same name merged."""
    if len(parts) == 1 and not title:
        return parts[0]
    children: dict[str, list[Folder]] = {}
    for part in parts:
        for child in part.folders:
            children.setdefault(child.name, []).append(child)
    merged = [merge(children[name]) for name in sorted(children, key=natural_key)]
    return Folder(parts[0].path, [file for part in parts for file in part.files], merged, title=title)


def log_skipped(skipped: Counter[str]) -> None:
    """Log the number of skipped files, once for a whole list of images."""
    if not (total := skipped.total()):
        return
    kinds = ", ".join(printable(name) for name, _ in skipped.most_common(3))
    more = ", ..." if len(skipped) > 3 else ""
    log.info(
        "%s file%s skipped: thumbnails, hidden files and what systems leave behind (%s%s)",
        f"{total:,}",
        " is" if total == 1 else "s are",
        kinds,
        more,
    )


def existing(path: Path) -> Path:
    """Return a path as the file system spells it, if it is there in another Unicode form; else the path itself.

    macOS stores accents decomposed (NFD), keyboards type them composed (NFC).
    """
    if os.path.exists(path) or not path.name or nfc(str(path)) == unicodedata.normalize("NFD", str(path)):
        return path
    parent = existing(path.parent)
    try:
        found = next((entry for entry in os.listdir(parent) if nfc(entry) == nfc(path.name)), path.name)
    except OSError:
        return path
    return parent / found


def typed(text: str) -> Path:
    """Return the absolute path that a user typed, as the file system spells it."""
    return existing(Path(os.path.expanduser(text)).absolute())  # unlike that of Path, it leaves an unknown ~name


def natural_key(text: str) -> tuple[list[str | int], str]:
    """Return a sort key that puts 2.jpg before 10.jpg; order matters because neighbours often come from one photo."""
    parts: list[str | int] = [*_NUMBER.split(text.lower())]  # text and numbers in turn, so that like meets like
    parts[1::2] = map(int, parts[1::2])
    return parts, text


def is_image(path: Path) -> bool:
    """Return whether a file has the name of an image that hairline reads."""
    return path.suffix.lower() in images.SUFFIXES


def is_image_like(path: Path) -> bool:
    """Return whether a file has the name of any image, read by hairline or not."""
    return is_image(path) or (mimetypes.guess_type(path.name)[0] or "").startswith("image/")


def nfc(text: str) -> str:
    """Return a text in Unicode's composed form (NFC), in which names are compared."""
    return unicodedata.normalize("NFC", text)


def _read(path: Path, seen: set[str], depth: int = 0) -> Folder:
    folder = Folder(path)
    # Class folders may be links to one another; below them, each real folder is read once.
    seen = {*seen, os.path.realpath(path)} if depth <= _SEPARATE_DEPTH else seen
    seen.add(os.path.realpath(path))
    names, subfolders = _listed(path)
    for name in sorted(names, key=natural_key):
        if clutter.is_clutter_file(name, names):
            folder.skipped[_kind(name)] += 1
        else:
            folder.files.append(path / name)
    for name in sorted(subfolders, key=natural_key):
        if clutter.is_clutter_folder(name):
            folder.skipped[name] += _count(path / name) if clutter.is_counted(name) else 0
        elif os.path.realpath(path / name) not in seen:
            child = _read(path / name, seen, depth + 1)
            folder.folders.append(child)
            folder.skipped += child.skipped
    return folder


def _listed(path: Path) -> tuple[set[str], list[str]]:
    """Return the names of the files and of the folders in a folder."""
    names, subfolders = set(), []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                try:
                    is_folder = entry.is_dir()
                except OSError:  # a link to itself
                    is_folder = False
                if is_folder:
                    subfolders.append(entry.name)
                else:
                    names.add(entry.name)
    except OSError as error:
        raise FolderError(f"{printable(str(path))} cannot be listed: {error.strerror}") from error
    return names, subfolders


def _count(path: Path) -> int:
    """Return the number of files below a skipped folder; one that cannot be listed has none."""
    total = 0
    for _, _, names in os.walk(path):
        total += len(names)
        if total > _MOST_COUNTED:
            break
    return total


def _kind(name: str) -> str:
    """Return what a skipped file is counted under: files of macOS and temporary files have a name each."""
    return "._*" if name.startswith("._") else "~*" if name.startswith("~") else name
