"""What a run tells MLflow: noted in its directory first, sent beside the training."""

from __future__ import annotations

import contextlib
import math
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from hairline.system import errors, redaction
from hairline.tracking import parents, store
from hairline.tracking.delivery import Delivery
from hairline.tracking.journal import Journal
from hairline.tracking.mirror import Mirror
from hairline.tracking.sampling import Sampling
from hairline.tracking.store import TrackingError

if TYPE_CHECKING:
    import pandas as pd

_TRIES = 3  # to begin: where many processes write to one SQLite file, some wait in vain for it


class Run:
    """What one run tells, or nothing at all: without a journal every call is ignored."""

    def __init__(
        self, journal: Journal | None = None, mirror: Mirror | None = None, delivery: Delivery | None = None
    ) -> None:
        """Take the journal of a run directory and, where tracking is on, what brings it to MLflow."""
        self._journal, self._mirror, self._delivery = journal, mirror, delivery

    @property
    def id(self) -> str | None:
        """The MLflow run id; None where there is none."""
        return None if self._mirror is None else self._mirror.run_id

    def parameters(self, values: dict[str, Any]) -> None:
        """Log flat parameters; a run that is resumed keeps those it has, as MLflow refuses other values."""
        told = {key: redaction.text(str(value))[: parents.PARAMETER_CHARACTERS] for key, value in values.items()}
        self._tell("parameters", values=told)

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        """Log numbers; what is not finite is left out, and what was logged for the step before a run was resumed."""
        told = {key: float(value) for key, value in values.items() if math.isfinite(value)}
        self._tell("metrics", values=told, step=step or 0)

    def tags(self, values: dict[str, str]) -> None:
        """Set tags."""
        self._tell("tags", values=values)

    def note(self, text: str) -> None:
        """Set the description that MLflow shows on top of the run's page (Markdown)."""
        self.tags({"mlflow.note.content": text})

    def ui_hints(self, uri: str | None) -> list[str]:
        """Say how to look at the runs: a command and an address."""
        return store.ui_hints(uri, store.runs_page("" if self._mirror is None else self._mirror.experiment_id))

    def dataset(self, manifest: pd.DataFrame, digest: str, name: str, context: str = "training") -> None:
        """Log the manifest as the data of the run."""
        columns = ["label", "group", "split", "sha256"]
        self._tell("dataset", name=name, digest=digest, rows=len(manifest), columns=columns, context=context)

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
        self.dataset(manifest, digest, name, "evaluation")
        told = {metric_name(key): float(value) for key, value in values.items() if math.isfinite(value)}
        self._tell("metrics", values=told, step=0, dataset=[name, digest], model_id=model_id)

    def artifacts(self, path: Path, folder: str | None = None) -> None:
        """Log a file, or a folder with all it holds, as it is when it is sent."""
        self._tell("artifact", path=self._near(path), folder=folder)

    def figures(self, folder: Path) -> None:
        """Log a folder of PNG files, and those of the predictions so that MLflow shows runs' side by side."""
        self.artifacts(folder, folder.name)
        for name in ("confusion_matrix", "predictions"):
            if (folder / f"{name}.png").is_file():
                self._tell("image", path=self._near(folder / f"{name}.png"), key=name)

    def model(self, folder: Path, example: Path) -> None:
        """Log the saved model as a pyfunc that eats encoded images.

        Args:
            folder: The saved model.
            example: An image, kept as the input example.
        """
        self._tell("model", path=self._near(folder), example=str(example))

    def _near(self, path: Path) -> str:
        if self._journal is None or not path.absolute().is_relative_to(self._journal.directory):
            return str(path.absolute())
        return path.absolute().relative_to(self._journal.directory).as_posix()

    def _tell(self, kind: str, **values: Any) -> None:
        if self._journal is None:
            return
        self._journal.tell(kind, **values)
        if self._delivery is not None:
            self._delivery.wake()


