"""The story of one training run, from a source of images to a saved model and its report.

TensorFlow takes seconds to import, so whatever needs it is imported inside the functions: faults of configuration
and data answer first.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hairline import config as configuration
from hairline import environment, runtime, tracking
from hairline.config import Config, arguments
from hairline.data import images, manifest, sources, splits
from hairline.evaluation import metrics

if TYPE_CHECKING:
    import keras

    from hairline.model.bundle import Bundle
    from hairline.model.classifier import Standardisation

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
        data = prepare_data(config, directory)
    with tracking.start(
        **arguments(config.tracking, "log_model"),
        name=config.name or run_name(config, overrides),
        tags={**config.tags, "configuration": configuration.identity(config)},
    ) as run:
        with seconds("setup"):
            record_inputs(config, data, directory, run)
            runtime.prepare(**arguments(config.runtime, "devices"), seed=config.seed)
        with seconds("features"):
            backbone, weights, features = frozen_features(config, data)
            run.parameters({"weights": weights})
        with seconds("head"):
            head, standardisation, history = train_head(config, data, features, directory, run)
        with seconds("evaluate"):
            probabilities = predict(head, features[0])
            bundle = describe_model(config, data, backbone, weights)
            results = evaluate(data, probabilities, bundle, directory)
        if config.report.level == "full":
            with seconds("model"):
                results |= save_model(
                    backbone, head, standardisation, data, probabilities, bundle, directory, run, config
                )
            with seconds("figures"):
                draw(config, data, history, probabilities, directory)
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


def prepare_data(config: Config, directory: Path) -> Data:
    """List, check and divide the images; what was rejected is written down first."""
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


def frozen_features(config: Config, data: Data) -> tuple[keras.Model, str, list[np.ndarray]]:
    """Compute the features of all images, and of each further view of the training images.

    Returns:
        The backbone; where its weights come from; float32 [n, width] of all images as they are, followed by
        float32 [training images, width] for each view from 1 on.
    """
    from hairline.model import backbones
    from hairline.model import features as frozen

    file = backbones.find_weights(config.model.backbone, config.model.weights, config.image_size)
    imagenet = file is not None and config.model.weights in backbones.NAMED_WEIGHTS
    weights = "random" if file is None else "imagenet" if imagenet else str(file)
    with runtime.strategy(config.runtime.devices).scope():
        backbone = backbones.build(config.model.backbone, image_size=config.image_size, weights=file, seed=config.seed)
    found = []
    for view in range(config.augment.views):
        rows = data.manifest if view == 0 else data.manifest.iloc[data.rows("train")]
        found.append(
            frozen.compute(
                backbone,
                rows["path"].tolist(),
                image_size=config.image_size,
                digests=rows["sha256"].tolist(),
                augment=arguments(config.augment, "views"),
                view=view,
                seed=config.seed,
                label=f"features, view {view + 1}/{config.augment.views}" if config.augment.views > 1 else "features",
            )
        )
    return backbone, weights, found


def train_head(
    config: Config, data: Data, features: list[np.ndarray], directory: Path, run: tracking.Run
) -> tuple[keras.Model, Standardisation, pd.DataFrame]:
    """Train the head on the training images' features, all views; write and mirror the history."""
    import keras

    from hairline import training
    from hairline.model import classifier

    train_rows, val_rows = data.rows("train"), data.rows("val")
    views = np.concatenate([features[0][train_rows], *features[1:]])
    standardisation = classifier.Standardisation.of(views)
    keras.utils.set_random_seed(config.seed)
    head = classifier.build_head(standardisation, classes=len(data.class_names), dropout=config.model.dropout)
    history = training.fit_head(
        head,
        (views, np.tile(data.labels[train_rows], len(features))),
        (features[0][val_rows], data.labels[val_rows]),
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


def predict(head: keras.Model, features: np.ndarray) -> np.ndarray:
    """Give the probabilities float32 [n, classes] of features float32 [n, width]."""
    from hairline.model import classifier

    return classifier.probabilities(classifier.logits(head, features))


def describe_model(config: Config, data: Data, backbone: keras.Model, weights: str) -> Bundle:
    """Describe the model for whoever uses it."""
    from hairline.model import backbones
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
            "weights": weights,
            "weights_digest": backbones.weights_digest(backbone),
            "licence": row.licence if weights == "imagenet" else "",
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
    backbone: keras.Model,
    head: keras.Model,
    standardisation: Standardisation,
    data: Data,
    probabilities: np.ndarray,
    bundle: Bundle,
    directory: Path,
    run: tracking.Run,
    config: Config,
) -> dict[str, float]:
    """Join, check against the feature path on real test images, save, and log the model."""
    from hairline.model import bundle as bundles
    from hairline.model import classifier

    model = classifier.join(backbone, head, standardisation)
    rows = data.rows("test")[:_PARITY_IMAGES]
    paths = data.manifest["path"].iloc[rows]
    pixels = np.stack([images.decode(path, config.image_size) for path in paths])
    difference = float(np.abs(np.asarray(model(pixels, training=False)) - probabilities[rows]).max())
    if not difference <= PARITY_LIMIT and config.runtime.precision == "float32":
        raise RuntimeError(
            f"the joined model's probabilities differ from the trained head's by {difference:.2g} on test images; "
            f"expected at most {PARITY_LIMIT:g}: the model was not saved"
        )
    statistics = {"mean": standardisation.mean, "deviation": standardisation.deviation}
    bundles.save(directory / "model", model, bundle, statistics)
    if config.tracking.log_model:
        run.model(directory / "model", bundle, Path(paths.iloc[0]).read_bytes())
    return {"parity_difference": difference}


