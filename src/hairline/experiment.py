"""The story of one training run, from a source of images to a saved model and its report.

TensorFlow takes seconds to import, so whatever needs it is imported inside the functions: faults of configuration
and data answer first.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hairline import config as configuration
from hairline import environment, runtime, tracking
from hairline.config import Config, arguments
from hairline.data import images, manifest, sources, splits
from hairline.evaluation import metrics, report
from hairline.model import backbones

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from hairline.model.bundle import Bundle
    from hairline.model.classifier import Standardisation
    from hairline.model.features import Features, Recipe

log = logging.getLogger(__name__)

PARITY_LIMIT = 1e-4  # between the joined model's probabilities and the feature path's
_PARITY_IMAGES = 32
# Settings that are no part of what a run tried; config.yaml holds them.
_UNTOLD = ("tracking", "name", "tags")


def train(config: Config, directory: Path, overrides: list[str]) -> dict[str, float]:
    """Run one experiment.

    Args:
        config: Checked configuration.
        directory: The run directory; all results are written there, and mirrored to MLflow.
        overrides: What the command line changed, for the run's name.

    Returns:
        The flat metrics that `metrics.json` holds.
    """
    seconds = Stages()
    with seconds("data"):
        weights = backbones.find_weights(config.model.backbone, config.model.weights, config.image_size)
        data = prepare_data(config)
    with tracking.start(
        **arguments(config.tracking, "log_model"),
        name=config.name or run_name(config, overrides),
        tags={**config.tags, "configuration": configuration.identity(config)},
    ) as run:
        with seconds("setup"):
            record_inputs(config, data, directory, run)
            runtime.prepare(**arguments(config.runtime, "devices"), seed=config.seed)
        with seconds("features"):
            frozen = frozen_features(config, data, weights)
            origin = (
                "random" if weights is None else str(weights) if Path(config.model.weights) == weights else "imagenet"
            )
            run.parameters({"weights": origin, "taps": " ".join(frozen.recipe.taps) or "last layer"})
        with seconds("head"):
            head, standardisation, history = train_head(config, data, frozen, directory, run)
            probabilities = predict(head, frozen.images)
        if config.finetune.layers != "none":
            with seconds("finetune"):
                probabilities, history = finetune(config, data, frozen, head, history, directory, run)
        with seconds("evaluate"):
            bundle = describe_model(config, data, frozen, origin)
            results = evaluate(data, probabilities, bundle, directory)
        if config.report.level == "full":
            with seconds("model"):
                results |= save_model(config, data, frozen, head, standardisation, probabilities, bundle, directory)
            with seconds("figures"):
                report.draw(
                    directory / "figures",
                    manifest=data.manifest,
                    labels=data.labels,
                    probabilities=probabilities,
                    history=history,
                    class_names=data.class_names,
                    positive=data.positive,
                    image_size=config.image_size,
                    augment=arguments(config.augment),
                    seed=config.seed,
                )
        results |= seconds.measured()
        (directory / "metrics.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        mirror(config, data, results, directory, run)
        if config.report.level == "full" and config.tracking.log_model:
            # Last: MLflow ties whatever is logged after a model to that model.
            example = Path(data.manifest["path"].iloc[data.rows("test")[0]])
            run.model(directory / "model", bundle, example.read_bytes())
    say_results(config, data, results, directory, run)
    return results


class Stages:
    """Seconds spent in each named stage of a run."""

    def __init__(self) -> None:
        """Start the clock of the whole run."""
        self._seconds: dict[str, float] = {}
        self._started = time.perf_counter()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the block's time under `name`."""
        started = time.perf_counter()
        yield
        self._seconds[name] = time.perf_counter() - started

    def measured(self) -> dict[str, float]:
        """Give `seconds_<stage>` for each stage so far, and `seconds_total` since the start."""
        found = {f"seconds_{name}": value for name, value in self._seconds.items()}
        return found | {"seconds_total": time.perf_counter() - self._started}


@dataclass(frozen=True)
class Data:
    """The divided manifest and what follows from it.

    Attributes:
        manifest: With splits.
        rejected: Files that are no readable images.
        class_names: Sorted.
        positive: Index of the class that precision, recall and the threshold refer to; None: macro averages.
        labels: int64 [n], index of each row's class.
    """

    manifest: pd.DataFrame
    rejected: pd.DataFrame
    class_names: list[str]
    positive: int | None
    labels: np.ndarray

    def rows(self, split: str) -> np.ndarray:
        """Give the row numbers of one split."""
        return np.flatnonzero(self.manifest["split"] == split)


