"""95 % confidence intervals of metrics, over groups of images that belong together, such as the patches of one photo.

All metrics get the same kind of interval: Wilson's score interval of an effective number of independent images, which
follows from the metric's standard error over groups. For ratios of counts (Cochran 1977, *Sampling techniques*, 6.2)
and the AUROC (Obuchowski 1997) the error is the cluster bootstrap's in closed form; for all other metrics whole groups
are drawn. Where every group is one image, a proportion gets Wilson's interval itself.

`benchmarks/coverage.py` simulates how often the intervals contain the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import norm
from scipy.stats import t as student

from hairline.model.decision import FEW_GROUPS, describe_groups

RESAMPLES = 1000
ENDS = 0.025, 0.975  # quantiles at the ends of a 95 % interval
Z = float(norm.ppf(ENDS[1]))
_CHUNK_NUMBERS = 250_000  # weights held at once: 1 MB; computing metrics from them takes about thirty times as much


class Interval(NamedTuple):
    """A 95 % interval.

    Attributes:
        low: Lower end.
        high: Upper end.
        groups: Number of groups behind it: those that hold an image that counts.
    """

    low: float
    high: float
    groups: int

    def describe(self) -> str:
        """Return the interval in words.

        >>> Interval(0.91, 0.995, 1437).describe(), Interval(0.7, 0.9, 12).describe()
        ('0.9100 to 0.9950, 1,437 groups', '0.7000 to 0.9000, few groups: 12')
        """
        return f"{self.low:.4f} to {self.high:.4f}, {describe_groups(self.groups)}"


def number(groups: NDArray[Any]) -> NDArray[np.int64]:
    """Return the number of each image's group, int64 [n], from 0."""
    return np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1].astype(np.int64)


def of_ratio(hits: NDArray[Any], cases: NDArray[Any], groups: NDArray[np.int64]) -> Interval:
    """Return the interval of a ratio of counts, such as the share of the cases that are hits.

    Args:
        hits: What each image adds to the numerator, [n], at most `cases`.
        cases: What each image adds to the denominator, [n].
        groups: Number of each image's group, int64 [n].
    """
    counted = np.asarray(cases) > 0
    if not counted.any():
        return Interval(0.0, 1.0, 0)
    numbers = np.unique(groups[counted], return_inverse=True)[1]
    inside = np.bincount(numbers, np.asarray(hits, np.float64)[counted])
    total = np.bincount(numbers, np.asarray(cases, np.float64)[counted])
    share = inside.sum() / total.sum()
    deviations = inside - share * total
    low, high = _of_deviations(
        share,
        cases=total.sum(),
        groups=len(total),
        squares=(deviations**2).sum(),
        fourths=(deviations**4).sum(),
        divided=min(np.count_nonzero(inside), np.count_nonzero(total - inside)),
    )
    return Interval(float(low), float(high), len(total))


