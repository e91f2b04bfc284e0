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

from hairline.model import optimizers
from hairline.system import progress
from hairline.system.errors import HairlineError
from hairline.system.signals import Signals
from hairline.training import checkpoint

log = logging.getLogger(__name__)

EpochRow = dict[str, float]


class TrainingError(HairlineError):
    """A training that cannot go on."""


def class_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """Weigh images so that each class counts the same: n / (classes x count), of each image's class.

    >>> class_weights(np.array([0, 0, 0, 1]), 2).round(4).tolist()
    [0.6667, 0.6667, 0.6667, 2.0]
    """
    counts = np.bincount(labels, minlength=classes)
    return len(labels) / (classes * counts[labels])


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
    phase: str = "head",
    before: pd.DataFrame | None = None,
    steady: bool = False,
    told: bool = True,
    on_epoch: Callable[[int, EpochRow], None] = lambda epoch, row: None,
    state: checkpoint.Phase | None = None,
    signals: Signals | None = None,
) -> pd.DataFrame:
    """Train a model for one phase; its weights are changed in place.

    Args:
        model: Gives logits [batch, classes].
        train: Gives the batches of an epoch, numbered from 1: pairs of inputs and one-hot labels, or
            triples with what each image counts in the loss.
        val: Such pairs of validation, which chooses the epoch that is kept.
        steps: Batches an epoch.
        epochs: Passes over the training data, at most.
        learning_rate: Highest learning rate.
        optimizer: Keys of the configuration group `optimizer`.
        schedule: Keys of the configuration group `schedule`, less patience and keep.
        patience: Epochs without a lower validation loss before training stops; None for never.
        keep: Whether the weights of the epoch with the lowest validation loss are kept, or the last. In a later phase
            the weights it starts from count as well.
        label_smoothing: Share of the probability that is spread over all classes.
        phase: Name of the phase.
        before: History of the phases before; epochs are numbered on.
        steady: Whether `train` gives the same data set each time, changed in place: then Keras goes through all epochs
            in one call.
        told: Whether every epoch is told.
        on_epoch: Called after each epoch with its number and what it measured.
        state: Where the state after each epoch is kept; a phase that has one goes on from it, to the same bits.
        signals: Checked after each epoch.

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
    earlier = [] if before is None else before.to_dict("records")
    course = _Course(train, phase, earlier, epochs, patience, told, on_epoch, state, signals)
    course.restore(model)
    with progress.bar(epochs * steps, f"train {phase}", "steps", done=course.done * steps) as bar:
        while not course.ended:
            model.fit(
                course.open(),
                validation_data=val,
                initial_epoch=course.done,
                epochs=epochs if steady else course.done + 1,
                callbacks=[course, _Steps(bar)],
                shuffle=False,  # the pipeline does it
                verbose=0,
            )
    if keep == "best":
        model.set_weights(course.best_weights)
    return pd.DataFrame(course.history)


class _Steps(keras.callbacks.Callback):
    """Moves the progress bar."""

    def __init__(self, bar: progress.Bar) -> None:
        super().__init__()
        self._bar = bar

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._bar.update()


class _Course(keras.callbacks.Callback):
    """What the epochs of a phase measured, which was the best, and when to stop; all of it on disk after each."""

    def __init__(
        self,
        train: Callable[[int], tf.data.Dataset],
        phase: str,
        earlier: list[dict[str, Any]],
        epochs: int,
        patience: int | None,
        told: bool,
        on_epoch: Callable[[int, EpochRow], None],
        state: checkpoint.Phase | None,
        signals: Signals | None,
    ) -> None:
        super().__init__()
        self.history, self._before = list(earlier), len(earlier)
        self.ended = False
        self.best_weights: list[np.ndarray] = []
        self._best_loss = min((row["val_loss"] for row in earlier), default=math.inf)
        self._best_epoch = len(earlier)
        self._train, self._phase, self._epochs, self._patience = train, phase, epochs, patience
        self._told, self._on_epoch, self._state, self._signals = told, on_epoch, state, signals or Signals()
        self._started: float | None = None

    @property
    def done(self) -> int:
        """How many epochs of the phase are complete."""
        return len(self.history) - self._before

    def restore(self, model: keras.Model) -> None:
        """Start from the weights as they are, or from where the phase was stopped."""
        self.best_weights = model.get_weights()
        found = None if self._state is None else self._state.load()
        if found is None:
            return
        about, arrays = found
        self.history, self.ended = about["history"], about["ended"]
        self._best_loss, self._best_epoch = about["best_loss"], about["best_epoch"]
        self.best_weights = list(arrays["best"])
        model.optimizer.build(model.trainable_variables)
        for kind, variables in _variables(model).items():
            for variable, value in zip(variables, arrays[kind], strict=True):
                variable.assign(value)
        where = "is complete" if self.ended else f"goes on after epoch {len(self.history)}"
        log.info("%s: taken from %s, %s", self._phase, checkpoint.FILE, where)

    def open(self) -> tf.data.Dataset:
        """Begin an epoch; gives its batches."""
        self._started = time.perf_counter()
        return self._train(self.done + 1)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if self._started is None:  # not the first of this call of Keras: its data set is changed in place
            self.open()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        measured = logs or {}
        row = {key: float(measured[key]) for key in ("loss", "accuracy", "val_loss", "val_accuracy")}
        number = len(self.history) + 1
        _refuse_nan(number, row)
        rate = float(self.model.optimizer.learning_rate)
        row |= {"learning_rate": rate, "seconds": time.perf_counter() - (self._started or 0.0)}
        self._started = None
        self.history.append({"phase": self._phase, "epoch": number, **row})
        if self._told:
            _say(number, self._before + self._epochs, row)
        waited = False
        if row["val_loss"] < self._best_loss:
            self._best_loss, self._best_epoch, self.best_weights = row["val_loss"], number, self.model.get_weights()
        else:
            waited = self._patience is not None and number - self._best_epoch >= self._patience
        if waited:
            log.info("stopped: no lower validation loss for %d epochs", self._patience)
        self.ended = self.model.stop_training = waited or self.done == self._epochs
        self._on_epoch(number, row)  # before the state is kept: who is told twice can see it, who is never told cannot
        self._save()
        self._signals.check()

    def _save(self) -> None:
        if self._state is None:
            return
        about = {"history": self.history, "ended": self.ended}
        about |= {"best_loss": self._best_loss, "best_epoch": self._best_epoch}
        found = _variables(self.model).items()
        arrays = {kind: [keras.ops.convert_to_numpy(entry) for entry in variables] for kind, variables in found}
        self._state.save(about, {**arrays, "best": self.best_weights})


def _variables(model: keras.Model) -> dict[str, list[keras.Variable]]:
    """Give all that training changes: the model's variables, random generators included, and the optimizer's."""
    return {"model": model.variables, "optimizer": model.optimizer.variables}


def _refuse_nan(epoch: int, row: EpochRow) -> None:
    for name, loss in {"training": row["loss"], "validation": row["val_loss"]}.items():
        if math.isfinite(loss):
            continue
        raise TrainingError(
            f"the {name} loss became {loss} in epoch {epoch}: lower learning_rate (it is too high for this "
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
