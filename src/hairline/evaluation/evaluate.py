"""The story of one evaluation: a finished run's model on any images, from a source to figures and a table across sets.

TensorFlow takes seconds to import, so whatever needs it is imported inside the functions: faults of run and data
answer first.
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hairline import tracking
from hairline.config import Evaluate, arguments
from hairline.data import manifest, prepare, sources
from hairline.evaluation import intervals, measures
from hairline.model import saved
from hairline.model.familiarity import LEAST_SET, Distance
from hairline.model.predictions import Predictions
from hairline.model.predictions import table as prediction_table
from hairline.model.saved import Bundle
from hairline.system import files, tensorflow
from hairline.system.errors import HairlineError

if TYPE_CHECKING:
    from hairline.model.features import Features

log = logging.getLogger(__name__)

ABOUT = "evaluation.json"
_NOTED_DISTANCE = 0.5  # of a set of images, from which on adapt=surface would adapt to them
_MOST_ADAPTED = 20_000  # images that a surface is learned from
CROSS_METRICS = (
    "test_accuracy",
    "test_balanced_accuracy_at_threshold",
    "test_recall_at_threshold",
    "test_specificity_at_threshold",
    "test_auroc",
    "test_ece",
)


class EvaluationError(HairlineError):
    """Images that a model cannot be evaluated on."""


def evaluate(config: Evaluate, directory: Path, sweep: Path | None) -> dict[str, float | None]:
    """Evaluate a model on a source of images.

    Args:
        config: Checked configuration.
        directory: Where all results are written.
        sweep: With several evaluations their common folder, in which the table across data sets is kept; or None.

    Returns:
        The flat metrics that `metrics.json` holds: `test_...` of images the model has not seen, `seen_...` of those
        that were among its training or validation images.
    """
    folder = tracking.find(config.run, config.tracking.uri)
    bundle = saved.read_bundle(folder).at(config.threshold)
    table, rejected = list_images(config, folder, bundle)
    name = config.name or data_name(config)
    with tracking.start(
        **arguments(config.tracking, "log_model", "registered_model"),
        name=f"evaluate {name}",
        tags={"evaluated": config.run},
        directory=directory,
    ) as run:
        tensorflow.prepare(precision="float32", threads=config.runtime.threads, deterministic=True, seed=config.seed)
        parts = saved.Parts(folder)
        features = compute_features(config, parts, table)
        kernel, bias = parts.dense
        adapted = None
        if config.adapt == "surface":
            adapted = parts.adapted(features.rows(unseen_rows(table)).read())
            kernel, bias = adapted.kernel, adapted.bias
            log.info("adapt=surface: %s%s", "" if adapted.used else "not adapted: ", adapted.reason)
        scores = read(features, kernel, bias)
        table = table.assign(distance=distances(folder, features))
        predictions = predict(bundle, table, scores)
        thorough = intervals.RESAMPLES if config.report.level == "full" else 0
        results = measure(predictions, bundle, table, directory, resamples=thorough)
        if results["test_images"]:
            results |= set_distance(folder, features.rows(unseen_rows(table)))
        results["rejected_images"] = len(rejected)
        about = {"run": config.run, "data": name, "part": config.part, "group_by": config.split.group_by}
        about["adapt"] = config.adapt
        about["decision"] = bundle.describe_decision()
        if adapted is not None:
            results |= {"adapted": float(adapted.used), "adapted_shift": adapted.shift}
            about["adapt"] = f"{config.adapt}: {'' if adapted.used else 'not adapted: '}{adapted.reason}"
        told = {
            key: None if isinstance(value, float) and math.isnan(value) else value for key, value in results.items()
        }
        (directory / "metrics.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        manifest.write(table.drop(columns=["seen", "distance"]), directory / "manifest.csv")
        if len(rejected):
            manifest.write(rejected, directory / "rejected.csv")
        if config.report.level == "full" and not table["seen"].all():
            draw(predictions, folder, bundle, table, name, directory, seed=config.seed)
        # Last: an evaluation beside this one, gathering the table across data sets, takes what has it for whole.
        (directory / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        for path in sorted(directory.glob("*.[cj]s*")):
            run.artifacts(path)
        if (directory / "figures").is_dir():
            run.artifacts(directory / "figures", "figures")
        run.parameters(about)
        if run.id is not None:
            model_id = tracking.logged_model(config.run, folder)
            run.evaluation(results, model_id, table, manifest.digest(table), name)
    say(config, name, results, directory)
    if sweep is not None:
        cross(sweep)
    return told


def list_images(config: Evaluate, folder: Path, bundle: Bundle) -> tuple[pd.DataFrame, pd.DataFrame]:
    """List and check the images of the part that is asked for.

    Returns:
        Manifest rows with the further column `seen` (whether the model was made with the image), and rejected files.

    Raises:
        EvaluationError: If classes do not fit those of the model, or the part is empty.
    """
    rows = prepare.list_images(config.data, seed=config.seed)
    refuse_other_classes(sorted(set(rows["label"])), bundle.class_names)
    table, rejected = prepare.scan_images(rows, max_rejected=config.data.max_rejected)
    known = pd.Series(saved.seen_splits(folder, table["sha256"]), index=table.index, dtype=object)
    # The model's own split comes first: for an image it was made with, that is the truth.
    table = table.assign(seen=known.isin(["train", "val"]), split=known.where(known != "", table["split"]))
    if config.part != "all":
        counts = table["split"].replace("", "none").value_counts().to_dict()
        table = table[table["split"] == config.part]
        if table.empty:
            raise EvaluationError(
                f"part={config.part}: none of the images belongs to it; by the run's split and the source's folders "
                f"they are {counts}: choose one of these, or part=all"
            )
    return prepare.group_images(table, config.split)[0].reset_index(drop=True), rejected


def refuse_other_classes(found: list[str], expected: list[str]) -> None:
    """Refuse images of classes the model does not know.

    Raises:
        EvaluationError: Listing both.
    """
    other = [name for name in found if name not in expected]
    if other:
        raise EvaluationError(
            f"the data has the classes {', '.join(map(manifest.printable, found))}; the model knows "
            f"{', '.join(map(manifest.printable, expected))}. Say which is which: "
            f"{sources.class_map_hint(found, expected)}"
        )


def compute_features(config: Evaluate, parts: saved.Parts, table: pd.DataFrame) -> Features:
    """Compute the images' features, or take them from the cache."""
    from hairline.model.features import compute

    return compute(
        table["path"].tolist(),
        table["sha256"].tolist(),
        parts.recipe(config.features.engine),
        lambda: parts.backbone,
        keep=config.features.keep,
        max_gigabytes=config.features.max_gigabytes,
        threads=config.runtime.threads,
    )


