"""tf.data pipelines for fine-tuning: batches of pixels, and of activations of the frozen layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from hairline.data import augmentation, images


def batches(
    paths: Sequence[str],
    digests: Sequence[str],
    labels: np.ndarray,
    *,
    image_size: int,
    batch_size: int,
    augment: Mapping[str, Any],
    weights: np.ndarray | None = None,
    view: int = 0,
    seed: int = 0,
    shuffle: bool = False,
) -> tf.data.Dataset:
    """Read, decode and batch images: decode -> shuffle -> augment -> batch -> prefetch.

    Args:
        paths: Image files.
        digests: SHA-256 of each file, to detect changes, and to seed its views.
        labels: float32 [n, classes], one-hot.
        image_size: Width and height of the decoded images, in pixels.
        batch_size: Images per batch; the last batch may be smaller.
        augment: Settings of `augmentation.draw`.
        weights: float32 [n], sample weights.
        view: Number of the drawn view; view 0 is the image itself.
        seed: Seed of the shuffling.
        shuffle: Whether to shuffle, differently in each pass.

    Returns:
        Dataset of pairs uint8 [batch, image_size, image_size, 3], RGB, and float32 [batch, classes], or of triples with
        weights float32 [batch].
    """

    def decode(row: int) -> np.ndarray:
        return images.decode_file(paths[row], digests[row], image_size)

    def draw(row: int, image: np.ndarray) -> np.ndarray:
        return augmentation.draw(image, digests[row], view, augment)

    def shaped(image: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(image, (image_size, image_size, 3))

    parallel = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}
    dataset = tf.data.Dataset.range(len(paths))
    dataset = dataset.map(lambda row: (row, shaped(tf.numpy_function(decode, [row], tf.uint8))), **parallel)
    if shuffle:
        dataset = dataset.shuffle(min(len(paths), 4096), seed=seed, reshuffle_each_iteration=True)
    if view:
        dataset = dataset.map(
            lambda row, image: (row, shaped(tf.numpy_function(draw, [row, image], tf.uint8))), **parallel
        )
    per_row = [tf.constant(values, tf.float32) for values in (labels, weights) if values is not None]
    dataset = dataset.map(lambda row, image: (image, *(values[row] for values in per_row)))
    return dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)


@dataclass
class Pass:
    """The rows of one epoch; changed between epochs, so that one dataset object serves all of them.

    One dataset per epoch would leak its graph each time, and memory would grow over the jobs of a sweep.

    Attributes:
        read: Returns features float32 [rows, width] for row numbers.
        order: int64, row numbers in the order of the epoch; equally many in every epoch.
    """

    read: Callable[[np.ndarray], np.ndarray]
    order: np.ndarray


def feature_batches(
    rows: Pass, width: int, labels: np.ndarray, *, batch_size: int, weights: np.ndarray | None = None
) -> tf.data.Dataset:
    """Batch rows of cached activations: order -> batch -> read -> prefetch.

    Args:
        rows: The rows of the epoch.
        width: Number of features.
        labels: float32 [n, classes], one-hot.
        batch_size: Rows per batch.
        weights: float32 [n], sample weights; None for equal weights.

    Returns:
        Dataset of pairs float32 [batch, width], float32 [batch, classes], or triples with weights float32 [batch].
    """
    per_row = [values for values in (labels, weights) if values is not None]

    def read(start: np.ndarray) -> list[np.ndarray]:
        numbers = rows.order[int(start) : int(start) + batch_size]
        return [rows.read(numbers), *(values[numbers] for values in per_row)]

    def gather(start: tf.Tensor) -> tuple[tf.Tensor, ...]:
        arrays = tf.numpy_function(read, [start], [tf.float32] * (1 + len(per_row)))
        shapes = [(None, width), *((None, *values.shape[1:]) for values in per_row)]
        return tuple(tf.ensure_shape(values, shape) for values, shape in zip(arrays, shapes, strict=True))

    # Reading whole batches is ten times faster than batching single rows.
    starts = tf.data.Dataset.range(0, len(rows.order), batch_size)
    # Two batches keep the training step busy; AUTOTUNE would hold a whole epoch.
    return starts.map(gather).prefetch(2)
