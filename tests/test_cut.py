"""Cut backbones: the halves equal the whole, and only the upper one is trainable."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from hairline.model import backbones, engine
from hairline.model.cut import TOP_SHARE, FinetuneError, unfreeze
from hairline.model.maps import with_maps
from tests.test_backbones import EVERY


@EVERY
def test_the_halves_equal_the_whole(name: str) -> None:
    size = max(64, backbones.BACKBONES[name].minimum_size)
    pixels = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    backbone = backbones.build(name, image_size=size, weights=None)
    cut = unfreeze(backbone, "top", None)
    assert cut is not None
    features = np.asarray(cut.upper(cut.lower(pixels, training=False), training=False))
    np.testing.assert_array_equal(features, np.asarray(backbone(pixels, training=False)))
    share = sum(int(np.prod(weight.shape)) for weight in cut.upper.weights) / backbone.count_params()
    assert TOP_SHARE <= share < 0.7
    assert cut.upper.trainable_weights
    assert not cut.lower.trainable_weights
    assert not [
        layer for layer in backbone.layers if layer.trainable and isinstance(layer, keras.layers.BatchNormalization)
    ]


@pytest.fixture(scope="module")
def mobilenetv2() -> keras.Model:
    return backbones.build("mobilenetv2", image_size=64, weights=None)


def test_from_layer_is_the_first_trained_layer(mobilenetv2: keras.Model) -> None:
    cut = unfreeze(mobilenetv2, "top", "block_14")
    assert cut is not None
    assert cut.layer == "block_14_expand"
    trained = {weight.path.split("/")[0] for weight in cut.upper.trainable_weights}
    assert all(name.startswith(("block_14", "block_15", "block_16", "Conv_1")) for name in trained)
    (converted,) = with_maps(cut.lower).outputs  # the lower half pools nothing
    assert converted is cut.lower.output
    assert engine.convert(lambda: cut.lower, "lower").is_file()  # one output, as backbones without maps have


@pytest.mark.parametrize(
    ("layer", "message"), [("blok_14", "no layer has this prefix"), ("block_15_depthwise", "parallel branches")]
)
def test_layers_that_cannot_be_cut_at_are_errors(layer: str, message: str, mobilenetv2: keras.Model) -> None:
    with pytest.raises(FinetuneError, match=message + ".*mobilenetv2 can be cut at"):
        unfreeze(mobilenetv2, "top", layer)
