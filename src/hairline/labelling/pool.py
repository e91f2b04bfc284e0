"""The tiles of photos with their features: what a labelling session chooses from."""

from __future__ import annotations

import functools
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from hairline.data import images, manifest
from hairline.inspection import tiles
from hairline.model.features import Recipe, cached, falling_back, run_engine
from hairline.model.store import Store

if TYPE_CHECKING:
    import keras

_DECODED = 3  # photos kept decoded while their tiles are computed: threads are at most one photo apart


@dataclass(frozen=True)
class Pool:
    """Tiles of photos.

    Attributes:
        photos: The photos, as absolute paths.
        sizes: Width and height of each upright photo in pixels, int64 [photos, 2].
        photo: Index in `photos` of each tile, int64 [n].
        boxes: x, y, width and height of each tile in pixels of its upright photo, int64 [n, 4].
        features: float32 [n, width].
    """

    photos: list[str]
    sizes: NDArray[np.int64]
    photo: NDArray[np.int64]
    boxes: NDArray[np.int64]
    features: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.photo)


def compute(
    photos: Sequence[Path],
    recipe: Recipe,
    backbone: Callable[[], keras.Model],
    *,
    tile_px: int,
    converted: Path | None = None,
    threads: int | None = None,
) -> tuple[Pool, dict[str, str]]:
    """Divide photos into tiles and return them with their features; compute features that are not cached.

    Args:
        photos: Image files.
        recipe: How the features are computed.
        backbone: Builds the model; called only if the engine needs it.
        tile_px: Side of a tile, in pixels of the photo.
        converted: The converted model, where a saved model holds it.
        threads: CPU threads; None for all cores.

    Returns:
        The pool, and the photos that cannot be read with the reason.

    Raises:
        CacheError: If the cache cannot be written.
        ImageError: If a photo changes meanwhile.
    """
    rows = pd.DataFrame({"path": [os.path.abspath(photo) for photo in photos], "label": ""}, dtype=object)
    table, rejected = manifest.scan(rows)
    problems = dict(zip(rejected["path"], rejected["reason"], strict=True))
    paths, digests = table["path"].tolist(), table["sha256"].tolist()
    sizes = table[["width", "height"]].to_numpy(np.int64)
    boxes = [tiles.grid(width, height, tile_px=tile_px, stride_px=tile_px).boxes() for width, height in sizes.tolist()]
    photo = np.repeat(np.arange(len(paths)), [len(part) for part in boxes])
    joined = np.concatenate([np.empty((0, 4), np.int64), *boxes])
    keys = [_key(digests[number], box) for number, box in zip(photo.tolist(), joined.tolist(), strict=True)]

    def fill(store: Store, rows: Sequence[int], recipe: Recipe) -> None:
        lock = threading.Lock()  # the other threads need the same photo, or the next one

        def decode(number: int) -> Image.Image:
            return images.upright_file(paths[number], digests[number])

        decoded: Callable[[int], Image.Image] = functools.lru_cache(_DECODED)(decode)

        def tile(number: int) -> NDArray[np.uint8]:
            row = rows[number]
            x, y, width, height = joined[row].tolist()
            with lock:
                picture = decoded(int(photo[row]))
            return images.resize(picture, recipe.image_size, (x, y, x + width, y + height))

        caption = ("features", "tiles")
        blocks = run_engine(recipe, backbone, tile, len(rows), converted=converted, threads=threads, caption=caption)
        store.fill([keys[row] for row in rows], blocks)

    features = np.empty((0, 0), np.float32)
    if keys:
        features = falling_back(lambda recipe: cached(keys, recipe, fill, label="features"), recipe).read()
    return Pool(paths, sizes, photo, joined, features), problems


def _key(digest: str, box: list[int]) -> str:
    """Return the digest of a tile: of its photo's file and its place."""
    return hashlib.sha256(f"{digest} {box}".encode()).hexdigest()
