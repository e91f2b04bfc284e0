"""Sweeps as users start them: each test is a process of its own, and MLflow is asked independently."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from hydra import compose

from hairline.app.sweep import job, state
from tests import tracked
from tests.conftest import ROOT
from tests.running import TINY, composed, composing, refused, run, slow, started, wait_until

HEAD = (*TINY, "features.engine=tensorflow", "data=folder")


def runs() -> tuple[mlflow.entities.Run, list[mlflow.entities.Run]]:
    """Return the one parent and its children."""
    found = tracked.runs(experiment="hairline")
    (parent,) = [entry for entry in found if "mlflow.parentRunId" not in entry.data.tags]
    children = [entry for entry in found if entry is not parent]
    assert {entry.data.tags["mlflow.parentRunId"] for entry in children} <= {parent.info.run_id}
    return parent, children


def statuses(children: list[mlflow.entities.Run]) -> Counter[str]:
    return Counter(entry.info.status for entry in children)


def numbers(folder: Path) -> pd.DataFrame:
    """Return a sweep's table without the columns that differ between runs of the same configurations."""
    return pd.read_csv(folder / "sweep.csv").drop(columns=["run_id", "seconds"])


@pytest.mark.slow
def test_a_sweep_with_a_broken_job_and_its_resume(two_classes: Path) -> None:
    command = ["-m", *HEAD, f"data.path={two_classes}", "optimizer=sgd", "learning_rate=0.01,1e38,0.02", "sweep.name=s"]
    found = run(*command)
    said = found.stdout + found.stderr
    assert found.returncode == 1, said
    assert "1 job failed" in said
    assert "lower learning_rate" in said
    assert "Traceback" not in said
    assert "Warning" not in said
    folder = Path("outputs", "sweeps", "s")
    parent, children = runs()
    assert parent.info.status == "FINISHED"
    assert statuses(children) == {"FINISHED": 2, "FAILED": 1}
    assert {entry.info.run_name.split()[0] for entry in children} == {
        "0.01", "1e+38", "0.02",
    }  # fmt: skip
    (broken,) = [entry for entry in children if entry.info.status == "FAILED"]
    artifacts = Path(broken.info.artifact_uri.removeprefix("file://"))
    assert "TrainingError" in (artifacts / "traceback.txt").read_text()
    assert "Traceback" in (artifacts / "train.log").read_text()
    assert "Traceback" in (folder / "1" / "train.log").read_text()
    best = min(
        (entry for entry in children if entry is not broken), key=lambda entry: entry.data.metrics["final_val_loss"]
    )
    assert parent.data.tags["best_run_id"] == best.info.run_id
    assert parent.data.metrics["best_job_val_loss"] == best.data.metrics["final_val_loss"]
    assert parent.data.params["learning_rate"] == "0.01,1e38,0.02"
    # Only the best is joined, checked and logged as a model.
    table = pd.read_csv(folder / "sweep.csv")
    (number,) = table.loc[table["run_id"] == best.info.run_id, "job"]
    assert [path.parent.name for path in folder.glob("*/model")] == [str(number)]
    assert json.loads((folder / str(number) / "metrics.json").read_text())["parity_difference"] <= 1e-4
    store = tracked.client()
    assert len(store.search_logged_models([best.info.experiment_id])) == 1
    for key in ("test_accuracy", "final_val_loss"):
        assert len(store.get_metric_history(best.info.run_id, key)) == 1

    # Once more: what finished is skipped, what failed is tried again in its own run, and the table stays.
    before, ids = numbers(folder), {entry.info.run_id for entry in children}
    again = run(f"sweep.resume={folder}")
    said = again.stdout + again.stderr
    assert again.returncode == 1, said
    assert said.count("finished before") == 2
    pd.testing.assert_frame_equal(numbers(folder), before)
    parent, children = runs()
    assert {entry.info.run_id for entry in children} == ids
    assert statuses(children) == {"FINISHED": 2, "FAILED": 1}


