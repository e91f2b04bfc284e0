"""The head on frozen features, and the model that joins backbone and head."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hairline.model.features import Features

if TYPE_CHECKING:
    import keras

_MOST_BYTES = 150_000_000  # of standardised features that are held in memory; more are read batch by batch


@dataclass(frozen=True)
class Standardisation:
    """Mean and deviation by which the head standardises features.

    Attributes:
        mean: float32 [width].
        deviation: float32 [width], above 0.
    """

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]

    @classmethod
    def fit(cls, features: Features) -> Standardisation:
        """Compute mean and deviation; a constant feature has deviation 1.

        A feature is constant relative to the largest deviation: all random frozen features may be as small as 1e-12 and
        still separate the classes.
        """
        # Sums in float64 about the first row: sums of squares about 0 cancel if the mean is large.
        origin = features.read(slice(0, 1))[0].astype(np.float64)
        total, squares = np.zeros_like(origin), np.zeros_like(origin)
        for block in features.blocks():
            centred = block - origin
            total += centred.sum(axis=0)
            squares += np.square(centred, out=centred).sum(axis=0)
        mean = total / len(features)
        deviation = np.sqrt(np.maximum(squares / len(features) - np.square(mean), 0.0))
        constant = deviation <= 1e-6 * deviation.max(initial=0.0)
        return cls((origin + mean).astype(np.float32), np.where(constant, 1.0, deviation).astype(np.float32))

    def apply(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Standardise features float32 [n, width] in place, and return them."""
        features -= self.mean
        features /= self.deviation
        return features


class Standardised:
    """Standardised features: in memory where they fit, else read as they are needed."""

    def __init__(self, standardisation: Standardisation, features: Features) -> None:
        """Read nothing yet."""
        self.standardisation, self._features = standardisation, features

    @functools.cached_property
    def _table(self) -> NDArray[np.float32] | None:
        if 4 * len(self._features) * self._features.width > _MOST_BYTES:
            return None
        return self.standardisation.apply(self._features.read())

    def take(self, rows: NDArray[np.int64], out: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return rows, float32 [n, width]; `out` of that shape may be used for them."""
        if self._table is None:
            return self.standardisation.apply(self._features.read(rows))
        return np.take(self._table, rows, axis=0, out=out, mode="clip")  # other modes make a copy first

    def logits(self, kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of all rows, float32 [n, classes]."""
        if self._table is not None:
            return np.asarray(self._table @ kernel + bias)
        return Linear(self.standardisation, kernel, bias).logits(self._features)


@dataclass(frozen=True)
class Linear:
    """A trained head: features are standardised, then multiplied by a kernel.

    Attributes:
        standardisation: Mean and deviation of the features.
        kernel: float32 [width, classes].
        bias: float32 [classes].
    """

    standardisation: Standardisation
    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]

    def logits(self, features: Features) -> NDArray[np.float32]:
        """Return the logits, float32 [n, classes]."""
        mean, deviation = self.standardisation.mean, self.standardisation.deviation
        return np.concatenate([((block - mean) / deviation) @ self.kernel + self.bias for block in features.blocks()])

    def folded(self, temperature: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return kernel and bias from features to logits over the temperature, with the standardisation folded in."""
        # float64: folding multiplies numbers of very different size, such as 1e12 and 1e-12.
        kernel = self.kernel.astype(np.float64) / self.standardisation.deviation.astype(np.float64)[:, None]
        bias = self.bias - self.standardisation.mean.astype(np.float64) @ kernel
        return (kernel / temperature).astype(np.float32), (bias / temperature).astype(np.float32)


def build_head(head: Linear, *, dropout: float) -> keras.Model:
    """Build a head that Keras can train further: standardisation, dropout, one dense layer `logits`.

    Returns:
        A model from float32 [batch, width] to logits float32 [batch, classes].
    """
    import keras

    scale = 1.0 / head.standardisation.deviation
    inputs = keras.Input((len(scale),), name="features")
    hidden = keras.layers.Rescaling(scale, offset=-head.standardisation.mean * scale, dtype="float32")(inputs)
    if dropout:
        hidden = keras.layers.Dropout(dropout)(hidden)
    dense = keras.layers.Dense(len(head.bias), kernel_initializer="zeros", dtype="float32", name="logits")
    model = keras.Model(inputs, dense(hidden), name="head")
    dense.set_weights([head.kernel, head.bias])
    return model


def compute_outputs(model: keras.Model, inputs: Features) -> NDArray[np.float32]:
    """Return the outputs of a model on the outputs of a frozen network, float32 [n, classes]."""
    return np.concatenate([np.asarray(model(block, training=False)) for block in inputs.blocks()])


def join_model(backbone: keras.Model, head: Linear, temperature: float = 1.0) -> keras.Model:
    """Join backbone and head into one flat model, with standardisation and temperature folded into the dense layer.

    Args:
        backbone: Model from uint8 RGB to the layer `features`.
        head: Trained head.
        temperature: Divisor of the logits.

    Returns:
        A model from uint8 [batch, height, width, 3] RGB to probabilities float32 [batch, classes], with the layers
        `features`, `logits` and `probabilities`.
    """
    import keras

    dense = keras.layers.Dense(len(head.bias), dtype="float32", name="logits")
    scores = dense(backbone.output)
    dense.set_weights(head.folded(temperature))
    outputs = keras.layers.Softmax(dtype="float32", name="probabilities")(scores)
    model = keras.Model(backbone.input, outputs, name="hairline")
    model.trainable = False
    return model
