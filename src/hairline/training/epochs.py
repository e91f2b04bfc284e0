"""Train a model by epochs: metrics of each, early stopping, the best weights, resume."""

from __future__ import annotations

import hashlib
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
from hairline.model.head import Standardisation, build_head
from hairline.system import progress
from hairline.system.errors import HairlineError
from hairline.system.signals import Signals
from hairline.training import checkpoint

log = logging.getLogger(__name__)

EpochRow = dict[str, float]

_MOST_HEADS = 8  # that are kept compiled


class TrainingError(HairlineError):
    """Training diverged."""


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
    reuse_dataset: bool = False,
    compiled: bool = False,
    verbose: bool = True,
    on_epoch: Callable[[int, EpochRow], None] = lambda epoch, row: None,
    state: checkpoint.Phase | None = None,
    signals: Signals | None = None,
) -> pd.DataFrame:
    """Train a model for one phase; its weights change in place.

    Args:
        model: Model to logits [batch, classes].
        train: Returns the batches of an epoch, numbered from 1: pairs of inputs and one-hot labels, or triples with the
            weight of each image in the loss.
        val: Pairs of the validation images, which choose the epoch that is kept.
        steps: Batches per epoch.
        epochs: Passes over the training data, at most.
        learning_rate: Highest learning rate.
        optimizer: Keys of the configuration group `optimizer`.
        schedule: Keys of the configuration group `schedule`, less patience and keep.
        patience: Epochs without a lower validation loss before training stops; None for never.
        keep: Keep the weights of the epoch with the lowest validation loss, or of the last epoch. In a later phase the
            weights it starts from count as an epoch.
        label_smoothing: Share of the probability that is spread over all classes.
        phase: Name of the phase.
        before: History of the earlier phases; epoch numbers continue from it.
        reuse_dataset: `train` returns the same dataset object every epoch, updated in place; Keras then runs all epochs
            in one call.
        compiled: The model is one from `compiled_head`, with these settings.
        verbose: Log one line per epoch.
        on_epoch: Called after each epoch with its number and metrics.
        state: Saves the state after each epoch; a phase that was saved resumes from it, to the same bits.
        signals: Checked after each epoch.

    Returns:
        The history including `before`: phase, epoch, loss, accuracy, val_loss, val_accuracy, learning_rate, seconds.
        Training figures are means over the epoch's steps, as in Keras.

    Raises:
        TrainingError: If the loss becomes nan or infinite.
    """
    if not compiled:
        rate = optimizers.schedule(**schedule, learning_rate=learning_rate, steps=steps * epochs)
        _compile(model, rate, optimizer, label_smoothing)
    earlier: list[Any] = [] if before is None else before.to_dict("records")
    course = _Course(train, phase, earlier, epochs, patience, verbose, on_epoch, state, signals)
    course.restore(model)
    with progress.bar(epochs * steps, f"train {phase}", "steps", done=course.done * steps) as bar:
        advance = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: bar.update())
        while not course.ended:
            model.fit(
                course.open(),
                validation_data=val,
                initial_epoch=course.done,
                epochs=epochs if reuse_dataset else course.done + 1,
                callbacks=[course, advance],
                shuffle=False,  # the pipeline does it
                verbose=0,
            )
    if keep == "best":
        model.set_weights(course.best_weights)
    return pd.DataFrame(course.history)


def compiled_head(
    known: dict[str, Any],
    standardisation: Standardisation,
    *,
    classes: int,
    dropout: float,
    seed: int,
    steps: int,
    epochs: int,
    learning_rate: float,
    optimizer: dict[str, Any],
    schedule: dict[str, Any],
    label_smoothing: float,
) -> keras.Model:
    """Return an untrained head that is compiled for `fit`; a known one of the same form is reset and used again.

    TensorFlow takes longer to compile a head's training step than to train ten epochs.

    Args:
        known: Heads of earlier calls, by what they were compiled for.
        standardisation: As for `build_head`.
        classes: As for `build_head`.
        dropout: As for `build_head`.
        seed: Seed of dropout.
        steps: As for `fit`.
        epochs: As for `fit`.
        learning_rate: As for `fit`.
        optimizer: As for `fit`.
        schedule: As for `fit`.
        label_smoothing: As for `fit`.
    """
    keras.utils.set_random_seed(seed)
    rate = optimizers.schedule(**schedule, learning_rate=learning_rate, steps=steps * epochs)
    constant = schedule["name"] == "constant"
    course = None if constant else (learning_rate, steps * epochs)
    form = (classes, dropout, optimizer, schedule, label_smoothing, course)
    digest = hashlib.sha256(repr(form).encode())
    digest.update(standardisation.mean.tobytes())
    digest.update(standardisation.deviation.tobytes())
    key = digest.hexdigest()
    if key not in known:
        model = build_head(standardisation, classes=classes, dropout=dropout)
        _compile(model, rate, optimizer, label_smoothing)
        model.optimizer.build(model.trainable_variables)
        if len(known) == _MOST_HEADS:
            known.pop(next(iter(known)))
        known[key] = model, [keras.ops.convert_to_numpy(entry) for entry in _all_variables(model)]
        return model
    model, initial = known[key]
    for variable, value in zip(_all_variables(model), initial, strict=True):
        variable.assign(value)
    if constant:
        model.optimizer.learning_rate = rate
    if dropout:  # as a new layer would be seeded
        (layer,) = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
        layer.seed_generator.state.assign(keras.layers.Dropout(dropout).seed_generator.state)
    return model


