"""MLflow: the run directory's mirror. The only module, with `registry` and the served model, that imports it."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import socket
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit, urlunsplit

import filelock

from hairline import cache

if TYPE_CHECKING:
    import pandas as pd

    from hairline.model.bundle import Bundle

log = logging.getLogger(__name__)

_DEFAULT_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
_CONNECT_SECONDS = 5.0
_RUN_ID = "mlflow_run_id.txt"
PARENT = "mlflow.parentRunId"  # the tag that makes a run the child of another
_PARAMETER_CHARACTERS = 6000  # MLflow's limit; the whole configuration is logged as an artifact as well

_datasets: dict[tuple[str, str], Any] = {}  # the last one that was logged, by digest and name


class TrackingError(ValueError):
    """A tracking server or store that cannot be used."""


class Run:
    """One MLflow run, or nothing at all where tracking is off: every call is then ignored.

    Attributes:
        id: The MLflow run id; None where tracking is off.
    """

    def __init__(self, run_id: str | None, experiment_id: str = "") -> None:
        """Wrap the active MLflow run `run_id`."""
        self.id = run_id
        self._experiment_id = experiment_id
        self._last_step = -1 if run_id is None else _last_step(run_id)
        earlier = None
        if run_id is not None:
            with contextlib.suppress(_mlflow().MlflowException):  # a run that is named for its address alone
                earlier = _mlflow().get_run(run_id).data
        self._known: dict[str, float] = {} if earlier is None else dict(earlier.metrics)
        self._parameters: set[str] = set() if earlier is None else set(earlier.params)

    def parameters(self, values: dict[str, Any]) -> None:
        """Log flat parameters; a run that is resumed keeps those it has, as MLflow refuses other values."""
        if self.id is not None:
            told = {key: str(value)[:_PARAMETER_CHARACTERS] for key, value in values.items()}
            _mlflow().log_params({key: value for key, value in told.items() if key not in self._parameters})

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        """Log numbers; what is not a number (NaN) is left out, and so are steps logged before a run was resumed."""
        if self.id is not None and (step is None or step > self._last_step):
            told = {key: value for key, value in values.items() if value == value}
            if step is None:  # a run that is resumed comes to the same results: no second point
                told = {key: value for key, value in told.items() if self._known.get(key) != value}
            _mlflow().log_metrics(told, step=step)

    def tags(self, values: dict[str, str]) -> None:
        """Set tags."""
        if self.id is not None:
            _mlflow().set_tags(values)

    def note(self, text: str) -> None:
        """Set the description that MLflow shows on top of the run's page (Markdown)."""
        self.tags({"mlflow.note.content": text})

    def how_to_see(self, uri: str | None) -> list[str]:
        """Say how to look at the runs: a command and an address."""
        return how_to_see(uri, runs_page(self._experiment_id))

    def dataset(self, manifest: pd.DataFrame, digest: str, name: str) -> None:
        """Log the manifest as the data the run was trained on."""
        if self.id is not None:
            if (digest, name) not in _datasets:  # describing 12,000 rows takes half a second: once for a sweep's jobs
                table = manifest[["label", "group", "split", "sha256"]].reset_index(drop=True)
                _datasets.clear()
                _datasets[digest, name] = _mlflow().data.from_pandas(table, name=name, targets="label", digest=digest)
            _mlflow().log_input(_datasets[digest, name], context="training")

    def evaluation(
        self, values: dict[str, float], model_id: str | None, manifest: pd.DataFrame, digest: str, name: str
    ) -> None:
        """Log what a model measured on a data set, tied to both.

        Args:
            values: Flat metrics; what is not a number (NaN) is left out.
            model_id: The model as MLflow knows it; None: it does not.
            manifest: The images.
            digest: Of the manifest.
            name: Of the data set.
        """
        if self.id is None:
            return
        mlflow = _mlflow()
        table = manifest[["label", "group", "split", "sha256"]].reset_index(drop=True)
        dataset = mlflow.data.from_pandas(table, name=name, targets="label", digest=digest)
        mlflow.log_input(dataset, context="evaluation")
        told = {metric_name(key): value for key, value in values.items() if value == value}
        mlflow.log_metrics(told, dataset=dataset, model_id=model_id)

    def artifacts(self, path: Path, folder: str | None = None) -> None:
        """Log a file, or a folder with all it holds."""
        if self.id is None:
            return
        if path.is_dir():
            _mlflow().log_artifacts(str(path), folder)
        else:
            _mlflow().log_artifact(str(path), folder)

    def figures(self, folder: Path) -> None:
        """Log a folder of PNG files, and those of the predictions so that MLflow shows runs' side by side."""
        self.artifacts(folder, folder.name)
        if self.id is not None:
            from PIL import Image

            for name in ("confusion_matrix", "predictions"):
                if (folder / f"{name}.png").is_file():
                    with Image.open(folder / f"{name}.png") as picture:
                        _mlflow().log_image(picture, key=name, step=0)

    def model(self, folder: Path, bundle: Bundle, example: bytes) -> None:
        """Log the saved model as a pyfunc that eats encoded images.

        Args:
            folder: The saved model.
            bundle: Its description.
            example: An encoded image, kept as the input example.
        """
        if self.id is None:
            return
        mlflow = _mlflow()
        import pandas as pd
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, DataType, Schema

        doubles = ["probability", "threshold", *(f"prob_{name}" for name in bundle.class_names)]
        outputs = [ColSpec(DataType.string, "label"), *(ColSpec(DataType.double, name) for name in doubles)]
        package = Path(__file__).parent
        mlflow.pyfunc.log_model(
            name="model",
            python_model=str(package / "serving.py"),  # models from code: nothing is pickled
            artifacts={"model": str(folder)},
            code_paths=[str(package)],
            signature=ModelSignature(Schema([ColSpec(DataType.binary, "image")]), Schema(outputs)),
            input_example=pd.DataFrame({"image": [example]}),
            # Given, as inferring them loads the model in a process of its own (10 s).
            pip_requirements=requirements(bundle),
        )


