"""Frozen features: what a backbone makes of every image, computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hairline import progress
from hairline.data import pipeline

if TYPE_CHECKING:
    import keras


def compute(
    backbone: keras.Model,
    paths: Sequence[str],
    *,
    image_size: int,
    batch_size: int = 32,
    digests: Sequence[str] | None = None,
    augment: dict[str, Any] | None = None,
    view: int = 0,
    seed: int = 0,
    label: str = "features",
) -> np.ndarray:
    """Run the backbone over image files.

    Args:
        backbone: Model from uint8 RGB to features.
        paths: Image files.
        image_size: Pixels a side.
        batch_size: Images a step of the backbone; changes no number beyond rounding.
        digests: sha256 of each file, for views above 0.
        augment: Keyword arguments of `augmentation.view` less `seed`.
        view: Number of the view; 0 is the image itself.
        seed: Of the views.
        label: Caption of the progress bar.

    Returns:
        float32 [n, width], rows in the order of `paths`.
    """
    import tensorflow as tf

    forward = tf.function(lambda batch: backbone(batch, training=False), reduce_retracing=True)
    dataset = pipeline.batches(
        paths,
        image_size=image_size,
        batch_size=batch_size,
        digests=digests,
        augment=augment,
        view=view,
        seed=seed,
    )
    found = np.empty((len(paths), backbone.output_shape[-1]), np.float32)
    row = 0
    with progress.bar(len(paths), label, "img") as shown:
        for batch in dataset:
            made = forward(batch).numpy()
            found[row : row + len(made)] = made
            row += len(made)
            shown.update(len(made))
    return found
