"""The story of one training run, from a source of images to a saved model and its report.

TensorFlow takes seconds to import, so whatever needs it is imported inside the functions: faults of configuration
and data answer first.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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

    from hairline.model.bundle import Bundle
    from hairline.model.classifier import Standardisation
    from hairline.model.features import Features

log = logging.getLogger(__name__)

PARITY_LIMIT = 1e-4  # between the joined model's probabilities and the feature path's
_PARITY_IMAGES = 32


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
            run.parameters({"weights": frozen.weights, "taps": " ".join(frozen.taps) or "last layer"})
        with seconds("head"):
            head, standardisation, history = train_head(config, data, frozen, directory, run)
        with seconds("evaluate"):
            probabilities = predict(head, frozen.images)
            bundle = describe_model(config, data, frozen)
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
            if config.tracking.log_model:
                with seconds("log_model"):
                    example = Path(data.manifest["path"].iloc[data.rows("test")[0]])
                    run.model(directory / "model", bundle, example.read_bytes())
        results |= seconds.measured()
        (directory / "metrics.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        mirror(directory, results, run)
    say_results(config, data, results, directory)
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
    run.parameters(configuration.leaves(config))
    run.dataset(data.manifest, manifest.digest(data.manifest), config.data.source)


@dataclass(frozen=True)
class Frozen:
    """The frozen backbone and what it made of the images.

    Attributes:
        backbone: Builds the model from uint8 RGB to features; the second call gives the same model.
        weights: Where its weights come from: imagenet, random, or a file.
        digest: Names the weights.
        taps: Layers that were pooled; empty for the last one.
        images: Features of all images as they are.
        training: Gives an epoch's training features: always the same views, or fresh ones.
        views: Times each training image stands in them.
    """

    backbone: Callable[[], keras.Model]
    weights: str
    digest: str
    taps: tuple[str, ...]
    images: Features
    training: Callable[[int], Features]
    views: int


def frozen_features(config: Config, data: Data, file: Path | None) -> Frozen:
    """Compute, or take from the cache, the features of all images and of the training images' further views."""
    from hairline.model import engine
    from hairline.model import features as frozen

    name, size = config.model.backbone, config.image_size
    imagenet = file is not None and config.model.weights in backbones.NAMED_WEIGHTS
    digest = backbones.identify(file, config.seed)
    taps = tuple(config.model.taps) or (backbones.BACKBONES[name].random_taps if file is None else ())

    @functools.cache
    def backbone() -> keras.Model:
        with runtime.strategy(config.runtime.devices).scope():
            return backbones.build(name, image_size=size, weights=file, seed=config.seed, taps=taps)

    chosen = engine.choose(config.features.engine)
    settings = arguments(config.augment, "mode", "views")
    train_rows = data.rows("train")

    def features(view: int, rows: np.ndarray, keep: bool, label: str) -> Features:
        recipe = frozen.Recipe(name, digest, size, chosen, view, settings if view else {}, taps)
        table = data.manifest.iloc[rows]
        paths, digests = table["path"].tolist(), table["sha256"].tolist()
        return frozen.compute(
            paths,
            digests,
            recipe,
            backbone,
            keep=keep,
            max_gigabytes=config.features.max_gigabytes,
            threads=config.runtime.threads,
            label=label,
        )

    everything = features(0, np.arange(len(data.manifest)), config.features.keep, "features")
    plain = everything.rows(train_rows)
    weights = "random" if file is None else "imagenet" if imagenet else str(file)
    if config.augment.mode == "fresh":

        def fresh(epoch: int) -> Features:
            return features(epoch, train_rows, False, f"features, epoch {epoch}/{config.epochs}")

        return Frozen(backbone, weights, digest, taps, everything, fresh, 1)
    count = config.augment.views
    labels = {view: f"features, view {view + 1}/{count}" for view in range(1, count)}
    views = [features(view, train_rows, config.features.keep, label) for view, label in labels.items()]
    joined = frozen.Features.joined([plain, *views])
    return Frozen(backbone, weights, digest, taps, everything, lambda epoch: joined, count)


