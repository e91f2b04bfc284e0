"""One run in MLflow: everything it logs goes to the journal in its directory, and from there to the server."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import re
import time
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hairline.config import commands
from hairline.system import redaction
from hairline.tracking import store
from hairline.tracking.delivery import Delivery, sampling
from hairline.tracking.journal import Journal
from hairline.tracking.mirror import Mirror, own_store
from hairline.tracking.store import PARENT, TrackingError

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

_PARAMETER_CHARACTERS = 6000  # MLflow's limit; the whole configuration is logged as an artifact too
LOGS = ("train.log", "evaluate.log")  # of the scripts that start runs
_NAME_CHARACTERS = 250  # MLflow's limit
_NAME = "mlflow.runName"  # tag; MLflow renames the run with it
_TRIES = 3  # to start a run: writing to a SQLite file times out where many processes do


class Run:
    """What a run logs."""

    def __init__(self, journal: Journal, delivery: Delivery | None = None) -> None:
        """Log to a journal, and with a delivery to MLflow as well."""
        self._journal, self._delivery = journal, delivery

    @property
    def id(self) -> str | None:
        """The MLflow run id; None if there is none."""
        return None if self._delivery is None else self._delivery.mirror.run_id

    def parameters(self, values: dict[str, Any]) -> None:
        """Log flat parameters; a resumed run keeps its earlier values, as MLflow rejects changes."""
        names = metric_names(values)  # keys of data.class_map are patterns of any characters
        texts = {names[key]: redaction.text(str(value))[:_PARAMETER_CHARACTERS] for key, value in values.items()}
        self._add("parameters", values=texts)

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        """Log metrics; skip values that are not finite, and those logged for this step before the run was resumed."""
        self._add("metrics", values=_finite(values), step=step or 0)

    def tags(self, values: dict[str, str]) -> None:
        """Set tags."""
        self._add("tags", values=values)

    def note(self, text: str) -> None:
        """Set the description at the top of the run's page in MLflow (Markdown)."""
        self.tags({"mlflow.note.content": text})

    def ui_hints(self) -> list[str]:
        """Return how to open the experiment's runs in MLflow's UI: a command, if needed, and an address."""
        if self._delivery is None:
            return []
        mirror = self._delivery.mirror
        return store.ui_hints(mirror.uri, store.runs_page(mirror.experiment_id))

    def dataset(self, manifest: pd.DataFrame, digest: str, name: str, context: str = "training") -> None:
        """Log the manifest as the data of the run."""
        columns = ["label", "group", "split", "sha256"]
        self._add("dataset", name=name, digest=digest, rows=len(manifest), columns=columns, context=context)

    def evaluation(
        self, values: dict[str, float], model_id: str | None, manifest: pd.DataFrame, digest: str, name: str
    ) -> None:
        """Log the metrics of a model on a data set, tied to both.

        Args:
            values: Flat metrics; those that are not finite are skipped.
            model_id: MLflow's id of the model; None if MLflow does not have it.
            manifest: The images.
            digest: Digest of the manifest.
            name: Name of the data set.
        """
        self.dataset(manifest, digest, name, "evaluation")
        names = metric_names(values)
        metrics = {names[key]: value for key, value in _finite(values).items()}
        self._add("metrics", values=metrics, step=0, dataset=[name, digest], model_id=model_id)

    def artifacts(self, path: Path, folder: str | None = None) -> None:
        """Log a file, or a folder with its content, as it is when it is sent."""
        self._add("artifact", path=self._relative(path), folder=folder)

    def figures(self, folder: Path) -> None:
        """Log a folder of PNG files, and those of the predictions as images, which MLflow shows side by side."""
        self.artifacts(folder, folder.name)
        for name in ("confusion_matrix", "predictions"):
            if (folder / f"{name}.png").is_file():
                self._add("image", path=self._relative(folder / f"{name}.png"), key=name)

    def model(self, folder: Path, example: Path) -> None:
        """Log the saved model as a pyfunc that takes encoded images.

        Args:
            folder: The saved model.
            example: Image file, stored as the input example.
        """
        self._add("model", path=self._relative(folder), example=str(example))

    def _relative(self, path: Path) -> str:
        """Return a path relative to the run directory, which may be moved before it is sent; others absolute."""
        if not path.absolute().is_relative_to(self._journal.directory):
            return str(path.absolute())
        return path.absolute().relative_to(self._journal.directory).as_posix()

    def _add(self, kind: str, **values: Any) -> None:
        self._journal.add(kind, **values)
        if self._delivery is not None:
            self._delivery.check()
            self._delivery.notify()


def _finite(values: dict[str, float]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items() if math.isfinite(value)}


