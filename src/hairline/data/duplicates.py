"""Images that are one and the same to the eye: perceptual hashes, and who is near whom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# In bits of 64. Measured on METU's first 12,000 patches: at 4 the largest cluster is 4 images, at 6 it is 44, and at 10
# chains of likenesses make one of 837.
NEAR_DISTANCE = 4
SHAPE = (32, 32)  # pixels of what is transformed
THUMBNAIL = 64  # pixels a side from which those are made
_LOW = 8  # frequencies a side that are kept
_BITS = _LOW * _LOW


def shrink(picture: Image.Image) -> NDArray[np.uint8]:
    """Give what a picture's hash is made of, uint8 `SHAPE`.

    Args:
        picture: Of mode L and any size; `THUMBNAIL` pixels a side are enough.
    """
    return np.asarray(picture.resize(SHAPE, Image.Resampling.LANCZOS))


def perceptual_hashes(pictures: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Give the perceptual hash (pHash: the signs of low frequencies) of each picture, as the package imagehash does.

    Args:
        pictures: uint8 [n, *SHAPE]; many at once, as threads that take one by one wait for each other.

    Returns:
        uint64 [n].
    """
    waves = dctn(pictures.astype(np.float64), axes=(1, 2))[:, :_LOW, :_LOW].reshape(len(pictures), _BITS)
    bits = waves > np.median(waves, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def clusters(digests: Sequence[str], hashes: NDArray[np.uint64], distance: int = NEAR_DISTANCE) -> list[str]:
    """Name the cluster of each image: whatever is linked by a chain of near-identical images falls into one.

    Args:
        digests: sha256 of each file.
        hashes: Perceptual hash of each image, uint64 [n].
        distance: Bits in which near-identical images' hashes may differ.

    Returns:
        The smallest digest of each image's cluster, its first sixteen digits.
    """
    unique, codes = np.unique(hashes, return_inverse=True)
    pairs = near_pairs(unique, distance)
    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(len(unique), len(unique)))
    component = connected_components(links, directed=False)[1][codes]
    names: dict[int, str] = {}
    for number, digest in zip(component, digests, strict=True):
        names[number] = min(names.get(number, digest), digest)
    return [names[number][:16] for number in component]


def near_pairs(hashes: NDArray[np.uint64], distance: int) -> NDArray[np.int64]:
    """Find all pairs of hashes that differ in at most `distance` bits.

    Cut into `distance` + 1 bands of bits, two such hashes agree in one band at least: only those are compared.

    Args:
        hashes: uint64 [n], each once.
        distance: From 0 to 62.

    Returns:
        int64 [pairs, 2], places in `hashes`, the smaller first, in ascending order.

    >>> near_pairs(np.array([0b0000, 0b1111, 0b0001], np.uint64), 2).tolist()
    [[0, 2]]
    """
    edges = np.linspace(0, _BITS, distance + 2).astype(int)
    found = [np.empty((0, 2), np.int64)]
    for low, high in zip(edges, edges[1:], strict=False):
        band = (hashes >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(band, kind="stable")
        places, step = np.arange(len(hashes)), 0
        while len(places):  # partners one step further in the sorted band, as long as any agree
            step += 1
            places = places[places + step < len(hashes)]
            places = places[band[order[places]] == band[order[places + step]]]
            one, two = order[places], order[places + step]
            near = np.bitwise_count(hashes[one] ^ hashes[two]) <= distance
            found.append(np.sort(np.stack([one[near], two[near]], axis=1), axis=1))
    return np.unique(np.concatenate(found), axis=0)


def nearest(
    hashes: NDArray[np.uint64], rows: NDArray[np.int64], others: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Find each row's nearest among others.

    Args:
        hashes: uint64 [n].
        rows: int64, numbers of the images asked for.
        others: int64, numbers of the images they are compared with; at least one.

    Yields:
        A part of the rows, the nearest of each, and the distance in bits, int64 each.
    """
    for start in range(0, len(rows), 256):
        part = rows[start : start + 256]
        distances = np.bitwise_count(hashes[part][:, None] ^ hashes[others])
        closest = distances.argmin(axis=1)
        yield part, others[closest], distances[np.arange(len(part)), closest].astype(np.int64)
