"""Metrics: hand-made cases, scikit-learn as the oracle of what is computed by hand, and undefined values."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import sklearn.metrics as oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve

from hairline.evaluation import intervals, metrics
from hairline.model.decision import Decision
from hairline.model.predictions import Predictions


def case(seed: int, classes: int, images: int = 300, *, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Labels of all classes, and probabilities that know a little about them."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, images)
    labels[:classes] = np.arange(classes)
    logits = generator.normal(size=(images, classes)) + 1.5 * np.eye(classes)[labels]
    powers = np.exp(np.round(logits) if ties else logits)
    return labels, powers / powers.sum(axis=1, keepdims=True)


def predictions(labels: list[int] | np.ndarray, table: np.ndarray, positive: int | None = 1) -> Predictions:
    names = [f"class {index}" for index in range(table.shape[1])]
    return Predictions.of(np.asarray(labels), table, names, positive)


def of_scores(labels: list[int], scores: list[float], threshold: float = 0.5) -> dict[str, float]:
    """Measure scores of class 1, without a bootstrap."""
    table = np.column_stack([1 - np.array(scores), scores])
    return metrics.measure(predictions(labels, table), Decision(threshold=threshold), resamples=0)


def undefined(measured: dict[str, float], suffix: str = "") -> set[str]:
    names = ("accuracy", "precision", "recall", "f1", "specificity", "balanced_accuracy", "auroc", "average_precision")
    return {name for name in names if math.isnan(measured.get(name + suffix, 0))}


def test_counts_with_known_answers() -> None:
    """Three cracked images (two found) and five sound ones (one false alarm)."""
    measured = of_scores([1, 1, 1, 0, 0, 0, 0, 0], [0.9, 0.8, 0.3, 0.7, 0.4, 0.2, 0.1, 0.1], threshold=0.25)
    expected = {
        "accuracy": 6 / 8, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "specificity": 4 / 5,
        "balanced_accuracy": (2 / 3 + 4 / 5) / 2,
        "auroc": 13 / 15,  # 0.3 ranks below 0.7 and 0.4
        "average_precision": (1 + 1 + 3 / 5) / 3,
        "brier": (0.01 + 0.04 + 0.49 + 0.49 + 0.16 + 0.04 + 0.01 + 0.01) / 8,
        "recall_at_threshold": 1, "specificity_at_threshold": 3 / 5, "precision_at_threshold": 3 / 5,
        "recall_class 0": 4 / 5, "precision_class 1": 2 / 3, "auroc_class 0": 13 / 15,
    }  # fmt: skip
    assert {name: measured[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_the_threshold_belongs_to_the_positive_class() -> None:
    measured = of_scores([0, 1, 1], [0.5, 0.75, 0.25], threshold=0.5)
    assert (measured["specificity_at_threshold"], measured["recall_at_threshold"]) == (0, 0.5)
    assert of_scores([0, 1], [0.0, 0.4], threshold=0.0)["recall_at_threshold"] == 1


def test_certain_and_wrong_costs_a_bounded_loss() -> None:
    assert metrics.probability_metrics(np.array([0]), np.array([[0.0, 1.0]]))["loss"] == pytest.approx(-math.log(1e-7))


@pytest.mark.parametrize(("classes", "positive"), [(2, 0), (2, 1), (2, None), (4, None)])
@pytest.mark.parametrize("ties", [False, True])
def test_averages_agree_with_scikit_learn(classes: int, positive: int | None, ties: bool) -> None:
    labels, table = case(classes, classes, ties=ties)
    one_hot, chosen = np.eye(classes, dtype=int)[labels], table.argmax(axis=1)
    average = {"average": "macro"} if positive is None else {"pos_label": positive}
    truth, scores = (one_hot, table) if positive is None else (labels == positive, table[:, positive])
    specificities = [oracle.recall_score(labels != index, chosen != index) for index in range(classes)]
    expected = {
        "accuracy": oracle.accuracy_score(labels, chosen),
        "precision": oracle.precision_score(labels, chosen, **average),
        "recall": oracle.recall_score(labels, chosen, **average),
        "f1": oracle.f1_score(labels, chosen, **average),
        "specificity": np.mean(specificities) if positive is None else specificities[positive],
        "balanced_accuracy": oracle.balanced_accuracy_score(labels, chosen),
        "loss": oracle.log_loss(labels, table),
        "brier": oracle.brier_score_loss(labels, table),
        "auroc": oracle.roc_auc_score(truth, scores),
        "average_precision": oracle.average_precision_score(truth, scores),
    }
    measured = metrics.classification_metrics(labels, table, positive=positive)
    assert {name: measured[name] for name in expected} == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_calibration_error_is_that_of_the_bins(classes: int) -> None:
    labels, table = case(6, classes)
    confidence, accuracy, count = metrics.reliability_bins(labels, table)
    right = (table.argmax(axis=1) == labels).astype(int)
    expected = calibration_curve(right, table.max(axis=1), n_bins=metrics.BINS)
    np.testing.assert_allclose([accuracy[count > 0], confidence[count > 0]], expected)
    error = sum(
        abs(right[inside].mean() - table.max(axis=1)[inside].mean()) * inside.mean()
        for low in range(metrics.BINS)
        if (inside := (table.max(axis=1) > low / metrics.BINS) & (table.max(axis=1) <= (low + 1) / metrics.BINS)).any()
    )
    assert metrics.probability_metrics(labels, table)["ece"] == pytest.approx(error)
    assert np.isnan(accuracy[0])


def test_undefined_metrics_are_nan() -> None:
    single = of_scores([1], [0.8], threshold=0.9)
    assert undefined(single) == {"specificity", "auroc", "balanced_accuracy"}
    assert undefined(single, "_at_threshold") == {"specificity", "balanced_accuracy"}
    assert (single["precision"], single["precision_at_threshold"]) == (1, 0)
    assert math.isnan(single["auroc_class 1"])
    assert math.isnan(single["specificity_interval_low"])
    no_positive = of_scores([0, 0], [0.1, 0.2])
    assert undefined(no_positive) == {"precision", "recall", "f1", "auroc", "average_precision", "balanced_accuracy"}
    false_alarm = of_scores([0, 0], [0.1, 0.8])
    assert (false_alarm["precision"], false_alarm["f1"], false_alarm["specificity"]) == (0, 0, 0.5)


def test_macro_averages_leave_absent_classes_out_and_punish_ignored_ones() -> None:
    labels, table = case(7, 3)
    padded = np.column_stack([table, np.zeros(len(labels))])
    three = metrics.classification_metrics(labels, table, positive=None)
    assert metrics.classification_metrics(labels, padded, positive=None) == pytest.approx(three)
    always_zero = np.tile([0.9, 0.1], (10, 1))
    ignoring = metrics.classification_metrics(np.array([0] * 8 + [1] * 2), always_zero, positive=None)
    assert ignoring["precision"] == pytest.approx((0.8 + 0) / 2)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-20, 20)), min_size=2, max_size=60))
def test_ranking_counts_agree_with_counting(rows: list[tuple[int, int]]) -> None:
    labels, scores = np.array(rows).T
    ranking = metrics.Ranking(labels == 1, scores.astype(float))
    assert ranking.thresholds.tolist() == sorted(set(scores.tolist()), reverse=True)
    hits, alarms = ranking.counts(np.ones((1, len(rows)), np.float32))
    for index, threshold in enumerate(ranking.thresholds):
        assert hits[0, index] == ((scores >= threshold) & (labels == 1)).sum()
        assert alarms[0, index] == ((scores >= threshold) & (labels == 0)).sum()


@pytest.mark.parametrize(("classes", "positive"), [(2, 0), (2, 1), (3, None)])
def test_weights_count_as_repeated_images_do(classes: int, positive: int | None) -> None:
    labels, table = case(classes, classes)
    others = np.random.default_rng(0).integers(0, classes, len(labels))
    weighted = metrics.WeightedMetrics(labels, table, {"": table.argmax(axis=1), "_other": others}, positive=positive)
    (weights,) = intervals.resample(np.arange(len(labels)), 5, seed=1)
    values = weighted(weights)
    for row, times in enumerate(weights.astype(int)):
        again = np.repeat(np.arange(len(labels)), times)
        expected = metrics.classification_metrics(labels[again], table[again], positive=positive)
        other = metrics.class_metrics(labels[again], others[again], classes=classes, positive=positive)
        expected |= {f"{name}_other": value for name, value in other.items()}
        del expected["auroc"]  # its interval needs no resamples
        assert {name: column[row] for name, column in values.items()} == pytest.approx(expected, abs=1e-5)


def test_no_answer_is_a_wrong_answer_of_weighted_images() -> None:
    labels = np.array([0, 0, 1, 1])
    weighted = metrics.WeightedMetrics(labels, np.eye(2)[labels], {"": np.array([0, -1, 1, -1])}, positive=None)
    values = weighted.of_classes(np.array([[1, 1, 1, 1], [3, 1, 1, 1]], np.float32))
    assert values["accuracy"].tolist() == [0.5, 4 / 6]
    assert values["balanced_accuracy"].tolist() == [0.5, (3 / 4 + 1 / 2) / 2]


def test_every_metric_has_an_interval() -> None:
    labels, table = case(5, 2)
    measured = metrics.measure(predictions(labels, table), Decision(threshold=0.4, abstain=[0.3, 0.6]), resamples=100)
    names = ("accuracy", "recall_at_threshold", "f1", "balanced_accuracy", "auroc", "average_precision", "brier", "ece")
    for name in names:
        assert measured[f"{name}_interval_low"] <= measured[name] <= measured[f"{name}_interval_high"] + 0.02, name
    at_threshold = (table[:, 1] >= 0.4).astype(int)
    hits = int((at_threshold[labels == 1] == 1).sum())
    ends = tuple(measured[f"recall_at_threshold_interval_{end}"] for end in ("low", "high"))
    assert ends == pytest.approx(tuple(binomtest(hits, int(labels.sum())).proportion_ci(method="wilson")))
    answered = (table[:, 1] < 0.3) | (table[:, 1] >= 0.6)
    assert measured["abstained"] == pytest.approx(1 - answered.mean())
    assert measured["accuracy_when_answered"] == oracle.accuracy_score(labels[answered], at_threshold[answered])


@settings(max_examples=30)
@given(labels=st.lists(st.integers(0, 1), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_few_images_or_one_class_are_measured_without_a_warning(labels: list[int], seed: int) -> None:
    scores = np.random.default_rng(seed).random(len(labels))
    table = np.column_stack([1 - scores, scores])
    measured = metrics.measure(predictions(labels, table), Decision(threshold=0.5), resamples=20)
    assert 0 <= measured["accuracy_interval_low"] <= measured["accuracy"] <= measured["accuracy_interval_high"] <= 1
    assert np.isnan(measured["auroc"]) == (len(set(labels)) == 1)


def test_every_interval_counts_groups() -> None:
    """Sixty images, each of them ten times, are as sure as sixty; one by one they would seem much surer."""
    labels, table = case(5, 2, 60)
    repeated = predictions(np.repeat(labels, 10), np.repeat(table, 10, axis=0))
    widths = []
    for groups in (np.repeat(np.arange(60), 10), np.arange(600)):
        measured = metrics.measure(dataclasses.replace(repeated, groups=groups), Decision(threshold=0.4), resamples=100)
        names = [name.removesuffix("_interval_low") for name in measured if name.endswith("_interval_low")]
        widths.append({name: measured[f"{name}_interval_high"] - measured[f"{name}_interval_low"] for name in names})
        assert measured["accuracy_interval_groups"] == len(set(groups))
        assert measured["recall_interval_groups"] == len(set(groups[repeated.labels == 1]))
    assert {"accuracy", "recall_at_threshold", "specificity", "precision", "f1", "auroc", "brier"} <= set(widths[0])
    for name, width in widths[0].items():
        assert width > 2 * widths[1][name], name
