"""Grad-CAM: where in an image a model found what spoke for its answer."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from hairline.system.errors import HairlineError


class NoMapError(HairlineError):
    """A model whose layers keep no place to look at."""


def heat_maps(model: keras.Model, pixels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Weigh the maps that the features are pooled from by what they add to the score of a class.

    Selvaraju et al. 2017, "Grad-CAM". The score is linear in the pooled features, so that its gradient is known: the
    last layer's weights (Zhou et al. 2016). A model with several taps has several maps; what each says is brought to
    the size of the finest, and added: at each place, what the score would gain if the whole image looked so.

    Args:
        model: A saved model: uint8 RGB in, flat, with the layers `features` and `logits`.
        pixels: uint8 [n, height, width, 3], RGB.
        classes: int64 [n], the class whose evidence is looked for in each image.

    Returns:
        float32 [n, rows, columns], from 0 to 1, at the size of the model's finest pooled map; all 0 where nothing spoke
        for the class.

    Raises:
        NoMapError: If no layer gives a map of more than one place.
    """
    weighed = _pooled(model) or _last_map(model)
    found = []
    for image, index in zip(pixels, classes, strict=True):  # one by one: a batch would hold every layer's maps at once
        heat = np.maximum(weighed(tf.constant(image), tf.constant(int(index))).numpy(), 0.0)
        found.append(heat / max(float(heat.max()), 1e-12))
    return np.stack(found).astype(np.float32)


def tapped_maps(model: keras.Model) -> list[keras.KerasTensor]:
    """Give the maps [batch, rows, columns, channels] that the features are pooled from, in the features' order."""
    features = model.get_layer("features")
    poolings = [features]
    if isinstance(features, keras.layers.Concatenate):
        poolings = [tensor._keras_history.operation for tensor in features.input]
    return [layer.input for layer in poolings]


def _pooled(model: keras.Model) -> tf.types.experimental.PolymorphicFunction | None:
    """Give the function that weighs pooled maps; None where none of them has more than one place."""
    maps = tapped_maps(model)
    if not any(_has_places(tensor) for tensor in maps):
        return None
    kernel = model.get_layer("logits").get_weights()[0]
    # Of a class less the mean of the others: the softmax sees nothing else.
    others = (kernel.sum(axis=1, keepdims=True) - kernel) / (kernel.shape[1] - 1)
    weights = np.split(kernel - others, np.cumsum([tensor.shape[-1] for tensor in maps])[:-1])
    size = tuple(max(tensor.shape[axis] for tensor in maps) for axis in (1, 2))
    inner = keras.Model(model.input, maps)

    @tf.function  # eagerly, the backbone's layers one by one take several times as long
    def weighed(image: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        found = tf.nest.flatten(inner(image[None], training=False))  # one output alone comes without a list
        heat = tf.zeros((1, *size, 1))
        for tensor, of_classes in zip(found, weights, strict=True):
            column = tf.gather(tf.constant(of_classes), index, axis=1)
            heat += tf.image.resize(tf.tensordot(tf.cast(tensor, tf.float32), column, 1)[..., None], size)
        return heat[0, :, :, 0]

    return weighed


def _last_map(model: keras.Model) -> tf.types.experimental.PolymorphicFunction:
    """Give the function that weighs the last map of more than one place by the mean gradient of the score."""
    maps = [layer.output for layer in model.layers if _has_places(getattr(layer, "output", None))]
    if not maps:
        raise NoMapError(f"the model {model.name} has no layer that gives a map: Grad-CAM needs a convolution")
    both = keras.Model(model.input, [maps[-1], model.get_layer("logits").output])

    @tf.function
    def weighed(image: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            found, scores = both(image[None], training=False)
            others = (tf.reduce_sum(scores) - scores[0, index]) / (scores.shape[1] - 1)
            score = scores[0, index] - others
        weights = tf.reduce_mean(tape.gradient(score, found), axis=(1, 2), keepdims=True)
        return tf.reduce_sum(weights * found, axis=-1)[0]

    return weighed


def _has_places(tensor: keras.KerasTensor | None) -> bool:
    shape = getattr(tensor, "shape", ())
    return len(shape) == 4 and min(shape[1:3]) > 1