def metric_names(names: Iterable[str]) -> dict[str, str]:
    """Return a name that MLflow accepts for each metric or parameter; class names may contain any character.

    Distinct names stay distinct: those that differ only in what MLflow does not accept are numbered in the given order.
    Slashes are replaced too, as MLflow makes sections of them.

    >>> metric_names(["recall_rust & spalls", "recall_<1", "recall_>1"])
    {'recall_rust & spalls': 'recall_rust _ spalls', 'recall_<1': 'recall__1', 'recall_>1': 'recall__1_2'}
    """
    names = list(names)
    accepted = {name: re.sub(r"[^\w.\- :]", "_", name)[:_NAME_CHARACTERS] for name in names}
    taken = {name for name in names if accepted[name] == name}
    for name in names:
        if accepted[name] == name:
            continue
        candidate, number = accepted[name], 1
        while candidate in taken:
            number += 1
            candidate = f"{accepted[name][: _NAME_CHARACTERS - 6]}_{number}"
        taken.add(candidate)
        accepted[name] = candidate
    return accepted


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
    required: bool = False,
) -> Iterator[Run]:
    """Run a block as one MLflow run that ends FINISHED, FAILED with the traceback, or KILLED.

    Everything is written to the journal in the run directory and sent to MLflow by a thread. A server that stops
    answering costs a warning; `sync.py` sends the rest later.

    Args:
        enabled: Send the journal; it is written in any case.
        uri: Tracking server or store; see `store.tracking_uri`.
        experiment: Name of the experiment, created if missing.
        system_metrics: Sample CPU, memory and GPU.
        name: Name of the run.
        tags: Tags of the run.
        directory: The run directory; a resumed run continues its MLflow run.
        required: Stop the block if MLflow does not answer.

    Raises:
        TrackingError: If the server or store cannot be used at the start, within seconds; with `required` also later.
    """
    journal = Journal(directory.absolute())
    changes = _changes(journal.start, name, tags)
    if not enabled:
        journal.add("begin", name=name, experiment=experiment, tags=tags, directory=str(journal.directory))
        journal.add("tags", values=changes)
        with _end_recorded(journal):
            yield Run(journal)
        return
    begin = {"name": name, "experiment": experiment, "tags": {**_context_tags(), **tags}}
    # A sweep has checked the server before its jobs.
    mirror = _begin(journal, uri, begin, required=PARENT not in tags)
    journal.add("tags", values=changes)
    delivery = Delivery(mirror, required=required)
    hurried = False
    try:
        with sampling(journal, enabled=system_metrics, notify=delivery.notify), _end_recorded(journal):
            yield Run(journal, delivery)
            delivery.check()
    except KeyboardInterrupt:
        hurried = True
        raise
    finally:
        complete = delivery.close(hurried=hurried)
    if required and not complete:
        delivery.check()
        sync = commands.command("sync", commands.override("run", str(directory)))
        raise TrackingError(f"MLflow did not accept the whole run in time: {sync}")


def _changes(before: dict[str, Any], name: str, tags: dict[str, str]) -> dict[str, str]:
    """Return the tags, the name among them, that differ from those of the run's last start; none at the first."""
    if not before:
        return {}
    changed = {key: value for key, value in tags.items() if before["tags"].get(key) != value}
    return changed | ({_NAME: name} if before["name"] != name else {})


def _begin(journal: Journal, uri: str | None, begin: dict[str, Any], *, required: bool) -> Mirror:
    """Return the MLflow run of a directory, new or continued.

    Args:
        journal: Journal of the run directory.
        uri: Tracking server or store.
        begin: Name, experiment and tags.
        required: The server must answer now; otherwise the run starts in MLflow when it answers.

    Raises:
        TrackingError: If it must and does not.
    """
    if uri is None and not os.environ.get("MLFLOW_TRACKING_URI") and PARENT not in begin["tags"]:
        own = own_store(journal)  # of a resumed run; a job of a sweep goes where its parent is
        uri = None if own is None or store.is_missing(own) else own
    mirror = Mirror(journal, uri)
    optional = contextlib.nullcontext if required else functools.partial(contextlib.suppress, Exception)
    with optional(), store.translated_at(mirror.uri):
        store.connect(mirror.uri, begin["experiment"])
        mirror.attach()
    journal.add("begin", **begin, uri=mirror.uri, directory=str(journal.directory))
    tries = _TRIES if required else 1
    with optional(), store.translated_at(mirror.uri):
        while not mirror.experiment_id:  # entries of the interrupted run may precede the start of a resumed one
            try:
                mirror.send()
            except Exception:
                tries -= 1
                if not tries:
                    raise
    return mirror


@contextlib.contextmanager
def _end_recorded(journal: Journal) -> Iterator[None]:
    """Record in the journal how the block ended, with the log files."""
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except Exception:
        journal.add("text", text=redaction.redacted(traceback.format_exc()), path="traceback.txt")
        raise
    finally:
        for name in LOGS:
            if (journal.directory / name).is_file():
                journal.add("artifact", path=name, folder=None)
        journal.add("end", status=status)


