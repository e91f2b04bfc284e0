"""Sources: read the user's images as the first rows of a manifest.

A source is a function from the settings of its configuration group to a table with the columns `ROW_COLUMNS`: path,
label, and group and split where the source knows them (else empty). Files come in natural order, classes by name.
A layout is a function from a folder to its class folders, or None if the folder is laid out otherwise; the first of
`_LAYOUTS` that matches is used.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from hairline.config import unknown
from hairline.data import download, folders, labels, manifest, synthetic
from hairline.data.folders import Folder
from hairline.system import cache
from hairline.system.errors import HairlineError

log = logging.getLogger(__name__)

ROW_COLUMNS = manifest.COLUMNS[:4]
# Names of the positive class, most specific first; compared in lower case.
POSITIVE_NAMES = ("cracked", "crack", "cracks", "positive", "pos", "with_crack", "defect", "defective", "damaged")

_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
_ClassFolders = list[tuple[str, Folder]]  # split (or empty) and folder of each class


class SourceError(HairlineError):
    """A source without usable images."""


# --- sources ----------------------------------------------------------------------------------------------------------


def from_synthetic(*, count: int, size: int, classes: int, generator_seed: int) -> pd.DataFrame:
    """Draw concrete-like patches into the cache, unless they are there, and list them."""
    name = f"v{synthetic.GENERATOR_VERSION}-{generator_seed}-{count}x{size}-{classes}"
    target = cache.folder("synthetic") / name
    cache.hold(target)
    synthetic.render(target, count=count, size=size, seed=generator_seed, classes=classes)
    return from_folder(path=str(target))


def from_folder(*, path: str) -> pd.DataFrame:
    """List a folder with one subfolder per class, or with train, val and test folders of those.

    Raises:
        SourceError: If there are no class folders, or no files in them.
    """
    root = Path(path).expanduser().absolute()
    tree = folders.read(root)
    class_folders = next(found for layout in _LAYOUTS if (found := layout(tree)) is not None)
    names = {folder.name for _, folder in class_folders}
    if not names:
        require_two_classes(names, path, from_table=False)
    _require_text(names, f"{root} holds the class folder", "rename it")
    rows = [(str(file), folder.name, "", split) for split, folder in class_folders for file in folder.all_files()]
    if not rows:
        raise SourceError(f"{root} holds no files in its class folders {', '.join(sorted(names))}")
    read = {id(folder) for _, folder in class_folders}
    parents = [folder for folder in (tree, *tree.folders) if id(folder) not in read]
    folders.log_skipped(tree.skipped)
    _warn_of_skipped(parents, names - {label for _, label, _, _ in rows})
    return pd.DataFrame(rows, columns=ROW_COLUMNS, dtype=object)


def from_manifest(*, path: str) -> pd.DataFrame:
    """Read a CSV file with the columns path and label, optionally group and split; paths are relative to the file.

    Raises:
        SourceError: If a label is empty, a split is unknown, or a path occurs twice.
    """
    file = Path(path).expanduser().absolute()
    table = manifest.read(file, required=("path", "label"))
    for name in ("label", "group", "split"):
        table[name] = table[name].str.strip() if name in table else ""
    # Line numbers as in an editor: the header is line 1.
    if (unlabelled := np.flatnonzero(table["label"] == "")).size:
        raise SourceError(f"{file}, line {unlabelled[0] + 2}: the label is empty ({unlabelled.size} such rows)")
    table["split"] = [_SPLIT_NAMES.get(name.lower(), name) for name in table["split"]]
    if (unknown_splits := np.flatnonzero(~table["split"].isin([*manifest.SPLITS, ""]))).size:
        row = unknown_splits[0]
        raise SourceError(
            f"{file}, line {row + 2}: split is {table['split'].iloc[row]!r}; expected train, val, test or nothing"
        )
    _require_text(table["label"], f"{file} holds the label", "save the file as UTF-8")
    if table.empty:
        require_two_classes(set(), path, from_table=True)
    absolute = [os.path.normpath(file.parent / entry) for entry in table["path"]]
    table["path"] = pd.Series(absolute, index=table.index, dtype=object)
    if (repeated := table["path"].duplicated()).any():
        twice = manifest.printable(table.loc[repeated, "path"].iloc[0])
        raise SourceError(f"{file} lists {twice} more than once: keep one row per image")
    return table[list(ROW_COLUMNS)].sort_values("label", kind="stable", ignore_index=True)


def from_concrete_cracks(*, path: str | None) -> pd.DataFrame:
    """List *Concrete Crack Images for Classification* (METU) from the user's folder or archive, or download it."""
    source = Path(path).expanduser().absolute() if path else None
    if source is not None and source.is_dir():
        root = download.find_classes(source, download.CONCRETE_CRACKS.class_names)
    else:
        home = cache.folder("datasets")
        cache.hold(home / download.CONCRETE_CRACKS.name)
        root = download.install(download.CONCRETE_CRACKS, home, source=source)
    return from_folder(path=str(root))


SOURCES: dict[str, Callable[..., pd.DataFrame]] = {
    "synthetic": from_synthetic,
    "folder": from_folder,
    "manifest": from_manifest,
    "labels": labels.from_labels,
    "concrete_cracks": from_concrete_cracks,
}