def _compile(model: keras.Model, rate: Any, optimizer: dict[str, Any], label_smoothing: float) -> None:
    model.compile(
        optimizer=optimizers.build(**optimizer, learning_rate=rate),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        jit_compile=False,
    )


class _Course(keras.callbacks.Callback):
    """History, best weights and early stopping of a phase; saved to disk after every epoch."""

    def __init__(
        self,
        train: Callable[[int], tf.data.Dataset],
        phase: str,
        earlier: list[dict[str, Any]],
        epochs: int,
        patience: int | None,
        verbose: bool,
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
        self._verbose, self._on_epoch, self._state, self._signals = verbose, on_epoch, state, signals or Signals()
        self._started: float | None = None

    @property
    def done(self) -> int:
        """Number of epochs of the phase that are complete."""
        return len(self.history) - self._before

    def restore(self, model: keras.Model) -> None:
        """Resume from the saved state of the phase, if there is one."""
        self.best_weights = model.get_weights()
        saved = None if self._state is None else self._state.load()
        if saved is None:
            return
        about, arrays = saved
        self.history, self.ended = about["history"], about["ended"]
        self._best_loss, self._best_epoch = about["best_loss"], about["best_epoch"]
        self.best_weights = list(arrays["best"])
        model.optimizer.build(model.trainable_variables)
        for kind, variables in _variables(model).items():
            for variable, value in zip(variables, arrays[kind], strict=True):
                variable.assign(value)
        where = "complete" if self.ended else f"resuming after epoch {len(self.history)}"
        log.info("%s: loaded from %s, %s", self._phase, checkpoint.FILE, where)

    def open(self) -> tf.data.Dataset:
        """Begin an epoch; return its batches."""
        self._started = time.perf_counter()
        return self._train(self.done + 1)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if self._started is None:  # a later epoch of the same call of `fit`: the dataset is updated in place
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
        if self._verbose:
            _log_epoch(number, self._before + self._epochs, row)
        stop = False
        if row["val_loss"] < self._best_loss:
            self._best_loss, self._best_epoch, self.best_weights = row["val_loss"], number, self.model.get_weights()
        else:
            stop = self._patience is not None and number - self._best_epoch >= self._patience
        if stop:
            log.info("stopped: no lower validation loss for %d epochs", self._patience)
        self.ended = self.model.stop_training = stop or self.done == self._epochs
        # Report before saving: a duplicate is harmless, a missing report cannot be recovered.
        self._on_epoch(number, row)
        self._save()
        self._signals.check()

    def _save(self) -> None:
        if self._state is None:
            return
        about = {"history": self.history, "ended": self.ended}
        about |= {"best_loss": self._best_loss, "best_epoch": self._best_epoch}
        variables = _variables(self.model).items()
        arrays = {kind: [keras.ops.convert_to_numpy(entry) for entry in entries] for kind, entries in variables}
        self._state.save(about, {**arrays, "best": self.best_weights})


def _variables(model: keras.Model) -> dict[str, list[keras.Variable]]:
    """Return everything that training changes: variables of the model (random generators included) and optimizer."""
    return {"model": model.variables, "optimizer": model.optimizer.variables}


def _all_variables(model: keras.Model) -> list[keras.Variable]:
    return [variable for variables in _variables(model).values() for variable in variables]


def _refuse_nan(epoch: int, row: EpochRow) -> None:
    for name, loss in {"training": row["loss"], "validation": row["val_loss"]}.items():
        if math.isfinite(loss):
            continue
        raise TrainingError(
            f"the {name} loss became {loss} in epoch {epoch}: lower learning_rate (it is too high for this "
            "optimizer), or set optimizer.global_clipnorm=1"
        )


def _log_epoch(epoch: int, epochs: int, row: EpochRow) -> None:
    values = (row[key] for key in ("loss", "accuracy", "val_loss", "val_accuracy"))
    with tqdm.external_write_mode():
        log.info(
            "epoch %*d/%d  loss %.4f  accuracy %.4f  val_loss %.4f  val_accuracy %.4f",
            len(str(epochs)),
            epoch,
            epochs,
            *values,
        )
