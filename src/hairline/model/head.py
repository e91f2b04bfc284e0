"""The head on frozen features, and the join of backbone and head into the one model that ships."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np

from hairline.model.features import Features


@dataclass(frozen=True)
class Standardisation:
    """Mean and deviation of the training features, which the head sees as zero and one.

    Attributes:
        mean: float32 [width].
        deviation: float32 [width], above 0.
    """

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def fit(cls, features: Features) -> Standardisation:
        """Measure features.

        A feature that never changes keeps deviation 1. What counts as never is relative to the largest deviation:
        random frozen features are as small as 1e-12 altogether, and still tell cracks from none.
        """
        # float64, and about the first row: sums of squares would lose small deviations from a large mean.
        origin = features.read(slice(0, 1))[0].astype(np.float64)
        total, squares = np.zeros_like(origin), np.zeros_like(origin)
        for block in features.blocks():
            apart = block - origin
            total += apart.sum(axis=0)
            squares += np.square(apart, out=apart).sum(axis=0)
        mean = total / len(features)
        deviation = np.sqrt(np.maximum(squares / len(features) - np.square(mean), 0.0))
        constant = deviation <= 1e-6 * deviation.max(initial=0.0)
        return cls((origin + mean).astype(np.float32), np.where(constant, 1.0, deviation).astype(np.float32))


def build_head(standardisation: Standardisation, *, classes: int, dropout: float) -> keras.Model:
    """Build the trainable head: standardise, drop out, one dense layer.

    Args:
        standardisation: Of the training features.
        classes: Number of classes.
        dropout: Share of features that are hidden in each training step.

    Returns:
        A model from float32 [batch, width] to logits float32 [batch, classes].
    """
    scale = 1.0 / standardisation.deviation
    inputs = keras.Input((len(scale),), name="features")
    hidden = keras.layers.Rescaling(scale, offset=-standardisation.mean * scale, dtype="float32")(inputs)
    if dropout:
        hidden = keras.layers.Dropout(dropout)(hidden)
    # From zero: the problem is convex, and any other start is noise that ten epochs must first unlearn.
    logits = keras.layers.Dense(classes, kernel_initializer="zeros", dtype="float32", name="logits")(hidden)
    return keras.Model(inputs, logits, name="head")


def compute_logits(head: keras.Model, features: Features) -> np.ndarray:
    """Run the head on features; gives float32 [n, classes]."""
    return np.concatenate([np.asarray(head(block, training=False)) for block in features.blocks()])


def probabilities(scores: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Turn logits into probabilities.

    Args:
        scores: float32 [n, classes].
        temperature: Logits are divided by it (Guo et al. 2017).

    Returns:
        float32 [n, classes]; rows sum to 1.

    >>> probabilities(np.zeros((1, 2), np.float32)).tolist()
    [[0.5, 0.5]]
    """
    scaled = scores.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def join(
    backbone: keras.Model, head: keras.Model, standardisation: Standardisation, temperature: float = 1.0
) -> keras.Model:
    """Join backbone and head into one flat model; standardisation and temperature are folded into the dense layer.

    Args:
        backbone: Model from uint8 RGB to the layer `features`.
        head: Trained head.
        standardisation: The one the head was built with.
        temperature: Logits are divided by it.

    Returns:
        A model from uint8 [batch, height, width, 3] RGB to probabilities float32 [batch, classes], with the layers
        `features`, `logits` and `probabilities`.
    """
    # float64: folding multiplies numbers as far apart as 1e12 and 1e-12.
    kernel, bias = (np.asarray(weight, np.float64) for weight in head.get_layer("logits").get_weights())
    folded = kernel / standardisation.deviation.astype(np.float64)[:, None]
    offset = bias - standardisation.mean.astype(np.float64) @ folded
    dense = keras.layers.Dense(kernel.shape[1], dtype="float32", name="logits")
    scores = dense(backbone.output)
    dense.set_weights([(folded / temperature).astype(np.float32), (offset / temperature).astype(np.float32)])
    outputs = keras.layers.Softmax(dtype="float32", name="probabilities")(scores)
    model = keras.Model(backbone.input, outputs, name="hairline")
    model.trainable = False
    return model
