"""Decisions in words, and with another threshold."""

from __future__ import annotations

import pytest

from hairline.model import saved
from hairline.model.decision import Decision


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
