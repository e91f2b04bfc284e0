"""Real tracking servers on this machine, healthy and failing: every point arrives, and no secret stays behind."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from hairline.tracking.journal import FILE, Journal
from tests.conftest import ROOT
from tests.running import TINY, refused, run, started, wait_until
from tests.test_secrets import SECRET, secrets_in
from tests.tracked import runs, steps

pytestmark = pytest.mark.slow

# Ten places that may hold a secret.
VARIABLES = {
    "MLFLOW_TRACKING_TOKEN": f"{SECRET}-1",
    "AWS_SECRET_ACCESS_KEY": f"{SECRET}-2",
    "AZURE_STORAGE_CONNECTION_STRING": f"AccountKey={SECRET}-3",
    "MLFLOW_TRACKING_USERNAME": "me",
    "MLFLOW_TRACKING_PASSWORD": f"{SECRET}-9",
}
OVERRIDES = [
    f"tags.source='https://host/set?X-Goog-Signature={SECRET}-4'",
    f"tags.mirror='s3://key:{SECRET}-5@bucket/set'",
    f"name='trained from https://{SECRET}-6@host/set'",
    f"tracking.registered_model='https://me:{SECRET}-7@host'",
    f"sweep.name='http://me:{SECRET}-8@host'",
]  # the tenth is the store's own address


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class Server:
    """A process that listens on a port of this machine, with what it starts."""

    def __init__(self, command: list[str], port: int, folder: Path) -> None:
        self.port, self._command, self._folder = port, command, folder
        self.start()

    @classmethod
    def mlflow(cls, folder: Path, backend: str | None = None) -> Server:
        """Start MLflow's server on a SQLite file in `folder`, or on another backend."""
        port = free_port()
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
            "--backend-store-uri", backend or f"sqlite:///{folder / 'server.db'}",
            "--artifacts-destination", str(folder / "artifacts"),
        ]  # fmt: skip
        return cls(command, port, folder)

    def start(self) -> None:
        log = self._folder / "server.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, stdout=output, stderr=output, start_new_session=True, cwd=self._folder
            )
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.1)
        self.signal(signal.SIGKILL)
        raise AssertionError(log.read_text(errors="replace")[-2000:])

    def signal(self, number: int) -> None:
        """Signal the whole process group, by its id."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
        if number == signal.SIGKILL:
            self._process.wait()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        self.signal(signal.SIGKILL)


# --- healthy servers --------------------------------------------------------------------------------------------------


def postgres_program(name: str) -> str:
    """Return the path of one of PostgreSQL's programs; Debian keeps them outside PATH."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    path = shutil.which(name) or (str(places[-1]) if places else None)
    if path is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql; `make ci` does)")
    return os.path.realpath(path)


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """An empty PostgreSQL on this machine; yields its address with the password."""
    initialise, serve = postgres_program("initdb"), postgres_program("postgres")
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip('psycopg is not installed: pip install -e ".[postgres]"')
    lowered: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = next((entry for entry in pwd.getpwall() if entry.pw_name in ("postgres", "nobody")), None)
        if user is None or shutil.which("setpriv") is None:
            pytest.skip("there is no other user than root to run PostgreSQL as")
        lowered = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    place, port = Path(tempfile.mkdtemp(prefix="hairline-postgres-")), free_port()
    try:
        (place / "password").write_text(f"{SECRET}-10")
        if lowered:
            for path in (place, place / "password"):
                shutil.chown(path, user.pw_uid, user.pw_gid)
        data = str(place / "data")
        subprocess.run(
            [*lowered, initialise, "-D", data, "-U", "me", "-A", "scram-sha-256", "--pwfile", str(place / "password")],
            check=True, capture_output=True, cwd=place,
        )  # fmt: skip
        with Server([*lowered, serve, "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", str(place)], port, place):
            yield f"postgresql://me:{SECRET}-10@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(place, ignore_errors=True)


