"""All that one evaluation reports of a set of images, as flat names and numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hairline.evaluation import intervals, metrics
from hairline.model.decision import Decision
from hairline.model.predictions import Predictions

OF_A_CLASS = ("precision", "recall", "f1", "specificity", "auroc", "average_precision")


def measure(predictions: Predictions, decision: Decision, *, resamples: int = intervals.RESAMPLES) -> dict[str, float]:
    """Measure calibrated predictions, with intervals.

    Args:
        predictions: Of one set of images.
        decision: Temperature, threshold and abstain band.
        resamples: Bootstrap resamples; 0: only Wilson intervals, which cost nothing.

    Returns:
        What `metrics.classification_metrics` returns; `<metric>_interval_low` and `_high` (95 %); `<metric>_<class>`
        for precision, recall, f1, specificity, auroc and average_precision of each class against the rest, by arg-max;
        and with an abstain band `abstained` (share of images) and `<metric>_when_answered`. Undefined metrics are nan.
    """
    labels, class_names, positive = predictions.labels, predictions.class_names, predictions.positive
    probabilities = predictions.probabilities(decision.temperature)
    threshold, abstain = decision.threshold, decision.abstain
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
            labels,
            probabilities,
            positive=positive,
            threshold=threshold,
            groups=predictions.groups.tolist(),
            resamples=resamples,
        )
    for index, row in enumerate(metrics.per_class(labels, probabilities, class_names)):
        inside, score = (labels == index).astype(np.int64), probabilities[:, index]
        row |= {"auroc": metrics.auroc(inside, score), "average_precision": metrics.average_precision(inside, score)}
        found |= {f"{name}_{row['class']}": row[name] for name in OF_A_CLASS}
    ends = [f"{name}_interval_{end}" for name, value in found.items() if np.isnan(value) for end in ("low", "high")]
    return found | dict.fromkeys(set(ends) & set(found), np.nan)  # what is not measured has no interval either


def measure_splits(predictions: Predictions, decision: Decision, *, resamples: int) -> dict[str, float]:
    """Measure the splits of a training run; the test split in full, with intervals.

    Returns:
        Flat metrics. `train_loss` and `val_loss` are computed before calibration, as the curves are; all of `test_` are
        of the calibrated model, except `test_loss_uncalibrated` and `test_ece_uncalibrated`.
    """
    results: dict[str, float] = {}
    for split in ("train", "val"):
        part = predictions.select(split)
        plain = metrics.classification_metrics(part.labels, part.probabilities(), positive=part.positive)
        results |= {f"{split}_{key}": plain[key] for key in ("accuracy", "loss")} | {f"{split}_images": len(part)}
    val, test = predictions.select("val"), predictions.select("test")
    for name, temperature in (("val_ece_uncalibrated", 1.0), ("val_ece", decision.temperature)):
        results[name] = metrics.expected_calibration_error(val.labels, val.probabilities(temperature))
    results |= {f"test_{key}": value for key, value in measure(test, decision, resamples=resamples).items()}
    results["test_images"] = len(test)
    results["test_loss_uncalibrated"] = metrics.log_loss(test.labels, test.probabilities())
    results["test_ece_uncalibrated"] = metrics.expected_calibration_error(test.labels, test.probabilities())
    return results | decision_metrics(decision)


def decision_metrics(decision: Decision) -> dict[str, float]:
    """Return the decision, and what it gave on validation, as flat numbers."""
    point = decision.point
    values: dict[str, float] = {"temperature": decision.temperature}
    if point is None or decision.threshold is None:
        return values
    values["threshold"] = decision.threshold
    if point.threshold_low is not None and point.threshold_high is not None:
        values |= {"threshold_low": point.threshold_low, "threshold_high": point.threshold_high}
    values |= {f"val_{key}_at_threshold": getattr(point, key) for key in ("recall", "specificity", "precision")}
    ends = {"low": point.recall_low, "high": point.recall_high}
    return values | {f"val_recall_at_threshold_interval_{end}": value for end, value in ends.items()}


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