def prepare_data(config: Config) -> Data:
    """List, check and divide the images."""
    settings = config.data
    shared = ("source", "limit", "positive_class", "max_rejected")
    listed = sources.SOURCES[settings.source](**arguments(settings, *shared))
    listed = sources.limited(listed, settings.limit, config.seed)
    table, rejected = manifest.scan(listed)
    manifest.refuse_rejected(rejected, len(listed), settings.max_rejected)
    manifest.refuse_contradictions(table)
    grouping = ("group_by", "block_size", "pattern")
    table = splits.group(table, **{key: getattr(config.split, key) for key in grouping})
    table = splits.split(table, **arguments(config.split, *grouping), seed=config.seed).reset_index(drop=True)
    class_names = sorted(table["label"].unique())
    positive = sources.positive_class(class_names, settings.positive_class)
    data = Data(
        table,
        rejected,
        class_names,
        None if positive is None else class_names.index(positive),
        pd.Categorical(table["label"], categories=class_names).codes.astype(np.int64),
    )
    _say_data(config, data)
    return data


def _say_data(config: Config, data: Data) -> None:
    counts = pd.crosstab(data.manifest["split"], data.manifest["label"])
    for split in manifest.SPLITS:
        per_class = ", ".join(f"{manifest.shown(name)} {counts.loc[split, name]:,}" for name in data.class_names)
        log.info("%-5s %7s images  (%s)", split, f"{counts.loc[split].sum():,}", per_class)
    if len(data.class_names) == 2:
        if data.positive is None:
            log.info("positive class: none known; set data.positive_class to one of %s", ", ".join(data.class_names))
        else:
            how = "as set" if config.data.positive_class else "guessed by its name"
            log.info("positive class: %s (%s)", manifest.shown(data.class_names[data.positive]), how)
    if len(data.rejected):
        log.warning(
            "WARNING: %d files are no readable images and are left out (rejected.csv):\n%s",
            len(data.rejected),
            manifest.describe_rejected(data.rejected),
        )
    if config.batch_size > counts.loc["train"].sum():
        log.warning(
            "WARNING: batch_size=%d is larger than the training part (%d images): each epoch is one step",
            config.batch_size,
            counts.loc["train"].sum(),
        )


def record_inputs(config: Config, data: Data, directory: Path, run: tracking.Run) -> None:
    """Write down and mirror what the run starts from."""
    configuration.save(config, directory / "config.yaml")
    manifest.write(data.manifest, directory / "manifest.csv")
    if len(data.rejected):
        manifest.write(data.rejected, directory / "rejected.csv")
    about = json.dumps(environment.describe(), indent=2, ensure_ascii=False)
    (directory / "environment.json").write_text(about + "\n", encoding="utf-8")
    for path in sorted(directory.glob("*.[cjy]*")):
        run.artifacts(path)
    told = {key: value for key, value in configuration.leaves(config).items() if not key.startswith(_UNTOLD)}
    run.parameters(told)
    name = Path(getattr(config.data, "path", None) or config.data.source).name
    run.dataset(data.manifest, manifest.digest(data.manifest), name)


@dataclass(frozen=True)
class Frozen:
    """A frozen model and what it made of the images.

    Attributes:
        model: Builds it; the second call gives the same model.
        recipe: How its features are made.
        images: Features of all images as they are.
        training: Gives an epoch's training features: always the same views, or fresh ones.
        views: Times each training image stands in them.
    """

    model: Callable[[], keras.Model]
    recipe: Recipe
    images: Features
    training: Callable[[int], Features]
    views: int


def frozen_features(config: Config, data: Data, weights: Path | None) -> Frozen:
    """Compute, or take from the cache, the features of all images and of the training images' further views."""
    from hairline.model import engine
    from hairline.model.features import Recipe

    name, size = config.model.backbone, config.image_size
    taps = tuple(config.model.taps) or (backbones.BACKBONES[name].random_taps if weights is None else ())

    @functools.cache
    def backbone() -> keras.Model:
        with runtime.strategy(config.runtime.devices).scope():
            return backbones.build(name, image_size=size, weights=weights, seed=config.seed, taps=taps)

    digest = backbones.identify(weights, config.seed)
    chosen = engine.choose(config.features.engine)
    recipe = Recipe(name, digest, size, chosen, taps=taps, precision=config.runtime.precision)
    return pass_images(config, data, backbone, recipe, "features")


