"""Features of a frozen backbone, computed once per image and cached on disk.

The cache key contains everything that changes the numbers: the image's bytes, decoding, resizing, the backbone and its
weights, the engine and the view. All images of one `Recipe` share a folder of shards. A shard holds a few hundred rows
and is written atomically, so a killed pass resumes from the last shard.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hairline.data import augmentation, images
from hairline.data.decoded import Decoded
from hairline.model.engine import ConversionError, engine_versions, prepare_engine
from hairline.model.store import Store
from hairline.system import files, progress

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

_BLOCK_BYTES = 6_000_000  # size of a block of rows; results computed from it take several times as much


@dataclass(frozen=True)
class Recipe:
    """Everything, apart from an image's bytes, that changes its features.

    Attributes:
        backbone: Name of the backbone.
        weights: Digest of the weights file, or the seed of random weights.
        image_size: Input side in pixels.
        engine: Engines agree to rounding, not to the bit, and so do versions of one.
        view: Number of the augmented view; 0 is the image itself.
        augment: Keyword arguments of `augmentation.view`, plus `seed` and `recipe`; empty for view 0.
        taps: Layers that are pooled; empty for the last one.
        precision: Data type policy of the backbone.
        scaling: How pixels are scaled before the first layer, from `backbones.scaling`; empty where the digest of the
            weights covers it.
        decode: Version of the decoding steps.
    """

    backbone: str
    weights: str
    image_size: int
    engine: Literal["litert", "tensorflow"]
    view: int = 0
    augment: dict[str, Any] = field(default_factory=dict)
    taps: tuple[str, ...] = ()
    precision: str = "float32"
    scaling: str = ""
    decode: str = images.RECIPE

    def description(self) -> dict[str, Any]:
        """Return all attributes, and the versions of the libraries that compute the features."""
        return asdict(self) | {"versions": engine_versions(self.engine)}

    def key(self) -> str:
        """Return the digest of the description, 24 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.description(), sort_keys=True).encode()).hexdigest()[:24]

    def model_key(self) -> str:
        """Return a digest of the backbone's weights, size, taps, precision and scaling, independent of the images."""
        model = [self.backbone, self.weights, self.image_size, self.taps, self.precision, self.scaling]
        return hashlib.sha256(json.dumps(model).encode()).hexdigest()[:24]


