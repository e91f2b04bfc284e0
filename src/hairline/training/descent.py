"""Optimizers and learning-rate schedules in NumPy, for a head: its training needs no TensorFlow then.

The rules and their order of operations are those of `keras.optimizers`, which trains whole networks
(`hairline.model.optimizers`); both take the same settings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Rule = Callable[..., None]
Rate = Callable[[int], float]


class Optimizer:
    """Changes weights by their gradients.

    Attributes:
        steps: Number of steps taken.
    """

    def __init__(
        self,
        weights: Sequence[np.ndarray],
        rate: Rate,
        *,
        name: str,
        global_clipnorm: float | None = None,
        **settings: Any,
    ) -> None:
        """Start at step 0.

        Args:
            weights: float32 arrays; `step` changes them in place.
            rate: The learning rate of each step, from 0.
            name: Key of `RULES`.
            global_clipnorm: Largest norm of all gradients together; None: any.
            settings: Keyword arguments of the rule.
        """
        self.steps = 0
        self._weights, self._rate, self._clipnorm = weights, rate, global_clipnorm
        self._rule, moments = RULES[name]
        self._moments = [[np.zeros_like(weight) for weight in weights] for _ in range(moments)]
        self._settings = settings

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        return self._rate(self.steps)

    def step(self, gradients: Sequence[np.ndarray]) -> None:
        """Take a step; the gradients, float32 in the shapes of the weights, are overwritten."""
        rate = self._rate(self.steps)
        self.steps += 1
        if self._clipnorm is not None:
            norm = math.sqrt(sum(float(np.vdot(gradient, gradient)) for gradient in gradients))
            for gradient in gradients:
                gradient *= np.float32(self._clipnorm / max(norm, self._clipnorm))
        for place, (weight, gradient) in enumerate(zip(self._weights, gradients, strict=True)):
            moments = [kind[place] for kind in self._moments]
            self._rule(weight, gradient, *moments, rate=rate, step=self.steps, **self._settings)

    def state(self) -> list[np.ndarray]:
        """Return copies of everything that `step` changes besides the weights."""
        return [np.array(self.steps), *(moment.copy() for kind in self._moments for moment in kind)]

    def restore(self, state: Sequence[np.ndarray]) -> None:
        """Continue from what `state` returned."""
        self.steps = int(state[0])
        for moment, value in zip((moment for kind in self._moments for moment in kind), state[1:], strict=True):
            moment[...] = value


def _adam(
    weight: np.ndarray,
    gradient: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    *,
    rate: float,
    step: int,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    weight_decay: float = 0.0,
) -> None:
    """Adam (Kingma & Ba 2015, section 2), with decoupled weight decay (Loshchilov & Hutter 2019)."""
    weight -= np.float32(weight_decay * rate) * weight
    first += (gradient - first) * np.float32(1 - beta_1)
    second += (np.square(gradient) - second) * np.float32(1 - beta_2)
    scale = rate * math.sqrt(1 - beta_2**step) / (1 - beta_1**step)
    weight -= np.float32(scale) * first / (np.sqrt(second) + np.float32(epsilon))


def _sgd(
    weight: np.ndarray,
    gradient: np.ndarray,
    velocity: np.ndarray,
    *,
    rate: float,
    step: int,
    momentum: float,
    nesterov: bool,
) -> None:
    """Gradient descent with momentum (Polyak 1964), or Nesterov's (Sutskever et al. 2013)."""
    velocity *= np.float32(momentum)
    velocity -= np.float32(rate) * gradient
    weight += np.float32(momentum) * velocity - np.float32(rate) * gradient if nesterov else velocity


def _rmsprop(
    weight: np.ndarray,
    gradient: np.ndarray,
    square: np.ndarray,
    velocity: np.ndarray,
    *,
    rate: float,
    step: int,
    rho: float,
    momentum: float,
    epsilon: float,
) -> None:
    """RMSprop (Tieleman & Hinton 2012), with epsilon under the root."""
    square += (np.square(gradient) - square) * np.float32(1 - rho)
    velocity *= np.float32(momentum)
    velocity += np.float32(rate) * gradient / np.sqrt(square + np.float32(epsilon))
    weight -= velocity


def _lion(
    weight: np.ndarray,
    gradient: np.ndarray,
    first: np.ndarray,
    *,
    rate: float,
    step: int,
    beta_1: float,
    beta_2: float,
    weight_decay: float | None,
) -> None:
    """Lion (Chen et al. 2023, algorithm 2)."""
    weight -= np.float32((weight_decay or 0.0) * rate) * weight
    weight -= np.float32(rate) * np.sign(first * np.float32(beta_1) + gradient * np.float32(1 - beta_1))
    first += (gradient - first) * np.float32(1 - beta_2)


# The rule of each optimizer, and how many moments of each weight it keeps.
RULES: dict[str, tuple[Rule, int]] = {
    "adam": (_adam, 2),
    "adamw": (_adam, 2),
    "sgd": (_sgd, 1),
    "rmsprop": (_rmsprop, 2),
    "lion": (_lion, 1),
}


def schedule(name: str, learning_rate: float, steps: int, **settings: Any) -> Rate:
    """Return the learning rate of each step as a function; see the configuration group `schedule`.

    Args:
        name: `constant`, `cosine` or `piecewise`.
        learning_rate: Highest rate.
        steps: Number of batches in the whole training.
        settings: Keyword arguments of the schedule.
    """
    return lambda step: learning_rate * SCHEDULES[name](step, steps, **settings)


def _constant(step: int, steps: int) -> float:
    return 1.0


def _cosine(step: int, steps: int, *, warmup: float, final: float) -> float:
    """Linear warm-up over a share of the steps, then half a cosine (Loshchilov & Hutter 2017)."""
    warm = round(warmup * steps)
    if step < warm:
        return step / warm
    done = min((step - warm) / max(1, steps - warm), 1.0)
    return (1 - final) * (1 + math.cos(math.pi * done)) / 2 + final


def _piecewise(step: int, steps: int, *, boundaries: Sequence[float], factor: float) -> float:
    """Multiplied by `factor` after each boundary, given as a share of all steps."""
    passed = sum(step > round(boundary * steps) for boundary in boundaries)
    return float(factor**passed)


SCHEDULES: dict[str, Callable[..., float]] = {"constant": _constant, "cosine": _cosine, "piecewise": _piecewise}
