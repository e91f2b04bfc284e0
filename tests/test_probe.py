"""The ridge probe against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler

from hairline.model import probe
from hairline.model.features import Features


def drawn(seed: int, count: int, classes: int, width: int = 24) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, count)
    centres = np.random.default_rng(99).normal(0, 1, (classes, width))
    scales = np.geomspace(1e-2, 1e2, width)
    return ((centres[labels] + generator.normal(0, 1.5, (count, width))) * scales + 5 * scales).astype(
        np.float32
    ), labels


@pytest.mark.parametrize("classes", [2, 3])
def test_predictions_equal_those_of_scikit_learn(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "PENALTIES", (1e-2,))
    (x, y), (val, val_y) = drawn(0, 5000, classes), drawn(1, 300, classes)
    weights = probe.ridge(Features.of(x), y, Features.of(val), val_y, classes)
    scaler = StandardScaler().fit(x.astype(np.float64))
    # scikit-learn codes classes -1 and 1, which doubles the targets and leaves the arg-max alone.
    expected = RidgeClassifier(alpha=1e-2 * len(x)).fit(scaler.transform(x), y).predict(scaler.transform(val))
    predicted = probe.classify(weights, Features.of(val))
    assert np.mean(predicted == expected) >= 0.99
    assert np.mean(predicted == val_y) > 0.9


def test_the_best_penalty_on_validation_images_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    (x, y), (val, val_y) = drawn(2, 40, 2, width=60), drawn(3, 400, 2, width=60)
    scores = {}
    for penalty in (1e-8, 1e2, 1.0):
        monkeypatch.setattr(probe, "PENALTIES", (penalty,))
        weights = probe.ridge(Features.of(x), y, Features.of(val), val_y, 2)
        scores[penalty] = np.mean(probe.classify(weights, Features.of(val)) == val_y)
    monkeypatch.setattr(probe, "PENALTIES", tuple(scores))
    weights = probe.ridge(Features.of(x), y, Features.of(val), val_y, 2)
    assert np.mean(probe.classify(weights, Features.of(val)) == val_y) == max(scores.values())
    assert len(set(scores.values())) > 1


def test_constant_features_are_harmless() -> None:
    (x, y), (val, val_y) = drawn(4, 500, 2), drawn(5, 200, 2)
    train, test = (Features.of(np.pad(part, ((0, 0), (0, 1)), constant_values=7)) for part in (x, val))
    weights = probe.ridge(train, y, test, val_y, 2)
    assert np.isfinite(weights).all()
    assert np.mean(probe.classify(weights, test) == val_y) > 0.9
