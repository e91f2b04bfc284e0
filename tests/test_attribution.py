"""Contributions of cells sum up to the logit, for every kind of pooling, class, layer and backbone."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hairline.inspection.inspector import Inspector
from hairline.labelling import pool as pools
from hairline.labelling.heat import HeatMaps
from hairline.labelling.label import base_layer
from hairline.labelling.pictures import Pictures
from hairline.model import attribution, backbones, maps, saved
from hairline.model.head import Linear, Standardisation, join_model
from tests import darkness


def pooled(maps: list[np.ndarray], pooling: list[str]) -> np.ndarray:
    """Return the features of maps."""
    kinds = {"max": np.max, "average": np.mean}
    parts = [kinds[kind](values, axis=(1, 2)) for values, kind in zip(maps, pooling, strict=True)]
    return np.concatenate(parts, axis=1)


@given(st.lists(st.tuples(st.integers(1, 30), st.sampled_from(["max", "average"])), min_size=1, max_size=3),
       st.integers(1, 4), st.integers(0, 2**31))  # fmt: skip
@settings(max_examples=60)
def test_contributions_sum_to_the_logit(taps: list[tuple[int, str]], classes: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    values = [np.maximum(generator.normal(size=(2, side, side, 5)), 0).astype(np.float32) for side, _ in taps]
    pooling = [kind for _, kind in taps]
    # As large as that of a trained head, whose logits have a deviation of a few units.
    kernel = (generator.normal(size=(5 * len(taps), classes)) / np.sqrt(5 * len(taps))).astype(np.float32)
    parts = attribution.contributions(values, kernel, pooling)
    side = min(max(side for side, _ in taps), attribution.MOST_CELLS)
    assert parts.shape == (2, side, side, classes)
    np.testing.assert_allclose(parts.sum(axis=(1, 2)), pooled(values, pooling) @ kernel, atol=1e-4)
    single = attribution.contributions(values, kernel[:, 0], pooling)
    np.testing.assert_allclose(single, parts[..., 0], atol=1e-5)


def test_cells_get_what_they_caused() -> None:
    values = np.zeros((1, 2, 2, 2), np.float32)
    values[0, 0, 1] = 4, 8  # of both channels, the upper right cell has the most
    values[0, 1, 0] = 0, 4
    kernel = np.array([1.0, 10.0], np.float32)
    assert attribution.contributions([values], kernel, ["average"])[0].tolist() == [[0, 21], [10, 0]]
    assert attribution.contributions([values], kernel, ["max"])[0].tolist() == [[0, 84], [0, 0]]
    both = attribution.responses([values], kernel[:, None], np.array([0.5], np.float32))[0, ..., 0]
    assert both.tolist() == [[0.5, 84.5], [40.5, 0.5]]
    equal = np.ones((1, 2, 2, 1), np.float32)
    assert attribution.contributions([equal], kernel[:1], ["max"])[0].tolist() == [[0.25, 0.25], [0.25, 0.25]]


def check(model: keras.Model) -> None:
    """Compare the contributions of a joined model with its logits."""
    taps = maps.tap_maps(model)
    size, logits = model.input_shape[1], model.get_layer("logits")
    outputs = keras.Model(model.input, [logits.output, *[tensor for tensor, _ in taps]])
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    scores, *values = (np.asarray(output, np.float32) for output in outputs(pixels))
    kernel, bias = logits.get_weights()
    parts = attribution.contributions(values, kernel, [kind for _, kind in taps])
    np.testing.assert_allclose(parts.sum(axis=(1, 2)) + bias, scores, atol=1e-4)


def joined(name: str, taps: tuple[str, ...], classes: int = 2) -> keras.Model:
    """Return a model with random weights whose logits have a deviation of about 3, as those of a trained one."""
    row = backbones.BACKBONES[name]
    size = max(row.minimum_size, 64)
    backbone = backbones.build(name, image_size=size, weights=None, taps=taps)
    pixels = np.random.default_rng(1).integers(0, 256, (16, size, size, 3), dtype=np.uint8)
    features = np.asarray(backbone(pixels))
    deviation = np.where(features.std(axis=0) > 0, features.std(axis=0), 1)
    standardisation = Standardisation(features.mean(axis=0), deviation)
    width = features.shape[1]
    kernel = np.random.default_rng(2).normal(0, 3 / np.sqrt(width), (width, classes)).astype(np.float32)
    head = Linear(standardisation, kernel, np.ones(classes, np.float32))
    return join_model(backbone, head, temperature=1.3)


def test_a_joined_model_with_taps() -> None:
    taps = ("block_1_expand_relu:max", "block_3_expand_relu:average", "block_6_expand_relu:max")
    check(joined("mobilenetv2", taps, classes=3))


@pytest.mark.slow
@pytest.mark.parametrize("name", backbones.BACKBONES)
def test_every_backbone(name: str) -> None:
    check(joined(name, ()))


def test_features_that_are_not_pooled_have_no_maps(tmp_path: Path) -> None:
    inputs = keras.Input((16, 16, 3), dtype="uint8")
    flat = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    features = keras.layers.Dense(4, name="features")(flat)
    scores = keras.layers.Dense(2, name="logits")(features)
    model = keras.Model(inputs, keras.layers.Softmax()(scores))
    assert maps.tap_maps(model) == []
    saved.save_model(tmp_path / "model", model, darkness.BUNDLE, {})
    result = Inspector(tmp_path / "model", engine="tensorflow").inspect(darkness.wall(100, 70, []))
    assert result.heat_map.shape == (70, 100)
    assert len(np.unique(result.probabilities[:3, :3])) == 1  # a tile as a whole


def test_the_heat_map_of_the_label_page_is_exact(tmp_path: Path) -> None:
    size, folder = darkness.PATCH_PX, darkness.save(tmp_path / "model")
    Image.fromarray(darkness.wall(size, size, [(0, 0, size, 20)])).save(tmp_path / "wall.png")
    parts = saved.Parts(folder)
    pool, _ = pools.compute([tmp_path / "wall.png"], parts.recipe("tensorflow"), lambda: parts.backbone, tile_px=size)
    layer = base_layer(parts)
    heat = HeatMaps(
        pool,
        Pictures(pool),
        lambda: layer,
        lambda reduce: attribution.prepare(folder, parts.bundle, "tensorflow", reduce)[1],
        image_size=parts.bundle.image_size,
        pooling=attribution.pooling(parts.bundle),
    )
    logits = layer.logits(pool.features[0])
    positive = parts.bundle.positive
    assert positive is not None
    assert heat.cells(0).sum() == pytest.approx(logits[positive] - logits[1 - positive], abs=1e-3)


def test_a_heat_map_shows_where_in_a_tile(tmp_path: Path) -> None:
    inspector = Inspector(darkness.save(tmp_path / "model"), engine="tensorflow")
    pixels = darkness.wall(darkness.PATCH_PX, darkness.PATCH_PX, [(0, 0, darkness.PATCH_PX, 20)])
    result = inspector.inspect(pixels)
    assert len(result.table) == 1
    assert result.heat_map[:16].min() > 0.8
    assert result.heat_map[24:].max() < 0.1
    (region,) = result.regions
    assert (region.y, region.width) == (0, darkness.PATCH_PX)
    assert region.height == pytest.approx(20, abs=2)


@pytest.mark.parametrize("taps", [1, 2])
def test_class_maps_show_what_each_place_adds_to_the_score(taps: int, tmp_path: Path) -> None:
    """Against the weighed maps, worked out by hand; places of a coarse map cover several of the finest."""
    keras.utils.set_random_seed(1)
    pixels = keras.Input((16, 16, 3), dtype="uint8")
    fine = keras.layers.Conv2D(5, 3, padding="same", activation="relu")(keras.layers.Rescaling(1 / 255)(pixels))
    coarse = keras.layers.Conv2D(4, 3, strides=4, padding="same", activation="relu")(fine)
    if taps == 1:
        features = keras.layers.GlobalAveragePooling2D(name="features")(coarse)
    else:
        pooled = [keras.layers.GlobalMaxPooling2D()(fine), keras.layers.GlobalAveragePooling2D()(coarse)]
        features = keras.layers.Concatenate(name="features")(pooled)
    scores = keras.layers.Dense(2, name="logits")(features)
    model = keras.Model(pixels, keras.layers.Softmax()(scores))
    saved.save_model(tmp_path, model, darkness.BUNDLE, {})
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    found = attribution.class_maps(tmp_path, images, np.array([0, 1, 1]), engine="tensorflow")
    assert found is not None
    kernel = model.get_layer("logits").get_weights()[0]
    outputs = [np.asarray(part) for part in keras.Model(pixels, [fine, coarse])(images)]
    for number, index in enumerate((0, 1, 1)):
        weights = kernel[:, index] - kernel[:, 1 - index]
        expected = outputs[1][number] @ weights[-4:]
        if taps == 2:
            expected = outputs[0][number] @ weights[:5] + np.kron(expected, np.ones((4, 4)))
        expected = np.maximum(expected, 0)
        np.testing.assert_allclose(found[number], expected / max(expected.max(), 1e-12), atol=1e-4)
    assert found.max() == 1
