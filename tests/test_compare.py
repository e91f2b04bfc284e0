"""Comparison: the story on untrained runs; which differences beyond chance are reported, and how often rightly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as oracle
from scipy.stats import t as student

from hairline import config, tracking
from hairline.data import manifest
from hairline.evaluation import compare, paired
from hairline.evaluation.paired import ComparisonError, Difference
from tests.running import composed
from tests.tracked import tracked


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


def pair(
    first: pd.DataFrame, second: pd.DataFrame, metric: str = "accuracy", groups: dict[str, str] | None = None,
    **options: int | str,
) -> Difference:  # fmt: skip
    (found,) = paired.compare(first, [second], metric, groups=groups or {}, **options)  # type: ignore[arg-type]
    if isinstance(found, ComparisonError):
        raise found
    return found


def scores(generator: np.random.Generator, labels: np.ndarray, apart: float) -> np.ndarray:
    return 1 / (1 + np.exp(-generator.normal(apart * (2 * labels - 1))))


def test_differences_agree_with_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random(300) < 0.3).astype(int)
    one, two = scores(generator, labels, 1.5), scores(generator, labels, 0.5)
    first, second = table(labels, one, 0.3), table(labels, two).sample(frac=1, random_state=1)
    names = np.array(["sound", "cracked"])
    answers = {"": (one > 0.5, two > 0.5), "_at_threshold": (one >= 0.3, two >= 0.5)}
    expected = {"loss": oracle.log_loss(labels, one) - oracle.log_loss(labels, two)}
    expected["brier"] = oracle.brier_score_loss(labels, one) - oracle.brier_score_loss(labels, two)
    expected["auroc"] = oracle.roc_auc_score(labels, one) - oracle.roc_auc_score(labels, two)
    for suffix, (here, there) in answers.items():
        for name, function in {
            "accuracy": oracle.accuracy_score, "balanced_accuracy": oracle.balanced_accuracy_score,
            "recall": oracle.recall_score, "precision": oracle.precision_score, "f1": oracle.f1_score,
            "specificity": lambda labels, answers: oracle.recall_score(labels, answers, pos_label=0),
        }.items():  # fmt: skip
            expected[f"{name}{suffix}"] = function(labels, here) - function(labels, there)
    assert set(expected) == set(paired.METRICS)
    for metric, value in expected.items():
        found = pair(first, second, metric, positive="cracked", resamples=200)
        assert found.value == pytest.approx(value, abs=1e-6), metric
        assert found.low <= found.value <= found.high
        assert (found.images, found.groups) == (300, 300)
    macro = pair(first, second, "f1", resamples=100).value
    wanted = [oracle.f1_score(names[labels], names[(side > 0.5).astype(int)], average="macro") for side in (one, two)]
    assert macro == pytest.approx(wanted[0] - wanted[1])
    areas = pair(first, second, "auroc", resamples=100).value  # of two classes both are the same
    assert areas == pytest.approx(expected["auroc"])
    assert pair(first, second, "loss").decided
    assert pair(first, second, "loss").high < 0


@pytest.mark.parametrize("positive", ["cracked", None])
def test_a_class_that_is_never_predicted_has_a_precision_of_zero(positive: str | None) -> None:
    labels = np.arange(40) % 2
    first, second = table(labels, np.where(labels == 1, 0.9, 0.1)), table(labels, np.full(40, 0.1))
    found = pair(first, second, "precision", positive=positive, resamples=100)
    assert found.value == pytest.approx(1.0 if positive else 1 - (0.5 + 0) / 2)
    assert found.decided


@pytest.mark.slow
def test_the_error_of_an_auroc_is_that_of_the_bootstrap() -> None:
    """The pseudo-values' interval against resampled images, each resample measured by scikit-learn."""
    generator = np.random.default_rng(6)
    labels = np.arange(150) % 2
    one, two = scores(generator, labels, 1.0), scores(generator, labels, 0.5)
    found = pair(table(labels, one), table(labels, two), "auroc", positive="cracked")
    drawn = []
    for _ in range(400):
        rows = generator.integers(0, 150, 150)
        drawn.append(np.subtract(*(oracle.roc_auc_score(labels[rows], side[rows]) for side in (one, two))))
    assert found.high - found.low == pytest.approx(2 * 1.98 * np.std(drawn), rel=0.15)


