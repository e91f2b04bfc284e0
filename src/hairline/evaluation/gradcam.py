"""Grad-CAM: where in an image a model found what spoke for its answer."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf


class NoMapError(ValueError):
    """A model whose layers keep no place to look at."""


def heat_maps(model: keras.Model, pixels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Weigh the last feature map by what it adds to the score of a class (Selvaraju et al. 2017, "Grad-CAM").

    The model is flat, so that its layers belong to one graph, and the gradient can be taken within it.

    Args:
        model: A saved model: uint8 RGB in, with the layer `logits`.
        pixels: uint8 [n, height, width, 3], RGB.
        classes: int64 [n], the class whose evidence is looked for in each image.

    Returns:
        float32 [n, rows, columns], from 0 to 1, at the size of the model's last map; all 0 where nothing spoke for the
        class.

    Raises:
        NoMapError: If no layer gives a map of more than one place.
    """
    maps = [layer for layer in model.layers if len(getattr(layer.output, "shape", ())) == 4]
    maps = [layer for layer in maps if min(layer.output.shape[1:3]) > 1]
    if not maps:
        raise NoMapError(f"the model {model.name} has no layer that gives a map: Grad-CAM needs a convolution")
    both = keras.Model(model.input, [maps[-1].output, model.get_layer("logits").output])

    @tf.function  # eagerly, the backbone's layers one by one take several times as long
    def weighed(image: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            features, scores = both(image[None], training=False)
            # Of the class less the mean of the others: the softmax sees nothing else.
            others = (tf.reduce_sum(scores) - scores[0, index]) / (scores.shape[1] - 1)
            score = scores[0, index] - others
        weights = tf.reduce_mean(tape.gradient(score, features), axis=(1, 2), keepdims=True)
        return tf.reduce_sum(weights * features, axis=-1)[0]

    found = []
    for image, index in zip(pixels, classes, strict=True):  # one by one: a batch would hold every layer's maps at once
        heat = np.maximum(weighed(tf.constant(image), tf.constant(int(index))).numpy(), 0.0)
        found.append(heat / max(float(heat.max()), 1e-12))
    return np.stack(found).astype(np.float32)
