"""Sources: read the user's images as the first rows of a manifest.

A source is a function from the settings of its configuration group to a table with the columns `ROW_COLUMNS`: path,
label, and group and split where the source knows them (else empty). Files come in natural order, classes by name.
Names of classes, groups and splits are in NFC. `data/layouts.py` knows what folders mean, `data/exports.py` reads what
labelling programs write, `data/tables.py` reads CSV files.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from hairline.config import commands, unknown
from hairline.config.schema import ClassFrom
from hairline.data import clutter, download, exports, folders, labels, layouts, manifest, synthetic, tables
from hairline.data.classes import is_known_name, require_two_classes
from hairline.data.folders import Folder, nfc
from hairline.data.layouts import Layout, split_named
from hairline.data.lookup import Lookup
from hairline.system import cache
from hairline.system.errors import HairlineError, QuestionError

log = logging.getLogger(__name__)

ROW_COLUMNS = manifest.COLUMNS[:4]
_ARCHIVES = (".zip", ".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".001")


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


def from_folder(*, path: str, class_from: ClassFrom = "auto", images: str | None = None) -> pd.DataFrame:
    """List a folder with one subfolder per class, with splits of those, or with the export of a labelling program.

    Args:
        path: The folder.
        class_from: What the class of an image is named after (`layouts.read`).
        images: Folder that is searched for the images of an export; None: `path`.

    Raises:
        QuestionError: If the folders can mean several things.
        SourceError: If there are no class folders, or no files in them.
    """
    root, elsewhere = folders.typed(path), None if images is None else folders.typed(images)
    tree = folders.read(root)
    folders.log_skipped(tree.skipped)
    if listed := _exports(layouts.unwrapped(tree)):
        return pd.concat([_from_export(exports.read(file), file, elsewhere) for file in listed], ignore_index=True)
    layout = layouts.read(tree, class_from)
    names = {entry.label for entry in layout.classes}
    found = [file for file in tree.files if exports.is_export(file)]
    if found and not names:
        return _from_only(found, elsewhere)
    if images is not None:
        raise SourceError(f"data.images={images}: {root} holds no export of a labelling program; leave it out")
    if not layout.is_plain:
        log.info("folders as they are read (data.class_from=%s):\n%s", class_from, layout.draw())
    packed = [file.name for file in tree.files if file.suffix.lower() in _ARCHIVES]
    if packed and not names:
        raise SourceError(
            f"{root} holds {len(packed)} archive{'s' * (len(packed) > 1)} ({', '.join(packed[:3])}) and no class "
            "folders: unpack them there, side by side"
        )
    if all(map(layouts.is_images, names)) and not found:
        _ask_for_list(root, tree)
    if not names:
        require_two_classes(names, path, from_table=False)
    _require_text(names, f"{root} holds the class folder", "rename it")
    rows = [(str(file), entry.label, "", entry.split) for entry in layout.classes for file in layout.files(entry)]
    if not rows:
        raise SourceError(f"{root} holds no files in its class folders {', '.join(sorted(names))}")
    if found and len({label for _, label, _, _ in rows}) < 2:
        return _from_only(found, elsewhere)
    if found and class_from == "auto" and not any(map(is_known_name, names)):
        raise QuestionError(
            f"{root} holds folders and labels of a program. Which are the classes?",
            [
                (f"the labels in {found[0].name}", ["data=manifest", commands.override("data.path", str(found[0]))]),
                (f"the folders {', '.join(sorted(names)[:6])}", [commands.override("data.class_from", "top")]),
            ],
        )
    _warn_of_skipped(layout, names - {label for _, label, _, _ in rows})
    return pd.DataFrame(rows, columns=ROW_COLUMNS, dtype=object)


def from_manifest(*, path: str, images: str | None = None, columns: Mapping[str, str] = tables.COLUMNS) -> pd.DataFrame:
    """Read a list of images: a CSV file with path and label, optionally group and split, or a program's export.

    Args:
        path: The file.
        images: Folder where the paths start, and where images are looked for by name; None: that of the file.
        columns: Name of the column of each role: path, label, group, split.

    Raises:
        SourceError: If a label is empty, a split is unknown, or a path occurs twice.
        ManifestError: If the file is no such list.
    """
    file, folder = folders.typed(path), None if images is None else folders.typed(images)
    if file.suffix.lower() in exports.SUFFIXES:
        return _from_export(exports.read(file), file, folder)
    table = tables.read(file)
    if dict(columns) == tables.COLUMNS and exports.is_export_table(table):
        return _from_export(exports.read_table(table), file, folder)
    values = table.roles(columns)
    lookup = Lookup(folder or file.parent, folder)
    above = [entry.replace("\\", "/").split("/")[:-1] for entry in values["path"]]
    shared = len(os.path.commonprefix(above))  # where the list's images lie, whatever that is called
    rows = []
    for place, row in enumerate(zip(*(values[role] for role in ROW_COLUMNS), strict=True)):
        entry, label, group, split = row
        if any(map(clutter.is_named_clutter, above[place][shared:])):
            continue
        split = split_named(split) or split
        if split not in (*manifest.SPLITS, ""):
            raise SourceError(
                f"{file}, line {table.lines[place]}: split is {split!r}; expected train, val, test or nothing"
            )
        rows.append((entry, nfc(label), nfc(group), split, table.lines[place]))
    if unlabelled := [line for _, label, _, _, line in rows if not label]:
        raise SourceError(f"{file}, line {unlabelled[0]}: the label is empty ({len(unlabelled)} such rows)")
    if skipped := len(table.rows) - len(rows):
        log.info("%s rows of thumbnails and what systems leave behind are skipped", f"{skipped:,}")
    found = pd.DataFrame([row[:4] for row in rows], columns=ROW_COLUMNS, dtype=object)
    _require_text(found["label"], f"{file} holds the label", "save the file as UTF-8")
    if found.empty:
        require_two_classes(set(), path, from_table=True)
    found["path"] = pd.Series([str(lookup.find(entry)) for entry in found["path"]], dtype=object)
    return _checked(found, file)


def _from_export(entries: list[exports.Entry], file: Path, images: Path | None = None) -> pd.DataFrame:
    """List the labelled images in the export of a labelling program."""
    labelled = [entry for entry in entries if entry.label]
    if len(labelled) < len(entries):
        log.warning("WARNING: %s: %s images without a label are skipped", file, f"{len(entries) - len(labelled):,}")
    if not labelled:
        raise SourceError(f"{file} holds no image with a label: label some, and export again")
    log.info("labels of %s images from %s", f"{len(labelled):,}", file)
    lookup = Lookup(file.parent, images, search=True)
    rows = [(str(lookup.find(entry.image)), entry.label, "", entry.split) for entry in labelled]
    return _checked(pd.DataFrame(rows, columns=ROW_COLUMNS, dtype=object), file)


def _checked(rows: pd.DataFrame, file: Path) -> pd.DataFrame:
    """Return the rows of a list sorted by class; raise if an image is listed twice."""
    paths = pd.Series([nfc(path) for path in rows["path"]], index=rows.index, dtype=object)
    if (repeated := paths.duplicated()).any():
        twice = manifest.printable(rows.loc[repeated, "path"].iloc[0])
        raise SourceError(f"{file} lists {twice} more than once: keep one row per image")
    return rows.sort_values("label", kind="stable", ignore_index=True)


def _exports(tree: Folder) -> list[Path]:
    """Return files of labels under the names that CVAT and Roboflow give them; Roboflow's may lie in split folders."""
    for folder in (tree, *tree.folders):
        if any(file.name == exports.CVAT and exports.is_export(file) for file in folder.files):
            return [folder.path / exports.CVAT]
    places = [tree, *(child for child in tree.folders if split_named(child.name))]
    return [file for folder in places for file in folder.files if file.name.lower() == exports.ROBOFLOW]


