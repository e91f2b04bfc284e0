"""Distances of single images and sets, against the Gaussian that the features are drawn from."""

from __future__ import annotations

import numpy as np
import pytest

from hairline.model.familiarity import QUANTILE, Distance
from hairline.model.features import Features
from hairline.model.head import Standardisation

WIDTH = 40


def drawn(rows: int, seed: int, shift: float = 0.0) -> Features:
    """Return features that vary strongly along three directions and slightly along the others."""
    generator = np.random.default_rng(seed)
    directions = np.random.default_rng(99).normal(size=(3, WIDTH))
    table = 5 + generator.normal(size=(rows, 3)) @ directions + 0.1 * generator.normal(size=(rows, WIDTH)) + shift
    return Features.of(table.astype(np.float32))


def fit(train: Features, val: Features) -> Distance:
    standardisation = Standardisation.fit(train)
    labels = np.arange(len(train)) % 2
    return Distance.fit(train, labels, val, standardisation.mean, standardisation.deviation)


def test_distance_is_the_mahalanobis_distance() -> None:
    generator = np.random.default_rng(0)
    table = (generator.normal(size=(500, 4)) @ generator.normal(size=(4, 4))).astype(np.float32)
    distance = fit(Features.of(table), Features.of(table))
    assert len(distance.components) == 2
    scaled = (table - distance.mean) / distance.deviation
    values, vectors = np.linalg.eigh(scaled.T @ scaled / len(scaled))
    values[:2] = values[:2].mean()  # directions beyond the components are isotropic noise
    expected = (np.square(scaled @ vectors) / values).sum(axis=1) / 4
    np.testing.assert_allclose(distance.squared(table), expected, rtol=5e-3)


def test_the_limit_is_the_quantile_of_validation_images() -> None:
    train, val = drawn(600, seed=1), drawn(2000, seed=2)
    distance = fit(train, val)
    assert np.mean(distance(val.read()) <= 1) == QUANTILE
    assert np.mean(distance(drawn(1000, seed=3).read()) > 1) < 0.03
    assert (distance(drawn(50, seed=4, shift=2.0).read()) > 1).all()


def test_the_distance_of_a_set_ignores_the_share_of_cracks() -> None:
    generator = np.random.default_rng(0)
    difference = 4.0 * (np.arange(WIDTH) == 0)

    def images(count: int, cracked: float, shift: float) -> np.ndarray:
        classes = np.where(np.arange(count) < cracked * count, 1.0, -1.0)[:, None] * difference
        return (generator.normal(size=(count, WIDTH)) + classes + shift * (np.arange(WIDTH) == 1)).astype(np.float32)

    train = images(1000, 0.5, 0.0)
    standardisation = Standardisation.fit(Features.of(train))
    labels = (np.arange(1000) >= 500).astype(np.int64)
    val = Features.of(images(1000, 0.5, 0.0))
    distance = Distance.fit(Features.of(train), labels, val, standardisation.mean, standardisation.deviation)
    for cracked in (0.01, 0.5, 0.8, 1.0):
        assert distance.mean_shift(images(400, cracked, 0.0)) < 0.06
        # One of 40 features is shifted by one deviation.
        assert distance.mean_shift(images(4000, cracked, 1.0)) == pytest.approx(np.sqrt(1 / WIDTH), rel=0.15)
        assert distance.of_set(images(400, cracked, 2.0)) > 1
    assert np.median(distance(images(400, 0.5, 2.0))) < 1  # single images do not reveal the shift


def test_saved_arrays_give_the_same_distances() -> None:
    train, val = drawn(300, seed=1), drawn(300, seed=2)
    distance = fit(train, val)
    again = Distance.from_arrays(distance.arrays())
    assert again is not None
    other = drawn(20, seed=5, shift=1.0).read()
    np.testing.assert_array_equal(again(other), distance(other))
    assert Distance.from_arrays({"mean": train.read()[0], "deviation": train.read()[0]}) is None


def test_distances_after_a_fit_to_few_images_are_finite() -> None:
    for rows in (2, 5):
        distance = fit(drawn(rows, seed=1), drawn(2, seed=2))
        assert np.isfinite(distance(drawn(9, seed=3).read())).all()


def test_included_images_lie_within_the_limits() -> None:
    distance, others = fit(drawn(300, seed=1), drawn(300, seed=2)), drawn(100, seed=6, shift=2.0)
    assert (distance(others.read()) > 1).all()
    assert np.mean(distance.including(others)(others.read()) <= 1) >= QUANTILE
    assert distance.including(drawn(300, seed=2)).limit == distance.limit
