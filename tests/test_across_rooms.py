"""What several rooms keep together: waiting is said, all runs are found, groups are counted, features are keyed."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from pathlib import Path

import filelock
import numpy as np
import pytest

from hairline.data import download
from hairline.evaluation import compare, metrics
from hairline.model import backbones, features
from hairline.model.decision import Decision
from hairline.model.features import Recipe
from hairline.model.store import Store
from hairline.system import files
from hairline.tracking import models, store
from hairline.training import start
from tests.running import composed
from tests.test_metrics import case, predictions
from tests.tracked import tracked


@pytest.mark.parametrize("what", ["downloads a.zip", "opens an MLflow store", "computes the same features"])
def test_downloads_stores_and_features_say_that_they_wait(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAIRLINE_CACHE", str(tmp_path))
    monkeypatch.setattr(files, "_FIRST_NOTICE", 0.01)
    said, held, noticed = [], threading.Event(), threading.Event()
    monkeypatch.setattr(files.log, "info", lambda text, *values: said.append(text % values) or noticed.set())
    (tmp_path / "a.zip").write_bytes(b"a")
    recipe = Recipe("mobilenetv2", "random-0", 32, "litert")
    Store(recipe.key()).add(["0"], np.zeros((1, 3), np.float32))

    def work() -> None:
        if what.startswith("downloads"):
            download.fetch("http://invalid/a.zip", tmp_path / "a.zip", sha256=hashlib.sha256(b"a").hexdigest())
        elif what.startswith("opens"):
            with store.locked():
                pass
        else:
            features.compute(["a.jpg"], ["0"], recipe, lambda: pytest.fail("not needed"))

    place = {"d": tmp_path / "a.zip.lock", "o": tmp_path / "tracking.lock", "c": Store(recipe.key()).lock.lock_file}

    def hold() -> None:
        with filelock.FileLock(place[what[0]]):
            held.set()
            noticed.wait(2)  # two seconds, if nothing is said

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    work()
    holder.join()
    assert said[:1] == [f"waiting for another process that {what} (0 s)"]


@pytest.mark.usefixtures("empty_store")
def test_all_runs_of_an_experiment_are_found_whatever_their_names_and_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_PAGE", 2)
    for number in range(5):
        place = tmp_path / str(number)
        place.mkdir()
        (place / "predictions.csv").write_text("path\n")
        with tracked(place) as run:
            run.artifacts(place / "predictions.csv")
    found = compare.find_runs([], experiment="e", uri=None, fetched=tmp_path / "fetched")
    assert len({name for name, _ in found}) == len(found) == 5


def test_a_run_keys_its_features_by_the_scaling_of_its_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "frozen_features", lambda data, network, recipe, *_, **__: recipe)
    config = composed("config", "model=densenet121", "model.weights=random")
    found = start.Pretrained.find(
        config.model, image_size=32, seed=0, engine="litert", runtime=config.runtime, finetune=config.finetune
    )
    recipe = found.features(None, None)  # type: ignore[arg-type]
    assert recipe.scaling == backbones.scaling("densenet121")  # type: ignore[attr-defined]


def test_every_interval_counts_groups() -> None:
    """Sixty images, each of them ten times, are as sure as sixty; one by one they would seem much surer."""
    labels, table = case(5, 2, 60)
    repeated = predictions(np.repeat(labels, 10), np.repeat(table, 10, axis=0))
    widths = []
    for groups in (np.repeat(np.arange(60), 10), np.arange(600)):
        measured = metrics.measure(dataclasses.replace(repeated, groups=groups), Decision(threshold=0.4), resamples=100)
        names = [name.removesuffix("_interval_low") for name in measured if name.endswith("_interval_low")]
        widths.append({name: measured[f"{name}_interval_high"] - measured[f"{name}_interval_low"] for name in names})
        assert measured["accuracy_interval_groups"] == len(set(groups))
        assert measured["recall_interval_groups"] == len(set(groups[repeated.labels == 1]))
    assert {"accuracy", "recall_at_threshold", "specificity", "precision", "f1", "auroc", "brier"} <= set(widths[0])
    for name, width in widths[0].items():
        assert width > 2 * widths[1][name], name
