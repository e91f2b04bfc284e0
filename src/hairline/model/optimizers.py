"""Optimizers and learning-rate schedules, built from their configuration groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

OPTIMIZERS: dict[str, type[keras.optimizers.Optimizer]] = {
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "sgd": keras.optimizers.SGD,
    "rmsprop": keras.optimizers.RMSprop,
    "lion": keras.optimizers.Lion,
}


def build(name: str, learning_rate: float | keras.optimizers.schedules.LearningRateSchedule, **settings: Any) -> Any:
    """Build an optimizer.

    Args:
        name: Key of `OPTIMIZERS`.
        learning_rate: A rate or a schedule.
        settings: The other keys of its configuration group, which are keyword arguments of the Keras class.
    """
    return OPTIMIZERS[name](learning_rate=learning_rate, **settings)


def constant(learning_rate: float, steps: int) -> float:
    """Return a constant rate."""
    return learning_rate


def cosine(learning_rate: float, steps: int, *, warmup: float, final: float) -> Any:
    """Return a linear warm-up followed by cosine decay (Loshchilov & Hutter 2017).

    Args:
        learning_rate: Highest rate.
        steps: Number of batches in the whole training.
        warmup: Share of the steps in the warm-up.
        final: Last rate as a fraction of the highest.
    """
    warm = round(warmup * steps)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warm else learning_rate,
        decay_steps=max(1, steps - warm),
        alpha=final,
        warmup_target=learning_rate if warm else None,
        warmup_steps=warm,
    )


def piecewise(learning_rate: float, steps: int, *, boundaries: list[float], factor: float) -> Any:
    """Return a rate multiplied by `factor` at each boundary, given as a share of all steps."""
    if not boundaries:
        return learning_rate
    values = learning_rate * np.power(factor, np.arange(len(boundaries) + 1))
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        [round(boundary * steps) for boundary in sorted(boundaries)], values.tolist()
    )


SCHEDULES: dict[str, Callable[..., Any]] = {"constant": constant, "cosine": cosine, "piecewise": piecewise}


def schedule(name: str, learning_rate: float, steps: int, **settings: Any) -> Any:
    """Build a learning rate or schedule over `steps` from its configuration group."""
    return SCHEDULES[name](learning_rate, steps, **settings)
