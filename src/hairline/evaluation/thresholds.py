"""The operating point: the probability from which on an image is called positive, chosen on validation images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hairline.evaluation import intervals, metrics

Rule = Literal["recall", "f1", "given"]
RESAMPLES = 500


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold, how it was chosen, and what it gave on the images it was chosen on.

    Attributes:
        threshold: Positive is decided where the probability is at least this.
        rule: `recall`, `f1` or `given`.
        target_recall: What `recall` asked for; None with another rule.
        reached: Whether the lower bound of the recall meets the target; None with another rule.
        images: Positive validation images, of which recall is a share.
        recall: Measured on validation, with its 95 % Wilson interval in `recall_low` and `recall_high`.
        recall_low: Lower end.
        recall_high: Upper end.
        specificity: Measured on validation.
        precision: Measured on validation.
        threshold_low: Lower end of the threshold's own 95 % interval, by bootstrap over groups; None: not measured.
        threshold_high: Upper end.
    """

    threshold: float
    rule: str
    target_recall: float | None
    reached: bool | None
    images: int
    recall: float
    recall_low: float
    recall_high: float
    specificity: float
    precision: float
    threshold_low: float | None = None
    threshold_high: float | None = None

    def values(self) -> dict[str, Any]:
        """Give all of it as plain values, for JSON."""
        return asdict(self)

    def describe(self) -> str:
        """Say in one line how the threshold was chosen and what it gave."""
        how = {
            "recall": f"for a recall of {self.target_recall}",
            "f1": "for the highest F1",
            "given": "as given",
        }[self.rule]
        said = f"{how}: on validation recall {self.recall:.4f} ({self.recall_low:.4f} to {self.recall_high:.4f}) of "
        said += f"{self.images:,} positives, specificity {self.specificity:.4f}"
        if self.reached is False and self.target_recall is not None:
            needed = positives_needed(self.target_recall)
            said += "; the target is out of reach: "
            if self.images < needed:
                said += f"being sure of it takes {needed:,} positive validation images"
            else:
                said += "no threshold finds enough positives to be sure of it"
        return said


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
) -> OperatingPoint:
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
) -> OperatingPoint:
    """Measure a threshold on validation images; arguments as in `choose`."""
    inside, called = np.asarray(labels01) == 1, np.asarray(scores) >= threshold
    found, positives, negatives = int((inside & called).sum()), int(inside.sum()), int((~inside).sum())
    low, high = metrics.wilson_interval(found, positives)
    return OperatingPoint(
        threshold=threshold,
        rule=rule,
        target_recall=target_recall,
        reached=reached,
        images=positives,
        recall=found / positives,
        recall_low=low,
        recall_high=high,
        specificity=int((~inside & ~called).sum()) / negatives,
        precision=found / max(int(called.sum()), 1),
        threshold_low=interval[0],
        threshold_high=interval[1],
    )


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
