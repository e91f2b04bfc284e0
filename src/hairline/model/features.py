"""Frozen features: what a backbone makes of an image, computed once and kept for every run that asks again.

A kept feature is addressed by all that changes its numbers: the image's bytes, how they are decoded and resized, the
backbone with its weights, the family of the engine, and the view. Images of one such recipe share a folder of
shards; a shard holds some hundred images' rows and is written in one step, so that a killed pass goes on where it was.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hairline.data import augmentation, images
from hairline.data.decoded import Decoded
from hairline.model.engine import ConversionError, prepare_engine
from hairline.model.store import Store, evict
from hairline.system import progress

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

SHARD_IMAGES = 512
_BLOCK_BYTES = 6_000_000  # of rows read at once; what is made of them takes several times as much


@dataclass(frozen=True)
class Recipe:
    """All that, beside an image's bytes, changes its features.

    Attributes:
        backbone: Its name.
        weights: Digest of the weights file, or the seed of random weights.
        image_size: Pixels a side.
        engine: Family of the engine: they agree to rounding, not to the bit.
        view: Number of the view; 0 is the image itself.
        augment: Keyword arguments of `augmentation.view`, its seed and recipe included; empty for view 0.
        taps: Layers that are pooled; empty for the last one.
        precision: Data type policy the backbone is built with.
        decode: The decoding recipe.
    """

    backbone: str
    weights: str
    image_size: int
    engine: str
    view: int = 0
    augment: dict[str, Any] = field(default_factory=dict)
    taps: tuple[str, ...] = ()
    precision: str = "float32"
    decode: str = images.RECIPE

    def key(self) -> str:
        """Digest the recipe; 24 hexadecimal digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:24]

    def model_key(self) -> str:
        """Name the backbone with its weights, size, taps and precision, whatever it is applied to."""
        return hashlib.sha256(
            f"{self.backbone} {self.weights} {self.image_size} {self.taps} {self.precision}".encode()
        ).hexdigest()[:24]


