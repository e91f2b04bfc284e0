"""Divide a manifest into train, val and test so that images that belong together stay together."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hairline.config import commands
from hairline.config.schema import GroupBy
from hairline.data.manifest import SPLITS
from hairline.system.errors import HairlineError, QuestionError


class SplitError(HairlineError):
    """Images that cannot be divided as configured."""


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
        clusters: Cluster of near-identical images of each row (`duplicates.clusters`); None uses byte-identical images.
        group_by: `none`: every image is its own group. `hash`: clusters. `block`: `block_size` neighbours in file
            order, for datasets cut from photos in order. `regex`: images with the same match in their path. `column`:
            the source's column. All but `none` also keep clusters together: `regex` and `column` merge groups that
            share a cluster; `block` moves the images of a cluster into the block of the first.
        block_size: Images per block.
        pattern: Regular expression; its first group, or else the whole match, in the path (with `/`) names the photo.

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
                f"split.group_by=column, but {empty.sum()} of {len(manifest)} images have no group. Add a column "
                "`group` to the CSV file (data=manifest), or use split.group_by=hash"
            )
        names = manifest["group"]
    elif group_by == "regex":
        matches = [_match(pattern or "", path) for path in manifest["path"]]
        names = pd.Series(matches, index=manifest.index, dtype=object)
    else:
        row = pd.Series(manifest.index, index=manifest.index)
        position = row - row.groupby(manifest["label"]).transform("min")
        names = manifest["label"] + ":" + (position // block_size).astype(str)
        # A block approximates a photo. Featureless patches of different photos look identical, and METU repeats some:
        # merging whole blocks would put 5,913 of 6,000 negatives into one group, so only the images themselves move.
        return manifest.assign(group=names.groupby(same.to_numpy()).transform("first"))
    return manifest.assign(group=_merged(names, same))


def split(
    manifest: pd.DataFrame, *, train: float, val: float, test: float, seed: int, whole_test: bool = True
) -> pd.DataFrame:
    """Fill the column `split` with whole groups, stratified by class, deterministic in the seed.

    Rows keep the split of the source. If it has no val or no test images, these are drawn from train.

    Args:
        manifest: A manifest with groups.
        train: Share of the training images.
        val: Share of the validation images.
        test: Share of the test images.
        seed: Non-negative integer.
        whole_test: Require every class in the test split.

    Returns:
        The manifest with `split` filled.

    Raises:
        SplitError: If a class is missing from a split.
    """
    shares = dict(zip(SPLITS, (train, val, test), strict=True))
    given = set(manifest["split"]) - {""}
    result = manifest["split"].mask(manifest["split"] == "", "train")
    if absent := [name for name in SPLITS[1:] if name not in given]:
        pool = manifest[result == "train"]
        result[pool.index] = _divide(pool, {name: shares[name] for name in ("train", *absent)}, seed)
    divided = manifest.assign(split=result)
    _check_classes(divided, SPLITS if whole_test else SPLITS[:2], given=given)
    return divided


def check_given(rows: pd.DataFrame, *, in_folders: bool, renamed: bool = False) -> None:
    """Raise if a class is missing from a split that the source gives, before any image is read.

    Args:
        rows: With the columns path, label and split, which is empty for images without a split: these are for training.
        in_folders: Each split lies in a folder of its own.
        renamed: The classes were renamed by `data.class_map`, which an answer would replace.

    Raises:
        QuestionError: With the counts, and how the images can be divided instead.
    """
    if not set(rows["split"]) - {""}:
        return
    counts = pd.crosstab(rows["label"], rows["split"].replace("", "train"))
    lacking = {name: counts.index[counts[name] == 0].tolist() for name in SPLITS if name in counts}
    if len(counts) < 2 or not any(lacking.values()):
        return
    lines = [f"  {name} has no image of {', '.join(labels)}" for name, labels in lacking.items() if labels]
    for label, row in counts.iterrows():
        lines.append(f"  {label}: {', '.join(f'{name} {row[name]:,}' for name in lacking)}")
    ignore = commands.override("split.given", "ignore")
    choices = [(f"divide all images anew, {len(counts)} classes", [ignore])]
    trained = [str(label) for label in counts.index[counts["train"] > 0]] if "train" in counts else []
    if len(trained) == 1 and len(counts) > 2 and not renamed:  # as in data for anomaly detection
        mapping = commands.override("data.class_map", {trained[0]: trained[0], "*": "defect"})
        choices.insert(0, (f"divide all images anew, {trained[0]} against all others", [ignore, mapping]))
    if in_folders and len(trained) == 1 and "test" in lacking and not lacking["test"]:
        testing = rows["split"] == "test"
        folder = os.path.commonpath([os.path.dirname(path) for path in rows.loc[testing, "path"]])
        if not rows.loc[~testing, "path"].str.startswith(os.path.join(folder, "")).any():
            choices.append(("take the images of the test folder alone", [commands.override("data.path", folder)]))
    raise QuestionError(
        "the source's own split lacks classes, but a class needs images in every split:\n"
        + "\n".join(lines)
        + "\nAdd images, or choose how to divide them:",
        choices,
    )


def _divide(manifest: pd.DataFrame, shares: dict[str, float], seed: int) -> pd.Series:
    """Assign groups, the largest first, to the split that lacks most images of their classes."""
    names = list(shares)
    labels = pd.Categorical(manifest["label"])
    counts = pd.crosstab(manifest["group"], labels.codes).sort_index()
    order = np.random.default_rng([seed, 0x5117]).permutation(len(counts))
    order = order[np.argsort(-counts.to_numpy().sum(axis=1)[order], kind="stable")]
    table = counts.to_numpy()
    targets = _targets(table.sum(axis=0), np.array(list(shares.values())))
    lacking = targets.astype(np.float64)
    scale = 1.0 / np.maximum(targets, 1)
    part = np.empty(len(counts), np.int64)
    for row in order:
        # Relative to the target, so that a small test split is filled as early as a large training split.
        part[row] = np.argmax((lacking * scale * table[row]).sum(axis=1))
        lacking[part[row]] -= table[row]
    lookup = dict(zip(counts.index, (names[index] for index in part), strict=True))
    return manifest["group"].map(lookup)


def _targets(totals: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return integers [splits, classes] that sum to `totals`, by largest remainder."""
    exact = np.outer(shares / shares.sum(), totals)
    whole = np.floor(exact).astype(np.int64)
    for column, total in enumerate(totals):
        rest = total - whole[:, column].sum()
        whole[np.argsort(-(exact - whole)[:, column], kind="stable")[:rest], column] += 1
        if totals[column] >= len(shares):  # every split needs at least one image of each class
            for part in np.flatnonzero(whole[:, column] == 0):
                whole[whole[:, column].argmax(), column] -= 1
                whole[part, column] += 1
    return whole