def _from_only(found: Sequence[Path], images: Path | None) -> pd.DataFrame:
    """Read the only export in a folder without classes; ask which, if there are several."""
    if len(found) == 1:
        return _from_export(exports.read(found[0]), found[0], images)
    raise QuestionError(
        f"{found[0].parent} holds {len(found)} files of labels. Which one is meant?",
        [(file.name, ["data=manifest", commands.override("data.path", str(file))]) for file in found[:3]],
    )


def from_concrete_cracks(*, path: str | None) -> pd.DataFrame:
    """List *Concrete Crack Images for Classification* (METU) from the user's folder or archive, or download it."""
    source = folders.typed(path) if path else None
    if source is not None and source.is_dir():
        root = download.find_classes(source)
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
    place = folders.typed(path)
    if not place.exists():
        yield f"data.path={path!r}: nothing is there (looked for {place})"
    elif source == "folder" and not place.is_dir():
        yield (
            f"data.path={path!r}: expected a folder with one subfolder per class. For a list of images (CSV, JSON, "
            "XML) use data=manifest; unpack an archive first"
        )
    elif source == "manifest" and not place.is_file():
        yield f"data.path={path!r}: expected a CSV file; for a folder of images use data=folder"
    elif source == "labels" and not labels.find(path).is_file():
        yield f"data.path={path!r}: expected a CSV file of labels, or a folder with {labels.FILE}; label.py writes one"


# --- messages ---------------------------------------------------------------------------------------------------------


def _ask_for_list(root: Path, tree: Folder) -> None:
    """Raise a question if a list lies beside images without class folders: it may name their classes."""
    files = [file for folder in (tree, *tree.folders) for file in folder.files]
    lists = [file for file in files if file.suffix.lower() in (".csv", ".tsv", *exports.SUFFIXES)][:3]
    if lists:
        raise QuestionError(
            f"{root} holds no class folders. Does a file name the class of each image?",
            [
                (f"read {manifest.printable(file.name)}", ["data=manifest", commands.override("data.path", str(file))])
                for file in lists
            ],
        )


def _warn_of_skipped(layout: Layout, empty: set[str]) -> None:
    """Log warnings about images that are not used: beside the class folders, or in folders that are no classes."""
    for folder, reason in layout.left_out.items():
        if reason == layouts.BESIDE:
            log.warning(
                "WARNING: the %s images in %s are %s, which are named train, val or test",
                f"{folder.all_images:,}",
                manifest.printable(folder.name),
                reason,
            )
        if "labels" in reason and folder.all_images:
            log.warning(
                "WARNING: the %s images in %s are %s. A trained model inspects them: %s",
                f"{folder.all_images:,}",
                manifest.printable(folder.name),
                reason,
                commands.command("predict", "run=<run>", commands.override("input", str(folder.path))),
            )
    loose = [str(file) for file in layout.loose()]
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
