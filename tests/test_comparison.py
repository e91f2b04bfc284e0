"""The paired bootstrap: which differences it sees, which it does not, and how often it is right."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as oracle

from hairline.evaluation import comparison


def table(labels: np.ndarray, crack: np.ndarray, threshold: float = 0.5) -> pd.DataFrame:
    names = np.array(["sound", "cracked"])
    return pd.DataFrame(
        {
            "path": [f"/set/{number}.jpg" for number in range(len(labels))],
            "x": 0, "y": 0, "width": 9, "height": 9,
            "label": names[labels],
            "predicted": names[(crack >= threshold).astype(int)],
            "prob_cracked": crack,
            "prob_sound": 1 - crack,
        }
    )  # fmt: skip


def scores(generator: np.random.Generator, labels: np.ndarray, apart: float) -> np.ndarray:
    return 1 / (1 + np.exp(-generator.normal(apart * (2 * labels - 1))))


def test_differences_agree_with_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random(300) < 0.3).astype(int)
    one, two = scores(generator, labels, 1.5), scores(generator, labels, 0.5)
    first, second = table(labels, one, 0.3), table(labels, two).sample(frac=1, random_state=1)
    found = comparison.paired_bootstrap(first, second, resamples=200)
    expected = {
        "accuracy": oracle.accuracy_score(labels, one > 0.5) - oracle.accuracy_score(labels, two > 0.5),
        "balanced_accuracy": oracle.balanced_accuracy_score(labels, one > 0.5)
        - oracle.balanced_accuracy_score(labels, two > 0.5),
        "balanced_accuracy_at_threshold": oracle.balanced_accuracy_score(labels, one >= 0.3)
        - oracle.balanced_accuracy_score(labels, two > 0.5),
        "accuracy_at_threshold": oracle.accuracy_score(labels, one >= 0.3) - oracle.accuracy_score(labels, two > 0.5),
        "loss": oracle.log_loss(labels, one) - oracle.log_loss(labels, two),
    }
    assert {name: entry.value for name, entry in found.items()} == pytest.approx(expected, abs=1e-6)
    for entry in found.values():
        assert entry.low <= entry.value <= entry.high
        assert entry.images == 300
    assert found["loss"].decided
    assert found["loss"].high < 0


def test_a_model_is_no_better_than_itself() -> None:
    generator = np.random.default_rng(1)
    labels = np.arange(100) % 2
    one = table(labels, scores(generator, labels, 1.0))
    for entry in comparison.paired_bootstrap(one, one, resamples=50).values():
        assert (entry.value, entry.low, entry.high, entry.decided) == (0, 0, 0, False)


def test_intervals_cover_the_truth_at_their_rate() -> None:
    """Two classifiers right on 85 % and 80 %, half of the time together: the truth is 0.05."""
    generator = np.random.default_rng(2)
    covered = 0
    trials = 300
    for trial in range(trials):
        labels = generator.integers(0, 2, 250)
        same = generator.random(250) < 0.5
        luck = generator.random((2, 250))
        luck[1] = np.where(same, luck[0], luck[1])
        right = luck < np.array([[0.85], [0.80]])
        first, second = (table(labels, np.where(side == labels.astype(bool), 0.9, 0.1)) for side in right)
        found = comparison.paired_bootstrap(first, second, resamples=400, seed=trial)["accuracy"]
        covered += found.low <= 0.05 <= found.high
    assert 0.91 <= covered / trials <= 0.985


def test_groups_that_move_together_widen_the_interval() -> None:
    generator = np.random.default_rng(3)
    labels = np.repeat(generator.integers(0, 2, 20), 15)
    right = np.repeat(generator.random(20) < 0.7, 15)
    first = table(labels, np.where(right == labels.astype(bool), 0.9, 0.1))
    second = table(labels, np.where(labels == 1, 0.9, 0.1))
    groups = {path: f"photo {number // 15}" for number, path in enumerate(first["path"])}
    alone = comparison.paired_bootstrap(first, second)["accuracy"]
    together = comparison.paired_bootstrap(first, second, groups=groups)["accuracy"]
    assert together.high - together.low > 2.5 * (alone.high - alone.low)


def test_what_cannot_be_compared_is_said() -> None:
    labels = np.array([0, 1])
    one = table(labels, np.array([0.2, 0.8]))
    with pytest.raises(comparison.ComparisonError, match=r"share no image"):
        comparison.paired_bootstrap(one, one.assign(path=["/a", "/b"]))
    with pytest.raises(comparison.ComparisonError, match=r"/set/0.jpg is 'sound' in one table and 'cracked'"):
        comparison.paired_bootstrap(one, one.assign(label=["cracked", "sound"]))
    with pytest.raises(comparison.ComparisonError, match=r"other classes: cracked, sound and rust, sound"):
        comparison.paired_bootstrap(one, one.rename(columns={"prob_cracked": "prob_rust"}))
    with pytest.raises(comparison.ComparisonError, match=r"second table holds probabilities that are no numbers"):
        comparison.paired_bootstrap(one, one.assign(prob_sound=[np.nan, 0.5]))


def test_an_answer_that_is_none_is_not_right() -> None:
    labels = np.array([0, 1, 0, 1])
    one = table(labels, np.array([0.1, 0.9, 0.1, 0.9]))
    two = one.assign(predicted=["sound", "cannot tell", "sound", "cracked"])
    found = comparison.paired_bootstrap(one, two, resamples=50)
    assert found["accuracy_at_threshold"].value == pytest.approx(0.25)
    assert found["accuracy"].value == 0
