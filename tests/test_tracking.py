"""The mirror in a real MLflow store."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from hairline import tracking

SETTINGS = {
    "enabled": True,
    "uri": None,
    "experiment": "e",
    "system_metrics": False,
    "name": "n",
    "tags": {"site": "bridge"},
    "directory": Path(),
}


def client() -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{Path.cwd() / 'mlflow.db'}")


def test_a_run_is_recorded_in_the_working_directory() -> None:
    table = pd.DataFrame({"path": ["/x"], "label": ["a"], "group": ["g"], "split": ["train"], "sha256": ["s"]})
    Path("note.txt").write_text("hello")
    with tracking.start(**SETTINGS) as run:
        run.parameters({"seed": 0, "long": "x" * 7000})
        for epoch in (1, 2, 3):
            run.metrics({"loss": 1 / epoch, "val_loss": float("nan")}, step=epoch)
        run.dataset(table, "d1gest", "folder")
        run.artifacts(Path("note.txt"))
    found = client().get_run(run.id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "n"
    assert found.data.tags["site"] == "bridge"
    assert found.data.params["seed"] == "0"
    assert [(point.step, point.value) for point in client().get_metric_history(run.id, "loss")] == [
        (1, 1),
        (2, 0.5),
        (3, 1 / 3),
    ]
    assert "val_loss" not in found.data.metrics
    assert found.inputs.dataset_inputs[0].dataset.digest == "d1gest"
    place = Path(found.info.artifact_uri.removeprefix("file://"))
    assert place.is_relative_to(Path.cwd() / "mlruns")
    assert (place / "note.txt").read_text() == "hello"
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_a_failure_ends_failed_with_its_traceback() -> None:
    Path("train.log").write_text("epoch 1\n")

    def explode() -> None:
        raise ZeroDivisionError("boom")

    with pytest.raises(ZeroDivisionError, match="boom"), tracking.start(**SETTINGS) as run:
        explode()
    assert client().get_run(run.id).info.status == "FAILED"
    text = mlflow.artifacts.load_text(f"{client().get_run(run.id).info.artifact_uri}/traceback.txt")
    assert "explode" in text
    assert "ZeroDivisionError: boom" in text
    assert "train.log" in {item.path for item in client().list_artifacts(run.id)}


def test_an_interrupt_ends_killed() -> None:
    with pytest.raises(KeyboardInterrupt), tracking.start(**SETTINGS) as run:
        raise KeyboardInterrupt
    assert client().get_run(run.id).info.status == "KILLED"


def test_tracking_off_keeps_the_journal_alone() -> None:
    with tracking.start(**{**SETTINGS, "enabled": False}) as run:
        run.parameters({"a": 1})
        run.metrics({"a": 1.0})
        run.artifacts(Path("nowhere"))
    assert run.id is None
    assert [path.name for path in Path.cwd().iterdir()] == ["tracking.jsonl"]
    nothing = tracking.Run()
    nothing.metrics({"a": 1.0})
    assert nothing.id is None


def test_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with tracking.start(**{**SETTINGS, "uri": "sqlite:///ignored.db"}) as run:
        command, address = run.ui_hints(None)
    assert (tmp_path / "elsewhere.db").exists()
    assert not Path("ignored.db").exists()
    assert command == f"mlflow ui --backend-store-uri {uri}"
    assert address.startswith("http://127.0.0.1:5000/#/experiments/1/runs")


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_an_unreachable_server_fails_with_advice_and_no_password(scheme: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        uri = f"{scheme}://me:s3cret@127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(tracking.TrackingError, match="does not answer.*\n.*tracking=none") as caught:
            tracking.connect(uri, "e")
    assert "s3cret" not in str(caught.value)


def test_a_deleted_experiment_is_named() -> None:
    number = tracking.connect(None, "e")
    client().delete_experiment(number)
    with pytest.raises(tracking.TrackingError, match="'e' was deleted: restore it"):
        tracking.connect(None, "e")


@pytest.mark.slow
def test_processes_that_start_at_once_share_a_new_store() -> None:
    code = "import sys; from hairline import tracking; print(tracking.connect(None, 'e'))"
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    results = [(process.communicate(timeout=240)[0].strip(), process.returncode) for process in running]
    assert len(set(results)) == 1
    assert results[0][1] == 0


@pytest.mark.slow
def test_a_store_that_was_being_made_when_its_process_was_killed_is_made_anew(tmp_path: Path) -> None:
    code = "from hairline.tracking import store; store.connect(None, 'hairline')"
    place = tmp_path / "temporary"
    place.mkdir()
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(place)})
    deadline = time.monotonic() + 60
    while not list(place.glob("*/mlflow.db")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.2)  # some tables are there, most are not
    process.kill()
    process.wait()
    assert not Path("mlflow.db").exists()
    with tracking.start(**SETTINGS) as run:
        run.metrics({"loss": 1.0}, step=1)
    assert client().get_run(run.id).info.status == "FINISHED"


def test_an_empty_file_is_made_a_store() -> None:
    Path("mlflow.db").touch()
    with tracking.start(**SETTINGS) as run:
        run.metrics({"loss": 1.0}, step=1)
    assert client().get_run(run.id).info.status == "FINISHED"


def test_a_resumed_run_goes_on_without_doubling_points() -> None:
    def explode(run: tracking.Run) -> None:
        run.parameters({"seed": 0})
        run.metrics({"loss": 1.0}, step=1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), tracking.start(**SETTINGS) as run:
        explode(run)
    with tracking.start(**SETTINGS) as again:
        again.parameters({"seed": 0})
        for epoch in (1, 2):
            again.metrics({"loss": 1 / epoch}, step=epoch)
    assert again.id == run.id
    assert client().get_run(run.id).info.status == "FINISHED"
    assert [point.step for point in client().get_metric_history(run.id, "loss")] == [1, 2]
