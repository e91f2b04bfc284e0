"""Grad-CAM against the weighed maps worked out by hand, of one tap and of several."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from hairline.evaluation import gradcam

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)


def network(taps: int) -> tuple[keras.Model, keras.Model]:
    """Give a model with one or two taps, and the maps they are pooled from."""
    keras.utils.set_random_seed(1)
    pixels = keras.Input((16, 16, 3), dtype="uint8")
    fine = keras.layers.Conv2D(5, 3, padding="same", activation="relu")(keras.layers.Rescaling(1 / 255)(pixels))
    coarse = keras.layers.Conv2D(4, 3, strides=4, padding="same", activation="relu")(fine)
    if taps == 1:
        features = keras.layers.GlobalAveragePooling2D(name="features")(coarse)
    else:
        parts = [keras.layers.GlobalMaxPooling2D()(fine), keras.layers.GlobalAveragePooling2D()(coarse)]
        features = keras.layers.Concatenate(name="features")(parts)
    scores = keras.layers.Dense(2, name="logits")(features)
    return keras.Model(pixels, keras.layers.Softmax()(scores)), keras.Model(pixels, [fine, coarse])


@pytest.mark.parametrize("taps", [1, 2])
def test_maps_are_weighed_by_what_they_add_to_the_score(taps: int) -> None:
    model, inner = network(taps)
    found = gradcam.heat_maps(model, PIXELS, np.array([0, 1, 1]))
    kernel = model.get_layer("logits").get_weights()[0].astype(np.float64)
    fine, coarse = (np.asarray(part, np.float64) for part in inner(PIXELS))
    for number, index in enumerate((0, 1, 1)):
        weights = kernel[:, index] - kernel[:, 1 - index]
        if taps == 1:
            expected = coarse[number] @ weights
        else:
            enlarged = tf.image.resize((coarse[number] @ weights[5:])[..., None], (16, 16)).numpy()[..., 0]
            expected = fine[number] @ weights[:5] + enlarged
        expected = np.maximum(expected, 0)
        assert found[number].shape == expected.shape == ((4, 4) if taps == 1 else (16, 16))
        np.testing.assert_allclose(found[number], expected / max(expected.max(), 1e-12), atol=1e-4)
    assert found.max() == 1


def test_without_places_at_the_tap_the_last_map_that_has_some_is_taken() -> None:
    pixels = keras.Input((8, 8, 3), dtype="uint8")
    hidden = keras.layers.Conv2D(4, 3, padding="same")(keras.layers.Rescaling(1 / 255)(pixels))
    single = keras.layers.Conv2D(4, 8)(hidden)
    scores = keras.layers.Dense(2, name="logits")(keras.layers.GlobalAveragePooling2D(name="features")(single))
    found = gradcam.heat_maps(keras.Model(pixels, scores), PIXELS[:, :8, :8], np.array([0, 1, 1]))
    assert found.shape == (3, 8, 8)
    assert found.max() == 1


def test_a_model_without_maps_is_refused() -> None:
    pixels = keras.Input((1, 1, 3))
    features = keras.layers.GlobalAveragePooling2D(name="features")(pixels)
    model = keras.Model(pixels, keras.layers.Dense(2, name="logits")(features))
    with pytest.raises(gradcam.NoMapError, match="needs a convolution"):
        gradcam.heat_maps(model, np.zeros((1, 1, 1, 3), np.uint8), np.array([0]))
