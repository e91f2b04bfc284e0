"""Metrics of predictions, and as functions of image weights for the bootstrap.

Metrics of classes are ratios of sums over images: `class_terms` defines them once, for all images, for resamples, for
intervals in closed form and for the comparison of models.

A metric that is undefined (a class without images, or without images of any other class) is nan, without a warning. One
exception, as in scikit-learn: a class that has images and is never predicted has a precision of 0, so that a model that
ignores a class ranks below all others. Macro averages are taken over the classes that have images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, roc_auc_score

from hairline.evaluation import intervals
from hairline.evaluation.intervals import Interval
from hairline.model.decision import Decision
from hairline.model.predictions import Predictions

BINS = 15  # of the calibration error
PER_CLASS = ("precision", "recall", "f1", "specificity", "auroc", "average_precision")
LOWER_IS_BETTER = ("loss", "brier", "ece")
_SMALLEST_PROBABILITY = 1e-7  # epsilon of Keras, so that `loss` equals the loss of training
OF_CLASSES = ("accuracy", "precision", "recall", "specificity", "f1", "balanced_accuracy")

# A metric is a mean of ratios of sums over images: numerators and denominators, [n, ratios] each.
Terms = tuple[NDArray[Any], NDArray[Any]]


def measure(predictions: Predictions, decision: Decision, *, resamples: int = intervals.RESAMPLES) -> dict[str, float]:
    """Compute all metrics of calibrated predictions, with 95 % intervals.

    Args:
        predictions: Predictions of one set of images.
        decision: Temperature, threshold and abstain band.
        resamples: Bootstrap resamples; 0: only the intervals of ratios of counts, which need none.

    Returns:
        The metrics of `classification_metrics`; those of classes also as `<metric>_at_threshold`; `<metric>_<class>`
        for each class against the rest; with an abstain band `abstained` (share of images) and
        `<metric>_when_answered`; `<metric>_interval_low`, `_high` and `_groups` (how many groups stand behind it).
        nan where a metric is undefined.
    """
    labels, positive = predictions.labels, predictions.positive
    probabilities = predictions.probabilities(decision.temperature)
    classes = probabilities.shape[1]
    predicted = {"": probabilities.argmax(axis=1)}
    metrics = classification_metrics(labels, probabilities, positive=positive)
    if positive is not None and decision.threshold is not None:
        at_threshold = decision.classes(probabilities, positive, abstain=False)
        predicted["_at_threshold"] = at_threshold
        values = class_metrics(labels, at_threshold, classes=classes, positive=positive)
        metrics |= {f"{name}_at_threshold": value for name, value in values.items()}
        if decision.abstain is not None:
            answered = decision.classes(probabilities, positive) >= 0
            metrics["abstained"] = float(1 - answered.mean())
            if answered.any():
                values = class_metrics(labels[answered], at_threshold[answered], classes=classes, positive=positive)
                metrics |= {f"{name}_when_answered": values[name] for name in OF_CLASSES}
    groups = intervals.number(predictions.groups)
    bounds: dict[str, Interval] = {}
    for suffix, decided in predicted.items():
        ratios = _ratio_intervals(labels, decided, positive, groups)
        bounds |= {f"{name}{suffix}": interval for name, interval in ratios.items()}
    if not np.isnan(metrics["auroc"]):
        bounds["auroc"] = auroc_interval(labels, probabilities, positive=positive, groups=groups)
    if resamples:
        weighted = WeightedMetrics(labels, probabilities, predicted, positive=positive)
        bounds = _bootstrap_intervals(weighted, metrics, labels, groups, resamples) | bounds
    metrics |= _metrics_per_class(predictions, probabilities, predicted[""])
    for name, interval in bounds.items():
        low, high = (np.nan, np.nan) if np.isnan(metrics[name]) else (interval.low, interval.high)
        values = {"low": low, "high": high, "groups": interval.groups}
        metrics |= {f"{name}_interval_{part}": value for part, value in values.items()}
    return metrics


def as_json(metrics: Mapping[str, float]) -> str:
    """Return metrics as the content of `metrics.json`; null where one is undefined."""
    values = {name: None if np.isnan(value) else value for name, value in metrics.items()}
    return json.dumps(values, indent=2) + "\n"


def interval_of(metrics: Mapping[str, float], name: str) -> Interval | None:
    """Return the interval of a metric from flat metrics; None if it was not computed or is undefined."""
    low, high, groups = (metrics.get(f"{name}_interval_{part}") for part in ("low", "high", "groups"))
    if low is None or high is None or groups is None or np.isnan(low) or np.isnan(high):
        return None
    return Interval(low, high, int(groups))


def described(metrics: Mapping[str, float], name: str) -> str:
    """Return a test metric in words, with its interval: `0.9974  (0.9923 to 0.9991, 766 groups)`."""
    if np.isnan(metrics[name]):
        return "not defined: a class has no test images"
    interval = interval_of(metrics, name)
    return f"{metrics[name]:.4f}" + ("" if interval is None else f"  ({interval.describe()})")


def classification_metrics(
    labels: NDArray[np.int64], probabilities: NDArray[np.float32], *, positive: int | None
) -> dict[str, float]:
    """Compute the metrics of the most probable class and of the probabilities.

    Args:
        labels: True classes, int64 [n].
        probabilities: float [n, classes].
        positive: Index of the class that precision, recall, specificity, f1, auroc and average_precision refer to;
            None: macro averages over the classes.

    Returns:
        `accuracy precision recall f1 specificity balanced_accuracy loss brier ece auroc average_precision`.

    >>> metrics = classification_metrics(np.array([0, 0, 1, 1]), np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3],
    ...                                  [0.2, 0.8]]), positive=1)
    >>> metrics["accuracy"], metrics["recall"], metrics["auroc"]
    (0.75, 0.5, 0.75)
    """
    ranked = np.unique(labels) if positive is None else [positive]
    rankings = [_ranking_metrics(labels == index, probabilities[:, index]) for index in ranked]
    return (
        class_metrics(labels, probabilities.argmax(axis=1), classes=probabilities.shape[1], positive=positive)
        | probability_metrics(labels, probabilities)
        | {name: float(np.mean([ranking[name] for ranking in rankings])) for name in rankings[0]}
    )


def class_metrics(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], *, classes: int, positive: int | None
) -> dict[str, float]:
    """Compute the metrics of predicted classes: `accuracy precision recall f1 specificity balanced_accuracy`."""
    terms = class_terms(labels, predicted, positive)
    sums = {name: (above.sum(axis=0), below.sum(axis=0)) for name, (above, below) in terms.items()}
    metrics = {name: float(value) for name, value in _class_ratios(sums, macro=positive is None).items()}
    if classes == 2 and len(np.unique(labels)) == 1:  # nothing to balance
        metrics["balanced_accuracy"] = np.nan
    return metrics


def probability_metrics(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> dict[str, float]:
    """Compute `loss` (log loss, nats), `brier`, and `ece` (expected calibration error).

    The Brier score of two classes is the mean of (p - y)^2 of either class; of more classes, the sum over the classes,
    as in scikit-learn. The calibration error (Guo et al. 2017, equation 3) refers to the highest probability; on few
    images it is biased upwards.

    >>> metrics = probability_metrics(np.array([0, 1]), np.array([[0.9, 0.1], [0.9, 0.1]]))
    >>> round(metrics["ece"], 6), round(metrics["brier"], 6)
    (0.4, 0.41)
    """
    loss, brier, *gaps = image_terms(labels, probabilities).mean(axis=0)
    return {"loss": float(loss), "brier": float(brier), "ece": float(np.abs(gaps).sum())}


def reliability_bins(
    labels: NDArray[np.int64], probabilities: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Return mean confidence, accuracy and number of images of each bin of confidence, [BINS] each; nan if empty.

    Confidence is the highest probability of an image. Bin m of M covers ((m-1)/M, m/M].

    >>> confidence, accuracy, count = reliability_bins(np.array([0, 1]), np.array([[0.9, 0.1], [0.89, 0.11]]))
    >>> int(count[13]), float(confidence[13].round(3)), float(accuracy[13])
    (2, 0.895, 0.5)
    """
    right, confidence, index = _confidence(labels, np.asarray(probabilities, np.float64))
    count = np.bincount(index, minlength=BINS)
    sums = [np.bincount(index, weights=values, minlength=BINS) for values in (confidence, right)]
    mean_confidence, accuracy = (ratio(total, count) for total in sums)
    return mean_confidence, accuracy, count