def draw(config: Config, data: Data, history: pd.DataFrame, probabilities: np.ndarray, directory: Path) -> None:
    """Draw the run's figures."""
    from hairline.evaluation import figures

    folder = directory / "figures"
    folder.mkdir(exist_ok=True)
    test = data.rows("test")
    labels, predicted = data.labels[test], probabilities[test].argmax(axis=1)
    figures.save(figures.learning_curves(history), folder / "curves.png")
    matrix = metrics.confusion_matrix(labels, predicted, len(data.class_names))
    figures.save(
        figures.confusion_matrix(matrix, data.class_names, title="Test images"), folder / "confusion_matrix.png"
    )
    if data.positive is not None:
        scores = probabilities[test][:, data.positive]
        positive_name = data.class_names[data.positive]
        figures.save(
            figures.ranking_curves(labels == data.positive, scores, positive_name=positive_name, threshold=0.5),
            folder / "ranking.png",
        )
    figures.save(_samples(config, data), folder / "samples.png")
    figures.save(_gallery(config, data, probabilities), folder / "predictions.png")


def _samples(config: Config, data: Data) -> Any:
    """Draw training images as the model sees them: with augmentation, the views beyond the first."""
    from hairline.data import augmentation
    from hairline.evaluation import figures

    chosen = np.random.default_rng(config.seed).permutation(data.rows("train"))[:24]
    settings = arguments(config.augment, "views")
    shown, titles = [], []
    for place, row in enumerate(chosen):
        entry = data.manifest.iloc[row]
        image = images.decode(entry["path"], config.image_size)
        view = place % config.augment.views
        if view:
            name = int(entry["sha256"][:16], 16)
            image = augmentation.view(image, seed=(config.seed, view, name), **settings)
        shown.append(image)
        titles.append(f"{entry['label']}, view {view}" if view else entry["label"])
    augmented = f", {config.augment.views} views an image" if config.augment.views > 1 else ""
    title = f"Training images as the model sees them ({config.image_size} px{augmented})"
    return figures.sample_grid(np.stack(shown), titles, title=title)


def _gallery(config: Config, data: Data, probabilities: np.ndarray, most: int = 24) -> Any:
    """Draw test predictions: up to half of the places for the surest errors, the rest drawn from the right ones."""
    from hairline.evaluation import figures

    test = data.rows("test")
    found, chosen = probabilities[test], probabilities[test].argmax(axis=1)
    right = chosen == data.labels[test]
    wrong = np.flatnonzero(~right)
    wrong = wrong[np.argsort(-found[wrong].max(axis=1), kind="stable")]
    good = np.random.default_rng(config.seed).permutation(np.flatnonzero(right))
    rows = np.concatenate([wrong[: max(most // 2, most - len(good))], good])[:most]
    entries = data.manifest.iloc[test[rows]]
    return figures.prediction_gallery(
        np.stack([images.decode(path, config.image_size) for path in entries["path"]]),
        entries["label"].tolist(),
        [data.class_names[index] for index in chosen[rows]],
        found[rows].max(axis=1).tolist(),
        [os.path.basename(path) for path in entries["path"]],
        title=f"Test predictions: {right.sum():,} of {len(right):,} right, {len(wrong):,} wrong",
    )


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
    hidden = ("model=", "optimizer=", "data.path=", "name=", "tags", "tracking", "report", "runtime", "hydra")
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
