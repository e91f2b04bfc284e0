"""Getting files and published data sets: checked, resumed, complete or not there at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import math
import os
import time
from pathlib import Path
from urllib.parse import urlsplit

import filelock

from hairline.data.archives import extract
from hairline.data.members import ArchiveError, DamagedError, DiskError
from hairline.data.published import CONCRETE_CRACKS, Archive, content_fault, find_classes
from hairline.data.rar import MissingToolError, ToolError
from hairline.data.transfer import BrokenOffError, DownloadError, Job, receive, shown

__all__ = ["CONCRETE_CRACKS", "Archive", "DownloadError", "extract", "fetch", "find_classes", "install"]

_log = logging.getLogger(__name__)
_PAUSES_SECONDS = (0.5, 1.0, 2.0)  # before the second, third and fourth try
_PROGRESS_BYTES = 2**20  # a try that brought this much does not count: a poor line may break off often


def fetch(
    url: str,
    target: Path,
    *,
    size_bytes: int | None = None,
    sha256: str | None = None,
    stall_seconds: float = 20,
    total_seconds: float | None = None,
    label: str | None = None,
) -> Path:
    """Download a file once: what is there and right is returned at once, what was begun is gone on with.

    Bytes go to `<target>.part`; the file takes its name when it is complete and checked. Processes that want the
    same file wait for the first.

    Args:
        url: An http or https address; `user:password@` in it is sent to that host alone and shown nowhere.
        target: The file to make.
        size_bytes: Its size, checked where given.
        sha256: Its checksum in hexadecimal, checked where given.
        stall_seconds: Longest wait for an answer, or for the next byte.
        total_seconds: Longest time for all of it, waiting for another process included; None is no limit.
        label: Name in the progress bar.

    Returns:
        `target`.

    Raises:
        DownloadError: If the file cannot be had in that time, is another one, or cannot be written.
    """
    target = Path(target)
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise DownloadError(f"received the address {shown(url)!r}; expected one that begins with http:// or https://.")
    deadline = math.inf if total_seconds is None else time.monotonic() + total_seconds
    part = target.with_name(target.name + ".part")
    job = Job(url, part, size_bytes, stall_seconds, deadline, label or target.name)
    try:
        if _is_right(target, size_bytes, sha256):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(f"{target}.lock", timeout=-1 if total_seconds is None else total_seconds)
        with lock:
            if not _is_right(target, size_bytes, sha256):
                _receive_with_patience(job)
                _check(job, sha256)
                os.replace(part, target)
                job.record.unlink(missing_ok=True)
    except filelock.Timeout as error:
        raise DownloadError(f"{shown(url)}: another process is still downloading it; run again later.") from error
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise DownloadError(
            f"{shown(url)} could not be written to {target}: {reason}; expected a folder that can be written and has "
            "room. Mend that or choose another folder."
        ) from error
    return target


def _is_right(file: Path, size_bytes: int | None, sha256: str | None) -> bool:
    return (
        file.is_file()
        and size_bytes in (None, file.stat().st_size)
        and (sha256 is None or _sha256(file) == sha256.lower())
    )


def _sha256(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _receive_with_patience(job: Job) -> None:
    pauses, best_bytes = list(_PAUSES_SECONDS), 0
    while True:
        try:
            receive(job)
            return
        except BrokenOffError as error:
            kept_bytes = job.part.stat().st_size if job.part.exists() else 0
            # More than ever before: a server whose parts never fit must not be asked for ever.
            if kept_bytes - best_bytes >= _PROGRESS_BYTES:
                pauses, best_bytes = list(_PAUSES_SECONDS), kept_bytes
            left_seconds = job.deadline - time.monotonic()
            if not pauses or left_seconds <= 0:
                raise DownloadError(str(error)) from error
            time.sleep(min(pauses.pop(0), left_seconds))


def _check(job: Job, sha256: str | None) -> None:
    if _is_right(job.part, job.size_bytes, sha256):
        return
    received = f"{job.part.stat().st_size} bytes with sha256 {_sha256(job.part)}"
    job.discard()
    size = "any number of" if job.size_bytes is None else job.size_bytes
    raise DownloadError(
        f"{shown(job.url)} gave {received}; expected {size} bytes with sha256 {sha256 or 'of any value'}. The copy was "
        "deleted; try again, and if it stays so the file behind the address is another one."
    )


def install(archive: Archive, folder: Path, *, source: Path | None = None) -> Path:
    """Put a data set under `folder/<name>`, once for each archive it can come from.

    Args:
        archive: Which.
        folder: Where data sets are kept.
        source: A zip or RAR of the set that the user has, or an unpacked folder, which is used in its place; None
            downloads.

    Returns:
        The folder that holds the class folders.

    Raises:
        DownloadError: If no address gave it.
        ArchiveError: If `source` cannot be read or unpacked.
        MissingToolError, ToolError: If a program that reads RAR is needed and not installed.
        ValueError: If the classes are not in it.
    """
    home = Path(folder) / archive.name
    if source is None:
        target = home / (archive.sha256 or "published")[:12]
        if not target.is_dir() or not any(target.iterdir()):
            _download_and_extract(archive, target)
        return find_classes(target, archive.class_names)
    own = unpacked = Path(source)
    if own.is_file():
        # By content, so that another archive under the same name is not mistaken for one unpacked before.
        try:
            target = home / _sha256(own)[:12]
        except OSError as error:
            raise DiskError(f"{own} cannot be read ({error.strerror}); expected a zip or RAR you may read.") from error
        unpacked = extract(own, target, check=lambda content: _classes_of(own, content, archive))
    root = find_classes(unpacked, archive.class_names)
    if fault := content_fault(archive, root):
        _log.warning("%s: %s", root, fault)
    return root


def _classes_of(file: Path, content: Path, archive: Archive) -> Path:
    try:
        return find_classes(content, archive.class_names)
    except ValueError as error:
        # Name the archive: the folder it is unpacked in so far is about to go.
        raise DamagedError(file, str(error).replace(str(content), file.name)) from error


def _download_and_extract(archive: Archive, target: Path) -> None:
    def check(content: Path) -> None:
        if fault := content_fault(archive, _classes_of(file, content, archive)):
            raise DamagedError(file, fault)

    failures = []
    for url in (*archive.urls, *archive.wrapped_urls):
        wrapped = url in archive.wrapped_urls
        file = target.parent / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}.archive"
        try:
            if wrapped:
                fetch(url, file, label=archive.name)
            else:
                fetch(url, file, size_bytes=archive.size_bytes, sha256=archive.sha256, label=archive.name)
            extract(file, target, check=check, wrapped_sha256=archive.sha256)
        except (DiskError, MissingToolError, ToolError):
            raise  # the archive is kept; another address would be of no help
        except (DownloadError, ArchiveError) as error:
            failures.append(str(error))
        else:
            failures.clear()
        with contextlib.suppress(OSError):  # missing; or on Windows, read by another process
            file.unlink()
        if not failures:
            return
    tried = "".join(f"\n- {failure}" for failure in failures)
    raise DownloadError(
        f"{archive.name} could not be downloaded; tried:{tried}\nWithout a network, get it from {archive.homepage} on "
        "another machine and give what you have: data.path=<folder, zip or RAR>."
    )
