"""The story of evaluate.py: a finished run's model on any labelled images, and a table across data sets.

TensorFlow takes seconds to import, so whatever needs it is imported inside the functions: errors in the run and the
data are reported first.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hairline import tracking
from hairline.config import Data, Evaluate, FeatureSettings, Split, arguments
from hairline.data import classes, folders, manifest, prepare
from hairline.evaluation import intervals
from hairline.evaluation.metrics import as_json, described, measure
from hairline.model import attribution, card, saved, surface
from hairline.model.familiarity import LEAST_SET, Distance
from hairline.model.predictions import Predictions, predictions_table
from hairline.system import cache, files, tensorflow
from hairline.system.errors import HairlineError

if TYPE_CHECKING:
    from hairline.model.decision import Decision
    from hairline.model.features import Features

log = logging.getLogger(__name__)

DESCRIPTION = "evaluation.json"
_MOST_ADAPTED = 20_000  # images that a surface is estimated from
_TABLES = {"test": "predictions.csv", "seen": "predictions_seen.csv"}
_FILES = (*_TABLES.values(), "metrics.json", "manifest.csv", "rejected.csv", DESCRIPTION)  # what MLflow gets
_LISTED = (
    "test_accuracy",
    "test_balanced_accuracy_at_threshold",
    "test_recall_at_threshold",
    "test_specificity_at_threshold",
    "test_auroc",
    "test_ece",
)


class EvaluationError(HairlineError):
    """Images that the model cannot be evaluated on."""


def evaluate(config: Evaluate, directory: Path, sweep: Path | None) -> dict[str, float]:
    """Evaluate a model on a source of images.

    Args:
        config: Checked configuration.
        directory: Folder of all results.
        sweep: Common folder of several evaluations, which gets the table across data sets; None for a single one.

    Returns:
        Flat metrics: `test_...` of images the model has not seen, `seen_...` of its training and validation images;
        nan where one is undefined.
    """
    folder = tracking.find(config.run, config.tracking.uri)
    bundle = saved.read_bundle(folder).at(config.threshold)
    table, rejected = list_images(
        config.data, config.split, config.part, folder=folder, class_names=bundle.class_names, seed=config.seed
    )
    place = data_place(config.data)
    name = config.name or data_name(place, config.part)
    with tracking.start(
        **arguments(config.tracking, "log_model", "log_diff", "registered_model"),
        name=f"evaluate {name}",
        tags={"evaluated": config.run},
        directory=directory,
    ) as run:
        parts = saved.Parts(folder)
        if parts.recipe(config.features.engine).engine == "tensorflow":
            tensorflow.prepare(
                precision="float32", threads=config.runtime.threads, deterministic=True, seed=config.seed
            )
        features = compute_features(
            parts, table, config.features, threads=config.runtime.threads, ray=config.runtime.cluster()
        )
        cache.evict(config.cache.max_gigabytes)
        (kernel, bias), adaptation = parts.dense, {}
        if config.adapt == "surface":
            adapted = parts.adapted(features.rows(unseen_rows(table)).read())
            kernel, bias = adapted.kernel, adapted.bias
            adaptation = {"adapted": float(adapted.used), "adapted_shift": adapted.shift}
            outcome = f"{'' if adapted.used else 'not adapted: '}{adapted.reason}"
            log.info("adapt=surface: %s", outcome)
        predictions = Predictions(
            labels=np.array([bundle.class_names.index(label) for label in table["label"]], np.int64),
            # The saved kernel and bias include the temperature.
            logits=np.concatenate([block @ kernel + bias for block in features.blocks()]) * bundle.temperature,
            class_names=bundle.class_names,
            positive=bundle.positive,
            groups=table["group"].to_numpy(),
            split=np.where(table["seen"], "seen", "test"),
        )
        resamples = intervals.RESAMPLES if config.report.level == "full" else 0
        results = measure_parts(predictions, bundle.decision, resamples=resamples)
        distance = parts.distance
        distances = None
        if distance is not None:
            distances = np.concatenate([distance(block) for block in features.blocks()])
            results |= measure_distance(distance, distances, features, table)
        results |= adaptation | {"rejected_images": len(rejected)}
        write_predictions(predictions, bundle.decision, table, directory, distances=distances)
        files.write_text(directory / "metrics.json", as_json(results))
        manifest.write(table.drop(columns=["seen", "known"]), directory / "manifest.csv")
        if len(rejected):
            manifest.write(rejected, directory / "rejected.csv")
        if config.report.level == "full" and results["test_images"]:
            draw(config, predictions, bundle, table, directory, folder=folder, title=name)
        description = {
            "run": config.run,
            "data": name,
            "part": config.part,
            "group_by": config.split.group_by,
            "adapt": config.adapt if config.adapt == "none" else f"{config.adapt}: {outcome}",
            "decision": bundle.describe_decision(),
            "positive_class": bundle.positive_class,
            "place": str(place),
        }
        if not table["known"].all() and config.adapt == "none" and config.threshold is None:
            source = hashlib.sha256(f"{place} {config.part}".encode()).hexdigest()[:16]
            try:
                card.add_evaluation(folder, name, source, int(results["test_images"]), results)
            except OSError as error:
                log.warning("WARNING: the model card cannot be written: %s", error)
        # Last: parallel evaluations of the sweep take a folder with this file for complete.
        files.write_text(directory / DESCRIPTION, json.dumps(description, indent=2) + "\n")
        for file in _FILES:
            if (directory / file).is_file():
                run.artifacts(directory / file)
        if (directory / "figures").is_dir():
            run.artifacts(directory / "figures", "figures")
        run.parameters(description)
        if run.id is not None:
            run.evaluation(
                results,
                tracking.logged_model(config.run, folder, config.tracking.uri),
                table,
                manifest.digest(table),
                name,
            )
    log_results(results, name=name, directory=directory)
    if sweep is not None:
        tabulate(sweep)
    return results


def list_images(
    data: Data, split: Split, part: str, *, folder: Path, class_names: list[str], seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """List and check the images of a part of the data.

    Args:
        data: Source of the images.
        split: How the images are grouped.
        part: `train`, `val`, `test` or `all`.
        folder: The saved model.
        class_names: Classes of the model.
        seed: Seed of the subsample (`data.limit`).

    Returns:
        Manifest rows with the columns `seen` (training and validation images of the model) and `known` (its test images
        too), and rejected files.

    Raises:
        EvaluationError: If the model does not know a class, or the part is empty.
    """
    rows = classes.subsample(prepare.list_images(data), data.limit, seed)
    if split.given == "ignore":
        rows = rows.assign(split="")
    check_classes(sorted(set(rows["label"])), class_names)
    table, rejected = prepare.scan_images(rows, max_rejected=data.max_rejected)
    known = pd.Series(saved.seen_splits(folder, table["sha256"]), index=table.index, dtype=object)
    # The model's own split takes precedence over the folders of the source.
    split_or_given = known.where(known != "", table["split"])
    table = table.assign(seen=known.isin(["train", "val"]), known=known != "", split=split_or_given)
    if part != "all":
        counts = table["split"].replace("", "none").value_counts().to_dict()
        table = table[table["split"] == part]
        if table.empty:
            raise EvaluationError(
                f"part={part}: received no image of this part; the run's split and the source's folders give {counts}. "
                "Choose one of these, or part=all"
            )
    return prepare.group_images(table, prepare.grouping(data, split))[0].reset_index(drop=True), rejected


def check_classes(names: list[str], known: list[str]) -> None:
    """Check that the model knows all classes of the data.

    Raises:
        EvaluationError: With both lists and a `data.class_map`.
    """
    if set(names) - set(known):
        raise EvaluationError(
            f"the data has the classes {', '.join(map(manifest.printable, names))}; the model knows "
            f"{', '.join(map(manifest.printable, known))}. Map the classes: {classes.class_map_hint(names, known)}"
        )


def data_place(data: Data) -> Path:
    """Return the absolute folder or file of a data set; of one without a path its source."""
    path = getattr(data, "path", None)
    return folders.typed(path) if path else Path(data.source)


def data_name(place: Path, part: str, names: int = 1) -> str:
    """Return the name of a data set in tables: the last names of its place, and the part unless it is all."""
    name = "/".join(place.parts[-names:])
    return name if part == "all" else f"{name} {part}"


def compute_features(
    parts: saved.Parts,
    table: pd.DataFrame,
    settings: FeatureSettings,
    *,
    threads: int | None,
    ray: dict[str, Any] | None,
) -> Features:
    """Compute the features of the images, or load them from the cache."""
    from hairline.model.features import compute

    converted = parts.converted
    return compute(
        table["path"].tolist(),
        table["sha256"].tolist(),
        parts.recipe(settings.engine),
        lambda: parts.backbone,
        converted=None if converted is None else lambda: converted,
        keep=settings.keep,
        threads=threads,
        ray=ray,
    )


def unseen_rows(table: pd.DataFrame) -> NDArray[np.int64]:
    """Return rows the model has not seen, at most `_MOST_ADAPTED`, evenly spaced; of all images if it saw all."""
    rows = np.flatnonzero(~table["seen"].to_numpy())
    rows = rows if len(rows) else np.arange(len(table))
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(_MOST_ADAPTED, len(rows))).astype(np.int64))]


def measure_parts(predictions: Predictions, decision: Decision, *, resamples: int) -> dict[str, float]:
    """Compute the metrics of unseen (`test_`) and of seen images (`seen_`), the former with bootstrap intervals."""
    results: dict[str, float] = {f"{part}_images": int((predictions.split == part).sum()) for part in _TABLES}
    for part in _TABLES:
        if results[f"{part}_images"]:
            chosen = predictions.select(part)
            measured = measure(chosen, decision, resamples=resamples if part == "test" else 0)
            results |= {f"{part}_{key}": value for key, value in measured.items()}
    return results


def measure_distance(
    distance: Distance, distances: NDArray[np.float32], features: Features, table: pd.DataFrame
) -> dict[str, float]:
    """Compute `test_distance`, of the unseen images as a set, and `<part>_unfamiliar_share`, of single images."""
    seen = table["seen"].to_numpy()
    results = {
        f"{part}_unfamiliar_share": float((distances[rows] > 1).mean())
        for part, rows in (("test", ~seen), ("seen", seen))
        if rows.any()
    }
    rows = unseen_rows(table)
    if not seen.all() and len(rows) >= LEAST_SET:
        results["test_distance"] = distance.of_set(features.rows(rows).read())
    return results


def write_predictions(
    predictions: Predictions,
    decision: Decision,
    table: pd.DataFrame,
    directory: Path,
    *,
    distances: NDArray[np.float32] | None,
) -> None:
    """Write the predictions of unseen and of seen images to two files."""
    for part, file in _TABLES.items():
        rows = predictions.split == part
        if rows.any():
            chosen = predictions.select(rows)
            probabilities = chosen.probabilities(decision.temperature)
            written = predictions_table(table[rows], chosen.decided(decision), probabilities, chosen.class_names)
            if distances is not None:
                written["distance"] = distances[rows]
            manifest.write(written, directory / file)


def draw(
    config: Evaluate,
    predictions: Predictions,
    bundle: saved.Bundle,
    table: pd.DataFrame,
    directory: Path,
    *,
    folder: Path,
    title: str,
) -> None:
    """Draw the figures of the images the model has not seen."""
    from hairline.evaluation import galleries

    unseen = predictions.select("test")
    shown = galleries.Shown(table[~table["seen"]], unseen, bundle.decision, bundle.image_size, config.seed)
    galleries.draw_predictions(directory / "figures", shown, title)
    heat_maps = functools.partial(attribution.class_maps, folder, engine=config.features.engine)
    galleries.draw_heat(directory / "figures", shown, heat_maps)


def log_results(results: dict[str, float], *, name: str, directory: Path) -> None:
    """Log the metrics and the folder of the results."""
    lines = ["", f"{manifest.printable(name)}: {results['test_images']:,} images"]
    if results["seen_images"]:
        lines[-1] += (
            f"; {results['seen_images']:,} more are training or validation images of the model and are measured "
            "separately (seen_)"
        )
    for key in filter(results.__contains__, _LISTED):
        lines.append(f"{key.removeprefix('test_').replace('_', ' '):32}{described(results, key)}")
    if "test_abstained" in results:
        line = f"{'images without an answer':32}{results['test_abstained']:.4f}"
        lines.append(f"{line}  (inside decision.abstain; the metrics count them by the threshold)")
    if "test_distance" in results:
        share = f"{results['test_unfamiliar_share']:.1%} of the images are unlike any of the training"
        lines.append(f"{'distance from the training':32}{results['test_distance']:.2f}  ({share})")
        if results["test_distance"] > surface.FAR:
            lines.append("these images differ from those of the training as a set: see docs/generalisation.md")
    if not results["test_images"]:
        lines.append("the model was trained or tuned on all of these images: they do not show how it does on others")
        lines.append(f"{'accuracy (seen)':32}{results['seen_accuracy']:.4f}")
    log.info("\n".join([*lines, "", f"Directory   {files.relative(directory)}"]))


def tabulate(sweep: Path) -> pd.DataFrame:
    """Collect the finished evaluations of a sweep, one row each: `cross_table.csv`, `cross_table.png`, and the log."""
    from hairline.evaluation import figures

    rows: list[dict[str, Any]] = []
    for path in sorted(sweep.glob(f"*/{DESCRIPTION}"), key=lambda path: (len(path.parent.name), path.parent.name)):
        description = json.loads(path.read_text(encoding="utf-8"))
        rows.append(description | json.loads((path.parent / "metrics.json").read_text(encoding="utf-8")))
    table = pd.DataFrame(rows)
    same_name = table.groupby("data")["place"].transform("nunique") > 1
    longer = [data_name(Path(row["place"]), row["part"], names=2) for row in rows]
    table["data"] = table["data"].mask(same_name, longer)
    table = table.drop(columns="place")
    manifest.write(table, sweep / "cross_table.csv")
    metric_names = [name for name in _LISTED if name in table and table[name].notna().any()]
    several = table["run"].nunique() > 1
    numbers = table[["test_images", *metric_names]].apply(pd.to_numeric)  # null in JSON is None here
    short = pd.concat([table[["data", "run"] if several else ["data"]], numbers], axis=1)
    short = short.rename(columns=lambda name: name.removeprefix("test_"))
    log.info("\n%s\n", short.to_string(index=False, float_format="{:.4f}".format, na_rep="-"))
    if metric_names:
        title = "Models on several data sets" if several else "One model on several data sets"
        runs = table["run"].tolist() if several else None
        figure = figures.metric_intervals(
            table, metric_names[:5], names=table["data"].tolist(), groups=runs, title=title
        )
        figures.save(figure, sweep / "cross_table.png")
    return table
