"""Training: a phase of epochs, what each of them measured, and the weights that are kept."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any, Literal

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from tqdm import tqdm

from hairline import progress
from hairline.model import optimizers

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


def fit(
    model: keras.Model,
    train: Callable[[int], tf.data.Dataset],
    val: tf.data.Dataset,
    *,
    steps: int,
    epochs: int,
    learning_rate: float,
    optimizer: dict[str, Any],
    schedule: dict[str, Any],
    patience: int | None = None,
    keep: Literal["best", "last"] = "best",
    label_smoothing: float = 0.0,
    weights: dict[int, float] | None = None,
    phase: str = "head",
    before: pd.DataFrame | None = None,
    told: bool = True,
    on_epoch: Callable[[int, EpochRow], None] = lambda epoch, row: None,
) -> pd.DataFrame:
    """Train a model for one phase; its weights are changed in place.

    Args:
        model: Gives logits [batch, classes].
        train: Gives the batches of an epoch, numbered from 1: pairs of inputs and one-hot labels.
        val: The same for validation, which chooses the epoch that is kept.
        steps: Batches an epoch.
        epochs: Passes over the training data, at most.
        learning_rate: Highest learning rate.
        optimizer: Keys of the configuration group `optimizer`.
        schedule: Keys of the configuration group `schedule`, less patience and keep.
        patience: Epochs without a lower validation loss before training stops; None for never.
        keep: Whether the weights of the epoch with the lowest validation loss are kept, or the last. In a later phase
            the weights it starts from count as well.
        label_smoothing: Share of the probability that is spread over all classes.
        weights: Of the classes in the loss.
        phase: Name of the phase.
        before: History of the phases before; epochs are numbered on.
        told: Whether every epoch is told.
        on_epoch: Called after each epoch with its number and what it measured.

    Returns:
        The history, that of the phases before included: phase, epoch, loss, accuracy, val_loss, val_accuracy,
        learning_rate, seconds. Training figures are means over the epoch's steps, as Keras gives them.

    Raises:
        TrainingError: If the loss is no longer a number.
    """
    rate = optimizers.schedule(**schedule, learning_rate=learning_rate, steps=steps * epochs)
    model.compile(
        optimizer=optimizers.build(**optimizer, learning_rate=rate),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        jit_compile=False,
    )
    history = [] if before is None else before.to_dict("records")
    done = len(history)
    best_loss = min((row["val_loss"] for row in history), default=math.inf)
    best_epoch, best_weights = done, model.get_weights()
    with progress.bar(steps * epochs, f"train {phase}", "step") as shown:
        for epoch in range(done + 1, done + epochs + 1):
            started = time.perf_counter()
            measured = model.fit(
                train(epoch - done),
                validation_data=val,
                class_weight=weights,
                callbacks=[_Steps(shown)],
                shuffle=False,  # the pipeline does it
                verbose=0,
            ).history
            row = {key: float(measured[key][0]) for key in ("loss", "accuracy", "val_loss", "val_accuracy")}
            _refuse_nan(epoch, row["loss"])
            row |= {"learning_rate": float(model.optimizer.learning_rate), "seconds": time.perf_counter() - started}
            history.append({"phase": phase, "epoch": epoch, **row})
            if told:
                _say(epoch, done + epochs, row)
            on_epoch(epoch, row)
            if row["val_loss"] < best_loss:
                best_loss, best_epoch, best_weights = row["val_loss"], epoch, model.get_weights()
            elif patience is not None and epoch - best_epoch >= patience:
                log.info("stopped: no lower validation loss for %d epochs", patience)
                break
    if keep == "best":
        model.set_weights(best_weights)
    return pd.DataFrame(history)


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
