"""Temperature scaling: one number that makes probabilities as sure as they are right, and changes no ranking."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

_RANGE = (0.02, 50.0)


def fit_temperature(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Find the temperature of lowest log loss (Guo et al. 2017, "On calibration of modern neural networks", 4.2).

    The targets are Platt's (1999, "Probabilistic outputs for support vector machines", 2.2): not quite 0 and 1, by
    as much as the number of images leaves open. Validation images that are all classified rightly would otherwise ask
    for a temperature of zero, that is for certainty.

    Args:
        scores: Logits float32 [n, classes] of images that took no part in training.
        labels: Their classes, int64 [n].

    Returns:
        What the logits are to be divided by; above 1 where the model was too sure.

    >>> generator = np.random.default_rng(0)
    >>> truth = generator.integers(0, 2, 20_000)
    >>> honest = np.stack([np.zeros(20_000), generator.normal(2.0 * truth - 1.0)], axis=1)  # log odds are 2 x
    >>> round(fit_temperature(honest, truth), 1)
    0.5
    """
    classes = scores.shape[1]
    counts = np.bincount(labels, minlength=classes)
    sure = (counts + 1) / (counts + 2)
    targets = np.repeat(((1 - sure) / (classes - 1))[:, None], classes, axis=1)
    np.fill_diagonal(targets, sure)
    wanted, logits = targets[labels], scores.astype(np.float64)
    logits = logits - logits.max(axis=1, keepdims=True)

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        normalised = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
        return float(-(wanted * normalised).sum(axis=1).mean())

    bounds = tuple(np.log(_RANGE))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))
