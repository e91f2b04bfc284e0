"""A head fitted to few labels: near its base where they agree, away from it where they do not."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from hairline.evaluation import metrics
from hairline.model import logistic
from hairline.model.logistic import Refit, refit

WIDTH = 30
MEAN, DEVIATION = np.full(WIDTH, 3.0, np.float32), np.full(WIDTH, 2.0, np.float32)
DIRECTION = np.random.default_rng(7).normal(size=WIDTH).astype(np.float32)


def images(count: int, seed: int, direction: np.ndarray, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Give features whose classes lie apart along a direction."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    along = direction / np.linalg.norm(direction)
    table = generator.normal(size=(count, WIDTH)) + 1.5 * np.outer(2 * labels - 1, along) + offset * along
    return (MEAN + DEVIATION * table).astype(np.float32), labels.astype(np.int64)


def head(direction: np.ndarray) -> dict[str, np.ndarray]:
    weights = 5 * np.stack([-direction, direction], axis=1) / np.linalg.norm(direction) / DEVIATION[:, None]
    return {
        "kernel": weights.astype(np.float32),
        "bias": (-MEAN @ weights).astype(np.float32),
        "mean": MEAN,
        "deviation": DEVIATION,
    }


def fit(count: int, base: np.ndarray, truth: np.ndarray, offset: float = 0.0) -> Refit:
    table, labels = images(count, 1, truth, offset)
    return refit(table, labels, [str(row) for row in range(count)], **head(base), seed=0)


def accuracy(found: Refit, truth: np.ndarray, offset: float = 0.0) -> float:
    table, labels = images(2000, 2, truth, offset)
    return float(np.mean(np.argmax(table @ found.kernel + found.bias, axis=1) == labels))


def test_labels_that_agree_with_the_base_keep_its_direction() -> None:
    found = fit(20, DIRECTION, DIRECTION)
    margin = (found.kernel[:, 1] - found.kernel[:, 0]) * DEVIATION
    assert margin @ DIRECTION / np.linalg.norm(margin) / np.linalg.norm(DIRECTION) > 0.95
    assert accuracy(found, DIRECTION) > 0.9


def test_a_surface_that_moves_all_scores_moves_the_offset() -> None:
    table, labels = images(2000, 2, DIRECTION, 4.0)
    base = head(DIRECTION)
    assert np.mean(np.argmax(table @ base["kernel"] + base["bias"], axis=1) == labels) < 0.6
    assert accuracy(fit(20, DIRECTION, DIRECTION, 4.0), DIRECTION, 4.0) > 0.88


def test_many_labels_that_contradict_the_base_turn_it() -> None:
    other = np.random.default_rng(8).normal(size=WIDTH).astype(np.float32)
    few, many = fit(20, DIRECTION, other), fit(400, DIRECTION, other)
    assert accuracy(many, other) > 0.88
    assert accuracy(many, other) > accuracy(few, other)
    assert many.strength < 10


def test_without_a_base_it_is_ridge_logistic_regression() -> None:
    table, labels = images(60, 3, DIRECTION)
    labels[:20] = 0  # classes of unequal numbers weigh the same
    nothing = head(DIRECTION) | {"kernel": np.zeros((WIDTH, 2), np.float32), "bias": np.zeros(2, np.float32)}
    found = refit(table, labels, list(range(60)), **nothing, seed=0)
    scaled = (table - MEAN) / DEVIATION / np.sqrt(WIDTH)
    # Two classes' weights stand for one margin of twice the size: half the penalty.
    penalty = 1 / (found.strength / 2 * 60)
    expected = LogisticRegression(C=penalty, class_weight="balanced", tol=1e-8, max_iter=10_000).fit(scaled, labels)
    margin = table @ (found.kernel[:, 1] - found.kernel[:, 0]) + found.bias[1] - found.bias[0]
    np.testing.assert_allclose(margin, expected.decision_function(scaled), atol=0.02)


def test_held_out_logits_have_not_seen_their_image() -> None:
    """On labels without any meaning they are no better than chance, though the fit itself is."""
    generator = np.random.default_rng(0)
    table = (MEAN + DEVIATION * generator.normal(size=(60, WIDTH))).astype(np.float32)
    labels = generator.permutation(np.arange(60) % 2)
    found = refit(table, labels, list(range(60)), **head(DIRECTION), seed=0)
    assert metrics.auroc(labels, found.held_out[:, 1] - found.held_out[:, 0]) < 0.75


def test_of_strengths_that_chance_cannot_tell_apart_the_strongest_is_taken() -> None:
    even = np.full(4, 0.25)
    surely = np.array([[1.0, 1.0, 1.0, 1.0], [0.5, 0.5, 0.5, 0.6]])
    assert logistic._nearest_to_the_base(surely, even) == 1
    perhaps = np.array([[1.0, 1.0, 1.0, 1.0], [0.1, 1.4, 0.2, 1.9]])
    assert logistic._nearest_to_the_base(perhaps, even) == 0


@pytest.mark.parametrize("count", [2, 6, 23])
def test_folds_hold_groups_together_and_every_class_in_each_fit(count: int) -> None:
    labels = np.arange(2 * count) % 2
    groups = [f"photo {row // 2}" for row in range(2 * count)]
    folds = logistic._folds(labels, groups, seed=0)
    assert all(folds[2 * number] == folds[2 * number + 1] for number in range(count))
    assert len(np.unique(folds)) == min(logistic.FOLDS, count)
    assert np.bincount(folds).max() - np.bincount(folds).min() <= 2


def test_three_classes() -> None:
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(3, WIDTH))
    labels = np.arange(45) % 3
    table = (MEAN + DEVIATION * (centres[labels] + 0.5 * generator.normal(size=(45, WIDTH)))).astype(np.float32)
    base = {"kernel": np.zeros((WIDTH, 3), np.float32), "bias": np.zeros(3, np.float32)}
    found = refit(table, labels, list(range(45)), **base, mean=MEAN, deviation=DEVIATION, seed=0)
    assert np.mean(np.argmax(table @ found.kernel + found.bias, axis=1) == labels) == 1
