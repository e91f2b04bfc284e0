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
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from hairline.data import augmentation, images
from hairline.data.decoded import Decoded
from hairline.model import store as stores
from hairline.model.engine import ConversionError, EngineError, convert, engine_versions, prepare_engine
from hairline.model.store import Store
from hairline.system import cache, cluster, files, progress

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

T = TypeVar("T")

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
        augment: Keyword arguments of `augmentation.view`, plus `seed` and `recipe`; only `recipe` where views are
            orientations, and empty for view 0.
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
    converted: Callable[[], Path] | None = None,
    keep: bool = True,
    threads: int | None = None,
    ray: Mapping[str, Any] | None = None,
    label: str = "features",
    decoded: Decoded | None = None,
) -> Features:
    """Return the features of image files; compute those that are not cached.

    Args:
        paths: Image files.
        digests: sha256 of each file.
        recipe: How the features are computed.
        backbone: Builds the model; called only if the engine needs it.
        converted: Returns the converted model, where a saved model holds it or another process makes it; called only if
            the engine needs it.
        keep: Read from and write to the cache.
        threads: CPU threads; None for all cores, or with `ray` for one per process.
        ray: Address and number of workers of a Ray cluster that computes what is missing, as for `cluster.map_items`;
            it sees the image files and the cache under the same paths. None: computed in this process.
        label: Caption of the progress bar.
        decoded: Caches the decoded pixels of `paths` across calls.

    Returns:
        One row per image, in the order of `paths`.

    Raises:
        CacheError: If the cache cannot be written.
        ClusterError: If the cluster cannot be used.
        EngineError: If `ray` is given and the engine is not LiteRT.
        ImageError: If a file is unreadable or has changed since its digest was computed.
    """

    def infer(rows: Sequence[int], recipe: Recipe) -> Iterator[np.ndarray]:
        """Return the features of some rows in blocks, float32 [images, width]."""

        def pixels(number: int) -> np.ndarray:
            row = rows[number]
            read = functools.partial(images.decode_file, paths[row], digests[row], recipe.image_size)
            return draw(read() if decoded is None else decoded.get(row, read), digests[row], recipe)

        file = converted() if converted is not None and recipe.engine == "litert" else None
        return run_engine(recipe, backbone, pixels, len(rows), converted=file, threads=threads, caption=(label, "img"))

    def fill(store: Store, rows: Sequence[int], recipe: Recipe) -> None:
        """Compute some rows and add them to a store, in this process or on the cluster."""
        missing = [digests[row] for row in rows]
        if ray is None:
            store.fill(missing, infer(rows, recipe))
            return
        if recipe.engine != "litert":
            raise EngineError(
                f"runtime.compute=ray: its processes run LiteRT, but {recipe.backbone} runs on TensorFlow here; set "
                "features.engine=litert, or runtime.compute=local if it does not convert"
            )
        file = convert(backbone, recipe.model_key()) if converted is None else converted()
        cache.hold(file)  # the other processes read it
        places = [os.path.abspath(paths[row]) for row in rows]
        fill_on_cluster(store, places, missing, recipe, file.absolute(), threads=threads or 1, label=label, **ray)

    def features(recipe: Recipe) -> Features:
        if keep:
            return cached(digests, recipe, fill, label=label)
        first = _first_rows(digests)
        place = {digest: number for number, digest in enumerate(first)}
        table = np.concatenate(list(infer(list(first.values()), recipe)))
        return Features.of(table).rows(np.array([place[digest] for digest in digests]))

    return falling_back(features, recipe)


def falling_back(use: Callable[[Recipe], T], recipe: Recipe) -> T:
    """Return what `use` returns for a recipe, or with TensorFlow's engine if its network does not convert to LiteRT."""
    try:
        return use(recipe)
    except ConversionError:
        log.warning("falling back to TensorFlow")
        return use(replace(recipe, engine="tensorflow"))  # a recipe of its own: TensorFlow rounds differently


