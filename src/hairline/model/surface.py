"""Adapting a model to a new surface without labels: its features' scale and its threshold, where that does no harm.

Two things move when a surface changes. The features' deviations do: each is brought half way back to that of the
training images, about the new surface's own mean, which stays where it is. Moving the mean as well, as plain
re-standardisation does, takes rare cracks for half of the images. And the scores of both classes do: the threshold
goes to where the scores part best into two groups (Otsu 1979), which asks little about how many of each there are.
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

LEAST = 64  # images or tiles: of fewer, one photo's whims would pass for a surface
# Of the training deviation: a feature that hardly varies on the new surface is not blown up beyond this.
_LEAST_DEVIATION = 0.3
# Of a photo's limit: what single photos add to the distance of a surface is lost in the mean of many. METU's own test
# part lies at 0.2 to 0.4, DeepCrack and UAV75 at 0.55 to 1.3.
_FAR = 0.5
# Of the way back to the training images' deviation, on a logarithmic scale: what many cracks add to it is none of the
# surface's. All of it loses more of balanced accuracy than half of it, and gains no more
# (docs/generalisation.md).
_SCALED = 0.5
# Log odds of a rise that are not heeded: where most tiles are cracked, the cracked ones part among themselves.
_UNHEEDED_RISE = 2.0
# Share of the scores' variance between two groups, up to which they are but the halves of one bell.
_ONE_BELL = 2 / np.pi
# By so much more they are two, and the threshold goes all the way; by less, as much of it. Where cracks are rare and
# the model is good, sound tiles part among themselves, by 0.00 to 0.01; where it is weak, by 0.03 (UAV75, 1 % cracked).
_TWO_GROUPS = 0.02


class SurfaceError(HairlineError):
    """Something that a model cannot be adapted to."""


@dataclass(frozen=True)
class Adapted:
    """What became of a model's last layer.

    Attributes:
        kernel: float32 [width, 2], from features to logits.
        bias: float32 [2].
        used: Whether they are other than the model's own.
        reason: Why, or why not, in words.
        distance: Of the new images' mean from the training images; 1 is as far as single photos of the validation come.
        shift: By how much the threshold moved, in log odds; above 0: fewer are called positive.
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
    """Fit the last layer to the features of a new surface.

    Args:
        features: float32 [n, width], of its images or tiles, cracked or not in any proportion.
        distance: From the training images; holds the training features' mean and deviation.
        kernel: The model's own, float32 [width, 2].
        bias: float32 [2].
        positive: Index of the positive class.
        threshold: Probability of the positive class from which on it is decided, which stays the same.
    """
    if len(features) < LEAST:
        return Adapted(
            kernel,
            bias,
            False,
            f"{len(features)} tiles are too few to tell a surface by, at least {LEAST} are needed",
            0.0,
        )
    far = distance.mean_shift(features) / float(distance.set_limit)
    if far <= _FAR:
        return Adapted(kernel, bias, False, f"they look like the training images (distance {far:.2f})", far)
    own = features.mean(axis=0, dtype=np.float64)
    spread = features.std(axis=0, dtype=np.float64) / distance.deviation
    scale = np.maximum(spread, _LEAST_DEVIATION) ** -_SCALED
    scaled = kernel * scale[:, None]
    offset = bias + (own * (1 - scale)) @ kernel
    logits = features @ scaled + offset
    shift = _shift(logits[:, positive] - logits[:, 1 - positive] - logit(threshold))
    offset = offset - np.where(np.arange(2) == positive, shift, -shift) / 2
    reason = f"distance {far:.2f}, threshold moved by {shift:+.2f} in log odds"
    return Adapted(scaled.astype(np.float32), offset.astype(np.float32), True, reason, far, shift)


def _shift(scores: NDArray[np.floating]) -> float:
    """Say by how much a threshold at 0 moves for scores of a new surface."""
    if np.ptp(scores) == 0:
        return 0.0
    parted = parting(scores)
    above = scores >= parted
    between = above.mean() * (1 - above.mean()) * np.square(scores[above].mean() - scores[~above].mean())
    trust = np.clip((between / scores.var() - _ONE_BELL) / _TWO_GROUPS, 0.0, 1.0)
    return float(trust * (parted if parted < 0 else max(parted - _UNHEEDED_RISE, 0.0)))


def parting(scores: NDArray[np.floating]) -> float:
    """Give the score between two groups whose means lie apart the most for their sizes (Otsu 1979).

    Half way between the two means, as two-means clustering (Lloyd 1982) has it, and exact: all divisions are tried.

    Args:
        scores: float [n], at least 2 of them different.

    >>> parting(np.array([0.0, 1.0, 9.0, 11.0]))
    5.25
    """
    ordered = np.sort(np.asarray(scores, np.float64))
    lower = np.arange(1, len(ordered))
    sums = np.cumsum(ordered)
    below, above = sums[:-1] / lower, (sums[-1] - sums[:-1]) / (len(ordered) - lower)
    best = int(np.argmax(lower * (len(ordered) - lower) * np.square(above - below)))
    return float(below[best] + above[best]) / 2


def save(adapted: Adapted, key: str, file: Path) -> None:
    """Write what was adapted, in one step.

    Args:
        adapted: It.
        key: Names what it was adapted to.
        file: With the suffix `.npz`; replaced where it exists.
    """
    told = json.dumps({"key": key, "used": adapted.used, "reason": adapted.reason})
    with files.atomic(file) as opened:
        np.savez(opened, kernel=adapted.kernel, bias=adapted.bias, told=np.array(told))


def load(file: Path) -> tuple[NDArray[np.float32], NDArray[np.float32], dict[str, Any]]:
    """Read what `save` wrote: kernel, bias, and `key`, `used` and `reason`.

    Raises:
        SurfaceError: If it cannot be read.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return arrays["kernel"], arrays["bias"], json.loads(str(arrays["told"]))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise SurfaceError(f"{file} cannot be read ({error}): delete it, and it is made again") from error
