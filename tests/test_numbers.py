"""Evaluation of finished runs, and what may not leak from the test into the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.special import softmax

import hairline
from hairline.data import manifest
from hairline.evaluation import metrics
from hairline.model import saved
from tests import tracked
from tests.conftest import paint
from tests.running import SMALL, composed, train, train_with
from tests.test_evaluate import QUIET, evaluated

# Whole trainings and evaluations: two minutes.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(two_classes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, tracked in a store of its own."""
    root = tmp_path_factory.mktemp("numbers")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        curve = ("report.learning_curve=true", "repeats=3", "split.group_by=none")
        train(root / "outputs" / "one", two_classes, *curve, "decision.abstain=[0.02,0.98]")
    return root / "outputs" / "one"


def test_a_run_tells_its_decision_its_split_and_its_spread(finished: Path) -> None:
    found = json.loads((finished / "metrics.json").read_text())
    kept = json.loads((finished / "model" / "bundle.json").read_text())
    assert kept["decision"]["threshold"] == found["threshold"]
    assert kept["decision"]["temperature"] == found["temperature"] != 1
    assert kept["decision"]["abstain"] == [0.02, 0.98]
    assert "for a recall of 0.99" in kept["decision"]["chosen"]
    assert kept["decision"]["point"]["recall_low"] <= kept["decision"]["point"]["recall"]
    assert kept["extra"]["split"]["group_by"] == "none"
    table = pd.read_csv(finished / "repeats.csv")
    assert list(table["seed"]) == [0, 1, 2]
    assert found["repeats_test_loss_mean"] == pytest.approx(table["test_loss"].mean())
    assert found["repeats_test_loss_deviation"] == pytest.approx(table["test_loss"].std(), abs=1e-12)
    assert table["test_loss"].nunique() == 3
    assert table["test_loss"][0] == pytest.approx(found["test_loss"])
    curve = pd.read_csv(finished / "learning_curve.csv")
    assert list(curve["images"]) == [6, 10, 20, 42, 84]
    assert (finished / "figures" / "learning_curve.png").is_file()
    pairs = manifest.read(finished / "leaks.csv", required=("distance", "path", "other_path"))
    assert len(pairs) == 36
    store = tracked.client(finished.parents[1])
    run = store.get_run((finished / "mlflow_run_id.txt").read_text().strip())
    assert "split by `none`" in run.data.tags["mlflow.note.content"]
    assert run.data.metrics["test_accuracy"] == found["test_accuracy"]
    assert found["leak_groups"] == 120


def test_the_abstain_band_answers_cannot_tell(finished: Path) -> None:
    table = pd.read_csv(finished / "predictions.csv", keep_default_na=False)
    inside = (table["prob_cracked"] >= 0.02) & (table["prob_cracked"] < 0.98)
    assert inside.any()
    assert (inside == (table["predicted"] == "cannot tell")).all()
    found = hairline.load(str(finished)).predict(table["path"].tolist())
    assert list(found["predicted"]) == list(table["predicted"])


def test_the_temperature_is_in_the_saved_model(finished: Path) -> None:
    """The saved model's softmax is the prediction; its logits, times the temperature, are those before it."""
    bundle = saved.read_bundle(finished / "model")
    model = saved.load_model(finished / "model", bundle)
    table = pd.read_csv(finished / "predictions.csv")
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB").resize((32, 32), 2)) for path in table["path"]])
    scores = keras.Model(model.input, model.get_layer("logits").output).predict(pixels, verbose=0)
    np.testing.assert_allclose(softmax(scores, axis=1), table[["prob_cracked", "prob_plain"]], atol=1e-3)
    labels = (table["label"] == "plain").to_numpy().astype(int)
    before = json.loads((finished / "metrics.json").read_text())["test_loss_uncalibrated"]
    plain = softmax(scores.astype(np.float64) * bundle.temperature, axis=1)
    assert metrics.probability_metrics(labels, plain)["loss"] == pytest.approx(before, rel=1e-2)


def test_evaluation_of_the_own_test_part_gives_the_numbers_of_the_run(
    finished: Path, two_classes: Path, tmp_path: Path
) -> None:
    before = json.loads((finished / "metrics.json").read_text())
    found = evaluated(tmp_path / "test", finished, two_classes, "part=test", *QUIET)
    assert (found["test_images"], found["seen_images"]) == (8, 0)
    for key in ("accuracy", "loss", "auroc", "ece", "recall_at_threshold", "abstained"):
        assert found[f"test_{key}"] == pytest.approx(before[f"test_{key}"], abs=1e-4), key
    part = evaluated(tmp_path / "train", finished, two_classes, "part=train", *QUIET)
    assert part["seen_accuracy"] == pytest.approx(before["train_accuracy"])


