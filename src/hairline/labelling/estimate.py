"""How well the model does on this surface, estimated from the answers.

Tiles are not answered at random, so their share of right answers says little about all tiles: the selected ones are
the doubtful ones. But given its logits, whether a tile is answered does not depend on its class. So the answers give
the probability of each class as a function of the logits, by calibration (Platt 1999) of out-of-fold logits, and the
logits of all tiles give the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import expit

from hairline.evaluation import prevalence
from hairline.evaluation.intervals import ENDS, Z

LEAST = 5  # answers of each class from which on there is an estimate
_RESAMPLES = 100
_BINS = 512  # of the logits of all tiles

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """Estimated balanced accuracy of the model on all tiles.

    Attributes:
        value: Mean recall of the classes.
        low: Lower end of its 95 % interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float


def estimate(
    honest: NDArray[np.floating],
    classes: NDArray[np.int64],
    photos: NDArray[np.int64],
    logits: NDArray[np.floating],
    pool_photos: NDArray[np.int64],
    *,
    seed: int,
) -> Estimate | None:
    """Estimate the balanced accuracy of a model on all tiles, and on further photos of the surface.

    Args:
        honest: Logits of the answered tiles by a model that was not fitted to them, relative to the threshold,
            [n, classes].
        classes: Their classes, int64 [n].
        photos: Their photos, int64 [n].
        logits: Logits of all tiles, relative to the threshold, [tiles, classes].
        pool_photos: Photo of each tile, int64 [tiles].
        seed: Seed of the bootstrap.

    Returns:
        The estimate; None with fewer than `LEAST` answers of a class.
    """
    count = logits.shape[1]
    if np.bincount(classes, minlength=count).min() < LEAST:
        return None
    generator = np.random.default_rng([seed, 0xE57])
    # Row 0 is the estimate, the others are the bootstrap: photos are drawn as a whole (Bayesian bootstrap, Rubin 1981),
    # once for the answers and once for the photos that the model will see.
    answered, number = np.unique(photos, return_inverse=True)
    answer_weights = _photo_weights(generator, len(answered))[:, number]
    photo_weights = _photo_weights(generator, int(pool_photos.max()) + 1)
    predicted = logits.argmax(axis=1)
    recalls = []
    for label in range(count):
        margin, score = prevalence.margin(honest, label), prevalence.margin(logits, label)
        slope, offset = prevalence.calibrate(margin, classes == label, answer_weights, scale=float(score.std()))
        edges = np.quantile(score, np.linspace(0, 1, _BINS + 1)[1:-1])
        bins = np.searchsorted(edges, score)
        centres = np.bincount(bins, score, _BINS) / np.maximum(np.bincount(bins, minlength=_BINS), 1)
        probability = expit(slope[:, None] * centres + offset[:, None])
        right = photo_weights @ _tiles_per_bin(pool_photos, bins, predicted == label)
        everything = photo_weights @ _tiles_per_bin(pool_photos, bins, np.ones(len(bins), bool))
        positives = (probability * everything).sum(axis=1)
        recalls.append((probability * right).sum(axis=1) / np.maximum(positives, 1e-12))
    values = np.mean(recalls, axis=0)
    low, high = np.quantile(values[1:], ENDS)
    # A calibration curve through a few answers is surer of itself than the answers allow: add the error of as many
    # recalls counted one by one (Agresti and Coull 1998).
    answers = np.bincount(classes, minlength=count)
    shares_right = (np.array([recall[0] for recall in recalls]) * answers + 2) / (answers + 4)
    counted = Z * np.sqrt((shares_right * (1 - shares_right) / (answers + 4)).sum()) / count
    low = max(values[0] - np.hypot(values[0] - low, counted), 0.0)
    high = min(values[0] + np.hypot(high - values[0], counted), 1.0)
    return Estimate(*(round(float(value), 4) for value in (values[0], low, high)))


def _photo_weights(generator: np.random.Generator, count: int) -> Array:
    """Return weights of photos, float64 [1 + resamples, photos]: all 1, then those of each resample."""
    return np.concatenate([np.ones((1, count)), generator.dirichlet(np.ones(count), _RESAMPLES) * count])


def _tiles_per_bin(photos: NDArray[np.int64], bins: NDArray[np.int64], chosen: NDArray[np.bool_]) -> sparse.csr_array:
    """Return the number of chosen tiles of each photo in each bin, [photos, bins]."""
    shape = (int(photos.max()) + 1, _BINS)
    return sparse.csr_array((chosen.astype(np.float64), (photos, bins)), shape=shape)
