"""Batches of pixels, by tf.data. The order of the stages is written here and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from hairline.data import augmentation, images


def batches(
    paths: Sequence[str],
    *,
    image_size: int,
    batch_size: int,
    labels: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    digests: Sequence[str] | None = None,
    augment: dict[str, Any] | None = None,
    view: int = 0,
    seed: int = 0,
    shuffle: bool = False,
    cache: bool = False,
) -> tf.data.Dataset:
    """Read, decode and batch images: decode -> cache -> shuffle -> augment -> batch -> prefetch.

    The cache comes before everything random, so that no draw is frozen into it; shuffling comes before augmentation,
    so that the shuffle buffer holds row numbers' worth of decoded images and each epoch's draws follow the seed.

    Args:
        paths: Image files.
        image_size: Width and height of the decoded images, in pixels.
        batch_size: Images a batch; the last batch may be smaller.
        labels: float32 [n, classes], one-hot; when given, elements are (images, labels) pairs.
        weights: float32 [n], what each image counts in the loss; when given with labels, elements are triples.
        digests: sha256 of each file, to see that none changed; needed for augmentation, where it names the image.
        augment: Keyword arguments of `augmentation.view`, `seed` a whole number; None for the images as they are.
        view: Number of the view that is drawn. View 0 is the image itself, whatever `augment` says.
        seed: Seed of shuffling.
        shuffle: Whether to shuffle, anew for each pass.
        cache: Whether to keep decoded images in memory after the first pass.

    Returns:
        Data set of uint8 [batch, image_size, image_size, 3], RGB, or of pairs with float32 [batch, classes].
    """
    files = [os.fsencode(path) for path in paths]

    def decode(row: np.ndarray) -> np.ndarray:
        try:
            content = images.read(os.fsdecode(files[row]), None if digests is None else digests[row])
            return images.decode(content, image_size)
        except images.ImageError as error:  # it could be read when it was scanned: say which changed
            raise images.ImageError(f"{paths[row]}: {error}") from error

    def draw(row: np.ndarray, image: np.ndarray) -> np.ndarray:
        if digests is None:
            raise ValueError("augmentation needs the images' digests")
        name = int(digests[row][:16], 16)
        settings = dict(augment or {})
        return augmentation.view(image, seed=(settings.pop("seed"), view, name), **settings)

    def shaped(image: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(image, (image_size, image_size, 3))

    parallel = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}
    dataset = tf.data.Dataset.range(len(files))
    dataset = dataset.map(lambda row: (row, shaped(tf.numpy_function(decode, [row], tf.uint8))), **parallel)
    if cache:
        dataset = dataset.cache()
    if shuffle:
        dataset = dataset.shuffle(min(len(files), 4096), seed=seed, reshuffle_each_iteration=True)
    if augment is not None and view > 0:
        dataset = dataset.map(
            lambda row, image: (row, shaped(tf.numpy_function(draw, [row, image], tf.uint8))), **parallel
        )
    if labels is None:
        dataset = dataset.map(lambda row, image: image)
    else:
        per_row = [tf.constant(values, tf.float32) for values in (labels, weights) if values is not None]
        dataset = dataset.map(lambda row, image: (image, *(values[row] for values in per_row)))
    return dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)


@dataclass
class Pass:
    """What a data set of features goes through: change it between epochs, and the same data set gives the next one.

    A data set an epoch would leave its graph behind every time: memory would climb over the jobs of a sweep.

    Attributes:
        read: Gives rows float32 [rows, width] by their numbers; rows may lie on disk.
        order: int64, numbers of the rows in the order of the pass, all or some; as many in every pass.
    """

    read: Callable[[np.ndarray], np.ndarray]
    order: np.ndarray


def feature_batches(
    rows: Pass, width: int, labels: np.ndarray, *, batch_size: int, weights: np.ndarray | None = None
) -> tf.data.Dataset:
    """Batch rows of features for the head: order -> batch -> read -> prefetch.

    Args:
        rows: The rows of the pass.
        width: Features an image.
        labels: float32 [n, classes], one-hot.
        batch_size: Rows a batch.
        weights: float32 [n], what each row counts in the loss; None: all the same.

    Returns:
        Data set of pairs float32 [batch, width], float32 [batch, classes], or of triples with weights float32 [batch].
    """
    per_row = [values for values in (labels, weights) if values is not None]

    def read(start: np.ndarray) -> list[np.ndarray]:
        numbers = rows.order[int(start) : int(start) + batch_size]
        return [rows.read(numbers), *(values[numbers] for values in per_row)]

    def gather(start: tf.Tensor) -> tuple[tf.Tensor, ...]:
        found = tf.numpy_function(read, [start], [tf.float32] * (1 + len(per_row)))
        shapes = [(None, width), *((None, *values.shape[1:]) for values in per_row)]
        return tuple(tf.ensure_shape(values, shape) for values, shape in zip(found, shapes, strict=True))

    # Whole batches of rows are read at once: an order of magnitude quicker than batching single rows.
    starts = tf.data.Dataset.range(0, len(rows.order), batch_size)
    # Two batches ahead keep the step busy; left to itself TensorFlow holds as many as an epoch has.
    return starts.map(gather).prefetch(2)
