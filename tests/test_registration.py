"""The registry in a real MLflow store: who becomes champion, who does not, and the reason that is kept."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

import hairline
from hairline import config, tracking
from hairline.config import Export, Register, Threads
from hairline.data import manifest
from hairline.evaluation.comparison import Difference
from hairline.model import predictions, saved
from hairline.shipping import export
from hairline.shipping import register as registration
from hairline.tracking.registry import RegistryError
from tests.running import composed
from tests.saved_runs import saved_run

STARTED = {"enabled": True, "uri": None, "experiment": "e", "system_metrics": False, "name": "n", "tags": {}}


def tracked_run(place: Path, data: Path, wrong: int, *, seed: int = 0) -> Path:
    """Write a run and its mirror whose predictions are wrong on the first so many test images."""
    saved_run(place, data, seed)
    table = manifest.read(place / "manifest.csv")
    test = table[table["split"] == "test"].reset_index(drop=True)
    right = np.arange(len(test)) >= wrong
    cracked = np.where((test["label"] == "cracked") == right, 0.9, 0.1)
    bundle = saved.read_bundle(place / "model")
    probabilities = np.stack([cracked, 1 - cracked], axis=1)
    predicted = predictions.table(test, bundle.decide(probabilities), probabilities, bundle.class_names)
    manifest.write(predicted, place / "predictions.csv")
    with tracking.start(**STARTED, directory=place) as run:
        for name in ("manifest.csv", "predictions.csv", "environment.json"):
            run.artifacts(place / name)
        run.model(place / "model", Path(test["path"][0]))
    return place


@pytest.fixture(scope="module")
def runs(two_classes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Three tracked runs of the same images, in a working directory of their own."""
    root = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        yield {name: tracked_run(root / name, two_classes, wrong) for name, wrong in
               {"middling": 6, "worse": 9, "better": 2}.items()}  # fmt: skip


@pytest.fixture(autouse=True)
def _store(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs["better"].parent)


def register(run: str | Path, name: str = "hairline") -> registration.Decision:
    return registration.register(Register(run=str(run), tracking=config.Tracking(registered_model=name)))


def client() -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{Path.cwd() / 'mlflow.db'}")


def holder(alias: str, name: str = "hairline") -> str:
    return str(client().get_model_version_by_alias(name, alias).version)


@pytest.mark.slow
def test_the_best_reigns(runs: dict[str, Path]) -> None:
    first = register(runs["middling"])
    assert first.promoted
    assert (holder("candidate"), holder("champion")) == ("1", "1")
    assert "there was none to compare it with" in client().get_model_version("hairline", "1").tags["reason"]

    worse = register(runs["worse"])
    assert not worse.promoted
    assert (holder("candidate"), holder("champion")) == ("2", "1")
    told = client().get_model_version("hairline", "2")
    assert told.tags["decision"] == "candidate"
    assert told.tags["compared_with"] == "1"
    assert told.tags["compared_images"] == "30"
    # The first images of the table are one class's: three more of its 15 are wrong, the other class is not touched.
    assert float(told.tags["difference"]) == pytest.approx(-(3 / 15) / 2)
    assert re.match(
        r"worse, .*balanced accuracy -10\.00 points against version 1 .* on 30 test images", told.description
    )

    better = register((runs["better"] / "mlflow_run_id.txt").read_text().strip())
    assert better.promoted
    assert (holder("candidate"), holder("champion")) == ("3", "3")
    assert client().get_model_version("hairline", "3").tags["decision"] == "champion"
    assert client().get_model_version("hairline", "1").tags["replaced_by"] == "3"

    again = register("models:/hairline@champion")
    assert again.promoted
    assert "already" in again.reason
    assert "already" not in client().get_model_version("hairline", "3").tags["reason"]  # why it reigns stays said
    assert len(client().search_model_versions("name = 'hairline'")) == 3

    # What serving and the others take.
    assert tracking.find("models:/hairline@champion").joinpath("bundle.json").is_file()
    entry = registration.record.read("models:/hairline@champion")
    assert (len(entry.manifest()), entry.commit(), entry.directory) == (120, "c0ffee", None)


