"""The manifest: one row per image, created by a source and completed by scanning and splitting.

A manifest is a pandas data frame with the columns `COLUMNS`, and a CSV file on disk. `path` is absolute, `label` is the
class name, `group` names images that belong together (empty if unknown), `split` is train, val, test or empty, `width`
and `height` are in pixels of the upright image, `sha256` is the digest of the file. Text columns have dtype object:
pandas' own text type cannot hold file names that are not UTF-8.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from hairline.data import duplicates, images
from hairline.system import cache, files, progress
from hairline.system.errors import HairlineError

# Reason of rejection ("" = readable), sha256, width, height, largest value with 16 bits (0 = 8 bits), perceptual hash
_Scanned = tuple[str, str, int, int, int, int]

COLUMNS = ("path", "label", "group", "split", "width", "height", "sha256")
SPLITS = ("train", "val", "test")
MISSING = "missing: No such file or directory"  # reason of rejection
_QUERIED = 500  # files that one query of the cache names
_MOST_DESCRIBED = 5  # rejected files in a message


class ManifestError(HairlineError):
    """Images or labels that do not form a manifest."""


def scan(rows: pd.DataFrame, *, threads: int | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read every file once: digest, size, perceptual hash, and whether the image is complete.

    Results are cached by path, size and time of the last change, so that a second scan opens no unchanged file.

    Args:
        rows: Columns path and label, optionally group and split.
        threads: Threads that read files; None for one more than cores.

    Returns:
        The manifest of the readable images with the additional column phash (perceptual hash, uint64), and the
        rejected files with the columns path, label, reason. Both keep the index of `rows`.
    """
    paths = rows["path"].tolist()
    known, stamps = _load_scans(paths)
    if unread := [path for path in paths if path not in known]:
        results = progress.in_threads(_inspect, unread, "check images", "img", threads=threads)
        fresh = dict(zip(unread, results, strict=True))
        _save_scans(fresh, stamps)
        known |= fresh
    scanned = [known[path] for path in paths]
    names = ["reason", "sha256", "width", "height", "peak", "phash"]
    table = pd.DataFrame(scanned, columns=names, index=rows.index, dtype=object)
    table = table.astype({"width": np.int64, "height": np.int64, "phash": np.int64}).astype({"phash": np.uint64})
    table = rows.assign(**{name: "" for name in ("group", "split") if name not in rows}).join(table)
    peaks = table["peak"].to_numpy(np.int64)
    narrow = (peaks > 0) & (peaks <= images.narrow_limit(peaks))
    table.loc[narrow, "reason"] = [images.narrow_range(value) for value in peaks[narrow].tolist()]
    readable = table["reason"] == ""
    return table.loc[readable, [*COLUMNS, "phash"]], table.loc[~readable, ["path", "label", "reason"]]


def check_labels(manifest: pd.DataFrame) -> None:
    """Raise if identical images have different labels.

    Raises:
        ManifestError: With two of the files and the number of such images.
    """
    labels = manifest.groupby("sha256")["label"].nunique()
    contradicted = labels.index[labels > 1]
    if len(contradicted) == 0:
        return
    first = manifest[manifest["sha256"] == contradicted[0]].drop_duplicates("label")
    one, two = first.iloc[0], first.iloc[1]
    raise ManifestError(
        f"identical images have two labels: {printable(one['path'])} is {one['label']!r} and "
        f"{printable(two['path'])} is {two['label']!r}"
        + (f", and {len(contradicted) - 1} more such images" if len(contradicted) > 1 else "")
        + ". Delete the wrong copy of each"
    )


def check_rejected(rejected: pd.DataFrame, total: int, max_rejected: float) -> None:
    """Raise if more files were rejected than the user allows.

    Raises:
        ManifestError: With up to five files and their reasons.
    """
    if len(rejected) <= max_rejected * total:
        return
    raise ManifestError(
        f"{len(rejected)} of {total} files are not readable images ({len(rejected) / total:.1%}; "
        f"data.max_rejected allows {max_rejected:.1%}):\n{describe_rejected(rejected)}\n"
        "Repair or remove them, or raise data.max_rejected"
    )


def describe_rejected(rejected: pd.DataFrame) -> str:
    """Return one line for each of the first rejected files."""
    lines = [f"  {printable(str(row.path))}: {row.reason}" for row in rejected.head(_MOST_DESCRIBED).itertuples()]
    if len(rejected) > _MOST_DESCRIBED:
        lines.append(f"  and {len(rejected) - _MOST_DESCRIBED} more")
    return "\n".join(lines)


