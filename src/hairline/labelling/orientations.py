"""Features of answered tiles in other orientations: each answer also teaches the tile mirrored and turned."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hairline.data import images
from hairline.data.augmentation import orientation
from hairline.labelling.pictures import Pictures
from hairline.labelling.pool import Pool
from hairline.model.engine import Run, prepare_engine
from hairline.model.features import Recipe, falling_back

if TYPE_CHECKING:
    import keras


log = logging.getLogger(__name__)

_TILES = 8  # kept as pixels: as many as the threads work on


class Orientations:
    """Computes the features of tiles in other orientations, once for each tile; for one thread."""

    def __init__(
        self,
        pool: Pool,
        recipe: Recipe,
        backbone: Callable[[], keras.Model],
        numbers: Sequence[int],
        *,
        converted: Path | None = None,
        threads: int | None = None,
    ) -> None:
        """Prepare the pass; the engine is loaded with the first tile.

        Args:
            pool: The tiles.
            recipe: How their features were computed.
            backbone: Builds the model; called only if the engine needs it.
            numbers: Orientations, from `augmentation.orientations`.
            converted: The converted model, where a saved model holds it.
            threads: CPU threads; None for all cores.
        """
        self._pool, self._recipe, self._backbone = pool, recipe, backbone
        self._converted, self._threads = converted, threads
        self._numbers = list(numbers)
        self._pictures = Pictures(pool)  # its own, so that the page never waits for a photo that is decoded here
        self._run: Run | None = None
        self._known: dict[int, NDArray[np.float32]] = {}

    def features(self, tiles: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the features of tiles, float32 [orientations, tiles, width].

        A tile whose photo can no longer be read has its own features in all orientations.
        """
        missing = sorted(set(tiles.tolist()) - self._known.keys())
        for photo, group in itertools.groupby(missing, key=lambda tile: int(self._pool.photo[tile])):
            part = list(group)
            try:
                rows = self._compute(part)
            except images.ImageError as error:
                log.warning("WARNING: %s: %s. The model learns its tiles as they are", self._pool.photos[photo], error)
                rows = np.repeat(self._pool.features[part][:, None], len(self._numbers), axis=1)
            self._known |= dict(zip(part, rows, strict=True))
        return np.stack([self._known[tile] for tile in tiles.tolist()], axis=1)

    def _compute(self, tiles: list[int]) -> NDArray[np.float32]:
        """Return the features of tiles, float32 [tiles, orientations, width]."""
        self._run = self._run or falling_back(self._engine, self._recipe)
        count, side = len(self._numbers), self._recipe.image_size
        pixels = functools.lru_cache(_TILES)(lambda tile: self._pictures.pixels(tile, side))

        def view(number: int) -> NDArray[np.uint8]:
            return orientation(pixels(tiles[number // count]), self._numbers[number % count])

        rows = np.concatenate([block for _, block in self._run(view, count * len(tiles))])
        return rows.reshape(len(tiles), count, -1)

    def _engine(self, recipe: Recipe) -> Run:
        return prepare_engine(
            recipe.engine,
            self._backbone,
            recipe.model_key(),
            image_size=recipe.image_size,
            converted=self._converted,
            threads=self._threads,
        )
