"""Intervals: published values, and the truth is covered at the nominal rate."""

from __future__ import annotations

import numpy as np
import pytest

from hairline.evaluation import intervals, metrics


def bounds(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> dict[str, tuple[float, float]]:
    table = np.column_stack([1 - scores, scores])
    weighted = metrics.WeightedMetrics(labels, table, {"": table.argmax(axis=1)}, positive=1)
    drawn = intervals.bootstrap(weighted, groups, resamples=150)
    return {name: intervals.percentiles(values) for name, values in drawn.items()}


@pytest.mark.parametrize(
    ("successes", "total", "expected"),
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_wilson_agrees_with_published_values(successes: int, total: int, expected: tuple[float, float]) -> None:
    """Newcombe 1998, Statistics in Medicine 17, table I, method 3."""
    assert intervals.wilson(successes, total) == pytest.approx(expected, abs=5e-5)


def test_wilson_knows_nothing_without_a_case_and_ends_at_one() -> None:
    assert intervals.wilson(0, 0) == (0, 1)
    assert intervals.wilson(7, 7)[1] == 1


def test_groups_are_drawn_whole() -> None:
    groups = np.array(["a", "a", "b", "c", "c", "c"])
    (weights,) = intervals.resample(groups, 200, seed=0)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 4]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()
    assert len({tuple(row) for row in weights}) > 5


def test_resamples_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = np.arange(10)
    whole = np.concatenate(list(intervals.resample(groups, 30, seed=3)))
    monkeypatch.setattr(intervals, "_CHUNK_NUMBERS", 70)
    chunks = list(intervals.resample(groups, 30, seed=3))
    assert len(chunks) == 5
    np.testing.assert_array_equal(np.concatenate(chunks), whole)


def test_undefined_resamples_are_ignored() -> None:
    assert intervals.percentiles(np.array([np.nan, 1.0, 1.0])) == (1, 1)
    assert np.isnan(intervals.percentiles(np.array([np.nan]))).all()


def test_bootstrap_covers_the_truth_at_its_rate() -> None:
    """Scores of two normal distributions: the AUROC is Phi(1/sqrt 2), the rates are Phi(1/2)."""
    truth = {"auroc": 0.76025, "balanced_accuracy": 0.69146}
    generator = np.random.default_rng(0)
    labels = np.arange(240) % 2
    trials = 100
    hits = dict.fromkeys(truth, 0)
    for _ in range(trials):
        measured = bounds(labels, 1 / (1 + np.exp(-generator.normal(labels - 0.5))), np.arange(240))
        for name, value in truth.items():
            hits[name] += measured[name][0] <= value <= measured[name][1]
    for name, count in hits.items():
        assert 0.88 <= count / trials <= 0.99, name


def test_bootstrap_by_group_covers_what_single_images_do_not() -> None:
    """Thirty photos of fifteen patches that are right or wrong together: single patches promise too much."""
    generator = np.random.default_rng(1)
    hits = {"group": 0, "alone": 0}
    trials = 60
    for _ in range(trials):
        labels = np.repeat(np.arange(30) % 2, 15)
        right = np.repeat(generator.random(30) < 0.8, 15)
        scores = np.where(right == labels.astype(bool), 0.9, 0.1)
        for name, groups in (("group", np.repeat(np.arange(30), 15)), ("alone", np.arange(450))):
            low, high = bounds(labels, scores, groups)["balanced_accuracy"]
            hits[name] += low <= 0.8 <= high
    assert hits["group"] / trials >= 0.8
    assert hits["alone"] / trials <= 0.6
