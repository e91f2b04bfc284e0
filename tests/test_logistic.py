"""The head's problem solved to its minimum: against scikit-learn, and as a training."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from hairline.model import logistic
from hairline.training import solve as solving

GENERATOR = np.random.default_rng(3)
WEIGHTS = GENERATOR.uniform(0.2, 2.0, 240)


def rows(classes: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(240) % classes
    centres = GENERATOR.normal(size=(classes, 8))
    return GENERATOR.normal(size=(240, 8)) + centres[labels], labels


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_it_finds_what_scikit_learn_finds(classes: int) -> None:
    table, labels = rows(classes)
    found = logistic.fit(table, np.eye(classes)[labels], WEIGHTS, 0.05)
    # Two classes share one column there, whose squares are twice those of the two columns here.
    strength = 0.05 * WEIGHTS.sum() / (2 if classes == 2 else 1)
    known = LogisticRegression(C=1 / strength, tol=1e-8, max_iter=1000).fit(table, labels, sample_weight=WEIGHTS)
    expected = known.predict_proba(table)
    scores = found.logits(table)
    np.testing.assert_allclose(np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True), expected, atol=2e-4)
    np.testing.assert_allclose(found.kernel.sum(axis=1), 0, atol=1e-9)


def test_single_precision_gives_the_same_answer_and_each_step_its_scores() -> None:
    table, labels = rows(3)
    losses: list[float] = []

    def each(found: logistic.Solution, scores: np.ndarray) -> None:
        np.testing.assert_allclose(found.logits(table.astype(np.float32)), scores, atol=1e-4)
        losses.append(float(np.mean(np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(240), labels])))

    targets, weights = np.eye(3)[labels], np.ones(240)
    found = logistic.fit(table.astype(np.float32), targets, weights, 0.01, each=each)
    exact = logistic.fit(table, targets, weights, 0.01)
    np.testing.assert_allclose(found.logits(table), exact.logits(table), atol=0.02)
    assert len(losses) > 5
    assert losses[-1] < 0.6 * losses[0]


def solve(l2: float, keep: str = "best", width: int = 40) -> tuple[logistic.Solution, pd.DataFrame, list[int]]:
    """Solve with few images of many features, of which most are noise."""
    generator = np.random.default_rng(5)
    labels = np.arange(90) % 2
    table = generator.normal(size=(90, width)).astype(np.float32)
    table[:, 0] += labels * (width > 1)
    targets, told = np.eye(2)[labels], []
    solution, history = solving.solve(
        (table[:50], targets[:50]), (table[50:], targets[50:]), None, l2=l2, iterations=300, keep=keep,
        on_epoch=lambda number, row: told.append(number),
    )  # fmt: skip
    return solution, history, told


def test_the_history_is_that_of_a_training() -> None:
    _, history, told = solve(0.01)
    measured = ["loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds"]
    assert list(history.columns) == ["phase", "epoch", *measured]
    assert told == history["epoch"].tolist() == list(range(1, len(history) + 1))
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]


def test_the_best_iteration_is_kept_or_the_last() -> None:
    best, history, _ = solve(1e-6)
    last, _, _ = solve(1e-6, keep="last")
    assert history["val_loss"].argmin() < len(history) - 5  # it learns the noise by heart in the end
    assert np.abs(best.kernel).max() < 0.5 * np.abs(last.kernel).max()
    assert history["accuracy"].iloc[-1] == 1


def test_features_that_never_change_give_a_head_that_does_not_either() -> None:
    targets = np.eye(2)[np.arange(10) % 2]
    table = np.zeros((10, 3), np.float32)
    solution, history = solving.solve((table, targets), (table, targets), None, l2=0.1, iterations=50, keep="best")
    assert len(history) == 1
    assert not solution.kernel.any()