def test_a_champion_that_cannot_be_read_stays_champion(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    register(runs["middling"], "unreadable")

    def gone(*arguments: object) -> Path:
        raise tracking.TrackingError("its artifacts are gone")

    monkeypatch.setattr("hairline.tracking.models.download_model", gone)
    decision = register(runs["better"], "unreadable")
    assert decision.reason == "not compared: its artifacts are gone"
    assert (holder("candidate", "unreadable"), holder("champion", "unreadable")) == ("2", "1")


@pytest.mark.slow
def test_an_export_is_logged_to_the_finished_run(runs: dict[str, Path], tmp_path: Path) -> None:
    run_id = (runs["better"] / "mlflow_run_id.txt").read_text().strip()
    for number in (4, 8):
        told = export.export(Export(run=run_id, format="litert", images=number, runtime=Threads(1)), tmp_path / "out")
        assert told["images"] == number
    found = client().get_run(run_id)
    assert found.data.metrics["export_litert_accuracy"] == told["accuracy"]
    assert found.info.status == "FINISHED"
    assert {item.path for item in client().list_artifacts(run_id, "exports/litert")} == {
        "exports/litert/README.md",
        "exports/litert/bundle.json",
    }
    place = client().download_artifacts(run_id, "exports.json", str(tmp_path))
    table = json.loads(Path(place).read_text())
    assert [row[table["columns"].index("images")] for row in table["data"]] == [4, 8]
    assert json.loads((tmp_path / "out" / "bundle.json").read_text())["commit"] == "c0ffee"


def test_the_runs_may_have_seen_other_images(runs: dict[str, Path], two_classes: Path, tmp_path: Path) -> None:
    """A champion that was trained on the candidate's test images cannot be compared on them, and says so."""
    place = tracked_run(tmp_path / "shifted", two_classes, 0, seed=1)
    table = manifest.read(place / "manifest.csv")
    table["split"] = table["split"].map({"test": "train", "train": "test", "val": "val"})
    manifest.write(table, place / "manifest.csv")
    assert register(runs["better"], "other").promoted
    decision = register(place, "other")
    assert not decision.promoted
    assert "no test image that neither of the two was trained or tuned on" in decision.reason
    assert (holder("candidate", "other"), holder("champion", "other")) == ("2", "1")


def test_images_without_predictions_are_predicted(runs: dict[str, Path], tmp_path: Path) -> None:
    entry = registration.record.read(str(runs["worse"]))
    images = entry.manifest().query("split == 'val'").head(3).reset_index(drop=True)
    found = registration.predictions(entry, images)
    expected = hairline.load(runs["worse"]).predict(images["path"].tolist())
    assert found["path"].tolist() == images["sha256"].tolist()
    assert np.allclose(found["prob_cracked"], expected["prob_cracked"])
    with pytest.raises(RegistryError, match="gone or changed"):
        registration.predictions(entry, images.assign(path=str(tmp_path / "nowhere.jpg")))


def test_other_classes_cannot_be_compared(runs: dict[str, Path], three_classes: Path, tmp_path: Path) -> None:
    place = saved_run(tmp_path / "three", three_classes, positive=None)
    one, two = registration.record.read(str(runs["worse"])), registration.record.read(str(place))
    former = registration.registry.Version("hairline", 1, "")
    assert "it tells plain, rust, spalled apart" in registration.compared(two, one, former).reason


def test_held_out_images_are_seen_by_neither() -> None:
    one = pd.DataFrame({"sha256": list("abcdef"), "split": ["train", "val", "test", "test", "test", "test"]})
    two = pd.DataFrame({"sha256": list("cdgha"), "split": ["train", "val", "test", "train", "test"]})
    assert registration.held_out(one, two)["sha256"].tolist() == ["e", "f", "g"]


@pytest.mark.parametrize(
    ("value", "low", "high", "loss", "promoted", "says"),
    [
        (0.02, 0.01, 0.03, (-0.1, -0.2, 0.0), True, "better, beyond chance"),
        (0.02, -0.01, 0.05, (0.1, 0.05, 0.2), True, "not worse: better, though it may be chance"),
        (0.0, 0.0, 0.0, (0.0, -0.1, 0.1), True, "not worse: no difference"),
        (0.0, 0.0, 0.0, (0.1, 0.05, 0.2), False, "surer of the wrong ones: log loss +0.1"),
        (-0.001, -0.02, 0.01, (-1.0, -2.0, -0.5), False, "worse, though it may be chance"),
        (-0.02, -0.03, -0.01, (0.0, 0.0, 0.0), False, "worse, beyond chance"),
        (float("nan"), -0.03, 0.01, (0.0, 0.0, 0.0), False, "cannot be compared"),
    ],
)
def test_the_verdict(value: float, low: float, high: float, loss: tuple, promoted: bool, says: str) -> None:
    found = registration.judge(Difference(value, low, high, 700), Difference(*loss, 700), 4)
    assert found.promoted == promoted
    assert says in found.reason


def test_a_run_that_was_not_tracked_says_so(two_classes: Path, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="is in no MLflow store.*tracking=mlflow"):
        register(saved_run(tmp_path / "untracked", two_classes))
    with pytest.raises(saved.BundleError, match="no saved model there"):
        register(tmp_path)


def test_a_run_of_another_store_says_so(two_classes: Path, tmp_path: Path) -> None:
    place = saved_run(tmp_path / "elsewhere", two_classes)
    (place / "mlflow_run_id.txt").write_text("0" * 32)
    with pytest.raises(RegistryError, match="0000 .*not found|not found.*0000"):
        register(place)


def test_a_name_that_no_uri_could_hold_is_refused() -> None:
    with pytest.raises(config.ConfigError, match="without /, : and @"):
        composed("register", "run=x", "tracking.registered_model='a@b'")
    with pytest.raises(config.ConfigError, match="the registry is MLflow's"):
        composed("register", "run=x", "tracking=none")
