"""The first stage of a run: its images listed, checked and divided."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hairline.config import Config, Split, arguments
from hairline.config import Data as DataSettings
from hairline.data import drawn as mixing
from hairline.data import duplicates, manifest, sources, splits
from hairline.system.process import Process

log = logging.getLogger(__name__)

_FEW = 20  # test images: one of them is five points of accuracy
_MIXING = ("mix", "crops", "mix_weight", "mix_seed")  # settings of `data` that come after listing and dividing


@dataclass(frozen=True)
class Data:
    """The divided manifest and what follows from it.

    Attributes:
        manifest: With splits.
        rejected: Files that are no readable images.
        class_names: Sorted.
        positive: Index of the class that precision, recall and the threshold refer to; None: macro averages.
        labels: int64 [n], index of each row's class.
        hashes: Perceptual hash of each image of the source, uint64 [as many as `real`].
        split_by: What made the split, in words: `split.group_by`, or the source.
    """

    manifest: pd.DataFrame
    rejected: pd.DataFrame
    class_names: list[str]
    positive: int | None
    labels: np.ndarray
    hashes: np.ndarray
    split_by: str

    @property
    def real(self) -> np.ndarray:
        """Row numbers of the source's images: all, but for what `data.mix` and `data.crops` added."""
        return np.flatnonzero(mixing.real(self.manifest))

    def rows(self, split: str) -> np.ndarray:
        """Give the row numbers of one split."""
        return np.flatnonzero(self.manifest["split"] == split)


def prepare_data(config: Config, process: Process) -> Data:
    """List, check and divide the images; jobs of one sweep share what is listed, so that all see the same images."""
    grouping = config.split.grouping()
    seed = None if config.data.limit is None else config.seed
    settings = repr((config.data.source, arguments(config.data, *_MIXING), grouping, seed))
    found = process.listings.get(settings)
    if found is None:
        rows = listed(config.data, config.seed)
        place, listed_so = getattr(config.data, "path", None), config.data.source == "manifest"
        sources.refuse_few_classes(set(rows["label"]), place, listed=listed_so, chosen=_chosen(config.data))
        if config.split.group_by != "column" and (rows.get("group", pd.Series("")) != "").any():
            log.info("the column group is not used: split.group_by=column keeps the images of a group together")
        table, rejected = scanned(rows, config.data.max_rejected)
        table, hashes = grouped(table, config.split)
        found = table, rejected, hashes
        if process.sweep is not None:
            process.listings[settings] = found
    table, rejected, hashes = found[0].copy(), found[1].copy(), found[2]
    own = set(table["split"]) - {""}
    split_by = config.split.group_by
    if own:
        whole = own == set(manifest.SPLITS) and (table["split"] != "").all()
        split_by = "the source" if whole else f"the source, the rest by {split_by}"
    table = splits.split(table, **arguments(config.split, *grouping), seed=config.seed).reset_index(drop=True)
    if own:
        _warn_of_leaks(table)
    class_names = sorted(table["label"].unique())
    positive = sources.positive_class(class_names, config.data.positive_class)
    amounts = {"share": config.data.mix, "crops": config.data.crops}
    table = mixing.mixed(table, **amounts, positive=positive, seed=config.data.mix_seed)
    data = Data(
        table,
        rejected,
        class_names,
        None if positive is None else class_names.index(positive),
        pd.Categorical(table["label"], categories=class_names).codes.astype(np.int64),
        hashes,
        split_by,
    )
    _say_data(config, data)
    return data


def listed(settings: DataSettings, seed: int) -> pd.DataFrame:
    """List the images of a source, classes renamed and drawn to the limit; no file is opened.

    Args:
        settings: The configuration group `data`.
        seed: Chooses the images where there is a limit.
    """
    shared = ("source", "limit", "positive_class", "max_rejected", "class_map", *_MIXING)
    rows = sources.mapped(sources.SOURCES[settings.source](**arguments(settings, *shared)), settings.class_map)
    for alike in sources.spelt_alike(rows["label"]):
        log.warning(
            "WARNING: the classes %s differ in their letters' case alone and are kept apart; to make them one: %s",
            ", ".join(map(manifest.shown, alike)),
            f"'data.class_map={{{', '.join(f'{name}: {alike[-1]}' for name in alike[:-1])}}}'",
        )
    return sources.limited(rows, settings.limit, seed)


