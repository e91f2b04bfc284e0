"""The pictures that the page shows: a tile, and its surroundings in the photo."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hairline.data import images
from hairline.labelling.pool import Pool

_LONGEST_PX = 640  # longest side of the pictures
_FACTOR = 4  # sides of the surroundings, in tiles
_PHOTOS, _PICTURES = 4, 256  # kept in memory
_QUALITY = 90


class Pictures:
    """JPEGs of tiles and their surroundings; safe for several threads."""

    def __init__(self, pool: Pool) -> None:
        """Show the tiles of a pool."""
        self._pool = pool
        self._lock = threading.Lock()  # one photo is decoded at a time: the next request often needs the same one
        self._decoded: Callable[[int], Image.Image] = functools.lru_cache(_PHOTOS)(self._decode)
        self.tile: Callable[[int], bytes] = functools.lru_cache(_PICTURES)(self._tile)
        self.surroundings: Callable[[int], bytes] = functools.lru_cache(_PICTURES)(self._surroundings)

    def frame(self, tile: int) -> tuple[float, float, float, float]:
        """Return where a tile lies in the picture of its surroundings: left, top, width, height as shares of it."""
        left, top, right, bottom = self._part(tile)
        x, y, width, height = self._pool.boxes[tile].tolist()
        across, down = right - left, bottom - top
        return (x - left) / across, (y - top) / down, width / across, height / down

    def _decode(self, photo: int) -> Image.Image:
        return images.upright(self._pool.photos[photo], narrow=True)

    def photo(self, tile: int) -> Image.Image:
        """Return the upright photo of a tile.

        Raises:
            ImageError: If it cannot be read.
        """
        with self._lock:
            return self._decoded(int(self._pool.photo[tile]))

    def pixels(self, tile: int, side: int) -> NDArray[np.uint8]:
        """Return a tile as the model sees it, uint8 [side, side, 3].

        Raises:
            ImageError: If its photo cannot be read.
        """
        return images.resize(self.photo(tile), side, self._corners(tile))

    def _corners(self, tile: int) -> tuple[int, int, int, int]:
        x, y, width, height = self._pool.boxes[tile].tolist()
        return x, y, x + width, y + height

    def _tile(self, tile: int) -> bytes:
        return _jpeg(self.photo(tile).crop(self._corners(tile)))

    def _surroundings(self, tile: int) -> bytes:
        return _jpeg(self.photo(tile).crop(self._part(tile)))

    def _part(self, tile: int) -> tuple[int, int, int, int]:
        """Return the box of the surroundings, moved into the photo where it would reach beyond its edge."""
        x, y, width, height = self._pool.boxes[tile].tolist()
        size = self._pool.sizes[self._pool.photo[tile]]
        spans = []
        for start, side, limit in ((x, width, int(size[0])), (y, height, int(size[1]))):
            length = min(_FACTOR * side, limit)
            first = min(max(start + side // 2 - length // 2, 0), limit - length)
            spans.append((first, first + length))
        return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def _jpeg(picture: Image.Image) -> bytes:
    """Return a picture as JPEG; larger ones are reduced, smaller ones enlarged by a whole factor."""
    if max(picture.size) > _LONGEST_PX:
        picture = picture.copy()
        picture.thumbnail((_LONGEST_PX, _LONGEST_PX), Image.Resampling.LANCZOS)
    elif (factor := _LONGEST_PX // max(picture.size)) > 1:
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC)
    return images.encoded(picture, "JPEG", quality=_QUALITY)
