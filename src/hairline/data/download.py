"""Download files and published data sets: checked, complete or absent, once for all processes."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from hairline.data import archives, clutter, folders
from hairline.data.archives import ArchiveError, UnpackError
from hairline.system import errors, files, progress

log = logging.getLogger(__name__)

_PAUSES_SECONDS = (0.5, 1.0, 2.0)  # before the second, third and fourth attempt
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)  # HTTP status codes that are worth a retry
_CHUNK_BYTES = 2**16
_HEADERS = {"User-Agent": "Mozilla/5.0 (compatible; hairline)", "Accept-Encoding": "identity"}
_MAX_DEPTH = 8  # of class folders below the given folder
CLASS_NAMES = ("Negative", "Positive")  # folders of the published data set


class DownloadError(errors.HairlineError):
    """A file that could not be downloaded, or whose content is not the expected one."""


def fetch(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    stall_seconds: float = 20,
    total_seconds: float | None = None,
    label: str | None = None,
) -> Path:
    """Download a file unless it is already there; processes that need the same file wait for the first.

    Args:
        url: An http or https address.
        target: The file to create; it appears when it is complete and checked.
        sha256: Expected digest in hexadecimal; None accepts any content.
        stall_seconds: Timeout for the connection (after the name lookup) and for each read.
        total_seconds: Timeout for the whole download, including the wait for another process; None for no limit.
        label: Name in the progress bar.

    Returns:
        `target`.

    Raises:
        DownloadError: If the file cannot be downloaded in time, differs from `sha256`, or cannot be written.
    """
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")
    deadline = math.inf if total_seconds is None else time.monotonic() + total_seconds

    def receive(url: str, output_file: str, _: Any) -> None:
        with requests.get(url, headers=_HEADERS, stream=True, timeout=stall_seconds) as response:
            response.raise_for_status()
            total_bytes = int(response.headers.get("Content-Length", 0)) or None
            with open(output_file, "wb") as file, progress.bar(total_bytes, label or target.name, "B") as bar:
                for chunk in response.iter_content(_CHUNK_BYTES):
                    if time.monotonic() > deadline:
                        raise requests.Timeout(f"not finished within {total_seconds:g} seconds")
                    file.write(chunk)
                    bar.update(len(chunk))

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(f"{target}.lock")
        with files.waiting(lock, f"downloads {target.name}", timeout=total_seconds or math.inf):
            for pause_seconds in (*_PAUSES_SECONDS, None):
                try:
                    pooch.retrieve(url, known_hash=sha256, fname=target.name, path=target.parent, downloader=receive)
                    target.chmod(0o644)  # pooch creates it for its owner only
                    return target
                except requests.RequestException as error:
                    if pause_seconds is None or time.monotonic() > deadline or not _is_transient(error):
                        raise DownloadError(f"{url}: {_reason(error)}") from error
                    time.sleep(pause_seconds)
    except filelock.Timeout as error:
        raise DownloadError(f"{url}: another process is still downloading it; run again later.") from error
    except OSError as error:
        reason = errors.explained(error) or f"{error.strerror or error}; choose a folder that can be written"
        raise DownloadError(f"{url} could not be saved as {target}: {reason}") from error
    except DownloadError:
        raise
    except ValueError as error:  # pooch: another digest
        raise DownloadError(f"{url}: {error}") from error
    return target


def _is_transient(error: Any) -> bool:
    """Return whether another attempt may succeed: the server was busy, or the connection broke."""
    import urllib3

    if error.response is not None:
        return error.response.status_code in _TRANSIENT
    return any(isinstance(cause, urllib3.exceptions.ProtocolError) for cause in error.args)


def _reason(error: Any) -> str:
    """Return the innermost cause of a failed request in a few words."""
    if error.response is not None:
        return f"the server answered {error.response.status_code} ({error.response.reason})"
    cause = error.args[0] if error.args else error
    return str(getattr(cause, "reason", cause)).rpartition(": ")[2]


@dataclass(frozen=True)
class Archive:
    """A published data set.

    Attributes:
        name: The folder it is installed under.
        urls: Addresses of the archive.
        sha256: Digest of the archive; None accepts any.
        homepage: Where a person downloads it.
        wrapped_urls: Addresses of a zip that holds the archive; the digest of the zip is unknown.
        images_per_class: Number of images in each class folder, `CLASS_NAMES`.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str | None
    homepage: str
    images_per_class: int
    wrapped_urls: tuple[str, ...] = ()