def printable(path: str) -> str:
    """Return a path or name as one printable line, with other characters escaped."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(path))


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a table atomically as CSV (UTF-8; undecodable bytes of file names are preserved).

    Args:
        table: A manifest, or the table of rejected files.
        path: The file; replaced if it exists.
    """
    with files.atomic(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        # quoting=1 (all): a bare carriage return in a file name would otherwise be read as the end of a line.
        table.to_csv(file, index=False, quoting=1, lineterminator="\n")


def read(path: Path, required: Iterable[str] = COLUMNS) -> pd.DataFrame:
    """Read a table that `write` wrote; width and height are integers, all other columns text without missing values.

    Args:
        path: The file. Lists of users are read by `tables.read`.
        required: Required columns.

    Raises:
        ManifestError: If the file is not such a table.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            # Not with pandas: for rows that are too long it takes the first column as index and shifts the others.
            header, *rows = filter(None, csv.reader(file, strict=True))
    except (OSError, csv.Error, ValueError) as error:  # ValueError: empty
        raise ManifestError(f"{path} cannot be read as a CSV table: {error}") from error
    missing = [name for name in required if name not in header]
    if missing or len(set(header)) < len(header) or any(len(row) != len(header) for row in rows):
        raise ManifestError(
            f"{path} was changed by another program: expected the columns {', '.join(required)} in each row; it has "
            f"{printable(', '.join(header))}"
        )
    table = pd.DataFrame(rows, columns=header, dtype=object)
    for name in {"width", "height"} & set(header):
        try:
            table[name] = table[name].astype(np.int64)
        except (ValueError, OverflowError) as error:
            raise ManifestError(f"{path}, column {name}: expected whole numbers of pixels ({error})") from error
    return table


def digest(manifest: pd.DataFrame) -> str:
    """Return a digest of the images, labels and splits (16 hexadecimal digits), independent of paths and row order."""
    rows = sorted(zip(manifest["sha256"], manifest["label"], manifest["split"], strict=True))
    return hashlib.sha256(repr(rows).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _inspect(paths: Sequence[str]) -> list[_Scanned]:
    """Scan some files."""
    results, pictures = zip(*map(_read, paths), strict=True)
    hashes = duplicates.perceptual_hashes(np.stack(pictures)).view(np.int64)  # SQLite's integers are signed
    return [(*result, phash) for result, phash in zip(results, hashes.tolist(), strict=True)]


def _read(path: str) -> tuple[tuple[str, str, int, int, int], np.ndarray]:
    """Return reason of rejection ("" = readable), digest, width, height and peak of a file, and its shrunk picture."""
    blank = np.zeros(duplicates.SHAPE, np.uint8)
    if not os.path.lexists(path):
        return (MISSING, "", 0, 0, 0), blank
    if os.path.splitext(path)[1].lower() not in images.SUFFIXES:
        return (f"not an image by its name: expected one of {', '.join(sorted(images.SUFFIXES))}", "", 0, 0, 0), blank
    try:
        content = images.read(path)
        width, height, thumbnail, peak = images.inspect(content, duplicates.THUMBNAIL)
    except images.ImageError as error:
        missing = isinstance(error.__cause__, FileNotFoundError | NotADirectoryError)
        return (MISSING if missing else str(error), "", 0, 0, 0), blank
    return ("", hashlib.sha256(content).hexdigest(), width, height, peak), duplicates.shrink(thumbnail)


# --- cache of scans ---------------------------------------------------------------------------------------------------


_DATABASE = "files-5.sqlite"
# Copying tools restore size and mtime, but not ctime.
_FILES = (
    "CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, "
    "sha256 TEXT, width INTEGER, height INTEGER, peak INTEGER, phash INTEGER) WITHOUT ROWID"
)
_Stamp = tuple[int, int, int]


def _load_scans(paths: list[str]) -> tuple[dict[str, _Scanned], dict[str, _Stamp]]:
    """Return the cached results of unchanged files, and the stamps of all files."""
    stamps: dict[str, _Stamp] = {}
    for path in paths:
        try:
            stat = os.stat(path)
        except (OSError, ValueError):
            continue  # missing, unreadable, or a NUL in the name: `_inspect` reports it
        stamps[path] = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    known = {}
    with cache.database(_DATABASE, _FILES) as connection:
        names = {os.fsencode(path): path for path in stamps}
        ordered = list(names)
        for start in range(0, len(ordered), _QUERIED):
            part = ordered[start : start + _QUERIED]
            query = f"SELECT * FROM files WHERE path IN ({','.join('?' * len(part))})"
            for name, *row in connection.execute(query, part):
                path = names[name]
                if tuple(row[:3]) == stamps[path]:
                    known[path] = ("", *row[3:])
    return known, stamps


def _save_scans(fresh: dict[str, _Scanned], stamps: dict[str, _Stamp]) -> None:
    """Save the results of readable files. Rejected ones are read again: their format's reader may be installed then."""
    rows = [
        (os.fsencode(path), *stamps[path], *result)
        for path, (reason, *result) in fresh.items()
        if path in stamps and not reason
    ]
    with cache.database(_DATABASE, _FILES) as connection:
        connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
