"""The registry in a real MLflow store: who becomes champion, who does not, and the reason that is kept."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import INTERNAL_ERROR, MlflowException
from PIL import Image

import hairline
from hairline import config, tracking
from hairline.config import Export, Register, Threads
from hairline.data import manifest
from hairline.evaluation import paired
from hairline.evaluation.paired import Difference
from hairline.model import saved
from hairline.model.predictions import predictions_table
from hairline.shipping import export, register
from hairline.tracking import FinishedRun, registry
from hairline.tracking.registry import RegistryError
from tests.running import composed
from tests.saved_runs import saved_run
from tests.tracked import client, tracked


def tracked_run(place: Path, data: Path, wrong: int, *, seed: int = 0) -> Path:
    """Save a run and its mirror; its predictions are wrong on the first `wrong` test images."""
    saved_run(place, data, seed)
    table = manifest.read(place / "manifest.csv")
    test = table[table["split"] == "test"].reset_index(drop=True)
    right = np.arange(len(test)) >= wrong
    cracked = np.where((test["label"] == "cracked") == right, 0.9, 0.1)
    probabilities, bundle = np.stack([cracked, 1 - cracked], axis=1), saved.read_bundle(place / "model")
    predicted = predictions_table(test, bundle.decide(probabilities), probabilities, bundle.class_names)
    manifest.write(predicted, place / "predictions.csv")
    with tracked(place) as run:
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
        wrong = {"middling": 6, "worse": 9, "better": 0}
        yield {name: tracked_run(root / name, two_classes, count) for name, count in wrong.items()}


@pytest.fixture(autouse=True)
def _store(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs["better"].parent)


def offer(run: str | Path, name: str = "hairline") -> register.Verdict:
    return register.register(Register(run=str(run), tracking=config.Tracking(registered_model=name)))


def holders(name: str = "hairline") -> tuple[str, str]:
    """Return the versions of candidate and champion."""
    candidate, champion = (client().get_model_version_by_alias(name, alias) for alias in ("candidate", "champion"))
    return str(candidate.version), str(champion.version)


@pytest.mark.slow
def test_the_best_becomes_champion(runs: dict[str, Path]) -> None:
    assert offer(runs["middling"]).promoted
    assert holders() == ("1", "1")
    assert "no champion to compare it with" in client().get_model_version("hairline", "1").tags["reason"]

    assert not offer(runs["worse"]).promoted
    assert holders() == ("2", "1")
    version = client().get_model_version("hairline", "2")
    assert version.tags["decision"] == "candidate"
    assert version.tags["compared_with"] == "1"
    assert version.tags["compared_images"] == "30"
    # The first images of the table are one class's: three more of its 15 are wrong.
    assert float(version.tags["difference"]) == pytest.approx(-(3 / 15) / 2)
    assert version.tags["promote"] == "better"
    pattern = r"not better beyond chance .*balanced accuracy -10\.00 points against version 1 .* on 30 test images"
    assert re.match(pattern, version.description)

    assert offer(str(tracking.run_id(runs["better"]))).promoted
    assert holders() == ("3", "3")
    assert client().get_model_version("hairline", "3").tags["decision"] == "champion"
    assert client().get_model_version("hairline", "1").tags["replaced_by"] == "3"

    again = offer("models:/hairline@champion")
    assert again.promoted
    assert "already" in again.reason
    assert "already" not in client().get_model_version("hairline", "3").tags["reason"]  # the first reason stays
    assert len(client().search_model_versions("name = 'hairline'")) == 3

    assert tracking.find("models:/hairline@champion").joinpath("bundle.json").is_file()
    run = FinishedRun.find("models:/hairline@champion", None)
    assert (len(run.manifest()), run.commit(), run.directory) == (120, "c0ffee", None)


@pytest.mark.slow
def test_a_champion_that_cannot_be_read_stays_champion(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    offer(runs["middling"], "unreadable")

    def missing(*arguments: object) -> Path:
        raise tracking.TrackingError("its artifacts are missing")

    monkeypatch.setattr("hairline.tracking.models.download_model", missing)
    assert offer(runs["better"], "unreadable").reason == "not compared: its artifacts are missing"
    assert holders("unreadable") == ("2", "1")


@pytest.mark.usefixtures("empty_store")
def test_an_outage_is_not_taken_for_a_missing_champion(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise MlflowException("nobody is there", INTERNAL_ERROR)

    assert registry.champion("none", None) is None
    monkeypatch.setattr(mlflow.MlflowClient, "get_model_version_by_alias", fail)
    with pytest.raises(tracking.TrackingError, match="the champion of 'none' cannot be read: nobody is there"):
        registry.champion("none", None)


@pytest.mark.slow
def test_an_export_is_logged_to_the_finished_run(runs: dict[str, Path], tmp_path: Path) -> None:
    run_id = str(tracking.run_id(runs["better"]))
    for number in (4, 8):
        settings = Export(run=run_id, format="litert", images=number, runtime=Threads(1))
        measurements = export.export(settings, tmp_path / "out")
        assert measurements["images"] == number
    run = client().get_run(run_id)
    assert run.data.metrics["export_litert_accuracy"] == measurements["accuracy"]
    assert run.info.status == "FINISHED"
    artifacts = {Path(item.path).name for item in client().list_artifacts(run_id, "exports/litert")}
    assert artifacts == {"README.md", "bundle.json"}
    place = client().download_artifacts(run_id, "exports.json", str(tmp_path))
    table = json.loads(Path(place).read_text())
    assert [row[table["columns"].index("images")] for row in table["data"]] == [4, 8]
    assert json.loads((tmp_path / "out" / "bundle.json").read_text())["commit"] == "c0ffee"


def test_an_export_succeeds_while_the_store_does_not_answer(
    runs: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    down = config.Tracking(uri="http://127.0.0.1:1")
    settings = Export(run=str(runs["better"]), format="litert", images=4, runtime=Threads(1), tracking=down)
    assert export.export(settings, tmp_path / "out")["images"] == 4
    assert (tmp_path / "out" / "model.tflite").is_file()
    reason = "the tracking server http://127.0.0.1:1 does not answer"
    assert f"WARNING: the export is complete, but not logged: {reason}" in caplog.text
    assert "tracking=none" not in caplog.text  # nothing has to be done again


def test_a_champion_trained_on_the_test_images_is_not_compared(
    runs: dict[str, Path], two_classes: Path, tmp_path: Path
) -> None:
    place = tracked_run(tmp_path / "shifted", two_classes, 0, seed=1)
    table = manifest.read(place / "manifest.csv")
    table["split"] = table["split"].map({"test": "train", "train": "test", "val": "val"})
    manifest.write(table, place / "manifest.csv")
    assert offer(runs["better"], "other").promoted
    verdict = offer(place, "other")
    assert not verdict.promoted
    assert "no test image that neither of the two was trained or tuned on" in verdict.reason
    assert holders("other") == ("2", "1")


@pytest.mark.parametrize("role", ["candidate", "champion"])
def test_images_that_only_the_base_has_seen_are_no_test_images(
    role: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    """A run from `base=` lists the base's images in its saved model, not in its manifest."""
    place = shutil.copytree(runs["worse"], tmp_path / "run")
    table = manifest.read(place / "manifest.csv").query("split == 'test'")
    arrays = saved.read_statistics(place / "model")
    for splits, left in ((["train"] * 9 + ["val"] * 3 + ["test"] * 18, 18), (["train"] * 30, 0)):
        seen = saved.merge_seen(arrays, saved.seen_images(table["sha256"], splits))
        np.savez(place / "model" / "features.npz", **(arrays | seen))
        pair = [FinishedRun.find(str(place), None), FinishedRun.find(str(runs["better"]), None)]
        candidate, champion = pair if role == "candidate" else pair[::-1]
        if left:
            assert register.compare(candidate, champion, 1, margin=None).figures["compared_images"] == left
        else:
            with pytest.raises(RegistryError, match="no test image that neither of the two was trained or tuned on"):
                register.compare(candidate, champion, 1, margin=None)