# Özgenel, Ç. F. (2019). Concrete Crack Images for Classification. Mendeley Data, V2, CC BY 4.0.
# https://doi.org/10.17632/5y9wdsg2zt.2, with Zhang, L., Yang, F., Zhang, Y. D., & Zhu, Y. J. (2016). Road crack
# detection using deep convolutional neural network. IEEE ICIP. https://doi.org/10.1109/ICIP.2016.7533052
CONCRETE_CRACKS = Archive(
    name="concrete-cracks",
    urls=(
        "https://data.mendeley.com/public-files/datasets/5y9wdsg2zt/files/"
        "8a70d8a5-bce9-4291-bab9-b48cfb3e87c3/file_downloaded",
    ),
    # What "Download all" gives: a zip around the RAR, from two caches.
    wrapped_urls=(
        "https://prod-dcd-datasets-cache-zipfiles.s3.eu-west-1.amazonaws.com/5y9wdsg2zt-2.zip",
        "https://md-datasets-cache-zipfiles-prod.s3.eu-west-1.amazonaws.com/5y9wdsg2zt-2.zip",
    ),
    # Quoted from Mendeley's metadata by two unrelated public repositories (2026); not measured here.
    sha256="08d7dc505a4f5a0330cee2fa2a1ae4b5b4f98bcffd0549b774caf7959bb1f02f",
    homepage="https://data.mendeley.com/datasets/5y9wdsg2zt/2",
    images_per_class=20_000,
)


def install(archive: Archive, folder: Path, *, source: Path | None = None) -> Path:
    """Install a data set below `folder/<name>`, once per archive.

    Args:
        archive: The data set.
        folder: Where data sets are kept.
        source: The user's zip or RAR; None downloads.

    Returns:
        The folder that holds the class folders.

    Raises:
        DownloadError: If no address delivers the archive.
        ArchiveError: If `source` cannot be read or unpacked, or the class folders are missing.
    """
    home = folder / archive.name
    if source is None:
        target = home / (archive.sha256 or "published")[:12]
        if not target.is_dir() or not any(target.iterdir()):
            _download_and_extract(archive, target)
        return find_classes(target)
    try:  # by content: another archive of the same name is another data set
        target = home / files.sha256(source)[:12]
    except OSError as error:
        raise UnpackError(f"{source} cannot be read ({error.strerror}): expected a readable zip or RAR.") from error
    archives.extract(source, target, check=lambda content: _class_root(source, content))
    root = find_classes(target)
    if fault := _count_fault(archive, root):
        log.warning("WARNING: %s: %s", root, fault)
    return root


def _download_and_extract(archive: Archive, target: Path) -> None:
    """Download from the first address that works and unpack into `target`."""

    def check(content: Path) -> None:
        if fault := _count_fault(archive, _class_root(file, content)):
            raise ArchiveError(f"{file.name} {fault}")

    failures = []
    for url in (*archive.urls, *archive.wrapped_urls):
        digest = archive.sha256 if url in archive.urls else None
        file = target.parent / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}.archive"
        try:
            fetch(url, file, sha256=digest, label=archive.name)
            archives.extract(file, target, check=check, inner_sha256=archive.sha256)
        except UnpackError:
            raise  # keep the archive: another address would not help
        except (DownloadError, ArchiveError) as error:
            failures.append(str(error))
        else:
            failures.clear()
        with contextlib.suppress(OSError):  # missing; or on Windows, open in another process
            file.unlink()
        if not failures:
            return
    tried = "".join(f"\n- {failure}" for failure in failures)
    raise DownloadError(
        f"{archive.name} could not be downloaded; tried:{tried}\nWithout a network, download it from "
        f"{archive.homepage} on another machine and pass it: data.path=<folder, zip or RAR>."
    )


def _class_root(file: Path, content: Path) -> Path:
    try:
        return find_classes(content)
    except errors.HairlineError as error:
        # Name the archive: `content` is a temporary folder.
        raise ArchiveError(str(error).replace(str(content), str(file))) from error


def _count_fault(archive: Archive, root: Path) -> str | None:
    """Return how the number of images differs from the published one; None if it agrees."""
    counts = {name: folders.read(root / name).images for name in CLASS_NAMES}
    if set(counts.values()) == {archive.images_per_class}:
        return None
    listed = ", ".join(f"{count} images of {name}" for name, count in counts.items())
    return f"holds {listed}; the published set has {archive.images_per_class} of each"


def find_classes(folder: Path, names: Sequence[str] = CLASS_NAMES) -> Path:
    """Return the folder that directly holds a folder for each class, at any depth.

    Args:
        folder: Where to search; the topmost match is returned.
        names: The class folders.

    Raises:
        ArchiveError: If no folder matches, or two at the same depth.
    """
    level = [folder]
    for _ in range(_MAX_DEPTH):
        children = {parent: _subfolders(parent) for parent in level}
        matches = [parent for parent, inside in children.items() if set(names) <= {child.name for child in inside}]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise ArchiveError(
                f"{folder} holds {', '.join(names)} more than once ({', '.join(map(str, matches))}): pass one of these."
            )
        level = [child for inside in children.values() for child in inside]
    seen = ", ".join(child.name for child in _subfolders(folder)[:8]) or "no folders"
    raise ArchiveError(
        f"{folder} holds {seen}: expected the folders {', '.join(names)}, there or deeper. Pass the folder or archive "
        "that holds them."
    )


def _subfolders(folder: Path) -> list[Path]:
    """Return the subfolders, sorted, without those that systems and archives leave behind."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise ArchiveError(f"{folder} cannot be listed ({error.strerror}): expected a folder.") from error
    return [entry for entry in entries if entry.is_dir() and not clutter.is_clutter_folder(entry.name)]