def _check_classes(manifest: pd.DataFrame, names: Sequence[str], *, given: set[str]) -> None:
    """Raise if a class is missing from a split.

    Args:
        manifest: A divided manifest.
        names: The splits that need every class.
        given: The splits that the source gives.
    """
    counts = pd.crosstab(manifest["label"], manifest["split"]).reindex(columns=list(names), fill_value=0)
    for label, row in counts.iterrows():
        lacking = [name for name in names if row[name] == 0]
        if not lacking:
            continue
        received = ", ".join(f"{name} gets {row[name]}" for name in names)
        if given & set(lacking):
            raise SplitError(
                f"class {label!r} has no image in {', '.join(lacking)} of the source's own split ({received}). Every "
                "class needs images in all three splits: add images, or divide all of them anew with split.given=ignore"
            )
        groups = manifest.loc[manifest["label"] == label, "group"].nunique()
        raise SplitError(
            f"class {label!r} has {row.sum()} images in {groups} groups, too few to divide: {received}. Every class "
            "needs images in all three splits: add images, raise split.val and split.test, or use smaller groups "
            "(split.group_by=none makes each image a group, near-identical ones included)"
        )


def _match(pattern: str, path: str) -> str:
    match = re.search(pattern, path.replace("\\", "/"))
    if match is None:
        raise SplitError(f"split.pattern={pattern!r} does not match {path!r}: it must match the path of every image")
    return match.group(1) if match.re.groups and match.group(1) is not None else match.group(0)


def _merged(names: pd.Series, clusters: pd.Series) -> pd.Series:
    """Merge groups that share a cluster, and name each after its alphabetically first group."""
    groups, linked = pd.factorize(names)[0], pd.factorize(clusters)[0] + names.nunique()
    nodes = int(linked.max(initial=0)) + 1
    links = coo_array((np.ones(len(names), bool), (groups, linked)), shape=(nodes, nodes))
    component = connected_components(links, directed=False)[1][groups]
    return names.groupby(component).transform("min")