def cached(
    keys: Sequence[str], recipe: Recipe, fill: Callable[[Store, Sequence[int], Recipe], None], *, label: str
) -> Features:
    """Return features from the recipe's store after adding the missing ones, shard by shard.

    Args:
        keys: Identify the images; one row each. Equal keys are one image.
        recipe: How the features are computed.
        fill: Adds the images of some rows to a store.
        label: For the log.
    """
    store, first = Store(recipe.key()), _first_rows(keys)
    with files.waiting(store.lock, "computes the same features"):
        missing = [row for key, row in first.items() if key not in store]
        there = f"{len(first) - len(missing):,} from the cache {store.folder}"
        log.info("%s: %s", label, f"{len(missing):,} to compute, {there}" if missing else f"all {there}")
        if missing:
            fill(store, missing, recipe)
        store.describe(recipe.description())
        return Features.stored(store, keys)


def _first_rows(keys: Sequence[str]) -> dict[str, int]:
    """Return the first row of each distinct key, in ascending order."""
    first: dict[str, int] = {}
    for row, key in enumerate(keys):
        first.setdefault(key, row)
    return first


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
        converted: The converted model; None: the engine converts `backbone` if necessary.
        threads: As for `compute`.
        caption: Label and unit of the progress bar.
    """
    key, size = recipe.model_key(), recipe.image_size
    run = prepare_engine(recipe.engine, backbone, key, image_size=size, converted=converted, threads=threads)
    with progress.bar(count, *caption) as bar:
        for _, block in run(decode, count):
            yield block
            bar.update(len(block))


def fill_on_cluster(
    store: Store,
    paths: list[str],
    digests: list[str],
    recipe: Recipe,
    converted: Path,
    *,
    threads: int,
    label: str,
    **ray: Any,
) -> None:
    """Add images to a store on a Ray cluster: its processes write the shards that `Store.fill` would write.

    They use the same engine in batches that begin at the same images, so on the same kind of processor the files are
    the same to the bit. Shards of an interrupted call are found when the store is opened again.

    Args:
        store: Open store, locked by this process.
        paths: Absolute paths of the image files.
        digests: sha256 of each file, each once.
        recipe: How the features are computed, by LiteRT.
        converted: Absolute path of the converted model.
        threads: CPU threads per process.
        label: Caption of the progress bar.
        ray: Address and number of workers, for `cluster.map_items`.
    """
    starts = range(0, len(digests), stores.SHARD_IMAGES)
    parts = [slice(start, start + stores.SHARD_IMAGES) for start in starts]
    shards = [(paths[part], digests[part]) for part in parts]
    settings = {"folder": store.folder, "recipe": recipe, "converted": converted, "threads": threads}
    with progress.bar(len(digests), label, "img") as bar:
        for count in cluster.map_items(ShardWriter, settings, shards, threads=threads, **ray):
            bar.update(count)
    for part in parts:
        store.admit(digests[part])


class ShardWriter:
    """Computes and writes shards, one per call, in a process of a cluster."""

    def __init__(self, folder: Path, recipe: Recipe, converted: Path, threads: int) -> None:
        """Load the engine.

        Args:
            folder: Of the store.
            recipe: How the features are computed, by LiteRT.
            converted: The converted model.
            threads: CPU threads.
        """
        self._folder, self._recipe = folder, recipe
        self._run = prepare_engine(
            "litert", _no_model, "", image_size=recipe.image_size, converted=converted, threads=threads
        )

    def __call__(self, shard: tuple[list[str], list[str]]) -> int:
        """Write the shard of these paths and digests, unless a lost process had written it; return their number."""
        (paths, digests), recipe = shard, self._recipe

        def decode(number: int) -> np.ndarray:
            pixels = images.decode_file(paths[number], digests[number], recipe.image_size)
            return draw(pixels, digests[number], recipe)

        if not stores.has_shard(self._folder, digests):
            rows = np.concatenate([block for _, block in self._run(decode, len(paths))])
            stores.write_shard(self._folder, digests, rows)
        return len(paths)


def _no_model() -> keras.Model:
    raise AssertionError("a converted model needs no other")


def draw(pixels: np.ndarray, digest: str, recipe: Recipe) -> np.ndarray:
    """Return the recipe's view of an image; drawn ones are a function of the image's digest, the seed and the view."""
    settings = {key: value for key, value in recipe.augment.items() if key != "recipe"}
    return augmentation.draw(pixels, digest, recipe.view, settings)
