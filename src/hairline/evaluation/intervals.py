"""How sure a measured number is: Wilson intervals for shares, bootstrap intervals by group for the rest.

Resampling is a matter of weights: a resample says how often each image counts. Every metric is then a sum over
images, so a thousand resamples cost one matrix product and, for rankings, one cumulative sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hairline.evaluation import metrics

RESAMPLES = 1000
_BINS = 15
_CHUNK_NUMBERS = 250_000  # weights held at once: 1 MB, and what is made of them thirty times as much
_PROPORTIONS = ("accuracy", "recall", "specificity", "precision")


def resampled_weights(
    groups: Sequence[object] | NDArray[np.object_] | None, images: int, resamples: int, seed: int
) -> Iterator[NDArray[np.float32]]:
    """Draw resamples of whole groups, with replacement (Efron & Tibshirani 1993, on clustered data).

    Args:
        groups: Group of each image; None: each image by itself.
        images: Number of images.
        resamples: Number of resamples.
        seed: The same seed draws the same.

    Yields:
        float32 [resamples of a part, images]: how often each image counts.
    """
    codes = np.arange(images) if groups is None else np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    count = int(codes.max()) + 1
    generator = np.random.default_rng([seed, 0xB007])
    step = max(1, _CHUNK_NUMBERS // max(images, count))
    for start in range(0, resamples, step):
        part = min(step, resamples - start)
        drawn = generator.integers(count, size=(part, count)) + np.arange(part)[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=part * count).reshape(part, count)
        yield times[:, codes].astype(np.float32)


def percentiles(values: NDArray[np.float64], confidence: float = 0.95) -> tuple[float, float]:
    """Give the percentile interval of resampled values; (nan, nan) where none is defined."""
    found = values[np.isfinite(values)]
    if not len(found):
        return float("nan"), float("nan")
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def mean_of_defined(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Average along an axis over the numbers that are defined; nan, without a warning, where none is."""
    defined = np.isfinite(values)
    count = np.asarray(defined.sum(axis=axis))
    total = np.asarray(np.where(defined, values, 0.0).sum(axis=axis))
    return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0), np.float64)


def wilson_intervals(
    labels: ArrayLike, predicted: ArrayLike, *, positive: int | None, suffix: str = ""
) -> dict[str, float]:
    """Give the Wilson intervals of the shares among the metrics of decisions.

    Args:
        labels: True classes, int [n].
        predicted: Decided classes, int [n].
        positive: Index of the positive class of two; None: only accuracy is a share, averages over classes are not.
        suffix: Put behind each metric's name, such as `_at_threshold`.

    Returns:
        `<metric><suffix>_interval_low` and `_high`.
    """
    true, decided = np.asarray(labels), np.asarray(predicted)
    counts = {"accuracy": (int((true == decided).sum()), len(true))}
    if positive is not None:
        inside, called = true == positive, decided == positive
        counts["recall"] = (int((inside & called).sum()), int(inside.sum()))
        counts["specificity"] = (int((~inside & ~called).sum()), int((~inside).sum()))
        counts["precision"] = (int((inside & called).sum()), int(called.sum()))
    found: dict[str, float] = {}
    for name, (successes, total) in counts.items():
        low, high = metrics.wilson_interval(successes, total)
        found |= {f"{name}{suffix}_interval_low": low, f"{name}{suffix}_interval_high": high}
    return found


def bootstrap_intervals(
    labels: ArrayLike,
    probabilities: ArrayLike,
    *,
    positive: int | None,
    threshold: float | None = None,
    groups: Sequence[object] | NDArray[np.object_] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, float]:
    """Give the intervals of all metrics of `metrics.classification_metrics` that are no plain shares.

    Args:
        labels: True classes, int [n].
        probabilities: float [n, classes].
        positive: Index of the positive class; None: macro averages.
        threshold: Operating point; adds the metrics `_at_threshold`.
        groups: Images of one group are drawn together; None: each by itself.
        resamples: Number of resamples.
        seed: Of the resampling.

    Returns:
        `<metric>_interval_low` and `_high`, 95 %, by percentiles; nan where no resample defines the metric. That of
        the calibration error, which resampling biases upwards, is centred on the error measured.
    """
    true, table = np.asarray(labels), np.asarray(probabilities, np.float64)
    parts: list[dict[str, NDArray[np.float64]]] = []
    resampled = _Resampled(true, table, positive, threshold)
    for weights in resampled_weights(groups, len(true), resamples, seed):
        parts.append(resampled.metrics(weights))
    shares = (
        {*_PROPORTIONS, *(f"{name}_at_threshold" for name in _PROPORTIONS)} if positive is not None else {"accuracy"}
    )
    measured = resampled.metrics(np.ones((1, len(true)), np.float32))
    found: dict[str, float] = {}
    for name in parts[0]:
        if name not in shares:
            drawn = np.concatenate([part[name] for part in parts])
            if name == "ece":
                # Repeated images add noise to every bin, and noise counts as error: only the spread is to be used.
                drawn = np.maximum(drawn - np.median(drawn) + measured[name][0], 0.0)
            low, high = percentiles(drawn)
            found |= {f"{name}_interval_low": low, f"{name}_interval_high": high}
    return found


