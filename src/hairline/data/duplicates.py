"""Near-identical images: perceptual hashes and pairs of near hashes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# Hamming distance, of 64 bits. On METU's first 12,000 patches the largest cluster has 4 images at 4, 44 at 6, and 837
# (a chain) at 10.
NEAR_DISTANCE = 4
SHAPE = (32, 32)  # pixels of the transformed picture
THUMBNAIL = 64  # pixels per side of the picture it is resized from
_LOW = 8  # frequencies per side that are used
_BITS = _LOW * _LOW


def shrink(picture: Image.Image) -> NDArray[np.uint8]:
    """Return the input of the perceptual hash, uint8 `SHAPE`.

    Args:
        picture: Mode L, any size; `THUMBNAIL` pixels per side are enough.
    """
    return np.asarray(picture.resize(SHAPE, Image.Resampling.LANCZOS))


def perceptual_hashes(pictures: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Compute the perceptual hash of each picture (pHash: signs of low frequencies), equal to the package imagehash.

    Args:
        pictures: uint8 [n, *SHAPE]; a batch, because threads that take single pictures wait for each other.

    Returns:
        uint64 [n].
    """
    waves = dctn(pictures.astype(np.float64), axes=(1, 2))[:, :_LOW, :_LOW].reshape(len(pictures), _BITS)
    bits = waves > np.median(waves, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def clusters(digests: Sequence[str], hashes: NDArray[np.uint64]) -> list[str]:
    """Return the cluster of each image; chains of near-identical images form one cluster.

    Args:
        digests: SHA-256 of each file.
        hashes: uint64 [n], perceptual hash of each image.

    Returns:
        The first 16 digits of the smallest digest in each image's cluster.
    """
    unique, codes = np.unique(hashes, return_inverse=True)
    pairs = near_pairs(unique, NEAR_DISTANCE)
    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(len(unique), len(unique)))
    component = connected_components(links, directed=False)[1][codes]
    names: dict[int, str] = {}
    for number, digest in zip(component, digests, strict=True):
        names[number] = min(names.get(number, digest), digest)
    return [names[number][:16] for number in component]


def near_pairs(hashes: NDArray[np.uint64], distance: int) -> NDArray[np.int64]:
    """Return all pairs of hashes that differ in at most `distance` bits.

    Two such hashes agree in at least one of `distance` + 1 bands of bits, so only those are compared.

    Args:
        hashes: uint64 [n], unique.
        distance: 0 to 62.

    Returns:
        int64 [pairs, 2], positions in `hashes`, sorted, the smaller one first.

    >>> near_pairs(np.array([0b0000, 0b1111, 0b0001], np.uint64), 2).tolist()
    [[0, 2]]
    """
    edges = np.linspace(0, _BITS, distance + 2).astype(int)
    pairs = [np.empty((0, 2), np.int64)]
    for low, high in zip(edges, edges[1:], strict=False):
        band = (hashes >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(band, kind="stable")
        positions, step = np.arange(len(hashes)), 0
        while len(positions):  # compare with the hash `step` further in the sorted band, while any bands agree
            step += 1
            positions = positions[positions + step < len(hashes)]
            positions = positions[band[order[positions]] == band[order[positions + step]]]
            one, two = order[positions], order[positions + step]
            near = np.bitwise_count(hashes[one] ^ hashes[two]) <= distance
            pairs.append(np.sort(np.stack([one[near], two[near]], axis=1), axis=1))
    return np.unique(np.concatenate(pairs), axis=0)


def nearest(
    hashes: NDArray[np.uint64], rows: NDArray[np.int64], others: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the nearest of `others` for each of `rows`, in chunks.

    Args:
        hashes: uint64 [n].
        rows: int64, row numbers of the queries.
        others: int64, row numbers of the candidates; at least one.

    Yields:
        A chunk of `rows`, the nearest candidate of each, and its distance in bits, int64 each.
    """
    for start in range(0, len(rows), 256):
        part = rows[start : start + 256]
        distances = np.bitwise_count(hashes[part][:, None] ^ hashes[others])
        closest = distances.argmin(axis=1)
        yield part, others[closest], distances[np.arange(len(part)), closest].astype(np.int64)