def pass_images(config: Config, data: Data, model: Callable[[], keras.Model], recipe: Recipe, label: str) -> Frozen:
    """Pass all images, and the training images' further views, through a frozen model."""
    from hairline.model.features import Features, compute

    train_rows = data.rows("train")

    def outputs(view: int, rows: np.ndarray, keep: bool, place: str) -> Features:
        table = data.manifest.iloc[rows]
        augment = arguments(config.augment, "mode", "views") if view else {}
        return compute(
            table["path"].tolist(),
            table["sha256"].tolist(),
            replace(recipe, view=view, augment=augment),
            model,
            keep=keep,
            max_gigabytes=config.features.max_gigabytes,
            threads=config.runtime.threads,
            label=label + place,
        )

    everything = outputs(0, np.arange(len(data.manifest)), config.features.keep, "")
    if config.augment.mode == "fresh":
        return Frozen(model, recipe, everything, lambda epoch: outputs(epoch, train_rows, False, f", epoch {epoch}"), 1)
    count = config.augment.views
    views = [outputs(view, train_rows, config.features.keep, f", view {view + 1}/{count}") for view in range(1, count)]
    joined = Features.joined([everything.rows(train_rows), *views])
    return Frozen(model, recipe, everything, lambda epoch: joined, count)


def train_head(
    config: Config, data: Data, frozen: Frozen, directory: Path, run: tracking.Run
) -> tuple[keras.Model, Standardisation, pd.DataFrame]:
    """Train the head on the training images' features; write and mirror the history."""
    import keras

    from hairline.model import classifier

    fresh = config.augment.mode == "fresh"
    plain = frozen.images.rows(data.rows("train"))
    standardisation = classifier.Standardisation.of(plain if fresh else frozen.training(1))
    keras.utils.set_random_seed(config.seed)
    head = classifier.build_head(standardisation, classes=len(data.class_names), dropout=config.model.dropout)
    history = fit_rows(
        config,
        data,
        head,
        frozen,
        run,
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        phase="head",
    )
    history.to_csv(directory / "history.csv", index=False)
    return head, standardisation, history


