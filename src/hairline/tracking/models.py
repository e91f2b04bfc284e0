"""Saved models and finished runs, in a run directory or in MLflow: logging a model, finding one, fetching files."""

from __future__ import annotations

import atexit
import json
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hairline
from hairline.config import commands, is_run_id
from hairline.system import redaction
from hairline.tracking import store
from hairline.tracking.journal import run_id as id_of
from hairline.tracking.store import TrackingError

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

_TABLES = {"predictions.csv", "metrics.json", "manifest.csv", "config.yaml", "environment.json", "evaluation.json"}


def log_model(uri: str | None, run_id: str, folder: Path, example: Path) -> None:
    """Log a saved model as a pyfunc that takes encoded images.

    Args:
        uri: Tracking server or store.
        run_id: The run it belongs to; its status becomes FINISHED.
        folder: The saved model.
        example: Image file, whose pixels are stored as the input example if it still exists.
    """
    mlflow = store.mlflow_at(uri)
    import pandas as pd
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    from hairline.model import saved

    bundle = saved.read_bundle(folder)
    doubles = ["probability", "threshold", *(f"prob_{name}" for name in bundle.class_names)]
    outputs: list[Any] = [ColSpec(DataType.string, "label"), *(ColSpec(DataType.double, name) for name in doubles)]
    contents = [_pixels(example, bundle.image_size)] if example.is_file() else []
    package = Path(hairline.__file__).parent
    with tempfile.TemporaryDirectory() as temporary, mlflow.start_run(run_id=run_id, log_system_metrics=False):
        # Without the initial weights of new models: 4 MB in every run.
        ignored = shutil.ignore_patterns("__pycache__", "*.npz")
        code = shutil.copytree(package, Path(temporary, package.name), ignore=ignored)
        Model.log(
            None,
            flavor=_Flavour(),
            flavor_name="pyfunc",
            name="model",
            # Validation loads the model once more, 4 s of every run; it was compared with Keras before it was saved.
            validate_serving_input=False,
            python_model=str(package / "tracking" / "serving.py"),  # models from code: nothing is pickled
            artifacts={"model": str(folder)},
            code_paths=[str(code)],
            signature=ModelSignature(Schema([ColSpec(DataType.binary, "image")]), Schema(outputs)),
            input_example=pd.DataFrame({"image": contents}) if contents else None,
            # Explicit: inferring them loads the model in another process, 10 s.
            pip_requirements=[
                f"{name}=={version}" for name, version in bundle.versions.items() if name not in ("python", "hairline")
            ],
        )


def _pixels(file: Path, image_size: int) -> bytes:
    """Return the pixels that the model sees of an image as a PNG, without EXIF, which may name a place or a person."""
    from PIL import Image

    from hairline.data import images

    return images.encoded(Image.fromarray(images.decode(file, image_size)), "PNG")


class _Flavour:
    """MLflow's pyfunc as the flavour of `Model.log`; `pyfunc.log_model` does not pass all settings on."""

    def save_model(self, *, validate_serving_input: bool, **options: Any) -> None:
        """Save a model; `validate_serving_input` concerns `Model.log` only."""
        store.load_mlflow().pyfunc.save_model(**options)


def find(run: str | os.PathLike[str], uri: str | None = None, *, key: str = "run") -> Path:
    """Return the folder of the saved model that `run` names.

    Args:
        run: A run directory, its `model/` folder, an MLflow run id, or a `models:/` URI.
        uri: Tracking server or store; see `store.tracking_uri`.
        key: Setting that holds `run`, for messages.

    Raises:
        BundleError: If there is no saved model.
        TrackingError: If the store does not answer, or has no such model.
    """
    from hairline.model import saved  # late: it imports pandas and SciPy, which --help does not need

    text = os.fspath(run)
    path = Path(text).expanduser()
    for folder in (path / "model", path):
        if (folder / saved.BUNDLE).is_file():
            return folder
    if text.startswith(("models:/", "runs:/")) or is_run_id(text):
        return download_model(text, uri)
    if (path / "metrics.json").is_file() and (path / "config.yaml").is_file():
        raise saved.BundleError(
            f"{key}={text}: that run saved no model, as its report was not full. Save it now, without another "
            f"training: {commands.command('train', commands.override('resume', text), 'report=full')}"
        )
    raise saved.BundleError(
        f"{key}={text}: no saved model there (looked for model/{saved.BUNDLE} and {saved.BUNDLE}); expected a run "
        "directory such as outputs/<date>/<time>, an MLflow run id, or a models:/ URI"
    )


def download_model(run: str, uri: str | None) -> Path:
    """Download the saved model of an MLflow run id or a `models:/` URI; return its folder.

    Raises:
        TrackingError: If there is none.
    """
    mlflow = store.mlflow_at(uri)
    address = run if run.startswith(("models:/", "runs:/")) else f"runs:/{run}/model"
    target = redaction.setting(store.tracking_uri(uri))
    with store.translated(f"run={run}: no model under {address} in {target}"):
        folder = Path(mlflow.artifacts.download_artifacts(address, dst_path=_temporary_folder()))
    return folder / "artifacts" / "model"