class Features:
    """Features of images, row by row, in memory or mapped from shards: they look like one array float32 [n, width]."""

    def __init__(self, shards: Sequence[np.ndarray], places: np.ndarray) -> None:
        """Take arrays float32 [rows, width], and int64 [n, 2]: shard and row of each image."""
        self._shards, self._places = list(shards), places

    @classmethod
    def of(cls, array: np.ndarray) -> Features:
        """Wrap an array float32 [n, width]."""
        return cls([array], np.stack([np.zeros(len(array), np.int64), np.arange(len(array))], axis=1))

    @classmethod
    def joined(cls, parts: Sequence[Features]) -> Features:
        """Put parts one behind the other."""
        places, shards = [], []
        for part in parts:
            places.append(part._places + [len(shards), 0])
            shards.extend(part._shards)
        return cls(shards, np.concatenate(places))

    def __len__(self) -> int:
        return len(self._places)

    @property
    def width(self) -> int:
        """Features an image."""
        return int(self._shards[0].shape[1])

    def rows(self, numbers: np.ndarray) -> Features:
        """Give some of the rows, without reading them."""
        return Features(self._shards, self._places[numbers])

    def read(self, numbers: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Read rows into memory, float32 [n, width]."""
        places = self._places[numbers]
        found = np.empty((len(places), self.width), np.float32)
        for shard in np.unique(places[:, 0]):
            chosen = np.flatnonzero(places[:, 0] == shard)
            found[chosen] = self._shards[shard][places[chosen, 1]]
        return found

    def blocks(self) -> Iterator[np.ndarray]:
        """Give all rows in order, float32 [some, width], few at a time: together they need not fit into memory."""
        rows = max(1, _BLOCK_BYTES // (4 * self.width))
        return (self.read(slice(start, start + rows)) for start in range(0, len(self), rows))


def compute(
    paths: Sequence[str],
    digests: Sequence[str],
    recipe: Recipe,
    backbone: Callable[[], keras.Model],
    *,
    keep: bool = True,
    max_gigabytes: float = 20.0,
    threads: int | None = None,
    label: str = "features",
    decoded: Decoded | None = None,
) -> Features:
    """Give the features of image files, computing those that are not kept yet.

    Args:
        paths: Image files.
        digests: sha256 of each file's bytes.
        recipe: How features are made.
        backbone: Builds the model; called only if something has to be computed by TensorFlow or converted.
        keep: Whether features are read from the cache and written to it.
        max_gigabytes: Size of all kept features above which the least recently used recipes are deleted.
        threads: CPU threads; None for all cores.
        label: Caption of the progress bar.
        decoded: Keeps the pixels of `paths` from one call to the next.

    Returns:
        One row an image, in the order of `paths`.

    Raises:
        CacheError: If the cache cannot be written to.
        ImageError: If a file can no longer be read, or changed since its digest was taken.
    """
    try:
        return _compute(paths, digests, recipe, backbone, keep, max_gigabytes, threads, label, decoded)
    except ConversionError:
        log.warning("going on with TensorFlow")
        other = replace(recipe, engine="tensorflow")  # it rounds differently, so what it makes is kept apart
        return _compute(paths, digests, other, backbone, keep, max_gigabytes, threads, label, decoded)


def _compute(
    paths: Sequence[str],
    digests: Sequence[str],
    recipe: Recipe,
    backbone: Callable[[], keras.Model],
    keep: bool,
    max_gigabytes: float,
    threads: int | None,
    label: str,
    decoded: Decoded | None,
) -> Features:
    first = dict(reversed([(digest, row) for row, digest in enumerate(digests)]))  # each image once
    if not keep:
        order = list(first)
        rows = [first[digest] for digest in order]
        blocks = _passed(paths, digests, rows, recipe, backbone, threads, label, decoded)
        table = {digest: number for number, digest in enumerate(order)}
        return Features.of(np.concatenate(list(blocks))).rows(np.array([table[digest] for digest in digests]))
    store = Store(recipe.key())
    with store.lock:
        missing = [row for digest, row in first.items() if digest not in store]
        if missing:
            kept = len(first) - len(missing)
            log.info("%s: %s to compute, %s from the cache %s", label, f"{len(missing):,}", f"{kept:,}", store.folder)
            made: list[np.ndarray] = []
            done = waiting = 0
            for block in _passed(paths, digests, missing, recipe, backbone, threads, label, decoded):
                made.append(block)
                waiting += len(block)
                if waiting >= SHARD_IMAGES or done + waiting == len(missing):
                    store.add([digests[row] for row in missing[done : done + waiting]], np.concatenate(made))
                    done, waiting, made = done + waiting, 0, []
        else:
            log.info("%s: all %s from the cache %s", label, f"{len(first):,}", store.folder)
        store.touch(asdict(recipe))
        found = Features(store.shards, np.array([store.places[digest] for digest in digests]))
    evict(max_gigabytes, spared=store.folder)
    return found


def _passed(
    paths: Sequence[str],
    digests: Sequence[str],
    rows: Sequence[int],
    recipe: Recipe,
    backbone: Callable[[], keras.Model],
    threads: int | None,
    label: str,
    decoded: Decoded | None,
) -> Any:
    """Run the engine over some rows, with a progress bar; yields float32 [images, width]."""

    def read(row: int) -> np.ndarray:
        try:
            return images.decode(images.read(paths[row], digests[row]), recipe.image_size)
        except images.ImageError as error:
            raise images.ImageError(f"{paths[row]}: {error}") from error

    def decode(number: int) -> np.ndarray:
        row = rows[number]
        pixels = read(row) if decoded is None else decoded.get(row, functools.partial(read, row))
        return draw(pixels, digests[row], recipe) if recipe.view else pixels

    chosen: Any = recipe.engine
    run = prepare_engine(chosen, backbone, recipe.model_key(), image_size=recipe.image_size, threads=threads)
    with progress.bar(len(rows), label, "img") as shown:
        for _, block in run(decode, len(rows)):
            yield block
            shown.update(len(block))


def draw(pixels: np.ndarray, digest: str, recipe: Recipe) -> np.ndarray:
    """Draw the recipe's view of decoded pixels; the same image, seed and view always give the same."""
    settings = {key: value for key, value in recipe.augment.items() if key != "recipe"}
    seed = (settings.pop("seed"), recipe.view, int(digest[:16], 16))
    return augmentation.view(pixels, seed=seed, **settings)