@pytest.mark.slow
def test_another_sweep_of_the_same_name_is_refused() -> None:
    command = ["epochs=2", "learning_rate=0.01,0.02", "name=first"]
    state.Sweep(Path("outputs/sweeps/s").absolute(), "s", command=command).write()
    faults = {
        "epochs=3 learning_rate=0.01,0.02": "this command lacks its epochs=2",
        "epochs=2 learning_rate=0.01,0.03": "this command lacks its learning_rate=0.02",
        "epochs=2 learning_rate=0.01,0.02 seed=1": "adds seed=1, which it did not set",
        "learning_rate=interval(0.01,0.02)": "an interval has no list of values",
        "epochs=2 learning_rate=0.02,0.01,0.04 model=glob(mobilenetv3*) resume=x": "resume= continues one run",
    }
    for given, message in faults.items():
        refused(run("-m", *given.split(), "sweep.name=s"), message)
    assert state.Sweep.read(Path("outputs/sweeps/s")).command == command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data=folder", "seed=0,1"], "data.path is missing"),
        slow(["learning_rate=1e-2,foo"], "could not be converted to Float"),
        slow(["learning_rate=-1,-2"], "learning_rate=-1: expected a number above 0"),
        slow(["sweep.name=a/b", "seed=0,1"], "becomes a folder name"),
        slow(["tracking=none,mlflow"], "belongs to the sweep as a whole"),
    ],
)
def test_faults_of_the_whole_sweep_are_reported_before_it_begins(
    arguments: list[str], message: str, no_tensorflow: dict[str, str]
) -> None:
    refused(run("-m", *arguments, environment=no_tensorflow), message)
    assert not list(Path().rglob("sweep.json"))


@pytest.mark.parametrize("launcher", ["joblib", "slurm", "ray"])
def test_launchers_compose(launcher: str) -> None:
    with composing():
        chosen = compose("config", [f"hydra/launcher={launcher}"], return_hydra_config=True).hydra.launcher
        assert chosen._target_.startswith("hydra_plugins.")
        assert job.threads(chosen) == {"joblib": max(1, (os.cpu_count() or 1) // 2), "slurm": 4, "ray": 1}[launcher]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["seed=0,1"], 3),  # of an experiment's file: without a launcher, jobs share nothing
        (["seed=0,1", "hydra/launcher=joblib"], None),
        (["seed=0,1", "hydra/launcher=joblib", "runtime.threads=3"], 3),
    ],
)
def test_the_best_run_is_completed_with_the_threads_of_the_command(
    command: list[str], expected: int | None, tmp_path: Path
) -> None:
    assert job._own_threads(composed("config", "runtime.threads=3"), state.Sweep(tmp_path, command=command)) == expected


@pytest.mark.slow
def test_killed_and_resumed_it_ends_as_if_it_had_not_been(two_classes: Path) -> None:
    command = ["-m", *HEAD, f"data.path={two_classes}", "optimizer=adam,sgd", "learning_rate=0.01,0.02,0.03"]
    command.append("report=none")
    whole = run(*command, "sweep.name=whole", "tracking=none")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    folder = Path("outputs", "sweeps", "killed")
    with started([sys.executable, str(ROOT / "train.py"), *command, "sweep.name=killed"], stdout=None) as process:
        wait_until((folder / "2").exists, process)
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*/metrics.json")}
    assert 2 <= len(kept) < 6
    ids = {path.read_text() for path in folder.glob("*/mlflow_run_id.txt")}
    found = run(*command, "sweep.name=killed")
    assert found.returncode == 0, found.stdout + found.stderr
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    pd.testing.assert_frame_equal(numbers(folder), numbers(folder.with_name("whole")))
    parent, children = runs()
    assert parent.info.status == "FINISHED"
    assert statuses(children) == {"FINISHED": 6}
    assert {entry.info.run_id + "\n" for entry in children} >= ids


