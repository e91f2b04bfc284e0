"""Sources: each turns what the user has into the first rows of a manifest.

A source is a function from the keys of its configuration group to a data frame with the columns path and label, and
group and split where it knows them. Rows come in natural file order, classes in the order of their names.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from hairline.config import unknown
from hairline.data import download, images, manifest, synthetic
from hairline.system import cache
from hairline.system.errors import HairlineError

log = logging.getLogger(__name__)

# Names of the class that is looked for, most specific first; compared in lower case.
POSITIVE_NAMES = ("cracked", "crack", "cracks", "positive", "pos", "with_crack", "defect", "defective", "damaged")

_SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
_CLUTTER = {"thumbs.db", "desktop.ini", "icon\r"}  # what operating systems leave in picture folders


class SourceError(HairlineError):
    """A source that yields no usable images."""


def from_synthetic(*, count: int, size: int, classes: int, generator_seed: int) -> pd.DataFrame:
    """Draw concrete-like patches once, into the cache, and list them."""
    name = f"v{synthetic.GENERATOR_VERSION}-{generator_seed}-{count}x{size}-{classes}"
    target = cache.folder("synthetic") / name
    synthetic.render(target, count=count, size=size, seed=generator_seed, classes=classes)
    return from_folder(path=str(target))


def from_folder(*, path: str) -> pd.DataFrame:
    """List a folder with one sub-folder a class, or with train/val/test folders of those.

    Raises:
        SourceError: If there are no class folders, or no files in them.
    """
    root = Path(path).expanduser().absolute()
    children = _subfolders(root)
    splits = {child: _SPLIT_FOLDERS.get(child.name.lower()) for child in children}
    if children and all(splits.values()):
        pairs = [(split, folder) for child, split in splits.items() for folder in _subfolders(child)]
    else:
        pairs = [("", folder) for folder in children]
    names = {folder.name for _, folder in pairs}
    if not names:
        require_two_classes(names, path, from_table=False)
    _refuse_no_text(names, f"{root} holds the class folder", "rename it")
    rows = [(str(file), folder.name, split) for split, folder in pairs for file in list_files(folder)]
    if not rows:
        raise SourceError(f"{root} holds no files in its class folders {', '.join(sorted(names))}")
    _tell_of_left_out([root] if not pairs[0][0] else [root, *children], names - {label for _, label, _ in rows})
    return pd.DataFrame(rows, columns=["path", "label", "split"], dtype=object)


def from_manifest(*, path: str) -> pd.DataFrame:
    """Read a CSV file with the columns path and label, optionally group and split; paths are relative to it.

    Raises:
        SourceError: If a label is empty or a split is not one of train, val, test.
    """
    file = Path(path).expanduser().absolute()
    table = manifest.read(file, required=("path", "label"))
    for name in ("group", "split"):
        table[name] = table[name].str.strip() if name in table else ""
    table["label"] = table["label"].str.strip()
    # Line numbers as an editor shows them: the header is line 1.
    if (unlabelled := np.flatnonzero(table["label"] == "")).size:
        raise SourceError(f"{file}, line {unlabelled[0] + 2}: the label is empty ({unlabelled.size} such rows)")
    table["split"] = [_SPLIT_FOLDERS.get(name.lower(), name) for name in table["split"]]
    odd = np.flatnonzero(~table["split"].isin([*manifest.SPLITS, ""]))
    if odd.size:
        raise SourceError(
            f"{file}, line {odd[0] + 2}: split is {table['split'].iloc[odd[0]]!r}; expected train, val, test or nothing"
        )
    _refuse_no_text(table["label"], f"{file} holds the label", "save the file as UTF-8")
    if table.empty:
        require_two_classes(set(), path, from_table=True)
    places = [os.path.normpath(file.parent / entry) for entry in table["path"]]
    table["path"] = pd.Series(places, index=table.index, dtype=object)
    if table["path"].duplicated().any():
        twice = table.loc[table["path"].duplicated(), "path"].iloc[0]
        raise SourceError(f"{file} lists {manifest.printable(twice)} more than once: keep one row an image")
    return table[["path", "label", "group", "split"]].sort_values("label", kind="stable", ignore_index=True)


def from_concrete_cracks(*, path: str | None) -> pd.DataFrame:
    """List *Concrete Crack Images for Classification*: a folder or archive that is there, or else a download."""
    source = Path(path).expanduser().absolute() if path else None
    if source is not None and source.is_dir():
        return from_folder(path=str(download.find_classes(source, ("Negative", "Positive"))))
    root = download.install(download.CONCRETE_CRACKS, cache.folder("datasets"), source=source)
    return from_folder(path=str(download.find_classes(root, ("Negative", "Positive"))))


SOURCES: dict[str, Callable[..., pd.DataFrame]] = {
    "synthetic": from_synthetic,
    "folder": from_folder,
    "manifest": from_manifest,
    "concrete_cracks": from_concrete_cracks,
}


def faults(source: str, path: str | None) -> Iterator[str]:
    """Yield every fault of `data.source` and `data.path`; no image is opened."""
    if source not in SOURCES:
        yield unknown("data.source", source, SOURCES)
    if path is None or not path.strip():  # config reports empty texts
        return
    place = Path(path).expanduser()
    if not place.exists():
        yield f"data.path={path!r}: nothing is there (looked for {place.absolute()})"
    elif source == "folder" and not place.is_dir():
        yield f"data.path={path!r}: expected a folder with one sub-folder a class; for a CSV file use data=manifest"
    elif source == "manifest" and not place.is_file():
        yield f"data.path={path!r}: expected a CSV file; for a folder of images use data=folder"


def subsample(rows: pd.DataFrame, limit: int | None, seed: int) -> pd.DataFrame:
    """Keep `limit` rows, drawn evenly from the classes; the order and the index of the rest are kept."""
    if limit is None or limit >= len(rows):
        return rows
    generator = np.random.default_rng([seed, 0x11317])
    shuffled = rows.iloc[generator.permutation(len(rows))]
    rank = shuffled.groupby("label").cumcount()  # 0 for the first row of each class, 1 for the second, ...
    return shuffled.iloc[np.argsort(rank.to_numpy(), kind="stable")[:limit]].sort_index()


def rename_classes(rows: pd.DataFrame, class_map: dict[str, str]) -> pd.DataFrame:
    """Give classes other names.

    Args:
        rows: With the column label.
        class_map: New name of each class that gets one; two classes may become one.

    Raises:
        SourceError: If neither a class that is to be renamed nor its new name occurs. One map serves several sets, of
            which some have the new names already.
    """
    if not class_map:
        return rows
    present = sorted(set(rows["label"]))
    if absent := sorted(name for name in class_map if not {name, class_map[name]} & set(present)):
        raise SourceError(
            f"data.class_map names {', '.join(absent)}: no such class; the classes are {', '.join(present)}"
        )
    names = [class_map.get(name, name) for name in rows["label"]]
    return rows.assign(label=pd.Series(names, index=rows.index, dtype=object))


def case_variants(labels: Iterable[str]) -> list[list[str]]:
    """Give the classes whose names differ in the case of their letters alone, together.

    >>> case_variants(["Cracked", "sound", "cracked"])
    [['Cracked', 'cracked']]
    """
    found: dict[str, list[str]] = {}
    for name in sorted(set(labels)):
        found.setdefault(name.casefold(), []).append(name)
    return [names for names in found.values() if len(names) > 1]


def require_two_classes(names: set[str], path: str | None, *, from_table: bool, excluded_by: str = "") -> None:
    """Refuse what no classifier can be trained on; a set of one class can be evaluated.

    Args:
        names: All classes.
        path: Of the source; None where it has none.
        from_table: Whether the classes stand in a CSV file, not in folders.
        excluded_by: Settings that may have left classes out; empty where there are none.

    Raises:
        SourceError: If there are fewer than two classes; it says how to lay them out.
    """
    if len(names) > 1:
        return
    place = Path(path or "data").expanduser().absolute()
    nothing, expected = "no images", "at least two classes in the column label"
    if not from_table:
        nothing = "no class folders"
        expected = (
            f"one sub-folder for each of at least two classes (such as {place.name}/cracked and "
            f"{place.name}/uncracked), or train, val and test folders of those"
        )
    held = f"only the class {next(iter(names))!r}" if names else nothing
    if names and excluded_by:
        raise SourceError(
            f"{excluded_by} leaves {held} of {place if path else 'the data'}: expected at least two classes"
        )
    raise SourceError(f"{place if path else 'the data'} holds {held}: expected {expected}")


def class_map_hint(found: Sequence[str], expected: Sequence[str]) -> str:
    """Write the setting that gives the classes of a set the names a model knows, as far as they tell by themselves.

    >>> class_map_hint(["cracked", "uncracked"], ["Negative", "Positive"])
    "'data.class_map={cracked: Positive, uncracked: Negative}'"
    >>> class_map_hint(["intact", "Positive"], ["Negative", "Positive"])
    "'data.class_map={intact: Negative}'"
    >>> class_map_hint(["a", "b"], ["Negative", "Positive"])
    "'data.class_map={a: <Negative or Positive>, b: <Negative or Positive>}'"
    """
    other = [name for name in found if name not in expected]
    free = [name for name in expected if name not in found]
    cracked = positive_class(list(found), None), positive_class(list(expected), None)
    if len(other) == len(free) == 2 and None not in cracked:
        other, free = (sorted(names, key=lambda name: name in cracked) for names in (other, free))
    elif len(other) > 1 or len(free) != 1:
        free = [f"<{' or '.join(expected)}>"] * len(other)
    pairs = sorted(zip(other, free, strict=True))
    return f"'data.class_map={{{', '.join(f'{name}: {known}' for name, known in pairs)}}}'"


def positive_class(class_names: list[str], named: str | None) -> str | None:
    """Say which class precision, recall and thresholds refer to.

    Args:
        class_names: All classes.
        named: The user's choice; None guesses from well-known names.

    Returns:
        The name, or None with more than two classes, or where no name is known: metrics are then macro averages.

    Raises:
        SourceError: If the user's choice is no class.
    """
    if named is not None and named not in class_names:
        raise SourceError(f"data.positive_class={named}: no such class; the classes are {', '.join(class_names)}")
    if len(class_names) != 2 or named is not None:
        return named if len(class_names) == 2 else None
    by_name = {name.lower(): name for name in class_names}
    return next((by_name[name] for name in POSITIVE_NAMES if name in by_name), None)


def _tell_of_left_out(parents: list[Path], empty: set[str]) -> None:
    """Warn of images that lie beside the class folders, so have no class, and of class folders without files."""
    loose = [entry for place in parents for entry in place.iterdir() if entry.suffix.lower() in images.SUFFIXES]
    if loose:
        log.warning(
            "WARNING: %s image%s in no class folder and %s left out, such as %s",
            f"{len(loose):,}",
            " lies" if len(loose) == 1 else "s lie",
            "is" if len(loose) == 1 else "are",
            manifest.printable(str(min(loose))),
        )
    if empty:
        log.warning(
            "WARNING: no files for the class %s: it is left out", ", ".join(map(manifest.printable, sorted(empty)))
        )


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(
            (entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")), key=natural_key
        )
    except OSError as error:
        raise SourceError(f"{folder} cannot be listed: {error.strerror}") from error


def list_files(folder: Path) -> Iterator[Path]:
    """Yield all files below a class folder in natural order; each real folder once, so that link loops end."""

    def refuse(error: OSError) -> None:  # what cannot be listed must not be missing in silence
        raise SourceError(f"{manifest.printable(str(error.filename))} cannot be listed: {error.strerror}") from error

    seen: set[str] = set()
    for current, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(current)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural_key)
        for name in sorted(files, key=natural_key):
            if not name.startswith(".") and name.lower() not in _CLUTTER:
                yield Path(current, name)


def natural_key(name: str | Path) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key that puts 2.jpg before 10.jpg; file order matters, as neighbours often come from one photo."""
    text = name.name if isinstance(name, Path) else name
    parts = re.split(r"([0-9]+)", text.lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts], text


def _refuse_no_text(names: Iterable[str], where: str, advice: str) -> None:
    """Refuse class names with bytes that are not UTF-8: they go into tables, figures and stores that take text only."""
    odd = sorted(name for name in set(names) if any("\ud800" <= char <= "\udfff" for char in name))
    if odd:
        raise SourceError(f"{where} {manifest.printable(odd[0])!r}, which is not UTF-8: {advice}")
