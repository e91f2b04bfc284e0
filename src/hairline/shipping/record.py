"""What a finished run left beside its model: its manifest, its predictions, the commit it was made with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hairline import tracking
from hairline.data import manifest
from hairline.tracking import registry

_RUN_ID = "mlflow_run_id.txt"


@dataclass(frozen=True)
class Record:
    """A finished run.

    Attributes:
        run: As the user named it.
        model: The folder of its saved model.
        directory: The run directory; None where only MLflow has the run.
        run_id: In MLflow; None where it was not tracked.
        uri: MLflow's store, as configured.
    """

    run: str
    model: Path
    directory: Path | None
    run_id: str | None
    uri: str | None

    def file(self, name: str) -> Path | None:
        """Give a file of the run directory, from MLflow where the directory is not at hand; None: there is none."""
        if self.directory is not None:
            path = self.directory / name
            return path if path.is_file() else None
        return None if self.run_id is None else registry.artifact(self.run_id, name, self.uri)

    def manifest(self) -> pd.DataFrame | None:
        """Read the images the run was made from; None where that is not known."""
        path = self.file("manifest.csv")
        return None if path is None else manifest.read(path)

    def commit(self) -> str | None:
        """Give the commit of the code that trained the model, marked where it had uncommitted changes."""
        path = self.file("environment.json")
        git = None if path is None else json.loads(path.read_text(encoding="utf-8")).get("git")
        return None if git is None else git["commit"] + ("-dirty" if git.get("dirty") else "")


def read(run: str, uri: str | None = None) -> Record:
    """Find a finished run.

    Args:
        run: A run directory, its `model/` folder, an MLflow run id, or a `models:/` URI.
        uri: MLflow's store; `MLFLOW_TRACKING_URI` wins; None for `mlflow.db` in the working directory.

    Raises:
        BundleError, TrackingError: If it holds no model.
    """
    model = tracking.find(run, uri)
    directory = model.absolute().parent
    if (directory / "manifest.csv").is_file():
        known = directory / _RUN_ID
        run_id = known.read_text(encoding="utf-8").strip() if known.is_file() else None
        return Record(run, model, directory, run_id, uri)
    local = Path(run).expanduser().exists()
    return Record(run, model, None, None if local else registry.run_of(run, uri), uri)
