"""Adapt a model's last layer to a new surface, without labels: the scale of its features and the threshold.

On a new surface, the deviations of the features change. Each is rescaled half way to the training deviation, about the
new surface's own mean. The mean stays: plain re-standardisation moves it as well, and then takes rare cracks for half
of the images. The scores of both classes also change. The threshold moves to the split of the scores into two groups
with the largest between-class variance (Otsu 1979), which assumes little about the size of the groups.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from hairline.model.familiarity import Distance
from hairline.system import files
from hairline.system.errors import HairlineError

LEAST = 64  # images or tiles; fewer say more about one photo than about the surface
# Lower bound of new over training deviation: limits the gain of features that hardly vary on the new surface.
_LEAST_DEVIATION = 0.3
# Distance up to which the model stays as it is; 1 = 95th percentile of validation sets. These have up to 64 images; the
# mean of a whole surface varies less. METU's own test split is at 0.2 to 0.4, DeepCrack and UAV75 at 0.55 to 1.3.
FAR = 0.5
# Exponent of the rescaling towards the training deviation (0 none, 1 full). Cracks add variance themselves, so full
# rescaling loses more balanced accuracy than half of it, and gains no more (docs/notes/adapting.md).
_SCALED = 0.5
# Dead zone for a rising threshold, in log odds: if most tiles are cracked, the best split lies among the cracked ones.
_DEAD_ZONE = 2.0
# Between-class variance ratio of one Gaussian split at its mean (2/pi): below it there is one cluster.
_ONE_CLUSTER = 2 / np.pi
# Excess over this ratio at which the threshold moves all the way; proportionally less below. Sound tiles alone exceed
# it by 0.00 to 0.01 if the model is good and cracks are rare, by 0.03 if it is weak (UAV75, 1 % cracked).
_TWO_CLUSTERS = 0.02


class SurfaceError(HairlineError):
    """The model cannot be adapted, or a saved adaptation cannot be read."""


@dataclass(frozen=True)
class Adapted:
    """A last layer after adaptation.

    Attributes:
        kernel: float32 [width, 2], from features to logits.
        bias: float32 [2].
        used: Whether the layer differs from the model's own.
        reason: Why, or why not.
        distance: Mean shift of the new images; 1 = 95th percentile of validation sets.
        shift: How far the threshold moved, in log odds; positive values predict fewer positives.
    """

    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]
    used: bool
    reason: str
    distance: float
    shift: float = 0.0


def adapt(
    features: NDArray[np.float32],
    *,
    distance: Distance,
    kernel: NDArray[np.float32],
    bias: NDArray[np.float32],
    positive: int,
    threshold: float,
) -> Adapted:
    """Adapt the last layer to the features of a new surface.

    Args:
        features: float32 [n, width], of images or tiles with any share of cracks.
        distance: Statistics of the training features.
        kernel: The model's own, float32 [width, 2].
        bias: float32 [2].
        positive: Index of the positive class.
        threshold: Probability of the positive class from which it is predicted. It stays as it is; the bias moves.
    """
    if len(features) < LEAST:
        reason = f"too few tiles: {len(features)}, at least {LEAST} are needed"
        return Adapted(kernel, bias, False, reason, 0.0)
    far = distance.mean_shift(features) / float(distance.set_limit)
    if far <= FAR:
        return Adapted(kernel, bias, False, f"they look like the training images (distance {far:.2f})", far)
    mean = features.mean(axis=0, dtype=np.float64)
    spread = features.std(axis=0, dtype=np.float64) / distance.deviation
    scale = np.maximum(spread, _LEAST_DEVIATION) ** -_SCALED
    scaled = kernel * scale[:, None]
    offset = bias + (mean * (1 - scale)) @ kernel
    logits = features @ scaled + offset
    shift = _threshold_shift(logits[:, positive] - logits[:, 1 - positive] - logit(threshold))
    offset = offset - np.where(np.arange(2) == positive, shift, -shift) / 2
    reason = f"distance {far:.2f}, threshold moved by {shift:+.2f} in log odds"
    return Adapted(scaled.astype(np.float32), offset.astype(np.float32), True, reason, far, shift)


def _threshold_shift(scores: NDArray[np.floating]) -> float:
    """Return how far a threshold at 0 moves, given the scores on a new surface."""
    if np.ptp(scores) == 0:
        return 0.0
    split = otsu(scores)
    above = scores >= split
    between = above.mean() * (1 - above.mean()) * np.square(scores[above].mean() - scores[~above].mean())
    trust = np.clip((between / scores.var() - _ONE_CLUSTER) / _TWO_CLUSTERS, 0.0, 1.0)
    return float(trust * (split if split < 0 else max(split - _DEAD_ZONE, 0.0)))


def otsu(scores: NDArray[np.floating]) -> float:
    """Return the threshold that maximises the between-class variance (Otsu 1979), half way between the two means.

    This is exact two-means clustering (Lloyd 1982): all splits are tried.

    Args:
        scores: float [n], at least two different values.

    >>> otsu(np.array([0.0, 1.0, 9.0, 11.0]))
    5.25
    """
    ordered = np.sort(np.asarray(scores, np.float64))
    lower = np.arange(1, len(ordered))
    sums = np.cumsum(ordered)
    below, above = sums[:-1] / lower, (sums[-1] - sums[:-1]) / (len(ordered) - lower)
    best = int(np.argmax(lower * (len(ordered) - lower) * np.square(above - below)))
    return float(below[best] + above[best]) / 2


def save(adapted: Adapted, key: str, file: Path) -> None:
    """Save an adaptation atomically.

    Args:
        adapted: The adapted layer.
        key: Identifies what it was adapted to.
        file: Path with the suffix `.npz`; an existing file is replaced.
    """
    details = json.dumps({"key": key, "used": adapted.used, "reason": adapted.reason})
    with files.atomic(file) as opened:
        np.savez(opened, kernel=adapted.kernel, bias=adapted.bias, details=np.array(details))


def load(file: Path) -> tuple[NDArray[np.float32], NDArray[np.float32], dict[str, Any]]:
    """Load a saved adaptation: kernel, bias, and a dictionary with `key`, `used` and `reason`.

    Raises:
        SurfaceError: If it cannot be read.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return arrays["kernel"], arrays["bias"], json.loads(str(arrays["details"]))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise SurfaceError(f"{file} cannot be read ({error}): delete it to adapt again") from error
