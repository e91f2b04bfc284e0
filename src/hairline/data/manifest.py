"""The manifest: one row an image, made by a source, filled in by scanning and splitting, read by all else.

A manifest is a pandas data frame with the columns `COLUMNS`; on disk it is a CSV file. `path` is absolute, `label`
the class name, `group` names images that belong together (empty: none known), `split` is train, val, test or empty,
`width` and `height` are in pixels right side up, `sha256` is the digest of the file's bytes. Text columns are of
dtype object: pandas' own text type cannot hold file names that are not UTF-8.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from hairline.data import duplicates, images
from hairline.system import cache, files, progress
from hairline.system.errors import HairlineError

_Found = tuple[str, int, int, str, int]  # sha256, width, height, reason of rejection ("" = readable), perceptual hash

COLUMNS = ("path", "label", "group", "split", "width", "height", "sha256")
_OWN_NAMES = {name: name for name in COLUMNS[:4]}  # what users' files name, in whatever case
SPLITS = ("train", "val", "test")
_CHUNK = 32  # files a task: threads that hand over after every file wait for each other


class ManifestError(HairlineError):
    """Images or labels that no manifest can be made of."""


def scan(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read every file once: its digest, its size, its perceptual hash, and whether it is a whole image.

    What was read is remembered by path, size and time of the last change, so that a second scan opens no file.

    Args:
        rows: Columns path and label, optionally group and split; the index is kept.

    Returns:
        The manifest of the readable images, with the further column phash (perceptual hash, uint64), and the rejected
        files with the columns path, label, reason.
    """
    paths = [Path(path) for path in rows["path"]]
    known, stamps = _remembered(paths)
    unread = [path for path in paths if str(path) not in known]
    fresh: dict[str, _Found] = {}
    if unread:
        chunks = [unread[start : start + _CHUNK] for start in range(0, len(unread), _CHUNK)]
        with ThreadPoolExecutor() as pool, progress.bar(len(unread), "check images", "img") as shown:
            for chunk, results in zip(chunks, pool.map(_inspect, chunks), strict=True):
                fresh |= {str(path): result for path, result in zip(chunk, results, strict=True)}
                shown.update(len(chunk))
        _remember(fresh, stamps)
    known |= fresh
    found = [known[str(path)] for path in paths]
    names = ["sha256", "width", "height", "reason", "phash"]
    table = pd.DataFrame(found, columns=names, index=rows.index, dtype=object)
    table = table.astype({"width": np.int64, "height": np.int64, "phash": np.int64}).astype({"phash": np.uint64})
    table = rows.assign(**{name: "" for name in ("group", "split") if name not in rows}).join(table)
    readable = table["reason"] == ""
    return table.loc[readable, [*COLUMNS, "phash"]], table.loc[~readable, ["path", "label", "reason"]]


def check_labels(manifest: pd.DataFrame) -> None:
    """Refuse a manifest in which the same bytes carry two labels.

    Raises:
        ManifestError: Naming two of the files and how many there are.
    """
    labels = manifest.groupby("sha256")["label"].nunique()
    contradicted = labels.index[labels > 1]
    if len(contradicted) == 0:
        return
    first = manifest[manifest["sha256"] == contradicted[0]].drop_duplicates("label")
    one, two = first.iloc[0], first.iloc[1]
    raise ManifestError(
        f"the same image carries two labels: {printable(one['path'])} is {one['label']!r} and "
        f"{printable(two['path'])} is {two['label']!r}"
        + (f", and {len(contradicted) - 1} more images likewise" if len(contradicted) > 1 else "")
        + ": delete the wrong copy of each"
    )


def check_rejected(rejected: pd.DataFrame, total: int, max_rejected: float) -> None:
    """Stop when more files were rejected than the user allows.

    Raises:
        ManifestError: Naming up to five files with their reasons.
    """
    if len(rejected) <= max_rejected * total:
        return
    raise ManifestError(
        f"{len(rejected)} of {total} files are not readable images ({len(rejected) / total:.1%}; "
        f"data.max_rejected allows {max_rejected:.1%}):\n{describe_rejected(rejected)}\n"
        "mend or remove them, or raise data.max_rejected"
    )


def describe_rejected(rejected: pd.DataFrame, most: int = 5) -> str:
    """Name the first rejected files, a line each."""
    lines = [f"  {printable(str(row.path))}: {row.reason}" for row in rejected.head(most).itertuples()]
    if len(rejected) > most:
        lines.append(f"  and {len(rejected) - most} more")
    return "\n".join(lines)


