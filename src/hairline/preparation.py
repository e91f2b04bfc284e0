"""The first stage of a run: its images listed, checked and divided."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hairline.config import Config, arguments
from hairline.data import manifest, sources, splits

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """The divided manifest and what follows from it.

    Attributes:
        manifest: With splits.
        rejected: Files that are no readable images.
        class_names: Sorted.
        positive: Index of the class that precision, recall and the threshold refer to; None: macro averages.
        labels: int64 [n], index of each row's class.
    """

    manifest: pd.DataFrame
    rejected: pd.DataFrame
    class_names: list[str]
    positive: int | None
    labels: np.ndarray

    def rows(self, split: str) -> np.ndarray:
        """Give the row numbers of one split."""
        return np.flatnonzero(self.manifest["split"] == split)


# What the jobs of one sweep found, in this process: listing 12,000 files takes each of them over a second.
_remembered: dict[str, dict[str, tuple[pd.DataFrame, pd.DataFrame]]] = {}


def remember(session: str) -> None:
    """Let the runs that follow share what they find in the same place, so that all see the same images.

    Args:
        session: Runs of another one look anew.
    """
    if session not in _remembered:
        _remembered.clear()
        _remembered[session] = {}


def _scanned(config: Config) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Give the manifest of the readable images, and the rejected files."""
    settings = config.data
    seed = None if settings.limit is None else config.seed
    key = repr((settings, seed))
    for known in _remembered.values():
        if key in known:
            return known[key]
    shared = ("source", "limit", "positive_class", "max_rejected")
    listed = sources.SOURCES[settings.source](**arguments(settings, *shared))
    listed = sources.limited(listed, settings.limit, config.seed)
    table, rejected = manifest.scan(listed)
    manifest.refuse_rejected(rejected, len(listed), settings.max_rejected)
    manifest.refuse_contradictions(table)
    for known in _remembered.values():
        known.clear()  # one is enough: sweeps seldom go over data sets
        known[key] = (table, rejected)
    return table, rejected


def prepare_data(config: Config) -> Data:
    """List, check and divide the images."""
    settings = config.data
    table, rejected = (found.copy() for found in _scanned(config))
    grouping = ("group_by", "block_size", "pattern")
    table = splits.group(table, **{key: getattr(config.split, key) for key in grouping})
    table = splits.split(table, **arguments(config.split, *grouping), seed=config.seed).reset_index(drop=True)
    class_names = sorted(table["label"].unique())
    positive = sources.positive_class(class_names, settings.positive_class)
    data = Data(
        table,
        rejected,
        class_names,
        None if positive is None else class_names.index(positive),
        pd.Categorical(table["label"], categories=class_names).codes.astype(np.int64),
    )
    _say_data(config, data)
    return data


def _say_data(config: Config, data: Data) -> None:
    counts = pd.crosstab(data.manifest["split"], data.manifest["label"])
    for split in manifest.SPLITS:
        per_class = ", ".join(f"{manifest.shown(name)} {counts.loc[split, name]:,}" for name in data.class_names)
        log.info("%-5s %7s images  (%s)", split, f"{counts.loc[split].sum():,}", per_class)
    if len(data.class_names) == 2:
        if data.positive is None:
            log.info("positive class: none known; set data.positive_class to one of %s", ", ".join(data.class_names))
        else:
            how = "as set" if config.data.positive_class else "guessed by its name"
            log.info("positive class: %s (%s)", manifest.shown(data.class_names[data.positive]), how)
    if len(data.rejected):
        log.warning(
            "WARNING: %d files are no readable images and are left out (rejected.csv):\n%s",
            len(data.rejected),
            manifest.describe_rejected(data.rejected),
        )
    if config.batch_size > counts.loc["train"].sum():
        log.warning(
            "WARNING: batch_size=%d is larger than the training part (%d images): each epoch is one step",
            config.batch_size,
            counts.loc["train"].sum(),
        )