def test_images_without_predictions_are_predicted(runs: dict[str, Path], tmp_path: Path) -> None:
    run = FinishedRun.find(str(runs["worse"]), None)
    images = run.manifest().query("split == 'val'").head(3).reset_index(drop=True)
    predictions = register.predict(run, images)
    expected = hairline.load(runs["worse"]).predict(images["path"].tolist())
    assert predictions["path"].tolist() == images["sha256"].tolist()
    assert np.allclose(predictions["prob_cracked"], expected["prob_cracked"])
    for wrong in (images.assign(path=str(tmp_path / "nowhere.jpg")), images.assign(sha256="0" * 64)):
        with pytest.raises(RegistryError, match="missing or has changed: .*jpg"):
            register.predict(run, wrong)
    dark = tmp_path / "dark.tif"  # 14 of 16 bits: read in training among others that use all
    Image.fromarray(np.full((40, 40), 9000, np.uint16)).save(dark)
    row = images.head(1).assign(path=str(dark), sha256=hashlib.sha256(dark.read_bytes()).hexdigest())
    assert len(register.predict(run, row)) == 1


def test_other_classes_cannot_be_compared(runs: dict[str, Path], three_classes: Path, tmp_path: Path) -> None:
    place = saved_run(tmp_path / "three", three_classes, positive=None)
    one, two = (FinishedRun.find(str(run), None) for run in (runs["worse"], place))
    with pytest.raises(RegistryError, match="its classes are plain, rust, spalled, those of the champion cracked"):
        register.compare(two, one, 1, margin=None)


def test_held_out_images_are_seen_by_neither() -> None:
    one = pd.DataFrame({"sha256": list("abcdef"), "split": ["train", "val", "test", "test", "test", "test"]})
    two = pd.DataFrame({"sha256": list("cdgha"), "split": ["train", "val", "test", "train", "test"]})
    assert register.held_out(one, two)["sha256"].tolist() == ["e", "f", "g"]