def printable(path: str) -> str:
    """Give a path so that it can be printed on one line, whatever its bytes."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(path))


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV (UTF-8; undecodable bytes of file names survive), in one step.

    Args:
        table: A manifest, or the table of rejected files.
        path: The file; it is replaced when it exists.
    """
    with files.atomic(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        # quoting=1 (all): a bare carriage return in a file name would otherwise be read as the end of a line.
        table.to_csv(file, index=False, quoting=1, lineterminator="\n")


def read(path: Path, required: Iterable[str] = COLUMNS) -> pd.DataFrame:
    """Read a CSV table; every column but width and height is text, and nothing is taken for a missing value.

    Args:
        path: A file that `write` wrote, or that the user made.
        required: Columns that must be there.

    Raises:
        ManifestError: If the file is no such table.
    """
    try:
        with path.open("rb") as raw:
            if raw.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                raise ManifestError(f"{path} is encoded as UTF-16: save it as UTF-8 (in Excel: CSV UTF-8)")
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            # Not by pandas: it takes the first column of rows that are too long for an index, and moves the others.
            reader = csv.reader(file, strict=True)
            header = [_OWN_NAMES.get(name.strip().lower(), name) for name in next(filter(None, reader), [])]
            rows = []
            for row in reader:
                if len(row) == len(header):
                    rows.append(row)
                elif row:
                    raise ManifestError(
                        f"{path}, line {reader.line_num}: {len(row)} fields where the first line names {len(header)} "
                        "columns; a text that holds a comma stands in double quotes"
                    )
    except (OSError, csv.Error) as error:
        raise ManifestError(f"{path} cannot be read as a CSV table: {error}") from error
    missing = [name for name in required if name not in header]
    if missing or len(set(header)) < len(header):
        fault = (
            f"lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}" if missing else "names a column twice"
        )
        other = next((mark for mark in ";\t|" if mark in "".join(header)), None)
        advice = "the first line must name the columns"
        if other is not None:
            advice += f", with commas between them, not {other!r}"
        raise ManifestError(f"{path} {fault}: it has {printable(', '.join(header)) or 'none'}; {advice}")
    table = pd.DataFrame(rows, columns=header, dtype=object)
    for name in {"width", "height"} & set(header):
        try:
            table[name] = table[name].astype(np.int64)
        except (ValueError, OverflowError) as error:
            raise ManifestError(f"{path}, column {name}: expected whole numbers of pixels ({error})") from error
    return table


def digest(manifest: pd.DataFrame) -> str:
    """Digest what a manifest says of the images: bytes, labels and splits, not where they lie.

    Returns:
        Sixteen hexadecimal digits; the order of the rows does not matter.
    """
    rows = sorted(zip(manifest["sha256"], manifest["label"], manifest["split"], strict=True))
    return hashlib.sha256(repr(rows).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _inspect(files: list[Path]) -> list[_Found]:
    """Give what there is to know of some files."""
    found, pictures = zip(*map(_read, files), strict=True)
    hashes = duplicates.perceptual_hashes(np.stack(pictures)).view(np.int64)  # SQLite's whole numbers are signed
    return [(*about, phash) for about, phash in zip(found, hashes.tolist(), strict=True)]


def _read(path: Path) -> tuple[tuple[str, int, int, str], np.ndarray]:
    """Give digest, width, height and reason of rejection ("" = readable) of one file, and what its hash is made of."""
    nothing = np.zeros(duplicates.SHAPE, np.uint8)
    if path.suffix.lower() not in images.SUFFIXES:
        return ("", 0, 0, f"no image by its name: expected one of {', '.join(sorted(images.SUFFIXES))}"), nothing
    try:
        content = images.read(path)
        width, height, thumbnail = images.inspect(content, duplicates.THUMBNAIL)
    except images.ImageError as error:
        return ("", 0, 0, str(error)), nothing
    return (hashlib.sha256(content).hexdigest(), width, height, ""), duplicates.shrink(thumbnail)


# --- what earlier scans read --------------------------------------------------------------------------------------


# Besides size and time of change (mtime), which copying tools restore, the time of the entry's change (ctime).
_FILES = (
    "CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, "
    "sha256 TEXT, width INTEGER, height INTEGER, reason TEXT, phash INTEGER) WITHOUT ROWID"
)
_Stamp = tuple[int, int, int]


def _remembered(paths: list[Path]) -> tuple[dict[str, _Found], dict[str, _Stamp]]:
    """Give what is known of files that did not change, and the stamps of those to be read."""
    stamps: dict[str, _Stamp] = {}
    for path in paths:
        try:
            stat = path.stat()
        except (OSError, ValueError):
            continue  # gone, unreadable, or a NUL in the name: `_inspect` says so
        stamps[str(path)] = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    known = {}
    with cache.database("files-3.sqlite", _FILES) as connection:
        query = "SELECT size, mtime_ns, ctime_ns, sha256, width, height, reason, phash FROM files WHERE path = ?"
        for name, stamp in stamps.items():
            row = connection.execute(query, (os.fsencode(name),)).fetchone()
            if row is not None and row[:3] == stamp:
                known[name] = row[3:]
    return known, stamps


def _remember(fresh: dict[str, _Found], stamps: dict[str, _Stamp]) -> None:
    rows = [(os.fsencode(path), *stamps[path], *result) for path, result in fresh.items() if path in stamps]
    with cache.database("files-3.sqlite", _FILES) as connection:
        connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