def fit_rows(
    config: Config, data: Data, model: keras.Model, frozen: Frozen, run: tracking.Run, *, batch_size: int, **phase: Any
) -> pd.DataFrame:
    """Train a model on what a frozen one made of the images."""
    from hairline import training
    from hairline.data import pipeline

    one_hot = np.eye(len(data.class_names), dtype=np.float32)
    labels = np.tile(data.labels[data.rows("train")], frozen.views)
    val = frozen.images.rows(data.rows("val"))

    def epoch(number: int) -> tf.data.Dataset:
        rows = frozen.training(number)
        order = np.random.default_rng([config.seed, number]).permutation(len(labels))
        return pipeline.feature_batches(rows.read, rows.width, one_hot[labels], batch_size=batch_size, order=order)

    return training.fit(
        model,
        epoch,
        pipeline.feature_batches(val.read, val.width, one_hot[data.labels[data.rows("val")]], batch_size=1024),
        steps=-(-len(labels) // batch_size),
        **fit_settings(config, data, run),
        **phase,
    )


def fit_settings(config: Config, data: Data, run: tracking.Run) -> dict[str, Any]:
    """Give the settings of training that all phases share."""
    from hairline import training

    balanced = config.model.class_weights == "balanced"
    return {
        "optimizer": arguments(config.optimizer),
        "schedule": arguments(config.schedule, "patience", "keep"),
        "patience": config.schedule.patience,
        "keep": config.schedule.keep,
        "label_smoothing": config.model.label_smoothing,
        "weights": training.class_weights(data.labels[data.rows("train")], len(data.class_names)) if balanced else None,
        "on_epoch": lambda number, row: run.metrics(row, step=number),
    }


def finetune(
    config: Config,
    data: Data,
    frozen: Frozen,
    head: keras.Model,
    history: pd.DataFrame,
    directory: Path,
    run: tracking.Run,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Train the backbone's upper layers, or all, together with the head; both are changed in place.

    What lies below the layers that are trained is still data: its activations are cached like any features.

    Returns:
        Probabilities float32 [n, classes] of all images, and the history of both phases.
    """
    import keras

    from hairline import training
    from hairline.data import pipeline
    from hairline.model import classifier, finetuning

    settings = config.finetune
    backbone = frozen.model()
    cut = finetuning.unfreeze(backbone, settings.layers, settings.from_layer)
    phase: dict[str, Any] = {
        "epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "phase": "fine-tune",
        "before": history,
    }
    if cut is not None:
        log.info("fine-tuning from layer %s up", cut.layer)
        recipe = replace(frozen.recipe, taps=(*frozen.recipe.taps, f"below {cut.layer}"))
        below = pass_images(config, data, lambda: cut.lower, recipe, "activations")
        model = keras.Model(cut.upper.input, head(cut.upper.output))
        history = fit_rows(config, data, model, below, run, batch_size=settings.batch_size, **phase)
        scores = classifier.logits(model, below.images, chunk=256)
    else:
        model = keras.Model(backbone.input, head(backbone.output))
        one_hot = np.eye(len(data.class_names), dtype=np.float32)[data.labels]
        augment = arguments(config.augment, "mode", "views")

        def batches(rows: np.ndarray, **order: Any) -> tf.data.Dataset:
            table = data.manifest.iloc[rows]
            return pipeline.batches(
                table["path"].tolist(),
                image_size=config.image_size,
                batch_size=settings.batch_size,
                labels=one_hot[rows],
                digests=table["sha256"].tolist(),
                augment=augment,
                **order,
            )

        def epoch(number: int) -> tf.data.Dataset:
            view = number if config.augment.mode == "fresh" else (number - 1) % config.augment.views
            seed = int(np.random.default_rng([config.seed, number]).integers(2**31))
            return batches(data.rows("train"), view=view, shuffle=True, seed=seed)

        steps = -(-len(data.rows("train")) // settings.batch_size)
        shared = fit_settings(config, data, run)
        history = training.fit(model, epoch, batches(data.rows("val")), steps=steps, **shared, **phase)
        scores = model.predict(batches(np.arange(len(data.manifest))), verbose=0)
    history.to_csv(directory / "history.csv", index=False)
    return classifier.probabilities(scores), history


def predict(head: keras.Model, features: Features) -> np.ndarray:
    """Give the probabilities float32 [n, classes] of features."""
    from hairline.model import classifier

    return classifier.probabilities(classifier.logits(head, features))


def describe_model(config: Config, data: Data, frozen: Frozen, origin: str) -> Bundle:
    """Describe the model for whoever uses it."""
    from hairline.model.bundle import Bundle

    row = backbones.BACKBONES[config.model.backbone]
    return Bundle(
        class_names=data.class_names,
        positive_class=None if data.positive is None else data.class_names[data.positive],
        image_size=config.image_size,
        decode=images.RECIPE,
        threshold=None if data.positive is None else 0.5,
        data_digest=manifest.digest(data.manifest),
        backbone={
            "name": config.model.backbone,
            "weights": origin,
            "weights_digest": frozen.recipe.weights,
            "taps": " ".join(frozen.recipe.taps),
            "finetuned": config.finetune.layers,
            "licence": row.licence if origin == "imagenet" else "",
        },
        versions=environment.versions(),
    )


def evaluate(data: Data, probabilities: np.ndarray, bundle: Bundle, directory: Path) -> dict[str, float]:
    """Measure all splits, and write the test predictions."""
    from hairline.inference import with_probabilities

    results: dict[str, float] = {}
    for split in manifest.SPLITS:
        rows = data.rows(split)
        found = metrics.classification_metrics(data.labels[rows], probabilities[rows], positive=data.positive)
        kept = found if split == "test" else {key: found[key] for key in ("accuracy", "loss")}
        results |= {f"{split}_{key}": value for key, value in kept.items()}
        results[f"{split}_images"] = len(rows)
    test = data.rows("test")
    table = data.manifest.iloc[test][["path", "width", "height", "label"]].reset_index(drop=True)
    table.insert(1, "x", 0)
    table.insert(2, "y", 0)
    manifest.write(with_probabilities(table, probabilities[test], bundle), directory / "predictions.csv")
    return results


def save_model(
    config: Config,
    data: Data,
    frozen: Frozen,
    head: keras.Model,
    standardisation: Standardisation,
    probabilities: np.ndarray,
    bundle: Bundle,
    directory: Path,
) -> dict[str, float]:
    """Join backbone and head, check the whole against the feature path on real test images, and save it."""
    from hairline.model import bundle as bundles
    from hairline.model import classifier

    model = classifier.join(frozen.model(), head, standardisation)
    rows = data.rows("test")[:_PARITY_IMAGES]
    pixels = np.stack([images.decode(path, config.image_size) for path in data.manifest["path"].iloc[rows]])
    # In small batches: an eager call on all of them would more than double the run's peak memory.
    joined = model.predict(pixels, batch_size=8, verbose=0)
    difference = float(np.abs(joined - probabilities[rows]).max())
    if not difference <= PARITY_LIMIT and config.runtime.precision == "float32":
        raise RuntimeError(
            f"the joined model's probabilities differ from the trained head's by {difference:.2g} on test images; "
            f"expected at most {PARITY_LIMIT:g}: the model was not saved"
        )
    statistics = {"mean": standardisation.mean, "deviation": standardisation.deviation}
    bundles.save(directory / "model", model, bundle, statistics)
    return {"parity_difference": difference}


def mirror(config: Config, data: Data, results: dict[str, float], directory: Path, run: tracking.Run) -> None:
    """Log the final metrics and files."""
    # The epochs' own val_loss and val_accuracy are curves; the kept weights' values get names of their own.
    grouped = {f"best_{key}" if key.startswith("val_") else key: value for key, value in results.items()}
    # A slash makes MLflow draw a section of its own, so that stages' seconds don't come before accuracies.
    run.metrics({key.replace("seconds_", "seconds/").replace("_images", "/images"): grouped[key] for key in grouped})
    run.note(
        f"Test accuracy **{results['test_accuracy']:.4f}** on {len(data.rows('test')):,} images "
        f"({', '.join(data.class_names)}).\n\n`{shlex.join(environment.command())}`"
    )
    for name in ("history.csv", "predictions.csv", "metrics.json"):
        run.artifacts(directory / name)
    if (directory / "figures").is_dir():
        run.artifacts(directory / "figures", "figures")
    for path in directory.glob("*.log"):
        run.artifacts(path)


def run_name(config: Config, overrides: list[str]) -> str:
    """Name a run so that it can be told from its neighbours, what differs first: MLflow cuts long names."""
    hidden = ("model=", "optimizer=", "data=folder", "data.path=", "name=", "tags", "tracking", "report", "runtime")
    told = [entry.lstrip("+") for entry in overrides]
    told = [entry.removeprefix("experiment=") for entry in told if not entry.startswith((*hidden, "hydra"))]
    return " ".join([*reversed(told), config.model.backbone, config.optimizer.name])[:250]


def say_results(config: Config, data: Data, results: dict[str, float], directory: Path, run: tracking.Run) -> None:
    """Print what came out, where it lies, and what to try next."""
    lines = ["", f"{'':7}{'images':>9}{'accuracy':>11}{'loss':>9}"]
    for split in manifest.SPLITS:
        accuracy, loss = results[f"{split}_accuracy"], results[f"{split}_loss"]
        lines.append(f"{split:7}{len(data.rows(split)):>9,}{accuracy:>11.4f}{loss:>9.4f}")
    stages = {key.removeprefix("seconds_"): value for key, value in results.items() if key.startswith("seconds_")}
    lines += ["", "seconds  " + "  ".join(f"{name} {value:.1f}" for name, value in stages.items()), ""]
    place = os.path.relpath(directory) if directory.is_relative_to(Path.cwd()) else str(directory)
    lines.append(f"Run directory   {place}")
    if run.id is not None:
        lines.append("Compare runs    " + "   then open ".join(run.how_to_see(config.tracking.uri)))
    if config.data.source == "synthetic":
        lines.append("Try next        python train.py data=folder data.path=<folder with one sub-folder a class>")
    else:
        lines.append("Try next        add -m optimizer=adam,sgd learning_rate=1e-2,1e-3: a run for each combination")
    log.info("\n".join(lines))
