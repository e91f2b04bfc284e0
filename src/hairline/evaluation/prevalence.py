"""Probabilities on a surface where classes are as frequent as they are, from tiles that were selected for labelling.

Selected tiles are the doubtful ones: cracks are far more frequent among them than on the surface, and so is whatever
resembles cracks. But given a tile's logits, whether it was selected does not depend on its class. So selected tiles
give the probability of a class as a function of its margin (calibration, Platt 1999), and the margins of all tiles give
its share. Balanced accuracy is highest where the positive class is predicted from that share on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, logsumexp

# Prior of the calibration: its strength in answers, and its slope per deviation of the margins.
_PRIOR, _SLOPE = 0.3, 2.0
_NEWTON_STEPS, _LONGEST_STEP = 15, 2.0

Array = NDArray[np.float64]


def margin(logits: NDArray[np.floating], number: int) -> Array:
    """Return by how much the logit of a class exceeds those of all others together: its log odds, float64 [...].

    Args:
        logits: float [..., classes].
        number: The class.

    >>> margin(np.array([[2.0, 1.0]]), 0).tolist()
    [1.0]
    """
    others = np.delete(logits, number, axis=-1).astype(np.float64)
    return np.asarray(logits[..., number] - logsumexp(others, axis=-1), np.float64)


def calibrate(
    margins: NDArray[np.floating],
    hits: NDArray[np.bool_],
    weights: NDArray[np.floating] | None = None,
    *,
    scale: float | None = None,
) -> tuple[Array, Array]:
    """Fit the probability of a class as a logistic function of its margin (Platt 1999), by Newton's method.

    Args:
        margins: Of images that the model was not fitted to, float [n].
        hits: Whether each is of the class, bool [n].
        weights: One row of weights for each fit, float [fits, n]; None: one fit, all weights 1.
        scale: Deviation of the margins of all tiles, which the prior refers to; None: that of `margins`.

    Returns:
        Slope, at least 0, and offset of each fit, float64 [fits].
    """
    rows = np.ones((1, len(margins))) if weights is None else np.asarray(weights, np.float64)
    unit = max(float(np.std(margins)) if scale is None else scale, 1e-12)
    x, y = np.asarray(margins, np.float64) / unit, hits.astype(np.float64)
    prior = np.array([_SLOPE, 0.0])
    found = np.tile(prior, (len(rows), 1))
    for _ in range(_NEWTON_STEPS):
        p = expit(found[:, :1] * x + found[:, 1:])
        error, curvature = rows * (p - y), rows * p * (1 - p)
        gradient = np.stack([error @ x, error.sum(axis=1)], axis=1) + _PRIOR * (found - prior)
        hessian = np.empty((len(rows), 2, 2))
        hessian[:, 0, 0] = curvature @ np.square(x) + _PRIOR
        hessian[:, 1, 1] = curvature.sum(axis=1) + _PRIOR
        hessian[:, 0, 1] = hessian[:, 1, 0] = curvature @ x
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        found = found - np.clip(step, -_LONGEST_STEP, _LONGEST_STEP)
        found[:, 0] = np.maximum(found[:, 0], 1e-3)
    return found[:, 0] / unit, found[:, 1]


def threshold_margin(margins: NDArray[np.floating], hits: NDArray[np.bool_], share: float) -> float:
    """Return the margin at which the calibrated probability of a class equals its share among all tiles.

    Args:
        margins: Of labelled images that the model was not fitted to, float [n].
        hits: Whether each is of the class, bool [n].
        share: Share of the class among all tiles, 0 to 1 exclusive.
    """
    slope, offset = calibrate(margins, hits)
    return float((logit(share) - offset[0]) / slope[0])


def share(margins: NDArray[np.floating], hits: NDArray[np.bool_], everything: NDArray[np.floating]) -> float:
    """Return the estimated share of a class among all tiles.

    Args:
        margins: Of labelled images that the model was not fitted to, float [n].
        hits: Whether each is of the class, bool [n].
        everything: Margins of all tiles, float [tiles].
    """
    slope, offset = calibrate(margins, hits)
    return float(expit(slope[0] * np.asarray(everything, np.float64) + offset[0]).mean())