def scanned(rows: pd.DataFrame, max_rejected: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read every file once; gives what `manifest.scan` does."""
    table, rejected = manifest.scan(rows)
    manifest.refuse_rejected(rejected, len(rows), max_rejected)
    manifest.refuse_contradictions(table)
    return table, rejected


def grouped(table: pd.DataFrame, settings: Split) -> tuple[pd.DataFrame, np.ndarray]:
    """Say which images belong together, near-identical ones among them.

    Returns:
        The manifest, and its column phash, which it loses.
    """
    hashes = table["phash"].to_numpy()
    clusters = None if settings.group_by == "none" else duplicates.clusters(table["sha256"].tolist(), hashes)
    return splits.group(table.drop(columns="phash"), clusters, **settings.grouping()), hashes


def _chosen(settings: DataSettings) -> str:
    """Name the settings that may have left classes out."""
    named = {"data.limit": settings.limit if settings.limit == 1 else None, "data.class_map": settings.class_map}
    return " and ".join(f"{key}={value}" for key, value in named.items() if value)


def _warn_of_leaks(table: pd.DataFrame) -> None:
    """Say how many images of the source's own validation and test parts belong together with training images."""
    training = table["split"] == "train"
    across = ~training & table["group"].isin(table.loc[training, "group"])
    if across.any():
        log.warning(
            "WARNING: %s of the %s validation and test images, as the source divides them, belong together with "
            "training images (identical, near-identical or of one group): figures will be too good. Move them, or "
            "leave the division to split.group_by",
            f"{across.sum():,}",
            f"{(~training).sum():,}",
        )


def _say_data(config: Config, data: Data) -> None:
    counts = pd.crosstab(data.manifest["split"], data.manifest["label"])
    for split in manifest.SPLITS:
        per_class = ", ".join(f"{manifest.shown(name)} {counts.loc[split, name]:,}" for name in data.class_names)
        log.info("%-5s %7s images  (%s)", split, f"{counts.loc[split].sum():,}", per_class)
    if len(data.real) < len(data.manifest):
        kinds = data.manifest[mixing.ORIGIN].value_counts()
        if drawn := kinds.get(mixing.COMPOSITE, 0):
            log.info("%s of the training images are drawn on others of them (data.mix)", f"{drawn:,}")
        if cut := kinds.get(mixing.CROP, 0):
            log.info("%s of the training images are parts of others of them, enlarged (data.crops)", f"{cut:,}")
    if len(data.class_names) == 2:
        if data.positive is None:
            log.warning(
                "WARNING: neither class has a name that means cracked, so no threshold, recall or AUROC: add %s",
                " or ".join(f"\"data.positive_class='{manifest.shown(name)}'\"" for name in data.class_names),
            )
        else:
            how = "as set" if config.data.positive_class else "guessed by its name"
            log.info("positive class: %s (%s)", manifest.shown(data.class_names[data.positive]), how)
    if len(data.rejected):
        log.warning(
            "WARNING: %d files are no readable images and are left out (rejected.csv):\n%s",
            len(data.rejected),
            manifest.describe_rejected(data.rejected),
        )
    few = counts.loc["test"].sum()
    if few < _FEW:
        log.warning(
            "WARNING: the test part has %d images, too few to tell one model from another: read the intervals", few
        )
    by_epochs = config.base is None and config.optimizer.name != "lbfgs"
    if by_epochs and config.batch_size > counts.loc["train"].sum():
        log.warning(
            "WARNING: batch_size=%d is larger than the training part (%d images): each epoch is one step",
            config.batch_size,
            counts.loc["train"].sum(),
        )
