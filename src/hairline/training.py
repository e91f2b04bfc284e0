"""Training the head: one phase of epochs, what each of them measured, and the weights that are kept."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any, Literal

import keras
import numpy as np
import pandas as pd
from tqdm import tqdm

from hairline import progress
from hairline.data import pipeline
from hairline.model import optimizers
from hairline.model.features import Features

log = logging.getLogger(__name__)

EpochRow = dict[str, float]


class TrainingError(ValueError):
    """A training that cannot go on."""


class _Steps(keras.callbacks.Callback):
    """Moves the progress bar."""

    def __init__(self, bar: progress.Bar) -> None:
        super().__init__()
        self._bar = bar

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._bar.update()


def class_weights(labels: np.ndarray, classes: int) -> dict[int, float]:
    """Weigh classes so that each counts the same: n / (classes x count).

    >>> class_weights(np.array([0, 0, 0, 1]), 2)
    {0: 0.6666666666666666, 1: 2.0}
    """
    counts = np.bincount(labels, minlength=classes)
    return {index: float(len(labels) / (classes * count)) for index, count in enumerate(counts)}


def fit_head(
    head: keras.Model,
    train: Callable[[int], Features],
    train_labels: np.ndarray,
    val: Features,
    val_labels: np.ndarray,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    optimizer: dict[str, Any],
    schedule: dict[str, Any],
    patience: int | None = None,
    keep: Literal["best", "last"] = "best",
    label_smoothing: float = 0.0,
    balanced: bool = False,
    seed: int = 0,
    on_epoch: Callable[[int, EpochRow], None] = lambda epoch, row: None,
) -> pd.DataFrame:
    """Train the head on features; its weights are changed in place.

    Args:
        head: Model from features to logits.
        train: Gives the training features of an epoch, numbered from 1: always the same, or fresh views.
        train_labels: int64 [n].
        val: Features for validation, which chooses the epoch that is kept.
        val_labels: int64 [m].
        epochs: Passes over the training features, at most.
        batch_size: Rows a step.
        learning_rate: Highest learning rate.
        optimizer: Keys of the configuration group `optimizer`.
        schedule: Keys of the configuration group `schedule`, less patience and keep.
        patience: Epochs without a lower validation loss before training stops; None for never.
        keep: Whether the weights of the epoch with the lowest validation loss are kept, or the last.
        label_smoothing: Share of the probability that is spread over all classes.
        balanced: Whether each class weighs the same in the loss.
        seed: Of the shuffling; each epoch's order follows from it and the epoch's number.
        on_epoch: Called after each epoch with its number and what it measured.

    Returns:
        One row an epoch: epoch, loss, accuracy, val_loss, val_accuracy, learning_rate, seconds. Training figures are
        means over the epoch's steps, as Keras gives them.

    Raises:
        TrainingError: If the loss is no longer a number.
    """
    classes = head.output_shape[-1]
    one_hot = np.eye(classes, dtype=np.float32)
    steps = math.ceil(len(train_labels) / batch_size)
    rate = optimizers.schedule(**schedule, learning_rate=learning_rate, steps=steps * epochs)
    head.compile(
        optimizer=optimizers.build(**optimizer, learning_rate=rate),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
    )
    validation = pipeline.feature_batches(val.read, val.width, one_hot[val_labels], batch_size=1024)
    weights = class_weights(train_labels, classes) if balanced else None
    rows: list[EpochRow] = []
    best_loss, best_epoch, best_weights = math.inf, 0, head.get_weights()
    with progress.bar(steps * epochs, "train head", "step") as shown:
        for epoch in range(1, epochs + 1):
            started = time.perf_counter()
            features = train(epoch)
            order = np.random.default_rng([seed, epoch]).permutation(len(train_labels))
            batches = pipeline.feature_batches(
                features.read, features.width, one_hot[train_labels], batch_size=batch_size, order=order
            )
            measured = head.fit(
                batches,
                validation_data=validation,
                class_weight=weights,
                callbacks=[_Steps(shown)],
                shuffle=False,  # the pipeline does it
                verbose=0,
            ).history
            row = {key: float(measured[key][0]) for key in ("loss", "accuracy", "val_loss", "val_accuracy")}
            _refuse_nan(epoch, row["loss"])
            row |= {"learning_rate": float(head.optimizer.learning_rate), "seconds": time.perf_counter() - started}
            rows.append({"epoch": epoch, **row})
            _say(epoch, epochs, row)
            on_epoch(epoch, row)
            if row["val_loss"] < best_loss:
                best_loss, best_epoch, best_weights = row["val_loss"], epoch, head.get_weights()
            elif patience is not None and epoch - best_epoch >= patience:
                log.info("stopped: no lower validation loss for %d epochs", patience)
                break
    if keep == "best":
        head.set_weights(best_weights)
    return pd.DataFrame(rows)


def _refuse_nan(epoch: int, loss: float) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"the training loss became {loss} in epoch {epoch}: lower learning_rate (it is too high for this "
            "optimizer), or set optimizer.global_clipnorm=1"
        )


def _say(epoch: int, epochs: int, row: EpochRow) -> None:
    values = (row[key] for key in ("loss", "accuracy", "val_loss", "val_accuracy"))
    with tqdm.external_write_mode():
        log.info(
            "epoch %*d/%d  loss %.4f  accuracy %.4f  val_loss %.4f  val_accuracy %.4f",
            len(str(epochs)),
            epoch,
            epochs,
            *values,
        )