def _temporary_folder() -> str:
    """Create a folder for downloads, deleted when the process ends."""
    folder = tempfile.mkdtemp(prefix="hairline-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def logged_model(run: str, folder: Path, uri: str | None) -> str | None:
    """Return MLflow's id of the model of a run directory, run id or `models:/` URI; None if MLflow does not have it.

    Args:
        run: The run as the user named it.
        folder: Its saved model.
        uri: Tracking server or store.
    """
    mlflow = store.mlflow_at(uri)
    try:
        if run.startswith("models:/"):
            return str(mlflow.models.get_model_info(run).model_id)
        outputs = mlflow.MlflowClient().get_run(id_of(folder.parent) or run).outputs
    except mlflow.MlflowException:  # the run lies in another store, or in none
        return None
    return str(outputs.model_outputs[0].model_id) if outputs and outputs.model_outputs else None


@dataclass(frozen=True)
class FinishedRun:
    """A finished run with a saved model.

    Attributes:
        name: The run as the user named it.
        model: Folder of its saved model.
        directory: The run directory; None if only MLflow has the run.
        run_id: MLflow run id; None if the run was not tracked.
        uri: Tracking server or store, as configured.
    """

    name: str
    model: Path
    directory: Path | None
    run_id: str | None
    uri: str | None

    @classmethod
    def find(cls, run: str, uri: str | None) -> FinishedRun:
        """Return the run that `run` names; see `find`.

        Raises:
            BundleError, TrackingError: If it has no saved model.
        """
        model = find(run, uri)
        directory = model.absolute().parent
        if (directory / "manifest.csv").is_file():
            return cls(run, model, directory, id_of(directory), uri)
        if Path(run).expanduser().exists():
            return cls(run, model, None, None, uri)
        if not run.startswith("models:/"):
            return cls(run, model, None, run, uri)
        with store.translated(f"run={run}"):
            return cls(run, model, None, store.mlflow_at(uri).models.get_model_info(run).run_id, uri)

    def file(self, name: str) -> Path | None:
        """Return a file of the run directory, downloaded if only MLflow has it; None if there is none."""
        if self.directory is not None:
            path = self.directory / name
            return path if path.is_file() else None
        if self.run_id is None:
            return None
        client = store.mlflow_at(self.uri).MlflowClient()
        try:
            return Path(client.download_artifacts(self.run_id, name, _temporary_folder()))
        except Exception as error:  # OSError, or an error of MLflow or requests, if there is no such file
            log.debug("%s of run %s: %s", name, self.run_id, error)
            return None

    def manifest(self) -> pd.DataFrame | None:
        """Load the manifest of the run's images; None if it is missing."""
        from hairline.data import manifest

        path = self.file("manifest.csv")
        return None if path is None else manifest.read(path)

    def commit(self) -> str | None:
        """Return the commit of the code that trained the model, with "-dirty" for uncommitted changes."""
        path = self.file("environment.json")
        git = None if path is None else json.loads(path.read_text(encoding="utf-8")).get("git")
        return None if git is None else git["commit"] + ("-dirty" if git.get("dirty") else "")


def fetch_runs(
    uri: str | None, experiment: str | None, run_ids: list[str], folder: Path
) -> dict[str, tuple[str, Path]]:
    """Download tables and settings of finished runs, without figures and models.

    Args:
        uri: Tracking server or store; see `store.tracking_uri`.
        experiment: Name of the experiment whose finished runs are downloaded; None for those in `run_ids` only.
        run_ids: Single runs.
        folder: Parent of the folders, one per run.

    Returns:
        Name and folder of each run, by its id.

    Raises:
        TrackingError: If there is no such experiment or run.
    """
    mlflow = store.mlflow_at(uri)
    client = mlflow.MlflowClient()
    target = redaction.setting(store.tracking_uri(uri))
    folders: dict[str, tuple[str, Path]] = {}
    with store.translated(f"runs cannot be fetched from {target}"):
        runs = [client.get_run(run_id) for run_id in run_ids]
        if experiment is not None:
            found = client.get_experiment_by_name(experiment)
            if found is None:
                names = ", ".join(sorted(entry.name for entry in client.search_experiments()))
                raise TrackingError(f"mlflow_experiment={experiment}: no such experiment in {target}; it has {names}")
            finished = "attributes.status = 'FINISHED'"
            runs += mlflow.search_runs([found.experiment_id], finished, output_format="list")
        for run_id, name in {run.info.run_id: run.info.run_name for run in runs}.items():
            files = {item.path for item in client.list_artifacts(run_id)}
            # The parent of a sweep has no predictions; an evaluation is of other images than the experiment's runs.
            if "predictions.csv" not in files or ("evaluation.json" in files and run_id not in run_ids):
                continue
            place = folder / run_id
            place.mkdir(parents=True)
            for file in files & _TABLES:
                client.download_artifacts(run_id, file, str(place))
            folders[run_id] = (name, place)
    return folders
