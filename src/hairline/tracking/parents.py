"""Runs that no process holds open: the parent of a sweep, to which any of its processes writes."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path

from hairline.system import redaction
from hairline.tracking import store
from hairline.tracking.store import PARENT

log = logging.getLogger(__name__)

PARAMETER_CHARACTERS = 6000  # MLflow's limit; the whole configuration is logged as an artifact as well

_warned: list[str] = []


def open_parent(
    uri: str | None,
    experiment_id: str,
    *,
    name: str,
    run_id: str | None,
    tags: dict[str, str],
    parameters: dict[str, str],
) -> str:
    """Make the parent run of a sweep, or open it again.

    Args:
        uri: Tracking server or store, as for `connect`, which comes first.
        experiment_id: Of MLflow.
        name: Of the run.
        run_id: Of the run that an earlier start made.
        tags: Of the run.
        parameters: The swept settings.

    Returns:
        The run's id.
    """
    client = store.client(uri)
    if run_id is None or not store.exists(uri, run_id):
        run_id = str(
            client.create_run(experiment_id, **redaction.settings({"run_name": name, "tags": tags})).info.run_id
        )
    client.update_run(run_id, status="RUNNING")
    known = client.get_run(run_id).data.params
    for key, value in parameters.items():
        if key not in known:  # MLflow refuses another value
            client.log_param(run_id, key, redaction.setting(value)[:PARAMETER_CHARACTERS])
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
    """Write to a run that no process holds open; where that is not possible, it is told once."""
    if run_id is None:
        return
    with _costing_nothing(uri):
        from mlflow.entities import Metric, RunTag

        client = store.client(uri)
        now = int(time.time() * 1000)
        client.log_batch(
            run_id,
            metrics=[Metric(key, value, now, step) for key, value in metrics.items() if value == value],
            tags=[RunTag(key, redaction.setting(value)) for key, value in tags.items()],
        )
        for path in files:
            client.log_artifact(run_id, str(path))


def end_run(uri: str | None, run_id: str | None, status: str) -> None:
    """End a run that no process holds open, unless it has ended; where that is not possible, it is told once.

    Args:
        uri: Tracking server or store.
        run_id: Of the run; None: nothing is done.
        status: finished, failed or interrupted.
    """
    if run_id is None:
        return
    with _costing_nothing(uri):
        client = store.client(uri)
        if store.exists(uri, run_id) and client.get_run(run_id).info.status == "RUNNING":
            ends = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
            client.set_terminated(run_id, ends[status])


@contextlib.contextmanager
def keep_end_time(uri: str | None, run_id: str | None) -> Iterator[None]:
    """Leave the time a run ended as it was, though the block goes on with the run."""
    end = None
    if run_id is not None:
        with _costing_nothing(uri):
            end = store.client(uri).get_run(run_id).info.end_time
    yield
    if end is not None:
        with _costing_nothing(uri):
            store.client(uri).set_terminated(run_id, "FINISHED", end)


def delete_unfinished_children(uri: str | None, experiment_id: str, parent: str | None, kept: set[str | None]) -> None:
    """Delete children that were begun by a process which died before it could note them: they hold nothing."""
    if parent is None:
        return
    with _costing_nothing(uri):
        client = store.client(uri)
        asked = f"tags.`{PARENT}` = '{parent}' and attributes.status = 'RUNNING'"
        for run in client.search_runs([experiment_id], asked):
            if run.info.run_id not in kept:
                client.delete_run(run.info.run_id)


@contextlib.contextmanager
def _costing_nothing(uri: str | None) -> Iterator[None]:
    """Let a server that does not answer stop no sweep: its folder is complete without."""
    target = store.address(uri)
    try:
        store.refuse_unusable(target)
        yield
    except Exception as error:
        if target not in _warned:
            _warned.append(target)
            reason = store.redacted_text(str(error), target)
            log.warning("WARNING: the sweep's run in MLflow is not up to date (%s); its folder is", reason)
