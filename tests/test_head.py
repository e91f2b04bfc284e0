"""The head, its standardisation, and the joined model."""

from __future__ import annotations

import numpy as np
import pytest

from hairline.model import backbones
from hairline.model.features import Features
from hairline.model.head import Linear, Standardisation, build_head, compute_outputs, join_model
from hairline.model.predictions import probabilities


@pytest.mark.parametrize(("scale", "temperature"), [(1.0, 1.0), (1e-12, 1.7), (1e6, 1.7)])
def test_joined_model_equals_the_feature_path(
    scale: float, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hairline.model.features._BLOCK_BYTES", 5 * 4 * 576)  # 5 of 16 rows at once
    backbone = backbones.build("mobilenetv3small", image_size=32, weights=None, seed=0)
    convolution = backbone.layers[-2] if backbone.layers[-2].weights else backbone.get_layer("conv_1")
    convolution.set_weights([weights * scale for weights in convolution.get_weights()])
    pixels = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    features = Features.of(np.asarray(backbone(pixels, training=False)))
    standardisation = Standardisation.fit(features)
    kernel = np.random.default_rng(1).normal(size=(features.width, 3)).astype(np.float32) / np.sqrt(features.width)
    linear = Linear(standardisation, kernel, np.array([0.3, -0.2, 0.0], np.float32))
    head = build_head(linear, dropout=0.2)
    expected = probabilities(linear.logits(features), temperature)
    np.testing.assert_allclose(linear.logits(features), compute_outputs(head, features), rtol=1e-4, atol=1e-4)
    assert expected.std(axis=0).max() > 0.05  # the test would pass with constant outputs otherwise
    joined = join_model(backbone, linear, temperature)
    np.testing.assert_allclose(np.asarray(joined(pixels, training=False)), expected, atol=1e-4)
    assert [layer.name for layer in joined.layers[-3:]] == ["features", "logits", "probabilities"]
    assert joined.input.dtype == "uint8"


def test_standardisation_keeps_constant_features_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hairline.model.features._BLOCK_BYTES", 7 * 4 * 3)  # 7 of 100 rows at once
    features = np.random.default_rng(0).normal(5, [1.0, 1e-9, 0.0], (100, 3)).astype(np.float32)
    fitted = Standardisation.fit(Features.of(features))
    assert fitted.deviation[1] == fitted.deviation[2] == 1.0
    np.testing.assert_allclose(fitted.deviation[0], features[:, 0].std(), rtol=1e-5)
    tiny = Standardisation.fit(Features.of((features[:, :1] - 5) * np.float32(1e-12)))
    np.testing.assert_allclose(tiny.deviation, features[:, 0].std() * 1e-12, rtol=1e-3)
    single = Standardisation.fit(Features.of(features[:1]))
    assert (single.deviation == 1.0).all()