def test_a_model_is_no_better_than_itself() -> None:
    generator = np.random.default_rng(1)
    labels = np.arange(100) % 2
    one = table(labels, scores(generator, labels, 1.0))
    for metric in paired.METRICS:
        found = pair(one, one, metric, positive="cracked", resamples=100)
        assert (found.value, found.low, found.high, found.decided, found.p_value) == (0, 0, 0, False, 1)


def test_models_that_answer_alike_on_few_images_are_not_surely_equal() -> None:
    """Eight images without a difference leave one on a further image possible: Wilson's interval of 0 of 8."""
    labels = np.arange(8) % 2
    one, two = (table(labels, np.where(labels == 1, score, 1 - score)) for score in (0.9, 0.8))
    found = pair(one, two)
    square = student.ppf(0.975, 7) ** 2
    assert (found.value, found.p_value) == (0, 1)
    assert (-found.low, found.high) == pytest.approx((square / (8 + square), square / (8 + square)))
    halves = pair(one, two, "balanced_accuracy")  # counts as its smaller class does
    square = student.ppf(0.975, 3) ** 2
    assert halves.high == pytest.approx(square / (4 + square))


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
        found = pair(first, second, resamples=200, seed=trial)
        covered += found.low <= 0.05 <= found.high
    assert 0.89 <= covered / trials <= 0.99


def test_groups_that_move_together_widen_the_interval() -> None:
    generator = np.random.default_rng(3)
    labels = np.repeat(generator.integers(0, 2, 20), 15)
    right = np.repeat(generator.random(20) < 0.7, 15)
    first = table(labels, np.where(right == labels.astype(bool), 0.9, 0.1))
    second = table(labels, np.where(labels == 1, 0.9, 0.1))
    groups = {path: f"photo {number // 15}" for number, path in enumerate(first["path"])}
    alone = pair(first, second)
    together = pair(first, second, groups=groups)
    assert together.groups == 20
    assert together.high - together.low > 2.5 * (alone.high - alone.low)


def test_different_images_labels_or_classes_are_refused() -> None:
    labels = np.array([0, 1])
    one = table(labels, np.array([0.2, 0.8]))
    with pytest.raises(ComparisonError, match=r"share no image"):
        pair(one, one.assign(path=["/a", "/b"]))
    with pytest.raises(ComparisonError, match=r"/set/0.jpg is 'sound' in one table and 'cracked'"):
        pair(one, one.assign(label=["cracked", "sound"]))
    with pytest.raises(ComparisonError, match=r"other classes: cracked, sound and rust, sound"):
        pair(one, one.rename(columns={"prob_cracked": "prob_rust"}))


def test_cannot_tell_counts_as_wrong() -> None:
    labels = np.array([0, 1, 0, 1])
    one = table(labels, np.array([0.1, 0.9, 0.1, 0.9]))
    two = one.assign(predicted=["sound", "cannot tell", "sound", "cracked"])
    assert pair(one, two, "accuracy_at_threshold", resamples=50).value == pytest.approx(0.25)
    assert pair(one, two, resamples=50).value == 0


def draws(generator: np.random.Generator, rates: list[float], images: int) -> tuple[np.ndarray, np.ndarray]:
    """Return accuracies of models and their resampled values, as normal as those of many images; errors in common."""
    shared = 0.5
    deviation = np.sqrt(np.mean([rate * (1 - rate) for rate in rates]) / images)
    errors = np.sqrt(shared) * generator.standard_normal((401, 1))
    errors = deviation * (errors + np.sqrt(1 - shared) * generator.standard_normal((401, len(rates))))
    observed = np.array(rates) + errors[0]
    return observed, observed + errors[1:]


