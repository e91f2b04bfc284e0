"""Runs in a real MLflow store: starting, failing, resuming, and stores that cannot be used."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import mlflow
import pandas as pd
import pytest
from mlflow.utils import validation

from hairline import tracking
from hairline.tracking import store, sync
from hairline.tracking.journal import Journal
from tests.running import started, wait_until
from tests.tracked import client, runs, steps, tracked

HERE = Path()


@pytest.mark.usefixtures("empty_store")
def test_a_run_is_recorded_in_the_working_directory() -> None:
    table = pd.DataFrame({"path": ["/x"], "label": ["a"], "group": ["g"], "split": ["train"], "sha256": ["s"]})
    Path("note.txt").write_text("hello")
    with tracked(HERE) as run:
        run.parameters({"seed": 0, "long": "x" * 7000})
        for epoch in (1, 2, 3):
            run.metrics({"loss": 1 / epoch, "val_loss": float("nan")}, step=epoch)
        run.dataset(table, "d1gest", "folder")
        run.artifacts(Path("note.txt"))
    found = client().get_run(run.id)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "n")
    assert found.data.tags["site"] == "bridge"
    assert found.data.params["seed"] == "0"
    points = [(point.step, point.value) for point in client().get_metric_history(run.id, "loss")]
    assert points == [(1, 1), (2, 0.5), (3, 1 / 3)]
    assert "val_loss" not in found.data.metrics
    assert found.inputs.dataset_inputs[0].dataset.digest == "d1gest"
    place = Path(found.info.artifact_uri.removeprefix("file://"))
    assert place.is_relative_to(Path.cwd() / "mlruns")
    assert (place / "note.txt").read_text() == "hello"
    assert "MLFLOW_TRACKING_URI" not in os.environ


@pytest.mark.usefixtures("empty_store")
@pytest.mark.parametrize(("error", "status"), [(ZeroDivisionError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_that_stops_can_be_resumed_without_doubling_points(error: type[BaseException], status: str) -> None:
    Path("train.log").write_text("epoch 1\n")

    def train(run: tracking.Run, epochs: int) -> None:
        run.parameters({"seed": 0})
        for epoch in range(1, epochs + 1):
            run.metrics({"loss": 1 / epoch}, step=epoch)
        if epochs == 1:
            raise error("boom")

    with pytest.raises(error, match="boom"), tracked(HERE) as run:
        train(run, 1)
    found = client().get_run(run.id)
    assert found.info.status == status
    artifacts = {item.path for item in client().list_artifacts(run.id)}
    assert artifacts == {"train.log"} | ({"traceback.txt"} if status == "FAILED" else set())
    if status == "FAILED":
        text = mlflow.artifacts.load_text(f"{found.info.artifact_uri}/traceback.txt")
        assert "in train" in text
        assert "ZeroDivisionError: boom" in text
    with tracked(HERE) as again:
        train(again, 2)
    assert again.id == run.id
    assert client().get_run(run.id).info.status == "FINISHED"
    assert steps(run.id) == [1, 2]


@pytest.mark.usefixtures("empty_store")
@pytest.mark.parametrize("kept", [True, False])
def test_a_run_that_is_resumed_stays_in_the_store_that_the_environment_named(
    kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as first:
        first.setenv("MLFLOW_TRACKING_URI", "sqlite:///server/mlflow.db")
        shutil.copytree(".", "server", ignore=lambda *_: ["server"])
        with tracked(HERE) as run:
            run.metrics({"loss": 1.0}, step=1)
    if not kept:  # as on another machine
        shutil.rmtree("server")
    with tracked(HERE) as again:
        again.metrics({"loss": 0.5}, step=2)
    assert (again.id == run.id) == kept
    assert steps(str(again.id), at=client(Path("server").absolute() if kept else None)) == [1, 2]


@pytest.mark.usefixtures("empty_store")
def test_name_and_tags_given_to_a_resumed_run_reach_mlflow() -> None:
    with tracked(HERE) as run:
        pass
    before = client().get_run(run.id).data.tags
    with tracked(HERE, name="renamed", tags={"site": "tunnel", "side": "north"}):
        pass
    with tracked(HERE, enabled=False, name="renamed twice", tags={"side": "south"}):
        pass
    sync.synchronise([HERE], None)
    found = client().get_run(run.id)
    assert found.info.run_name == "renamed twice"
    changed = {"site": "tunnel", "side": "south", "mlflow.runName": "renamed twice"}
    assert found.data.tags == before | changed
    assert found.info.status == "FINISHED"


def test_tracking_off_writes_the_journal_only() -> None:
    with tracked(HERE, enabled=False) as run:
        run.parameters({"a": 1})
        run.artifacts(Path("nowhere"))
    assert run.id is None
    assert [path.name for path in Path.cwd().iterdir()] == ["tracking.jsonl"]
    assert run.ui_hints() == []


def test_an_address_wins_over_the_environment_and_an_empty_file_becomes_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "elsewhere.db"
    place.touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///ignored.db")
    assert store.tracking_uri(None) == f"sqlite:///{tmp_path}/ignored.db"
    with tracked(HERE, uri=f"sqlite:///{place}") as run:
        run.metrics({"loss": 1.0}, step=1)
        command, address = run.ui_hints()
    assert steps(str(run.id), at=mlflow.MlflowClient(f"sqlite:///{place}")) == [1]
    assert not Path("ignored.db").exists()
    assert command.startswith(f"mlflow ui --app-name hairline --workers 1 --backend-store-uri sqlite:///{place}")
    assert re.match(r"http://127\.0\.0\.1:50\d\d/#/experiments/1/runs", address)  # 5000 may be taken


# The driver of PostgreSQL is an extra that `make test` does not install.
@pytest.mark.parametrize("scheme", ["http", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_an_unreachable_server_fails_with_advice_and_no_password(scheme: str) -> None:
    if scheme == "postgresql":
        pytest.importorskip("psycopg")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        uri = f"{scheme}://me:s3cret@127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(tracking.TrackingError, match="does not answer.*\n.*tracking=none") as caught:
            tracking.connect(uri, "e")
    assert "s3cret" not in str(caught.value)


class Proxy(http.server.BaseHTTPRequestHandler):
    """A proxy that reaches one MLflow server, with an experiment of any name."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        experiment = {"experiment_id": "7", "name": "e", "lifecycle_stage": "active", "artifact_location": "s3://b/7"}
        content = json.dumps({"experiment": experiment}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Write nothing."""


def test_a_server_that_only_a_proxy_reaches_is_tried_by_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_port}")
        monkeypatch.delenv("no_proxy", raising=False)
        assert tracking.connect("http://tracking.invalid:5000", "e") == "7"
        proxy.shutdown()
    assert Proxy.asked
    assert all(path.startswith("http://tracking.invalid:5000/") for path in Proxy.asked)


def test_a_databricks_profile_is_mlflows_to_find(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the profile was taken for a host")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(
        tracking.TrackingError, match="(?s)databricks://profile cannot be used.*tracking=none"
    ) as caught:
        tracking.connect("databricks://profile", "e")
    assert "host" not in str(caught.value)


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("resumed", [False, True])
def test_a_moved_or_copied_project_writes_nothing_into_the_original(
    copied: bool, resumed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: None
) -> None:
    project, target = tmp_path / "project", tmp_path / "other"
    (project / "run").mkdir(parents=True)
    shutil.move("mlflow.db", project)
    monkeypatch.chdir(project)
    (project / "note.txt").write_text("one")
    with tracked(Path("run")) as run:
        run.artifacts(Path("note.txt"))
    before = {path: path.stat().st_mtime_ns for path in project.rglob("*") if "mlruns" in path.parts}
    assert len(before) > 3
    shutil.copytree(project, target)
    monkeypatch.chdir(target)
    if not copied:
        shutil.rmtree(project)
    place = target / "run" if resumed else target
    says = f"belongs to {project}/mlflow.db: this project folder is a copy" if copied else "which does not exist"
    with pytest.raises(tracking.TrackingError, match="tracking.experiment=e-2") as caught, tracked(place):
        pass
    assert f"keeps its files in {project}/mlruns/artifacts, which" in str(caught.value)
    assert says in str(caught.value)
    with tracked(place, experiment="e-2") as run:
        run.artifacts(Path("note.txt"))
    (entry,) = runs(experiment="e-2")
    assert (target / "mlruns" / "artifacts" / entry.info.run_id / "artifacts" / "note.txt").read_text() == "one"
    after = {path: path.stat().st_mtime_ns for path in project.rglob("*") if "mlruns" in path.parts}
    assert after == (before if copied else {})


def test_a_copied_run_is_synchronised_with_the_copied_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: None
) -> None:
    project, target = tmp_path / "project", tmp_path / "other"
    (project / "runs" / "one").mkdir(parents=True)
    shutil.move("mlflow.db", project)
    monkeypatch.chdir(project)
    with tracked(Path("runs/one")) as run:
        run.metrics({"loss": 1.0}, step=1)
    shutil.copytree(project, target)
    monkeypatch.chdir(target)
    journal = Journal(target / "runs" / "one")
    journal.mark_unsent()
    before = (project / "mlflow.db").read_bytes()
    with pytest.raises(tracking.TrackingError, match="this project folder is a copy"):
        sync.synchronise([Path("runs/one")], None)
    assert sync.synchronise([Path("runs/one")], f"sqlite:///{target}/new.db") > 0
    assert (project / "mlflow.db").read_bytes() == before


def test_a_project_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: None) -> None:
    project, copied = tmp_path / "100%25 caf\u00e9?", tmp_path / "50%41?"
    project.mkdir()
    shutil.move("mlflow.db", project)
    monkeypatch.chdir(project)
    Path("note.txt").write_text("hello")
    with tracked(HERE) as run:
        run.artifacts(Path("note.txt"))
    with sqlite3.connect(project / "mlflow.db") as connection:
        assert connection.execute("SELECT run_uuid FROM runs").fetchall() == [(run.id,)]
    (note,) = Path("mlruns").rglob("note.txt")
    assert note.read_text() == "hello"
    shutil.copytree(project, copied)
    address = store.followed(store.default_uri(), str(project / "run"), copied / "run")
    assert store._database(address) == copied / "mlflow.db"
    (copied / "mlflow.db").unlink()
    monkeypatch.chdir(copied)
    assert tracking.connect(None, "e")
    assert (copied / "mlflow.db").is_file()


def test_a_place_of_the_users_choice_and_a_linked_project_are_used(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, empty_store: None
) -> None:
    disk = tmp_path_factory.mktemp("disk")
    client().create_experiment("own", artifact_location=disk.as_uri())
    assert tracking.connect(None, "own")
    tracking.connect(None, "e")
    link = disk / "link"
    link.symlink_to(tmp_path)
    monkeypatch.chdir(link)
    assert tracking.connect(f"sqlite:///{link}/mlflow.db", "e")


@pytest.mark.usefixtures("empty_store")
def test_a_deleted_experiment_is_named() -> None:
    number = tracking.connect(None, "e")
    client().delete_experiment(number)
    with pytest.raises(tracking.TrackingError, match="'e' was deleted: restore it"):
        tracking.connect(None, "e")


@pytest.mark.usefixtures("empty_store")
def test_a_parent_is_written_without_a_journal_and_survives_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    experiment = tracking.connect(None, "e")
    settings: dict[str, Any] = {"name": "sweep", "tags": {"a": "b"}, "parameters": {"seed": "1,2"}}
    parent = tracking.open_parent(None, experiment, run_id=None, **settings)
    assert tracking.open_parent(None, experiment, run_id=parent, **settings) == parent
    tracking.update_run(None, parent, metrics={"best": 0.5, "worst": float("nan")}, step=2, tags={"c": "d"}, files=[])
    tracking.end_run(None, parent, "interrupted")
    tracking.end_run(None, parent, "finished")  # has ended already
    run = client().get_run(parent)
    assert (run.info.status, run.data.metrics, run.data.params) == ("KILLED", {"best": 0.5}, {"seed": "1,2"})
    assert not caplog.records
    for _ in range(2):
        tracking.end_run("http://127.0.0.1:1", parent, "finished")
    assert caplog.text.count("the sweep's run in MLflow is incomplete") == 1


@pytest.mark.slow
def test_processes_that_start_at_once_share_a_new_store() -> None:
    code = "import sys; from hairline import tracking; print(tracking.connect(None, 'e'))"
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    results = [(process.communicate(timeout=240)[0].strip(), process.returncode) for process in running]
    assert len(set(results)) == 1
    assert results[0][1] == 0


@pytest.mark.slow
def test_a_store_whose_creation_was_killed_is_created_again(tmp_path: Path) -> None:
    code = "from hairline import tracking; tracking.connect(None, 'hairline')"
    place = tmp_path / "temporary"
    place.mkdir()
    with started([sys.executable, "-c", code], stdout=None, env=os.environ | {"TMPDIR": str(place)}) as process:
        wait_until(lambda: list(place.glob("*/mlflow.db")), process)
        time.sleep(0.2)  # some tables exist, most do not; it is killed now
    assert not Path("mlflow.db").exists()
    with tracked(HERE) as run:
        run.metrics({"loss": 1.0}, step=1)
    assert steps(str(run.id)) == [1]


@pytest.mark.usefixtures("empty_store")
def test_parameters_of_any_name_are_logged_with_the_others(caplog: pytest.LogCaptureFixture) -> None:
    with tracked(HERE) as run:
        run.parameters({"seed": 0, "data.class_map.C*": "cracked", "data.class_map.no crack, dry": "intact"})
    params = client().get_run(run.id).data.params
    assert params == {"seed": "0", "data.class_map.C_": "cracked", "data.class_map.no crack_ dry": "intact"}
    assert not caplog.records


def test_classes_that_differ_in_what_mlflow_refuses_have_metrics_of_their_own() -> None:
    classes = [
        "crack (fine)",
        "crack [fine]",
        "crack _fine_",
        "<0.3mm",
        ">0.3mm",
        "裂缝",
        "a/b",
        "a//b",
        "x" * 300,
        "x" * 301,
    ]
    keys = [f"test_{metric}_{name}" for metric in ("recall", "f1") for name in classes]
    names = tracking.metric_names(["test_accuracy", *keys])
    assert len(set(names.values())) == len(keys) + 1
    for name in names.values():
        validation._validate_metric_name(name)
    assert names["test_accuracy"] == "test_accuracy"
    assert names["test_recall_crack _fine_"] == "test_recall_crack _fine_"  # accepted names stay
    endings = {key.removeprefix("test_recall_"): name.removeprefix("test_recall_") for key, name in names.items()}
    assert all(names[f"test_f1_{name}"] == f"test_f1_{endings[name]}" for name in classes[:8])
