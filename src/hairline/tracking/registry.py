"""MLflow after a run has ended: files and figures of a finished run, and the registry of models."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hairline import tracking
from hairline.system.errors import HairlineError

log = logging.getLogger(__name__)

CANDIDATE, CHAMPION = "candidate", "champion"


class RegistryError(HairlineError):
    """A model that cannot be registered."""


@dataclass(frozen=True)
class Version:
    """A version of a registered model.

    Attributes:
        name: Of the registered model.
        number: Of the version, from 1.
        run_id: The MLflow run it comes from.
    """

    name: str
    number: int
    run_id: str

    @property
    def address(self) -> str:
        """What `run=` takes."""
        return f"models:/{self.name}/{self.number}"


def run_of(address: str, uri: str | None) -> str | None:
    """Give the id of the MLflow run that an id or a `models:/` URI names; None where the model has none.

    Raises:
        TrackingError: If the store does not answer, or has no such model.
    """
    if not address.startswith("models:/"):
        return address
    mlflow = tracking.opened(uri)
    try:
        run_id: str | None = mlflow.models.get_model_info(address).run_id
    except Exception as error:  # a bad name, a missing version and a missing artifact raise different things
        raise tracking.TrackingError(
            f"run={address}: {tracking.redacted_text(str(error), tracking.address(uri))}"
        ) from error
    return run_id


def artifact(run_id: str, name: str, uri: str | None) -> Path | None:
    """Fetch a file of a finished run; None where it has no such file."""
    mlflow = tracking.opened(uri)
    try:
        return Path(mlflow.MlflowClient().download_artifacts(run_id, name, tracking.passing_folder()))
    except Exception as error:  # MLflow raises OSError, its own, and requests' for a file that is not there
        log.debug("%s of run %s: %s", name, run_id, error)
        return None


def log_export(run_id: str, uri: str | None, row: dict[str, Any], files: list[Path]) -> bool:
    """Add an export's figures to a finished run.

    Args:
        run_id: The MLflow run; its status stays what it is.
        uri: MLflow's store.
        row: `format` and figures: one row of the table `exports.json`, and metrics.
        files: What explains the export, logged under `exports/<format>`.

    Returns:
        Whether the store knows the run; if not, nothing was logged.
    """
    mlflow = tracking.opened(uri)
    client = mlflow.MlflowClient()
    try:
        client.get_run(run_id)
    except mlflow.MlflowException:
        return False
    for key, value in row.items():
        if isinstance(value, int | float):
            client.log_metric(run_id, f"export_{row['format']}_{key}", float(value))
    for path in files:
        client.log_artifact(run_id, str(path), f"exports/{row['format']}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow 3.17 with pandas 3
        client.log_table(run_id, {key: [value] for key, value in row.items()}, "exports.json")
    return True


def add_version(name: str, run_id: str, uri: str | None) -> Version:
    """Register the model that a run logged; the same run's earlier version is given where there is one.

    Raises:
        RegistryError: If the run is not in the store, or logged no model.
    """
    mlflow = tracking.opened(uri)
    client = mlflow.MlflowClient()
    try:
        run = client.get_run(run_id)
        models = client.search_logged_models([run.info.experiment_id], filter_string=f"source_run_id = '{run_id}'")
        if not models:
            raise RegistryError(
                f"the MLflow run {run_id} has no model: train with report.level=full and tracking.log_model=true"
            )
        for version in client.search_model_versions(f"name = '{name}'"):
            if version.run_id == run_id:
                return Version(name, int(version.version), run_id)
        # By its own id: the run's name for it, `runs:/<id>/model`, could be shared by a later one.
        with contextlib.redirect_stderr(io.StringIO()):  # it prints what `register` says better
            made = mlflow.register_model(models[0].model_uri, name)
    except mlflow.MlflowException as error:
        raise RegistryError(
            f"{tracking.redacted_text(str(error), tracking.address(uri))} (registering run {run_id} as {name!r} in "
            f"{tracking.redacted(tracking.address(uri))})"
        ) from error
    return Version(name, int(made.version), run_id)


def champion(name: str, uri: str | None) -> Version | None:
    """Give today's champion; None where there is none yet."""
    mlflow = tracking.opened(uri)
    try:
        found = mlflow.MlflowClient().get_model_version_by_alias(name, CHAMPION)
    except mlflow.MlflowException:
        return None
    return Version(name, int(found.version), found.run_id)


def decide(version: Version, uri: str | None, *, promoted: bool, reason: str, figures: dict[str, Any]) -> None:
    """Record what was decided on a version, and why, before its aliases change.

    Args:
        version: The new version.
        uri: MLflow's store.
        promoted: Whether it becomes the champion.
        reason: In a sentence.
        figures: What the decision rests on, kept as tags.
    """
    client = tracking.opened(uri).MlflowClient()
    told = {"decision": CHAMPION if promoted else CANDIDATE, "reason": reason, **figures}
    for key, value in told.items():
        client.set_model_version_tag(version.name, str(version.number), key, str(value))
    client.update_model_version(version.name, str(version.number), description=reason)
    client.set_registered_model_alias(version.name, CANDIDATE, str(version.number))
    if promoted:
        client.set_registered_model_alias(version.name, CHAMPION, str(version.number))


def note_successor(former: Version, successor: Version, uri: str | None) -> None:
    """Tell a former champion's page by whom it was replaced."""
    client = tracking.opened(uri).MlflowClient()
    client.set_model_version_tag(former.name, str(former.number), "replaced_by", str(successor.number))
