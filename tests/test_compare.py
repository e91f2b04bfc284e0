"""Comparison: the story on untrained runs; which differences the paired bootstrap sees, and how often it is right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as oracle

from hairline import config
from hairline.data import manifest
from hairline.evaluation import compare
from hairline.evaluation.compare import ComparisonError, Difference
from tests.running import composed


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


def bootstrap(
    first: pd.DataFrame, second: pd.DataFrame, groups: dict[str, str] | None = None, **options: int
) -> dict[str, Difference]:
    return compare.paired_bootstrap(first, second, groups=groups or {}, **options)


def scores(generator: np.random.Generator, labels: np.ndarray, apart: float) -> np.ndarray:
    return 1 / (1 + np.exp(-generator.normal(apart * (2 * labels - 1))))


def test_differences_agree_with_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random(300) < 0.3).astype(int)
    one, two = scores(generator, labels, 1.5), scores(generator, labels, 0.5)
    first, second = table(labels, one, 0.3), table(labels, two).sample(frac=1, random_state=1)
    found = bootstrap(first, second, resamples=200)
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
    for entry in bootstrap(one, one, resamples=50).values():
        assert (entry.value, entry.low, entry.high, entry.decided) == (0, 0, 0, False)


def test_intervals_cover_the_truth_at_their_rate() -> None:
    """Two classifiers right on 85 % and 80 %, half of the time together: the truth is 0.05."""
    generator = np.random.default_rng(2)
    covered = 0
    trials = 100
    for trial in range(trials):
        labels = generator.integers(0, 2, 250)
        same = generator.random(250) < 0.5
        luck = generator.random((2, 250))
        luck[1] = np.where(same, luck[0], luck[1])
        right = luck < np.array([[0.85], [0.80]])
        first, second = (table(labels, np.where(side == labels.astype(bool), 0.9, 0.1)) for side in right)
        found = bootstrap(first, second, resamples=200, seed=trial)["accuracy"]
        covered += found.low <= 0.05 <= found.high
    assert 0.89 <= covered / trials <= 0.99


def test_groups_that_move_together_widen_the_interval() -> None:
    generator = np.random.default_rng(3)
    labels = np.repeat(generator.integers(0, 2, 20), 15)
    right = np.repeat(generator.random(20) < 0.7, 15)
    first = table(labels, np.where(right == labels.astype(bool), 0.9, 0.1))
    second = table(labels, np.where(labels == 1, 0.9, 0.1))
    groups = {path: f"photo {number // 15}" for number, path in enumerate(first["path"])}
    alone = bootstrap(first, second)["accuracy"]
    together = bootstrap(first, second, groups=groups)["accuracy"]
    assert together.high - together.low > 2.5 * (alone.high - alone.low)


def test_different_images_labels_or_classes_are_refused() -> None:
    labels = np.array([0, 1])
    one = table(labels, np.array([0.2, 0.8]))
    with pytest.raises(ComparisonError, match=r"share no image"):
        bootstrap(one, one.assign(path=["/a", "/b"]))
    with pytest.raises(ComparisonError, match=r"/set/0.jpg is 'sound' in one table and 'cracked'"):
        bootstrap(one, one.assign(label=["cracked", "sound"]))
    with pytest.raises(ComparisonError, match=r"other classes: cracked, sound and rust, sound"):
        bootstrap(one, one.rename(columns={"prob_cracked": "prob_rust"}))


def test_cannot_tell_counts_as_wrong() -> None:
    labels = np.array([0, 1, 0, 1])
    one = table(labels, np.array([0.1, 0.9, 0.1, 0.9]))
    two = one.assign(predicted=["sound", "cannot tell", "sound", "cracked"])
    found = bootstrap(one, two, resamples=50)
    assert found["accuracy_at_threshold"].value == pytest.approx(0.25)
    assert found["accuracy"].value == 0


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Write a sweep of three runs without models; the first is the best, the third saw other images."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 80)
    for number, (rate, apart) in enumerate(((0.01, 3.0), (1e-6, 0.1), (0.1, 1.0))):
        folder = tmp_path / "sweep" / str(number)
        folder.mkdir(parents=True)
        crack = scores(generator, labels, apart).astype(np.float32)
        predictions = table(labels, crack).assign(path=[f"/set{number // 2}/{row}.jpg" for row in range(80)])
        manifest.write(predictions, folder / "predictions.csv")
        manifest.write(predictions[["path"]].assign(group="", sha256=""), folder / "manifest.csv")
        accuracy = float(((crack >= 0.5) == labels).mean())
        (folder / "metrics.json").write_text(
            json.dumps({"test_accuracy": accuracy, "test_loss": 1 - accuracy, "threshold": 0.5, "val_loss": 0.1})
        )
        (folder / "config.yaml").write_text(
            f"learning_rate: {rate}\nseed: 0\nname: job {number}\ndata:\n  positive_class: cracked\n"
        )
    return tmp_path / "sweep"


def compared(runs: Path, place: Path, *overrides: str) -> pd.DataFrame:
    place.mkdir()
    return compare.compare(composed("compare", f"runs=[{runs}]", "resamples=100", *overrides), place)


def test_runs_are_ranked_and_compared(runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="hairline")
    found = compared(runs, tmp_path / "out", "metric=accuracy")
    assert found["run"].tolist() == ["sweep/0", "sweep/2", "sweep/1"]
    assert found["learning_rate"].tolist() == [0.01, 0.1, 1e-6]
    assert not {"seed", "name", "val_loss"} & set(found.columns)
    assert (found["test_auroc_interval_low"] <= found["test_auroc_interval_high"]).all()  # computed here
    assert found["test_recall_at_threshold_interval_low"].notna().all()
    differences = pd.read_csv(tmp_path / "out" / "differences.csv", keep_default_na=False)
    assert "share no image" in differences["note"][0]
    decided = differences[differences["decided"].astype(str) == "True"]
    assert "balanced_accuracy_at_threshold" in set(decided["metric"])
    assert "sweep/0 against sweep/1, on 80 shared test images: better in accuracy by" in caplog.text
    assert (tmp_path / "out" / "comparison.png").is_file()
    by_loss = compared(runs, tmp_path / "loss", "metric=test_loss")
    assert by_loss["run"].tolist() == found["run"].tolist()  # lower is better


def test_runs_that_cannot_be_compared_are_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match=r"nothing to compare"):
        composed("compare")
    with pytest.raises(config.ConfigError, match=r"runs: nowhere is neither a folder nor an MLflow run id"):
        composed("compare", "runs=[nowhere]")
    with pytest.raises(ComparisonError, match=r"received 1 finished runs.*expected two at least"):
        compared(runs / "0", tmp_path / "one")
    with pytest.raises(ComparisonError, match=r"metric=test_acuracy: unknown. Did you mean 'test_accuracy'"):
        compared(runs, tmp_path / "metric", "metric=test_acuracy")
    broken = pd.read_csv(runs / "1" / "predictions.csv").assign(prob_sound=np.nan)
    broken.to_csv(runs / "1" / "predictions.csv", index=False)
    with pytest.raises(ComparisonError, match=r"probabilities of 80 images are not numbers \(nan\)"):
        compared(runs, tmp_path / "nan")