def read(features: Features, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Give the logits float32 [n, classes] that a last layer reads off features, temperature applied."""
    return np.concatenate([block @ kernel + bias for block in features.blocks()])


def unseen_rows(table: pd.DataFrame) -> np.ndarray:
    """Give the rows of images the model has not seen, evenly drawn where they are very many; of all, if it saw all."""
    rows = np.flatnonzero(~table["seen"].to_numpy())
    rows = rows if len(rows) else np.arange(len(table))
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(_MOST_ADAPTED, len(rows))).astype(np.int64))]


def set_distance(folder: Path, features: Features) -> dict[str, float]:
    """Say how far images as a set lie from those of the training, as `test_distance`; nothing where it is not known."""
    distance = Distance.from_arrays(saved.read_statistics(folder))
    if distance is None or len(features) < LEAST_SET:
        return {}
    return {"test_distance": distance.of_set(features.read())}


def distances(folder: Path, features: Features) -> np.ndarray:
    """Say how far images lie from those the model was trained on, float32 [n]; not a number where it does not tell."""
    distance = Distance.from_arrays(saved.read_statistics(folder))
    if distance is None:
        return np.full(len(features), np.nan, np.float32)
    return np.concatenate([distance(block) for block in features.blocks()])


def measure(
    predictions: Predictions, bundle: Bundle, table: pd.DataFrame, directory: Path, *, resamples: int
) -> dict[str, float]:
    """Measure unseen (`test`) and seen images separately, and write their predictions to two files."""
    results: dict[str, float] = {f"{part}_images": int((predictions.split == part).sum()) for part in ("test", "seen")}
    for part, file in (("test", "predictions.csv"), ("seen", "predictions_seen.csv")):
        if not results[f"{part}_images"]:
            continue
        chosen, rows = predictions.select(part), table[predictions.split == part]
        measured = measures.measure(chosen, bundle.decision, resamples=resamples if part == "test" else 0)
        results |= {f"{part}_{key}": value for key, value in measured.items()}
        written = prediction_table(
            rows, chosen.decided(bundle.decision), chosen.probabilities(bundle.temperature), chosen.class_names
        )
        if rows["distance"].notna().all():
            written["distance"] = rows["distance"].to_numpy()
            results[f"{part}_unfamiliar_share"] = float((written["distance"] > 1).mean())
        manifest.write(written, directory / file)
    return results


def predict(bundle: Bundle, table: pd.DataFrame, logits: np.ndarray) -> Predictions:
    """Return the predictions of a saved model.

    Args:
        bundle: Description of the model.
        table: Manifest rows with the column `seen`.
        logits: After temperature scaling, float32 [n, classes].
    """
    return Predictions(
        labels=np.array([bundle.class_names.index(label) for label in table["label"]], np.int64),
        logits=logits * np.float32(bundle.temperature),
        class_names=bundle.class_names,
        positive=bundle.positive,
        groups=table["group"].to_numpy(),
        split=np.where(table["seen"], "seen", "test"),
    )


def draw(
    predictions: Predictions,
    folder: Path,
    bundle: Bundle,
    table: pd.DataFrame,
    name: str,
    directory: Path,
    *,
    seed: int,
) -> None:
    """Draw the figures of the images the model has not seen."""
    from hairline.evaluation import galleries

    galleries.draw_predictions(
        directory / "figures",
        rows=table[predictions.split == "test"],
        predictions=predictions.select("test"),
        decision=bundle.decision,
        image_size=bundle.image_size,
        title=name,
        seed=seed,
        model=lambda: saved.load_model(folder, bundle),
    )


def data_name(config: Evaluate) -> str:
    """Name the data set as tables do: its folder or file, and the part where it is not all."""
    path = getattr(config.data, "path", None)
    name = Path(path).expanduser().absolute().name if path else config.data.source
    return name if config.part == "all" else f"{name} {config.part}"


def say(config: Evaluate, name: str, results: dict[str, float], directory: Path) -> None:
    """Print what came out and where it lies."""
    unseen, seen = results["test_images"], results["seen_images"]
    lines = ["", f"{manifest.printable(name)}: {unseen:,} images"]
    if seen:
        lines[-1] += (
            f"; {seen:,} more were among the model's training or validation images and are counted apart (seen_)"
        )
    for key in CROSS_METRICS:
        if key in results:
            line = f"{key.removeprefix('test_').replace('_', ' '):32}"
            line += "-  (takes images of both classes)" if math.isnan(results[key]) else f"{results[key]:.4f}"
            if f"{key}_interval_low" in results and not math.isnan(results[key]):
                line += f"  ({results[f'{key}_interval_low']:.4f} to {results[f'{key}_interval_high']:.4f})"
            lines.append(line)
    if "test_distance" in results:
        far = results["test_distance"]
        line = f"{'distance from the training':32}{far:.2f}"
        if "test_unfamiliar_share" in results:
            line += f"  ({results['test_unfamiliar_share']:.1%} of the images are unlike any of the training)"
        lines.append(line)
        if far > _NOTED_DISTANCE:
            lines.append("these images are of another kind than those of the training: see docs/generalisation.md")
    if not unseen:
        lines.append("every one of these images was seen in training: nothing here says how the model does on others")
        lines.append(f"{'accuracy (seen)':32}{results['seen_accuracy']:.4f}")
    place = files.relative(directory)
    log.info("\n".join([*lines, "", f"Directory   {place}"]))


def cross(sweep: Path) -> pd.DataFrame:
    """Gather the evaluations of a sweep so far: a row each, as `cross_table.csv`, a figure, and on the screen."""
    from hairline.evaluation import charts, figures

    rows = []
    for place in sorted(sweep.glob(f"*/{ABOUT}"), key=lambda path: (len(path.parent.name), path.parent.name)):
        about = json.loads(place.read_text(encoding="utf-8"))
        rows.append(about | json.loads((place.parent / "metrics.json").read_text(encoding="utf-8")))
    table = pd.DataFrame(rows)
    manifest.write(table, sweep / "cross_table.csv")
    shown = [name for name in CROSS_METRICS if name in table and table[name].notna().any()]
    told = table[["data", "run", "test_images", *shown]].rename(columns=lambda name: name.removeprefix("test_"))
    told = told.assign(**{name: pd.to_numeric(told[name]) for name in told.columns[2:]})  # null is no number
    if told["run"].nunique() == 1:
        told = told.drop(columns="run")
    log.info("\n%s\n", told.to_string(index=False, float_format="{:.4f}".format, na_rep="-"))
    if shown:
        runs = table["run"].tolist() if table["run"].nunique() > 1 else None
        title = "One model on several data sets" if runs is None else "Models on several data sets"
        figure = charts.intervals(table, shown[:5], names=table["data"].tolist(), colours=runs, title=title)
        figures.save(figure, sweep / "cross_table.png")
    return table