def metric_name(name: str) -> str:
    """Give a name that MLflow takes for a metric: class names may hold anything.

    >>> metric_name("test_recall_rust & spalls")
    'test_recall_rust _ spalls'
    """
    return re.sub(r"[^/\w.\- :]", "_", name)[:250]


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


def how_to_see(uri: str | None, page: str) -> list[str]:
    """Say how to look at a page: a command, where no server runs yet, and an address."""
    target = store(uri)
    if target.startswith("http"):
        return [f"{redacted(target).rstrip('/')}/{page}"]
    command = "mlflow ui" if target == _default_store() else f"mlflow ui --backend-store-uri {redacted(target)}"
    return [command, f"http://127.0.0.1:5000/{page}"]


def requirements(bundle: Bundle) -> list[str]:
    """Give the pinned packages that a served model needs."""
    return [f"{name}=={version}" for name, version in bundle.versions.items() if name not in ("python", "hairline")]


@contextlib.contextmanager
def start(
    *,
    enabled: bool,
    uri: str | None,
    experiment: str,
    system_metrics: bool,
    name: str,
    tags: dict[str, str],
    directory: Path,
) -> Iterator[Run]:
    """Run a block as one MLflow run: FINISHED at its end, FAILED with the traceback or KILLED otherwise.

    Args:
        enabled: Whether anything is logged at all.
        uri: Tracking server or store; `MLFLOW_TRACKING_URI` wins; None for `mlflow.db` in the working directory.
        experiment: Name of the experiment; made where it is missing.
        system_metrics: Whether CPU, memory and GPU are sampled.
        name: Of the run.
        tags: Of the run.
        directory: The run directory: the MLflow run's id is kept there, and a run that is resumed goes on in it.

    Raises:
        TrackingError: If the server or store cannot be used, within seconds.
    """
    if not enabled:
        yield Run(None)
        return
    experiment_id = connect(uri, experiment)
    mlflow = _mlflow()
    sampled = system_metrics and importlib.util.find_spec("psutil") is not None
    known = directory / _RUN_ID
    earlier = run_id(directory)
    if earlier is not None and _exists(uri, earlier):
        mlflow.start_run(run_id=earlier, log_system_metrics=sampled)
    else:
        mlflow.start_run(experiment_id=experiment_id, run_name=name, tags=tags, log_system_metrics=sampled)
    status = "FAILED"
    try:
        current = mlflow.active_run().info.run_id
        known.write_text(current + "\n", encoding="utf-8")
        yield Run(current, experiment_id)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except Exception:
        mlflow.log_text(traceback.format_exc(), "traceback.txt")
        raise
    finally:
        for path in sorted(directory.glob("*.log")):
            mlflow.log_artifact(str(path))
        with _silent_stdout():
            mlflow.end_run(status)


