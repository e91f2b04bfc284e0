"""A tracking server that fails costs no training, and gets every point once, at the end or later."""

from __future__ import annotations

import contextlib
import http.server
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from PIL import Image

from hairline import tracking
from hairline.system import files
from hairline.tracking import delivery, mirror, store, sync
from hairline.tracking.journal import FILE, Journal
from tests.conftest import ROOT
from tests.running import TINY, run
from tests.saved_runs import saved_run

SETTINGS: dict[str, Any] = {
    "enabled": True, "uri": None, "experiment": "e", "system_metrics": False, "name": "n", "tags": {"site": "bridge"},
}  # fmt: skip


def client() -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{Path.cwd() / 'mlflow.db'}")


def found(at: mlflow.MlflowClient | None = None, experiment: str = "e") -> list[mlflow.entities.Run]:
    asked = at or client()
    return list(asked.search_runs([asked.get_experiment_by_name(experiment).experiment_id]))


def steps(run_id: str, key: str = "loss", at: mlflow.MlflowClient | None = None) -> list[int]:
    return [point.step for point in (at or client()).get_metric_history(run_id, key)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """An outage of every store while the event is set."""
    deliver, down = mirror.Mirror.deliver, threading.Event()

    def failing(self: mirror.Mirror, entries: list[dict[str, Any]]) -> int:
        if down.is_set():
            raise ConnectionError("nobody is there")
        return deliver(self, entries)

    monkeypatch.setattr(mirror.Mirror, "deliver", failing)
    monkeypatch.setattr(delivery, "_FIRST_PAUSE", 0.02)
    monkeypatch.setattr(delivery, "_COLLECTED", 0.02)
    return down


# --- the journal ------------------------------------------------------------------------------------------------------


def test_a_journal_goes_on_after_a_torn_line(place: Path) -> None:
    journal = Journal(place)
    journal.tell("begin", name="größer \udcff", experiment="e", tags={})
    journal.tell("metrics", values={"loss": 0.1 + 0.2}, step=1)
    journal.mark(1)
    with (place / FILE).open("ab") as file:
        file.write(b'{"kind": "metr')
    again = Journal(place)
    assert [entry["values"] for entry in again.waiting()] == [{"loss": 0.1 + 0.2}]
    again.tell("metrics", values={"loss": 7.0, "other": 1.0}, step=1)  # the first one counts
    again.tell("metrics", values={"loss": 7.0}, step=1)
    assert [entry["values"] for entry in again.waiting()] == [{"loss": 0.1 + 0.2}, {"other": 1.0}]
    assert (again.next_step("oth"), again.next_step("nothing")) == (2, 0)
    assert not again.ended
    again.tell("end", status="KILLED")
    assert Journal(place).ended
    again.rewind()
    assert len(Journal(place).waiting()) == 4
    assert all(json.loads(line) for line in (place / FILE).read_text().splitlines())


# --- outages in one process -------------------------------------------------------------------------------------------


def test_an_outage_in_between_is_told_once_and_made_good(
    place: Path, outage: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), tracking.start(**SETTINGS, directory=place) as current:
        for step in range(1, 31):
            if step in (5, 20):
                outage.set()
            if step in (15, 25):
                time.sleep(0.3)
                outage.clear()
            current.metrics({"loss": 1 / step, "flat": 2.0}, step=step)
    assert current.id is not None
    assert steps(current.id) == steps(current.id, "flat") == list(range(1, 31))
    assert [record.getMessage().count("nobody is there") for record in caplog.records].count(1) == 1
    assert "MLflow answers again" in caplog.text
    (entry,) = found()
    assert entry.info.status == "FINISHED"


def test_an_outage_for_good_costs_seconds_and_is_synchronised(
    place: Path, outage: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    (place / "note.txt").write_text("first")
    with caplog.at_level(logging.INFO), tracking.start(**SETTINGS, directory=place) as current:
        outage.set()
        current.parameters({"seed": 0})
        for step in range(1, 1001):
            current.metrics({"loss": 1 / step, "nothing": float("nan")}, step=step)
        current.artifacts(place / "note.txt")
        (place / "note.txt").write_text("last")
        ended = time.monotonic()
    assert time.monotonic() - ended < 6
    assert f"python sync.py run={place}" in caplog.text
    (entry,) = found()
    assert entry.info.status == "RUNNING"
    with pytest.raises(tracking.TrackingError, match="nobody is there"):
        tracking.synchronise(place, None)
    outage.clear()
    assert tracking.synchronise(place, None) > 0
    assert tracking.synchronise(place, None) == 0
    (entry,) = found()
    assert (entry.info.run_id, entry.info.status, entry.data.params) == (current.id, "FINISHED", {"seed": "0"})
    assert steps(entry.info.run_id) == list(range(1, 1001))
    text = mlflow.artifacts.load_text(f"{entry.info.artifact_uri}/note.txt")
    assert text == "last"


def test_required_tracking_stops_the_run(place: Path, outage: threading.Event) -> None:
    def train(current: tracking.Run) -> None:
        outage.set()
        for step in range(1, 6001):
            current.metrics({"loss": 1.0}, step=step)
            time.sleep(0.01)

    began = time.monotonic()
    with (
        pytest.raises(tracking.TrackingError, match=r"(?s)nobody is there.*tracking\.required=true"),
        tracking.start(**SETTINGS, directory=place, required=True) as current,
    ):
        train(current)
    assert time.monotonic() - began < 30  # of 60


@pytest.mark.slow
def test_required_tracking_is_required_to_the_last_point(place: Path, outage: threading.Event) -> None:
    def train(current: tracking.Run) -> None:
        outage.set()
        current.metrics({"loss": 1.0}, step=1)

    with (
        pytest.raises(tracking.TrackingError, match="nobody is there"),
        tracking.start(**SETTINGS, directory=place, required=True) as current,
    ):
        train(current)


@pytest.mark.slow
def test_a_child_of_a_sweep_begins_without_the_server(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(uri: str) -> None:
        raise tracking.TrackingError("nobody is there")

    reachable = store.refuse_unusable
    tags = {tracking.PARENT: "0" * 32}
    monkeypatch.setattr(store, "refuse_unusable", refused)
    with tracking.start(**{**SETTINGS, "tags": tags}, directory=place) as current:
        current.metrics({"loss": 1.0}, step=1)
    assert current.id is None
    monkeypatch.setattr(store, "refuse_unusable", reachable)
    tracking.synchronise(place, None)
    (entry,) = found()
    assert entry.data.tags[tracking.PARENT] == "0" * 32
    assert steps(entry.info.run_id) == [1]
    assert entry.info.status == "FINISHED"


# --- nothing twice ----------------------------------------------------------------------------------------------------


def told(place: Path, two_classes: Path) -> str:
    """Log one of everything; gives the run's id."""
    saved_run(place, two_classes)
    (place / "figures").mkdir()
    Image.new("RGB", (8, 8)).save(place / "figures" / "predictions.png")
    with tracking.start(**SETTINGS, directory=place) as current:
        current.parameters({"seed": 0})
        current.dataset(pd.DataFrame({"label": ["a", "b"]}), "d1gest", "folder")
        for step in range(1, 6):
            current.metrics({"loss": 1 / step}, step=step)
        current.metrics({"test_accuracy": 0.5})
        current.note("text")
        current.figures(place / "figures")
        current.model(place / "model", next(two_classes.glob("*/*.jpg")))
    assert current.id is not None
    return current.id


def everything(run_id: str, at: mlflow.MlflowClient | None = None) -> dict[str, Any]:
    asked = at or client()
    entry = asked.get_run(run_id)
    pictures = [item.path for item in asked.list_artifacts(run_id, "images")]
    models = asked.search_logged_models([entry.info.experiment_id])
    return {
        "points": {key: [(p.step, p.timestamp, p.value) for p in asked.get_metric_history(run_id, key)]
                   for key in entry.data.metrics},
        "parameters": entry.data.params,
        "pictures": len(pictures),
        "models": [str(model.status) for model in models if model.source_run_id == run_id],
        "datasets": [item.dataset.digest for item in entry.inputs.dataset_inputs],
        "status": entry.info.status,
        "end": entry.info.end_time,
    }  # fmt: skip


def test_what_is_sent_twice_is_there_once(place: Path, two_classes: Path) -> None:
    run_id = told(place, two_classes)
    before = everything(run_id)
    assert before["models"] == ["READY"]
    assert before["datasets"] == ["d1gest"]
    assert before["pictures"] == 2  # the picture and its thumbnail
    assert [point[0] for point in before["points"]["loss"]] == [1, 2, 3, 4, 5]
    lines = [line for line in (place / FILE).read_text().splitlines() if '"sent"' not in line]
    (place / FILE).write_text("\n".join(lines) + "\n")  # as if the process had died before each note
    (place / "mlflow_run_id.txt").unlink()
    assert tracking.synchronise(place, None) == len(lines)
    assert tracking.run_id(place) == run_id
    assert everything(run_id) == before
    assert len(found()) == 1


@pytest.mark.slow
def test_another_store_is_told_everything(place: Path, two_classes: Path, tmp_path: Path) -> None:
    run_id = told(place, two_classes)
    before = everything(run_id)
    uri = f"sqlite:///{tmp_path / 'other.db'}"
    tracking.synchronise(place, uri)
    other = mlflow.MlflowClient(uri)
    (entry,) = found(other)
    assert entry.info.run_id == tracking.run_id(place) != run_id
    assert everything(entry.info.run_id, other) == before


def test_a_run_without_tracking_can_be_sent_later(place: Path, tmp_path: Path) -> None:
    with tracking.start(**{**SETTINGS, "enabled": False}, directory=place) as current:
        current.metrics({"loss": 1.0}, step=1)
    sync.synchronise([place], None)
    (entry,) = found()
    assert (entry.info.run_name, entry.info.status, steps(entry.info.run_id)) == ("n", "FINISHED", [1])


def test_a_killed_run_is_sent_as_killed_and_resumed_in_the_same_run(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    code = (
        "import os\nfrom pathlib import Path\nfrom hairline import tracking\n"
        f"with tracking.start(**{SETTINGS!r}, directory=Path({str(place)!r})) as current:\n"
        "    current.metrics({'loss': 1.0}, step=1)\n    os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    with monkeypatch.context() as elsewhere:
        elsewhere.chdir(tmp_path_factory.mktemp("elsewhere"))
        tracking.synchronise(place, None)  # to the run's own store, wherever it is called
        assert not Path("mlflow.db").exists()
    (entry,) = found()
    assert entry.info.status == "KILLED"
    with tracking.start(**SETTINGS, directory=place) as current:
        current.metrics({"loss": 1.0}, step=1)
        current.metrics({"loss": 0.5}, step=2)
    assert current.id == entry.info.run_id
    assert steps(entry.info.run_id) == [1, 2]
    assert client().get_run(entry.info.run_id).info.status == "FINISHED"


def test_nothing_to_send_is_said(place: Path) -> None:
    with pytest.raises(tracking.TrackingError, match=r"nothing to send; expected a run directory"):
        tracking.synchronise(place, None)
    with files.locked(place), pytest.raises(files.LockedError, match="another process"):
        sync.synchronise([place], None)


# --- a real server ----------------------------------------------------------------------------------------------------


class Server:
    """An `mlflow server` on the loopback address."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self.start()

    def start(self) -> None:
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{self._folder / 'server.db'}",
            "--artifacts-destination", str(self._folder / "artifacts"),
        ]  # fmt: skip
        with (self._folder / "server.log").open("ab") as log_file:
            self._process = subprocess.Popen(command, stdout=log_file, stderr=log_file, start_new_session=True)
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                return
            time.sleep(0.2)
        raise AssertionError((self._folder / "server.log").read_text()[-2000:])

    def signal(self, number: int) -> None:
        os.killpg(self._process.pid, number)
        if number == signal.SIGKILL:
            self._process.wait()

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)
        self._process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    running = Server(tmp_path / "server")
    yield running
    running.stop()


def begun(place: Path, two_classes: Path, uri: str, *more: str) -> subprocess.Popen[str]:
    """Start a training of many short epochs, and wait for its tenth."""
    settings = [*TINY, "features.engine=tensorflow", "data=folder", f"data.path={two_classes}", "epochs=250"]
    settings += ["report.level=light", f"hydra.run.dir={place}", f"tracking.uri={uri}", *more]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *settings], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (place / FILE).is_file() and Journal(place).next_step("loss") > 10:
            return process
        time.sleep(0.05)
    raise AssertionError(process.communicate(timeout=10)[0])


def ended(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert said.count("does not take what is logged") <= 2  # once on the way, once at the end
    return said


def complete(server: Server) -> None:
    (entry,) = found(mlflow.MlflowClient(server.uri), "hairline")
    assert entry.info.status == "FINISHED"
    for key in ("loss", "val_accuracy"):
        assert steps(entry.info.run_id, key, mlflow.MlflowClient(server.uri)) == list(range(1, 251))
    artifacts = {item.path for item in mlflow.MlflowClient(server.uri).list_artifacts(entry.info.run_id)}
    assert {"metrics.json", "history.csv", "config.yaml", "train.log"} <= artifacts


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed for a while", "killed for good", "hanging for a while", "hanging for good"])
def test_a_real_server_that_fails_gets_every_point(how: str, server: Server, two_classes: Path) -> None:
    place = Path("run")
    process = begun(place, two_classes, server.uri)
    hanging, good = how.startswith("hanging"), how.endswith("good")
    server.signal(signal.SIGSTOP if hanging else signal.SIGKILL)
    if not good:
        time.sleep(5)
        server.signal(signal.SIGCONT) if hanging else server.start()
    said = ended(process)
    if hanging:
        server.signal(signal.SIGCONT)
    elif good:
        server.start()
    if good:
        assert "python sync.py run=" in said
    for _ in range(2):
        again = run(f"run={place}", f"tracking.uri={server.uri}", script="sync.py")
        assert again.returncode == 0, again.stdout + again.stderr
        complete(server)


class Broken(http.server.BaseHTTPRequestHandler):
    """Passes requests on to a real server, or answers 500."""

    target, broken = "", False

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, content = 500, b"broken"
        if not self.broken:
            headers = {"Content-Type": self.headers.get("Content-Type") or "application/json"}
            request = urllib.request.Request(
                self.target + self.path, data=body or None, method=self.command, headers=headers
            )
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    status, content = answer.status, answer.read()
            except urllib.error.HTTPError as error:
                status, content = error.code, error.read()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.slow
def test_a_server_that_answers_500_gets_every_point(server: Server, two_classes: Path) -> None:
    handler = type("Handler", (Broken,), {"target": server.uri})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        process = begun(Path("run"), two_classes, f"http://127.0.0.1:{proxy.server_address[1]}")
        handler.broken = True
        said = ended(process)
        assert "python sync.py run=" in said
        proxy.shutdown()
    again = run("run=run", f"tracking.uri={server.uri}", script="sync.py")
    assert again.returncode == 0, again.stdout + again.stderr
    complete(server)


@pytest.mark.slow
def test_required_tracking_ends_a_training_fast(server: Server, two_classes: Path) -> None:
    process = begun(Path("run"), two_classes, server.uri, "tracking.required=true", "epochs=5000")
    server.signal(signal.SIGKILL)
    asked = time.monotonic()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2, said
    assert time.monotonic() - asked < 15
    assert "tracking.required=true stops the run" in said
    assert "Traceback" not in said
