"""An outage of the tracking server stops no training, and MLflow gets every entry once, at the end or later."""

from __future__ import annotations

import itertools
import json
import logging
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow.exceptions import INTERNAL_ERROR, MlflowException
from PIL import Image

from hairline import tracking
from hairline.system import files
from hairline.tracking import delivery, store, sync
from hairline.tracking.journal import FILE, Journal
from tests.running import wait_until
from tests.saved_runs import saved_run
from tests.tracked import SETTINGS, client, runs, steps, tracked

pytestmark = pytest.mark.usefixtures("empty_store")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


OUTAGES = [ConnectionError("nobody is there"), MlflowException("nobody is there", INTERNAL_ERROR)]


@pytest.fixture(params=OUTAGES, ids=["refused", "status 500"])
def outage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """An outage of every store while the event is set."""
    client, down = store.client, threading.Event()

    def failing(uri: str | None) -> mlflow.MlflowClient:
        if down.is_set():
            raise request.param
        return client(uri)

    monkeypatch.setattr(store, "client", failing)
    for name in ("_FIRST_PAUSE", "_COLLECT"):
        monkeypatch.setattr(delivery, name, 0.02)
    monkeypatch.setattr(delivery, "_LAST_WAIT", 30.0)  # a busy disk is no outage
    return down


# --- the journal ------------------------------------------------------------------------------------------------------


def test_a_journal_continues_after_a_torn_line(place: Path) -> None:
    journal = Journal(place)
    journal.add("begin", name="größer \udcff", experiment="e", tags={})
    journal.add("metrics", values={"loss": 0.1 + 0.2}, step=1)
    journal.mark_sent(1)
    with (place / FILE).open("ab") as file:
        file.write(b'{"kind": "metr')
    again = Journal(place)
    assert [entry["values"] for entry in again.unsent()] == [{"loss": 0.1 + 0.2}]
    again.add("metrics", values={"loss": 7.0, "other": 1.0}, step=1)  # the first value counts
    again.add("metrics", values={"loss": 7.0}, step=1)
    assert [entry["values"] for entry in again.unsent()] == [{"loss": 0.1 + 0.2}, {"other": 1.0}]
    assert (again.next_step("oth"), again.next_step("nothing")) == (2, 0)
    assert not again.ended
    again.add("end", status="KILLED")
    assert Journal(place).ended
    again.mark_unsent()
    assert len(Journal(place).unsent()) == 4
    assert all(json.loads(line) for line in (place / FILE).read_text().splitlines())


