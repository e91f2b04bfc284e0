"""A whole run, in this process, on small images: what it writes and mirrors, and what it leaves for the next."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import hairline
from hairline import tracking
from hairline.data import images, manifest, prepare
from hairline.evaluation import metrics
from hairline.model import backbones, saved
from hairline.model.decision import Decision
from hairline.model.predictions import Predictions
from hairline.system import files, provenance
from hairline.system.errors import HairlineError
from hairline.system.process import Process
from hairline.training import train as experiment
from hairline.training.checkpoint import CheckpointError
from tests import darkness, tracked
from tests.conftest import ROOT
from tests.running import SMALL, TINY, composed, run, train, train_with


@pytest.fixture(scope="module")
def finished(two_classes: Path, _empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run of two classes with everything on, in a working directory of its own."""
    root = tmp_path_factory.mktemp("run")
    shutil.copyfile(_empty_store, root / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        train(root / "outputs" / "one", two_classes, "augment=light", "augment.views=2", "tags.site=bridge")
    return root / "outputs" / "one"


@pytest.fixture
def client(finished: Path) -> mlflow.MlflowClient:
    return tracked.client(finished.parents[1])


def test_the_run_directory_explains_itself(finished: Path) -> None:
    tables = {"manifest.csv", "history.csv", "predictions.csv", "leaks.csv"}
    others = {"config.yaml", "environment.json", "metrics.json", "figures", "model"}
    others |= {"mlflow_run_id.txt", "tracking.jsonl", "state.npz"}
    assert {path.name for path in finished.iterdir()} - {"uncommitted.diff"} == tables | others
    saved = {path.name for path in (finished / "model").iterdir()}
    assert {"model.keras", "bundle.json", "features.npz", "README.md", "summary.txt"} <= saved
    figures = {path.stem for path in (finished / "figures").glob("*.png")}
    trained = {"model", "samples", "curves", "leaks"}
    assert figures == trained | {
        "confusion_matrix", "errors", "gradcam", "predictions", "ranking", "reliability", "scores",
    }  # fmt: skip
    for path in (finished / "figures").iterdir():
        with Image.open(path) as image:
            assert image.width >= 800


def test_metrics_are_flat_and_follow_from_the_predictions(finished: Path) -> None:
    found = json.loads((finished / "metrics.json").read_text())
    assert all(isinstance(value, int | float) for value in found.values())
    wanted = "train_accuracy val_accuracy test_accuracy test_loss test_precision test_recall test_f1 test_auroc"
    assert {*wanted.split(), "seconds_total"} < set(found)
    assert {"seconds_data", "seconds_features", "seconds_head"} < set(found)
    table = pd.read_csv(finished / "predictions.csv", keep_default_na=False)
    assert list(table.columns) == [
        "path",
        "x",
        "y",
        "width",
        "height",
        "label",
        "predicted",
        "prob_cracked",
        "prob_plain",
    ]
    labels = (table["label"] == "plain").to_numpy().astype(int)
    probabilities = table[["prob_cracked", "prob_plain"]].to_numpy()
    threshold = json.loads((finished / "model" / "bundle.json").read_text())["decision"]["threshold"]
    assert found["threshold"] == threshold
    predictions = Predictions.of(labels, probabilities, ["cracked", "plain"], 0)
    expected = metrics.measure(predictions, Decision(threshold=threshold), resamples=0)
    assert "recall_at_threshold" in expected
    for key, value in expected.items():
        assert found[f"test_{key}"] == pytest.approx(value, abs=1e-6), key
    assert found["test_accuracy_at_threshold"] == (table["label"] == table["predicted"]).mean()
    assert found["test_accuracy"] == (labels == probabilities.argmax(axis=1)).mean()
    for name in ("accuracy", "recall_at_threshold", "auroc", "ece"):
        assert found[f"test_{name}_interval_low"] <= found[f"test_{name}_interval_high"]


def test_manifest_is_divided_and_history_complete(finished: Path) -> None:
    table = manifest.read(finished / "manifest.csv")
    assert dict(table["split"].value_counts()) == {"train": 84, "val": 28, "test": 8}
    history = pd.read_csv(finished / "history.csv")
    assert list(history["epoch"]) == [1, 2, 3, 4]
    assert not history.isna().any().any()


def test_mlflow_mirrors_it(finished: Path, client: mlflow.MlflowClient) -> None:
    (run,) = client.search_runs([client.get_experiment_by_name("hairline").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["site"] == "bridge"
    assert "augment light views 2" in run.info.run_name
    parameters = run.data.params
    assert (parameters["batch_size"], parameters["model.backbone"], parameters["weights"]) == (
        "16",
        "mobilenetv3small",
        "random",
    )
    history = pd.read_csv(finished / "history.csv")
    for key in ("loss", "accuracy", "val_loss", "val_accuracy"):
        points = client.get_metric_history(run.info.run_id, f"epoch_{key}")
        assert [point.step for point in points] == [1, 2, 3, 4]
        np.testing.assert_allclose([point.value for point in points], history[key])
    saved = json.loads((finished / "metrics.json").read_text())
    assert run.data.metrics["test_accuracy"] == saved["test_accuracy"]
    assert run.data.metrics["final_val_loss"] == saved["val_loss"]
    # Charts of all would hide the curves, and MLflow draws those with a slash before them.
    names = sorted(key for key in run.data.metrics if not key.startswith("system/"))  # those of runs beyond a minute
    assert len(names) <= 13 < len(saved)  # and a chart of each of the two images
    curves = {f"epoch_{key}" for key in ("loss", "accuracy", "val_loss", "val_accuracy")}
    assert set(names[:4]) == curves  # MLflow draws charts in the order of their names
    assert not any("/" in key for key in names)
    low = f"({saved['test_accuracy_interval_low']:.4f} to"
    assert low in run.data.tags["mlflow.note.content"]
    logged = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "manifest.csv", "environment.json", "figures", "predictions.csv", "metrics.json"} <= logged
    assert "summary.txt" in logged
    assert "figures/model.png" in {item.path for item in client.list_artifacts(run.info.run_id, "figures")}
    dataset = run.inputs.dataset_inputs[0].dataset
    assert dataset.digest == manifest.digest(manifest.read(finished / "manifest.csv"))


def test_environment_says_what_the_run_was_made_with(finished: Path) -> None:
    about = json.loads((finished / "environment.json").read_text())
    assert about["versions"]["hairline"] == hairline.__version__
    assert {"tensorflow", "keras", "mlflow"} <= set(about["versions"])
    assert about["git"] is None or len(about["git"]["commit"]) == 40


def test_images_are_checked_before_weights_are_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cracked", "plain"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "a.jpg").write_bytes(b"not an image")
    monkeypatch.setattr(backbones, "find_weights", lambda *_: pytest.fail("weights were looked for"))
    with pytest.raises(HairlineError, match="not an image"):
        train(tmp_path / "run", tmp_path / "data", "model.weights=imagenet", "tracking=none")


@pytest.mark.parametrize("log_diff", [False, True])
def test_uncommitted_changes_are_sent_only_on_request(
    log_diff: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "_state", lambda: ("c0ffee", "+customer = 'Miller'"))
    settings = composed("config", f"tracking.log_diff={str(log_diff).lower()}", "tracking=none")
    table = pd.DataFrame([{"path": "a.jpg", "label": "a", "group": "", "split": "train", "sha256": "0"}])
    data = SimpleNamespace(manifest=table, rejected=pd.DataFrame(), digest="0", positive=None)
    with tracking.start(
        enabled=False, uri=None, experiment="e", system_metrics=False, name="n", tags={}, directory=tmp_path
    ) as run:
        experiment.record_inputs(settings, data, "random", tmp_path, run)  # type: ignore[arg-type]
    entries = [json.loads(line) for line in (tmp_path / "tracking.jsonl").read_text().splitlines()]
    sent = [entry["path"] for entry in entries if entry["kind"] == "artifact"]
    assert {"environment.json", "manifest.csv"} <= set(sent)
    assert [name for name in sent if "Miller" in (tmp_path / name).read_text()] == ["uncommitted.diff"] * log_diff
    assert "Miller" in (tmp_path / "uncommitted.diff").read_text()
    assert json.loads((tmp_path / "environment.json").read_text())["git"] == {"commit": "c0ffee", "dirty": True}


def test_the_saved_model_gives_the_predictions_of_the_run(finished: Path) -> None:
    table = pd.read_csv(finished / "predictions.csv", keep_default_na=False)
    classifier = hairline.load(str(finished))
    found = classifier.predict(table["path"].tolist())
    columns = ["prob_cracked", "prob_plain"]
    np.testing.assert_allclose(found[columns], table[columns], atol=1e-4)
    assert list(found.columns) == list(table.columns)
    assert list(found["predicted"]) == list(table["predicted"])
    content = Path(table["path"][0]).read_bytes()
    pixels = images.decode(content)
    for source in (content, pixels, table["path"][0], Path(table["path"][0])):
        np.testing.assert_allclose(classifier.predict(source)[columns], found[columns][:1], atol=1e-5)
    assert classifier.predict([]).empty
    with pytest.raises(images.ImageError, match=r"nothing\.jpg: cannot be opened"):
        classifier.predict("nothing.jpg")
    with pytest.raises(images.ImageError, match=r"received an array of float32"):
        classifier.predict(pixels.astype(np.float32))


def test_mlflow_serves_the_same_model(
    finished: Path, client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished.parents[1])
    (run,) = client.search_runs([client.get_experiment_by_name("hairline").experiment_id])
    table = pd.read_csv(finished / "predictions.csv", keep_default_na=False)
    by_id = hairline.load(run.info.run_id).predict(table["path"].tolist())
    np.testing.assert_allclose(by_id["prob_cracked"], table["prob_cracked"], atol=1e-4)
    served = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")
    found = served.predict(pd.DataFrame({"image": [Path(path).read_bytes() for path in table["path"]]}))
    assert list(found.columns) == ["label", "probability", "threshold", "prob_cracked", "prob_plain"]
    np.testing.assert_allclose(found["prob_cracked"], table["prob_cracked"], atol=1e-4)
    assert list(found["label"]) == list(table["predicted"])
    assert set(found["threshold"]) == {json.loads((finished / "metrics.json").read_text())["threshold"]}


@pytest.mark.usefixtures("empty_store")
def test_a_run_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run=.*no saved model there.*outputs/<date>/<time>"):
        hairline.load(str(tmp_path))
    with pytest.raises(ValueError, match=r"no model under"):
        hairline.load("0" * 32)


def test_a_damaged_model_is_refused(finished: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished / "model", tmp_path / "model"))
    with (copy / "model.keras").open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    with pytest.raises(ValueError, match=r"is not the model that was saved"):
        hairline.load(tmp_path)
    (copy / "bundle.json").write_text("{")
    with pytest.raises(ValueError, match=r"bundle.json is damaged"):
        hairline.load(copy)


@pytest.mark.slow
@pytest.mark.parametrize(("finetune", "engine"), [("top", "litert"), ("all", "tensorflow")])
def test_fine_tuning_improves_on_the_head_and_ships_what_it_tuned(
    finetune: str, engine: str, three_classes: Path, tmp_path: Path
) -> None:
    tuned = (f"finetune={finetune}", "finetune.epochs=3", "finetune.learning_rate=1e-3")
    settings = ("tracking=none", f"features.engine={engine}", *tuned)
    found = train(tmp_path / "run", three_classes, *settings, "augment=light", "augment.views=2")
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    assert list(history["phase"]) == ["head"] * 4 + ["fine-tune"] * 3
    assert history["loss"].iloc[-1] < history["loss"].iloc[4]
    assert found["val_loss"] == pytest.approx(history["val_loss"].min(), rel=1e-3)
    assert found["parity_difference"] <= 1e-4
    table = pd.read_csv(tmp_path / "run" / "predictions.csv", keep_default_na=False)
    again = hairline.load(str(tmp_path / "run")).predict(table["path"].tolist())
    np.testing.assert_allclose(again["prob_rust"], table["prob_rust"], atol=1e-4)


@pytest.fixture(scope="module")
def converted(two_classes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a run of converted features, in `run`, and its `cache`; and what its process printed."""
    code = (
        "import atexit, runpy, sys; sys.argv = sys.argv[1:]; "
        "atexit.register(lambda: print('heavy:', {'tensorflow', 'keras'} & set(sys.modules))); "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    place = tmp_path_factory.mktemp("converted")
    chosen = [*TINY, "features.engine=litert", "data=folder", f"data.path={two_classes}", "tracking=none"]
    command = [sys.executable, "-c", code, str(ROOT / "train.py"), *chosen, "hydra.run.dir=run"]
    environment = os.environ | {"HAIRLINE_CACHE": str(place / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=place, env=environment)
    return place, done.stdout + done.stderr


@pytest.mark.slow
def test_the_process_of_a_head_imports_no_tensorflow(converted: tuple[Path, str]) -> None:
    """Its networks live in another process, which converts the backbone here and saves the model."""
    place, said = converted
    assert "heavy: set()" in said, said
    assert "converting the model to LiteRT" in said
    found = json.loads((place / "run" / "metrics.json").read_text())
    assert found["parity_difference"] <= 1e-4
    assert (place / "run" / "model" / "model.tflite").is_file()
    assert (place / "run" / "figures" / "gradcam.png").is_file()


@pytest.mark.slow
def test_a_head_that_is_solved_is_better_than_one_that_is_trained_for_some_epochs(
    three_classes: Path, tmp_path: Path
) -> None:
    settings = (
        "tracking=none",
        "report.level=light",
        "augment=light",
        "augment.views=2",
        "model.class_weights=balanced",
    )
    by_epochs = train(tmp_path / "epochs", three_classes, *settings)
    found = train(tmp_path / "solved", three_classes, *settings, "optimizer=lbfgs", "schedule.keep=last")
    history = pd.read_csv(tmp_path / "solved" / "history.csv")
    assert set(history["phase"]) == {"head"}
    assert found["train_loss"] < by_epochs["train_loss"]
    assert found["val_loss"] == pytest.approx(history["val_loss"].iloc[-1], rel=1e-3)
    assert found["test_accuracy"] >= 0.8


@pytest.mark.slow
def test_fresh_views_stream_through_every_epoch(two_classes: Path, tmp_path: Path) -> None:
    settings = ("tracking=none", "report.level=light", "augment=light", "augment.views=2", "epochs=2")
    modes = {"one": "fresh", "two": "fresh", "views": "views"}
    found = {
        name: train(tmp_path / name, two_classes, *settings, f"augment.mode={mode}") for name, mode in modes.items()
    }
    assert found["one"]["val_loss"] == found["two"]["val_loss"] != found["views"]["val_loss"]


@pytest.mark.slow
def test_three_classes_go_through_every_part(three_classes: Path, tmp_path: Path) -> None:
    found = train(
        tmp_path / "run",
        three_classes,
        "epochs=8",
        "tracking=none",
        "model.class_weights=balanced",
        "model.dropout=0.1",
    )
    assert found["val_accuracy"] > 0.5  # stripes of three kinds, by random features
    table = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert {"prob_plain", "prob_rust", "prob_spalled"} < set(table.columns)
    bundle = json.loads((tmp_path / "run" / "model" / "bundle.json").read_text())
    assert bundle["class_names"] == ["plain", "rust", "spalled"]
    assert bundle["positive_class"] is bundle["decision"]["threshold"] is None
    assert not (tmp_path / "mlflow.db").exists()


def test_a_finished_runs_folder_is_not_written_over(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    with pytest.raises(CheckpointError, match=f"holds a run with results.*resume={finished}"):
        train_with(composed("config", *SMALL, "data=synthetic"), finished)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_a_model_of_a_killed_run_is_not_taken_for_that_of_another(tmp_path: Path) -> None:
    darkness.save(tmp_path / "run" / "model")
    with pytest.raises(CheckpointError, match="holds a run with results"):
        train_with(composed("config", *SMALL, "data=synthetic"), tmp_path / "run")


def test_parts_of_the_source_that_share_images_are_told(
    two_classes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for part in ("train", "test"):
        shutil.copytree(two_classes, tmp_path / "set" / part)

    def split_by(folder: Path) -> str:
        config = composed("config", *SMALL, "data=folder", f"data.path={folder}")
        return prepare.prepare(config.data, config.split, seed=config.seed, process=Process()).split_by

    assert split_by(tmp_path / "set") == "the source, the rest by hash"
    assert "source's own split belong together with training images" in caplog.text
    caplog.clear()
    assert split_by(two_classes) == "hash"
    assert "belong together" not in caplog.text


def test_the_jobs_of_a_sweep_read_their_images_once_and_share_what_does_not_differ(
    two_classes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, scans = Process(), []
    scan = manifest.scan
    monkeypatch.setattr(manifest, "scan", lambda *given, **more: scans.append(1) or scan(*given, **more))
    process.enter("a sweep")

    def prepared(*overrides: str) -> prepare.Dataset:
        config = composed("config", *SMALL, "data=folder", f"data.path={two_classes}", *overrides)
        return prepare.prepare(config.data, config.split, seed=config.seed, process=process)

    first, again, other = prepared(), prepared(), prepared("seed=1")
    assert again is first
    assert (other.manifest["split"] != first.manifest["split"]).any()
    assert prepared("data.limit=40").manifest.shape[0] == 40
    assert len(scans) == 2
    process.enter("another sweep")
    assert prepared() is not first


def test_unreadable_files_are_listed_and_the_run_goes_on(two_classes: Path, tmp_path: Path) -> None:
    shutil.copytree(two_classes, tmp_path / "set")
    (tmp_path / "set" / "plain" / "zero.jpg").touch()
    train(tmp_path / "run", tmp_path / "set", "tracking=none", "report.level=light")
    (row,) = manifest.read(tmp_path / "run" / "rejected.csv", required=("path", "reason")).itertuples()
    assert row.path.endswith("zero.jpg")
    assert "empty" in row.reason


@pytest.mark.slow
def test_nothing_after_a_run_imports_tensorflow(
    converted: tuple[Path, str], two_classes: Path, tmp_path: Path, no_tensorflow: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    first = converted[0] / "run"
    assert saved.read_bundle(first / "model").converted_sha256 == files.sha256(first / "model" / "model.tflite")
    data = ["data=folder", f"data.path={two_classes}"]
    light = ["optimizer=lbfgs", "report=light", "tracking=none", "features.engine=litert", "hydra.run.dir=second"]
    monkeypatch.setenv("HAIRLINE_CACHE", str(converted[0] / "cache"))
    done = run(*TINY[:3], *data, *light, environment=no_tensorflow)  # features are cached
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("HAIRLINE_CACHE", str(tmp_path / "empty"))
    for script, arguments in (
        ("evaluate", [*data, "tracking=none"]),
        ("predict", [f"input={two_classes}", "output=out"]),
    ):
        done = run(f"run={first}", *arguments, script=f"{script}.py", environment=no_tensorflow)
        assert done.returncode == 0, done.stderr
    figures = Path(json.loads(next(tmp_path.glob("outputs/**/evaluation.json")).read_text())["run"])
    assert figures == first


def test_a_damaged_converted_network_is_named(tmp_path: Path) -> None:
    folder = darkness.save(tmp_path / "model", converted_sha256="0" * 64)
    with pytest.raises(saved.BundleError, match="model.tflite cannot be read"):
        saved.verify(folder, saved.read_bundle(folder))
    (folder / "model.tflite").write_bytes(b"damaged")
    with pytest.raises(saved.BundleError, match="is not the model that was saved"):
        saved.verify(folder, saved.read_bundle(folder))