@pytest.mark.parametrize(
    ("runs", "chosen"), [*(pytest.param(20, chosen, marks=pytest.mark.slow) for chosen in (True, False)), (3, True)]
)
def test_equal_runs_are_rarely_told_apart(runs: int, chosen: bool) -> None:
    generator, trials, beyond, naive = np.random.default_rng(runs), 300, 0, 0
    for _ in range(trials):
        observed, drawn = draws(generator, [0.95] * runs, 2000)
        best = int(observed.argmax()) if chosen else 0
        order = [best, *(other for other in range(runs) if other != best)]
        errors, limits, p_values = paired.max_t(observed[order], drawn[:, order], groups=2000, chosen=chosen)
        statistics = np.abs(observed[order][0] - observed[order][1:]) / errors[1:]
        beyond += (statistics > limits[1:]).any()
        naive += (statistics > 1.96).any()
        assert (p_values[1:][statistics > limits[1:]] < 0.05).all()
        assert (p_values[1:][statistics <= limits[1:]] > 0.03).all()
    assert beyond / trials <= 0.07  # 4 %, by the level; 300 trials have a standard error of 1.1 %
    if runs == 20:
        assert naive / trials > 0.3  # tests at 5 % each, as they were


def test_a_better_run_is_found_among_many() -> None:
    generator, trials, found = np.random.default_rng(0), 100, 0
    for _ in range(trials):
        observed, drawn = draws(generator, [0.97, *[0.95] * 19], 2000)
        best = int(observed.argmax())
        order = [best, *(other for other in range(20) if other != best)]
        errors, limits, _ = paired.max_t(observed[order], drawn[:, order], groups=2000, chosen=True)
        found += best == 0 and ((observed[0] - observed[order][1:]) > limits[1:] * errors[1:]).any()
    assert found / trials >= 0.8


def test_max_t_agrees_with_its_definition() -> None:
    """Each threshold against one that is computed from scratch, for the models that remain at its step."""
    generator = np.random.default_rng(4)
    observed = np.array([0.95, 0.948, 0.90, 0.93, 0.95])
    drawn = observed + 0.004 * (generator.standard_normal((500, 5)) + generator.standard_normal((500, 1)))
    errors, limits, _ = paired.max_t(observed, drawn, groups=10**9, chosen=True, level=0.1)
    apart = observed[:, None] - observed
    deviations = np.array([[np.std(drawn[:, i] - drawn[:, j], ddof=1) for j in range(5)] for i in range(5)])
    np.testing.assert_allclose(errors, deviations[0], rtol=1e-4)
    remaining, last = [0, 1, 2, 3, 4], None
    for other in sorted(range(1, 5), key=lambda other: -abs(apart[0, other]) / deviations[0, other]):
        largest = [
            max(abs(row[i] - row[j] - apart[i, j]) / deviations[i, j] for i in remaining for j in remaining if i < j)
            for row in drawn
        ]
        if last is None:
            assert limits[other] == pytest.approx(np.quantile(largest, 0.9), rel=1e-3)
            if abs(apart[0, other]) / deviations[0, other] <= limits[other]:
                last = limits[other]
        else:
            assert limits[other] == last  # after the first that is not beyond chance, nothing is
        remaining.remove(other)
    assert last is not None


def test_runs_with_other_images_are_compared_on_what_they_share() -> None:
    generator = np.random.default_rng(3)
    labels = np.arange(200) % 2
    one, two = (table(labels, scores(generator, labels, apart)) for apart in (2.0, 0.5))
    found = paired.compare(
        one, [two, two.head(120), two.assign(path="/elsewhere" + two["path"])], "accuracy", groups={}
    )
    assert isinstance(found[0], Difference)
    assert isinstance(found[1], Difference)
    assert (found[0].images, found[1].images) == (200, 120)
    assert "share no image" in str(found[2])
    alone = pair(one, two.head(120))
    assert found[1].value == alone.value
    assert found[1].high - found[1].low > alone.high - alone.low  # two batches share the level


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


@pytest.mark.parametrize("name", ["test_loss", "repeats_test_loss_mean", "test_ece_uncalibrated"])
def test_the_lowest_loss_is_the_best(name: str, runs: Path, tmp_path: Path) -> None:
    for number, value in enumerate((0.3, 0.1, 0.2)):
        file = runs / str(number) / "metrics.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
    assert compared(runs, tmp_path / "out", f"metric={name}")["run"].tolist() == ["sweep/1", "sweep/2", "sweep/0"]


