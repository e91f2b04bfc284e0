"""The leak report: images that occur, identical or nearly so, in more than one split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hairline.data import duplicates

_TABLE_ROWS = 200


@dataclass(frozen=True)
class Leaks:
    """The leak report of a split.

    Attributes:
        counts: Flat numbers, see `find`.
        pairs: The most similar pairs across splits: distance, split, path, other_split, other_path; closest first.
    """

    counts: dict[str, int]
    pairs: pd.DataFrame


def find(manifest: pd.DataFrame, hashes: NDArray[np.uint64]) -> Leaks:
    """Compare each test image with all others, and each validation image with the training images.

    Args:
        manifest: With groups and splits.
        hashes: Perceptual hash of each image, uint64 [n].

    Returns:
        The closest pairs, and the counts `leak_groups`, `leak_largest_group` (images), `leak_groups_in_two_splits`,
        `leak_identical_images` (byte-identical copies of another image), `leak_near_images` (with another image within
        `duplicates.NEAR_DISTANCE` bits, without copies), `leak_identical_across` and `leak_near_across` (validation
        and test images with such a counterpart in another split), and `leak_nearest_distance` (bits of 64).
    """
    splits, digests = manifest["split"].to_numpy(), manifest["sha256"].to_numpy()
    parts = {name: np.flatnonzero(splits == name) for name in ("train", "val", "test")}
    blocks = [
        block
        for name, others in (("test", ("train", "val")), ("val", ("train",)))
        for block in duplicates.nearest(hashes, parts[name], np.concatenate([parts[other] for other in others]))
    ]
    rows, partners, distances = (np.concatenate(column) for column in zip(*blocks, strict=True))
    in_train, in_val = (
        manifest["sha256"].iloc[rows].isin(digests[parts[name]]).to_numpy() for name in ("train", "val")
    )
    identical = in_train | ((splits[rows] == "test") & in_val)
    near = distances <= duplicates.NEAR_DISTANCE
    group_sizes = manifest["group"].value_counts()
    first = ~manifest["sha256"].duplicated().to_numpy()
    cluster_sizes = pd.Series(duplicates.clusters(digests[first].tolist(), hashes[first])).value_counts()
    counts = {
        "leak_groups": len(group_sizes),
        "leak_largest_group": int(group_sizes.max()),
        "leak_groups_in_two_splits": int((manifest.groupby("group")["split"].nunique() > 1).sum()),
        "leak_identical_images": int((~first).sum()),
        "leak_near_images": int(cluster_sizes[cluster_sizes > 1].sum()),
        "leak_identical_across": int(identical.sum()),
        "leak_near_across": int((near & ~identical).sum()),
        "leak_nearest_distance": int(distances.min()),
    }
    order = np.lexsort((rows, distances))[:_TABLE_ROWS]
    paths = manifest["path"].to_numpy()
    pairs = pd.DataFrame(
        {
            "distance": distances[order],
            "split": splits[rows[order]],
            "path": paths[rows[order]],
            "other_split": splits[partners[order]],
            "other_path": paths[partners[order]],
        },
        dtype=object,  # pandas' own text type cannot hold names that are not UTF-8
    ).astype({"distance": np.int64})
    return Leaks(counts, pairs)