def train_head(
    config: Config, data: Data, frozen: Frozen, directory: Path, run: tracking.Run
) -> tuple[keras.Model, Standardisation, pd.DataFrame]:
    """Train the head on the training images' features; write and mirror the history."""
    import keras

    from hairline import training
    from hairline.model import classifier

    train_rows, val_rows = data.rows("train"), data.rows("val")
    fresh = config.augment.mode == "fresh"
    standardisation = classifier.Standardisation.of(frozen.images.rows(train_rows) if fresh else frozen.training(1))
    keras.utils.set_random_seed(config.seed)
    head = classifier.build_head(standardisation, classes=len(data.class_names), dropout=config.model.dropout)
    history = training.fit_head(
        head,
        frozen.training,
        np.tile(data.labels[train_rows], frozen.views),
        frozen.images.rows(val_rows),
        data.labels[val_rows],
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        optimizer=arguments(config.optimizer),
        schedule=arguments(config.schedule, "patience", "keep"),
        patience=config.schedule.patience,
        keep=config.schedule.keep,
        label_smoothing=config.model.label_smoothing,
        balanced=config.model.class_weights == "balanced",
        seed=config.seed,
        on_epoch=lambda epoch, row: run.metrics(row, step=epoch),
    )
    history.to_csv(directory / "history.csv", index=False)
    return head, standardisation, history


def predict(head: keras.Model, features: Features) -> np.ndarray:
    """Give the probabilities float32 [n, classes] of features."""
    from hairline.model import classifier

    return classifier.probabilities(classifier.logits(head, features))


def describe_model(config: Config, data: Data, frozen: Frozen) -> Bundle:
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
            "weights": frozen.weights,
            "weights_digest": frozen.digest,
            "taps": " ".join(frozen.taps),
            "licence": row.licence if frozen.weights == "imagenet" else "",
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

    model = classifier.join(frozen.backbone(), head, standardisation)
    rows = data.rows("test")[:_PARITY_IMAGES]
    pixels = np.stack([images.decode(path, config.image_size) for path in data.manifest["path"].iloc[rows]])
    difference = float(np.abs(np.asarray(model(pixels, training=False)) - probabilities[rows]).max())
    if not difference <= PARITY_LIMIT and config.runtime.precision == "float32":
        raise RuntimeError(
            f"the joined model's probabilities differ from the trained head's by {difference:.2g} on test images; "
            f"expected at most {PARITY_LIMIT:g}: the model was not saved"
        )
    statistics = {"mean": standardisation.mean, "deviation": standardisation.deviation}
    bundles.save(directory / "model", model, bundle, statistics)
    return {"parity_difference": difference}


def mirror(directory: Path, results: dict[str, float], run: tracking.Run) -> None:
    """Log the final metrics and files."""
    run.metrics(results)
    for name in ("history.csv", "predictions.csv", "metrics.json"):
        run.artifacts(directory / name)
    if (directory / "figures").is_dir():
        run.artifacts(directory / "figures", "figures")
    for path in directory.glob("*.log"):
        run.artifacts(path)


def run_name(config: Config, overrides: list[str]) -> str:
    """Name a run so that it can be told from its neighbours: backbone, optimizer, and what else was overridden."""
    hidden = (
        "model=",
        "optimizer=",
        "data=folder",
        "data.path=",
        "name=",
        "tags",
        "tracking",
        "report",
        "runtime",
        "hydra",
    )
    told = [entry.lstrip("+") for entry in overrides]
    told = [entry.removeprefix("experiment=") for entry in told if not entry.startswith(hidden)]
    return " ".join([config.model.backbone, config.optimizer.name, *told])[:250]


def say_results(config: Config, data: Data, results: dict[str, float], directory: Path) -> None:
    """Print what came out, where it lies, and what to try next."""
    lines = ["", f"{'':7}{'images':>9}{'accuracy':>11}{'loss':>9}"]
    for split in manifest.SPLITS:
        lines.append(
            f"{split:7}{len(data.rows(split)):>9,}{results[f'{split}_accuracy']:>11.4f}{results[f'{split}_loss']:>9.4f}"
        )
    stages = {key.removeprefix("seconds_"): value for key, value in results.items() if key.startswith("seconds_")}
    lines += ["", "seconds  " + "  ".join(f"{name} {value:.1f}" for name, value in stages.items()), ""]
    place = os.path.relpath(directory) if directory.is_relative_to(Path.cwd()) else str(directory)
    lines.append(f"Run directory   {place}")
    if config.tracking.enabled:
        lines.append(f"Compare runs    {tracking.how_to_see(config.tracking.uri)}")
    if config.data.source == "synthetic":
        lines.append("Try next        python train.py data=folder data.path=<folder with one sub-folder a class>")
    else:
        lines.append("Try next        add -m optimizer=adam,sgd learning_rate=1e-2,1e-3: a run for each combination")
    log.info("\n".join(lines))
