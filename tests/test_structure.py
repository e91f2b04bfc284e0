"""The structure of a model as text and as a figure's blocks, against counts by hand and by Keras."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from hairline.evaluation import figures
from hairline.model import backbones, structure
from hairline.model.cut import unfreeze
from hairline.model.head import Linear, Standardisation, join_model


@pytest.fixture(scope="module")
def small() -> keras.Model:
    """Three convolutions at two resolutions, with a residual, padding, and a gate that pools to one pixel."""
    image = keras.Input((16, 16, 3), dtype="uint8", name="image")
    scaled = keras.layers.Rescaling(1 / 255, name="scale")(image)
    first = keras.layers.Conv2D(4, 3, padding="same", name="first")(scaled)
    gate = keras.layers.GlobalAveragePooling2D(keepdims=True, name="gate_pool")(first)
    gated = keras.layers.Multiply(name="gate")([first, keras.layers.Conv2D(4, 1, name="gate_conv")(gate)])
    padded = keras.layers.ZeroPadding2D(1, name="pad")(gated)
    second = keras.layers.Conv2D(8, 3, strides=2, name="second")(padded)
    pooled = [
        keras.layers.GlobalMaxPooling2D(name="max")(gated),
        keras.layers.GlobalAveragePooling2D(name="average")(second),
    ]
    features = keras.layers.Concatenate(name="features")(pooled)
    logits = keras.layers.Dense(2, name="logits")(features)
    return keras.Model(image, keras.layers.Softmax(name="probabilities")(logits))


def test_blocks_follow_the_resolution(small: keras.Model) -> None:
    blocks = structure.blocks(small, {"logits"})
    assert [(block.first, block.last, block.shape, block.parameters, block.trained) for block in blocks] == [
        ("image", "gate", (16, 16, 4), 3 * 9 * 4 + 4 + 4 * 4 + 4, 0),
        ("pad", "second", (8, 8, 8), 4 * 9 * 8 + 8, 0),
        ("max", "features", (12,), 0, 0),
        ("logits", "logits", (2,), 26, 26),
        ("probabilities", "probabilities", (2,), 0, 0),
    ]
    assert [block.inputs for block in blocks] == [(), (0,), (0, 1), (2,), (3,)]
    assert sum(block.layers for block in blocks) == len(small.layers)


def test_the_text_lists_each_layer_and_counts_parameters(small: keras.Model) -> None:
    text = structure.describe(small, {"logits"})
    assert text.endswith(f"\n{small.count_params():,} parameters: 26 trained, {small.count_params() - 26:,} frozen\n")
    line = next(line for line in text.splitlines() if " second " in f" {line} ")
    assert line.split() == ["second", "Conv2D", "8", "x", "8", "x", "8", "296", "frozen"]
    assert len(text.splitlines()) == len(small.layers) + 3


@pytest.mark.parametrize(
    ("name", "taps"),
    [
        ("mobilenetv2", ("block_10_expand_relu:max", "block_13_expand_relu:average")),
        pytest.param("efficientnetv2b0", (), marks=pytest.mark.slow),
    ],
)
def test_a_backbone_has_one_block_for_each_resolution(name: str, taps: tuple[str, ...]) -> None:
    backbone = backbones.build(name, image_size=96, weights=None, taps=taps)
    assert structure.trained_layers(backbone) == {"logits"}
    blocks = structure.blocks(joined(backbone), {"logits"})
    sides = [block.shape[0] for block in blocks[:-3]]
    assert sides == ([96, 48, 24, 12, 6, 6] if taps else [96, 48, 24, 12, 6, 3])
    assert [block.last for block in blocks[-5:-3]] == ["block_10_expand_relu", "block_13_expand_relu"] or not taps
    assert sum(block.parameters for block in blocks[:-2]) == backbone.count_params()


def test_fine_tuned_layers_are_trained_and_begin_a_block() -> None:
    backbone = backbones.build("mobilenetv2", image_size=32, weights=None)
    unfreeze(backbone, "top", "block_15")
    trained = structure.trained_layers(backbone)
    counts = sum(backbone.get_layer(layer).count_params() for layer in trained - {"logits"})
    blocks = structure.blocks(joined(backbone), trained)
    tuned = [block for block in blocks[:-3] if block.trained]
    assert [block.first for block in tuned] == ["block_15_expand"]
    assert tuned[0].trained == counts < tuned[0].parameters  # batch normalisation stays frozen


def joined(backbone: keras.Model) -> keras.Model:
    width = backbone.output_shape[1]
    unit = Standardisation(np.zeros(width, np.float32), np.ones(width, np.float32))
    head = Linear(unit, np.zeros((width, 2), np.float32), np.zeros(2, np.float32))
    return join_model(backbone, head)


def test_the_figure_shows_every_block(small: keras.Model, tmp_path: Path) -> None:
    blocks = structure.blocks(small, {"logits"})
    figure = figures.model_structure(blocks, title="$mall")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert {"16 × 16 × 4", "8 × 8 × 8", "12", "2", "296", "frozen", "trained"} <= set(texts)
    assert figure.get_suptitle() == f"\\$mall: {small.count_params():,} parameters, 26 of them trained"
    with Image.open(figures.save(figure, tmp_path / "model.png")) as image:
        assert image.width == 1080
