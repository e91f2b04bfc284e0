"""Intervals: point metrics by weights agree with scikit-learn, and the truth is covered at the nominal rate."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from hairline.evaluation import intervals, measures, metrics
from hairline.model.decision import Decision
from hairline.model.predictions import Predictions


def case(seed: int, classes: int, images: int = 300, apart: float = 1.2) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, images)
    labels[:classes] = np.arange(classes)
    powers = np.exp(generator.normal(size=(images, classes)) + apart * np.eye(classes)[labels])
    return labels, powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("classes", "positive"), [(2, 0), (2, 1), (3, None)])
def test_weights_count_as_repeated_images_do(classes: int, positive: int | None) -> None:
    """A resample measured by weights equals the metrics of the images really repeated."""
    labels, table = case(classes, classes)
    threshold = None if positive is None else 0.3
    resampled = intervals._Resampled(labels, table, positive, threshold)
    for weights in intervals.resampled_weights(None, len(labels), 5, seed=1):
        found = resampled.metrics(weights)
        for row, times in enumerate(weights.astype(int)):
            again = np.repeat(np.arange(len(labels)), times)
            expected = metrics.classification_metrics(
                labels[again], table[again], positive=positive, threshold=threshold
            )
            assert {name: values[row] for name, values in found.items()} == pytest.approx(expected, abs=1e-5)


def test_groups_are_drawn_whole() -> None:
    groups = ["a", "a", "b", "c", "c", "c"]
    (weights,) = intervals.resampled_weights(groups, 6, 200, seed=0)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 4]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()
    assert len({tuple(row) for row in weights}) > 5


def test_wilson_intervals_agree_with_the_closed_form() -> None:
    labels = np.array([1] * 40 + [0] * 60)
    predicted = np.array([1] * 37 + [0] * 3 + [0] * 58 + [1] * 2)
    found = intervals.wilson_intervals(labels, predicted, positive=1, suffix="_at_threshold")
    for name, successes, total in (
        ("accuracy", 95, 100),
        ("recall", 37, 40),
        ("specificity", 58, 60),
        ("precision", 37, 39),
    ):
        low, high = metrics.wilson_interval(successes, total)
        assert found[f"{name}_at_threshold_interval_low"] == low
        assert found[f"{name}_at_threshold_interval_high"] == high


def test_bootstrap_covers_the_truth_at_its_rate() -> None:
    """Scores of two normal distributions, whose AUROC and rates are known."""
    truth = {"auroc": 0.76025, "balanced_accuracy": 0.69146}  # Phi(1/sqrt 2), Phi(1/2)
    generator = np.random.default_rng(0)
    hits = {"auroc": 0, "balanced_accuracy": 0}
    trials = 120
    for trial in range(trials):
        labels = np.arange(240) % 2
        score = 1 / (1 + np.exp(-generator.normal(labels - 0.5)))
        found = intervals.bootstrap_intervals(
            labels, np.column_stack([1 - score, score]), positive=1, resamples=200, seed=trial
        )
        for name in hits:
            hits[name] += found[f"{name}_interval_low"] <= truth[name] <= found[f"{name}_interval_high"]
    for name, count in hits.items():
        assert 0.89 <= count / trials <= 0.99, name


def test_bootstrap_by_group_covers_what_single_images_do_not() -> None:
    """Twenty photos of fifteen patches that are right or wrong together: patches alone promise too much."""
    generator = np.random.default_rng(1)
    hits = {"group": 0, "alone": 0}
    trials = 60
    for trial in range(trials):
        labels = np.repeat(np.arange(30) % 2, 15)
        right = np.repeat(generator.random(30) < 0.8, 15)
        score = np.where(right == labels.astype(bool), 0.9, 0.1)
        table = np.column_stack([1 - score, score])
        for name, groups in (("group", np.repeat(np.arange(30), 15)), ("alone", None)):
            found = intervals.bootstrap_intervals(labels, table, positive=1, groups=groups, resamples=150, seed=trial)
            hits[name] += found["balanced_accuracy_interval_low"] <= 0.8 <= found["balanced_accuracy_interval_high"]
    assert hits["group"] / trials >= 0.8
    assert hits["alone"] / trials <= 0.6


def test_a_measurement_holds_every_metric_with_its_interval() -> None:
    labels, table = case(5, 2)
    predictions = Predictions.of(labels, table, ["sound", "cracked"], 1)
    found = measures.measure(predictions, Decision(threshold=0.4, abstain=[0.3, 0.6]), resamples=100)
    for name in (
        "accuracy",
        "recall_at_threshold",
        "f1",
        "balanced_accuracy",
        "auroc",
        "average_precision",
        "brier",
        "ece",
    ):
        assert found[f"{name}_interval_low"] <= found[name] <= found[f"{name}_interval_high"] + 0.02, name
    chosen = table.argmax(axis=1)
    assert found["recall_sound"] == pytest.approx(oracle.recall_score(labels, chosen, pos_label=0))
    assert found["precision_cracked"] == pytest.approx(oracle.precision_score(labels, chosen, pos_label=1))
    assert found["auroc_sound"] == pytest.approx(oracle.roc_auc_score(labels == 0, table[:, 0]))
    answered = (table[:, 1] < 0.3) | (table[:, 1] >= 0.6)
    assert found["abstained"] == pytest.approx(1 - answered.mean())
    expected = oracle.accuracy_score(labels[answered], (table[answered, 1] >= 0.4).astype(int))
    assert found["accuracy_when_answered"] == pytest.approx(expected)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(labels=st.lists(st.integers(0, 1), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_few_images_or_one_class_are_measured_without_a_warning(labels: list[int], seed: int) -> None:
    score = np.random.default_rng(seed).random(len(labels))
    predictions = Predictions.of(np.array(labels), np.column_stack([1 - score, score]), ["a", "b"], 1)
    found = measures.measure(predictions, Decision(threshold=0.5), resamples=20)
    assert 0 <= found["accuracy_interval_low"] <= found["accuracy"] <= found["accuracy_interval_high"] <= 1
    assert np.isnan(found["auroc"]) == (len(set(labels)) == 1)
