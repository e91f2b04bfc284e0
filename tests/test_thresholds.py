"""Temperature and threshold: equal to those of a brute-force search, or known in advance."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from hairline.evaluation import thresholds
from hairline.evaluation.intervals import Z
from hairline.model.decision import CANNOT_TELL, Decision, DecisionError
from hairline.model.predictions import Predictions
from hairline.model.saved import Bundle

PLAIN = {
    "target_recall": 0.99, "standard_errors": 1.0, "calibration": "none", "abstain": None,
    "sound_photos_flagged": 0.05, "resamples": 0,
}  # fmt: skip


def logits(seed: int, images: int, sharpness: float, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose true temperature is `sharpness`: labels are drawn from their softmax."""
    generator = np.random.default_rng(seed)
    honest = generator.normal(scale=2, size=(images, classes))
    labels = (generator.random((images, 1)) > softmax(honest, axis=1).cumsum(axis=1)).sum(axis=1)
    return (honest * sharpness).astype(np.float32), labels


@pytest.mark.parametrize(("sharpness", "classes"), [(0.25, 2), (1.0, 2), (4.0, 2), (2.5, 4)])
def test_the_temperature_is_found(sharpness: float, classes: int) -> None:
    scores, labels = logits(0, 20_000, sharpness, classes)
    assert thresholds.fit_temperature(scores, labels) == pytest.approx(sharpness, rel=0.05)


def test_a_validation_set_without_an_error_does_not_ask_for_certainty() -> None:
    labels = np.arange(60) % 2
    scores = np.where(np.eye(2)[labels] > 0, 3.0, -3.0).astype(np.float32)
    found = thresholds.fit_temperature(scores, labels)
    highest = softmax(scores / found, axis=1).max()
    assert 0.9 < highest < 0.98  # 31 of 32, Platt's target for 30 images of a class


def choose(labels: np.ndarray, scores: np.ndarray, *, rule: str, resamples: int = 0, **aims: float) -> Decision:
    groups = np.arange(len(labels))
    options = {"rule": rule, "groups": groups, "resamples": resamples, **aims}
    return thresholds.choose_threshold(labels == 1, scores, **options)  # type: ignore[arg-type]


def brute_force(labels: np.ndarray, scores: np.ndarray, rule: str, target: float, errors: float) -> float:
    """Try every threshold by itself."""
    positives, negatives = int(labels.sum()), int((1 - labels).sum())
    tried = []
    for value in sorted(set(scores), reverse=True):
        hits, alarms = (int((scores[labels == label] >= value).sum()) for label in (1, 0))
        recall, f1 = hits / positives, 2 * hits / (hits + alarms + positives)
        found = {"recall": recall, "f1": f1, "balanced_accuracy": (recall + 1 - alarms / negatives) / 2}
        shares = [((hits + 1) / (positives + 2), positives), ((alarms + 1) / (negatives + 2), negatives)]
        error = 0.5 * sum(share * (1 - share) / cases for share, cases in shares) ** 0.5
        # Wilson's lower bound is the smallest recall that a score test does not reject.
        surely = recall >= target and (recall - target) ** 2 * positives >= Z**2 * target * (1 - target)
        tried.append((value, found, errors * error if rule == "recall" else 0.0, surely))
    if rule == "recall":
        certain = [row for row in tried if row[3]]
        tried = certain or [row for row in tried if row[1]["recall"] >= target]
    key = "f1" if rule == "f1" else "balanced_accuracy"
    merits = np.round([found[key] for _, found, _, _ in tried], 12)
    best = len(merits) - 1 - int(merits[::-1].argmax())
    return min(
        row[0] for row, merit in zip(tried, merits, strict=True) if merit >= merits[best] - tried[best][2] - 1e-12
    )


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10_000), rule=st.sampled_from(["recall", "f1"]), target=st.sampled_from([0.5, 0.8, 0.99]),
    errors=st.sampled_from([0.0, 1.0, 2.0]),
)  # fmt: skip
def test_the_threshold_is_the_one_brute_force_finds(seed: int, rule: str, target: float, errors: float) -> None:
    generator = np.random.default_rng(seed)
    labels = np.arange(60) % 2
    scores = np.round(1 / (1 + np.exp(-generator.normal(2.5 * (labels - 0.5)))), 2)
    aims = {"target_recall": target, "standard_errors": errors}
    decision = choose(labels, scores, rule=rule, **aims)
    expected = brute_force(labels, scores, rule, target, errors)
    np.testing.assert_array_equal(scores >= decision.threshold, scores >= expected)
    assert decision.point is not None
    assert decision.point.recall == (scores[labels == 1] >= expected).mean()