class Features:
    """Features of images in memory or memory-mapped shards, addressed like one array float32 [n, width]."""

    def __init__(self, shards: Sequence[np.ndarray], places: np.ndarray, uses: Sequence[object] = ()) -> None:
        """Wrap shards.

        Args:
            shards: Arrays float32 [rows, width].
            places: int64 [n, 2], shard and row of each image.
            uses: Marks of `cache.use`, which keep the files of the shards while this object lives.
        """
        self._shards, self._places, self._uses = list(shards), places, list(uses)

    @classmethod
    def of(cls, array: np.ndarray) -> Features:
        """Wrap an array float32 [n, width]."""
        return cls([array], np.stack([np.zeros(len(array), np.int64), np.arange(len(array))], axis=1))

    @classmethod
    def stored(cls, store: Store, digests: Sequence[str]) -> Features:
        """Return the features that a store holds of images."""
        return cls(store.shards, np.array([store.places[digest] for digest in digests], np.int64), [store.use])

    @classmethod
    def joined(cls, parts: Sequence[Features]) -> Features:
        """Concatenate parts along the rows."""
        places: list[np.ndarray] = []
        shards: list[np.ndarray] = []
        for part in parts:
            places.append(part._places + np.array([len(shards), 0]))
            shards.extend(part._shards)
        return cls(shards, np.concatenate(places), [use for part in parts for use in part._uses])

    def __len__(self) -> int:
        return len(self._places)

    @property
    def width(self) -> int:
        """Number of features per image."""
        return int(self._shards[0].shape[1])

    def rows(self, numbers: np.ndarray) -> Features:
        """Select rows by index or mask, without reading them."""
        return Features(self._shards, self._places[numbers], self._uses)

    def read(self, numbers: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Read rows into memory, float32 [n, width]."""
        places = self._places[numbers]
        array = np.empty((len(places), self.width), np.float32)
        for shard in np.unique(places[:, 0]):
            rows = np.flatnonzero(places[:, 0] == shard)
            array[rows] = self._shards[shard][places[rows, 1]]
        return array

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield all rows in order as float32 [rows, width], in blocks small enough for memory."""
        rows = max(1, _BLOCK_BYTES // (4 * self.width))
        return (self.read(slice(start, start + rows)) for start in range(0, len(self), rows))


def compute(
    paths: Sequence[str],
    digests: Sequence[str],
    recipe: Recipe,
    backbone: Callable[[], keras.Model],
    *,
    converted: Path | None = None,
    keep: bool = True,
    threads: int | None = None,
    label: str = "features",
    decoded: Decoded | None = None,
) -> Features:
    """Return the features of image files; compute those that are not cached.

    Args:
        paths: Image files.
        digests: sha256 of each file.
        recipe: How the features are computed.
        backbone: Builds the model; called only if the engine needs it.
        converted: The converted model, where a saved model holds it.
        keep: Read from and write to the cache.
        threads: CPU threads; None for all cores.
        label: Caption of the progress bar.
        decoded: Caches the decoded pixels of `paths` across calls.

    Returns:
        One row per image, in the order of `paths`.

    Raises:
        CacheError: If the cache cannot be written.
        ImageError: If a file is unreadable or has changed since its digest was computed.
    """
    first = dict(reversed([(digest, row) for row, digest in enumerate(digests)]))  # one row per distinct image

    def infer(rows: Sequence[int], recipe: Recipe) -> Iterator[np.ndarray]:
        """Return the features of some rows in blocks, float32 [images, width]."""

        def read(row: int) -> np.ndarray:
            try:
                return images.decode(images.read(paths[row], digests[row]), recipe.image_size)
            except images.ImageError as error:
                raise images.ImageError(f"{paths[row]}: {error}") from error

        def pixels(number: int) -> np.ndarray:
            row = rows[number]
            image = read(row) if decoded is None else decoded.get(row, functools.partial(read, row))
            return draw(image, digests[row], recipe) if recipe.view else image

        return run_engine(
            recipe, backbone, pixels, len(rows), converted=converted, threads=threads, caption=(label, "img")
        )

    def features(recipe: Recipe) -> Features:
        if keep:
            return _cached(digests, first, recipe, infer, label)
        rows = {digest: number for number, digest in enumerate(first)}
        table = np.concatenate(list(infer(list(first.values()), recipe)))
        return Features.of(table).rows(np.array([rows[digest] for digest in digests]))

    try:
        return features(recipe)
    except ConversionError:
        log.warning("falling back to TensorFlow")
        return features(replace(recipe, engine="tensorflow"))  # a recipe of its own: TensorFlow rounds differently


def run_engine(
    recipe: Recipe,
    backbone: Callable[[], keras.Model],
    decode: Callable[[int], np.ndarray],
    count: int,
    *,
    converted: Path | None,
    threads: int | None,
    caption: tuple[str, str],
) -> Iterator[np.ndarray]:
    """Run the engine of a recipe with a progress bar; yield features in order, float32 [images, width].

    Args:
        recipe: How the features are computed.
        backbone: As for `compute`.
        decode: Returns the pixels of image i of `count`, uint8 [image_size, image_size, 3]; threads call it.
        count: Number of images.
        converted: As for `compute`.
        threads: As for `compute`.
        caption: Label and unit of the progress bar.
    """
    key, size = recipe.model_key(), recipe.image_size
    run = prepare_engine(recipe.engine, backbone, key, image_size=size, converted=converted, threads=threads)
    with progress.bar(count, *caption) as bar:
        for _, block in run(decode, count):
            yield block
            bar.update(len(block))


def _cached(
    digests: Sequence[str],
    first: Mapping[str, int],
    recipe: Recipe,
    infer: Callable[[Sequence[int], Recipe], Iterator[np.ndarray]],
    label: str,
) -> Features:
    """Return features from the recipe's store after adding the missing ones, shard by shard."""
    store = Store(recipe.key())
    with files.waiting(store.lock, "computes the same features"):
        missing = [row for digest, row in first.items() if digest not in store]
        cached = f"{len(first) - len(missing):,} from the cache {store.folder}"
        log.info("%s: %s", label, f"{len(missing):,} to compute, {cached}" if missing else f"all {cached}")
        if missing:
            store.fill([digests[row] for row in missing], infer(missing, recipe))
        store.describe(recipe.description())
        return Features.stored(store, digests)


def draw(pixels: np.ndarray, digest: str, recipe: Recipe) -> np.ndarray:
    """Draw the recipe's view of an image; a function of the image's digest, the seed and the view."""
    settings = {key: value for key, value in recipe.augment.items() if key != "recipe"}
    seed = (settings.pop("seed"), recipe.view, int(digest[:16], 16))
    return augmentation.view(pixels, seed=seed, **settings)
