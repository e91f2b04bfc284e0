"""The tracking server or store: its address, whether it answers, and how to open its pages in MLflow's UI."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit
from urllib.request import url2pathname

import filelock

from hairline.system import cache, errors, files, redaction, tensorflow
from hairline.system.errors import HairlineError

PARENT = "mlflow.parentRunId"  # the tag that makes a run the child of another
# Without this tag, MLflow 3 opens an experiment as one of language models, and asks what it is.
_KIND = {"mlflow.experimentKind": "custom_model_development"}

_ADVICE = (
    "\nStart the server, set tracking.uri or MLFLOW_TRACKING_URI to another one, or continue without MLflow: "
    "tracking=none (the run directory holds all results)"
)
_SERVERS = ("http", "https", "databricks", "databricks-uc")
_DATABASES = ("postgresql", "mysql", "mssql")
_CONNECT_SECONDS = 5
_UNREACHABLE = (ConnectionError, TimeoutError, socket.gaierror)
_UI_PORT = 5000  # MLflow's default


class TrackingError(HairlineError):
    """A tracking server or store that cannot be used, or that lacks a run or model."""


def connect(uri: str | None, experiment: str) -> str:
    """Return the id of an experiment, which is created if missing, with its store.

    Args:
        uri: Tracking server or store; see `tracking_uri`.
        experiment: Name of the experiment.

    Raises:
        TrackingError: If the store cannot be used, the experiment was deleted, or its files lie in another project.
    """
    mlflow = mlflow_at(uri)
    target = tracking_uri(uri)
    # Locked: processes that create the same SQLite schema at once crash each other.
    with translated_at(target), locked():
        _create_database(target)
        found = mlflow.get_experiment_by_name(experiment)
        if found is None:
            return str(mlflow.create_experiment(experiment, artifact_location=_artifact_location(target), tags=_KIND))
    if fault := _place_fault(target, found.artifact_location):
        raise TrackingError(
            f"the MLflow experiment {experiment!r} in {redaction.setting(target)} keeps its files in {fault}. Use "
            f"another one, whose files lie beside the store: {shlex.quote(f'tracking.experiment={experiment}-2')}"
        )
    if found.lifecycle_stage != "active":
        raise TrackingError(
            f"the MLflow experiment {experiment!r} was deleted: restore it (mlflow experiments restore "
            f"--experiment-id {found.experiment_id}) or choose another name with tracking.experiment=..."
        )
    return str(found.experiment_id)


def tracking_uri(uri: str | None) -> str:
    """Return the tracking URI: `uri`, else `MLFLOW_TRACKING_URI`, else `mlflow.db` in the working directory.

    The environment also replaces an address that was saved without its password. The path of a SQLite file is absolute:
    the working directory may be another one when the address is used again.
    """
    target = None if uri is None or redaction.HIDDEN in uri else uri
    target = target or os.environ.get("MLFLOW_TRACKING_URI") or uri or default_uri()
    if (file := _database(target)) is not None:
        _, mark, options = target.partition("?")
        target = f"{sqlite_address(file)}{mark}{options}"
    redaction.learn(target)
    return target


def default_uri() -> str:
    """Return the address of `mlflow.db` in the working directory."""
    return sqlite_address(Path.cwd() / "mlflow.db")


def sqlite_address(path: Path) -> str:
    """Return the address of a SQLite file."""
    # SQLAlchemy decodes the path. Only what it would take for something else is encoded: the address stays readable.
    return f"sqlite:///{path.as_posix().replace('%', '%25').replace('?', '%3F')}"


def _database(target: str) -> Path | None:
    """Return the file of a SQLite store; None for other stores and for one in memory."""
    path = target.partition("?")[0].removeprefix("sqlite:///")
    return Path(unquote(path)).absolute() if target.startswith("sqlite:///") and path and path != ":memory:" else None


def followed(target: str, directory: str, now: Path) -> str:
    """Return the store of a run, in its own project if that was moved or copied.

    Args:
        target: The store when the run was started.
        directory: The run directory at that time; empty if unknown.
        now: The run directory now.
    """
    file = _database(target)
    place = None if file is None else files.followed(str(file.parent), directory, now)
    moved = None if file is None or place is None else Path(place) / file.name
    return sqlite_address(moved) if moved is not None and moved.is_file() else target


def is_missing(target: str) -> bool:
    """Return whether a store is a SQLite file that does not exist."""
    file = _database(target)
    return file is not None and not file.is_file()


def _create_database(target: str) -> None:
    """Create the file of a SQLite store with all its tables, in one step.

    MLflow creates one table after the other, for seconds; a file left half done by a kill could never be opened again.
    """
    file = _database(target)
    if file is None or (file.exists() and file.stat().st_size):
        return
    load_mlflow()
    from mlflow.store.tracking import sqlalchemy_store

    with tempfile.TemporaryDirectory() as folder:
        created = Path(folder, file.name)
        artifacts = (file.parent / "mlruns").as_uri()
        store: Any = sqlalchemy_store.SqlAlchemyStore(sqlite_address(created), artifacts)  # type: ignore[no-untyped-call]
        store.engine.dispose()
        if not file.exists() or not file.stat().st_size:  # a process with another cache uses another lock
            files.write_bytes(file, created.read_bytes())


def _artifact_location(target: str) -> str | None:
    """Return an absolute folder for artifacts, beside the SQLite file; None for a server, which has its own.

    MLflow's default is relative to the working directory of the process that creates the experiment.
    """
    if urlsplit(target).scheme in _SERVERS:
        return None
    file = _database(target)
    place = (Path.cwd() if file is None else file.parent) / "mlruns" / "artifacts"
    place.mkdir(parents=True, exist_ok=True)  # a missing one was moved, see `_place_fault`
    return place.as_uri()


def _place_fault(target: str, location: str) -> str | None:
    """Return the place of an experiment's files and why it must not be used; None if it may be.

    The place is absolute, so in a copy of a project folder it is still the original's.

    Args:
        target: Server or store.
        location: The experiment's `artifact_location`.
    """
    parts = urlsplit(location)
    if urlsplit(target).scheme in _SERVERS or (parts.scheme != "file" and len(parts.scheme) > 1):
        return None  # the server or a cloud keeps the files; one letter is a drive of Windows
    place = Path(url2pathname(parts.path) if parts.scheme == "file" else location).absolute()
    file = _database(target)
    if file is not None and place.resolve().is_relative_to(file.parent.resolve()):
        return None
    if not place.exists():
        return f"{place}, which does not exist: the project folder was moved, or this is another machine"
    others = [] if file is None else [folder / file.name for folder in place.parents]
    other = next((other for other in others if other.is_file() and not other.samefile(file or "")), None)
    return None if other is None else f"{place}, which belongs to {other}: this project folder is a copy"


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Run a block that only one process of this machine may run at a time."""
    with files.waiting(filelock.FileLock(cache.folder() / "tracking.lock"), "opens an MLflow store", timeout=120):
        yield


