"""From a source of images to a divided dataset: list, check, group and split the images, then add drawn ones."""

from __future__ import annotations

import dataclasses
import functools
import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hairline import config
from hairline.data import classes, drawn, duplicates, labels, lookup, manifest, sources, splits
from hairline.system.process import Process

log = logging.getLogger(__name__)

_FEW_TEST_IMAGES = 20  # one of them is five points of accuracy
_DRAWN_SETTINGS = ("mix", "crops", "mix_weight", "mix_seed")  # applied after splitting


@dataclass(frozen=True)
class Dataset:
    """The divided manifest and the values derived from it.

    Attributes:
        manifest: One row per image, with splits.
        rejected: Unreadable files: path, label, reason.
        class_names: Sorted.
        positive: Index of the class that precision, recall and the threshold refer to; None: macro averages.
        labels: int64 [n], class index of each row.
        hashes: uint64 [real images], perceptual hash of each image of the source.
        split_by: Description of how the split was made: `split.group_by`, or "the source".
        share: Share of the positive class on the surface, where the images were selected for labelling and it was
            estimated; None: the images represent it.
    """

    manifest: pd.DataFrame
    rejected: pd.DataFrame
    class_names: list[str]
    positive: int | None
    labels: np.ndarray
    hashes: np.ndarray
    split_by: str
    share: float | None = None

    @functools.cached_property
    def digest(self) -> str:
        """Digest of the images, labels and splits, 16 hexadecimal digits."""
        return manifest.digest(self.manifest)

    @property
    def real(self) -> np.ndarray:
        """Row numbers of the source's images, without the drawn ones (`data.mix`, `data.crops`)."""
        return np.flatnonzero(drawn.is_real(self.manifest))

    def rows(self, split: str) -> np.ndarray:
        """Return the row numbers of one split."""
        return np.flatnonzero(self.manifest["split"] == split)


def prepare(
    settings: config.Data,
    split: config.Split,
    *,
    seed: int,
    process: Process,
    threads: int | None = None,
    positive: str | None = None,
) -> Dataset:
    """List, check, group and split the images of a source, and add drawn training images.

    Args:
        settings: The configuration group `data`.
        split: The configuration group `split`.
        seed: Seed of the split and of `data.limit`.
        process: Keeps the listed images, which the jobs of a sweep share so that all see the same ones.
        threads: Threads that read files; None for one more than cores.
        positive: Positive class, such as that of a base, where the settings name none and the images have it.
    """
    split = grouping(settings, split)
    dataset = process.once(
        "dataset",
        repr((settings, split, seed, positive)),
        lambda: _prepared(settings, split, seed=seed, process=process, threads=threads, positive=positive),
    )
    _log_dataset(dataset, guessed=settings.positive_class is None and positive is None)
    return dataset


def _prepared(
    settings: config.Data,
    split: config.Split,
    *,
    seed: int,
    process: Process,
    threads: int | None,
    positive: str | None,
) -> Dataset:
    table, rejected, hashes = _scanned_groups(settings, split, seed=seed, process=process, threads=threads)
    if split.given == "ignore":
        table = table.assign(split="")
    given = set(table["split"]) - {""}
    split_by: str = split.group_by
    if given:
        complete = given == set(manifest.SPLITS) and (table["split"] != "").all()
        split_by = "the source" if complete else f"the source, the rest by {split.group_by}"
    shares = config.arguments(split, *split.grouping(), "given")
    divide = labels.divide if settings.source == "labels" else splits.split
    table = divide(table, **shares, seed=seed).reset_index(drop=True)
    if given and settings.source != "labels":  # random tiles come from the same photos as the others
        _warn_of_leaks(table)
    class_names = sorted(table["label"].unique())
    named = settings.positive_class or (positive if positive in class_names else None)
    positive = classes.positive_class(class_names, named)
    table = drawn.add_drawn(table, share=settings.mix, crops=settings.crops, positive=positive, seed=settings.mix_seed)
    return Dataset(
        manifest=table,
        rejected=rejected,
        class_names=class_names,
        positive=None if positive is None else class_names.index(positive),
        labels=pd.Categorical(table["label"], categories=class_names).codes.astype(np.int64),
        hashes=hashes,
        split_by=split_by,
        share=labels.share(settings.path) if isinstance(settings, config.LabelsData) else None,
    )


def grouping(settings: config.Data, split: config.Split) -> config.Split:
    """Return how images are grouped: as configured, but windows of photos by photo instead of `hash`."""
    by_photo = settings.source == "labels" and split.group_by == "hash"
    return dataclasses.replace(split, group_by="column") if by_photo else split


def _scanned_groups(
    settings: config.Data, split: config.Split, *, seed: int, process: Process, threads: int | None
) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """Return the grouped manifest, the rejected files and the perceptual hashes; cached for the jobs of a sweep."""
    limit_seed = None if settings.limit is None else seed
    listed = (settings.source, config.arguments(settings, *_DRAWN_SETTINGS), split.given, limit_seed)
    return process.once(
        f"images {(listed, split.grouping())}",
        "",
        lambda: _scan_and_group(settings, split, seed=seed, threads=threads),
    )


def _scan_and_group(
    settings: config.Data, split: config.Split, *, seed: int, threads: int | None
) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    rows = list_images(settings)
    if split.given == "keep" and settings.source != "labels":  # of all images: data.limit may leave out a class
        splits.check_given(rows, in_folders=settings.source == "folder", renamed=bool(settings.class_map))
    rows = classes.subsample(rows, settings.limit, seed)
    classes.require_two_classes(
        set(rows["label"]),
        getattr(settings, "path", None),
        from_table=settings.source in ("manifest", "labels"),
        excluded_by=_excluding_settings(settings),
    )
    if split.group_by != "column" and (rows["group"] != "").any():
        log.info("the column group is not used: split.group_by=column keeps the images of a group together")
    table, rejected = scan_images(rows, max_rejected=settings.max_rejected, threads=threads)
    table, hashes = group_images(table, split)
    return table, rejected, hashes


def list_images(settings: config.Data) -> pd.DataFrame:
    """List all images of a source, with classes renamed; opens no file."""
    shared = ("source", "limit", "positive_class", "max_rejected", "class_map", *_DRAWN_SETTINGS)
    rows = sources.SOURCES[settings.source](**config.arguments(settings, *shared))
    rows = classes.rename_classes(rows, settings.class_map)
    for names in classes.case_variants(rows["label"]):
        log.warning(
            "WARNING: the classes %s differ only in case or spaces and are kept apart. To merge them: %s",
            ", ".join(map(manifest.printable, names)),
            config.commands.override("data.class_map", {name: names[-1] for name in names[:-1]}),
        )
    return rows


def scan_images(
    rows: pd.DataFrame, *, max_rejected: float, threads: int | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read every file once; return the manifest and the rejected files as `manifest.scan` does.

    Raises:
        ManifestError: If more than the share `max_rejected` is unreadable, or identical images have two labels.
    """
    table, rejected = manifest.scan(rows, threads=threads)
    lookup.check_missing(rejected, len(rows), max_rejected)
    manifest.check_rejected(rejected[rejected["reason"] != manifest.MISSING], len(rows), max_rejected)
    manifest.check_labels(table)
    return table, rejected


def group_images(table: pd.DataFrame, split: config.Split) -> tuple[pd.DataFrame, np.ndarray]:
    """Fill the column `group`; near-identical images belong together unless `split.group_by=none`.

    Returns:
        The manifest without its column phash, and that column as an array.
    """
    hashes = table["phash"].to_numpy()
    clusters = None if split.group_by == "none" else duplicates.clusters(table["sha256"].tolist(), hashes)
    table = splits.group(
        table.drop(columns="phash"),
        clusters,
        group_by=split.group_by,
        block_size=split.block_size,
        pattern=split.pattern,
    )
    return table, hashes


def _excluding_settings(settings: config.Data) -> str:
    """Return the settings that may have removed classes, for a message."""
    values = {"data.limit": settings.limit if settings.limit == 1 else None, "data.class_map": settings.class_map}
    return " and ".join(f"{key}={value}" for key, value in values.items() if value)


def _warn_of_leaks(table: pd.DataFrame) -> None:
    """Warn of validation and test images of the source's own split that share a group with training images."""
    training = table["split"] == "train"
    leaking = ~training & table["group"].isin(table.loc[training, "group"])
    if leaking.any():
        log.warning(
            "WARNING: %s of the %s validation and test images of the source's own split belong together with "
            "training images (identical, near-identical or of one group): metrics will be too optimistic. Move them, "
            "or let split.group_by divide all images: split.given=ignore",
            f"{leaking.sum():,}",
            f"{(~training).sum():,}",
        )


def _log_dataset(dataset: Dataset, *, guessed: bool) -> None:
    """Log the size of each split, the drawn images, the positive class and the rejected files."""
    names = list(map(manifest.printable, dataset.class_names))
    for split in manifest.SPLITS:
        labels = dataset.labels[dataset.rows(split)]
        counts = zip(names, np.bincount(labels, minlength=len(names)).tolist(), strict=True)
        per_class = ", ".join(f"{name} {count:,}" for name, count in counts)
        log.info("%-5s %7s images  (%s)", split, f"{len(labels):,}", per_class)
    if len(dataset.real) < len(dataset.manifest):
        origins = dataset.manifest[drawn.ORIGIN].value_counts()
        if composites := origins.get(drawn.COMPOSITE, 0):
            log.info("%s training images are drawn on other training images (data.mix)", f"{composites:,}")
        if crops := origins.get(drawn.CROP, 0):
            log.info("%s training images are enlarged crops of other training images (data.crops)", f"{crops:,}")
    if len(dataset.class_names) == 2:
        if dataset.positive is None:
            log.warning(
                "WARNING: neither class has a name that means cracked, so there is no threshold, recall or AUROC: "
                "add %s",
                " or ".join(config.commands.override("data.positive_class", name) for name in dataset.class_names),
            )
        else:
            how = "guessed by its name" if guessed else "as set"
            log.info("positive class: %s (%s)", names[dataset.positive], how)
    missing = dataset.rejected["reason"] == manifest.MISSING
    for kind, rejected in (("missing", dataset.rejected[missing]), ("not readable images", dataset.rejected[~missing])):
        if len(rejected):
            log.warning(
                "WARNING: %d file%s %s, skipped (rejected.csv):\n%s",
                len(rejected),
                " is" if len(rejected) == 1 else "s are",
                kind,
                manifest.describe_rejected(rejected),
            )
    if (test_images := len(dataset.rows("test"))) < _FEW_TEST_IMAGES:
        log.warning(
            "WARNING: the test split has %d images, too few to compare models: read the confidence intervals",
            test_images,
        )
