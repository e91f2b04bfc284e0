"""How probabilities become answers: chosen on validation images, stored with the model, applied everywhere."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hairline.system.errors import HairlineError

FEW_GROUPS = 30  # intervals over fewer groups are marked
CANNOT_TELL = "cannot tell"  # the answer inside the abstain band


def describe_groups(groups: int) -> str:
    """Return the number of groups behind an interval in words, marked where there are few.

    >>> describe_groups(1437), describe_groups(12)
    ('1,437 groups', 'few groups: 12')
    """
    return f"few groups: {groups:,}" if groups < FEW_GROUPS else f"{groups:,} groups"


class DecisionError(HairlineError):
    """A decision that these classes do not allow."""


@dataclass(frozen=True)
class OperatingPoint:
    """What a threshold gave on the validation images it was chosen on.

    Attributes:
        rule: `recall`, `f1` or `given`.
        target_recall: Target of the rule `recall`; None with another rule.
        reached: Whether the lower bound of the recall meets the target; None with another rule.
        images: Number of positive validation images.
        groups: Number of groups they belong to.
        needed: Number of groups, all found, whose recall has a lower bound that meets the target.
        recall: Recall on validation, with its 95 % interval in `recall_low` and `recall_high`.
        recall_low: Lower end.
        recall_high: Upper end.
        specificity: Specificity on validation.
        precision: Precision on validation.
        threshold_low: Lower end of the threshold's own 95 % interval, by bootstrap over groups; None: not computed.
        threshold_high: Upper end.
    """

    rule: str
    target_recall: float | None
    reached: bool | None
    images: int
    groups: int
    needed: int | None
    recall: float
    recall_low: float
    recall_high: float
    specificity: float
    precision: float
    threshold_low: float | None = None
    threshold_high: float | None = None

    def describe(self) -> str:
        """Return one line: how the threshold was chosen and what it gave."""
        how = {
            "recall": f"for a recall of {self.target_recall}",
            "f1": "for the highest F1",
            "given": "as given",
        }[self.rule]
        single = self.groups == self.images
        behind = f"{self.images:,} positives" + ("" if single else f" in {self.groups:,} groups")
        if self.groups < FEW_GROUPS:
            behind += " (few groups)"
        line = (
            f"{how}: on validation recall {self.recall:.4f} ({self.recall_low:.4f} to {self.recall_high:.4f}) of "
            f"{behind}, specificity {self.specificity:.4f}"
        )
        if self.reached is False and self.needed is not None:
            line += "; the target is out of reach: "
            if self.groups < self.needed:
                kind = "positive validation images" if single else "groups of positive validation images"
                line += f"being sure of it takes {self.needed:,} {kind}, {self.needed - self.groups:,} more"
            else:
                line += "no threshold finds enough positives to be sure of it"
        return line


@dataclass(frozen=True)
class Decision:
    """How a model's probabilities become answers.

    Attributes:
        temperature: The logits are divided by it (Guo et al. 2017).
        threshold: Probability from which on the positive class is the answer; None: the most probable class is.
        chosen: How the threshold was chosen, in words.
        abstain: Lowest and highest probability of the positive class between which the answer is `CANNOT_TELL`.
        point: What the threshold gave on validation; None where it was not measured.
    """

    temperature: float = 1.0
    threshold: float | None = None
    chosen: str = "default"
    abstain: list[float] | None = None
    point: OperatingPoint | None = None

    def classes(self, probabilities: NDArray[Any], positive: int | None) -> NDArray[np.int64]:
        """Return the index of the predicted class of each row, int64 [n]; -1 inside the abstain band.

        Args:
            probabilities: Calibrated, [n, classes].
            positive: Index of the positive class; None: the most probable class wins.
        """
        if positive is None or self.threshold is None:
            return np.asarray(probabilities.argmax(axis=1), np.int64)
        score = probabilities[:, positive]
        classes = np.where(score >= self.threshold, positive, 1 - positive)
        if self.abstain is not None:
            classes = np.where((score >= self.abstain[0]) & (score < self.abstain[1]), -1, classes)
        return np.asarray(classes, np.int64)

    def at(self, threshold: float) -> Decision:
        """Return the decision with a threshold that the user gives, without abstaining."""
        return replace(self, threshold=threshold, chosen="as given", abstain=None, point=None)

    def describe(self, positive_class: str | None) -> str:
        """Return one line: how probabilities become answers."""
        if positive_class is None or self.threshold is None:
            return "the most probable class"
        line = f"{positive_class} from a probability of {self.threshold:.4g} ({self.chosen})"
        if self.abstain is None:
            return line
        low, high = self.abstain
        band = f"cannot tell from {low:.4g} up to {high:.4g}"
        if low <= self.threshold < high:
            return f"{positive_class} from a probability of {high:.4g}, {band}"
        return f"{line}; {band}"

    def values(self) -> dict[str, Any]:
        """Return the decision as plain values, for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Decision:
        """Return the decision that `values` wrote."""
        point = values.get("point")
        return cls(**{**values, "point": None if point is None else OperatingPoint(**point)})