def reliability_intervals(predictions: Predictions, probabilities: NDArray[np.float32]) -> list[Interval]:
    """Return the interval of the accuracy of each bin of confidence; (0, 1) if empty."""
    right, _, index = _confidence(predictions.labels, np.asarray(probabilities, np.float64))
    groups = intervals.number(predictions.groups)
    return [intervals.of_ratio(right & (index == one), index == one, groups) for one in range(BINS)]


def measure_splits(predictions: Predictions, decision: Decision, *, resamples: int) -> dict[str, float]:
    """Compute the metrics of a training run: the test split in full, with intervals.

    Returns:
        Flat metrics. `train_loss` and `val_loss` are computed before calibration, as the curves are; all of `test_` are
        of the calibrated model, except `test_loss_uncalibrated` and `test_ece_uncalibrated`.
    """
    train, val, test = (predictions.select(split) for split in ("train", "val", "test"))
    metrics: dict[str, float] = {}
    for split, part in (("train", train), ("val", val)):
        values = classification_metrics(part.labels, part.probabilities(), positive=part.positive)
        metrics |= {f"{split}_{key}": values[key] for key in ("accuracy", "loss")} | {f"{split}_images": len(part)}
    before, after, test_before = (
        probability_metrics(part.labels, part.probabilities(temperature))
        for part, temperature in ((val, 1.0), (val, decision.temperature), (test, 1.0))
    )
    metrics |= {"val_ece_uncalibrated": before["ece"], "val_ece": after["ece"]}
    metrics |= {f"test_{key}": value for key, value in measure(test, decision, resamples=resamples).items()}
    metrics |= {f"test_{key}_uncalibrated": test_before[key] for key in ("loss", "ece")} | {"test_images": len(test)}
    return metrics | decision_metrics(decision)