def test_recall_that_comes_easily_costs_no_specificity() -> None:
    """Nearly separable scores: among the many thresholds of recall 0.99 balance decides."""
    generator = np.random.default_rng(2)
    labels = np.arange(3000) % 2
    scores = 1 / (1 + np.exp(-generator.normal(10 * (labels - 0.5))))
    decision = choose(labels, scores, rule="recall", resamples=200)
    point = decision.point
    assert point is not None
    assert point.reached
    assert point.recall_low >= 0.99
    assert point.specificity >= 0.999
    assert point.threshold_low is not None
    assert point.threshold_low <= decision.threshold <= point.threshold_high
    assert "for a recall of 0.99" in point.describe()


def test_a_target_out_of_reach_is_reported() -> None:
    labels = np.arange(200) % 2
    scores = np.where(labels == 1, 0.9, 0.1)
    decision = choose(labels, scores, rule="recall")
    point = decision.point
    assert point is not None
    assert point.reached is False
    assert "; to be sure of 0.99 takes 381 positive validation images, 281 more" in point.describe()
    assert (point.recall, point.specificity) == (1.0, 1.0)  # perfect on what there is, all the same
    assert decision.threshold is not None
    assert 0.1 < decision.threshold < 0.9


def test_the_target_is_sure_only_if_enough_groups_show_it() -> None:
    """1,479 positive patches of 17 photos, all found: as sure as 17 of 17, not as 1,479 of 1,479."""
    groups = np.repeat(np.arange(34), 87)
    labels = groups % 2
    scores = np.where(labels == 1, 0.9, 0.1)
    decision = thresholds.choose_threshold(labels == 1, scores, rule="recall", groups=groups, resamples=0)
    point = decision.point
    assert point is not None
    assert (point.reached, point.images, point.groups, point.needed) == (False, 1479, 17, 381)
    assert point.recall_low == pytest.approx(17 / (17 + 2.1199**2), abs=1e-4)  # Wilson's, by Student's quantile
    assert "1,479 positives in 17 groups (few groups)" in point.describe()
    assert "takes 381 groups of positive validation images, 364 more" in point.describe()
    assert (point.recall, point.specificity) == (1.0, 1.0)
    many = np.repeat(np.arange(800), 87)
    sure = thresholds.choose_threshold(many % 2 == 1, 0.8 * (many % 2), rule="recall", groups=many, resamples=0).point
    assert sure is not None
    assert sure.reached


def test_missing_more_never_makes_a_recall_surer() -> None:
    """Misses at a high threshold show that errors do not cluster, which holds at the thresholds below it."""
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(200), 87)
    labels = groups % 2
    scores = 1 / (1 + np.exp(-generator.normal(7 * (labels - 0.5))))
    decided = [
        thresholds.choose_decision(
            Predictions(labels, np.column_stack([0 * scores, np.log(scores / (1 - scores))]), ["0", "1"], 1, groups,
                        np.full(len(labels), "val")),
            threshold=threshold, **PLAIN,
        ).point
        for threshold in (0.01, 0.1, 0.3, 0.5)
    ]  # fmt: skip
    bounds = [point.recall_low for point in decided if point is not None]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > 0.99  # though 0.01 finds all, which by itself is as sure as 100 of 100


def predicted(scores: np.ndarray, labels: np.ndarray, positive: int | None) -> Predictions:
    count, classes = scores.shape
    names = [str(index) for index in range(classes)]
    return Predictions(labels, scores, names, positive, np.arange(count), np.full(count, "val"))


def test_a_given_threshold_is_kept_and_measured() -> None:
    scores, labels = logits(3, 500, 1.0)
    found = thresholds.choose_decision(predicted(scores, labels, 1), threshold=0.3, **PLAIN)  # type: ignore[arg-type]
    assert found.point is not None
    assert (found.temperature, found.threshold, found.point.rule) == (1.0, 0.3, "given")
    assert found.chosen.startswith("as given: on validation recall ")
    shared = thresholds.choose_decision(predicted(scores, labels, 1), threshold=0.3, rule="share", **PLAIN)  # type: ignore[arg-type]
    assert shared.chosen == found.chosen.replace("as given", "for the share of positives on the labelled surface")
    inside = softmax(scores.astype(float), axis=1)[labels == 1, 1]
    assert found.point.recall == pytest.approx((inside >= 0.3).mean())


