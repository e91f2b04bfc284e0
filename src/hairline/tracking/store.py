"""The tracking server or store: where it is, whether it answers, and how to look at it."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import filelock

from hairline.system import cache, errors, files, redaction, tensorflow
from hairline.system.errors import HairlineError

PARENT = "mlflow.parentRunId"  # the tag that makes a run the child of another

_DEFAULT_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
_CONNECT_SECONDS = 5.0


class TrackingError(HairlineError):
    """A tracking server or store that cannot be used."""


def connect(uri: str | None, experiment: str) -> str:
    """Point MLflow at the store and make the experiment where it is missing.

    Returns:
        The experiment's id.

    Raises:
        TrackingError: If the store cannot be used.
    """
    target = address(uri)
    refuse_unusable(target)
    pointed = point_at(target)
    try:
        # Several processes that make the same SQLite schema at once crash each other.
        with locked():
            _make_file(target)
            found = pointed.get_experiment_by_name(experiment)
            if found is None:
                return str(pointed.create_experiment(experiment, artifact_location=_artifact_location(target)))
    except Exception as error:  # SQLAlchemy's, requests' and MLflow's own have no common ancestor
        if errors.explained(error) is not None:
            raise  # a full disk is no fault of the store's, and told in other words
        raise TrackingError(
            f"the tracking store {redacted(target)} cannot be used: {redacted_text(str(error), target)}\n{WITHOUT}"
        ) from error
    if found.lifecycle_stage != "active":
        raise TrackingError(
            f"the MLflow experiment {experiment!r} was deleted: restore it (mlflow experiments restore "
            f"--experiment-id {found.experiment_id}) or choose another name with tracking.experiment=..."
        )
    return str(found.experiment_id)


WITHOUT = (
    "Start the server, set tracking.uri or MLFLOW_TRACKING_URI to another one, or go on without MLflow: tracking=none "
    "(the run directory holds all results)"
)


def _make_file(uri: str) -> None:
    """Make the file of a SQLite store where there is none, with all its tables, in one step.

    MLflow makes them one after the other, for seconds; killed meanwhile, it leaves a file that it can never open again.
    """
    file = _file(uri)
    if file is None or (file.exists() and file.stat().st_size):
        return
    mlflow()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with tempfile.TemporaryDirectory() as place:
        made = Path(place, file.name)
        SqlAlchemyStore(f"sqlite:///{made.as_posix()}", (file.parent / "mlruns").as_uri()).engine.dispose()
        if not file.exists() or not file.stat().st_size:  # no process with another cache, and lock, was quicker
            with files.atomic(file) as opened:
                opened.write(made.read_bytes())


def _file(uri: str) -> Path | None:
    """Give the file of a SQLite store; None: it is none, or lies in memory."""
    path = uri.partition("?")[0].removeprefix("sqlite:///")
    return Path(path).absolute() if uri.startswith("sqlite:///") and path and path != ":memory:" else None


def address(uri: str | None) -> str:
    """Give the tracking URI: the environment's, else the configured one, else a file in the working directory."""
    target = os.environ.get("MLFLOW_TRACKING_URI") or uri or _default_store()
    redaction.learn(target)
    return target


def _default_store() -> str:
    return f"sqlite:///{(Path.cwd() / 'mlflow.db').as_posix()}"


def redacted(uri: str) -> str:
    """Give a URI without the password it may hold."""
    return redaction.setting(uri)


def redacted_text(text: str, uri: str) -> str:
    """Give the first line of a message without secrets, those of `uri` included."""
    redaction.learn(uri)
    return redaction.redacted((text.strip().splitlines() or ["no reason given"])[0])


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Keep other processes of this machine from what only one may do at a time."""
    with filelock.FileLock(cache.folder() / "tracking.lock", timeout=120):
        yield


def runs_page(experiment_id: str) -> str:
    """Give the page of an experiment's runs, below the server's address."""
    # Without this, MLflow 3 opens a page about language models' traces.
    return f"#/experiments/{experiment_id}/runs?workflowType=machine_learning"


def curves_page(experiment_id: str, parent: str | None) -> str:
    """Give the page that overlays the curves of a parent's children, the best first."""
    chosen = quote(f"tags.`{PARENT}` = '{parent}'")
    # In any order but that of time: in that one, MLflow hides children behind their parent.
    order = f"orderByKey={quote('metrics.`best_val_loss`')}&orderByAsc=true"
    return f"{runs_page(experiment_id)}&compareRunsMode=CHART&searchFilter={chosen}&{order}"


def ui_hints(uri: str | None, page: str) -> list[str]:
    """Say how to look at a page: a command, where no server runs yet, and an address."""
    target = address(uri)
    if target.startswith("http"):
        return [f"{redacted(target).rstrip('/')}/{page}"]
    command = "mlflow ui" if target == _default_store() else f"mlflow ui --backend-store-uri {redacted(target)}"
    return [command, f"http://127.0.0.1:5000/{page}"]


def opened(uri: str | None) -> Any:
    """Give MLflow, pointed at a store that answers.

    Raises:
        TrackingError: If it does not, within seconds.
    """
    target = address(uri)
    refuse_unusable(target)
    return point_at(target)


def refuse_unusable(uri: str) -> None:
    """Refuse an address that lacks the password it was stored without, and one whose server does not answer.

    Raises:
        TrackingError: If it is such an address or server.
    """
    if f"{redaction.HIDDEN}@" in uri:
        raise TrackingError(
            f"the tracking address {uri} was stored without its password: give it again, by tracking.uri=... or "
            "MLFLOW_TRACKING_URI"
        )
    parts = urlsplit(uri)
    if not parts.hostname:
        return
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme.partition("+")[0], 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise TrackingError(f"the tracking server {redacted(uri)} does not answer: {error}\n{WITHOUT}") from error


def client(uri: str | None) -> Any:
    """Give a client of a server or store; it can be used from any thread."""
    return mlflow().MlflowClient(tracking_uri=address(uri))


def exists(uri: str | None, run_id: str) -> bool:
    """Tell whether a store has a run; one of another store, or deleted, it has not."""
    try:
        return str(client(uri).get_run(run_id).info.lifecycle_stage) == "active"
    except mlflow().MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST" and "invalid run id" not in str(error).lower():
            raise
        return False


def _artifact_location(uri: str) -> str | None:
    """Give an absolute place for artifacts; a server chooses its own."""
    scheme = urlsplit(uri).scheme
    if scheme in ("http", "https", "databricks"):
        return None
    # Beside the SQLite file; MLflow's own default is relative to whatever process comes first.
    file = _file(uri)
    base = Path.cwd() if file is None else file.parent
    return (base / "mlruns" / "artifacts").as_uri()


def point_at(uri: str) -> Any:
    """Make `uri` MLflow's store, without the side effect on the environment that the next job of a sweep would see."""
    found = mlflow()
    before = os.environ.get("MLFLOW_TRACKING_URI")
    found.set_tracking_uri(uri)
    if before is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    return found


def mlflow() -> Any:
    """Import MLflow, and set what it reads from the environment unless the user has."""
    # Off by default: a framework's runs are nobody's business but the user's.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # MLflow's own patience, seven tries of two minutes, would hold up a training for a quarter of an hour.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    # Links to the run; the run's own last lines say where to look.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # A store that fails, on a full disk say, is told of in our own words; MLflow prints every statement's traceback.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    with contextlib.nullcontext() if "mlflow" in sys.modules else tensorflow.uncollected():
        import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow
