"""Train by epochs: metrics of each, early stopping, the best weights, resume."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
from tqdm import tqdm

from hairline.system import progress
from hairline.system.errors import HairlineError
from hairline.system.signals import Signals
from hairline.training import checkpoint

log = logging.getLogger(__name__)

EpochRow = dict[str, float]


class TrainingError(HairlineError):
    """Training diverged."""


class Trainer(Protocol):
    """A model that is trained epoch by epoch.

    Attributes:
        steps: Batches per epoch.
    """

    steps: int

    def epoch(self, number: int, advance: Callable[[], object]) -> EpochRow:
        """Train for one epoch.

        Args:
            number: Number of the epoch, from 1; all randomness of the epoch follows from it.
            advance: Called after each step.

        Returns:
            loss and accuracy, means over the epoch's steps as in Keras, val_loss, val_accuracy, learning_rate.
        """

    def weights(self) -> list[np.ndarray]:
        """Return copies of the weights."""

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Replace the weights."""

    def state(self) -> dict[str, list[np.ndarray]]:
        """Return everything that training changes, by kind."""

    def restore(self, state: checkpoint.Arrays) -> None:
        """Continue from what `state` returned."""


def fit(
    trainer: Trainer,
    *,
    epochs: int,
    patience: int | None = None,
    keep: Literal["best", "last"] = "best",
    phase: str = "head",
    before: pd.DataFrame | None = None,
    verbose: bool = True,
    on_epoch: Callable[[int, EpochRow], None] = lambda epoch, row: None,
    state: checkpoint.Phase | None = None,
    signals: Signals | None = None,
) -> pd.DataFrame:
    """Train a model for one phase; its weights change in place.

    Args:
        trainer: The model.
        epochs: Passes over the training data, at most.
        patience: Epochs without a lower validation loss before training stops; None for never.
        keep: Keep the weights of the epoch with the lowest validation loss, or of the last epoch. In a later phase the
            weights it starts from count as an epoch.
        phase: Name of the phase.
        before: History of the earlier phases; epoch numbers continue from it.
        verbose: Log one line per epoch.
        on_epoch: Called after each epoch with its number and metrics.
        state: Saves the state after each epoch; a phase that was saved resumes from it, to the same bits.
        signals: Checked after each epoch.

    Returns:
        The history including `before`: phase, epoch, loss, accuracy, val_loss, val_accuracy, learning_rate, seconds.

    Raises:
        TrainingError: If the loss becomes nan or infinite.
    """
    history: list[Any] = [] if before is None else before.to_dict("records")
    first = len(history)
    best_loss, best_epoch = min((row["val_loss"] for row in history), default=math.inf), first
    best_weights: Sequence[np.ndarray] = trainer.weights()
    ended = False
    saved = None if state is None else state.load()
    if saved is not None:
        about, arrays = saved
        history, ended = about["history"], about["ended"]
        best_loss, best_epoch, best_weights = about["best_loss"], about["best_epoch"], arrays["best"]
        trainer.restore({kind: values for kind, values in arrays.items() if kind != "best"})
        where = "complete" if ended else f"resuming after epoch {len(history)}"
        log.info("%s: loaded from %s, %s", phase, checkpoint.FILE, where)
    done = (len(history) - first) * trainer.steps
    with progress.bar(epochs * trainer.steps, f"train {phase}", "steps", done=done) as bar:
        while not ended:
            started = time.perf_counter()
            row = trainer.epoch(len(history) - first + 1, bar.update)
            number = len(history) + 1
            _refuse_nan(number, row, "finetune.learning_rate" if phase == "fine-tune" else "learning_rate")
            row |= {"seconds": time.perf_counter() - started}
            history.append({"phase": phase, "epoch": number, **row})
            if verbose:
                _log_epoch(number, first + epochs, row)
            if row["val_loss"] < best_loss:
                best_loss, best_epoch, best_weights = row["val_loss"], number, trainer.weights()
            elif patience is not None and number - best_epoch >= patience:
                log.info("stopped: no lower validation loss for %d epochs", patience)
                ended = True
            ended = ended or len(history) - first == epochs
            # Report before saving: a duplicate is harmless, a missing report cannot be recovered.
            on_epoch(number, row)
            if state is not None:
                about = {"history": history, "ended": ended, "best_loss": best_loss, "best_epoch": best_epoch}
                state.save(about, {**trainer.state(), "best": best_weights})
            if signals is not None:
                signals.check()
    if keep == "best":
        trainer.set_weights(best_weights)
    return pd.DataFrame(history)


def _refuse_nan(epoch: int, row: EpochRow, setting: str) -> None:
    for name, loss in {"training": row["loss"], "validation": row["val_loss"]}.items():
        if math.isfinite(loss):
            continue
        raise TrainingError(
            f"the {name} loss became {loss} in epoch {epoch}: lower {setting} (it is too high for this "
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
