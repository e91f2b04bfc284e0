"""Published data sets as data: where they are, whom to cite, and how their unpacked content is recognised."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_MAX_DEPTH = 8  # of class folders below the folder that is given
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Archive:
    """A published data set, as data.

    Attributes:
        name: The folder it is installed under.
        urls: Addresses of the archive itself.
        size_bytes: Size of the archive; None where nobody published it.
        sha256: Checksum of the archive; None where nobody published it.
        licence: Short name of the licence.
        citation: Works to cite.
        homepage: Where a person downloads it.
        wrapped_urls: Addresses of a zip around that archive; the zip's own size and checksum are not known.
        class_names: The folders that hold the classes.
        images_per_class: Number of images in each of them; None does not check.
    """

    name: str
    urls: tuple[str, ...]
    size_bytes: int | None
    sha256: str | None
    licence: str
    citation: str
    homepage: str
    wrapped_urls: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ("Negative", "Positive")
    images_per_class: int | None = None


CONCRETE_CRACKS = Archive(
    name="concrete-cracks",
    # The RAR itself; below, the zip around it that Mendeley's "Download all" gives, from its two caches.
    urls=(
        "https://data.mendeley.com/public-files/datasets/5y9wdsg2zt/files/"
        "8a70d8a5-bce9-4291-bab9-b48cfb3e87c3/file_downloaded",
    ),
    wrapped_urls=(
        "https://prod-dcd-datasets-cache-zipfiles.s3.eu-west-1.amazonaws.com/5y9wdsg2zt-2.zip",
        "https://md-datasets-cache-zipfiles-prod.s3.eu-west-1.amazonaws.com/5y9wdsg2zt-2.zip",
    ),
    # Quoted alike from Mendeley's metadata in unrelated public repositories (size in three, sha256 in two, found by
    # search in 2026); not measured here.
    size_bytes=241_363_336,
    sha256="08d7dc505a4f5a0330cee2fa2a1ae4b5b4f98bcffd0549b774caf7959bb1f02f",
    licence="CC BY 4.0",
    citation=(
        "Özgenel, Ç. F. (2019). Concrete Crack Images for Classification. Mendeley Data, V2. "
        "https://doi.org/10.17632/5y9wdsg2zt.2\n"
        "Zhang, L., Yang, F., Zhang, Y. D., & Zhu, Y. J. (2016). Road crack detection using deep convolutional neural "
        "network. IEEE International Conference on Image Processing (ICIP). https://doi.org/10.1109/ICIP.2016.7533052"
    ),
    homepage="https://data.mendeley.com/datasets/5y9wdsg2zt/2",
    images_per_class=20_000,
)


def content_fault(archive: Archive, root: Path) -> str | None:
    """Compare the number of images in each class folder below `root` with the published one; None if they agree."""
    if archive.images_per_class is None:
        return None
    counts = {name: sum(_is_image(entry) for entry in os.scandir(root / name)) for name in archive.class_names}
    if set(counts.values()) == {archive.images_per_class}:
        return None
    held = ", ".join(f"{count} images of {name}" for name, count in counts.items())
    return f"holds {held}; the published set has {archive.images_per_class} of each"


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(_IMAGE_SUFFIXES) and not entry.name.startswith(".")


def find_classes(folder: Path, names: Sequence[str]) -> Path:
    """Find the folder that directly holds a folder for each class, however deep an archive nested it.

    Args:
        folder: Where to look; the folder itself counts, and the one nearest to it wins.
        names: The class folders.

    Raises:
        ValueError: If there is none, or two equally near.
    """
    level = [Path(folder)]
    for _ in range(_MAX_DEPTH):
        below = {place: _folders(place) for place in level}
        found = [place for place, inside in below.items() if set(names) <= {child.name for child in inside}]
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(
                f"{folder} holds {', '.join(names)} more than once ({', '.join(map(str, found))}); expected "
                "one. Give the one that is meant."
            )
        level = [child for inside in below.values() for child in inside]
    seen = ", ".join(child.name for child in _folders(Path(folder))[:8]) or "no folders"
    raise ValueError(
        f"{folder} holds {seen}; expected the folders {', '.join(names)}, there or deeper. Give the folder or archive "
        "that holds them."
    )


def _folders(place: Path) -> list[Path]:
    try:
        entries = sorted(os.scandir(place), key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(f"{place} cannot be listed ({error.strerror}); expected a folder.") from error
    # macOS puts a shadow of every folder of a zip into __MACOSX.
    return [
        Path(entry.path)
        for entry in entries
        if entry.is_dir() and entry.name != "__MACOSX" and not entry.name.startswith(".")
    ]
