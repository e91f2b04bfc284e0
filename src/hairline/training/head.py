"""The stages that every run goes through and that take its time: frozen features, and the head on them.

TensorFlow takes seconds to import, so whatever needs it is imported inside the functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hairline import tracking
from hairline.config import Config, arguments
from hairline.data import augmentation
from hairline.data.decoded import Decoded
from hairline.data.prepare import Dataset
from hairline.system import errors
from hairline.training.checkpoint import Checkpoint

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from hairline.model.features import Features, Recipe
    from hairline.model.head import Standardisation


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


@dataclass(frozen=True)
class Head:
    """A head that was trained, and what came of it.

    Attributes:
        model: From features to the classes' probabilities.
        standardisation: The one it was built with.
        scores: Logits float32 [n, classes] of all images, each by weights that it had no part in where there are such.
        history: A row an epoch.
    """

    model: keras.Model
    standardisation: Standardisation
    scores: np.ndarray
    history: pd.DataFrame


def pass_images(config: Config, data: Dataset, model: Callable[[], keras.Model], recipe: Recipe, label: str) -> Frozen:
    """Pass all images, and the training images' further views, through a frozen model."""
    from hairline.model.features import Features, compute

    train_rows = data.rows("train")

    def outputs(view: int, rows: np.ndarray, keep: bool, place: str, decoded: Decoded | None = None) -> Features:
        table = data.manifest.iloc[rows]
        augment = {**arguments(config.augment, "mode", "views"), "recipe": augmentation.RECIPE} if view else {}
        return compute(
            table["path"].tolist(),
            table["sha256"].tolist(),
            replace(recipe, view=view, augment=augment),
            model,
            keep=keep,
            max_gigabytes=config.features.max_gigabytes,
            threads=config.runtime.threads,
            label=label + place,
            decoded=decoded,
        )

    everything = outputs(0, np.arange(len(data.manifest)), config.features.keep, "")
    if config.augment.mode == "fresh":
        room = config.features.max_gigabytes if config.features.keep and config.epochs > 1 else 0.0
        decoded = Decoded(len(train_rows), recipe.image_size, max_gigabytes=room)
        return Frozen(
            model, recipe, everything, lambda epoch: outputs(epoch, train_rows, False, f", epoch {epoch}", decoded), 1
        )
    count = config.augment.views
    views = [outputs(view, train_rows, config.features.keep, f", view {view + 1}/{count}") for view in range(1, count)]
    joined = Features.joined([everything.rows(train_rows), *views])
    return Frozen(model, recipe, everything, lambda epoch: joined, count)


def train_head(
    config: Config,
    data: Dataset,
    frozen: Frozen,
    run: tracking.Run,
    part: np.ndarray | None = None,
    state: Checkpoint | None = None,
) -> Head:
    """Train the head on the training images' features, and mirror the history.

    Args:
        config: Of the run.
        data: The images.
        frozen: Their features.
        run: Where the history goes.
        part: int64, places among the training images of those to train on; None: all of them, and every epoch is told.
        state: Of the run; None: none is kept.
    """
    import keras

    from hairline.model.head import Standardisation, build_head, compute_logits

    fresh = config.augment.mode == "fresh"
    plain = frozen.images.rows(data.rows("train"))
    known = plain if fresh else frozen.training(1)
    rows = None if part is None else viewed(part, data, frozen)
    standardisation = Standardisation.fit(known if rows is None else known.rows(rows))
    keras.utils.set_random_seed(config.seed)
    head = build_head(standardisation, classes=len(data.class_names), dropout=config.model.dropout)
    if config.optimizer.name == "lbfgs":
        history = solve_rows(config, data, head, standardisation, frozen, run, part=rows, told=part is None)
        return Head(head, standardisation, compute_logits(head, frozen.images), history)
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
        part=rows,
        told=part is None,
        state=None if state is None else state.phase("head"),
    )
    return Head(head, standardisation, compute_logits(head, frozen.images), history)


