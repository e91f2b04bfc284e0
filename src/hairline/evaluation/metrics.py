"""Scores of a classifier: pure functions from arrays to numbers, needing NumPy alone.

Two rules hold throughout. A quotient with nothing below the line is `nan` (a class without examples, or
without examples of any other): never a warning, never a 0 that looks measured. The one exception is
precision: a class that has examples and is never predicted scores 0, as in scikit-learn, because a sweep must
rank the model that gave it up below all others. Averages over classes ("macro") are over the classes that
have examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

SMALLEST_PROBABILITY = 1e-7  # Keras' epsilon, so that `log_loss` agrees with the loss the training printed
LARGEST_SUM_ERROR = 1e-3  # rows computed in float16 miss 1 by up to this much


def classification_metrics(
    labels: ArrayLike, probabilities: ArrayLike, *, positive: int | None, threshold: float | None = None
) -> dict[str, float]:
    """Everything one evaluation reports, under flat names ready for logging.

    Decisions are arg-max. With a positive class, precision, recall, specificity, f1, auroc and
    average_precision refer to it; without one they are macro averages, one class against the rest.

    Args:
        labels: True classes, int `[n]` in `0..C-1`.
        probabilities: float `[n, C]`, rows in `[0, 1]` that sum to 1.
        positive: Index of the positive class; only with two classes.
        threshold: Operating point in `[0, 1]`: positive is decided where its probability is at least this.
            Adds `<metric>_at_threshold` for the metrics of decisions; only with a positive class.

    Returns:
        `accuracy loss precision recall specificity f1 balanced_accuracy auroc average_precision brier ece`;
        loss in nats.

    Raises:
        ValueError: An array has the wrong shape, type or range, or positive or threshold do not fit it.

    Examples:
        >>> scores = classification_metrics([0, 0, 1, 1], [[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]],
        ...                                 positive=1, threshold=0.25)
        >>> scores["accuracy"], scores["recall"], scores["recall_at_threshold"], scores["auroc"]
        (0.75, 0.5, 1.0, 0.75)
    """
    true, table = _predictions(labels, probabilities)
    classes = table.shape[1]
    if positive is not None and (classes != 2 or positive not in (0, 1)):
        raise ValueError(
            f"Received positive={positive} with {classes} classes; expected 0 or 1 with two classes. "
            "Pass positive=None for macro averages over the classes."
        )
    if threshold is not None and (positive is None or not 0 <= threshold <= 1):
        raise ValueError(
            f"Received threshold={threshold} with positive={positive}; expected a number in [0, 1] and a "
            "positive class. Pass threshold=None, or name the positive class of two."
        )
    scores = _decision_metrics(true, table.argmax(axis=1), classes, positive)
    ranked = np.unique(true) if positive is None else [positive]
    scores |= {
        "loss": log_loss(true, table),
        "auroc": float(np.mean([auroc(true == index, table[:, index]) for index in ranked])),
        "average_precision": float(np.mean([average_precision(true == index, table[:, index]) for index in ranked])),
        "brier": brier_score(true, table),
        "ece": expected_calibration_error(true, table),
    }
    if positive is not None and threshold is not None:
        predicted = np.where(table[:, positive] >= threshold, positive, 1 - positive)
        at_threshold = _decision_metrics(true, predicted, classes, positive)
        scores |= {f"{name}_at_threshold": value for name, value in at_threshold.items()}
    return scores


def confusion_matrix(labels: ArrayLike, predicted: ArrayLike, classes: int) -> NDArray[np.int64]:
    """Counts, int64 `[C, C]`: rows are the truth, columns the prediction.

    Raises:
        ValueError: A label or prediction is not an integer in `0..classes-1`, or the lengths differ.

    Examples:
        >>> confusion_matrix([0, 0, 1], [0, 1, 1], classes=2).tolist()
        [[1, 1], [0, 1]]
    """
    true, decided = _class_indexes(labels, classes, "labels"), _class_indexes(predicted, classes, "predicted")
    _same_length(true, decided, "labels", "predicted")
    return np.bincount(true * classes + decided, minlength=classes**2).reshape(classes, classes).astype(np.int64)


def per_class(labels: ArrayLike, probabilities: ArrayLike, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """One row a class, from arg-max decisions: class, support (images), precision, recall, f1, specificity.

    Raises:
        ValueError: As in `classification_metrics`, or there is not one name a class.

    Examples:
        >>> per_class([0, 1], [[0.8, 0.2], [0.3, 0.7]], ["sound", "cracked"])[0]
        {'class': 'sound', 'support': 1, 'precision': 1.0, 'recall': 1.0, 'f1': 1.0, 'specificity': 1.0}
    """
    true, table = _predictions(labels, probabilities)
    if len(class_names) != table.shape[1]:
        raise ValueError(
            f"Received {len(class_names)} class names for {table.shape[1]} columns of probabilities; "
            "expected one a column. Pass the names in the order of the columns."
        )
    matrix = confusion_matrix(true, table.argmax(axis=1), len(class_names))
    columns = _one_sided(matrix)
    return [
        {"class": name, "support": int(matrix[index].sum())}
        | {metric: float(values[index]) for metric, values in columns.items()}
        for index, name in enumerate(class_names)
    ]


def ranking_points(
    labels01: ArrayLike, scores: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Every distinct operating point, from the strictest to the one that calls all positive.

    Args:
        labels01: int or bool `[n]`, 1 for positive.
        scores: float `[n]`, higher is more positive; finite, any range.

    Returns:
        Thresholds (descending, each a score), and the number of true and of false positives where
        `score >= threshold`. Equal scores share a point: no threshold can part them.

    Raises:
        ValueError: Labels other than 0 and 1, scores not finite, lengths that differ, nothing at all.

    Examples:
        >>> [column.tolist() for column in ranking_points([0, 1, 1, 0], [0.2, 0.9, 0.5, 0.5])]
        [[0.9, 0.5, 0.2], [1, 2, 2], [0, 1, 2]]
    """
    true, values = _class_indexes(labels01, 2, "labels01"), np.asarray(scores, dtype=np.float64)
    _same_length(true, values, "labels01", "scores")
    if not np.isfinite(values).all():
        raise ValueError("Received scores with nan or inf; expected finite numbers. Look for a diverged training.")
    order = np.argsort(-values, kind="stable")
    values, true = values[order], true[order]
    last_of_ties = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)
    true_positives = np.cumsum(true)[last_of_ties]
    return values[last_of_ties], true_positives, last_of_ties + 1 - true_positives