def test_a_line_that_a_full_disk_cut_off_does_not_join_the_next_one(place: Path) -> None:
    journal = Journal(place)
    journal.add("metrics", values={"loss": 1.0}, step=1)
    _, most = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((place / FILE).stat().st_size + 20, most))
    try:
        with pytest.raises(OSError, match="File too large"):
            journal.add("metrics", values={"loss": 0.5}, step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    journal.add("metrics", values={"loss": 0.25}, step=2)
    assert [entry["values"] for entry in Journal(place).unsent()] == [{"loss": 1.0}, {"loss": 0.25}]


def test_the_load_of_the_machine_is_sampled(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "_SAMPLE", 0.01)
    monkeypatch.setattr(delivery, "_SAMPLE_FROM", 0.01)
    journal, sampled = Journal(place), threading.Event()
    with delivery.sampling(journal, enabled=True, notify=sampled.set):
        assert sampled.wait(60)
    values = journal.unsent()[0]["values"]
    assert 0 <= values["system/cpu_utilization_percentage"] <= 100
    assert 0 < values["system/system_memory_usage_percentage"] <= 100


# --- outages ----------------------------------------------------------------------------------------------------------


def until(text: str, caplog: pytest.LogCaptureFixture) -> None:
    """Wait until a text has been logged."""
    wait_until(lambda: text in caplog.text, seconds=60)


def test_a_short_outage_is_reported_once_and_loses_nothing(
    place: Path, outage: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), tracked(place) as run:
        for step in range(1, 31):
            if step in (5, 20):
                outage.set()
            if step == 15:
                until("nobody is there", caplog)
            if step in (15, 25):
                outage.clear()
            if step == 16:
                until("MLflow answers again", caplog)
            run.metrics({"loss": 1 / step, "flat": 2.0}, step=step)
    assert run.id is not None
    assert steps(run.id) == steps(run.id, "flat") == list(range(1, 31))
    assert caplog.text.count("nobody is there") == 1
    assert "MLflow answers again" in caplog.text
    assert [entry.info.status for entry in runs()] == ["FINISHED"]


def test_the_rest_of_a_long_outage_is_synchronised(
    place: Path, outage: threading.Event, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "_LAST_WAIT", 0.5)
    (place / "note.txt").write_text("first")
    with tracked(place) as run:
        outage.set()
        run.parameters({"seed": 0})
        for step in range(1, 1001):
            run.metrics({"loss": 1 / step, "nothing": float("nan")}, step=step)
        run.artifacts(place / "note.txt")
        (place / "note.txt").write_text("last")
    assert f"python sync.py run={place}" in caplog.text
    assert [entry.info.status for entry in runs()] == ["RUNNING"]
    with pytest.raises(tracking.TrackingError, match="nobody is there"):
        sync.synchronise([place], None)
    outage.clear()
    assert sync.synchronise([place], None) > 0
    assert sync.synchronise([place], None) == 0
    (entry,) = runs()
    assert (entry.info.run_id, entry.info.status, entry.data.params) == (run.id, "FINISHED", {"seed": "0"})
    assert steps(entry.info.run_id) == list(range(1, 1001))
    assert mlflow.artifacts.load_text(f"{entry.info.artifact_uri}/note.txt") == "last"


def test_an_outage_of_days_is_waited_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures, check = itertools.count(), store.check

    def failing(uri: str | None) -> None:
        if next(failures) < 3000:  # a day and an hour, at two a minute
            raise ConnectionError("nobody is there")
        check(uri)

    monkeypatch.setattr(delivery, "_LONGEST_PAUSE", 0.0)
    with tracked(place) as run:
        monkeypatch.setattr(store, "check", failing)
        run.metrics({"loss": 1.0}, step=1)
        while next(failures) < 3000:
            time.sleep(0.01)
    assert steps(str(run.id)) == [1]


@pytest.mark.parametrize("count", [1, 6000])
def test_required_tracking_stops_the_run(
    count: int, place: Path, outage: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "_LAST_WAIT", 3.0)
    logged = []

    def train(run: tracking.Run) -> None:
        outage.set()
        for step in range(1, count + 1):
            run.metrics({"loss": 1.0}, step=step)
            logged.append(step)
            time.sleep(0.01)

    with (
        pytest.raises(tracking.TrackingError, match=r"(?s)nobody is there.*tracking\.required=true"),
        tracked(place, required=True) as run,
    ):
        train(run)
    assert len(logged) < 6000


def test_a_rejected_metric_is_skipped_with_a_warning(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tracked(place) as run:
        run.metrics({"good": 1.0, "bad\nname": 2.0}, step=1)
        run.metrics({"good": 3.0}, step=2)
    assert steps(str(run.id), "good") == [1, 2]
    assert "WARNING: MLflow rejected bad\nname, skipped" in caplog.text


def test_a_rejected_parameter_costs_no_other_parameter(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tracked(place) as run:
        pass
    Journal(place).add("parameters", values={"seed": "0", "bad*name": "1", "epochs": "2"})
    sync.synchronise([place], None)
    assert client().get_run(run.id).data.params == {"seed": "0", "epochs": "2"}
    assert "WARNING: MLflow rejected bad*name, skipped" in caplog.text


@pytest.mark.slow
def test_a_job_of_a_sweep_starts_without_the_server(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(uri: str) -> None:
        raise tracking.TrackingError("nobody is there")

    tags = {tracking.PARENT: "0" * 32}
    with monkeypatch.context() as down:
        down.setattr(store, "check", refused)
        with tracked(place, tags=tags) as run:
            run.metrics({"loss": 1.0}, step=1)
    assert run.id is None
    sync.synchronise([place], None)
    (entry,) = runs()
    assert entry.data.tags[tracking.PARENT] == "0" * 32
    assert steps(entry.info.run_id) == [1]
    assert entry.info.status == "FINISHED"


# --- nothing twice ----------------------------------------------------------------------------------------------------


def log_everything(place: Path, two_classes: Path) -> str:
    """Log one entry of each kind; return the run's id."""
    saved_run(place, two_classes)
    (place / "figures").mkdir()
    Image.new("RGB", (8, 8)).save(place / "figures" / "predictions.png")
    with tracked(place) as run:
        run.parameters({"seed": 0})
        run.dataset(pd.DataFrame({"label": ["a", "b"]}), "d1gest", "folder")
        for step in range(1, 6):
            run.metrics({"loss": 1 / step}, step=step)
        run.metrics({"test_accuracy": 0.5})
        run.note("text")
        run.figures(place / "figures")
        run.model(place / "model", next(two_classes.glob("*/*.jpg")))
    assert run.id is not None
    return run.id


def content(run_id: str, at: mlflow.MlflowClient | None = None) -> dict[str, Any]:
    """Return everything that MLflow has of a run."""
    at = at or client()
    entry = at.get_run(run_id)
    models = at.search_logged_models([entry.info.experiment_id])
    return {
        "points": {key: [(p.step, p.timestamp, p.value) for p in at.get_metric_history(run_id, key)]
                   for key in entry.data.metrics},
        "parameters": entry.data.params,
        "images": len(at.list_artifacts(run_id, "images")),
        "models": [str(model.status) for model in models if model.source_run_id == run_id],
        "datasets": [item.dataset.digest for item in entry.inputs.dataset_inputs],
        "status": entry.info.status,
        "end": entry.info.end_time,
    }  # fmt: skip


def test_what_is_sent_twice_is_stored_once(place: Path, two_classes: Path) -> None:
    run_id = log_everything(place, two_classes)
    before = content(run_id)
    assert before["models"] == ["READY"]
    assert before["datasets"] == ["d1gest"]
    assert before["images"] == 2  # the image and its thumbnail
    assert [point[0] for point in before["points"]["loss"]] == [1, 2, 3, 4, 5]
    lines = [line for line in (place / FILE).read_text().splitlines() if '"sent"' not in line]
    (place / FILE).write_text("\n".join(lines) + "\n")  # as if the process had been killed before each mark
    (place / "mlflow_run_id.txt").unlink()
    assert sync.synchronise([place], None) == len(lines)
    assert tracking.run_id(place) == run_id
    assert content(run_id) == before
    assert len(runs()) == 1


def test_a_model_that_was_deleted_is_skipped_with_a_warning(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tracked(place, enabled=False) as run:
        run.model(place / "model", place / "a.jpg")
        run.metrics({"loss": 1.0}, step=1)
    sync.synchronise([place], None)
    assert f"skipped: {place / 'model'} holds no saved model any more" in caplog.text
    (entry,) = runs()
    assert (entry.info.status, entry.data.metrics) == ("FINISHED", {"loss": 1.0})


@pytest.mark.slow
def test_another_store_gets_everything(place: Path, two_classes: Path, tmp_path: Path) -> None:
    run_id = log_everything(place, two_classes)
    before = content(run_id)
    uri = f"sqlite:///{tmp_path / 'other.db'}"
    sync.synchronise([place], uri)
    other = mlflow.MlflowClient(uri)
    (entry,) = runs(other)
    assert entry.info.run_id == tracking.run_id(place) != run_id
    assert content(entry.info.run_id, other) == before


def test_a_run_without_tracking_can_be_sent_later(place: Path) -> None:
    with tracked(place, enabled=False) as run:
        run.metrics({"loss": 1.0}, step=1)
    sync.synchronise([place], None)
    (entry,) = runs()
    assert (entry.info.run_name, entry.info.status, steps(entry.info.run_id)) == ("n", "FINISHED", [1])


def test_a_run_stays_in_its_store_when_it_is_continued_without_tracking(place: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'other.db'}"
    with tracked(place, uri=uri) as run:
        run.metrics({"loss": 1.0}, step=1)
    with tracked(place, enabled=False) as off:
        off.metrics({"loss": 0.5}, step=2)
    sync.synchronise([place], None)
    assert tracking.run_id(place) == run.id
    assert steps(str(run.id), at=mlflow.MlflowClient(uri)) == [1, 2]
    assert client().get_experiment_by_name("e") is None  # the store of the working directory has nothing


def test_a_run_in_a_relative_store_is_sent_from_any_folder(
    place: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracked(place, uri="sqlite:///mlflow.db") as run:
        command, _ = run.ui_hints()
    assert f"--backend-store-uri sqlite:///{Path.cwd()}/mlflow.db" in command
    Journal(place).add("metrics", values={"loss": 1.0}, step=1)
    with monkeypatch.context() as elsewhere:
        elsewhere.chdir(tmp_path_factory.mktemp("elsewhere"))
        assert sync.synchronise([place], None) == 1
        assert not list(Path.cwd().iterdir())
    assert steps(str(run.id)) == [1]


def test_a_killed_run_is_sent_as_killed_and_resumed_in_the_same_run(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    code = (
        "import os\nfrom pathlib import Path\nfrom hairline import tracking\n"
        f"with tracking.start(**{SETTINGS!r}, directory=Path({str(place)!r})) as run:\n"
        "    run.metrics({'loss': 1.0}, step=1)\n    os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    with monkeypatch.context() as elsewhere:
        elsewhere.chdir(tmp_path_factory.mktemp("elsewhere"))
        sync.synchronise([place], None)  # to the run's own store, from any working directory
        assert not Path("mlflow.db").exists()
    (entry,) = runs()
    assert entry.info.status == "KILLED"
    with tracked(place) as run:
        run.metrics({"loss": 1.0}, step=1)
        run.metrics({"loss": 0.5}, step=2)
    assert run.id == entry.info.run_id
    assert steps(run.id) == [1, 2]
    assert client().get_run(run.id).info.status == "FINISHED"


def test_a_folder_without_a_journal_and_a_locked_one_are_refused(place: Path) -> None:
    with pytest.raises(tracking.TrackingError, match=r"nothing to send; expected a run directory"):
        sync.synchronise([place], None)
    with files.locked(place), pytest.raises(files.LockedError, match="another process"):
        sync.synchronise([place], None)