def fit_rows(
    config: Config,
    data: Dataset,
    model: keras.Model,
    frozen: Frozen,
    run: tracking.Run,
    *,
    batch_size: int,
    part: np.ndarray | None = None,
    **phase: Any,
) -> pd.DataFrame:
    """Train a model on what a frozen one made of the images, or of the part of them whose rows are given."""
    from hairline.data import pipeline
    from hairline.training import epochs

    one_hot = np.eye(len(data.class_names), dtype=np.float32)
    labels = np.tile(data.labels[data.rows("train")], frozen.views)
    chosen = np.arange(len(labels)) if part is None else part
    val = frozen.images.rows(data.rows("val"))

    width = val.width
    current = pipeline.Pass(val.read, chosen)  # `epoch` fills in what it reads
    weights = row_weights(config, data, frozen.views)
    batches = pipeline.feature_batches(current, width, one_hot[labels], batch_size=batch_size, weights=weights)
    in_order = pipeline.Pass(val.read, np.arange(len(val)))

    def epoch(number: int) -> tf.data.Dataset:
        current.read = frozen.training(number).read
        current.order = chosen[np.random.default_rng([config.seed, number]).permutation(len(chosen))]
        return batches

    with errors.advised("batch_size" if phase["phase"] == "head" else "finetune.batch_size", batch_size):
        return epochs.fit(
            model,
            epoch,
            pipeline.feature_batches(in_order, width, one_hot[data.labels[data.rows("val")]], batch_size=1024),
            steps=-(-len(chosen) // batch_size),
            steady=True,
            **fit_settings(config, data, run),
            **phase,
        )


def solve_rows(
    config: Config,
    data: Dataset,
    head: keras.Model,
    standardisation: Standardisation,
    frozen: Frozen,
    run: tracking.Run,
    *,
    part: np.ndarray | None,
    told: bool,
) -> pd.DataFrame:
    """Solve a head on the training images' features, or on the part of them whose rows are given.

    They are read into memory. No state is kept: it takes seconds.
    """
    from hairline.training import solve

    rows = data.rows("train")
    weights = row_weights(config, data, frozen.views)
    chosen = np.arange(len(rows) * frozen.views) if part is None else part
    smoothing = config.model.label_smoothing
    shares = np.eye(len(data.class_names)) * (1 - smoothing) + smoothing / len(data.class_names)

    def standard(features: Features, numbers: np.ndarray) -> np.ndarray:
        found = features.read(numbers)
        found = found - standardisation.mean
        found /= standardisation.deviation
        return found

    val = frozen.images.rows(data.rows("val"))
    solution, history = solve.solve(
        (standard(frozen.training(1), chosen), shares[np.tile(data.labels[rows], frozen.views)[chosen]]),
        (standard(val, np.arange(len(val))), shares[data.labels[data.rows("val")]]),
        None if weights is None else weights[chosen],
        **arguments(config.optimizer, "name"),
        keep=config.schedule.keep,
        told=told,
        on_epoch=lambda number, row: run.metrics(row, step=number),
    )
    head.get_layer("logits").set_weights([solution.kernel.astype(np.float32), solution.bias.astype(np.float32)])
    return history


def viewed(part: np.ndarray, data: Dataset, frozen: Frozen) -> np.ndarray:
    """Give the rows of all views of some training images, by their places among them."""
    return np.concatenate([part + view * len(data.rows("train")) for view in range(frozen.views)])


def row_weights(config: Config, data: Dataset, views: int = 1) -> np.ndarray | None:
    """Say what each view of a training image counts in the loss, float32 [views * n]; None: all the same.

    They are one on average.
    """
    from hairline.training import epochs

    rows = data.rows("train")
    weights = np.ones(len(rows))
    if config.model.class_weights == "balanced":
        weights = epochs.class_weights(data.labels[rows], len(data.class_names))
    weights[~np.isin(rows, data.real)] *= config.data.mix_weight
    return None if (weights == weights[0]).all() else np.tile(weights / weights.mean(), views).astype(np.float32)


def fit_settings(config: Config, data: Dataset, run: tracking.Run) -> dict[str, Any]:
    """Give the settings of training that all phases share."""
    return {
        "optimizer": arguments(config.optimizer),
        "schedule": arguments(config.schedule, "patience", "keep"),
        "patience": config.schedule.patience,
        "keep": config.schedule.keep,
        "label_smoothing": config.model.label_smoothing,
        "on_epoch": lambda number, row: run.metrics(row, step=number),
    }
