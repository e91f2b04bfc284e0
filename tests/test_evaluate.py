"""Evaluation: the story on a network that was never trained, with a saved model of known answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hairline.evaluation import evaluate
from hairline.evaluation.evaluate import EvaluationError
from hairline.evaluation.metrics import measure
from hairline.inspection import predict
from hairline.model import predictions, saved
from hairline.model.decision import Decision
from hairline.training.base import Base
from tests import tracked
from tests.running import composed
from tests.saved_runs import saved_run

QUIET = ("tracking=none", "report.level=light")


def evaluated(
    place: Path, run: Path | str, data: Path, *overrides: str, sweep: Path | None = None
) -> dict[str, float | None]:
    chosen = ["evaluate", f"run={run}", "data=folder", f"data.path={data}", "features.engine=tensorflow", *overrides]
    place.mkdir(parents=True)
    return evaluate.evaluate(composed(*chosen), place, sweep)


def test_seen_and_unseen_images_are_measured_apart(untrained: Path, two_classes: Path, tmp_path: Path) -> None:
    everything = evaluated(tmp_path / "all", untrained, two_classes, *QUIET)
    assert (everything["test_images"], everything["seen_images"]) == (30, 90)
    test = evaluated(tmp_path / "test", untrained, two_classes, "part=test", *QUIET)
    assert (test["test_images"], test["seen_images"]) == (30, 0)
    assert test["test_loss"] == pytest.approx(everything["test_loss"])
    train = evaluated(tmp_path / "train", untrained, two_classes, "part=train", *QUIET)
    assert (train["test_images"], train["seen_images"]) == (0, 60)
    assert not any(key.startswith("test_acc") for key in train)


def test_metrics_are_those_of_the_saved_model(untrained: Path, others: Path, tmp_path: Path) -> None:
    found = evaluated(tmp_path / "out", untrained, others, "threshold=0.3", *QUIET)
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    bundle = saved.read_bundle(untrained / "model")
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB").resize((32, 32), 2)) for path in table["path"]])
    expected = saved.load_model(untrained / "model", bundle).predict(pixels, verbose=0)
    np.testing.assert_allclose(table[["prob_cracked", "prob_plain"]], expected, atol=1e-5)
    values = predictions.from_table(table, positive=0, groups=np.arange(len(table)))
    measured = measure(values, Decision(threshold=0.3), resamples=0)
    for name in ("accuracy", "recall_at_threshold", "auroc", "loss", "ece"):
        assert found[f"test_{name}"] == pytest.approx(measured[name], abs=1e-5), name
    assert (table["predicted"] == np.where(table["prob_cracked"] >= 0.3, "cracked", "plain")).all()


def test_a_full_report_has_figures_intervals_and_a_description(untrained: Path, others: Path, tmp_path: Path) -> None:
    found = evaluated(tmp_path / "out", untrained, others, "tracking=none", "name=others")
    assert found["test_auroc_interval_low"] <= found["test_auroc"] <= found["test_auroc_interval_high"]
    assert {"confusion_matrix", "ranking", "gradcam"} <= {path.stem for path in (tmp_path / "out/figures").iterdir()}
    description = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (description["data"], description["adapt"]) == ("others", "none")
    assert "cracked from a probability of 0.4" in description["decision"]


def test_a_sweep_of_evaluations_makes_a_table(untrained: Path, two_classes: Path, others: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    evaluated(sweep / "0", untrained, two_classes, "part=test", *QUIET, sweep=sweep)
    second = evaluated(sweep / "1", untrained, others, *QUIET, sweep=sweep)
    table = pd.read_csv(sweep / "cross_table.csv")
    assert table["data"].tolist() == [f"{two_classes.name} test", others.name]
    assert table["test_images"].tolist() == [30, 26]
    assert table["test_loss"][1] == pytest.approx(second["test_loss"])
    with Image.open(sweep / "cross_table.png") as image:
        assert image.width == 1080


def test_other_class_names_are_mapped_or_refused(untrained: Path, others: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "renamed"
    shutil.copytree(others / "plain", renamed / "Negative")
    shutil.copytree(others / "cracked", renamed / "Positive")
    with pytest.raises(
        EvaluationError,
        match=r"has the classes Negative, Positive; the model knows cracked, plain.*'data.class_map={Negative: plain, ",
    ):
        evaluated(tmp_path / "a", untrained, renamed, *QUIET)
    with pytest.raises(ValueError, match=r"data.class_map names positive: no such class"):
        evaluated(tmp_path / "b", untrained, renamed, "data.class_map={positive: cracked}", *QUIET)
    names = "data.class_map={Positive: cracked, Negative: plain}"
    mapped = evaluated(tmp_path / "c", untrained, renamed, names, *QUIET)
    assert mapped["test_auroc"] == evaluated(tmp_path / "d", untrained, others, *QUIET)["test_auroc"]


def champion(store: str, model: Path) -> None:
    """Register a saved model as the champion of a store, without the package that MLflow would log with it."""
    client = mlflow.MlflowClient(store)
    run = client.create_run(client.create_experiment("models", artifact_location=f"{Path.cwd().as_uri()}/models"))
    client.log_artifacts(run.info.run_id, str(model), "model/artifacts/model")
    client.create_registered_model("hairline")
    client.create_model_version("hairline", f"{run.info.artifact_uri}/model", run.info.run_id)
    client.set_registered_model_alias("hairline", "champion", "1")


@pytest.mark.slow
@pytest.mark.usefixtures("empty_store")
def test_every_script_finds_the_champion_of_the_store_that_tracking_uri_names(
    untrained: Path, two_classes: Path, others: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = saved_run(tmp_path / "other", two_classes, seed=1)
    shutil.copyfile("mlflow.db", "other.db")
    here, there = (f"sqlite:///{tmp_path}/{name}.db" for name in ("mlflow", "other"))
    champion(here, untrained / "model")
    champion(there, other / "model")
    named = "models:/hairline@champion"

    def recorder(model: Path, **_: object) -> None:
        raise KeyError(saved.read_bundle(model).model_sha256)

    digests = [saved.read_bundle(place / "model").model_sha256 for place in (untrained, other)]
    assert digests[0] != digests[1]
    for uri, place, digest in ((here, untrained, digests[0]), (there, other, digests[1])):
        name = digest[:6]
        expected = evaluated(tmp_path / f"{name}-folder", place, others, *QUIET)["test_loss"]
        found = evaluated(tmp_path / f"{name}-store", named, others, f"tracking.uri={uri}", *QUIET)["test_loss"]
        assert found == expected
        assert Base.of(named, uri, engine="tensorflow", seed=0).bundle.model_sha256 == digest
        monkeypatch.setattr(predict, "Recorder", recorder)
        settings = composed("predict", f"run={named}", f"input={others}", "output=out", f"tracking.uri={uri}")
        with pytest.raises(KeyError, match=digest):
            predict.inspect_photos(settings, tmp_path)


@pytest.mark.usefixtures("empty_store")
def test_mlflow_gets_the_results_and_no_other_file(untrained: Path, others: Path, tmp_path: Path) -> None:
    place = tmp_path / "out"
    place.mkdir()
    for name in ("customers.csv", "customers.json", "notes.log", "evaluate.log"):
        (place / name).write_text("{}")
    chosen = [f"run={untrained}", "data=folder", f"data.path={others}", "features.engine=tensorflow"]
    chosen += ["report.level=light", "tracking.system_metrics=false"]
    evaluate.evaluate(composed("evaluate", *chosen), place, None)
    (entry,) = tracked.runs(experiment="hairline")
    sent = {item.path for item in tracked.client().list_artifacts(entry.info.run_id)}
    assert sent == {"predictions.csv", "manifest.csv", "metrics.json", "evaluation.json", "evaluate.log"}


def test_one_image_is_measured(untrained: Path, others: Path, tmp_path: Path) -> None:
    (tmp_path / "one" / "cracked").mkdir(parents=True)
    (tmp_path / "one" / "plain").mkdir()
    shutil.copy(next((others / "cracked").iterdir()), tmp_path / "one" / "cracked")
    found = evaluated(tmp_path / "out", untrained, tmp_path / "one", "tracking=none")
    assert found["test_images"] == 1
    assert np.isnan(found["test_auroc"])
    assert found["test_accuracy"] in (0.0, 1.0)
    saved = json.loads((tmp_path / "out" / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert saved["test_auroc"] is None


@pytest.mark.usefixtures("empty_store")
def test_an_empty_part_and_a_missing_model_are_refused(untrained: Path, others: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"part=val: received no image.*\{'none': 26\}"):
        evaluated(tmp_path / "out", untrained, others, "part=val", *QUIET)
    with pytest.raises(ValueError, match=r"no saved model there"):
        evaluated(tmp_path / "nowhere", tmp_path, others, *QUIET)
    with pytest.raises(ValueError, match=r"no model under runs:/0000"):
        evaluated(tmp_path / "unknown", "0" * 32, others, *QUIET)
