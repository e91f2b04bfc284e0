"""Runs in an MLflow store in the working directory."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import mlflow

from hairline import tracking

SETTINGS: dict[str, Any] = {
    "enabled": True, "uri": None, "experiment": "e", "system_metrics": False, "name": "n", "tags": {"site": "bridge"},
}  # fmt: skip


def tracked(directory: Path, **changes: Any) -> AbstractContextManager[tracking.Run]:
    """Start a run."""
    return tracking.start(**(SETTINGS | changes), directory=directory)


def client(place: Path | None = None) -> mlflow.MlflowClient:
    """Return a client of the store in a folder, by default the working directory."""
    return mlflow.MlflowClient(f"sqlite:///{(place or Path.cwd()) / 'mlflow.db'}")


def runs(at: mlflow.MlflowClient | None = None, experiment: str = "e") -> list[mlflow.entities.Run]:
    """Return all runs of an experiment."""
    at = at or client()
    return list(at.search_runs([at.get_experiment_by_name(experiment).experiment_id]))


def steps(run_id: str, key: str = "loss", at: mlflow.MlflowClient | None = None) -> list[int]:
    """Return the steps at which a run logged a metric."""
    return [point.step for point in (at or client()).get_metric_history(run_id, key)]