def _context_tags() -> dict[str, str]:
    """Return the tags in which MLflow records user, script and commit."""
    store.load_mlflow()
    from mlflow.tracking.context.registry import resolve_tags

    return {key: str(value) for key, value in resolve_tags().items()}


def record_failure(error: Exception, **settings: Any) -> None:
    """Log a FAILED run with the traceback of an error that occurred before its run was started.

    Args:
        error: The error.
        settings: Keyword arguments of `start`.
    """
    with contextlib.suppress(type(error)), start(**settings):
        raise error


# --- runs without a journal: the parent of a sweep, to which all its processes write ---------------------------------


def open_parent(
    uri: str | None,
    experiment_id: str,
    *,
    name: str,
    run_id: str | None,
    tags: dict[str, str],
    parameters: dict[str, str],
) -> str:
    """Create the parent run of a sweep, or reopen it.

    Args:
        uri: Tracking server or store; `connect` comes first.
        experiment_id: MLflow's id of the experiment.
        name: Name of the run.
        run_id: Id of the run, if the sweep is resumed.
        tags: Tags of the run.
        parameters: The swept settings.

    Returns:
        The run's id.
    """
    client = store.client(uri)
    if run_id is None or not store.exists(uri, run_id):
        run = client.create_run(experiment_id, **redaction.settings({"run_name": name, "tags": tags}))
        run_id = str(run.info.run_id)
    client.update_run(run_id, status="RUNNING")
    logged = client.get_run(run_id).data.params
    for key, value in parameters.items():
        if key not in logged:  # MLflow rejects changes
            client.log_param(run_id, key, redaction.setting(value)[:_PARAMETER_CHARACTERS])
    return run_id


def update_run(
    uri: str | None,
    run_id: str | None,
    *,
    metrics: dict[str, float],
    step: int,
    tags: dict[str, str],
    files: list[Path],
) -> None:
    """Log metrics, tags and files to a run by its id; log a warning if that fails. None does nothing."""
    if run_id is None:
        return
    with _failure_logged(uri):
        from mlflow.entities import Metric, RunTag

        client = _client(uri)
        now = int(time.time() * 1000)
        client.log_batch(
            run_id,
            metrics=[Metric(key, value, now, step) for key, value in metrics.items() if value == value],
            tags=[RunTag(key, redaction.setting(value)) for key, value in tags.items()],
        )
        for path in files:
            client.log_artifact(run_id, str(path))


def end_run(uri: str | None, run_id: str | None, status: str) -> None:
    """End a run by its id, unless it has ended; log a warning if that fails.

    Args:
        uri: Tracking server or store.
        run_id: Id of the run; None does nothing.
        status: finished, failed or interrupted.
    """
    if run_id is None:
        return
    with _failure_logged(uri):
        client = _client(uri)
        if store.exists(uri, run_id) and client.get_run(run_id).info.status == "RUNNING":
            statuses = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
            client.set_terminated(run_id, statuses[status])


@contextlib.contextmanager
def keep_end_time(uri: str | None, run_id: str | None) -> Iterator[None]:
    """Restore the end time of a finished run after a block that resumes it."""
    end = None
    if run_id is not None:
        with _failure_logged(uri):
            end = _client(uri).get_run(run_id).info.end_time
    yield
    if end is not None:
        with _failure_logged(uri):
            _client(uri).set_terminated(run_id, "FINISHED", end)


def delete_unfinished_children(uri: str | None, experiment_id: str, parent: str | None, kept: set[str | None]) -> None:
    """Delete the empty children that killed processes created without saving their ids.

    Args:
        uri: Tracking server or store.
        experiment_id: MLflow's id of the experiment.
        parent: Id of the parent run; None does nothing.
        kept: Ids of the children that are known.
    """
    if parent is None:
        return
    with _failure_logged(uri):
        client = _client(uri)
        unfinished = f"tags.`{PARENT}` = '{parent}' and attributes.status = 'RUNNING'"
        for run in client.search_runs([experiment_id], unfinished):
            if run.info.run_id not in kept:
                client.delete_run(run.info.run_id)


@functools.cache
def _unreachable() -> set[str | None]:
    """Return the stores about which this process has warned."""
    return set()


@contextlib.contextmanager
def _failure_logged(uri: str | None) -> Iterator[None]:
    """Log a warning at the first failure for each store: a sweep's folder is complete without MLflow."""
    try:
        yield
    except Exception as error:
        if uri not in _unreachable():
            _unreachable().add(uri)
            log.warning(
                "WARNING: the sweep's run in MLflow is incomplete (%s); the sweep's folder is complete",
                store.reason(error),
            )


def _client(uri: str | None) -> Any:
    """Return a client of a server that answers."""
    store.check(store.tracking_uri(uri))
    return store.client(uri)
