"""Labels of windows of photos: the CSV file that `label.py` and the report write, as a source of images.

Each row is one answer: `path,x,y,width,height,label,time,by,chosen`. Answers are only appended. The last one of a
window counts; an empty label withdraws it. Windows are cut out of their photos into files in the
cache, without loss, so that digests, features, figures and exports need to know nothing of windows.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hairline.data import images, manifest, splits, tables
from hairline.data.folders import nfc, typed
from hairline.data.lookup import Lookup
from hairline.system import cache, files, progress
from hairline.system.errors import HairlineError

FILE, SESSION = "labels.csv", "session.json"
WINDOW = ("path", "x", "y", "width", "height")
COLUMNS = (*WINDOW, "label", "time", "by", "chosen")
RANDOM, SELECTED = "random", "selected"  # values of the column chosen
_NAME_LETTERS = 40  # of the photo, in the name of a window's file


class LabelError(HairlineError):
    """Labels that cannot be read, or are too few."""


def find(path: str) -> Path:
    """Return the CSV file of labels that a setting names: the file, or `labels.csv` in the folder."""
    place = typed(path)
    return place / FILE if place.is_dir() else place


def read(file: Path, *, history: bool = False) -> pd.DataFrame:
    """Read the labels that count: the last answer of each window, unless its label is empty.

    Args:
        file: CSV file with the columns `COLUMNS`; time, by and chosen may be missing. Paths are absolute or relative to
            the file.
        history: Return all rows instead, in which an empty label skips a window or withdraws its answer.

    Returns:
        The columns `COLUMNS`, in the order of the answers; paths are absolute, coordinates int64.

    Raises:
        ManifestError: If the file is no CSV table.
        LabelError: If a column is missing, a coordinate is not a whole number, or a window is empty or starts outside
            its photo.
    """
    listed = tables.read(file)
    columns = {name: listed.column(name) for name in COLUMNS}
    if lacking := [name for name in (*WINDOW, "label") if columns[name] is None]:
        has = manifest.printable(", ".join(listed.header)) or "none"
        raise LabelError(f"{file} lacks the column{'s' * (len(lacking) > 1)} {', '.join(lacking)}: it has {has}")
    empty = [""] * len(listed.rows)
    table = pd.DataFrame({name: columns[name] or empty for name in COLUMNS}, dtype=object)
    for name in WINDOW[1:]:
        numbers = pd.to_numeric(table[name], errors="coerce")
        wrong = np.flatnonzero(~(numbers >= (1 if name in ("width", "height") else 0)) | (numbers % 1 != 0))
        if wrong.size:
            raise LabelError(
                f"{file}, line {listed.lines[wrong[0]]}: {name} is {str(table[name].iloc[wrong[0]])!r}; expected a "
                "whole number of pixels of the photo"
            )
        table[name] = numbers.astype(np.int64)
    photos = Lookup(file.parent)
    texts = {
        "path": [os.path.normpath(photos.find(entry)) for entry in table["path"]],
        "label": map(nfc, table["label"]),
        "chosen": map(str.lower, table["chosen"]),
    }
    for name, values in texts.items():
        table[name] = pd.Series(list(values), index=table.index, dtype=object)
    if not history:
        table = table.drop_duplicates(list(WINDOW), keep="last")
        table = table[table["label"] != ""]
    return table[list(COLUMNS)].reset_index(drop=True)


def from_labels(*, path: str) -> pd.DataFrame:
    """List labelled windows as images: one file per window, grouped by photo; randomly chosen ones are the test split.

    Raises:
        LabelError: If there is no label, or a photo is missing or does not contain its window.
    """
    file = find(path)
    table = read(file)
    if table.empty:
        raise LabelError(f"{file} holds no label: answer at least two tiles of each class with label.py first")
    test = np.where(table["chosen"] == RANDOM, "test", "")
    columns = {"path": cut(table), "label": table["label"], "group": table["path"], "split": test}
    rows = pd.DataFrame(columns, dtype=object)
    return rows.sort_values("label", kind="stable", ignore_index=True)


def cut(table: pd.DataFrame) -> list[str]:
    """Cut windows out of their photos into PNG files in the cache; each photo is decoded once.

    Args:
        table: Columns `WINDOW`.

    Returns:
        The file of each window. It holds the pixels that `images.decode` gives for this part of the photo.

    Raises:
        LabelError: If a photo cannot be read, or does not contain its window.
    """
    photos, unreadable = manifest.scan(table[["path"]].drop_duplicates().assign(label=""))
    if len(unreadable):
        raise LabelError(
            f"{len(unreadable)} of the {table['path'].nunique()} labelled photos cannot be read:\n"
            f"{manifest.describe_rejected(unreadable)}\nMove them back, or correct their paths in the CSV file"
        )
    cache.hold(cache.folder("windows"))
    known: dict[str, Any] = {str(photo.path): photo for photo in photos.itertuples()}
    windows: Iterable[Any] = table[list(WINDOW)].itertuples(index=False)
    targets: list[str] = []
    missing: dict[str, list[tuple[Path, tuple[int, int, int, int]]]] = {}
    for row in windows:
        photo = known[row.path]
        if row.x + row.width > photo.width or row.y + row.height > photo.height:
            raise LabelError(
                f"{manifest.printable(row.path)} has {photo.width} x {photo.height} pixels, but a label names the "
                f"window x={row.x}, y={row.y}, {row.width} x {row.height}: the photo was replaced after labelling"
            )
        name = f"{Path(row.path).stem[:_NAME_LETTERS]}_x{row.x}_y{row.y}_{row.width}x{row.height}.png"
        target = cache.folder("windows", f"{photo.sha256[:32]}-{images.VERSION}") / name
        targets.append(str(target))
        if not target.is_file():
            missing.setdefault(row.path, []).append((target, (row.x, row.y, row.x + row.width, row.y + row.height)))

    for folder in {Path(target).parent for target in targets}:
        cache.touch(folder)

    def save(path: str) -> None:
        picture = images.upright_file(path, known[path].sha256)
        for target, box in missing[path]:
            files.write_bytes(target, images.encoded(picture.crop(box), "PNG", compress_level=3))

    progress.in_threads(lambda paths: [*map(save, paths)], [*missing], "cut windows", "photos", chunk=1)
    return targets


def divide(table: pd.DataFrame, *, seed: int, **shares: float) -> pd.DataFrame:
    """Fill the column `split` as `splits.split` does, by `shares` of the splits; the test split may lack a class.

    Randomly chosen windows are the test split, and cracks may be rare among them. Photos stay together in training and
    validation, unless a class occurs in too few photos.

    Raises:
        LabelError: If a class has fewer than two windows outside the test split.
    """
    given = bool((table["split"] == "test").any())
    fitted = table[table["split"] != "test"]
    counts = {name: int((fitted["label"] == name).sum()) for name in sorted(table["label"].unique())}
    if min(counts.values()) < (fewest := 2 if given else 3):
        listed = ", ".join(f"{manifest.printable(name)} {count}" for name, count in counts.items())
        raise LabelError(
            f"too few labels: {listed}{' besides the randomly chosen test tiles' if given else ''}; expected at least "
            f"{fewest} of each class. Label more tiles"
        )
    try:
        return splits.split(table, **shares, seed=seed, whole_test=not given)
    except splits.SplitError:
        single = table.assign(group=[str(row) for row in range(len(table))])
        return table.assign(split=splits.split(single, **shares, seed=seed, whole_test=not given)["split"])


def share(path: str) -> float | None:
    """Return the share of the positive class among all tiles, as the labelling session estimated it; None: unknown."""
    value = _session(find(path)).get("share")
    return float(value) if isinstance(value, int | float) and 0 < value < 1 else None


def describe(path: str) -> dict[str, str]:
    """Return parameters of a run on labels: their number, the digest of the file, how windows were selected."""
    file = find(path)
    table = read(file)
    return {
        "labels.count": str(len(table)),
        "labels.random": str(int((table["chosen"] == RANDOM).sum())),
        "labels.digest": hashlib.sha256(file.read_bytes()).hexdigest()[:16],
        "labels.selection": str(_session(file).get("selection", "by hand")),
    }


def _session(file: Path) -> dict[str, Any]:
    """Return what the labelling session stored beside its answers; empty if there was none."""
    try:
        values = json.loads((file.parent / SESSION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