def runs_page(experiment_id: str) -> str:
    """Return the page of an experiment's runs, relative to the server's address."""
    # Without `workflowType`, MLflow 3 opens a page about traces of language models.
    return f"#/experiments/{experiment_id}/runs?workflowType=machine_learning"


def curves_page(experiment_id: str, parent: str | None) -> str:
    """Return the page that overlays the curves of a parent's children, best first."""
    children = quote(f"tags.`{PARENT}` = '{parent}'")
    # Ordered by time, the default, MLflow hides children behind their parent.
    order = f"orderByKey={quote('metrics.`final_val_loss`')}&orderByAsc=true"
    return f"{runs_page(experiment_id)}&compareRunsMode=CHART&searchFilter={children}&{order}"


def ui_hints(uri: str | None, page: str) -> list[str]:
    """Return how to open a page of MLflow's UI: the command that starts a local server, if needed, and the address.

    The command works from any folder, serves MLflow with the pages for model training first (`tracking.ui`), and names
    another port where 5000 is taken.
    """
    target = redaction.setting(tracking_uri(uri))
    if target.startswith("http"):
        return [f"{target.rstrip('/')}/{page}"]
    port = _free_port()
    # One worker instead of four starts in half the time.
    command = f"mlflow ui --app-name hairline --workers 1 --backend-store-uri {shlex.quote(target)}"
    if port != _UI_PORT:
        command += f" --port {port}"
    return [command, f"http://127.0.0.1:{port}/{page}"]


def _free_port() -> int:
    """Return the first port that is free from 5000, MLflow's default, to 5009; 5000 if none is."""
    for port in range(_UI_PORT, _UI_PORT + 10):
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                tried.bind(("127.0.0.1", port))
                return port
    return _UI_PORT


