"""The exact heat map of a tile: what each cell adds to the answer of the model as refitted to the labels so far.

It is computed for one tile when the page asks for it, so that a session without heat maps computes no maps.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hairline.data import images
from hairline.labelling.learner import Layer
from hairline.labelling.pictures import Pictures
from hairline.labelling.pool import Pool
from hairline.model import attribution
from hairline.model.engine import Reduce, Run
from hairline.system.errors import HairlineError

_FOR, _AGAINST = (200, 16, 46), (39, 93, 173)  # of cells that speak for the class, and against it
_OPACITY = 0.7  # of the strongest cell
_LONGEST_PX = 480  # longest side of the picture


class HeatMapError(HairlineError):
    """A model without maps of which a heat map could be made."""


class HeatMaps:
    """Heat maps of tiles; safe for several threads."""

    def __init__(
        self,
        pool: Pool,
        pictures: Pictures,
        layer: Callable[[], Layer],
        engine: Callable[[Reduce], Run],
        *,
        image_size: int,
        pooling: Sequence[str],
    ) -> None:
        """Prepare heat maps; the engine is loaded with the first one.

        Args:
            pool: The tiles.
            pictures: Their photos.
            layer: Returns the last layer as it is now.
            engine: Loads the model with its maps (`attribution.prepare`).
            image_size: Side of the model's input in pixels.
            pooling: How each map is pooled (`attribution.pooling`).
        """
        self._pool, self._pictures, self._layer, self._engine = pool, pictures, layer, engine
        self._image_size, self._pooling = image_size, pooling
        self._lock = threading.Lock()
        self._run: Run | None = None
        self._margin: tuple[NDArray[np.float32], float] = np.empty(0, np.float32), 0.0

    def cells(self, tile: int) -> NDArray[np.float32]:
        """Return what each cell of a tile adds to the log odds of its class, float32 [rows, columns].

        The class is the positive one, or the answer of a model without one; the log odds are those against the most
        probable other class, relative to the threshold. The bias is spread over the cells: their sum is the log odds.

        Raises:
            HeatMapError: If the model pools no maps.
            ImageError: If the photo cannot be read.
        """
        pixels = self._pictures.pixels(tile, self._image_size)
        with self._lock:
            self._run = self._run or self._engine(self._reduce)
            self._margin = margin(self._layer(), self._pool.features[tile])
            ((_, values),) = self._run(lambda row: pixels, 1)
        side = math.isqrt(values.shape[1])
        return np.asarray(values[0].reshape(side, side))

    def png(self, tile: int) -> bytes:
        """Return a heat map as a transparent PNG with the proportions of the tile's picture: red for, blue against."""
        values = self.cells(tile)
        colours = np.where(values[..., None] > 0, _FOR, _AGAINST)
        strength = np.abs(values) / max(float(np.abs(values).max()), 1e-12)
        pixels = np.dstack([colours, 255 * _OPACITY * strength]).astype(np.uint8)
        width, height = self._pool.boxes[tile, 2:].tolist()
        scale = _LONGEST_PX / max(width, height)
        size = max(round(scale * width), 1), max(round(scale * height), 1)
        return images.encoded(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST), "PNG")

    def _reduce(self, outputs: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return the contributions of the cells of a batch, flat."""
        _, *maps = outputs
        if not maps:
            raise HeatMapError("this model pools no maps: there is no heat map")
        kernel, bias = self._margin
        values = attribution.contributions(maps, kernel, self._pooling)
        return np.asarray((values + bias / values[0].size).reshape(len(values), -1))


def margin(layer: Layer, features: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Return kernel [width] and bias of a tile's log odds, relative to the threshold.

    Args:
        layer: The last layer.
        features: Of the tile, float32 [width].
    """
    logits = layer.logits(features)
    chosen = int(logits.argmax()) if layer.positive is None else layer.positive
    other = int(np.delete(np.arange(len(logits)), chosen)[np.delete(logits, chosen).argmax()])
    bias = layer.relative(layer.bias)
    return layer.kernel[:, chosen] - layer.kernel[:, other], float(bias[chosen] - bias[other])