def test_a_threshold_and_a_band_need_a_positive_class() -> None:
    scores, labels = logits(4, 90, 1.0, classes=3)
    assert thresholds.choose_decision(predicted(scores, labels, None), threshold="recall", **PLAIN).point is None  # type: ignore[arg-type]
    with pytest.raises(DecisionError, match=r"decision.threshold refers to the positive class"):
        thresholds.choose_decision(predicted(scores, labels, None), threshold=0.3, **PLAIN)  # type: ignore[arg-type]
    with pytest.raises(DecisionError, match=r"decision.abstain refers to the positive class"):
        thresholds.choose_decision(predicted(scores, labels, None), threshold="f1", **(PLAIN | {"abstain": [0.2, 0.8]}))  # type: ignore[arg-type]


def test_a_diverged_training_is_reported() -> None:
    diverged = predicted(np.array([[0.0, np.nan], [1.0, 0.0]]), np.array([0, 1]), 1)
    with pytest.raises(DecisionError, match="the training diverged"):
        thresholds.choose_decision(diverged, threshold="recall", **PLAIN)  # type: ignore[arg-type]


def test_the_bundle_decides_with_threshold_and_band() -> None:
    bundle = Bundle(
        ["cracked", "sound"], "cracked", 8, "", "", {}, {}, decision=Decision(threshold=0.4, abstain=[0.3, 0.6])
    )
    crack = np.array([0.29, 0.3, 0.5, 0.6, 0.9])
    found = bundle.decide(np.column_stack([crack, 1 - crack]))
    assert found == ["sound", CANNOT_TELL, CANNOT_TELL, "cracked", "cracked"]
    bundle.decision = Decision(threshold=0.4)
    assert bundle.decide(np.column_stack([crack, 1 - crack])) == ["sound", "sound", "cracked", "cracked", "cracked"]


def test_few_sound_photos_are_flagged_and_small_cracks_are_found() -> None:
    generator = np.random.default_rng(1)
    positives = np.arange(6000) < 2000
    scores = np.where(positives, generator.normal(6, 2, 6000), -6 + generator.gumbel(0, 1.5, 6000))
    rule = thresholds.choose_photo_rule(positives, scores, least=-1.0, sound_flagged=0.05)
    assert rule is not None
    assert rule.single == sorted(rule.single)  # the more tiles, the higher the highest of sound ones
    assert rule.single[0] == rule.pair[0] == -1.0
    for width, height in ((1, 1), (6, 4), (18, 14), (40, 30)):
        sound = -6 + generator.gumbel(0, 1.5, (2000, height, width))
        assert np.mean([rule.is_positive(photo) for photo in sound]) <= 0.05
        if 24 <= width * height <= 252:
            sound[:, 2, 2:5] = generator.normal(6, 2, (2000, 3))
            assert np.mean([rule.is_positive(photo) for photo in sound]) > 0.95
    assert rule.recall[0][-1] < rule.recall[1][-1] <= rule.recall[2][-1]
    assert rule.recall[1][:2] == [None, None]
    assert "recall, 3 neighbouring cracked tiles" in rule.describe("cracked")
    assert thresholds.choose_photo_rule(np.arange(60) < 30, scores[:60], least=0.0, sound_flagged=0.05) is None


def test_the_photo_rule_survives_saving_and_is_dropped_with_another_threshold() -> None:
    scores, labels = logits(3, 400, 1.0)
    settings = {**PLAIN, "threshold": 0.3}
    assert thresholds.choose_decision(predicted(scores, labels, 1), **settings).photo is None  # no model is saved
    chosen = thresholds.choose_decision(predicted(scores, labels, 1), **{**settings, "resamples": 10})
    assert chosen.photo is not None
    assert min(chosen.photo.single + chosen.photo.pair) >= np.log(0.3 / 0.7) - 1e-9
    assert Decision.of(json.loads(json.dumps(chosen.values()))) == chosen
    assert chosen.at(0.5).photo is None
