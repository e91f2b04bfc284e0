"""The operating point: the probability from which on an image is called positive, chosen on validation images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hairline.evaluation import intervals, metrics
from hairline.model.decision import Decision, OperatingPoint

Rule = Literal["recall", "f1", "given"]
RESAMPLES = 500


def positives_needed(target_recall: float) -> int:
    """Give the number of positive images, all found, from which the lower bound of the recall meets a target.

    >>> positives_needed(0.99), [metrics.wilson_interval(count, count)[0] >= 0.99 for count in (380, 381)]
    (381, [False, True])
    """
    # Wilson's lower bound of n out of n is n / (n + z^2).
    z_squared = 1.959963984540054**2
    return math.ceil(target_recall / (1 - target_recall) * z_squared)


def choose(
    labels01: NDArray[np.int64],
    scores: NDArray[np.float64],
    *,
    rule: Literal["recall", "f1"],
    target_recall: float = 0.99,
    standard_errors: float = 1.0,
    groups: Sequence[object] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Decision:
    """Choose a threshold on validation images.

    `recall`: among the thresholds whose recall has a lower bound (95 % Wilson) that meets the target, the lowest whose
    balanced accuracy is within so many standard errors of the best (with 1, the rule of Breiman et al. 1984, *CART*):
    the images cannot tell them apart, a missed crack costs more than a false alarm, and on other surfaces scores are
    lower. Where none meets the target, among those whose recall itself does, and the result says so. `f1`: the
    threshold of the highest F1, of equals the lowest. A threshold lies half way to the next lower score, so that
    rounding cannot cross it.

    Args:
        labels01: 1 for positive, int [n]; both must occur.
        scores: Probability of the positive class, [n].
        rule: See above.
        target_recall: Below 1.
        standard_errors: From 0, the best itself.
        groups: Images of a group are drawn together in the bootstrap; None: each by itself.
        resamples: Of the bootstrap that gives the threshold's own interval; 0: none.
        seed: Of the bootstrap.
    """
    scores = np.asarray(scores, np.float64)
    values, true_positives, false_positives = metrics.ranking_points(labels01, scores)
    candidates = (values + np.append(values[1:], 0.0)) / 2
    target = target_recall if rule == "recall" else None
    best, reached = _best(true_positives[None], false_positives[None], target, standard_errors)
    interval: tuple[float | None, float | None] = (None, None)
    if resamples:
        order = np.argsort(-scores, kind="stable")
        last_of_ties = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
        inside = np.asarray(labels01)[order] == 1
        drawn: list[NDArray[np.float64]] = []
        for weights in intervals.resampled_weights(groups, len(scores), resamples, seed):
            counted = weights[:, order]
            found = np.cumsum(counted * inside, axis=1, dtype=np.float64)[:, last_of_ties]
            alarms = np.cumsum(counted * ~inside, axis=1, dtype=np.float64)[:, last_of_ties]
            both = (found[:, -1] > 0) & (alarms[:, -1] > 0)
            drawn.append(candidates[_best(found[both], alarms[both], target, standard_errors)[0]])
        interval = intervals.percentiles(np.concatenate(drawn))
    return measured(
        labels01,
        scores,
        float(candidates[best[0]]),
        rule=rule,
        target_recall=target,
        reached=bool(reached[0]) if target is not None else None,
        interval=interval,
    )


def measured(
    labels01: NDArray[np.int64],
    scores: NDArray[np.float64],
    threshold: float,
    *,
    rule: Rule = "given",
    target_recall: float | None = None,
    reached: bool | None = None,
    interval: tuple[float | None, float | None] = (None, None),
) -> Decision:
    """Measure a threshold on validation images; arguments as in `choose`."""
    inside, called = np.asarray(labels01) == 1, np.asarray(scores) >= threshold
    found, positives, negatives = int((inside & called).sum()), int(inside.sum()), int((~inside).sum())
    low, high = metrics.wilson_interval(found, positives)
    point = OperatingPoint(
        rule=rule,
        target_recall=target_recall,
        reached=reached,
        images=positives,
        needed=None if target_recall is None else positives_needed(target_recall),
        recall=found / positives,
        recall_low=low,
        recall_high=high,
        specificity=int((~inside & ~called).sum()) / negatives,
        precision=found / max(int(called.sum()), 1),
        threshold_low=interval[0],
        threshold_high=interval[1],
    )
    return Decision(threshold=threshold, chosen=point.describe(), point=point)


def _best(
    true_positives: NDArray[Any], false_positives: NDArray[Any], target_recall: float | None, standard_errors: float
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Choose among thresholds in descending order, for each row of counts [rows, thresholds].

    Returns:
        The number of the threshold, and whether the recall's lower bound meets the target.
    """
    positives, negatives = true_positives[:, -1:], false_positives[:, -1:]
    if target_recall is None:
        merit = 2 * true_positives / (true_positives + false_positives + positives)
        return _last_of_the_highest(merit), np.ones(len(merit), bool)
    recall, alarms = true_positives / positives, false_positives / negatives
    balanced = (recall - alarms) / 2
    certain = np.asarray(metrics.wilson_bounds(true_positives, positives)[0] >= target_recall)
    reached = np.asarray(certain.any(axis=1))
    allowed = np.where(reached[:, None], certain, recall >= target_recall)
    merit = np.where(allowed, balanced, -np.inf)
    highest = _last_of_the_highest(merit)[:, None]
    error = (
        np.hypot(*(_standard_error(*counts) for counts in ((true_positives, positives), (false_positives, negatives))))
        / 2
    )
    least = np.take_along_axis(merit - standard_errors * error, highest, axis=1)
    return _last_of_the_highest((merit >= least).astype(np.float64)), reached


def _standard_error(hits: NDArray[Any], cases: NDArray[Any]) -> NDArray[np.float64]:
    """Give the standard error of a share, after Laplace: that none or all were hit is no proof of certainty."""
    share = (hits + 1) / (cases + 2)
    return np.asarray(np.sqrt(share * (1 - share) / cases))


def _last_of_the_highest(merit: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.asarray(merit.shape[1] - 1 - merit[:, ::-1].argmax(axis=1), np.int64)
