"""The leak report: whether images of one scene stand on two sides of the split, and which come closest to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hairline.data import duplicates

_TABLE_ROWS = 200


@dataclass(frozen=True)
class Leaks:
    """What the split keeps together and what it does not.

    Attributes:
        counts: Flat numbers: see `report`.
        pairs: The closest pairs across splits: distance, split, path, other_split, other_path, closest first.
    """

    counts: dict[str, int]
    pairs: pd.DataFrame


def report(manifest: pd.DataFrame, hashes: NDArray[np.uint64]) -> Leaks:
    """Compare each test image with all others, and each validation image with the training images.

    Args:
        manifest: With groups and splits.
        hashes: Perceptual hash of each image, uint64 [n].

    Returns:
        The closest pairs, and the counts `leak_groups`, `leak_largest_group` (images), `leak_groups_in_two_splits`,
        `leak_identical_images` (copies, byte by byte, of another image), `leak_near_images` (with another image within
        `duplicates.NEAR_DISTANCE` bits, copies not counted), `leak_identical_across` and `leak_near_across` (validation
        and test images that have such a counterpart in another part), and `leak_nearest_distance` (in bits of 64).
    """
    splits, digests = manifest["split"].to_numpy(), manifest["sha256"].to_numpy()
    parts = {name: np.flatnonzero(splits == name) for name in ("train", "val", "test")}
    found = []
    for name, others in (("test", ("train", "val")), ("val", ("train",))):
        against = np.concatenate([parts[other] for other in others])
        found += list(duplicates.nearest(hashes, parts[name], against))
    rows, partners, distances = (np.concatenate(column) for column in zip(*found, strict=True))
    seen = {name: set(digests[parts[name]]) for name in parts}
    identical = [
        digests[row] in seen["train"] or (splits[row] == "test" and digests[row] in seen["val"]) for row in rows
    ]
    near = distances <= duplicates.NEAR_DISTANCE
    sizes = manifest["group"].value_counts()
    one_each = manifest.drop_duplicates("sha256")
    named = duplicates.clusters(one_each["sha256"].tolist(), hashes[~manifest["sha256"].duplicated().to_numpy()])
    clustered = pd.Series(named).value_counts()
    counts = {
        "leak_groups": len(sizes),
        "leak_largest_group": int(sizes.max()),
        "leak_groups_in_two_splits": int((manifest.groupby("group")["split"].nunique() > 1).sum()),
        "leak_identical_images": len(manifest) - len(one_each),
        "leak_near_images": int(clustered[clustered > 1].sum()),
        "leak_identical_across": int(np.sum(identical)),
        "leak_near_across": int((near & ~np.array(identical)).sum()),
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
        dtype=object,  # pandas' own text type holds no names that are not UTF-8
    ).astype({"distance": np.int64})
    return Leaks(counts, pairs)
