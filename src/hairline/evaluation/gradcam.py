"""Grad-CAM: heat maps of the image regions that speak for a class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hairline.system.errors import HairlineError

_HeatMap = Callable[[Any, Any], Any]  # pixels [height, width, 3] and class -> float32 [rows, columns], as tensors


class NoMapError(HairlineError):
    """A model without a spatial layer."""


def heat_maps(model: keras.Model, pixels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Compute heat maps from the layers that the features are pooled from (Selvaraju et al. 2017, "Grad-CAM").

    The score is linear in the pooled features, so its gradient is the last layer's kernel (Zhou et al. 2016). The maps
    of a model with several taps are resized to the finest and added: each place holds the score that the model would
    gain if the whole image looked like it.

    Args:
        model: A saved model: uint8 RGB in, flat, with the layers `features` and `logits`.
        pixels: uint8 [n, height, width, 3], RGB.
        classes: int64 [n], the class that is explained in each image.

    Returns:
        float32 [n, rows, columns], from 0 to 1, at the size of the finest pooled map; all 0 if nothing speaks for the
        class.

    Raises:
        NoMapError: If no layer has more than one place.
    """
    heat_map = _from_pooled_maps(model) or _from_last_map(model)
    maps = []
    for image, index in zip(pixels, classes, strict=True):  # one by one: a batch would hold every layer's maps at once
        heat = np.maximum(heat_map(tf.constant(image), tf.constant(int(index))).numpy(), 0.0)
        maps.append(heat / max(float(heat.max()), 1e-12))
    return np.stack(maps).astype(np.float32)


def pooled_maps(model: keras.Model) -> list[keras.KerasTensor]:
    """Return the maps [batch, rows, columns, channels] that the features are pooled from, in the features' order."""
    features = model.get_layer("features")
    poolings = [features]
    if isinstance(features, keras.layers.Concatenate):
        poolings = [tensor._keras_history.operation for tensor in features.input]
    return [layer.input for layer in poolings]


def _from_pooled_maps(model: keras.Model) -> _HeatMap | None:
    """Return the heat map function of the pooled maps; None if none of them has more than one place."""
    maps = pooled_maps(model)
    if not any(_is_spatial(tensor) for tensor in maps):
        return None
    kernel = model.get_layer("logits").get_weights()[0]
    # Logit of a class less the mean of the others: the softmax depends on differences only.
    others = (kernel.sum(axis=1, keepdims=True) - kernel) / (kernel.shape[1] - 1)
    weights = np.split(kernel - others, np.cumsum([tensor.shape[-1] for tensor in maps])[:-1])
    size = tuple(max(tensor.shape[axis] for tensor in maps) for axis in (1, 2))
    backbone = keras.Model(model.input, maps)

    # Eager execution of the backbone takes several times as long.
    def heat_map(image: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        outputs = tf.nest.flatten(backbone(image[None], training=False))  # a single output comes without a list
        heat = tf.zeros((1, *size, 1))
        for output, class_weights in zip(outputs, weights, strict=True):
            column = tf.gather(tf.constant(class_weights), index, axis=1)
            heat += tf.image.resize(tf.tensordot(tf.cast(output, tf.float32), column, 1)[..., None], size)
        return heat[0, :, :, 0]

    compiled: _HeatMap = tf.function(heat_map)
    return compiled


def _from_last_map(model: keras.Model) -> _HeatMap:
    """Return the heat map function of the last spatial layer, weighted by the mean gradient of the score."""
    maps = [layer.output for layer in model.layers if _is_spatial(getattr(layer, "output", None))]
    if not maps:
        raise NoMapError(f"the model {model.name} has no spatial layer: Grad-CAM needs a convolution")
    both = keras.Model(model.input, [maps[-1], model.get_layer("logits").output])

    def heat_map(image: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            output, logits = both(image[None], training=False)
            others = (tf.reduce_sum(logits) - logits[0, index]) / (logits.shape[1] - 1)
            score = logits[0, index] - others
        weights = tf.reduce_mean(tape.gradient(score, output), axis=(1, 2), keepdims=True)
        return tf.reduce_sum(weights * output, axis=-1)[0]

    compiled: _HeatMap = tf.function(heat_map)
    return compiled


def _is_spatial(tensor: keras.KerasTensor | None) -> bool:
    shape = getattr(tensor, "shape", ())
    return len(shape) == 4 and min(shape[1:3]) > 1
