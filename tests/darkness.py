"""A saved model whose answer is known beforehand: the darker a patch, the more cracked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from hairline.data import images
from hairline.model import saved
from hairline.model.decision import Decision
from hairline.model.familiarity import Distance
from hairline.model.features import Features
from hairline.model.head import Standardisation

IMAGE_SIZE, PATCH_PX = 16, 32
SIZE = (10 * PATCH_PX + 5, 7 * PATCH_PX)  # a wall of 10 x 7 tiles and a bit
DARK = (PATCH_PX, 2 * PATCH_PX, 2 * PATCH_PX, PATCH_PX)  # x, y, width, height of a place in it
_SLOPE, _GREY = 30.0, 0.5

BUNDLE = saved.Bundle(
    class_names=["cracked", "plain"],
    positive_class="cracked",
    image_size=IMAGE_SIZE,
    decode=images.RECIPE,
    data_digest="",
    backbone={"name": "darkness", "weights_digest": "", "taps": "", "finetuned": "all"},
    versions={},
    decision=Decision(threshold=0.5),
    extra={"patch_px": PATCH_PX},
)


def probability(brightness: float) -> float:
    """Give what the model says of an even patch of that brightness, 0 to 255."""
    return float(1 / (1 + np.exp(-_SLOPE * (_GREY - brightness / 255))))


def save(folder: Path, **changes: object) -> Path:
    """Save the model; `changes` are fields of its bundle. Gives its folder."""
    bundle = replace(BUNDLE, **changes)  # type: ignore[arg-type]
    pixels = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3), dtype="uint8")
    hidden = keras.layers.Rescaling(1 / 255, dtype="float32")(pixels)
    hidden = keras.layers.GlobalAveragePooling2D(name="features")(hidden)
    dense = keras.layers.Dense(len(bundle.class_names), name="logits")
    scores = dense(hidden)
    kernel, bias = np.zeros((3, len(bundle.class_names)), np.float32), np.zeros(len(bundle.class_names), np.float32)
    kernel[:, 0], bias[0] = -_SLOPE / 3, _SLOPE * _GREY
    dense.set_weights([kernel, bias])
    model = keras.Model(pixels, keras.layers.Softmax(name="probabilities")(scores), name="darkness")
    saved.save_model(folder, model, bundle, {"mean": np.zeros(3), "deviation": np.ones(3)})
    return folder


def make_known(folder: Path) -> None:
    """Let a saved model tell how far images lie from its training images: patches of walls, light and dark ones."""
    generator = np.random.default_rng(0)
    labels = (generator.random(400) < 0.8).astype(np.int64)
    brightness = np.where(labels == 1, 200.0, 60.0)[:, None] / 255
    features = Features.of((brightness + generator.normal(0, 0.004, (400, 3))).astype(np.float32))
    found = Standardisation.fit(features)
    distance = Distance.fit(features, labels, features, found.mean, found.deviation)
    np.savez(folder / saved.FEATURES, **{**saved.read_statistics(folder), **distance.arrays()})


def wall(width: int, height: int, dark: list[tuple[int, int, int, int]], seed: int = 0) -> np.ndarray:
    """Paint a light wall with dark boxes (x, y, width, height) and a little noise, uint8 [height, width, 3]."""
    pixels = np.full((height, width, 3), 200.0)
    for x, y, across, down in dark:
        pixels[y : y + down, x : x + across] = 60.0
    pixels += np.random.default_rng(seed).normal(0, 4, pixels.shape)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
