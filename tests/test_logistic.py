"""Logistic regression against scikit-learn, its training history, and refits near a base head."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from hairline.model import logistic
from hairline.model.logistic import Refit, refit
from hairline.training.solve import solve

GENERATOR = np.random.default_rng(3)
WEIGHTS = GENERATOR.uniform(0.2, 2.0, 240)

WIDTH = 30
MEAN, DEVIATION = np.full(WIDTH, 3.0, np.float32), np.full(WIDTH, 2.0, np.float32)
DIRECTION = np.random.default_rng(7).normal(size=WIDTH).astype(np.float32)


def rows(classes: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(240) % classes
    centres = GENERATOR.normal(size=(classes, 8))
    return GENERATOR.normal(size=(240, 8)) + centres[labels], labels


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_the_fit_equals_that_of_scikit_learn(classes: int) -> None:
    table, labels = rows(classes)
    solution = logistic.fit(table, np.eye(classes)[labels], WEIGHTS, 0.05)
    # For two classes scikit-learn penalises one column, whose square is twice the sum of the two here.
    strength = 0.05 * WEIGHTS.sum() / (2 if classes == 2 else 1)
    reference = LogisticRegression(C=1 / strength, tol=1e-8, max_iter=1000).fit(table, labels, sample_weight=WEIGHTS)
    np.testing.assert_allclose(softmax(solution.logits(table), axis=1), reference.predict_proba(table), atol=2e-4)
    np.testing.assert_allclose(solution.kernel.sum(axis=1), 0, atol=1e-9)


def test_float32_agrees_with_float64_and_each_iteration_reports_its_logits() -> None:
    table, labels = rows(3)
    losses: list[float] = []

    def on_iteration(solution: logistic.Solution, logits: np.ndarray) -> None:
        np.testing.assert_allclose(solution.logits(table.astype(np.float32)), logits, atol=1e-4)
        losses.append(log_loss(labels, softmax(logits, axis=1)))

    targets, weights = np.eye(3)[labels], np.ones(240)
    solution = logistic.fit(table.astype(np.float32), targets, weights, 0.01, on_iteration=on_iteration)
    exact = logistic.fit(table, targets, weights, 0.01)
    np.testing.assert_allclose(solution.logits(table), exact.logits(table), atol=0.02)
    assert len(losses) > 5
    assert losses[-1] < 0.6 * losses[0]


def solve_noise(l2: float, keep: str = "best", width: int = 40) -> tuple[logistic.Solution, pd.DataFrame, list[int]]:
    """Solve with few images and many features, most of which are noise."""
    generator = np.random.default_rng(5)
    labels = np.arange(90) % 2
    table = generator.normal(size=(90, width)).astype(np.float32)
    table[:, 0] += labels * (width > 1)
    targets, epochs = np.eye(2)[labels], []
    solution, history = solve(
        (table[:50], targets[:50]), (table[50:], targets[50:]), None, l2=l2, iterations=300, keep=keep,
        on_epoch=lambda number, row: epochs.append(number),
    )  # fmt: skip
    return solution, history, epochs


def test_the_history_has_one_row_per_iteration() -> None:
    _, history, epochs = solve_noise(0.01)
    measured = ["loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds"]
    assert list(history.columns) == ["phase", "epoch", *measured]
    assert epochs == history["epoch"].tolist() == list(range(1, len(history) + 1))
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]


def test_the_best_or_the_last_iteration_is_kept() -> None:
    best, history, _ = solve_noise(1e-6)
    last, _, _ = solve_noise(1e-6, keep="last")
    assert history["val_loss"].argmin() < len(history) - 5  # it overfits in the end
    assert np.abs(best.kernel).max() < 0.5 * np.abs(last.kernel).max()
    assert history["accuracy"].iloc[-1] == 1


def test_constant_features_give_a_zero_kernel() -> None:
    targets = np.eye(2)[np.arange(10) % 2]
    table = np.zeros((10, 3), np.float32)
    solution, history = solve((table, targets), (table, targets), None, l2=0.1, iterations=50, keep="best")
    assert len(history) == 1
    assert not solution.kernel.any()


def draw(count: int, seed: int, direction: np.ndarray, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return features whose class means differ along `direction`."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    along = direction / np.linalg.norm(direction)
    table = generator.normal(size=(count, WIDTH)) + 1.5 * np.outer(2 * labels - 1, along) + offset * along
    return (MEAN + DEVIATION * table).astype(np.float32), labels.astype(np.int64)


def base_head(direction: np.ndarray) -> dict[str, np.ndarray]:
    weights = 5 * np.stack([-direction, direction], axis=1) / np.linalg.norm(direction) / DEVIATION[:, None]
    return {
        "kernel": weights.astype(np.float32),
        "bias": (-MEAN @ weights).astype(np.float32),
        "mean": MEAN,
        "deviation": DEVIATION,
    }


def refit_to(count: int, base: np.ndarray, truth: np.ndarray, offset: float = 0.0) -> Refit:
    table, labels = draw(count, 1, truth, offset)
    return refit(table, labels, [str(row) for row in range(count)], **base_head(base), seed=0)


def accuracy(refitted: Refit, truth: np.ndarray, offset: float = 0.0) -> float:
    table, labels = draw(2000, 2, truth, offset)
    return float(np.mean(np.argmax(table @ refitted.kernel + refitted.bias, axis=1) == labels))


def test_labels_that_agree_with_the_base_keep_its_direction() -> None:
    refitted = refit_to(20, DIRECTION, DIRECTION)
    margin = (refitted.kernel[:, 1] - refitted.kernel[:, 0]) * DEVIATION
    assert margin @ DIRECTION / np.linalg.norm(margin) / np.linalg.norm(DIRECTION) > 0.95
    assert accuracy(refitted, DIRECTION) > 0.9


def test_a_shift_of_all_scores_moves_the_bias() -> None:
    table, labels = draw(2000, 2, DIRECTION, 4.0)
    base = base_head(DIRECTION)
    assert np.mean(np.argmax(table @ base["kernel"] + base["bias"], axis=1) == labels) < 0.6
    assert accuracy(refit_to(20, DIRECTION, DIRECTION, 4.0), DIRECTION, 4.0) > 0.88


def test_many_labels_that_contradict_the_base_override_it() -> None:
    other = np.random.default_rng(8).normal(size=WIDTH).astype(np.float32)
    few, many = refit_to(20, DIRECTION, other), refit_to(400, DIRECTION, other)
    assert accuracy(many, other) > 0.88
    assert accuracy(many, other) > accuracy(few, other)
    assert many.strength < 10


def test_a_zero_base_gives_penalised_logistic_regression() -> None:
    table, labels = draw(60, 3, DIRECTION)
    labels[:20] = 0  # unequal classes are balanced
    nothing = base_head(DIRECTION) | {"kernel": np.zeros((WIDTH, 2), np.float32), "bias": np.zeros(2, np.float32)}
    refitted = refit(table, labels, list(range(60)), **nothing, seed=0)
    scaled = (table - MEAN) / DEVIATION / np.sqrt(WIDTH)
    # The margin is the difference of two columns with equal squares: half the penalty.
    penalty = 1 / (refitted.strength / 2 * 60)
    expected = LogisticRegression(C=penalty, class_weight="balanced", tol=1e-8, max_iter=10_000).fit(scaled, labels)
    margin = (table @ refitted.kernel + refitted.bias) @ [-1, 1]
    np.testing.assert_allclose(margin, expected.decision_function(scaled), atol=0.02)


def test_held_out_logits_are_out_of_fold() -> None:
    """On random labels they are no better than chance."""
    generator = np.random.default_rng(0)
    table = (MEAN + DEVIATION * generator.normal(size=(60, WIDTH))).astype(np.float32)
    labels = generator.permutation(np.arange(60) % 2)
    refitted = refit(table, labels, list(range(60)), **base_head(DIRECTION), seed=0)
    assert roc_auc_score(labels, refitted.held_out[:, 1] - refitted.held_out[:, 0]) < 0.75


def test_the_strongest_penalty_within_one_standard_error_is_chosen() -> None:
    even = np.full(4, 0.25)
    surely = np.array([[1.0, 1.0, 1.0, 1.0], [0.5, 0.5, 0.5, 0.6]])
    assert logistic._strongest(surely, even) == 1
    perhaps = np.array([[1.0, 1.0, 1.0, 1.0], [0.1, 1.4, 0.2, 1.9]])
    assert logistic._strongest(perhaps, even) == 0


@pytest.mark.parametrize("count", [2, 6, 23])
def test_folds_keep_groups_together_and_are_balanced(count: int) -> None:
    labels = np.arange(2 * count) % 2
    groups = [f"photo {row // 2}" for row in range(2 * count)]
    folds = logistic._folds(labels, groups, seed=0)
    assert all(folds[2 * number] == folds[2 * number + 1] for number in range(count))
    assert len(np.unique(folds)) == min(logistic.FOLDS, count)
    assert np.bincount(folds).max() - np.bincount(folds).min() <= 2


def test_refit_of_three_classes() -> None:
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(3, WIDTH))
    labels = np.arange(45) % 3
    table = (MEAN + DEVIATION * (centres[labels] + 0.5 * generator.normal(size=(45, WIDTH)))).astype(np.float32)
    base = {"kernel": np.zeros((WIDTH, 3), np.float32), "bias": np.zeros(3, np.float32)}
    refitted = refit(table, labels, list(range(45)), **base, mean=MEAN, deviation=DEVIATION, seed=0)
    assert np.mean(np.argmax(table @ refitted.kernel + refitted.bias, axis=1) == labels) == 1
