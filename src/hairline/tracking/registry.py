"""MLflow's registry of models, and the record of an export in its finished run."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

from hairline.system import redaction
from hairline.system.errors import HairlineError
from hairline.tracking import store

CANDIDATE, CHAMPION = "candidate", "champion"
_DESCRIPTION_CHARACTERS = 5000  # width of MLflow's column


class RegistryError(HairlineError):
    """A model that cannot be registered."""


def add_version(name: str, run_id: str, uri: str | None) -> int:
    """Register the model that a run logged; return the number of its version, the existing one if there is one.

    Raises:
        RegistryError: If the run logged no model.
        TrackingError: If the store does not answer, or lacks the run.
    """
    mlflow = store.mlflow_at(uri)
    client = mlflow.MlflowClient()
    target = redaction.setting(store.tracking_uri(uri))
    with store.translated(f"run {run_id} cannot be registered as {name!r} in {target}"):
        run = client.get_run(run_id)
        models = client.search_logged_models([run.info.experiment_id], filter_string=f"source_run_id = '{run_id}'")
        if not models:
            raise RegistryError(
                f"the MLflow run {run_id} has no model: train with report.level=full and tracking.log_model=true"
            )
        # By the run alone: MLflow's filter takes no name with an apostrophe.
        for version in client.search_model_versions(f"run_id = '{run_id}'"):
            if version.name == name:
                return int(version.version)
        # By the model's id: `runs:/<run id>/model` may name a later model too.
        with contextlib.redirect_stderr(io.StringIO()):  # MLflow prints what the caller logs
            created = mlflow.register_model(models[0].model_uri, name)
    return int(created.version)


def champion(name: str, uri: str | None) -> int | None:
    """Return the number of the champion's version; None if there is none yet.

    Raises:
        TrackingError: If the store does not answer.
    """
    mlflow = store.mlflow_at(uri)
    with store.translated(f"the champion of {name!r} cannot be read"):
        try:
            version = mlflow.MlflowClient().get_model_version_by_alias(name, CHAMPION)
        except mlflow.MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no model, no alias
                raise
            return None
    return int(version.version)


def decide(
    name: str,
    version: int,
    uri: str | None,
    *,
    champion: int | None,
    promoted: bool,
    reason: str,
    tags: dict[str, Any],
    card: str,
) -> None:
    """Record the decision on a version and its reason, then set the aliases.

    Args:
        name: Name of the registered model.
        version: Number of the new version.
        uri: Tracking server or store.
        champion: Number of the champion's version so far.
        promoted: Whether the new version becomes the champion.
        reason: The reason in one sentence.
        tags: Numbers behind the decision.
        card: The model card, which follows the reason in the version's description, cut to what MLflow can store.

    Raises:
        TrackingError: If the store does not answer, or rejects them.
    """
    client, number = store.mlflow_at(uri).MlflowClient(), str(version)
    tags = {"decision": CHAMPION if promoted else CANDIDATE, "reason": reason, **tags}
    description = f"{reason}\n\n{card}".strip()
    if len(description) > _DESCRIPTION_CHARACTERS:
        description = description[: _DESCRIPTION_CHARACTERS - 1] + "…"
    with store.translated(f"version {version} of {name!r} is registered, but not described"):
        for key, value in tags.items():
            client.set_model_version_tag(name, number, key, str(value))
        client.update_model_version(name, number, description=description)
        client.set_registered_model_alias(name, CANDIDATE, number)
        if promoted:
            client.set_registered_model_alias(name, CHAMPION, number)
            if champion is not None:
                client.set_model_version_tag(name, str(champion), "replaced_by", number)


def log_export(run_id: str, uri: str | None, row: dict[str, Any], files: list[Path]) -> bool:
    """Log an export to its finished run, whose status does not change.

    Args:
        run_id: The MLflow run.
        uri: Tracking server or store.
        row: `format` and measurements: one row of the table `exports.json`; numbers become metrics as well.
        files: Description of the export, logged under `exports/<format>`.

    Returns:
        Whether the store has the run; otherwise nothing is logged.

    Raises:
        TrackingError: If the store does not answer.
    """
    with store.translated_at(store.tracking_uri(uri)):
        client = store.mlflow_at(uri).MlflowClient()
        if not store.exists(uri, run_id):
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
