"""Predictions of labelled images: metrics, thresholds, figures and tables are functions of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from hairline.model.decision import CANNOT_TELL, Decision

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Predictions:
    """Labels and logits of images.

    Attributes:
        labels: True classes, int64 [n].
        logits: Before temperature scaling, floating point [n, classes].
        class_names: Class names in the order of the logits.
        positive: Index of the class that precision, recall and threshold refer to; None: macro averages.
        groups: Group of each image; the bootstrap draws whole groups.
        split: `train`, `val` or `test` of each image; in an evaluation `seen` or `test`.
    """

    labels: NDArray[np.int64]
    logits: NDArray[Any]
    class_names: list[str]
    positive: int | None
    groups: NDArray[Any]
    split: NDArray[Any]

    @classmethod
    def of(
        cls,
        labels: NDArray[np.int64],
        probabilities: NDArray[Any],
        class_names: Sequence[str],
        positive: int | None,
        groups: Sequence[Any] | NDArray[Any] | None = None,
    ) -> Predictions:
        """Return predictions of test images whose probabilities are known, [n, classes]; None: each its own group."""
        with np.errstate(divide="ignore"):  # a probability of 0 has the logit -inf
            logits = np.log(probabilities)
        everyone = np.arange(len(labels)) if groups is None else np.asarray(groups)
        return cls(labels, logits, list(class_names), positive, everyone, np.full(len(labels), "test"))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    @property
    def positive_class(self) -> str | None:
        """Name of the positive class."""
        return None if self.positive is None else self.class_names[self.positive]

    def select(self, rows: str | NDArray[Any]) -> Predictions:
        """Return the images of a split, or those of the given rows (numbers or a mask)."""
        chosen = self.split == rows if isinstance(rows, str) else rows
        return replace(
            self,
            labels=self.labels[chosen],
            logits=self.logits[chosen],
            groups=self.groups[chosen],
            split=self.split[chosen],
        )

    def probabilities(self, temperature: float = 1.0) -> NDArray[np.float32]:
        """Return probabilities, float32 [n, classes]; the logits are divided by the temperature first."""
        return probabilities(self.logits, temperature)

    def decided(self, decision: Decision) -> list[str]:
        """Return the predicted class name of each image, `CANNOT_TELL` inside the abstain band."""
        return names(decision.classes(self.probabilities(decision.temperature), self.positive), self.class_names)


def probabilities(logits: NDArray[Any], temperature: float = 1.0) -> NDArray[np.float32]:
    """Return the softmax of logits that are divided by a temperature, float32 [n, classes].

    >>> probabilities(np.zeros((1, 2), np.float32)).tolist()
    [[0.5, 0.5]]
    """
    return np.asarray(softmax(logits.astype(np.float64) / temperature, axis=1), np.float32)


def names(classes: NDArray[np.int64], class_names: Sequence[str]) -> list[str]:
    """Return the class name of each index, `CANNOT_TELL` for -1."""
    return [CANNOT_TELL if index < 0 else class_names[index] for index in classes]


def predictions_table(
    rows: pd.DataFrame, predicted: Sequence[str], probabilities: NDArray[np.float32], class_names: Sequence[str]
) -> pd.DataFrame:
    """Return a predictions table: `path x y width height label predicted prob_<class>...`.

    Args:
        rows: With the columns path, width, height and label, and x and y where the rows are parts of images.
        predicted: Predicted class names.
        probabilities: Calibrated, float32 [n, classes].
        class_names: In the order of the probabilities.
    """
    if "x" not in rows:
        rows = rows.assign(x=0, y=0)
    columns = {f"prob_{name}": probabilities[:, index] for index, name in enumerate(class_names)}
    chosen = rows[["path", "x", "y", "width", "height", "label"]].reset_index(drop=True)
    return chosen.assign(predicted=predicted, **columns)


def class_names(table: pd.DataFrame) -> list[str]:
    """Return the class names of a predictions table, sorted."""
    return sorted(str(name).removeprefix("prob_") for name in table.columns if str(name).startswith("prob_"))


def from_table(table: pd.DataFrame, *, positive: int | None, groups: NDArray[Any]) -> Predictions:
    """Return the predictions of a predictions table, whose probabilities are calibrated already.

    Args:
        table: Predictions table with labels.
        positive: Index of the positive class in `class_names`; None: macro averages.
        groups: Group of each row.
    """
    import pandas as pd

    names = class_names(table)
    labels = pd.Categorical(table["label"], categories=names).codes.astype(np.int64)
    return Predictions.of(labels, table[[f"prob_{name}" for name in names]].to_numpy(float), names, positive, groups)