# --- the parent run of a sweep: no process holds it open, any of the sweep's processes writes to it -------------------


def open_parent(
    uri: str | None, experiment_id: str, *, name: str, run_id: str | None, tags: dict[str, str], values: dict[str, str]
) -> str:
    """Make the parent run of a sweep, or open it again.

    Args:
        uri: Tracking server or store, as for `connect`, which comes first.
        experiment_id: Of MLflow.
        name: Of the run.
        run_id: Of the run that an earlier start made.
        tags: Of the run.
        values: Its parameters: what is swept.

    Returns:
        The run's id.
    """
    client = _client(uri)
    if run_id is None or not _exists(uri, run_id):
        run_id = str(client.create_run(experiment_id, run_name=name, tags=tags).info.run_id)
    client.update_run(run_id, status="RUNNING")
    known = client.get_run(run_id).data.params
    for key, value in values.items():
        if key not in known:  # MLflow refuses another value
            client.log_param(run_id, key, value[:_PARAMETER_CHARACTERS])
    return run_id


def update(
    uri: str | None,
    run_id: str | None,
    *,
    metrics: dict[str, float],
    step: int,
    tags: dict[str, str],
    files: list[Path],
) -> None:
    """Write to a run that no process holds open."""
    if run_id is None:
        return
    from mlflow.entities import Metric, RunTag

    client = _client(uri)
    now = int(time.time() * 1000)
    client.log_batch(
        run_id,
        metrics=[Metric(key, value, now, step) for key, value in metrics.items() if value == value],
        tags=[RunTag(key, value) for key, value in tags.items()],
    )
    for path in files:
        client.log_artifact(run_id, str(path))


def terminate(uri: str | None, run_id: str | None, status: str) -> None:
    """End a run that no process holds open, unless it has ended.

    Args:
        uri: Tracking server or store.
        run_id: Of the run; None: nothing is done.
        status: finished, failed or interrupted.
    """
    if run_id is None or not _exists(uri, run_id):
        return
    client = _client(uri)
    if client.get_run(run_id).info.status == "RUNNING":
        client.set_terminated(run_id, {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}[status])


@contextlib.contextmanager
def same_end(uri: str | None, run_id: str | None) -> Iterator[None]:
    """Leave the time a run ended as it was, though the block goes on with the run."""
    end = None if run_id is None else _client(uri).get_run(run_id).info.end_time
    yield
    if run_id is not None:
        _client(uri).set_terminated(run_id, "FINISHED", end)


def discard_children(uri: str | None, experiment_id: str, parent: str | None, kept: set[str | None]) -> None:
    """Delete children that were begun by a process which died before it could note them: they hold nothing."""
    if parent is None:
        return
    client = _client(uri)
    asked = f"tags.`{PARENT}` = '{parent}' and attributes.status = 'RUNNING'"
    for run in client.search_runs([experiment_id], asked):
        if run.info.run_id not in kept:
            client.delete_run(run.info.run_id)


def record_failure(error: Exception, **settings: Any) -> None:
    """Leave a run for what failed before it could begin one: FAILED, with the traceback.

    Args:
        error: What went wrong.
        settings: Keyword arguments of `start`.
    """
    with contextlib.suppress(type(error)), start(**settings):
        raise error


def run_id(directory: Path) -> str | None:
    """Give the id of the MLflow run that mirrors a run directory; None where none does."""
    try:
        return (directory / _RUN_ID).read_text(encoding="utf-8").strip()
    except OSError:
        return None


