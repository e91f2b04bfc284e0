"""Fit the head to convergence (logistic regression by L-BFGS), with the same history as training by epochs."""

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

Rows = tuple[np.ndarray, np.ndarray]  # standardised features float32 [n, width], target probabilities [n, classes]


def solve(
    train: Rows,
    val: Rows,
    weights: np.ndarray | None,
    *,
    l2: float,
    iterations: int,
    keep: Literal["best", "last"],
    verbose: bool = True,
    on_epoch: Callable[[int, dict[str, float]], None] = lambda epoch, row: None,
    signals: Signals | None = None,
) -> tuple[logistic.Solution, pd.DataFrame]:
    """Minimise the convex loss of a linear head.

    Args:
        train: Training rows.
        val: Validation rows.
        weights: Weight of each training row in the loss, float32 [n]; None: all 1.
        l2: Penalty; half of it times the squared weights is added to the loss.
        iterations: Maximum number of iterations.
        keep: Keep the iteration with the lowest validation loss, or the last.
        verbose: Log the result.
        on_epoch: Called after each iteration with its number and metrics.
        signals: Checked after each iteration.

    Returns:
        The head, and a history as `epochs.fit` returns it, one row per iteration. Losses are without the penalty.
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
        found = logistic.fit(*train, counts, l2, iterations=iterations, on_iteration=each)
        if not history:  # constant features: there was no iteration
            each(found, found.logits(train[0]))
    if verbose:
        log.info(
            "head fitted to convergence in %d iterations; kept iteration %d: loss %.4f  accuracy %.4f  val_loss %.4f  "
            "val_accuracy %.4f",
            len(history), *(best_row[key] for key in ("epoch", "loss", "accuracy", "val_loss", "val_accuracy")),
        )  # fmt: skip
    assert best is not None
    return best, pd.DataFrame(history)


def _measured(scores: np.ndarray, targets: np.ndarray, weights: np.ndarray | None = None) -> dict[str, float]:
    losses = -np.sum(targets * log_softmax(scores, axis=1), axis=1)
    right = scores.argmax(axis=1) == targets.argmax(axis=1)
    return {"loss": float(np.average(losses, weights=weights)), "accuracy": float(right.mean())}
