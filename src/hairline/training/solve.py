"""Solving: the head of a frozen backbone found at its minimum, with the history that training would give."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.special import log_softmax

from hairline.model import logistic
from hairline.system import progress
from hairline.system.signals import Signals

log = logging.getLogger(__name__)

Rows = tuple[np.ndarray, np.ndarray]  # standardised features float32 [n, width], shares of the classes [n, classes]


def solve(
    train: Rows,
    val: Rows,
    weights: np.ndarray | None,
    *,
    l2: float,
    iterations: int,
    keep: Literal["best", "last"],
    told: bool = True,
    on_epoch: Callable[[int, dict[str, float]], None] = lambda epoch, row: None,
    signals: Signals | None = None,
) -> tuple[logistic.Solution, pd.DataFrame]:
    """Solve the head's problem, which is convex, to its minimum.

    Args:
        train: The training rows.
        val: Those of validation.
        weights: What each training row counts, float32 [n]; None: all the same.
        l2: Penalty: half of it times the squared weights is added to the loss.
        iterations: At most.
        keep: Whether the iteration with the lowest validation loss is kept, or the last.
        told: Whether the result is told.
        on_epoch: Called after each iteration with its number and what it measured.
        signals: Checked after each iteration.

    Returns:
        The head, and the history as `training.fit` gives it, an iteration an epoch. Losses are without the penalty.
    """
    history: list[dict[str, Any]] = []
    best: logistic.Solution | None = None
    best_row: dict[str, Any] = {}
    started = time.perf_counter()
    with progress.bar(iterations, "train head", "steps") as bar:

        def each(found: logistic.Solution, scores: np.ndarray) -> None:
            nonlocal best, best_row, started
            row = _measured(scores, train[1], weights)
            row |= {f"val_{key}": value for key, value in _measured(found.logits(val[0]), val[1]).items()}
            now = time.perf_counter()
            row |= {"learning_rate": 0.0, "seconds": now - started}
            started = now
            history.append({"phase": "head", "epoch": len(history) + 1, **row})
            if best is None or keep == "last" or row["val_loss"] < best_row["val_loss"]:
                best, best_row = found, history[-1]
            on_epoch(len(history), row)
            if signals is not None:
                signals.check()
            bar.update()

        counts = np.ones(len(train[0])) if weights is None else weights
        found = logistic.fit(*train, counts, l2, iterations=iterations, each=each)
        if not history:  # nothing to learn, from features that never change
            each(found, found.logits(train[0]))
    if told:
        log.info(
            "head solved in %d iterations; kept: iteration %d, loss %.4f  accuracy %.4f  val_loss %.4f  "
            "val_accuracy %.4f",
            len(history), *(best_row[key] for key in ("epoch", "loss", "accuracy", "val_loss", "val_accuracy")),
        )  # fmt: skip
    assert best is not None
    return best, pd.DataFrame(history)


def _measured(scores: np.ndarray, targets: np.ndarray, weights: np.ndarray | None = None) -> dict[str, float]:
    losses = -np.sum(targets * log_softmax(scores, axis=1), axis=1)
    right = scores.argmax(axis=1) == targets.argmax(axis=1)
    return {"loss": float(np.average(losses, weights=weights)), "accuracy": float(right.mean())}
