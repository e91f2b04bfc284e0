"""Decisions in words, and with another threshold."""

from __future__ import annotations

import numpy as np
import pytest

from hairline.model import saved
from hairline.model.decision import Decision, PhotoRule, highest_pair


@pytest.mark.parametrize(
    ("threshold", "abstain", "text"),
    [
        (0.3, None, "cracked from a probability of 0.3 (for a recall of 0.99)"),
        (0.3, [0.2, 0.7], "cracked from a probability of 0.7, cannot tell from 0.2 up to 0.7"),
        (None, None, "the most probable class"),
    ],
)
def test_a_bundle_describes_its_decision(threshold: float | None, abstain: list[float] | None, text: str) -> None:
    decision = Decision(threshold=threshold, chosen="for a recall of 0.99", abstain=abstain)
    bundle = saved.Bundle(["cracked", "plain"], "cracked", 8, "", "", {}, {}, decision)
    assert bundle.describe_decision() == text
    if threshold is None:
        with pytest.raises(saved.BundleError, match="threshold=0.5: this model has none"):
            bundle.at(0.5)
    else:
        assert (bundle.at(0.5).threshold, bundle.at(0.5).decision.abstain, bundle.at(None)) == (0.5, None, bundle)


def test_a_photo_is_positive_by_one_high_tile_or_two_neighbours() -> None:
    rule = PhotoRule(tiles=[1, 100], single=[0.0, 8.0], pair=[0.0, 2.0], sound_flagged=[0.0, 0.0], cracked_tiles=[],
                     recall=[])  # fmt: skip
    assert rule.at(10) == pytest.approx((4.0, 1.0))
    assert rule.at(10_000) == (8.0, 2.0)
    photo = np.full((2, 5), -9.0)
    assert not rule.is_positive(photo)
    photo[0, 1] = 3.9
    assert not rule.is_positive(photo)
    photo[1, 4] = 3.9  # not a neighbour
    assert not rule.is_positive(photo)
    photo[1, 2] = 1.1  # a neighbour at a corner
    assert rule.is_positive(photo)
    photo[1, 2] = 0.9
    assert not rule.is_positive(photo)
    photo[0, 1] = 4.1
    assert rule.is_positive(photo)
    assert highest_pair(np.zeros((3, 1, 1))).tolist() == [-np.inf] * 3
