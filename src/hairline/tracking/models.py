"""Models and runs in MLflow: logging a model, finding one, fetching runs."""

from __future__ import annotations

import atexit
import os
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hairline
from hairline.config.values import names_run
from hairline.tracking import store
from hairline.tracking.journal import run_id as id_of
from hairline.tracking.store import TrackingError, opened, redacted, redacted_text

if TYPE_CHECKING:
    from hairline.model.saved import Bundle


def requirements(bundle: Bundle) -> list[str]:
    """Give the pinned packages that a served model needs."""
    return [f"{name}=={version}" for name, version in bundle.versions.items() if name not in ("python", "hairline")]


def log_model(uri: str | None, run_id: str, folder: Path, example: Path) -> None:
    """Log a saved model as a pyfunc that eats encoded images.

    Args:
        uri: Tracking server or store.
        run_id: The run it belongs to; its status afterwards is FINISHED.
        folder: The saved model.
        example: An image, kept as the input example where it still is there.
    """
    mlflow = store.point_at(store.address(uri))
    import pandas as pd  # half a second, which a misspelt key need not wait for
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    from hairline.model import saved

    bundle = saved.read_bundle(folder)
    doubles = ["probability", "threshold", *(f"prob_{name}" for name in bundle.class_names)]
    outputs = [ColSpec(DataType.string, "label"), *(ColSpec(DataType.double, name) for name in doubles)]
    package = Path(hairline.__file__).parent
    with tempfile.TemporaryDirectory() as place, mlflow.start_run(run_id=run_id, log_system_metrics=False):
        # Without the weights that new models begin with: 4 MB in every run.
        code = shutil.copytree(
            package, Path(place, package.name), ignore=shutil.ignore_patterns("__pycache__", "*.npz")
        )
        Model.log(
            None,
            flavor=_Flavour(),
            flavor_name="pyfunc",
            name="model",
            # Loading the model again to try its example takes 4 s of every run, and ends in a warning at most; the
            # joined model was compared with the features' path on real images before it was saved.
            validate_serving_input=False,
            python_model=str(package / "tracking" / "serving.py"),  # models from code: nothing is pickled
            artifacts={"model": str(folder)},
            code_paths=[str(code)],
            signature=ModelSignature(Schema([ColSpec(DataType.binary, "image")]), Schema(outputs)),
            input_example=pd.DataFrame({"image": [example.read_bytes()]}) if example.is_file() else None,
            # Given, as inferring them loads the model in a process of its own (10 s).
            pip_requirements=requirements(bundle),
        )


class _Flavour:
    """MLflow's pyfunc as what `Model.log` saves by; `pyfunc.log_model` does not pass all settings on."""

    def save_model(self, *, validate_serving_input: bool, **options: Any) -> None:
        """Save a model; whether its example is tried is `Model.log`'s own."""
        store.mlflow().pyfunc.save_model(**options)


def passing_folder() -> str:
    """Make a folder for what is fetched from a server; it goes when the process ends."""
    place = tempfile.mkdtemp(prefix="hairline-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place


def download_model(run: str, uri: str | None = None) -> Path:
    """Fetch the saved model of an MLflow run id or `models:/` URI.

    Args:
        run: The id or URI.
        uri: Tracking server or store; `MLFLOW_TRACKING_URI` wins; None for `mlflow.db` in the working directory.

    Raises:
        TrackingError: If there is none.
    """
    mlflow = opened(uri)
    target = store.address(uri)
    address = run if run.startswith(("models:/", "runs:/")) else f"runs:/{run}/model"
    try:
        folder = Path(mlflow.artifacts.download_artifacts(address, dst_path=passing_folder()))
    except Exception as error:
        raise TrackingError(
            f"run={run}: no model under {address} in {redacted(target)}: {redacted_text(str(error), target)}"
        ) from error
    return folder / "artifacts" / "model"


def find(run: str | os.PathLike[str], uri: str | None = None, *, key: str = "run") -> Path:
    """Give the folder of the saved model that `run` names.

    Args:
        run: A run directory, its `model/` folder, an MLflow run id, or a `models:/` URI.
        uri: MLflow's store; `MLFLOW_TRACKING_URI` wins; None for `mlflow.db` in the working directory.
        key: Setting that named it, for the message.

    Raises:
        BundleError: If there is none.
    """
    from hairline.model import saved  # late: it imports SciPy and pandas, which --help answers without

    text = os.fspath(run)
    place = Path(text).expanduser()
    for folder in (place / "model", place):
        if (folder / saved.BUNDLE).is_file():
            return folder
    if text.startswith(("models:/", "runs:/")) or names_run(text):
        return download_model(text, uri)
    if (place / "metrics.json").is_file() and (place / "config.yaml").is_file():
        raise saved.BundleError(
            f"{key}={text}: that run saved no model, as its report was not full; this makes it, without training anew: "
            f"python train.py resume={shlex.quote(text)} report=full"
        )
    raise saved.BundleError(
        f"{key}={text}: no saved model there (looked for model/{saved.BUNDLE} and {saved.BUNDLE}); expected a run "
        "directory such as outputs/<date>/<time>, an MLflow run id, or a models:/ URI"
    )


def logged_model(run: str, folder: Path) -> str | None:
    """Give the id under which MLflow knows the model of a run directory, run or `models:/` URI; None: it does not.

    Args:
        run: As the user named it.
        folder: The saved model that was found there.
    """
    mlflow = store.mlflow()
    run_id = id_of(folder.parent) or run
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
    target = store.address(uri)
    store.refuse_unusable(target)
    mlflow = store.point_at(target)
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