def begun(directory: Path) -> int:
    """Give a number that changes each time `start` begins or continues the MLflow run of a run directory."""
    path = directory / _RUN_ID
    return path.stat().st_mtime_ns if path.is_file() else 0


def _client(uri: str | None) -> Any:
    _point_at(store(uri))
    return _mlflow().MlflowClient()


def _exists(uri: str | None, run_id: str) -> bool:
    try:
        _client(uri).get_run(run_id)
    except _mlflow().MlflowException:  # another store, or a run that was deleted for good: a new one is made
        return False
    return True


def _last_step(run_id: str) -> int:
    points = _mlflow().MlflowClient().get_metric_history(run_id, "loss")
    return max((point.step for point in points), default=-1)


def connect(uri: str | None, experiment: str) -> str:
    """Point MLflow at the store and make the experiment where it is missing.

    Returns:
        The experiment's id.

    Raises:
        TrackingError: If the store cannot be used.
    """
    target = store(uri)
    _refuse_unreachable(target)
    # MLflow's own patience, seven tries of two minutes, would hold up a training for a quarter of an hour.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    mlflow = _point_at(target)
    try:
        # Several processes that make the same SQLite schema at once crash each other.
        with filelock.FileLock(cache.folder() / "tracking.lock", timeout=120):
            found = mlflow.get_experiment_by_name(experiment)
            if found is None:
                return str(mlflow.create_experiment(experiment, artifact_location=_artifact_location(target)))
    except Exception as error:  # SQLAlchemy's, requests' and MLflow's own have no common ancestor
        raise TrackingError(
            f"the tracking store {redacted(target)} cannot be used: {redacted_text(str(error), target)}\n{_WITHOUT}"
        ) from error
    if found.lifecycle_stage != "active":
        raise TrackingError(
            f"the MLflow experiment {experiment!r} was deleted: restore it (mlflow experiments restore "
            f"--experiment-id {found.experiment_id}) or choose another name with tracking.experiment=..."
        )
    return str(found.experiment_id)


_WITHOUT = (
    "Start the server, set tracking.uri or MLFLOW_TRACKING_URI to another one, or go on without MLflow: tracking=none "
    "(the run directory holds all results)"
)


