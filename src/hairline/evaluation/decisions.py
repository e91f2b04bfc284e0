"""Choose how probabilities become answers: temperature and threshold, on validation images and on nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from scipy.special import softmax

from hairline.evaluation import calibration as calibrations
from hairline.evaluation import thresholds
from hairline.model.decision import Decision, DecisionError
from hairline.model.predictions import Predictions


def decide(
    predictions: Predictions,
    *,
    threshold: float | str,
    target_recall: float,
    standard_errors: float,
    calibration: Literal["temperature", "none"],
    abstain: list[float] | None,
    resamples: int = thresholds.RESAMPLES,
) -> Decision:
    """Choose temperature and threshold.

    Args:
        predictions: Of validation images, which took no part in training.
        threshold: `recall`, `f1`, or the probability itself.
        target_recall: Target of `threshold=recall`.
        standard_errors: How far the balanced accuracy may lie below its best.
        calibration: Whether a temperature is fitted.
        abstain: Abstain band.
        resamples: Bootstrap resamples of the threshold's interval; 0: none.

    Raises:
        DecisionError: If there is an abstain band, or a threshold given as a number, without a positive class.
    """
    positive = predictions.positive
    if positive is None and (abstain is not None or not isinstance(threshold, str)):
        key = "abstain" if abstain is not None else "threshold"
        raise DecisionError(
            f"decision.{key} refers to the positive class, and none is known here: set data.positive_class to one of "
            f"two classes, or leave decision.{key} out"
        )
    logits, labels = predictions.logits, predictions.labels
    temperature = calibrations.fit_temperature(logits, labels) if calibration == "temperature" else 1.0
    if positive is None:
        return Decision(temperature)
    truth = (labels == positive).astype(np.int64)
    scores = softmax(logits.astype(np.float64) / temperature, axis=1)[:, positive]
    if isinstance(threshold, str):
        rule: Literal["recall", "f1"] = "recall" if threshold == "recall" else "f1"
        decision = thresholds.choose(
            truth,
            scores,
            rule=rule,
            target_recall=target_recall,
            standard_errors=standard_errors,
            groups=predictions.groups.tolist(),
            resamples=resamples,
        )
    else:
        decision = thresholds.measured(truth, scores, float(threshold))
    return replace(decision, temperature=temperature, abstain=abstain)