def auroc(labels01: ArrayLike, scores: ArrayLike) -> float:
    """Chance that a positive outranks a negative, ties counting half; `nan` unless both occur.

    Hanley and McNeil 1982, "The meaning and use of the area under a ROC curve". Arguments and errors as in
    `ranking_points`.

    Examples:
        >>> auroc([0, 1, 0, 1], [0.1, 0.4, 0.4, 0.8])
        0.875
    """
    _, true_positives, false_positives = ranking_points(labels01, scores)
    pairs = int(true_positives[-1]) * int(false_positives[-1])
    if pairs == 0:
        return float("nan")
    new_negatives = np.diff(false_positives, prepend=0)
    new_positives = np.diff(true_positives, prepend=0)
    return float(np.sum(new_negatives * (2 * true_positives - new_positives)) / (2 * pairs))


def average_precision(labels01: ArrayLike, scores: ArrayLike) -> float:
    """Precision averaged over the recall gained at each threshold; `nan` without a positive.

    The sum over thresholds of `(R_n - R_{n-1}) P_n`, not interpolated, as in scikit-learn. Arguments and
    errors as in `ranking_points`.

    Examples:
        >>> average_precision([0, 1, 0, 1], [0.1, 0.4, 0.6, 0.8])
        0.8333333333333333
    """
    _, true_positives, false_positives = ranking_points(labels01, scores)
    if true_positives[-1] == 0:
        return float("nan")
    gained = np.diff(true_positives, prepend=0) / true_positives[-1]
    return float(np.sum(gained * true_positives / (true_positives + false_positives)))


