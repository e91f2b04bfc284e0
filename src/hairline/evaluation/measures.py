"""All that one evaluation reports of a set of images, as flat names and numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hairline.evaluation import intervals, metrics

OF_A_CLASS = ("precision", "recall", "f1", "specificity", "auroc", "average_precision")


def measure(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    class_names: Sequence[str],
    *,
    positive: int | None,
    threshold: float | None = None,
    abstain: Sequence[float] | None = None,
    groups: Sequence[object] | None = None,
    resamples: int = intervals.RESAMPLES,
) -> dict[str, float]:
    """Measure predictions, with intervals.

    Args:
        labels: True classes, int64 [n].
        probabilities: float32 [n, classes].
        class_names: In the order of the probabilities.
        positive: Index of the positive class; None: macro averages.
        threshold: Operating point on its probability.
        abstain: Lowest and highest probability of the positive class between which no answer is given.
        groups: Group of each image, for the bootstrap.
        resamples: Of the bootstrap; 0: only Wilson's intervals, which cost nothing.

    Returns:
        What `metrics.classification_metrics` gives; `<metric>_interval_low` and `_high` (95 %); `<metric>_<class>` for
        precision, recall, f1, specificity, auroc and average_precision of each class against the rest, by arg-max; and
        with an abstain band `abstained` (share of images) and `<metric>_when_answered`. nan where nothing is measured.
    """
    found = metrics.classification_metrics(labels, probabilities, positive=positive, threshold=threshold)
    chosen = probabilities.argmax(axis=1)
    found |= intervals.wilson_intervals(labels, chosen, positive=positive)
    if positive is not None and threshold is not None:
        called = np.where(probabilities[:, positive] >= threshold, positive, 1 - positive)
        found |= intervals.wilson_intervals(labels, called, positive=positive, suffix="_at_threshold")
        if abstain is not None:
            found |= _answered(labels, probabilities, positive, threshold, abstain)
    if resamples:
        found |= intervals.bootstrap_intervals(
            labels, probabilities, positive=positive, threshold=threshold, groups=groups, resamples=resamples
        )
    for index, row in enumerate(metrics.per_class(labels, probabilities, class_names)):
        inside, score = (labels == index).astype(np.int64), probabilities[:, index]
        row |= {"auroc": metrics.auroc(inside, score), "average_precision": metrics.average_precision(inside, score)}
        found |= {f"{name}_{row['class']}": row[name] for name in OF_A_CLASS}
    ends = [f"{name}_interval_{end}" for name, value in found.items() if np.isnan(value) for end in ("low", "high")]
    return found | dict.fromkeys(set(ends) & set(found), np.nan)  # what is not measured has no interval either


def _answered(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    positive: int,
    threshold: float,
    abstain: Sequence[float],
) -> dict[str, float]:
    """Measure the images outside the abstain band at the threshold."""
    score = probabilities[:, positive]
    answered = (score < abstain[0]) | (score >= abstain[1])
    found = {"abstained": float(1 - answered.mean())}
    names = ("accuracy", "precision", "recall", "specificity", "f1", "balanced_accuracy")
    if not answered.any():
        return found
    measured = metrics.classification_metrics(
        labels[answered], probabilities[answered], positive=positive, threshold=threshold
    )
    return found | {f"{name}_when_answered": measured[f"{name}_at_threshold"] for name in names}
