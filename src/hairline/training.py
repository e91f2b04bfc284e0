"""Training the head: one phase of epochs, what each of them measured, and the weights that are kept."""

from __future__ import annotations

import contextlib
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

log = logging.getLogger(__name__)

EpochRow = dict[str, float]


class TrainingError(ValueError):
    """A training that cannot go on."""


class _Epochs(keras.callbacks.Callback):
    """Records every epoch, keeps the best weights, stops when nothing improves, and shows the progress."""

    def __init__(
        self, *, epochs: int, patience: int | None, keep: str, on_epoch: Callable[[int, EpochRow], None]
    ) -> None:
        super().__init__()
        self.rows: list[EpochRow] = []
        self.best_loss = math.inf
        self.best_weights: list[np.ndarray] | None = None
        self._since_best = 0
        self._epochs, self._patience, self._keep, self._on_epoch = epochs, patience, keep, on_epoch

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        total = self._epochs * self.params["steps"]
        self._shown = contextlib.ExitStack()
        self._bar = self._shown.enter_context(progress.bar(total, "train head", "step"))

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._bar.update()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        measured = {key: float((logs or {})[key]) for key in ("loss", "accuracy", "val_loss", "val_accuracy")}
        if not math.isfinite(measured["loss"]):
            self._shown.close()
            raise TrainingError(
                f"the training loss became {measured['loss']} in epoch {epoch + 1}: lower learning_rate "
                "(it is too high for this optimizer), or set optimizer.global_clipnorm=1"
            )
        row = {
            "epoch": epoch + 1,
            **measured,
            "learning_rate": float(self.model.optimizer.learning_rate),
            "seconds": time.perf_counter() - self._started,
        }
        self.rows.append(row)
        if measured["val_loss"] < self.best_loss:
            self.best_loss, self._since_best = measured["val_loss"], 0
            self.best_weights = self.model.get_weights()
        else:
            self._since_best += 1
            if self._patience is not None and self._since_best >= self._patience:
                self.model.stop_training = True
        with tqdm.external_write_mode():
            log.info(
                "epoch %*d/%d  loss %.4f  accuracy %.4f  val_loss %.4f  val_accuracy %.4f",
                len(str(self._epochs)), epoch + 1, self._epochs,
                *measured.values(),
            )  # fmt: skip
        self._on_epoch(epoch + 1, {key: value for key, value in row.items() if key != "epoch"})

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        self._shown.close()
        if self._keep == "best" and self.best_weights is not None:
            self.model.set_weights(self.best_weights)


def class_weights(labels: np.ndarray, classes: int) -> dict[int, float]:
    """Weigh classes so that each counts the same: n / (classes x count).

    >>> class_weights(np.array([0, 0, 0, 1]), 2)
    {0: 0.6666666666666666, 1: 2.0}
    """
    counts = np.bincount(labels, minlength=classes)
    return {index: float(len(labels) / (classes * count)) for index, count in enumerate(counts)}


def fit_head(
    head: keras.Model,
    train: tuple[np.ndarray, np.ndarray],
    val: tuple[np.ndarray, np.ndarray],
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
        train: float32 [n, width] features and int64 [n] labels.
        val: The same for validation, which chooses the epoch that is kept.
        epochs: Passes over the training features, at most.
        batch_size: Rows a step.
        learning_rate: Highest learning rate.
        optimizer: Keys of the configuration group `optimizer`.
        schedule: Keys of the configuration group `schedule`, less patience and keep.
        patience: Epochs without a lower validation loss before training stops; None for never.
        keep: Whether the weights of the epoch with the lowest validation loss are kept, or the last.
        label_smoothing: Share of the probability that is spread over all classes.
        balanced: Whether each class weighs the same in the loss.
        seed: Of the shuffling.
        on_epoch: Called after each epoch with its number, from 1, and what it measured.

    Returns:
        One row an epoch: epoch, loss, accuracy, val_loss, val_accuracy, learning_rate, seconds. Training figures are
        means over the epoch's steps, as Keras gives them.

    Raises:
        TrainingError: If the loss is no longer a number.
    """
    classes = head.output_shape[-1]
    one_hot = np.eye(classes, dtype=np.float32)
    steps = math.ceil(len(train[0]) / batch_size)
    rate = optimizers.schedule(**schedule, learning_rate=learning_rate, steps=steps * epochs)
    head.compile(
        optimizer=optimizers.build(**optimizer, learning_rate=rate),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
    )
    record = _Epochs(epochs=epochs, patience=patience, keep=keep, on_epoch=on_epoch)
    head.fit(
        pipeline.feature_batches(train[0], one_hot[train[1]], batch_size=batch_size, seed=seed, shuffle=True),
        validation_data=pipeline.feature_batches(val[0], one_hot[val[1]], batch_size=max(batch_size, 1024)),
        epochs=epochs,
        class_weight=class_weights(train[1], classes) if balanced else None,
        callbacks=[record],
        shuffle=False,  # the pipeline shuffles
        verbose=0,
    )
    return pd.DataFrame(record.rows).astype({"epoch": int})
