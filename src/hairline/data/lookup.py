"""Find the images that a list names, whatever system wrote their paths, and explain which are missing."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pandas as pd

from hairline.config import commands
from hairline.data import folders, images
from hairline.data.folders import natural_key, nfc
from hairline.data.manifest import MISSING, ManifestError, printable

_MOST_SEARCHED = 50_000  # files that are looked through for the cause of a missing one
_WINDOWS = re.compile(r"(?:^|/)[A-Za-z]:[\\/]|\\\\")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://?", re.IGNORECASE)
_UPLOAD = re.compile(r"[0-9a-f]{8}-(.+)")  # Label Studio puts such a prefix before the name of an uploaded file


class Lookup:
    """The files that the entries of a list mean.

    Relative entries start at `base`. With `folder`, or `search`, an entry is also looked for by the end of its path,
    then by its name alone, in that folder (else in `base`) and all of its sub-folders: a list may come from another
    machine.
    """

    def __init__(self, base: Path, folder: Path | None = None, *, search: bool = False) -> None:
        """Create a lookup; nothing is listed yet."""
        self._base, self._search = base, folder or (base if search else None)
        self._listed: dict[Path, dict[str, str]] = {}
        self._by_name: dict[str, list[Path]] | None = None

    def find(self, entry: str) -> Path:
        """Return the absolute path of an entry; that of the likeliest place if there is no file."""
        if entry.startswith("file://"):
            entry = unquote(urlsplit(entry).path)
        spellings = list(dict.fromkeys((entry, entry.strip(), entry.strip().replace("\\", "/"))))
        for text in (*spellings, *_raw(entry)):
            path = os.path.join(self._base, os.path.expanduser(text))
            found = path if os.path.exists(path) else self._respelled(Path(path))
            if found is not None:
                return Path(os.path.normpath(found))
        if self._search is not None and (found := self._searched(spellings[-1], self._search)) is not None:
            return found
        return Path(os.path.normpath(os.path.join(self._base, os.path.expanduser(spellings[-1]))))

    def _respelled(self, path: Path) -> Path | None:
        """Return an existing path that differs in the Unicode form of its names only."""
        if str(path).isascii() or path == path.parent:
            return None
        parent = path.parent if os.path.isdir(path.parent) else self._respelled(path.parent)
        if parent is None:
            return None
        if parent not in self._listed:
            self._listed[parent] = {nfc(name): name for name in _names(parent)}
        name = self._listed[parent].get(nfc(path.name))
        return None if name is None else parent / name

    def _searched(self, text: str, root: Path) -> Path | None:
        parts = [part for part in _ADDRESS.sub("", text).split("/") if part not in ("", ".", "..")]
        for start in range(len(parts)):
            path = root.joinpath(*parts[start:])
            found = path if os.path.isfile(path) else self._respelled(path)
            if found is not None:
                return Path(os.path.normpath(found))
        if self._by_name is None:
            self._by_name = {}
            for file in folders.read(root).all_files():
                self._by_name.setdefault(nfc(file.name), []).append(file)
        for name in _names_of(nfc(parts[-1]) if parts else ""):
            files = self._by_name.get(name, [])
            if len(files) > 1:
                raise ManifestError(
                    f"{printable(text)}: there are {len(files)} files of this name, such as {printable(str(files[0]))} "
                    f"and {printable(str(files[1]))}. Write the paths of the images, or name their folder: "
                    f"{commands.override('data.images', str(files[0].parent))}"
                )
            if files:
                return files[0]
        return None


def check_missing(rejected: pd.DataFrame, total: int, max_rejected: float) -> None:
    """Raise if more files are missing than the user allows.

    Args:
        rejected: With the columns path and reason.
        total: Number of listed files.
        max_rejected: Share of them that may be missing.

    Raises:
        ManifestError: With the first missing file and the likely cause.
    """
    missing = rejected.loc[rejected["reason"] == MISSING, "path"].tolist()
    if len(missing) > max_rejected * total:
        count = f"{len(missing):,} of {total:,} files {'is' if len(missing) == 1 else 'are'} missing"
        raise ManifestError(f"{count}, such as {printable(missing[0])}: {likely_cause(missing[0])}")


def likely_cause(path: str) -> str:
    """Return why a file may be missing, and how to mend it."""
    if os.path.islink(path):
        return f"it is a link to {printable(os.readlink(path))}, which is not there"
    if _WINDOWS.search(path):
        return "it is a path of another machine (Windows). Name the folder of the images: data.images=<folder>"
    if match := _ADDRESS.search(path):
        return f"it is an address ({match[0]}). Download the images and name their folder: data.images=<folder>"
    place = Path(path)
    above = next(parent for parent in place.parents if os.path.isdir(parent))
    part, *rest = place.relative_to(above).parts
    names = _names(above)
    lacks = f"{printable(str(above))} holds no {part!r}"
    if (similar := next((name for name in names if nfc(name).casefold() == nfc(part).casefold()), None)) is not None:
        return f"{lacks}, but {similar!r}: upper and lower case count. Correct the list"
    stems = (part, Path(part).stem)
    if not rest and (similar := next((name for name in names if Path(name).stem in stems), None)) is not None:
        return f"{lacks}, but {similar!r}. Correct the list"
    wanted = set(_names_of(nfc(place.name)))
    if (found := next((file for file in _walked(above) if nfc(file.name) in wanted), None)) is not None:
        same = os.path.commonprefix([found.parts[::-1], place.parts[::-1]])
        # A name alone may lie in any folder: data.images is searched with all its sub-folders.
        folder = Path(*found.parts[: len(found.parts) - len(same)]) if rest and same else above
        return (
            f"{lacks}, but there is {printable(str(found))}. Name the folder where the paths of the list start: "
            f"{commands.override('data.images', str(folder))}"
        )
    return (
        f"{lacks}. Paths are relative to the folder of the list; if the images lie elsewhere, name their folder: "
        "data.images=<folder>"
    )


def _raw(text: str) -> Iterator[str]:
    """Yield the name with the bytes that a text has in cp1252: names of files may be in any encoding."""
    with contextlib.suppress(UnicodeEncodeError):
        if not text.isascii():
            yield os.fsdecode(text.encode("cp1252"))


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder), key=natural_key)
    except OSError:
        return []


def _names_of(name: str) -> Iterator[str]:
    yield name
    if match := _UPLOAD.fullmatch(name):
        yield match[1]
    if not folders.is_image(Path(name)):  # lists may name images without suffix
        yield from (f"{name}{suffix}" for suffix in sorted(images.SUFFIXES))


def _walked(folder: Path) -> Iterator[Path]:
    seen = 0
    for current, subfolders, names in os.walk(folder):
        subfolders.sort(key=natural_key)
        seen += len(names)
        if seen > _MOST_SEARCHED:
            return
        for name in names:
            yield Path(current, name)