def log_loss(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean of -ln(probability of the true class), in nats, probabilities clipped at 1e-7.

    Arguments and errors as in `classification_metrics`.

    Examples:
        >>> round(log_loss([0, 1], [[0.5, 0.5], [0.5, 0.5]]), 6)
        0.693147
    """
    true, table = _predictions(labels, probabilities)
    given = np.clip(table[np.arange(len(true)), true], SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    return float(-np.log(given).mean())


def brier_score(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Squared error of the probabilities (Brier 1950), scaled as scikit-learn does.

    Two classes: mean of `(p - y)^2` of either class, in `[0, 1]`. More: that square summed over the classes
    and not halved, in `[0, 2]`, as Brier defined it. Arguments and errors as in `classification_metrics`.

    Examples:
        >>> brier_score([0, 1], [[0.5, 0.5], [0.0, 1.0]])
        0.125
    """
    true, table = _predictions(labels, probabilities)
    squares = ((table - np.eye(table.shape[1])[true]) ** 2).sum(axis=1).mean()
    return float(squares / 2 if table.shape[1] == 2 else squares)


def reliability_bins(
    labels: ArrayLike, probabilities: ArrayLike, bins: int = 15
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Confidence against accuracy, the data of a reliability diagram.

    Guo et al. 2017, "On calibration of modern neural networks", equations 2 and 3: confidence is the highest
    probability of a row, bin m of M covers `((m-1)/M, m/M]`.

    Returns:
        Mean confidence, accuracy and number of images of each bin, `[bins]` each; `nan` where a bin is empty.

    Raises:
        ValueError: As in `classification_metrics`, or fewer bins than one.

    Examples:
        >>> confidence, accuracy, count = reliability_bins([0, 1], [[0.9, 0.1], [0.7, 0.3]], bins=2)
        >>> count.tolist(), round(float(confidence[1]), 3), round(float(accuracy[1]), 3)
        ([0, 2], 0.8, 0.5)
    """
    true, table = _predictions(labels, probabilities)
    if bins < 1:
        raise ValueError(f"Received bins={bins}; expected at least 1. The usual choice is 15.")
    confidence = table.max(axis=1)
    index = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence, side="left")
    count = np.bincount(index, minlength=bins)
    right = np.bincount(index, weights=table.argmax(axis=1) == true, minlength=bins)
    return _ratio(np.bincount(index, weights=confidence, minlength=bins), count), _ratio(right, count), count


def expected_calibration_error(labels: ArrayLike, probabilities: ArrayLike, bins: int = 15) -> float:
    """Mean distance of confidence from accuracy, weighted by the images in a bin; arguments as for the bins.

    Guo et al. 2017, equation 3, on the highest probability of a row. On few images it is biased upwards:
    every bin's own noise counts as an error.

    Examples:
        >>> round(expected_calibration_error([0, 1], [[0.9, 0.1], [0.9, 0.1]]), 6)
        0.4
    """
    confidence, accuracy, count = reliability_bins(labels, probabilities, bins)
    return float(np.nansum(np.abs(confidence - accuracy) * count) / count.sum())


def wilson_interval(successes: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a share that keeps its coverage near 0 and 1 and on few images.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference". Without any image it
    is `(0.0, 1.0)`, the limit of the formula.

    Args:
        successes: Images of a kind, such as those classified rightly.
        total: All images.
        confidence: Wanted coverage, strictly between 0 and 1.

    Raises:
        ValueError: Not `0 <= successes <= total`, or a confidence outside `(0, 1)`.

    Examples:
        >>> [round(bound, 4) for bound in wilson_interval(10, 10)]
        [0.7225, 1.0]
    """
    if not (0 <= successes <= total and 0 < confidence < 1):
        raise ValueError(
            f"Received successes={successes}, total={total}, confidence={confidence}; expected "
            "0 <= successes <= total and 0 < confidence < 1. Pass counts, not shares."
        )
    low, high = wilson_bounds(np.array([successes]), np.array([total]), confidence)
    return float(low[0]), float(high[0])


def wilson_bounds(
    successes: ArrayLike, total: ArrayLike, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give `wilson_interval` for whole arrays of counts, float64 of their common shape each.

    Examples:
        >>> wilson_bounds([10, 0], 10)[0].round(4).tolist()
        [0.7225, 0.0]
    """
    found, images = np.broadcast_arrays(np.asarray(successes, np.float64), np.asarray(total, np.float64))
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    variance = np.divide(found * (images - found), images, out=np.zeros(found.shape), where=images > 0)
    middle, spread = found + z**2 / 2, z * np.sqrt(variance + z**2 / 4)
    low, high = (middle - spread) / (images + z**2), (middle + spread) / (images + z**2)
    # Rounding must not put the exact bounds of an all-or-nothing result a hair inside or outside [0, 1].
    return np.where(found == 0, 0.0, low), np.where(found == images, 1.0, high)


def _decision_metrics(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int, positive: int | None
) -> dict[str, float]:
    matrix = confusion_matrix(labels, predicted, classes)
    columns, present = _one_sided(matrix), matrix.sum(axis=1) > 0
    scores = {"accuracy": float(np.trace(matrix) / matrix.sum())}
    for name, values in columns.items():
        scores[name] = float(values[present].mean() if positive is None else values[positive])
    # Of two classes with one missing there is nothing to balance.
    balanced = columns["recall"][present].mean() if classes > 2 or present.all() else np.nan
    return scores | {"balanced_accuracy": float(balanced)}


def _one_sided(matrix: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Metrics of each class against the rest, float `[C]` each, from counts `[truth, predicted]`."""
    found, support, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    others = matrix.sum() - support
    precision = _ratio(found, predicted)
    precision[(predicted == 0) & (support > 0)] = 0.0
    return {
        "precision": precision,
        "recall": _ratio(found, support),
        "f1": _ratio(2 * found, support + predicted),
        "specificity": _ratio(others - (predicted - found), others),
    }


def _ratio(above: NDArray[Any], below: NDArray[Any]) -> NDArray[np.float64]:
    quotient = np.full(len(below), np.nan)
    np.divide(above, below, out=quotient, where=below > 0)
    return quotient


def _predictions(labels: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    table = np.asarray(probabilities, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] < 2:
        raise ValueError(
            f"Received probabilities of shape {table.shape}; expected [images, classes] with two classes or "
            "more. Write a single sigmoid output p as the columns (1 - p, p)."
        )
    true = _class_indexes(labels, table.shape[1], "labels")
    _same_length(true, table, "labels", "probabilities")
    # Negated, so that nan, which fails every comparison, is caught as well.
    if not (np.abs(table - 0.5) <= 0.5 + 1e-6).all():
        raise ValueError(
            f"Received probabilities from {table.min()} to {table.max()}; expected [0, 1] without nan. "
            "Apply softmax to logits; look for a diverged training if there is nan."
        )
    error = np.abs(table.sum(axis=1) - 1).max()
    if error > LARGEST_SUM_ERROR:
        raise ValueError(
            f"Received a row of probabilities that misses the sum 1 by {error:.3g}; expected at most "
            f"{LARGEST_SUM_ERROR}. Use softmax over the classes, not one sigmoid a class."
        )
    return true, np.clip(table, 0.0, 1.0)


def _class_indexes(values: ArrayLike, classes: int, name: str) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iub":
        raise ValueError(
            f"Received {name} of shape {array.shape} and type {array.dtype}; expected at least one integer, "
            "[images]. Use argmax(axis=1) on one-hot rows, astype(int) on floats."
        )
    if array.min() < 0 or array.max() >= classes:
        raise ValueError(
            f"Received {name} from {array.min()} to {array.max()}; expected 0 to {classes - 1}. "
            "Compare the class names of the manifest with those of the model."
        )
    return array.astype(np.int64)


def _same_length(first: NDArray[Any], second: NDArray[Any], first_name: str, second_name: str) -> None:
    if second.ndim == 0 or len(first) != len(second) or (second_name == "scores" and second.ndim != 1):
        raise ValueError(
            f"Received {first_name} of shape {first.shape} and {second_name} of shape {second.shape}; "
            "expected one entry an image in both. Take them from the same predictions, in the same order."
        )