def decision_metrics(decision: Decision) -> dict[str, float]:
    """Return the decision and its metrics on validation as flat numbers."""
    point = decision.point
    metrics: dict[str, float] = {"temperature": decision.temperature}
    if point is None or decision.threshold is None:
        return metrics
    metrics["threshold"] = decision.threshold
    if point.threshold_low is not None and point.threshold_high is not None:
        metrics |= {"threshold_low": point.threshold_low, "threshold_high": point.threshold_high}
    metrics |= {f"val_{key}_at_threshold": getattr(point, key) for key in ("recall", "specificity", "precision")}
    ends = {"low": point.recall_low, "high": point.recall_high, "groups": point.groups}
    return metrics | {f"val_recall_at_threshold_interval_{end}": value for end, value in ends.items()}


class WeightedMetrics:
    """The metrics of weighted images, for thousands of resamples at once, where scikit-learn takes one at a time."""

    def __init__(
        self,
        labels: NDArray[np.int64],
        probabilities: NDArray[np.float32],
        predicted: Mapping[str, NDArray[np.int64]],
        *,
        positive: int | None,
    ) -> None:
        """Compute what all resamples share.

        Args:
            labels: True classes, int64 [n].
            probabilities: float [n, classes].
            predicted: Predicted classes, int64 [n], -1 for no answer, by the suffix of their metrics.
            positive: Index of the positive class; None: macro averages.
        """
        self._positive = positive
        self._terms = image_terms(labels, probabilities).astype(np.float32)
        self._class_terms = {
            suffix: {
                name: (above.astype(np.float32), below.astype(np.float32))
                for name, (above, below) in class_terms(labels, answers, positive).items()
            }
            for suffix, answers in predicted.items()
        }
        ranked = np.unique(labels) if positive is None else [positive]
        self._rankings = [Ranking(labels == index, probabilities[:, index]) for index in ranked]

    def __call__(self, weights: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
        """Return all metrics of each row of weights, float32 [k, n]: float64 [k] each."""
        return self.of_probabilities(weights) | self.of_classes(weights) | self.of_rankings(weights)

    def of_probabilities(self, weights: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
        """Return `loss`, `brier` and `ece`."""
        means = (weights @ self._terms).astype(np.float64) / weights.sum(axis=1, dtype=np.float64)[:, None]
        return {"loss": means[:, 0], "brier": means[:, 1], "ece": np.abs(means[:, 2:]).sum(axis=1)}

    def of_classes(self, weights: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
        """Return the metrics of `class_metrics`, with the suffix of each set of predicted classes."""
        metrics: dict[str, NDArray[np.float64]] = {}
        for suffix, terms in self._class_terms.items():
            sums = {
                name: ((weights @ above).astype(np.float64), (weights @ below).astype(np.float64))
                for name, (above, below) in terms.items()
            }
            values = _class_ratios(sums, macro=self._positive is None)
            metrics |= {f"{name}{suffix}": value for name, value in values.items()}
        return metrics

    def of_rankings(self, weights: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
        """Return `average_precision`; the AUROC has an interval in closed form."""
        averages = []
        for ranking in self._rankings:
            true_positives, false_positives = ranking.counts(weights)
            found = np.diff(true_positives, axis=1, prepend=0)
            precision = true_positives / np.maximum(true_positives + false_positives, 1)
            averages.append(ratio((found * precision).sum(axis=1), true_positives[:, -1]))
        return {"average_precision": mean_of_defined(np.stack(averages, axis=1))}


class Ranking:
    """Images in descending order of their scores.

    Attributes:
        thresholds: Distinct scores, descending. Equal scores share a threshold.
    """

    def __init__(self, positives: NDArray[np.bool_], scores: NDArray[np.floating]) -> None:
        """Sort images by score; `positives` says which are positive."""
        self._order = np.argsort(-scores, kind="stable")
        self._positives, ordered = positives[self._order], scores[self._order]
        self._last_of_ties = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
        self.thresholds = ordered[self._last_of_ties]

    def counts(self, weights: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return true and false positives at each threshold for each row of weights, float64 [k, thresholds]."""
        ordered = weights[:, self._order]
        # float64 sums: float32 is exact up to 2^24 only.
        called, true_positives = (
            np.cumsum(counted, axis=1, dtype=np.float64)[:, self._last_of_ties]
            for counted in (ordered, ordered * self._positives)
        )
        return true_positives, called - true_positives


def _metrics_per_class(
    predictions: Predictions, probabilities: NDArray[np.float32], predicted: NDArray[np.int64]
) -> dict[str, float]:
    """Return `<metric>_<class>` for each class against the rest."""
    metrics: dict[str, float] = {}
    labels, classes = predictions.labels, len(predictions.class_names)
    for index, name in enumerate(predictions.class_names):
        values = class_metrics(labels, predicted, classes=classes, positive=index)
        values |= _ranking_metrics(labels == index, probabilities[:, index])
        metrics |= {f"{metric}_{name}": values[metric] for metric in PER_CLASS}
    return metrics


def _ranking_metrics(positives: NDArray[np.bool_], scores: NDArray[np.floating]) -> dict[str, float]:
    """Return `auroc` and `average_precision` of a class against the rest."""
    return {
        "auroc": float(roc_auc_score(positives, scores)) if positives.any() and not positives.all() else np.nan,
        "average_precision": float(average_precision_score(positives, scores)) if positives.any() else np.nan,
    }


def image_terms(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return what `loss`, `brier` and `ece` average, float64 [n, 2 + BINS].

    Columns: log loss, squared error, and accuracy less confidence in the column of the image's bin.
    """
    table = np.clip(np.asarray(probabilities, np.float64), 0.0, 1.0)
    given = np.clip(table[np.arange(len(labels)), labels], _SMALLEST_PROBABILITY, 1 - _SMALLEST_PROBABILITY)
    squares = ((table - np.eye(table.shape[1])[labels]) ** 2).sum(axis=1) / (2 if table.shape[1] == 2 else 1)
    right, confidence, index = _confidence(labels, table)
    return np.column_stack([-np.log(given), squares, np.eye(BINS)[index] * (right - confidence)[:, None]])


def _confidence(
    labels: NDArray[np.int64], table: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.int64]]:
    """Return whether each image is classified correctly, its confidence, and its bin."""
    confidence = table.max(axis=1)
    index = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence, side="left")
    return table.argmax(axis=1) == labels, confidence, index


def class_terms(labels: NDArray[np.int64], predicted: NDArray[np.int64], positive: int | None) -> dict[str, Terms]:
    """Return what each image adds to the metrics of `class_metrics`.

    Args:
        labels: True classes, int64 [n].
        predicted: Predicted classes, int64 [n]; -1 for no answer.
        positive: Index of the positive class; None: macro averages over the classes that have images.
    """
    present = np.unique(labels)
    refers_to = present if positive is None else np.array([positive])
    inside, called = labels[:, None] == refers_to, predicted[:, None] == refers_to
    each, right = labels[:, None] == present, (labels == predicted)[:, None]
    return {
        "accuracy": (right, np.ones((len(labels), 1))),
        "balanced_accuracy": (each & right, each),
        "recall": (inside & called, inside),
        "specificity": (~inside & ~called & (predicted >= 0)[:, None], ~inside),
        "precision": (inside & called, called),
        "f1": (2.0 * (inside & called), 1.0 * inside + called),
    }


def _class_ratios(sums: Mapping[str, Terms], *, macro: bool) -> dict[str, NDArray[np.float64]]:
    """Return the metrics of `class_metrics` from sums of `class_terms` over images, [..., ratios] each.

    Args:
        sums: Numerators and denominators of each metric.
        macro: Whether precision, recall, specificity and f1 are averages over the classes that have images.
    """
    values = {name: ratio(above, below) for name, (above, below) in sums.items()}
    has_images = sums["recall"][1] > 0
    values["precision"] = np.where(has_images & np.isnan(values["precision"]), 0.0, values["precision"])
    if macro:
        values |= {name: np.where(has_images, values[name], np.nan) for name in ("precision", "specificity", "f1")}
    return {name: mean_of_defined(value) for name, value in values.items()}


def _ratio_intervals(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], positive: int | None, groups: NDArray[np.int64]
) -> dict[str, Interval]:
    """Return the intervals of the metrics that are ratios of counts; a macro average is none."""
    names = ("accuracy",) if positive is None else ("accuracy", "recall", "specificity", "precision", "f1")
    terms = class_terms(labels, predicted, positive)
    return {name: intervals.of_ratio(terms[name][0][:, 0], terms[name][1][:, 0], groups) for name in names}


def auroc_interval(
    labels: NDArray[np.int64], probabilities: NDArray[np.floating], *, positive: int | None, groups: NDArray[np.int64]
) -> Interval:
    """Return the interval of the AUROC, as a macro average where no class is positive."""
    values, missed = auroc_terms(labels, probabilities, positive)
    area = float(values.mean())
    fewest = min(len(np.unique(groups[labels == index])) for index in np.unique(labels))
    return intervals.of_contributions(area, (values.mean(axis=1) - area) / len(labels), missed, groups, fewest)


def auroc_terms(
    labels: NDArray[np.int64], probabilities: NDArray[np.floating], positive: int | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return pseudo-values whose mean is the AUROC (DeLong et al. 1988), [n, AUROCs], and which images rank wrongly.

    Without a positive class there is an AUROC for each class that has images.
    """
    columns, missed = [], np.zeros(len(labels), bool)
    for index in np.unique(labels) if positive is None else [positive]:
        member = labels == index
        share = placements(member, probabilities[:, index])
        area = share[member].mean() if member.any() else np.nan
        sizes = np.where(member, member.sum(), (~member).sum())
        columns.append(area + (share - area) * len(labels) / sizes)
        missed |= share < 1
    return np.stack(columns, axis=1), missed


def placements(members: NDArray[np.bool_], scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the share of the other side's images that each image lies on the right side of, float64 [n].

    Their mean over the members, or over the others, is the AUROC (DeLong et al. 1988); ties count half. nan if a side
    has no images.
    """
    shares = np.full(len(members), np.nan)
    if members.any() and not members.all():
        for side, sign in ((members, 1.0), (~members, -1.0)):
            ordered = sign * scores.astype(np.float64)
            shares[side] = (rankdata(ordered)[side] - rankdata(ordered[side])) / (~side).sum()
    return shares


def _bootstrap_intervals(
    weighted: WeightedMetrics,
    metrics: Mapping[str, float],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    resamples: int,
) -> dict[str, Interval]:
    """Return the bootstrap intervals of all metrics.

    Resampling repeats images, which biases the calibration error upwards; its interval is therefore shifted to the
    value of the original sample.
    """
    drawn = intervals.bootstrap(weighted, groups, resamples=resamples)
    drawn["ece"] = np.maximum(drawn["ece"] - np.median(drawn["ece"]) + metrics["ece"], 0.0)
    count = len(np.unique(groups))
    fewest = min(len(np.unique(groups[labels == index])) for index in np.unique(labels))
    return {
        name: intervals.percentiles(values, count)
        if name in LOWER_IS_BETTER
        else intervals.of_resamples(metrics[name], values, fewest)
        for name, values in drawn.items()
    }


def ratio(above: NDArray[np.generic], below: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return the quotient, nan where the divisor is 0."""
    quotient = np.full(np.shape(below), np.nan)
    np.divide(above, below, out=quotient, where=np.asarray(below) > 0)
    return quotient


def mean_of_defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of the defined values over the last axis; nan, without a warning, if all are undefined."""
    defined = np.isfinite(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1))