def train(address: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    settings = [*TINY, "features.engine=tensorflow", f"tracking.uri={address}", *arguments]
    return run(*settings, environment=VARIABLES, timeout=280)


@pytest.mark.parametrize("kind", ["MLflow server on SQLite", "MLflow server on PostgreSQL", "PostgreSQL"])
def test_every_point_arrives_and_no_secret_stays(
    kind: str, two_classes: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> None:
    address = request.getfixturevalue("postgres") if "PostgreSQL" in kind else None
    behind = tmp_path_factory.mktemp("server")
    with contextlib.ExitStack() as stack:
        uri = address
        if "server" in kind:
            server = stack.enter_context(Server.mlflow(behind, address))
            uri = f"http://me:{SECRET}-10@127.0.0.1:{server.port}"
        common = ["data=folder", f"data.path={two_classes}", *OVERRIDES]
        good = train(uri, *common, f"tracking.experiment='{kind} good'")
        assert good.returncode == 0, good.stdout + good.stderr
        bad = train(uri, *common, f"tracking.experiment='{kind} bad'", "optimizer=sgd", "learning_rate=1e38")
        output = good.stdout + good.stderr + refused(bad, "lower learning_rate")
        client = mlflow.MlflowClient(uri)
        for name, status in (("good", "FINISHED"), ("bad", "FAILED")):
            (entry,) = runs(client, f"{kind} {name}")
            assert entry.info.status == status
            files = {item.path for item in client.list_artifacts(entry.info.run_id)}
            assert ("traceback.txt" in files) == (name == "bad")
            assert SECRET not in str(entry.data.to_dictionary() | {"name": entry.info.run_name})
            place = Path(client.download_artifacts(entry.info.run_id, "", str(tmp_path_factory.mktemp("artifacts"))))
            assert not secrets_in(place)
            if name == "good":
                written = next(Path("outputs").glob("*/*/history.csv"))
                for key, values in pd.read_csv(written)[["loss", "val_loss", "accuracy"]].items():
                    points = client.get_metric_history(entry.info.run_id, f"epoch_{key}")
                    assert [(point.step, point.value) for point in points] == list(enumerate(values, start=1))
                assert entry.outputs.model_outputs
        assert not secrets_in(Path.cwd(), output)
    kept = [path for path in behind.rglob("*") if path.is_file() and path.name != "server.log"]
    assert (len(kept) > 10) == ("server" in kind)
    assert not [path for path in kept if SECRET.encode() in path.read_bytes()]


# --- servers that fail ------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    with Server.mlflow(tmp_path / "server") as running:
        yield running


@contextlib.contextmanager
def training(two_classes: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """Train for many short epochs; the block begins with the tenth."""
    settings = [*TINY, "features.engine=tensorflow", "data=folder", f"data.path={two_classes}", "epochs=250"]
    settings += ["report.level=light", "hydra.run.dir=run", f"tracking.uri=http://127.0.0.1:{port}"]
    journal = Path("run", FILE)
    with started([sys.executable, str(ROOT / "train.py"), *settings], stderr=subprocess.STDOUT) as process:
        wait_until(lambda: journal.is_file() and Journal(Path("run")).next_step("epoch_loss") > 10, process)
        yield process


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert output.count("does not accept data") <= 2  # once during the training, once at its end
    return output


def check_complete(server: Server) -> None:
    """Send the rest, and check that the server has everything."""
    uri = f"http://127.0.0.1:{server.port}"
    sent = run("run=run", f"tracking.uri={uri}", script="sync.py")
    assert sent.returncode == 0, sent.stdout + sent.stderr
    client = mlflow.MlflowClient(uri)
    (entry,) = runs(client, "hairline")
    assert entry.info.status == "FINISHED"
    for key in ("epoch_loss", "epoch_val_accuracy"):
        assert steps(entry.info.run_id, key, client) == list(range(1, 251))
    artifacts = {item.path for item in client.list_artifacts(entry.info.run_id)}
    assert {"metrics.json", "history.csv", "config.yaml", "train.log"} <= artifacts


@pytest.mark.parametrize("permanent", [False, True])
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_server_that_dies_or_hangs_gets_every_point(
    fault: signal.Signals, permanent: bool, server: Server, two_classes: Path
) -> None:
    def repair() -> None:
        server.signal(signal.SIGCONT) if fault == signal.SIGSTOP else server.start()

    with training(two_classes, server.port) as process:
        server.signal(fault)
        if not permanent:
            time.sleep(5)
            repair()
        output = finish(process)
    if permanent:
        assert f"python {ROOT}/sync.py run=" in output
        repair()
    check_complete(server)
    check_complete(server)
