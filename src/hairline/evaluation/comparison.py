"""Whether one model is better than another: a paired bootstrap over the images that both predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hairline.evaluation import intervals, metrics
from hairline.system.errors import HairlineError

_PLACE = ("path", "x", "y", "width", "height")
RESAMPLES = 2000


class ComparisonError(HairlineError):
    """Predictions that cannot be compared."""


@dataclass(frozen=True)
class Difference:
    """A metric of the first model less that of the second, on the same images.

    Attributes:
        value: The difference measured.
        low: Lower end of its confidence interval.
        high: Upper end.
        images: Images that both models predicted.
    """

    value: float
    low: float
    high: float
    images: int

    @property
    def decided(self) -> bool:
        """Whether the interval leaves zero out: only then is one of them better."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    first: pd.DataFrame,
    second: pd.DataFrame,
    *,
    groups: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Difference]:
    """Compare two models on the images that both predicted (Efron & Tibshirani 1993, pairs drawn together).

    Args:
        first: Predictions: columns path, x, y, width, height, label, predicted and `prob_<class>` for each class.
        second: The same of the other model; the order of rows does not matter. Rows without a label are left out.
        groups: Group of each path: images of a group are drawn together. None: each image by itself.
        resamples: Number of resamples.
        confidence: Wanted coverage of the intervals.
        seed: The same seed draws the same.

    Returns:
        The difference, first less second, of `accuracy`, `balanced_accuracy` and `loss` (of the most probable class;
        for the loss in nats, less is better), and of `accuracy_at_threshold` and `balanced_accuracy_at_threshold` (of
        the column `predicted`; an answer that is no class, such as "cannot tell", counts as not right).

    Raises:
        ComparisonError: If the two share no labelled images, or disagree about their labels or classes.
    """
    both, classes = shared(first, second)
    labels = both["label_first"].to_numpy()
    codes = pd.Categorical(labels, categories=classes).codes.astype(np.int64)
    sides = [_right(both, side, classes, codes) for side in ("first", "second")]
    present = np.eye(len(classes), dtype=np.float32)[codes]
    names = None if groups is None else [groups.get(path, path) for path in both["path"]]
    parts: list[dict[str, NDArray[np.float64]]] = []
    drawn = intervals.resampled_weights(names, len(both), resamples, seed)
    for weights in (np.ones((1, len(both)), np.float32), *drawn):
        one, two = (_measured(weights, values, present) for values in sides)
        parts.append({name: one[name] - two[name] for name in one})
    found = {}
    for name, values in parts[0].items():
        tail = (1 - confidence) / 2
        low, high = np.nanquantile(np.concatenate([part[name] for part in parts[1:]]), [tail, 1 - tail])
        found[name] = Difference(float(values[0]), float(low), float(high), len(both))
    return found


def shared(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Join two tables of predictions on their labelled images.

    Returns:
        One row an image that both hold, columns with the suffixes `_first` and `_second`; and the class names, sorted.

    Raises:
        ComparisonError: If there are none, or the tables disagree about labels or classes.
    """
    tables = [table[table["label"].fillna("") != ""] for table in (first, second)]
    named = [
        sorted(name.removeprefix("prob_") for name in table.columns if name.startswith("prob_")) for table in tables
    ]
    if named[0] != named[1]:
        raise ComparisonError(
            f"the two models know other classes: {', '.join(named[0])} and {', '.join(named[1])}: compare models of "
            "the same classes"
        )
    both = tables[0].merge(tables[1], on=list(_PLACE), suffixes=("_first", "_second"), validate="one_to_one")
    if both.empty:
        raise ComparisonError(
            f"the two tables of predictions ({len(tables[0])} and {len(tables[1])} labelled images) share no image: "
            "evaluate both models on the same data, or train both with the same data, split and seed"
        )
    differing = both["label_first"] != both["label_second"]
    if differing.any():
        row = both[differing].iloc[0]
        raise ComparisonError(
            f"{row['path']} is {row['label_first']!r} in one table and {row['label_second']!r} in the other "
            f"({differing.sum()} such images): compare predictions of the same labels"
        )
    return both, named[0]


def _right(both: pd.DataFrame, side: str, classes: list[str], codes: NDArray[np.int64]) -> NDArray[np.float32]:
    """Give what is summed of each image, float32 [n, 3]: right by arg-max, right as decided, log loss."""
    table = both[[f"prob_{name}_{side}" for name in classes]].to_numpy(np.float64)
    if not np.isfinite(table).all():
        raise ComparisonError(
            f"the {side} table holds probabilities that are no numbers (nan): the training diverged; train it anew"
        )
    decided = both[f"predicted_{side}"].to_numpy() == both[f"label_{side}"].to_numpy()
    given = np.clip(table[np.arange(len(codes)), codes], metrics.SMALLEST_PROBABILITY, 1.0)
    return np.column_stack([table.argmax(axis=1) == codes, decided, -np.log(given)]).astype(np.float32)


def _measured(
    weights: NDArray[np.float32], values: NDArray[np.float32], present: NDArray[np.float32]
) -> dict[str, NDArray[np.float64]]:
    total = weights.sum(axis=1, dtype=np.float64)
    plain = (weights @ values).astype(np.float64) / total[:, None]
    support = (weights @ present).astype(np.float64)
    found = {"accuracy": plain[:, 0], "accuracy_at_threshold": plain[:, 1], "loss": plain[:, 2]}
    for column, name in enumerate(("balanced_accuracy", "balanced_accuracy_at_threshold")):
        right = (weights @ (present * values[:, column : column + 1])).astype(np.float64)
        recall = np.divide(right, support, out=np.full(right.shape, np.nan), where=support > 0)
        # A resample may hold no image of a rare class: its mean is over those it holds.
        found[name] = intervals.mean_of_defined(recall, axis=1)
    return found
