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
        rule: `recall`, `f1`, `given`, or of a run that adapts another one: `even`, `share`.
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
            "even": "for even odds",
            "share": "for the share of positives on the labelled surface",
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
            if self.groups < self.needed:
                kind = "positive validation images" if single else "groups of positive validation images"
                more = self.needed - self.groups
                line += f"; to be sure of {self.target_recall} takes {self.needed:,} {kind}, {more:,} more"
            else:
                line += f"; no threshold finds enough positives to be sure of {self.target_recall}"
        return line


@dataclass(frozen=True)
class PhotoRule:
    """When a photo is positive, by the scores of its tiles: the log odds of the positive class.

    A photo is positive if its highest tile reaches `single`, or two neighbouring tiles both reach `pair`. Both depend
    on the number of tiles: among many sound tiles, some score high. They are interpolated over its logarithm.

    Attributes:
        tiles: Numbers of tiles, ascending.
        single: Log odds for each number of tiles.
        pair: Log odds for each number of tiles.
        sound_flagged: Share of sound photos that are positive, for each number of tiles.
        cracked_tiles: Numbers of neighbouring positive tiles whose recall was measured.
        recall: Share of photos with these that are positive [numbers of positive tiles][numbers of tiles]; None where
            the photo has fewer tiles.
    """

    tiles: list[int]
    single: list[float]
    pair: list[float]
    sound_flagged: list[float]
    cracked_tiles: list[int]
    recall: list[list[float | None]]

    def at(self, tiles: int) -> tuple[float, float]:
        """Return `single` and `pair` for a number of tiles."""
        place = np.log(tiles), np.log(self.tiles)
        return float(np.interp(*place, self.single)), float(np.interp(*place, self.pair))

    def describe(self, positive_class: str) -> str:
        """Return a table: sound photos that are positive and the recall of small cracks, by the number of tiles."""
        counts = "".join(f"{count:>8,}" for count in self.tiles)
        rows: dict[str, list[Any]] = {f"sound photos called {positive_class}": self.sound_flagged}
        for count, recall in zip(self.cracked_tiles, self.recall, strict=True):
            rows[f"recall, {count} neighbouring {positive_class} tile{'s' * (count > 1)}"] = recall
        width = max(len("tiles of a photo"), *map(len, rows))
        lines = [f"{'tiles of a photo':{width}}{counts}"]
        for title, values in rows.items():
            cells = "".join(f"{'-':>8}" if value is None else f"{value:>8.3f}" for value in values)
            lines.append(f"{title:{width}}{cells}")
        return "\n".join(lines)

    def is_positive(self, log_odds: NDArray[np.floating]) -> bool:
        """Return whether a photo is positive.

        Args:
            log_odds: Of the positive class, for each tile in its place, float [rows, columns].
        """
        single, pair = self.at(log_odds.size)
        return bool(log_odds.max() >= single or highest_pair(log_odds) >= pair)


def highest_pair(log_odds: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the highest score that two neighbouring tiles (corners count) both reach; -inf for a single tile.

    Args:
        log_odds: Of one or several photos, float [..., rows, columns].

    Returns:
        float [...].

    >>> float(highest_pair(np.array([[5.0, 0.0, 0.0], [0.0, 3.0, 9.0]])))
    3.0
    >>> float(highest_pair(np.array([[5.0, 0.0, 0.0], [0.0, 0.0, 9.0]])))
    0.0
    """
    upper, lower = log_odds[..., :-1, :], log_odds[..., 1:, :]
    both = [
        np.minimum(upper, lower),
        np.minimum(log_odds[..., :-1], log_odds[..., 1:]),
        np.minimum(upper[..., :-1], lower[..., 1:]),
        np.minimum(upper[..., 1:], lower[..., :-1]),
    ]
    return np.asarray(np.max([pairs.max(axis=(-2, -1), initial=-np.inf) for pairs in both], axis=0))


@dataclass(frozen=True)
class Decision:
    """How a model's probabilities become answers.

    Attributes:
        temperature: The logits are divided by it (Guo et al. 2017).
        threshold: Probability from which on the positive class is the answer; None: the most probable class is.
        chosen: How the threshold was chosen, in words.
        abstain: Lowest and highest probability of the positive class between which the answer is `CANNOT_TELL`.
        point: What the threshold gave on validation; None where it was not measured.
        photo: When a photo of several tiles is positive; None: if one of its tiles is.
    """

    temperature: float = 1.0
    threshold: float | None = None
    chosen: str = "default"
    abstain: list[float] | None = None
    point: OperatingPoint | None = None
    photo: PhotoRule | None = None

    def classes(self, probabilities: NDArray[Any], positive: int | None, *, abstain: bool = True) -> NDArray[np.int64]:
        """Return the index of the predicted class of each row, int64 [n]; -1 inside the abstain band.

        Args:
            probabilities: Calibrated, [n, classes].
            positive: Index of the positive class; None: the most probable class wins.
            abstain: Whether the band counts; without it every image gets the class at the threshold.
        """
        if positive is None or self.threshold is None:
            return np.asarray(probabilities.argmax(axis=1), np.int64)
        score = probabilities[:, positive]
        classes = np.where(score >= self.threshold, positive, 1 - positive)
        if abstain and self.abstain is not None:
            classes = np.where((score >= self.abstain[0]) & (score < self.abstain[1]), -1, classes)
        return np.asarray(classes, np.int64)

    def at(self, threshold: float) -> Decision:
        """Return the decision with a threshold that the user gives, without abstaining."""
        return replace(self, threshold=threshold, chosen="as given", abstain=None, point=None, photo=None)

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
        point, photo = values.get("point"), values.get("photo")
        return cls(
            **{
                **values,
                "point": None if point is None else OperatingPoint(**point),
                "photo": None if photo is None else PhotoRule(**photo),
            }
        )