@pytest.mark.parametrize(
    ("margin", "value", "low", "high", "loss", "promoted", "says"),
    [
        (None, 0.02, 0.01, 0.03, (0.1, 0.05, 0.2), True, "better, beyond chance"),
        (None, 0.02, -0.001, 0.05, (-0.1, -0.2, -0.05), False, "not better beyond chance (promote=not_worse"),
        (None, 0.0, 0.0, 0.0, (0.0, -0.1, 0.1), False, "not better beyond chance"),
        (None, -0.02, -0.03, -0.01, (0.0, 0.0, 0.0), False, "worse, beyond chance"),
        (None, float("nan"), float("nan"), float("nan"), (0.0, 0.0, 0.0), False, "cannot be compared"),
        (0.005, 0.0, 0.0, 0.0, (0.0, -0.1, 0.1), True, "not worse by more than the margin of 0.50 points"),
        (0.005, -0.002, -0.0049, 0.001, (0.0, -0.1, 0.1), True, "not worse by more than the margin of 0.50 points"),
        (0.005, 0.002, -0.0051, 0.009, (0.0, -0.1, 0.1), False, "may be worse by more than the margin of 0.50 points"),
        (0.005, 0.0, -0.001, 0.001, (0.1, 0.05, 0.2), False, "surer of its wrong answers (log loss +0.1"),
        (0.005, -0.02, -0.03, -0.01, (0.0, 0.0, 0.0), False, "worse, beyond chance"),
    ],
)
def test_the_verdict(
    margin: float | None, value: float, low: float, high: float, loss: tuple, promoted: bool, says: str
) -> None:
    difference = Difference(value, low, high, 700, 20, 0.5)
    verdict = register.judge(difference, Difference(*loss, 700, 20, 0.5), 4, margin=margin)
    assert verdict.promoted == promoted
    assert says in verdict.reason
    assert "700 test images (few groups: 20)" in verdict.reason
    assert verdict.figures["promote"] == ("better" if margin is None else "not_worse")
    assert verdict.figures.get("margin") == margin


def test_a_model_does_not_replace_its_equal() -> None:
    """Twins whose errors are luck: any lead was enough before, and half of them had one."""
    promoted = 0
    for trial in range(40):
        generator = np.random.default_rng(trial)
        labels = np.arange(400) % 2
        tables = [
            pd.DataFrame(
                {"path": [str(number) for number in range(400)], "x": 0, "y": 0, "width": 9, "height": 9,
                 "label": np.array(["plain", "cracked"])[labels],
                 "predicted": np.array(["plain", "cracked"])[labels ^ (generator.random(400) < 0.05)],
                 "prob_cracked": 0.5, "prob_plain": 0.5}
            )
            for _ in range(2)
        ]  # fmt: skip
        differences = [
            paired.compare(tables[0], tables[1:], metric, groups={}, resamples=200)[0]
            for metric in (register.METRIC, "loss")
        ]
        assert isinstance(differences[0], Difference)
        assert isinstance(differences[1], Difference)
        promoted += register.judge(differences[0], differences[1], 1, margin=None).promoted
    assert promoted <= 3


def test_any_name_and_a_card_of_any_length_are_registered(runs: dict[str, Path]) -> None:
    name, run_id = "l'hôtel", str(tracking.run_id(runs["middling"]))
    assert registry.add_version(name, run_id, None) == registry.add_version(name, run_id, None) == 1
    assert registry.add_version("annexe", run_id, None) == 1  # a name of its own counts its own versions
    given = {"champion": None, "promoted": True, "reason": "the first", "tags": {}}
    registry.decide(name, 1, None, card="# Card\n" + "x" * 6000, **given)
    description = client().get_model_version(name, "1").description
    assert description.startswith("the first\n\n# Card\nxxx")
    assert len(description) == 5000  # PostgreSQL refuses more
    assert holders(name) == ("1", "1")
    with pytest.raises(tracking.TrackingError, match="version 7 of 'annexe' is registered, but not described"):
        registry.decide("annexe", 7, None, card="", **given)


def test_an_untracked_run_and_one_of_another_store_are_refused(two_classes: Path, tmp_path: Path) -> None:
    with pytest.raises(saved.BundleError, match="no saved model there"):
        offer(tmp_path)
    place = saved_run(tmp_path / "untracked", two_classes)
    with pytest.raises(RegistryError, match="was not tracked.*tracking=mlflow"):
        offer(place)
    (place / "mlflow_run_id.txt").write_text("0" * 32)
    with pytest.raises(tracking.TrackingError, match="0000 cannot be registered.*not found"):
        offer(place)


@pytest.mark.parametrize(
    ("override", "message"),
    [("tracking.registered_model='a@b'", "a name without / : and @"), ("tracking=none", "this script needs MLflow")],
)
def test_settings_without_a_registry_are_refused(override: str, message: str) -> None:
    with pytest.raises(config.ConfigError, match=message):
        composed("register", "run=x", override)