def bounds_as_found(groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the lower bound of the share found, when cases are found one after the other.

    Args:
        groups: Number of each case's group in the order in which they are found, int64 [n].

    Returns:
        The lower end of `of_ratio` with none to all n found, float64 [n + 1].
    """
    # From the end, as everything is then small where it matters: how many of each group are missed.
    order = np.unique(groups[::-1], return_inverse=True)[1]
    sizes = np.bincount(order).astype(np.float64)
    missed = _times_seen(order).astype(np.float64)  # in the case's group, with this case
    size = sizes[order]
    count, cases = len(sizes), len(order)
    found = 1 - np.arange(cases + 1) / cases  # the share found with 0, 1, ... missed
    wrong = 1 - found

    def total(power: int, by_size: int) -> NDArray[np.float64]:
        """Return the sum over groups of missed^power * size^by_size, with 0, 1, ... missed."""
        return np.append(0.0, np.cumsum((missed**power - (missed - 1) ** power) * size**by_size))

    # Powers of missed - wrong * size, summed over groups.
    squares = total(2, 0) - 2 * wrong * total(1, 1) + wrong**2 * (sizes**2).sum()
    fourths = (
        total(4, 0)
        - 4 * wrong * total(3, 1)
        + 6 * wrong**2 * total(2, 2)
        - 4 * wrong**3 * total(1, 3)
        + wrong**4 * (sizes**4).sum()
    )
    with_misses = np.append(0, np.cumsum(missed == 1))
    with_hits = count - np.append(0, np.cumsum(missed == size))
    low, _ = _of_deviations(
        found,
        cases=cases,
        groups=count,
        squares=np.maximum(squares, 0.0),
        fourths=np.maximum(fourths, 0.0),
        divided=np.minimum(with_misses, with_hits),
    )
    return low[::-1].copy()


def of_contributions(
    value: float, contributions: NDArray[np.float64], missed: NDArray[np.bool_], groups: NDArray[np.int64], fewest: int
) -> Interval:
    """Return the interval of a metric between 0 and 1 from what each image contributes to its error.

    Near 1 the error of a metric such as the AUROC falls with the distance from 1, so the interval is symmetric in the
    log odds. As in `of_ratio`, few groups with a miss leave the effective number near that of the groups.

    Args:
        value: The metric.
        contributions: Influence of each image, float64 [n]: the metric changes by so much, to first order, per weight.
        missed: Whether the image takes part in an error, [n].
        groups: Number of each image's group, int64 [n].
        fewest: Number of groups of the class that the fewest groups hold.
    """
    deviations = np.bincount(groups, contributions)
    count = len(np.unique(groups))
    squares, fourths = (deviations**2).sum(), (deviations**4).sum()
    if value <= 0 or value >= 1 or squares == 0 or fewest < 2:
        return of_cases(value, fewest)
    wrong = len(np.unique(groups[missed]))
    seen, least = squares * count / (count - 1), value * (1 - value) / (fewest * (1 + wrong) ** 2)
    if seen > least:
        quantile = student.ppf(ENDS[1], np.clip(_freedom(squares, fourths, count), 1, fewest - 1))
        half = quantile * np.sqrt(seen) / (value * (1 - value))
        low, high = expit(logit(value) - half), expit(logit(value) + half)
    else:
        low, high = _score(np.float64(value), np.float64(fewest * (1 + wrong) ** 2), _quantile(fewest))
    widest = _score(np.float64(value), np.float64(fewest), _quantile(fewest))
    return Interval(float(max(low, widest[0])), float(min(high, widest[1])), fewest)


def of_resamples(value: float, drawn: NDArray[np.float64], groups: int) -> Interval:
    """Return the interval of a metric between 0 and 1 that was computed on resamples.

    Args:
        value: The metric on all images.
        drawn: The metric on each resample; nan where it is undefined.
        groups: Number of groups; with several classes, of the class that the fewest groups hold.
    """
    defined = drawn[np.isfinite(drawn)]
    if not len(defined) or not groups:
        return Interval(np.nan, np.nan, groups)
    # Resamples of n groups vary by the share (n - 1) / n of what samples of n groups do.
    variance = defined.var() * groups / max(groups - 1, 1)
    if groups < 2 or variance < 1e-18 or value in (0, 1):  # a perfect result, or equal groups: nothing can vary
        return of_cases(value, groups)
    low, high = _score(np.float64(value), value * (1 - value) / variance, _quantile(groups))
    return Interval(float(low), float(high), groups)


def percentiles(drawn: NDArray[np.float64], groups: int) -> Interval:
    """Return the percentile interval of resampled values, expanded for few groups (Hesterberg 2015, section 5.2).

    It is undefined (nan) if all values are, or with one group.

    Args:
        drawn: Values of the resamples; nan where undefined.
        groups: Number of groups.
    """
    defined = drawn[np.isfinite(drawn)]
    if not len(defined) or groups < 2:
        return Interval(np.nan, np.nan, groups)
    tail = norm.cdf(-_quantile(groups) * np.sqrt(groups / (groups - 1)))
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Interval(float(low), float(high), groups)


def resample(groups: NDArray[Any], resamples: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """Draw resamples of whole groups, with replacement (Efron and Tibshirani 1993, on clustered data).

    Args:
        groups: Group of each image, [n].
        resamples: Number of resamples.
        seed: The same seed draws the same resamples.

    Yields:
        float32 [resamples of a chunk, n]: how often each image counts.
    """
    codes = number(groups)
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
    groups: NDArray[Any],
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


def _of_deviations(
    share: Any, *, cases: Any, groups: int, squares: Any, fourths: Any, divided: Any
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the interval of a ratio from how its groups deviate; all arguments but `groups` may be arrays.

    The effective number of cases is `cases` over the design effect (Kish 1965, *Survey sampling*, 8.2): the variance
    over groups relative to that of independent cases, at least 1. How well the excess over 1 is known depends on how
    many groups deviate, which Student's quantile corrects for. Few groups with errors say little about how errors
    cluster: with none the effective number is that of the groups, and it rises with the square of their number. The
    interval is never wider than if each group were one case.

    Args:
        share: The ratio.
        cases: Its denominator.
        groups: Number of groups.
        squares: Sum over groups of (hits - share * cases)^2.
        fourths: Sum of the same to the 4th power.
        divided: Number of groups with a miss, or with a hit if those are fewer.
    """
    share = np.asarray(share, np.float64)
    few = _small_sample(groups)
    widest = _score(share, np.float64(groups), few)
    if groups in (1, cases):  # every group is one case
        return widest
    with np.errstate(divide="ignore", invalid="ignore"):
        seen = groups / (groups - 1) * squares / (cases * share * (1 - share))
        least = cases / groups / (1 + divided) ** 2
        effect = np.fmax(np.fmax(seen, least), 1.0)
        freedom = _freedom(squares, fourths, groups) * effect / (effect - 1)
    freedom = np.clip(np.where(freedom > 0, freedom, np.inf), 1, groups - 1)
    quantile = np.where(seen > least, student.ppf(ENDS[1], freedom), few)
    low, high = _score(share, cases / effect, quantile)
    return np.maximum(low, widest[0]), np.minimum(high, widest[1])


def of_cases(value: float, groups: int) -> Interval:
    """Return the interval of a share of groups, each of which is one case.

    Args:
        value: The share.
        groups: Number of groups.
    """
    low, high = _score(np.float64(value), np.float64(groups), _small_sample(groups))
    return Interval(float(low), float(high), groups)


def _small_sample(groups: int) -> float:
    """Return the quantile of Wilson's interval over groups: Student's where they are few."""
    return Z if groups >= FEW_GROUPS else _quantile(groups)


def _score(
    share: NDArray[np.float64] | np.float64, size: NDArray[np.float64] | np.float64, quantile: Any
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return Wilson's (1927) score interval of a share of `size` cases."""
    square = quantile**2 / size
    middle = (share + square / 2) / (1 + square)
    half = np.sqrt(square * share * (1 - share) + square**2 / 4) / (1 + square)
    low, high = np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)
    # Without rounding errors at the ends.
    return np.where(share <= 0, 0.0, low), np.where(share >= 1, 1.0, high)


def _freedom(squares: Any, fourths: Any, groups: int) -> Any:
    """Return the degrees of freedom of a variance over groups: about the number of groups that deviate.

    It is half of Satterthwaite's (1946), as few groups show too little of rare, large deviations.
    """
    return 1 / np.maximum(fourths / squares**2 - 1 / groups, 1e-12)


def _quantile(groups: int) -> float:
    """Return the 97.5th percentile of Student's distribution that an error over so many groups asks for."""
    return float(student.ppf(ENDS[1], max(groups - 1, 1)))


def _times_seen(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how often each entry has occurred up to its place.

    >>> _times_seen(np.array([3, 1, 3, 3])).tolist()
    [1, 1, 2, 3]
    """
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    lengths = np.diff(np.append(starts, len(ordered)))
    seen = np.empty(len(numbers), np.int64)
    seen[order] = np.arange(len(numbers)) - np.repeat(starts, lengths) + 1
    return seen