class _Resampled:
    """All metrics as functions of the images' weights."""

    def __init__(
        self, labels: NDArray[np.int64], table: NDArray[np.float64], positive: int | None, threshold: float | None
    ) -> None:
        self._classes, self._positive = table.shape[1], positive
        self._labels, self._table = labels, table
        chosen = table.argmax(axis=1)
        self._decisions = {"": chosen}
        if positive is not None and threshold is not None:
            self._decisions["_at_threshold"] = np.where(table[:, positive] >= threshold, positive, 1 - positive)
        smallest = metrics.SMALLEST_PROBABILITY
        given = np.clip(table[np.arange(len(labels)), labels], smallest, 1 - smallest)
        squares = ((table - np.eye(self._classes)[labels]) ** 2).sum(axis=1) / (2 if self._classes == 2 else 1)
        confidence = table.max(axis=1)
        bins = np.searchsorted(np.linspace(0, 1, _BINS + 1)[1:-1], confidence, side="left")
        gap = (chosen == labels) - confidence
        # One column a sum: log loss, squared error, the gap in each bin of confidence.
        self._sums = np.column_stack([-np.log(given), squares, np.eye(_BINS)[bins] * gap[:, None]]).astype(np.float32)

    def metrics(self, weights: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
        """Give each metric of each resample, float64 [resamples]."""
        total = weights.sum(axis=1, dtype=np.float64)
        sums = (weights @ self._sums).astype(np.float64) / total[:, None]
        found = {"loss": sums[:, 0], "brier": sums[:, 1], "ece": np.abs(sums[:, 2:]).sum(axis=1)}
        for suffix, decided in self._decisions.items():
            found |= {f"{name}{suffix}": values for name, values in self._of_decisions(weights, decided).items()}
        return found | self._of_rankings(weights)

    def _of_decisions(self, weights: NDArray[np.float32], decided: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        classes = self._classes
        cells = np.eye(classes**2, dtype=np.float32)[self._labels * classes + decided]
        matrix = (weights @ cells).astype(np.float64).reshape(-1, classes, classes)
        right, support, called = np.einsum("bii->bi", matrix), matrix.sum(axis=2), matrix.sum(axis=1)
        total = support.sum(axis=1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where((called == 0) & (support > 0), 0.0, right / called)
            columns = {
                "recall": right / support,
                "precision": precision,
                "f1": 2 * right / (support + called),
                "specificity": (total - support - called + right) / (total - support),
            }
        present = np.where(support > 0, 1.0, np.nan)
        found = {
            "accuracy": right.sum(axis=1) / total[:, 0],
            "balanced_accuracy": mean_of_defined(columns["recall"], axis=1),
        }
        for name, values in columns.items():
            found[name] = (
                mean_of_defined(values * present, axis=1) if self._positive is None else values[:, self._positive]
            )
        return found

    def _of_rankings(self, weights: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
        areas, averages = [], []
        for index in range(self._classes) if self._positive is None else (self._positive,):
            order = np.argsort(-self._table[:, index], kind="stable")
            scores = self._table[order, index]
            last_of_ties = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
            inside = (self._labels == index)[order]
            ordered = weights[:, order]
            # float64 sums: float32 would lose counts above 2^24.
            true_positives = np.cumsum(ordered * inside, axis=1, dtype=np.float64)[:, last_of_ties]
            false_positives = np.cumsum(ordered * ~inside, axis=1, dtype=np.float64)[:, last_of_ties]
            new_positives = np.diff(true_positives, axis=1, prepend=0)
            new_negatives = np.diff(false_positives, axis=1, prepend=0)
            positives, negatives = true_positives[:, -1], false_positives[:, -1]
            with np.errstate(invalid="ignore", divide="ignore"):
                ranked = (new_negatives * (2 * true_positives - new_positives)).sum(axis=1)
                areas.append(ranked / (2 * positives * negatives))
                precision = np.nan_to_num(true_positives / (true_positives + false_positives))
                averages.append((new_positives * precision).sum(axis=1) / positives)
        return {
            "auroc": mean_of_defined(np.stack(areas), axis=0),
            "average_precision": mean_of_defined(np.stack(averages), axis=0),
        }