def faults(source: str, path: str | None) -> Iterator[str]:
    """Yield every fault of `data.source` and `data.path`; opens no image."""
    if source not in SOURCES:
        yield unknown("data.source", source, SOURCES)
    if path is None or not path.strip():  # config reports empty texts
        return
    place = Path(path).expanduser()
    if not place.exists():
        yield f"data.path={path!r}: nothing is there (looked for {place.absolute()})"
    elif source == "folder" and not place.is_dir():
        yield f"data.path={path!r}: expected a folder with one subfolder per class; for a CSV file use data=manifest"
    elif source == "manifest" and not place.is_file():
        yield f"data.path={path!r}: expected a CSV file; for a folder of images use data=folder"
    elif source == "labels" and not labels.find(path).is_file():
        yield f"data.path={path!r}: expected a CSV file of labels, or a folder with {labels.FILE}; label.py writes one"


# --- layouts of folders -----------------------------------------------------------------------------------------------


def _split_folders(root: Folder) -> _ClassFolders | None:
    """Return <split>/<class> folders if all subfolders are named after splits."""
    splits = [_SPLIT_NAMES.get(child.name.lower(), "") for child in root.folders]
    if not splits or not all(splits):
        return None
    return [(split, folder) for split, child in zip(splits, root.folders, strict=True) for folder in child.folders]


def _class_folders(root: Folder) -> _ClassFolders:
    """Return <class> folders."""
    return [("", folder) for folder in root.folders]


_LAYOUTS: tuple[Callable[[Folder], _ClassFolders | None], ...] = (_split_folders, _class_folders)


def _warn_of_skipped(parents: Iterable[Folder], empty: set[str]) -> None:
    """Log a warning about images beside the class folders, which have no class, and about empty class folders."""
    loose = [str(file) for parent in parents for file in parent.files if folders.is_image(file)]
    if loose:
        count = f"{len(loose):,} image{' lies' if len(loose) == 1 else 's lie'}"
        log.warning("WARNING: %s outside the class folders (skipped): %s", count, manifest.printable(min(loose)))
    if empty:
        names = ", ".join(map(manifest.printable, sorted(empty)))
        log.warning("WARNING: no files for the class %s (skipped)", names)


def _require_text(names: Iterable[str], where: str, advice: str) -> None:
    """Raise if a class name is not UTF-8: tables, figures and MLflow accept text only."""
    undecodable = sorted(name for name in set(names) if any("\ud800" <= char <= "\udfff" for char in name))
    if undecodable:
        raise SourceError(f"{where} {manifest.printable(undecodable[0])!r}, which is not UTF-8: {advice}")


# --- rows and classes -------------------------------------------------------------------------------------------------


def subsample(rows: pd.DataFrame, limit: int | None, seed: int) -> pd.DataFrame:
    """Draw `limit` rows evenly from the classes, in their original order; None keeps all rows."""
    if limit is None or limit >= len(rows):
        return rows
    generator = np.random.default_rng([seed, 0x11317])
    shuffled = rows.iloc[generator.permutation(len(rows))]
    rank = shuffled.groupby("label").cumcount()  # 0 for the first row of each class, 1 for the second, ...
    return shuffled.iloc[np.argsort(rank.to_numpy(), kind="stable")[:limit]].sort_index()


def rename_classes(rows: pd.DataFrame, class_map: dict[str, str]) -> pd.DataFrame:
    """Rename classes.

    Args:
        rows: With the column label.
        class_map: Old to new names; two classes may become one.

    Raises:
        SourceError: If neither the old nor the new name of a class occurs. (One map serves several datasets, of which
            some may have the new names already.)
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
    """Return groups of classes whose names differ in upper and lower case only.

    >>> case_variants(["Cracked", "sound", "cracked"])
    [['Cracked', 'cracked']]
    """
    variants: dict[str, list[str]] = {}
    for name in sorted(set(labels)):
        variants.setdefault(name.casefold(), []).append(name)
    return [names for names in variants.values() if len(names) > 1]


def require_two_classes(names: set[str], path: str | None, *, from_table: bool, excluded_by: str = "") -> None:
    """Raise if there are fewer than two classes, which a classifier cannot be trained on (but evaluated on).

    Args:
        names: All classes.
        path: Of the source; None if it has none.
        from_table: Whether the classes come from a CSV file instead of folders.
        excluded_by: Settings that may have excluded classes; empty if none.

    Raises:
        SourceError: With the expected layout.
    """
    if len(names) > 1:
        return
    place = Path(path or "data").expanduser().absolute()
    received = "no images" if from_table else "no class folders"
    if names:
        received = f"only the class {next(iter(names))!r}"
    expected = "at least two classes in the column label"
    if names and excluded_by:
        expected = f"at least two classes; {excluded_by} excludes the others"
    elif not from_table:
        expected = (
            f"one subfolder for each of at least two classes (for example {place.name}/cracked and "
            f"{place.name}/uncracked), or train, val and test folders of those"
        )
    raise SourceError(f"{place if path else 'the data'} holds {received}: expected {expected}")


def class_map_hint(found: Sequence[str], expected: Sequence[str]) -> str:
    """Return the setting that renames the classes of a dataset to those of a model, guessed where names are clear.

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
    """Return the class that precision, recall and thresholds refer to.

    Args:
        class_names: All classes.
        named: The user's choice; None guesses from well-known names.

    Returns:
        The name; None with more than two classes or without a well-known name: metrics are then macro averages.

    Raises:
        SourceError: If `named` is not a class.
    """
    if named is not None and named not in class_names:
        raise SourceError(f"data.positive_class={named}: no such class; the classes are {', '.join(class_names)}")
    if len(class_names) != 2 or named is not None:
        return named if len(class_names) == 2 else None
    by_name = {name.lower(): name for name in class_names}
    return next((by_name[name] for name in POSITIVE_NAMES if name in by_name), None)