def store(uri: str | None) -> str:
    """Give the tracking URI: the environment's, else the configured one, else a file in the working directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or uri or _default_store()


def _default_store() -> str:
    return f"sqlite:///{(Path.cwd() / 'mlflow.db').as_posix()}"


def redacted(uri: str) -> str:
    """Give a URI without the password it may hold.

    >>> redacted("https://me:secret@host:5000/x")
    'https://***@host:5000/x'
    """
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc="***@" + parts.netloc.rpartition("@")[2]))


def redacted_text(text: str, uri: str) -> str:
    """Give the first line of a message without the password of `uri`."""
    password = urlsplit(uri).password
    line = text.strip().splitlines()[0] if text.strip() else "no reason given"
    return line.replace(uri, redacted(uri)).replace(password, "***") if password else line


def download_model(run: str, uri: str | None = None) -> Path:
    """Fetch the saved model of an MLflow run id or `models:/` URI.

    Args:
        run: The id or URI.
        uri: Tracking server or store; `MLFLOW_TRACKING_URI` wins; None for `mlflow.db` in the working directory.

    Raises:
        TrackingError: If there is none.
    """
    mlflow = opened(uri)
    target = store(uri)
    address = run if run.startswith(("models:/", "runs:/")) else f"runs:/{run}/model"
    try:
        folder = Path(mlflow.artifacts.download_artifacts(address, dst_path=tempfile.mkdtemp(prefix="hairline-")))
    except Exception as error:
        raise TrackingError(
            f"run={run}: no model under {address} in {redacted(target)}: {redacted_text(str(error), target)}"
        ) from error
    return folder / "artifacts" / "model"


def logged_model(run: str, folder: Path) -> str | None:
    """Give the id under which MLflow knows the model of a run directory, run or `models:/` URI; None: it does not.

    Args:
        run: As the user named it.
        folder: The saved model that was found there.
    """
    mlflow = _mlflow()
    known = folder.parent / _RUN_ID
    run_id = known.read_text(encoding="utf-8").strip() if known.is_file() else run
    try:
        if run.startswith("models:/"):
            return str(mlflow.models.get_model_info(run).model_id)
        outputs = mlflow.MlflowClient().get_run(run_id).outputs
    except mlflow.MlflowException:  # another store, or none
        return None
    return str(outputs.model_outputs[0].model_id) if outputs and outputs.model_outputs else None


def fetch_runs(uri: str | None, experiment: str | None, run_ids: list[str], folder: Path) -> dict[str, Path]:
    """Fetch tables and settings of finished runs, without figures and models.

    Args:
        uri: Tracking server or store; see `store`.
        experiment: Name of the experiment whose finished runs are wanted; None: only those in `run_ids`.
        run_ids: Single runs.
        folder: Where a folder a run is made.

    Returns:
        The folder of each run, by the run's name; runs of the same name get part of their id behind it.

    Raises:
        TrackingError: If there is no such experiment or run.
    """
    target = store(uri)
    _refuse_unreachable(target)
    mlflow = _point_at(target)
    client = mlflow.MlflowClient()
    try:
        runs = [client.get_run(run_id) for run_id in run_ids]
        if experiment is not None:
            found = client.get_experiment_by_name(experiment)
            if found is None:
                names = ", ".join(sorted(entry.name for entry in client.search_experiments()))
                raise TrackingError(
                    f"mlflow_experiment={experiment}: none of that name in {redacted(target)}; it has {names}"
                )
            runs += client.search_runs([found.experiment_id], "attributes.status = 'FINISHED'", max_results=500)
        folders: dict[str, Path] = {}
        for run in runs:
            files = {item.path for item in client.list_artifacts(run.info.run_id)}
            # The parent of a sweep has none; an evaluation is of other images than the trainings of its experiment.
            evaluation = "evaluation.json" in files and run.info.run_id not in run_ids
            if "predictions.csv" not in files or evaluation:
                continue
            place = folder / run.info.run_id
            place.mkdir(parents=True)
            for name in files & {"predictions.csv", "metrics.json", "manifest.csv", "config.yaml", "evaluation.json"}:
                client.download_artifacts(run.info.run_id, name, str(place))
            twice = run.info.run_name in folders
            folders[f"{run.info.run_name} {run.info.run_id[:6]}" if twice else run.info.run_name] = place
    except mlflow.MlflowException as error:
        raise TrackingError(f"runs cannot be fetched from {redacted(target)}: {error.message}") from error
    return folders


def opened(uri: str | None) -> Any:
    """Give MLflow, pointed at a store that answers.

    Raises:
        TrackingError: If it does not, within seconds.
    """
    target = store(uri)
    _refuse_unreachable(target)
    return _point_at(target)


def _refuse_unreachable(uri: str) -> None:
    parts = urlsplit(uri)
    if not parts.hostname:
        return
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme.partition("+")[0], 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise TrackingError(f"the tracking server {redacted(uri)} does not answer: {error}\n{_WITHOUT}") from error


def _artifact_location(uri: str) -> str | None:
    """Give an absolute place for artifacts; a server chooses its own."""
    scheme = urlsplit(uri).scheme
    if scheme in ("http", "https", "databricks"):
        return None
    # Beside the SQLite file; MLflow's own default is relative to whatever process comes first.
    base = Path(uri.removeprefix("sqlite:///")).absolute().parent if scheme == "sqlite" else Path.cwd()
    return (base / "mlruns" / "artifacts").as_uri()


def _point_at(uri: str) -> Any:
    """Make `uri` MLflow's store, without the side effect on the environment that the next job of a sweep would see."""
    mlflow = _mlflow()
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    if before is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    return mlflow


def _mlflow() -> Any:
    # Off by default: a framework's runs are nobody's business but the user's.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow


@contextlib.contextmanager
def _silent_stdout() -> Iterator[None]:
    """Keep MLflow's links to the run off the screen; the run's own last lines say where to look."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
