"""Which of several models is better beyond chance, on images that all of them predicted.

Whole groups of images are drawn together, and all models are computed on the same draws. Comparing one model with each
other one is a family of tests, and choosing the best model first makes luck look like merit: the largest of many equal
results is high. The thresholds of max-T (Westfall and Young 1993, *Resampling-based multiple testing*; stepwise after
Romano and Wolf 2005) hold for the whole family. If the best was chosen by its result, they refer to the largest
difference between any two models, as in Tukey's range test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student

from hairline.evaluation import intervals
from hairline.evaluation.metrics import (
    OF_CLASSES,
    Terms,
    auroc_terms,
    class_terms,
    image_terms,
    mean_of_defined,
    ratio,
)
from hairline.model import predictions
from hairline.system.errors import HairlineError

RESAMPLES = 2000
# Probability of a false "beyond chance" anywhere among the comparisons: below 5 %, as resampling is not exact.
LEVEL = 0.04
_NOTHING = 1e-12  # images
_POSITION = ["path", "x", "y", "width", "height"]
METRICS = (*OF_CLASSES, *(f"{name}_at_threshold" for name in OF_CLASSES), "loss", "brier", "auroc")


class ComparisonError(HairlineError):
    """Runs or predictions that cannot be compared."""


@dataclass(frozen=True)
class Difference:
    """A metric of the first model less that of the second, on the same images.

    Attributes:
        value: The difference.
        low: Lower end of its interval, which holds for all comparisons of the family together at 95 %.
        high: Upper end.
        images: Number of images that both models predicted.
        groups: Number of groups they belong to.
        p_value: Probability of such a difference by chance anywhere in the family, if all models were equal.
    """

    value: float
    low: float
    high: float
    images: int
    groups: int
    p_value: float

    @property
    def decided(self) -> bool:
        """Whether the interval excludes zero: only then is one of the models better."""
        return self.low > 0 or self.high < 0


def compare(
    first: pd.DataFrame,
    others: Sequence[pd.DataFrame],
    metric: str,
    *,
    groups: Mapping[str, str],
    positive: str | None = None,
    chosen: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Difference | ComparisonError]:
    """Compare a model with each of several others.

    Models whose images differ are compared in batches of the same images; the level is divided between the batches.

    Args:
        first: Predictions table of the first model; rows without a label are ignored.
        others: Predictions tables of the others, their rows in any order.
        metric: One of `METRICS`; with the suffix `_at_threshold`, of the column `predicted`, in which "cannot tell"
            counts as wrong, otherwise of the most probable class or of the probabilities.
        groups: Group of each path: images of a group are drawn together. A path without one is its own group.
        positive: Class that recall, specificity, precision, f1 and auroc refer to; None: macro averages.
        chosen: Whether the first model was chosen because it is the best of these.
        resamples: Number of resamples.
        seed: The same seed draws the same resamples.

    Returns:
        The difference from each of the others, first less other, or why the two cannot be compared.
    """
    results: list[Difference | ComparisonError | None] = [None] * len(others)
    reference = _Table.of(first)
    tables: dict[int, _Table] = {}
    batches: dict[bytes, list[int]] = {}
    for number, other in enumerate(map(_Table.of, others)):
        try:
            rows = reference.rows_in(other)
        except ComparisonError as error:
            results[number] = error
            continue
        tables[number] = other.take(rows[rows >= 0])
        batches.setdefault((rows >= 0).tobytes(), []).append(number)
    for mask, members in batches.items():
        shared = reference.take(np.flatnonzero(np.frombuffer(mask, bool)))
        aligned = [shared, *(tables[number] for number in members)]
        names = [groups.get(path) or path for path in shared.frame["path"]]
        differences = _compare_aligned(
            aligned,
            metric,
            groups=intervals.number(np.array(names, dtype=object)),
            positive=positive,
            chosen=chosen,
            level=LEVEL / len(batches),
            resamples=resamples,
            seed=seed,
        )
        for number, difference in zip(members, differences, strict=True):
            results[number] = difference
    return [result for result in results if result is not None]


@dataclass(frozen=True)
class _Table:
    """A predictions table of labelled images, and its keys.

    Attributes:
        frame: Rows with a label.
        keys: What tells an image, or part of one, from others.
        names: The classes.
    """

    frame: pd.DataFrame
    keys: pd.Index[str]
    names: list[str]

    @classmethod
    def of(cls, table: pd.DataFrame) -> _Table:
        """Return the labelled rows of a predictions table."""
        frame = table[table["label"].fillna("") != ""].reset_index(drop=True)
        places = frame[_POSITION[1:]].apply(pd.to_numeric).to_numpy(np.int64).tolist()
        keys = [f"{path}|{place}" for path, place in zip(frame["path"], places, strict=True)]
        return cls(frame, pd.Index(keys), predictions.class_names(table))

    def take(self, rows: NDArray[np.int64]) -> _Table:
        """Return some of the rows, in that order."""
        return _Table(self.frame.iloc[rows].reset_index(drop=True), self.keys[rows], self.names)

    def rows_in(self, other: _Table) -> NDArray[np.int64]:
        """Return the row of each image in another table, -1 where it is missing.

        Raises:
            ComparisonError: If the tables share no images, or disagree about labels or classes.
        """
        if self.names != other.names:
            raise ComparisonError(
                f"the two models know other classes: {', '.join(self.names)} and {', '.join(other.names)}: compare "
                "models of the same classes"
            )
        for table in (self, other):
            if not table.keys.is_unique:
                twice = table.frame["path"][table.keys.duplicated()].iloc[0]
                raise ComparisonError(f"a predictions table lists {twice} twice: remove one of its rows")
        rows = other.keys.get_indexer(self.keys).astype(np.int64)
        if not (rows >= 0).any():
            raise ComparisonError(
                f"the two predictions tables ({len(self.frame)} and {len(other.frame)} labelled images) share no "
                "image: evaluate both models on the same data, or train both with the same data, split and seed"
            )
        here = self.frame["label"].to_numpy(object)[rows >= 0]
        there = other.frame["label"].to_numpy(object)[rows[rows >= 0]]
        differing = np.flatnonzero(here != there)
        if len(differing):
            place = differing[0]
            path = self.frame["path"].to_numpy(object)[rows >= 0][place]
            raise ComparisonError(
                f"{path} is {here[place]!r} in one table and {there[place]!r} in the other ({len(differing)} such "
                "images): compare predictions of the same labels"
            )
        return rows

    def probabilities(self) -> NDArray[Any]:
        """Return the probability of each class, float64 [n, classes]."""
        return self.frame[[f"prob_{name}" for name in self.names]].to_numpy(np.float64)

    def terms(self, metric: str, positive: str | None) -> Terms:
        """Return the numerators and denominators of a metric for each image."""
        labels = _codes(self.frame["label"], self.names)
        index = None if positive is None else self.names.index(positive)
        probabilities = self.probabilities()
        if metric.endswith("_at_threshold"):
            predicted = _codes(self.frame["predicted"], self.names)
        else:
            predicted = probabilities.argmax(axis=1)
        name = metric.removesuffix("_at_threshold")
        if name in OF_CLASSES:
            terms = class_terms(labels, predicted, index)
            above, below = terms[name]
            if name == "precision":  # 0, not undefined, of a class that has images and is never predicted
                below = below + _NOTHING * terms["recall"][1]
            return above, below
        if name == "auroc":
            values, _ = auroc_terms(labels, probabilities, index)
            return values, np.ones_like(values)
        column = ("loss", "brier").index(name)
        return image_terms(labels, probabilities)[:, [column]], np.ones((len(labels), 1))


def _compare_aligned(
    tables: Sequence[_Table],
    metric: str,
    *,
    groups: NDArray[np.int64],
    positive: str | None,
    chosen: bool,
    level: float,
    resamples: int,
    seed: int,
) -> list[Difference | ComparisonError]:
    """Compare the first table with each other one; all have the same images in the same order."""
    count = int(groups.max()) + 1
    sums = [_by_group(table.terms(metric, positive), groups, count) for table in tables]
    stacked = [np.stack(side, axis=1) for side in zip(*sums, strict=True)]  # [groups, models, ratios] each

    def values(weights: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
        above, below = (np.tensordot(weights.astype(np.float64), side, axes=1) for side in stacked)
        return {"values": mean_of_defined(ratio(above, below))}

    observed = values(np.ones((1, count), np.float32))["values"][0]
    drawn = intervals.bootstrap(values, np.arange(count), resamples=resamples, seed=seed)["values"]
    if not (np.isfinite(drawn).all(axis=1).any() and np.isfinite(observed).all()):
        text = f"{metric} is not defined on the {len(groups)} images that both predicted: a class is missing there"
        return [ComparisonError(text) for _ in tables[1:]]
    errors, thresholds, p_values = max_t(observed, drawn, groups=count, chosen=chosen, level=level)
    halves = thresholds * errors
    # Models that never differed here may differ on further groups, unless they are the same.
    measured = (stacked[1][:, 0] >= 1).sum(axis=0)
    unseen = intervals.of_cases(0.0, int(measured[measured > 0].min(initial=count))).high
    probabilities = [table.probabilities() for table in tables]
    for number in np.flatnonzero(errors[1:] == 0) + 1:
        same = np.array_equal(probabilities[0], probabilities[number])
        halves[number] = 0.0 if same else unseen
        if not same and metric in ("loss", "brier"):  # no shares: what varies by nothing here may vary by anything
            halves[number] = max(unseen, abs(float(observed[0] - observed[number])))
    return [
        Difference(
            float(observed[0] - observed[number]),
            float(observed[0] - observed[number] - halves[number]),
            float(observed[0] - observed[number] + halves[number]),
            len(groups),
            count,
            float(p_values[number]),
        )
        for number in range(1, len(tables))
    ]


def max_t(
    observed: NDArray[np.float64], drawn: NDArray[np.float64], *, groups: int, chosen: bool, level: float = LEVEL
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Compare the first of several values with each other one, by stepwise max-T.

    The largest studentised difference is compared with the distribution, over resamples, of the largest one that
    chance makes among all models; if it is beyond, its model leaves and the next is compared among those that remain.

    Args:
        observed: Values of the models, float64 [models], the first one first.
        drawn: The same on resamples, float64 [resamples, models].
        groups: Number of groups that were drawn, for Student's distribution.
        chosen: Whether the first model is the best by these values: then chance is the largest difference between
            any two models, otherwise between the first and any other.
        level: Probability of any false rejection.

    Returns:
        Standard error of each difference, its threshold in standard errors, and its adjusted p-value, float64 [models]
        each; the first entry of each is of no use.
    """
    defined = np.isfinite(drawn).all(axis=1)
    centred = (drawn[defined] - observed).astype(np.float32)
    covariance = np.atleast_2d(np.cov(centred.T)) * groups / max(groups - 1, 1)
    variances = np.diag(covariance)
    errors = np.sqrt(np.maximum(variances[:, None] + variances - 2 * covariance, 0.0))
    # Models that never differ: no difference, no error.
    errors[errors < 1e-6 * max(float(np.abs(observed).max()), 1e-6)] = 0.0
    scales = np.divide(1.0, errors, out=np.zeros_like(errors), where=errors > 0).astype(np.float32)
    statistics = np.abs(observed[0] - observed) * scales[0]
    order = np.argsort(-statistics[1:], kind="stable") + 1
    thresholds, p_values = np.zeros(len(observed)), np.ones(len(observed))
    # From the last model to leave to the first, so that each step extends the maximum of the step before.
    remaining, largest = [0], np.zeros(len(centred), np.float32)
    steps: dict[int, tuple[float, float]] = {}
    for model in order[::-1]:
        opponents = remaining if chosen else [0]
        apart = np.abs(centred[:, opponents] - centred[:, [model]]) * scales[model, opponents]
        largest = np.maximum(largest, apart.max(axis=1))
        threshold = _student(float(np.quantile(largest, 1 - level)), groups)
        # Student's correction belongs to the threshold; for the p-value it is taken off the statistic.
        as_likely = np.count_nonzero(largest >= _normal(float(statistics[model]), groups))
        steps[int(model)] = threshold, float((1 + as_likely) / (1 + len(largest)))
        remaining.append(int(model))
    rejecting, p_highest = True, 0.0
    last = float("inf")
    for model in order:
        step_threshold, p_value = steps[int(model)]
        if rejecting:
            last = step_threshold
        rejecting = rejecting and bool(statistics[model] > step_threshold)
        p_highest = max(p_highest, p_value)
        thresholds[model], p_values[model] = last, p_highest
    return errors[0], thresholds, p_values


def _student(quantile: float, groups: int) -> float:
    """Return the quantile of Student's distribution at the level of a normal quantile."""
    return float(student.isf(norm.sf(quantile), max(groups - 1, 1)))


def _normal(statistic: float, groups: int) -> float:
    """Return the normal quantile at the level of a quantile of Student's distribution."""
    return float(norm.isf(student.sf(statistic, max(groups - 1, 1))))


def _by_group(terms: Terms, groups: NDArray[np.int64], count: int) -> Terms:
    """Return the sums over the images of each group, [groups, ratios] each."""
    above, below = (
        np.stack([np.bincount(groups, side[:, ratio], minlength=count) for ratio in range(side.shape[1])], axis=1)
        for side in terms
    )
    return above, below


def _codes(names: pd.Series[str], class_names: list[str]) -> NDArray[np.int64]:
    """Return the index of each class name, -1 for any other text."""
    return pd.Index(class_names, dtype=object).get_indexer(pd.Index(names, dtype=object)).astype(np.int64)