def check(target: str) -> None:
    """Check that an address has its password, and within seconds that a database accepts connections.

    Servers are tried by MLflow's first request: a proxy may be the only way to them.

    Raises:
        TrackingError: If not.
    """
    if redaction.HIDDEN in target:
        raise TrackingError(
            f"the password in the tracking address {target} was redacted when it was saved: pass it again, with "
            "tracking.uri=... or MLFLOW_TRACKING_URI"
        )
    if _database(target) is None and urlsplit(target).scheme.partition("+")[0] in _DATABASES:
        _open_database(target)


def _open_database(target: str) -> None:
    """Connect to a database once: MLflow would retry for an hour.

    Raises:
        TrackingError: If that fails.
    """
    load_mlflow()
    from mlflow.store.db.utils import create_sqlalchemy_engine
    from sqlalchemy.engine import make_url

    with translated(f"the tracking server {redaction.setting(target)} does not answer", _ADVICE):
        url = make_url(target)
        if not url.drivername.startswith("mssql") and "connect_timeout" not in url.query:
            url = url.update_query_dict({"connect_timeout": str(_CONNECT_SECONDS)})
        engine: Any = create_sqlalchemy_engine(url.render_as_string(hide_password=False))  # type: ignore[no-untyped-call]
        try:
            engine.connect().close()
        finally:
            engine.dispose()


@contextlib.contextmanager
def translated(message: str, advice: str = "") -> Iterator[None]:
    """Raise `TrackingError` for the errors of MLflow, SQLAlchemy and requests, which have no common base class.

    Args:
        message: Start of the error's text; the first line of the cause follows.
        advice: End of the text.

    Raises:
        TrackingError: For any exception, except a `HairlineError` and faults of the machine such as a full disk.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, HairlineError) or errors.explained(error) is not None:
            raise
        raise TrackingError(f"{message}: {reason(error)}{advice}") from error


@contextlib.contextmanager
def translated_at(target: str) -> Iterator[None]:
    """Raise `TrackingError` for any failure of a server or store, with advice; see `translated`."""
    try:
        with translated(f"the tracking store {redaction.setting(target)} cannot be used", _ADVICE):
            yield
    except TrackingError as error:
        if error.__cause__ is None or not isinstance(_first_cause(error), _UNREACHABLE):
            raise
        raise TrackingError(
            f"the tracking server {redaction.setting(target)} does not answer: {_first_cause(error)}{_ADVICE}"
        ) from error.__cause__


def _first_cause(error: BaseException) -> BaseException:
    *_, first = errors.causes(error)
    return first


def reason(error: Exception) -> str:
    """Return the first line of an error's message without secrets; of a failed connection the first cause's."""
    cause = _first_cause(error)
    text = str(cause if isinstance(cause, _UNREACHABLE) else error)
    return redaction.redacted((text.strip().splitlines() or ["no reason given"])[0])


def client(uri: str | None) -> Any:
    """Return a client of a server or store; any thread may use it."""
    return load_mlflow().MlflowClient(tracking_uri=tracking_uri(uri))


def exists(uri: str | None, run_id: str) -> bool:
    """Return whether a store has a run that was not deleted, with files that lie in no other project."""
    try:
        info = client(uri).get_run(run_id).info
        location = client(uri).get_experiment(info.experiment_id).artifact_location
        return str(info.lifecycle_stage) == "active" and _place_fault(tracking_uri(uri), location) is None
    except load_mlflow().MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST" and "invalid run id" not in str(error).lower():
            raise
        return False


def mlflow_at(uri: str | None) -> Any:
    """Return MLflow with a store that answers as its global one; the environment variable stays as it is.

    MLflow would set `MLFLOW_TRACKING_URI` too, and override the settings of a sweep's next job.

    Raises:
        TrackingError: If a database does not answer, within seconds.
    """
    target = tracking_uri(uri)
    check(target)
    mlflow = load_mlflow()
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(target)
    if before is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    return mlflow


def load_mlflow() -> Any:
    """Import MLflow, with defaults for the environment variables that the user has not set."""
    defaults = {
        "MLFLOW_DISABLE_TELEMETRY": "true",  # runs are the user's own business
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # MLflow's 7 retries of 2 minutes would block a training
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # the run's last lines give the address
        "GIT_PYTHON_REFRESH": "quiet",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    # A failing store is reported by `translated`; MLflow logs the traceback of every statement.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    with contextlib.nullcontext() if "mlflow" in sys.modules else tensorflow.uncollected():
        import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow
