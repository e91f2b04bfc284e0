"""From scores to answers: temperature and threshold, both chosen on validation images and on nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from hairline.evaluation import calibration as calibrations
from hairline.evaluation import thresholds
from hairline.evaluation.thresholds import OperatingPoint
from hairline.system.errors import HairlineError


class DecisionError(HairlineError):
    """A decision that these classes do not allow."""


@dataclass(frozen=True)
class Decision:
    """How a model's scores become answers.

    Attributes:
        temperature: Logits are divided by it.
        point: The operating point; None where no class is the positive one.
        abstain: Lowest and highest probability of the positive class between which the answer is "cannot tell".
    """

    temperature: float
    point: OperatingPoint | None
    abstain: list[float] | None


def decide(
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    positive: int | None,
    *,
    threshold: float | str,
    target_recall: float,
    standard_errors: float,
    calibration: Literal["temperature", "none"],
    abstain: list[float] | None,
    groups: Sequence[object] | None = None,
    resamples: int = thresholds.RESAMPLES,
) -> Decision:
    """Choose temperature and operating point on validation images.

    Args:
        scores: Logits float32 [n, classes] of the validation images.
        labels: Their classes, int64 [n].
        positive: Index of the positive class; None: no threshold, the most probable class is the answer.
        threshold: `recall`, `f1`, or the probability itself.
        target_recall: What `threshold=recall` aims at.
        standard_errors: How far it may lie below the best balanced accuracy.
        calibration: Whether a temperature is fitted.
        abstain: The band of "cannot tell".
        groups: Of the images, for the threshold's interval.
        resamples: Of the bootstrap for that interval; 0: none.

    Raises:
        DecisionError: If there is an abstain band, or a threshold given as a number, without a positive class.
    """
    if positive is None and (abstain is not None or not isinstance(threshold, str)):
        key = "abstain" if abstain is not None else "threshold"
        raise DecisionError(
            f"decision.{key} refers to the positive class, and none is known here: set data.positive_class to one of "
            f"two classes, or leave decision.{key} out"
        )
    temperature = calibrations.fit_temperature(scores, labels) if calibration == "temperature" else 1.0
    if positive is None:
        return Decision(temperature, None, None)
    truth = (labels == positive).astype(np.int64)
    found = softmax(scores.astype(np.float64) / temperature, axis=1)[:, positive]
    if isinstance(threshold, str):
        rule: Literal["recall", "f1"] = "recall" if threshold == "recall" else "f1"
        point = thresholds.choose(
            truth,
            found,
            rule=rule,
            target_recall=target_recall,
            standard_errors=standard_errors,
            groups=groups,
            resamples=resamples,
        )
    else:
        point = thresholds.measured(truth, found, float(threshold))
    return Decision(temperature, point, abstain)