def test_the_name_of_a_class_is_no_metric() -> None:
    assert not compare.is_lower_better("test_recall_paint_loss")


def test_a_run_that_abstains_is_compared_at_its_threshold_as_its_metrics_are(runs: Path, tmp_path: Path) -> None:
    table = manifest.read(runs / "0" / "predictions.csv", required=("path", "label"))
    doubtful = table["prob_cracked"].astype(float).between(0.1, 0.9)
    manifest.write(
        table.assign(predicted=table["predicted"].mask(doubtful, "cannot tell")), runs / "1" / "predictions.csv"
    )
    for number in (0, 1):
        file = runs / str(number) / "metrics.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"test_specificity_at_threshold": 0.9}))
    folders = ",".join(str(runs / str(number)) for number in (0, 1))
    (tmp_path / "out").mkdir()
    settings = composed("compare", f"runs=[{folders}]", "resamples=100", "metric=specificity_at_threshold")
    compare.compare(settings, tmp_path / "out")
    (row,) = pd.read_csv(tmp_path / "out" / "differences.csv").itertuples()
    assert (row.difference, row.verdict) == (0, "no difference")


def test_a_metric_that_is_undefined_is_told(runs: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels = np.zeros(20, int)
    one, two = (table(labels, scores(generator, labels, apart)) for apart in (2.0, 0.5))
    for metric in ("auroc", "recall"):
        with pytest.raises(ComparisonError, match="not defined on the 20 images that both predicted"):
            pair(one, two, metric, positive="cracked")
    file = runs / "1" / "metrics.json"
    for number in range(3):
        file = runs / str(number) / "metrics.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"test_auroc": None if number == 1 else 0.9}))
    with pytest.raises(ComparisonError, match=r"metric=auroc: not defined for sweep/1, as its images lack a class"):
        compared(runs, tmp_path / "out", "metric=auroc")


def test_one_group_is_no_evidence() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(40) % 2
    one, two = (table(labels, scores(generator, labels, apart)) for apart in (4.0, -4.0))
    groups = dict.fromkeys(one["path"], "photo")
    assert abs(pair(one, two, "loss", groups=groups).value) > 1
    assert not pair(one, two, "loss", groups=groups).decided


def test_jobs_that_have_not_finished_are_left_out_and_named(
    runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (runs / "1" / "metrics.json").unlink()
    assert compared(runs, tmp_path / "out", "metric=accuracy")["run"].tolist() == ["sweep/0", "sweep/2"]
    assert "left out, as they have not finished: 1" in caplog.text
    with pytest.raises(ComparisonError, match=r"has not finished.*train.py.*resume="):
        compare.compare(composed("compare", f"runs=[{runs}/0,{runs}/1]"), tmp_path)


def test_an_evaluation_names_the_positive_class_of_its_model(runs: Path, tmp_path: Path) -> None:
    for number in range(3):
        (runs / str(number) / "config.yaml").write_text("seed: 0\n")
        (runs / str(number) / "evaluation.json").write_text(json.dumps({"positive_class": "sound"}))
    found = compared(runs, tmp_path / "out", "metric=accuracy").set_index("run").loc["sweep/1"]
    answers = pd.read_csv(runs / "1" / "predictions.csv").query("label == 'sound'")["predicted"] == "sound"
    assert found["test_recall_interval_low"] <= answers.mean() <= found["test_recall_interval_high"]


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
    assert differences["verdict"].tolist() == ["", "better"]
    assert set(differences["metric"]) == {"accuracy"}
    assert "sweep/0 against 1 other run in accuracy, on 80 shared test images (80 groups)" in caplog.text
    assert "  against sweep/1: better beyond chance, +0." in caplog.text
    assert (tmp_path / "out" / "comparison.png").is_file()
    by_loss = compared(runs, tmp_path / "loss", "metric=test_loss")
    assert by_loss["run"].tolist() == found["run"].tolist()  # lower is better
    assert pd.read_csv(tmp_path / "loss" / "differences.csv")["verdict"][1] == "better"


def test_jobs_of_a_sweep_over_optimizers_show_what_differs_and_all_intervals(runs: Path, tmp_path: Path) -> None:
    for number, settings in enumerate(("name: adam\n  beta_1: 0.9", "name: sgd\n  momentum: 0.9", "name: lbfgs")):
        with (runs / str(number) / "config.yaml").open("a") as file:
            file.write(f"optimizer:\n  {settings}\n")
        place = runs / str(number) / "metrics.json"
        metrics = json.loads(place.read_text()) | {"test_auroc_interval_low": 0.5, "test_auroc_interval_high": 1.0}
        place.write_text(json.dumps(metrics))
    found = compared(runs, tmp_path / "out", "metric=accuracy")
    assert {"optimizer.name", "learning_rate"} <= set(found.columns)
    assert not {"optimizer.beta_1", "optimizer.momentum"} & set(found.columns)  # the optimizer's name says as much
    assert found["test_balanced_accuracy_interval_low"].notna().all()


def test_a_reference_is_compared_instead_of_the_best(
    runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="hairline")
    for number, text in enumerate(("sweep/1", str(runs / "1"))):
        found = compared(runs, tmp_path / str(number), f"reference={text}")
        assert found["run"].tolist() == ["sweep/0", "sweep/2", "sweep/1"]
        differences = pd.read_csv(tmp_path / str(number) / "differences.csv", keep_default_na=False)
        assert differences["reference"].tolist() == ["sweep/1", "sweep/1"]
        assert differences["verdict"].tolist() == ["worse", ""]
    assert "  against sweep/0: worse beyond chance, -0." in caplog.text
    with pytest.raises(ComparisonError, match=r"reference=sweep/9: matches 0 .* one of: sweep/0, sweep/1, sweep/2"):
        compared(runs, tmp_path / "none", "reference=sweep/9")


def test_runs_of_equal_names_are_all_compared(runs: Path, tmp_path: Path) -> None:
    twin = tmp_path / "other" / "sweep"
    shutil.copytree(runs, twin)
    folders = compare.find_runs([str(runs), str(twin), str(twin / "0")], experiment=None, uri=None, fetched=tmp_path)
    names = [name for name, _ in folders]
    assert len(folders) == len(set(names)) == 6  # a run that is named twice counts once
    assert {folder for _, folder in folders} == {place / str(job) for place in (runs, twin) for job in range(3)}


def test_hundreds_of_runs_are_compared(caplog: pytest.LogCaptureFixture) -> None:
    generator = np.random.default_rng(5)
    labels = np.arange(300) % 2
    tables = [table(labels, scores(generator, labels, 2.5 if number == 0 else 1.0)) for number in range(120)]
    several = [compare.Run(f"run {number}", {}, {}, entry, {}) for number, entry in enumerate(tables)]
    differences = compare.compare_with(several[0], several, "accuracy", chosen=True, resamples=300)
    assert len(differences) == 119
    lines = compare.verdicts(differences, metric="test_accuracy")
    assert len(lines) == 22
    assert lines[-1].startswith("  of all 119: better than 1")


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


@pytest.mark.usefixtures("empty_store")
def test_all_runs_of_an_experiment_are_found_whatever_their_names_and_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow.tracking.fluent.NUM_RUNS_PER_PAGE_PANDAS", 2)
    for number in range(5):
        place = tmp_path / str(number)
        place.mkdir()
        (place / "predictions.csv").write_text("path\n")
        with tracked(place) as run:
            run.artifacts(place / "predictions.csv")
    found = compare.find_runs([], experiment="e", uri=None, fetched=tmp_path / "fetched")
    assert len({name for name, _ in found}) == len(found) == 5
    with pytest.raises(tracking.TrackingError, match=r"mlflow_experiment=nothing: no such experiment.* e$"):
        compare.find_runs([], experiment="nothing", uri=None, fetched=tmp_path / "fetched")