@pytest.mark.slow
def test_a_job_after_others_gives_what_it_gives_alone(two_classes: Path, three_classes: Path) -> None:
    common = [*HEAD, "tracking=none", "model.dropout=0.3"]
    varied = [f"data.path={three_classes},{two_classes}", "runtime.precision=mixed_bfloat16,float32", "seed=1,0"]
    last = [f"data.path={two_classes}", "runtime.precision=float32", "seed=0"]
    found = run("-m", *common, *varied, "sweep.name=s")
    assert found.returncode == 0, found.stdout + found.stderr
    alone = run(*common, *last, "report=light", "hydra.run.dir=alone")
    assert alone.returncode == 0, alone.stdout + alone.stderr
    one, other = (json.loads(Path(place, "metrics.json").read_text()) for place in ("outputs/sweeps/s/7", "alone"))
    assert {key: one[key] for key in other if "seconds" not in key} == {
        key: value for key, value in other.items() if "seconds" not in key
    }
    assert not Path("alone", "figures").exists()
    assert not Path("alone", "model").exists()


@pytest.mark.slow
def test_stopping_on_the_first_failure(two_classes: Path) -> None:
    found = run(
        "-m", *HEAD, f"data.path={two_classes}", "optimizer=sgd", "learning_rate=1e38,0.01", "sweep.on_error=stop"
    )  # fmt: skip
    assert found.returncode == 1
    parent, children = runs()
    assert parent.info.status == "FAILED"
    assert statuses(children) == {"FAILED": 1}


@pytest.mark.slow
def test_a_search_goes_on_where_it_was(two_classes: Path) -> None:
    command = ["search=head", *HEAD, f"data.path={two_classes}", "sweep.name=s", "report=none"]
    for trials in (3, 5, 5):
        found = run(*command, f"hydra.sweeper.n_trials={trials}")
        assert found.returncode == 0, found.stdout + found.stderr
        assert len(numbers(Path("outputs/sweeps/s"))) == trials
    parent, children = runs()
    assert statuses(children) == {"FINISHED": 5}
    assert parent.data.metrics["best_job_val_loss"] == min(entry.data.metrics["final_val_loss"] for entry in children)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "slurm", "ray"])
def test_every_launcher_gives_the_same_numbers(launcher: str, two_classes: Path) -> None:
    if launcher == "ray":
        pytest.importorskip("ray", reason='the ray launcher is not installed: pip install -e ".[ray]"')
    # Slurm by the local executor of the same plug-in: there is no cluster to submit to.
    chosen = {"slurm": "submitit_local"}.get(launcher, launcher)
    settings = [f"hydra/launcher={chosen}"] + ["hydra.launcher.n_jobs=4"] * (launcher == "joblib")
    command = ["-m", *HEAD, f"data.path={two_classes}", "optimizer=adam,sgd", "learning_rate=0.01,1e38"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HAIRLINE_CACHE", str(Path("cache").absolute()))
        found = run(*command, *settings, "sweep.name=parallel", timeout=800)
    assert found.returncode == 1, found.stdout + found.stderr  # one of them diverges
    _, children = runs()
    assert statuses(children)["FINISHED"] + statuses(children)["FAILED"] == 4
    store = tracked.client()
    for entry in children:
        if entry.info.status == "FINISHED":
            for key in ("loss", "accuracy", "val_loss", "val_accuracy"):
                assert [point.step for point in store.get_metric_history(entry.info.run_id, f"epoch_{key}")] == [1, 2]
    folder = Path("outputs", "sweeps", "parallel")
    assert sum(path.read_text().count(" to compute, ") for path in folder.glob("*/train.log")) == 1  # engine passes
    assert run(*command, "sweep.name=alone", "tracking=none").returncode == 1
    pd.testing.assert_frame_equal(numbers(folder), numbers(folder.with_name("alone")), rtol=1e-5)
    assert os.environ.get("MLFLOW_TRACKING_URI") is None
