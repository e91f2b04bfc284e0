"""The model of a labelling session: a finished run's last layer, refitted to the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from hairline.evaluation import prevalence
from hairline.model.logistic import MOST_ORIENTED, refit

LEAST = 10  # answers of each class, besides random tiles, from which on the layer is refitted


@dataclass(frozen=True)
class Layer:
    """A last layer, from features to logits, and how its logits become answers.

    Attributes:
        kernel: float32 [width, classes].
        bias: float32 [classes].
        mean: Mean of the base's training features, float32 [width].
        deviation: float32 [width].
        positive: Index of the positive class; None: the most probable class is the answer.
        threshold: Probability from which the positive class is the answer.
        answers: Number of answers it was fitted to; 0 for the run's own.
        share: Estimated share of the positive class among all tiles, which the threshold follows from; None: unknown.
    """

    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]
    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]
    positive: int | None
    threshold: float | None
    answers: int = 0
    share: float | None = None

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of features [n, width], relative to the threshold: float32 [n, classes].

        The answer is the class with the largest one.
        """
        return self.relative(features @ self.kernel + self.bias)

    def relative(self, logits: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return logits [..., classes] relative to the threshold: those of the positive class less its log odds."""
        relative = np.asarray(logits, np.float32).copy()
        if self.positive is not None and self.threshold is not None:
            relative[..., self.positive] -= np.log(self.threshold / (1 - self.threshold))
        return relative


def fit(
    base: Layer,
    features: NDArray[np.float32],
    rows: NDArray[np.int64],
    labels: NDArray[np.int64],
    groups: Sequence[object],
    *,
    seed: int,
    views: Callable[[NDArray[np.int64]], NDArray[np.float32]] | None = None,
) -> tuple[Layer, NDArray[np.float32]]:
    """Refit the base's layer to answered tiles, as `train.py base=` does.

    Args:
        base: The run's own layer.
        features: Of all tiles, float32 [tiles, width].
        rows: The answered tiles, without random ones, int64 [n].
        labels: Class of each, int64 [n].
        groups: Photo of each.
        seed: Seed of the folds.
        views: Returns the features of further views of tiles, float32 [views, tiles, width], which are fitted too,
            up to `MOST_ORIENTED` tiles.

    Returns:
        The layer, and out-of-fold logits of the answered tiles, relative to its threshold, float32 [n, classes]. With
        fewer than `LEAST` answers of a class these are the base's own.
    """
    known = features[rows]
    if np.bincount(labels, minlength=base.bias.size).min() < LEAST:
        return base, base.logits(known)
    fitted = refit(
        known,
        labels,
        groups,
        kernel=base.kernel,
        bias=base.relative(base.bias),
        mean=base.mean,
        deviation=base.deviation,
        seed=seed,
        views=None if views is None or len(rows) > MOST_ORIENTED else views(rows),
    )
    kernel, bias = np.asarray(fitted.kernel, np.float32), np.asarray(fitted.bias, np.float32)
    layer = replace(base, kernel=kernel, bias=bias, threshold=None, answers=len(labels))
    if base.positive is not None and base.bias.size == 2:
        margins = prevalence.margin(fitted.held_out, base.positive)
        hits = labels == base.positive
        share = prevalence.share(margins, hits, prevalence.margin(features @ kernel + bias, base.positive))
        layer = replace(layer, threshold=float(expit(prevalence.threshold_margin(margins, hits, share))), share=share)
    return layer, layer.relative(fitted.held_out)