def test_an_evaluation_adapts_to_a_surface_and_says_so(
    finished: Path, two_classes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Darkened images are another surface; the test part of the run's own is none."""
    dark = paint(tmp_path / "dark", {"plain": 60, "cracked": 20}, seed=9, brightness=0.8)
    plain = evaluated(tmp_path / "plain", finished, dark, *QUIET)
    with caplog.at_level("INFO", logger="hairline"):
        found = evaluated(tmp_path / "adapted", finished, dark, "adapt=surface", *QUIET)
    assert found["test_distance"] == plain["test_distance"] > 0.5
    assert (found["adapted"], "adapted" in plain) == (1.0, False)
    assert "adapt=surface: distance" in caplog.text
    assert json.loads((tmp_path / "adapted" / "evaluation.json").read_text())["adapt"].startswith("surface: distance")
    predictions = pd.read_csv(tmp_path / "adapted" / "predictions.csv")
    assert predictions.columns[-1] == "distance"
    before = pd.read_csv(tmp_path / "plain" / "predictions.csv")
    assert not np.allclose(predictions["prob_cracked"], before["prob_cracked"], atol=1e-3)
    own = evaluated(tmp_path / "own", finished, two_classes, "adapt=surface", "part=test", *QUIET)
    same = evaluated(tmp_path / "same", finished, two_classes, "part=test", *QUIET)
    assert (own["adapted"], own["test_loss"]) == (0.0, same["test_loss"])


def test_mlflow_ties_an_evaluation_to_the_model_and_the_images(
    finished: Path, two_classes: Path, others: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished.parents[1])
    one = evaluated(tmp_path / "0", finished, two_classes, "part=test", "report.level=light")
    two = evaluated(tmp_path / "1", finished, others, "report.level=light")
    store = tracked.client(finished.parents[1])
    run = store.get_run((finished / "mlflow_run_id.txt").read_text().strip())
    model = store.get_logged_model(run.outputs.model_outputs[0].model_id)
    logged = {(metric.dataset_name, metric.key): metric.value for metric in model.metrics}
    assert logged[others.name, "test_auroc"] == pytest.approx(two["test_auroc"])
    assert logged[f"{two_classes.name} test", "test_loss"] == pytest.approx(one["test_loss"])


def test_test_images_change_nothing_but_the_test(two_classes: Path, tmp_path: Path) -> None:
    """Other test pixels and labels, the split held fixed: weights, threshold and temperature are bit-identical."""
    generator = np.random.default_rng(0)
    shutil.copytree(two_classes, tmp_path / "images")
    paths = [path for folder in ("plain", "cracked") for path in sorted((tmp_path / "images" / folder).iterdir())]
    rows = [(str(path), path.parent.name, ("train", "train", "val", "test")[i % 4]) for i, path in enumerate(paths)]
    table = pd.DataFrame(rows, columns=["path", "label", "split"])
    found = []
    for name in ("one", "two"):
        for number in np.flatnonzero(table["split"] == "test") if name == "two" else ():
            pixels = generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(table.loc[number, "path"])
            table.loc[number, "label"] = ("plain", "cracked")[generator.integers(2)]
        table.to_csv(tmp_path / f"{name}.csv", index=False)
        (tmp_path / name).mkdir()
        place = f"data.path={tmp_path / name}.csv"
        chosen = composed("config", *SMALL, "data=manifest", place, "tracking=none", "features.keep=false")
        train_with(chosen, tmp_path / name)
        bundle = saved.read_bundle(tmp_path / name / "model")
        weights = saved.load_model(tmp_path / name / "model", bundle).get_weights()
        results = json.loads((tmp_path / name / "metrics.json").read_text())
        found.append((bundle.threshold, bundle.temperature, bundle.decision.point, weights, results))
    assert found[0][:3] == found[1][:3]
    for one, two in zip(found[0][3], found[1][3], strict=True):
        np.testing.assert_array_equal(one, two)
    assert found[0][4]["val_loss"] == found[1][4]["val_loss"]
    assert found[0][4]["test_loss"] != found[1][4]["test_loss"]
