"""Real tracking servers, each started here on this machine alone: every point arrives, and no secret stays behind."""

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

from tests.conftest import ROOT
from tests.running import TINY
from tests.test_secrets import SECRET, found_in

pytestmark = pytest.mark.slow

# Ten places in which somebody may have put one.
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


@contextlib.contextmanager
def running(command: list[str], port: int, log: Path, cwd: Path) -> Iterator[None]:
    """Run a server until it listens, and for the block; it and what it started are ended, by their group's id."""
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True, cwd=cwd)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None, log.read_text(errors="replace")
            time.sleep(0.1)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)


def postgres_program(name: str) -> str:
    """Give the path of one of PostgreSQL's programs; Debian keeps them outside PATH."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = shutil.which(name) or (str(places[-1]) if places else None)
    if found is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql; `make ci` does)")
    return os.path.realpath(found)


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """An empty PostgreSQL in a folder of its own, on this machine alone; gives its address, password included."""
    initialise, serve = postgres_program("initdb"), postgres_program("postgres")
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip('psycopg is not installed: pip install -e ".[postgres]"')
    lowered: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = next((entry for entry in pwd.getpwall() if entry.pw_name in ("postgres", "nobody")), None)
        if user is None or shutil.which("setpriv") is None:
            pytest.skip("no other user than root to run PostgreSQL as")
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
        command = [*lowered, serve, "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", str(place)]
        with running(command, port, place / "log", place):
            yield f"postgresql://me:{SECRET}-10@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def store(kind: str, postgres_address: str | None, place: Path) -> Iterator[str]:
    """Give a store's address: PostgreSQL itself, or MLflow's server in front of it or of SQLite."""
    if kind == "PostgreSQL":
        assert postgres_address is not None
        yield postgres_address
        return
    port = free_port()
    behind = postgres_address or f"sqlite:///{place / 'server.db'}"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", behind, "--artifacts-destination", str(place / "artifacts")),
    ]
    with running(command, port, place / "server.log", place):
        yield f"http://me:{SECRET}-10@127.0.0.1:{port}"


def train(address: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    chosen = [*TINY, "features.engine=tensorflow", f"tracking.uri={address}", *arguments]
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *chosen],
        capture_output=True, timeout=280, env=os.environ | VARIABLES, check=False,
    )  # fmt: skip


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["MLflow server on SQLite", "MLflow server on PostgreSQL", "PostgreSQL"])
def test_every_point_arrives_and_no_secret_stays(
    kind: str, two_classes: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> None:
    address = request.getfixturevalue("postgres") if "PostgreSQL" in kind else None
    behind = tmp_path_factory.mktemp("server")
    with store(kind, address, behind) as uri:
        chosen = ["data=folder", f"data.path={two_classes}", *OVERRIDES]
        good = train(uri, *chosen, f"tracking.experiment='{kind} good'")
        assert good.returncode == 0, good.stdout + good.stderr
        bad = train(uri, *chosen, f"tracking.experiment='{kind} bad'", "optimizer=sgd", "learning_rate=1e38")
        assert bad.returncode == 2, bad.stdout + bad.stderr
        assert b"lower learning_rate" in bad.stdout + bad.stderr
        client = mlflow.MlflowClient(uri)
        for name, status in (("good", "FINISHED"), ("bad", "FAILED")):
            (run,) = client.search_runs([client.get_experiment_by_name(f"{kind} {name}").experiment_id])
            assert run.info.status == status
            files = {item.path for item in client.list_artifacts(run.info.run_id)}
            assert ("traceback.txt" in files) == (name == "bad")
            everything = run.data.to_dictionary() | {"name": run.info.run_name}
            assert SECRET not in str(everything)
            place = Path(client.download_artifacts(run.info.run_id, "", str(tmp_path_factory.mktemp("artifacts"))))
            assert not found_in(place, b"")
            if name == "good":
                written = next(Path("outputs").glob("*/*/history.csv"))
                for key, values in pd.read_csv(written)[["loss", "val_loss", "accuracy", "learning_rate"]].items():
                    points = client.get_metric_history(run.info.run_id, str(key))
                    assert [(point.step, point.value) for point in points] == list(enumerate(values, start=1))
                assert run.outputs.model_outputs
        assert not found_in(Path.cwd(), good.stdout + good.stderr + bad.stdout + bad.stderr)
    kept = [path for path in behind.rglob("*") if path.is_file() and path.name != "server.log"]
    assert (len(kept) > 10) == ("server" in kind)
    assert not [path for path in kept if SECRET.encode() in path.read_bytes()]
