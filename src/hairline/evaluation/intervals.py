"""95 % confidence intervals: Wilson's for proportions, and the bootstrap over groups for all other metrics.

A resample is a row of weights that says how often each image counts. Every metric is a function of such weights, so
thousands of resamples are computed together. `resample` is the one place that decides what is drawn together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

RESAMPLES = 1000
Z = 1.959963984540054  # 97.5th percentile of the standard normal distribution
_CHUNK_NUMBERS = 250_000  # weights held at once: 1 MB; computing metrics from them takes about thirty times as much


def wilson(successes: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a proportion; (0, 1) without any case.

    >>> [round(bound, 4) for bound in wilson(10, 10)]
    [0.7225, 1.0]
    """
    if total == 0:
        return 0.0, 1.0
    interval = binomtest(successes, total).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def resample(groups: NDArray[np.object_], resamples: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """Draw resamples of whole groups, with replacement (Efron and Tibshirani 1993, on clustered data).

    Args:
        groups: Group of each image, [n].
        resamples: Number of resamples.
        seed: The same seed draws the same resamples.

    Yields:
        float32 [resamples of a chunk, n]: how often each image counts.
    """
    codes = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    count = int(codes.max()) + 1
    generator = np.random.default_rng([seed, 0xB007])
    chunk = max(1, _CHUNK_NUMBERS // max(len(codes), count))
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = generator.integers(count, size=(rows, count)) + np.arange(rows)[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        yield times[:, codes].astype(np.float32)


def bootstrap(
    metrics: Callable[[NDArray[np.float32]], dict[str, NDArray[np.float64]]],
    groups: NDArray[np.object_],
    *,
    resamples: int,
    seed: int = 0,
) -> dict[str, NDArray[np.float64]]:
    """Return the metrics of every resample, float64 [resamples] each.

    Args:
        metrics: Computes metrics, float64 [k] each, from weights, float32 [k, n].
        groups: Group of each image, [n].
        resamples: Number of resamples.
        seed: The same seed draws the same resamples.
    """
    chunks = [metrics(weights) for weights in resample(groups, resamples, seed)]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % percentile interval of resampled values; (nan, nan) if all are undefined."""
    defined = values[np.isfinite(values)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)