def metric_name(name: str) -> str:
    """Give a name that MLflow takes for a metric: class names may hold anything.

    >>> metric_name("test_recall_rust & spalls")
    'test_recall_rust _ spalls'
    """
    return re.sub(r"[^/\w.\- :]", "_", name)[:250]


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
    """Run a block as one MLflow run: FINISHED at its end, FAILED with the traceback or KILLED otherwise.

    What is logged goes to the journal in the run directory, and from there to MLflow beside the block. A server that
    does not answer meanwhile costs nothing but a warning; `synchronise` sends the rest later.

    Args:
        enabled: Whether anything is sent; the journal is kept anyway.
        uri: Tracking server or store; `MLFLOW_TRACKING_URI` wins; None for `mlflow.db` in the working directory.
        experiment: Name of the experiment; made where it is missing.
        system_metrics: Whether CPU, memory and GPU are sampled.
        name: Of the run.
        tags: Of the run.
        directory: The run directory; a run that is resumed goes on in its MLflow run.
        required: Whether the block ends with an error where MLflow does not answer.

    Raises:
        TrackingError: If the server or store cannot be used at the start, within seconds; with `required` also later.
    """
    journal = Journal(directory.absolute())
    about = {"name": name, "experiment": experiment, "tags": {**(_context() if enabled else {}), **tags}}
    if not enabled:
        journal.tell("begin", **about)
        with _noted(journal):
            yield Run(journal)
        return
    mirror = _opened(journal, uri, {**about, "uri": store.address(uri)}, certain=store.PARENT not in tags)
    delivery = Delivery(journal, mirror, uri, required=required)
    complete = hurried = False
    try:
        with Sampling(journal, system_metrics, delivery.notify), _noted(journal):
            yield Run(journal, mirror, delivery)
            delivery.check()
    except KeyboardInterrupt:
        hurried = True
        raise
    finally:
        complete = delivery.close(hurried=hurried)
    if required and not complete:
        delivery.check()
        raise TrackingError(f"MLflow did not take all of the run in time: python sync.py run={directory}")


def _opened(journal: Journal, uri: str | None, about: dict[str, Any], certain: bool) -> Mirror:
    """Begin, or go on with, the MLflow run of a directory.

    Args:
        journal: Of the run directory.
        uri: Tracking server or store.
        about: Name, tags, experiment and address.
        certain: Whether the server must answer now: it had its chance where a sweep has begun.

    Raises:
        TrackingError: If it must and does not.
    """
    mirror = Mirror(journal.directory, uri)
    try:
        store.connect(uri, about["experiment"])
        if mirror.run_id is not None and not mirror.known():
            mirror.run_id = None  # another store, or a run that was deleted for good: a new one is told everything
            journal.rewind()
    except Exception as error:
        if certain:
            _refuse(error, uri)
    journal.tell("begin", **about)
    tries = _TRIES if certain else 1
    while not mirror.experiment_id and tries:  # a new run's beginning is the first entry; a resumed one's has its turn
        try:
            journal.mark(mirror.deliver(journal.waiting()))
        except Exception as error:
            tries -= 1
            if certain and not tries:
                _refuse(error, uri)
    return mirror


def _refuse(error: Exception, uri: str | None) -> NoReturn:
    if isinstance(error, TrackingError) or errors.explained(error) is not None:
        raise error
    target = store.address(uri)
    reason = store.redacted_text(str(error), target)
    raise TrackingError(
        f"the tracking store {store.redacted(target)} cannot be used: {reason}\n{store.WITHOUT}"
    ) from error


@contextlib.contextmanager
def _noted(journal: Journal) -> Iterator[None]:
    """Note in the journal how the block ended."""
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except Exception:
        journal.tell("text", text=redaction.redacted(traceback.format_exc()), path="traceback.txt")
        raise
    finally:
        for path in sorted(journal.directory.glob("*.log")):
            journal.tell("artifact", path=path.name, folder=None)
        journal.tell("end", status=status)


def record_failure(error: Exception, **settings: Any) -> None:
    """Leave a run for what failed before it could begin one: FAILED, with the traceback.

    Args:
        error: What went wrong.
        settings: Keyword arguments of `start`.
    """
    with contextlib.suppress(type(error)), start(**settings):
        raise error


def synchronise(directory: Path, uri: str | None) -> int:
    """Send what a run directory's journal holds and MLflow has not.

    Args:
        directory: Of a run that no process works on. One that was killed, and not resumed, ends KILLED.
        uri: Tracking server or store; None: the one that the run was told to.

    Returns:
        How many entries were sent.

    Raises:
        TrackingError: If there is no journal, or the server or store cannot be used.
    """
    journal = Journal(directory.absolute())
    if not journal.begun:
        raise TrackingError(f"run={directory}: nothing to send; expected a run directory with its tracking.jsonl")
    if not journal.ended:
        journal.tell("end", status="KILLED")
    uri = uri or journal.uri
    mirror = Mirror(journal.directory, uri)
    sent = 0
    try:
        store.refuse_unusable(store.address(uri))
        if mirror.run_id is not None and not mirror.known():
            mirror.run_id = None
            journal.rewind()
        while waiting := journal.waiting():
            count = mirror.deliver(waiting)
            journal.mark(count)
            sent += count
    except Exception as error:
        _refuse(error, uri)
    return sent


def _context() -> dict[str, str]:
    """Give the tags by which MLflow knows user, script and commit."""
    store.mlflow()
    from mlflow.tracking.context.registry import resolve_tags

    return {key: str(value) for key, value in resolve_tags().items()}
