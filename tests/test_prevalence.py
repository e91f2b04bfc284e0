"""The share of a class on a surface, and the threshold that follows from it, from tiles that were selected by score."""

from __future__ import annotations

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from hairline.evaluation import prevalence


def surface(count: int = 20_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Margins of tiles, and classes that follow from them by a known curve."""
    generator = np.random.default_rng(seed)
    margins = generator.normal(-1, 2, count)
    return margins, generator.random(count) < expit(1.5 * margins - 1)


def selected(margins: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    chance = np.exp(-np.abs(margins))
    return np.random.default_rng(seed).choice(len(margins), count, replace=False, p=chance / chance.sum())


def test_the_calibration_is_logistic_regression() -> None:
    margins, hits = surface(4000)
    rows = selected(margins, 1500)
    slope, offset = prevalence.calibrate(margins[rows], hits[rows])
    found = LogisticRegression(C=1e6).fit(margins[rows, None], hits[rows])
    np.testing.assert_allclose([slope[0], offset[0]], [found.coef_[0, 0], found.intercept_[0]], rtol=0.02)
    weights = np.random.default_rng(1).random((2, 1500)) * 2
    slopes, offsets = prevalence.calibrate(margins[rows], hits[rows], weights)
    found = LogisticRegression(C=1e6).fit(margins[rows, None], hits[rows], sample_weight=weights[1])
    np.testing.assert_allclose([slopes[1], offsets[1]], [found.coef_[0, 0], found.intercept_[0]], rtol=0.02)


def test_the_share_is_that_of_all_tiles_not_of_the_selected_ones() -> None:
    margins, hits = surface()
    rows = selected(margins, 300)
    assert hits[rows].mean() > hits.mean() + 0.05
    assert abs(prevalence.share(margins[rows], hits[rows], margins) - hits.mean()) < 0.03


def test_the_threshold_has_the_best_balanced_accuracy_on_all_tiles() -> None:
    margins, hits = surface()
    rows = selected(margins, 400)
    share = prevalence.share(margins[rows], hits[rows], margins)
    threshold = prevalence.threshold_margin(margins[rows], hits[rows], share)

    def balanced(limit: float) -> float:
        return float(((margins[hits] >= limit).mean() + (margins[~hits] < limit).mean()) / 2)

    best = max(balanced(limit) for limit in np.linspace(-3, 3, 200))
    assert balanced(threshold) > best - 0.005


def test_classes_that_are_separated_or_few_give_finite_curves() -> None:
    for margins, hits in (
        (np.array([-2.0, -1.0, 1.0, 2.0]), np.array([False, False, True, True])),
        (np.zeros(4), np.array([False, True, True, False])),
        (np.array([1.0, -1.0]), np.array([False, True])),
    ):
        slope, offset = prevalence.calibrate(margins, hits)
        assert np.isfinite([slope, offset]).all()
        assert slope[0] > 0
