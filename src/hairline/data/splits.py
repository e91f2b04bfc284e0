"""Dividing a manifest into train, val and test so that images which belong together stay together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from hairline.data.manifest import SPLITS
from hairline.system.errors import HairlineError

GroupBy = Literal["none", "hash", "block", "regex", "column"]


class SplitError(HairlineError):
    """Images that cannot be divided as asked."""


def group(
    manifest: pd.DataFrame,
    clusters: Sequence[str] | None = None,
    *,
    group_by: GroupBy,
    block_size: int,
    pattern: str | None,
) -> pd.DataFrame:
    """Fill the column `group`.

    Args:
        manifest: A manifest whose index numbers the source's rows in file order.
        clusters: Names of the clusters of near-identical images (`duplicates.clusters`), one a row; None: only
            byte-identical images are taken for the same.
        group_by: `none`: every image by itself. `hash`: the clusters. `block`: `block_size` neighbours in file order,
            for sets cut from photos in order. `regex`: images whose path gives the same match. `column`: the source's
            own column. All but `none` keep the clusters together as well: groups that share one are united, but for
            blocks, where its images join the block of the first.
        block_size: Images a block.
        pattern: Its first group, or the whole match, on the path (with `/` as separator) names the photo.

    Returns:
        The manifest with `group` filled.

    Raises:
        SplitError: If the column is empty or the pattern does not match.
    """
    if group_by == "none":
        return manifest.assign(group=[str(row) for row in manifest.index])
    same = manifest["sha256"].str[:16] if clusters is None else pd.Series(clusters, index=manifest.index, dtype=object)
    if group_by == "hash":
        return manifest.assign(group=same)
    if group_by == "column":
        empty = manifest["group"] == ""
        if empty.any():
            raise SplitError(
                f"split.group_by=column, but {empty.sum()} of {len(manifest)} images have no group: add a column "
                "`group` to the CSV file (data=manifest), or choose split.group_by=hash"
            )
        names = manifest["group"]
    elif group_by == "block":
        row = pd.Series(manifest.index, index=manifest.index)
        position = row - row.groupby(manifest["label"]).transform("min")
        names = manifest["label"] + ":" + (position // block_size).astype(str)
    else:
        names = pd.Series(
            [_match(pattern or "", path) for path in manifest["path"]], index=manifest.index, dtype=object
        )
    if group_by == "block":
        # A block is a guess at a photo. Bland patches look alike from photo to photo, and METU repeats some byte by
        # byte: uniting whole blocks for each such pair makes one group of 5,913 of 6,000 negatives, so only the images
        # themselves move together.
        return manifest.assign(group=names.groupby(same.to_numpy()).transform("first"))
    return manifest.assign(group=pd.Series(_united(names, same), index=manifest.index, dtype=object))


def split(manifest: pd.DataFrame, *, train: float, val: float, test: float, seed: int) -> pd.DataFrame:
    """Fill the column `split`: whole groups, evenly over the classes, deterministic in the seed.

    Rows whose split the source knows keep it; when val or test has none of them, it is taken from train.

    Args:
        manifest: A manifest with groups.
        train: Share of the images for training.
        val: Share for validation.
        test: Share for the test.
        seed: Any whole number from 0; the same seed gives the same split.

    Returns:
        The manifest with `split` filled.

    Raises:
        SplitError: If a class would be missing from one of the three parts.
    """
    shares = dict(zip(SPLITS, (train, val, test), strict=True))
    known = manifest["split"]
    if (known == "").all():
        result = _divide(manifest, shares, seed)
    else:
        present = set(known) - {""}
        absent = [name for name in SPLITS if name not in present and name != "train"]
        result = known.mask(known == "", "train")
        if absent:
            pool = manifest[result == "train"]
            result = result.copy()
            result[pool.index] = _divide(pool, {name: shares[name] for name in ("train", *absent)}, seed)
    divided = manifest.assign(split=result)
    _refuse_gaps(divided)
    return divided


def _divide(manifest: pd.DataFrame, shares: dict[str, float], seed: int) -> pd.Series:
    """Hand out groups one by one, the largest first, to the part that lacks most of their classes."""
    names = list(shares)
    labels = pd.Categorical(manifest["label"])
    counts = pd.crosstab(manifest["group"], labels.codes).sort_index()
    order = np.random.default_rng([seed, 0x5117]).permutation(len(counts))
    order = order[np.argsort(-counts.to_numpy().sum(axis=1)[order], kind="stable")]
    wanted = _targets(counts.to_numpy().sum(axis=0), np.array(list(shares.values())))
    lacking = wanted.astype(np.float64)
    scale = 1.0 / np.maximum(wanted, 1)
    table = counts.to_numpy()
    part = np.empty(len(counts), np.int64)
    for row in order:
        # Relative need, so that a small test part is served as early as a large training part.
        part[row] = np.argmax((lacking * scale * table[row]).sum(axis=1))
        lacking[part[row]] -= table[row]
    lookup = dict(zip(counts.index, (names[index] for index in part), strict=True))
    return manifest["group"].map(lookup)


def _targets(totals: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Give whole numbers [parts, classes] that sum to `totals`, by largest remainder."""
    exact = np.outer(shares / shares.sum(), totals)
    whole = np.floor(exact).astype(np.int64)
    for column, total in enumerate(totals):
        rest = total - whole[:, column].sum()
        whole[np.argsort(-(exact - whole)[:, column], kind="stable")[:rest], column] += 1
        if totals[column] >= len(shares):  # of few images each part gets one: a split without would be refused
            for part in np.flatnonzero(whole[:, column] == 0):
                whole[whole[:, column].argmax(), column] -= 1
                whole[part, column] += 1
    return whole


def _refuse_gaps(manifest: pd.DataFrame) -> None:
    counts = pd.crosstab(manifest["label"], manifest["split"]).reindex(columns=list(SPLITS), fill_value=0)
    for label, row in counts.iterrows():
        if (row == 0).any():
            groups = manifest.loc[manifest["label"] == label, "group"].nunique()
            raise SplitError(
                f"class {label!r} has {row.sum()} images in {groups} groups, too few to divide: "
                f"{', '.join(f'{name} gets {row[name]}' for name in SPLITS)}. Every class needs images in all three "
                "parts: add images, give val and test larger shares (split.val, split.test), or make groups smaller "
                "(split.group_by=none takes each image by itself, near-identical ones included)"
            )


def _match(pattern: str, path: str) -> str:
    found = re.search(pattern, path.replace("\\", "/"))
    if found is None:
        raise SplitError(f"split.pattern={pattern!r} does not match {path!r}: it must match the path of every image")
    return found.group(1) if found.re.groups and found.group(1) is not None else found.group(0)


def _united(names: pd.Series, clusters: pd.Series) -> list[str]:
    """Join groups that share images of one cluster, and name each after its first."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    owner: dict[str, str] = {}
    for name, cluster in zip(names, clusters, strict=True):
        one, two = root(name), root(owner.setdefault(cluster, name))
        parent[max(one, two)] = min(one, two)
    return [root(name) for name in names]
