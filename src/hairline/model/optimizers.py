"""Optimizers and learning-rate schedules, from the keys of their configuration groups."""

from __future__ import annotations

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
        learning_rate: A rate or a schedule over steps.
        settings: The other keys of its configuration group: keyword arguments of the Keras class.
    """
    return OPTIMIZERS[name](learning_rate=learning_rate, **settings)


def constant(learning_rate: float, steps: int) -> float:
    """Keep one rate throughout."""
    return learning_rate


def cosine(learning_rate: float, steps: int, *, warmup: float, final: float) -> Any:
    """Warm up linearly, then follow half a cosine (Loshchilov & Hutter 2017).

    Args:
        learning_rate: Highest rate.
        steps: Batches of the whole training.
        warmup: Share of the steps spent warming up.
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
    """Multiply the rate by `factor` at each boundary, given as a share of all steps."""
    values = learning_rate * np.power(factor, np.arange(len(boundaries) + 1))
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        [round(boundary * steps) for boundary in sorted(boundaries)], values.tolist()
    )


SCHEDULES = {"constant": constant, "cosine": cosine, "piecewise": piecewise}


def schedule(name: str, learning_rate: float, steps: int, **settings: Any) -> Any:
    """Build a learning rate or schedule from the keys of its configuration group."""
    return SCHEDULES[name](learning_rate, steps, **settings)
