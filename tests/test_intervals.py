"""Intervals: those of SciPy for single images, and the truth is covered at the nominal rate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm
from scipy.stats import t as student

from hairline.evaluation import intervals, metrics


def bounds(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> dict[str, tuple[float, float]]:
    table = np.column_stack([1 - scores, scores])
    weighted = metrics.WeightedMetrics(labels, table, {"": table.argmax(axis=1)}, positive=1)
    drawn = intervals.bootstrap(weighted, groups, resamples=150)
    values = weighted(np.ones((1, len(labels)), np.float32))
    count = len(set(groups))
    return {name: intervals.of_resamples(values[name][0], drawn[name], count)[:2] for name in drawn}


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
    drawn = np.array([np.nan, *np.linspace(0, 1, 101)])
    assert intervals.percentiles(drawn, 10_000)[:2] == pytest.approx((0.025, 0.975), abs=1e-3)
    assert np.isnan(intervals.percentiles(np.array([np.nan]), 50).low)
    assert np.isnan(intervals.percentiles(drawn, 1).low)  # one group: nothing can be said
    assert np.isnan(intervals.of_resamples(0.5, np.array([np.nan]), 50).low)


@pytest.mark.parametrize("groups", [1, 6])
def test_groups_that_are_all_alike_are_as_sure_as_so_many_cases(groups: int) -> None:
    drawn = np.full(100, 0.9) + np.random.default_rng(0).normal(0, 1e-16, 100)  # rounding errors
    assert intervals.of_resamples(0.9, drawn, groups) == intervals.of_cases(0.9, groups)


def test_a_ratio_of_single_images_has_the_interval_of_wilson() -> None:
    hits = np.arange(40) < 33
    found = intervals.of_ratio(hits, np.ones(40), np.arange(40))
    assert found == pytest.approx((*wilson(33, 40), 40))
    assert intervals.of_ratio(hits, np.zeros(40), np.arange(40)) == (0, 1, 0)  # nothing is known without a case
    some = intervals.of_ratio(hits & (np.arange(40) % 2 == 0), np.arange(40) % 2 == 0, np.arange(40))
    assert some == pytest.approx((*few(17, 20), 20))


def wilson(successes: int, total: int) -> tuple[float, float]:
    low, high = binomtest(successes, total).proportion_ci(0.95, method="wilson")
    return low, high


def few(successes: int, total: int) -> tuple[float, float]:
    """Return Wilson's interval with Student's quantile: where (share - p)^2 = q^2 * p * (1 - p) / total."""
    share, square = successes / total, student.ppf(0.975, total - 1) ** 2
    roots = np.roots([1 + square / total, -2 * share - square / total, share**2]).real
    return float(roots.min()), min(float(roots.max()), 1.0)


def test_groups_that_are_right_or_wrong_together_count_once() -> None:
    """The error over groups that agree within is that of one image a group, but for the correction for few groups."""
    right = np.arange(40) < 33
    groups = np.repeat(np.arange(40), 87)
    together = intervals.of_ratio(np.repeat(right, 87), np.ones(40 * 87), groups)
    low, high = wilson(33, 40)
    assert together.low == pytest.approx(low, abs=0.03)
    assert together.low <= low
    assert together.high >= high
    alone = wilson(33 * 87, 40 * 87)
    assert together.high - together.low > 8 * (alone[1] - alone[0])


def test_the_error_over_groups_is_that_of_the_cluster_bootstrap() -> None:
    """Resampling whole groups gives the same width as the closed form: away from 0 and 1, 2 * 1.96 standard errors."""
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(200), generator.integers(1, 30, 200))
    cases = generator.random(len(groups)) < 0.6
    hits = cases & (generator.random(len(groups)) < generator.beta(4, 3, 200)[groups])
    drawn = np.concatenate(list(intervals.resample(groups, 3000, seed=1)))
    shares = (drawn @ hits.astype(np.float32)) / (drawn @ cases.astype(np.float32))
    found = intervals.of_ratio(hits, cases, groups)
    assert (found.high - found.low) / (2 * 1.96 * shares.std()) == pytest.approx(1, abs=0.05)
    assert found.groups == len(set(groups[cases]))


def test_a_perfect_result_is_as_sure_as_its_groups() -> None:
    groups = np.repeat(np.arange(17), 87)
    assert intervals.of_ratio(np.ones(17 * 87), np.ones(17 * 87), groups) == pytest.approx((*few(17, 17), 17))
    assert intervals.of_resamples(1.0, np.ones(50), 17) == pytest.approx((*few(17, 17), 17))
    # One miss shows as little of how misses cluster.
    hits = np.arange(17 * 87) > 0
    assert intervals.of_ratio(hits, np.ones(17 * 87), groups).low < 0.95


@pytest.mark.parametrize("right", [60, 54])
def test_fewer_groups_never_give_a_narrower_interval(right: int) -> None:
    """One photo, however many patches it gave, says less than two, and two less than three."""
    widths = []
    for count in (1, 2, 3, 4):
        hits, groups = np.tile(np.arange(60) < right, count), np.repeat(np.arange(count), 60)
        found = intervals.of_ratio(hits, np.ones(60 * count), groups)
        widths.append(found.high - found.low)
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 0.9


def test_few_groups_are_named() -> None:
    groups = np.repeat(np.arange(29), 2)
    few = intervals.of_ratio(np.arange(58) > 3, np.ones(58), groups)
    assert few.describe().endswith("few groups: 29")
    assert intervals.Interval(0.1, 0.2, 30).describe() == "0.1000 to 0.2000, 30 groups"


@settings(max_examples=30)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=30))
def test_bounds_as_found_are_those_of_each_share(order: list[int]) -> None:
    """One by one, in the order in which they are found."""
    groups = np.array(order)
    bounds = intervals.bounds_as_found(groups)
    for found in range(len(groups) + 1):
        expected = intervals.of_ratio(np.arange(len(groups)) < found, np.ones(len(groups)), groups)
        assert bounds[found] == pytest.approx(expected.low, abs=1e-9)


@pytest.mark.parametrize(("count", "least", "most"), [(30, 0.92, 0.98), (100, 0.92, 0.98), (8, 0.88, 1.0)])
def test_ratios_of_correlated_images_are_covered(count: int, least: float, most: float) -> None:
    """Groups of ten that share a part of their luck: accuracy 0.9, and the truth of precision by hand."""
    generator = np.random.default_rng(count)
    trials, hits = 300, {"accuracy": 0, "precision": 0}
    groups = np.repeat(np.arange(count), 10)
    for _ in range(trials):
        luck = 0.5 * generator.standard_normal(count)[groups] + 0.75**0.5 * generator.standard_normal(len(groups))
        right, labels = luck < norm.ppf(0.9), generator.random(len(groups)) < 0.4
        called = right == labels
        ratios = {"accuracy": (right, np.ones(len(groups)), 0.9), "precision": (called & labels, called, 36 / 42)}
        for name, (above, below, truth) in ratios.items():
            interval = intervals.of_ratio(above, below, groups)
            hits[name] += interval.low <= truth <= interval.high
    for name, number in hits.items():
        assert least <= number / trials <= most, name


def test_intervals_cover_the_truth_at_their_rate() -> None:
    """Scores of two normal distributions: the AUROC is Phi(1/sqrt 2), the rates are Phi(1/2)."""
    truth = {"auroc": 0.76025, "balanced_accuracy": 0.69146}
    generator = np.random.default_rng(0)
    labels = np.arange(240) % 2
    trials = 100
    hits = dict.fromkeys(truth, 0)
    for _ in range(trials):
        scores, groups = 1 / (1 + np.exp(-generator.normal(labels - 0.5))), np.arange(240)
        area = metrics.auroc_interval(labels, np.column_stack([1 - scores, scores]), positive=1, groups=groups)
        measured = bounds(labels, scores, groups) | {"auroc": (area.low, area.high)}
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
