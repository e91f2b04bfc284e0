"""Choose how probabilities become answers, on validation images only: the temperature and the threshold."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logit, softmax

from hairline.evaluation import intervals, prevalence
from hairline.evaluation.metrics import Ranking
from hairline.model.decision import Decision, DecisionError, OperatingPoint, PhotoRule, highest_pair
from hairline.model.predictions import Predictions

Rule = Literal["recall", "f1", "given", "even", "share"]
RESAMPLES = 500
_TEMPERATURES = (0.02, 50.0)
PHOTO_TILES = [1, 2, 4, 9, 24, 63, 252, 1008]  # a 12-megapixel photo has 252 tiles of 227 pixels
CRACKED_TILES = [1, 3, 10]
_PHOTOS = 1000  # composed for each number of tiles
_TAIL = 0.05  # share of the highest scores that an exponential distribution replaces
_LOST = 0.005  # share of cracks of three tiles that pairs may lose
_LEAST_TAIL = 5  # scores; fewer than this say nothing about the tail


def choose_decision(
    predictions: Predictions,
    *,
    threshold: float | str,
    target_recall: float,
    standard_errors: float,
    calibration: Literal["temperature", "none"],
    abstain: list[float] | None,
    sound_photos_flagged: float,
    rule: Rule = "given",
    resamples: int = RESAMPLES,
) -> Decision:
    """Choose temperature and threshold, and when a photo of several tiles is positive.

    Args:
        predictions: Predictions of validation images, which took no part in training.
        threshold: `recall`, `f1`, or the probability itself.
        target_recall: Target of `threshold=recall`.
        standard_errors: How many standard errors the balanced accuracy may lie below its best.
        calibration: Whether a temperature is fitted.
        abstain: Lowest and highest probability between which the answer is "cannot tell".
        sound_photos_flagged: Share of sound photos that may be called positive.
        rule: Where a numeric threshold comes from.
        resamples: Bootstrap resamples of the threshold's interval; 0: neither an interval nor a rule for photos, which
            only a saved model needs.

    Raises:
        DecisionError: If an abstain band or a numeric threshold is given without a positive class, or the training
            diverged.
    """
    positive = predictions.positive
    if positive is None and (abstain is not None or not isinstance(threshold, str)):
        key = "abstain" if abstain is not None else "threshold"
        raise DecisionError(
            f"decision.{key} refers to the positive class, and none is known here: set data.positive_class to one of "
            f"two classes, or leave decision.{key} out"
        )
    if not np.isfinite(predictions.logits).all():
        raise DecisionError(
            "the model's outputs are not finite (nan or infinite): the training diverged. Lower learning_rate"
        )
    logits, labels = predictions.logits.astype(np.float64), predictions.labels
    temperature = fit_temperature(logits, labels) if calibration == "temperature" else 1.0
    if positive is None:
        return Decision(temperature=temperature)
    positives, scores = labels == positive, softmax(logits / temperature, axis=1)[:, positive]
    if isinstance(threshold, str):
        decision = choose_threshold(
            positives,
            scores,
            rule="recall" if threshold == "recall" else "f1",
            target_recall=target_recall,
            standard_errors=standard_errors,
            groups=predictions.groups,
            resamples=resamples,
        )
    else:
        decision = _measured(positives, scores, float(threshold), groups=predictions.groups, rule=rule)
    decision = replace(decision, temperature=temperature, abstain=abstain)
    if not resamples:
        return decision
    log_odds = prevalence.margin(logits / temperature, positive)
    least = float(logit(max(decision.threshold or 0.0, *(abstain or [0.0])[-1:])))
    photo = choose_photo_rule(positives, log_odds, least=least, sound_flagged=sound_photos_flagged)
    return replace(decision, photo=photo)


def fit_temperature(logits: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """Return the temperature of the lowest log loss (Guo et al. 2017, "On calibration of modern neural networks", 4.2).

    The targets are Platt's (1999, "Probabilistic outputs for support vector machines", 2.2): slightly off 0 and 1,
    depending on the number of images. With targets of 0 and 1, a validation set without errors would ask for a
    temperature of zero.

    Args:
        logits: float [n, classes] of images that took no part in training.
        labels: Their classes, int64 [n].

    Returns:
        The divisor of the logits; above 1 for an overconfident model.

    >>> generator = np.random.default_rng(0)
    >>> labels = generator.integers(0, 2, 20_000)
    >>> logits = np.stack([np.zeros(20_000), generator.normal(2.0 * labels - 1.0)], axis=1)  # true log odds: twice that
    >>> round(fit_temperature(logits, labels), 1)
    0.5
    """
    classes = logits.shape[1]
    counts = np.bincount(labels, minlength=classes)
    certainty = (counts + 1) / (counts + 2)
    targets = np.repeat(((1 - certainty) / (classes - 1))[:, None], classes, axis=1)
    np.fill_diagonal(targets, certainty)
    targets, logits = targets[labels], logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        return float(-(targets * log_softmax(logits / np.exp(log_temperature), axis=1)).sum(axis=1).mean())

    bounds = tuple(np.log(_TEMPERATURES))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x))


def groups_needed(target_recall: float) -> int:
    """Return the number of groups of positive images, all found, whose recall has a lower bound that meets a target.

    >>> groups_needed(0.99)
    381
    """
    # Wilson's lower bound of n out of n is n / (n + z^2); few groups take more (Student's quantile).
    groups = math.ceil(target_recall / (1 - target_recall) * intervals.Z**2)
    while intervals.of_cases(1.0, groups).low < target_recall:
        groups += 1
    return groups


def choose_threshold(
    positives: NDArray[np.bool_],
    scores: NDArray[np.float64],
    *,
    rule: Literal["recall", "f1"],
    target_recall: float = 0.99,
    standard_errors: float = 1.0,
    groups: NDArray[np.object_],
    resamples: int = RESAMPLES,
) -> Decision:
    """Choose a threshold.

    `recall`: of the thresholds whose recall has a 95 % lower bound that meets the target, the lowest whose
    balanced accuracy is within `standard_errors` of the best (with 1, the rule of Breiman et al. 1984, *CART*): the
    images cannot separate them, a missed crack costs more than a false alarm, and scores are lower on other surfaces.
    If no lower bound meets the target, the choice is among the thresholds whose recall itself does, and `reached` is
    False. `f1`: the threshold of the highest F1, the lowest of equals. A threshold lies half way to the next lower
    score, so that rounding cannot cross it.

    Args:
        positives: Whether each image is positive, [n]; both must occur.
        scores: Probability of the positive class, [n].
        rule: See above.
        target_recall: Below 1.
        standard_errors: From 0, which takes the best itself.
        groups: Group of each image: the bound counts them, and the bootstrap draws them whole.
        resamples: Bootstrap resamples of the threshold's interval; 0: no interval.
    """
    ranking = Ranking(positives, scores)
    candidates = (ranking.thresholds + np.append(ranking.thresholds[1:], 0.0)) / 2
    counts = ranking.counts(np.ones((1, len(scores)), np.float32))
    lower_bounds = _recall_bounds(positives, scores, groups)[counts[0][0].astype(np.int64)]
    target, least, reached = None, None, None
    if rule == "recall":
        recall, target = counts[0][0] / counts[0][0, -1], target_recall
        reached = bool((lower_bounds >= target_recall).any())
        least = float(recall[lower_bounds >= target_recall].min()) if reached else target_recall
    best = _best(*counts, least, standard_errors)[0]

    def thresholds(weights: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
        true_positives, false_positives = ranking.counts(weights)
        both = (true_positives[:, -1] > 0) & (false_positives[:, -1] > 0)
        return {"threshold": candidates[_best(true_positives[both], false_positives[both], least, standard_errors)]}

    interval: tuple[float | None, float | None] = (None, None)
    if resamples:
        drawn = intervals.bootstrap(thresholds, groups, resamples=resamples)["threshold"]
        low, high = np.quantile(drawn, intervals.ENDS)
        interval = float(low), float(high)
    return _measured(
        positives,
        scores,
        float(candidates[best]),
        groups=groups,
        rule=rule,
        target_recall=target,
        reached=reached,
        interval=interval,
    )


def _recall_bounds(
    positives: NDArray[np.bool_], scores: NDArray[np.float64], groups: NDArray[np.object_]
) -> NDArray[np.float64]:
    """Return the lower bound of the recall with 0, 1, ... of the positive images found, float64 [positives + 1].

    A lower threshold finds all that a higher one finds, so the bound never falls. What the misses at a higher threshold
    show, namely how they spread over the groups, holds at lower ones too, up to a perfect result that shows nothing.
    """
    order = np.argsort(-scores[positives], kind="stable")
    ordered = scores[positives][order]
    bounds = intervals.bounds_as_found(intervals.number(groups[positives])[order])
    # No threshold divides equal scores.
    bounds[1:-1][ordered[:-1] == ordered[1:]] = 0.0
    return np.maximum.accumulate(bounds)


def choose_photo_rule(
    positives: NDArray[np.bool_], log_odds: NDArray[np.float64], *, least: float, sound_flagged: float
) -> PhotoRule | None:
    """Choose from which scores on a photo of several tiles is positive.

    Photos are composed of tiles of sound images, drawn with replacement. No score is observed above the highest one, so
    the upper tail is drawn from an exponential distribution of the same mean (peaks over threshold; Pickands 1975).
    Single tiles and pairs may each flag a quarter of `sound_flagged`: the rest is a reserve for photos that are harder
    than the validation images. Pairs are held to the highest score that still finds nearly all cracks of three tiles.
    Then photos with a few neighbouring tiles of positive images are composed, for the recall.

    Args:
        positives: Whether each validation image is positive, [n].
        log_odds: Of the positive class, float [n].
        least: Log odds of the tile's own threshold: neither may lie below it.
        sound_flagged: Share of sound photos that may be positive.

    Returns:
        None where there are too few sound images for a tail.
    """
    sound, cracked = np.sort(log_odds[~positives]), log_odds[positives]
    tail = int(_TAIL * len(sound))
    if tail < _LEAST_TAIL:
        return None
    generator = np.random.default_rng(0)
    start = sound[-tail - 1]
    # One standard error above the estimate: an underestimated tail would flag more photos than promised.
    excess = float((sound[-tail:] - start).mean()) * (1 + tail**-0.5)

    def draw(count: int) -> NDArray[np.float64]:
        scores = sound[generator.integers(0, len(sound), count)]
        return np.where(scores > start, start + generator.exponential(max(excess, 1e-9), count), scores)

    triples = cracked[generator.integers(0, len(cracked), (_PHOTOS * 10, 1, 3))]
    enough = float(np.quantile(highest_pair(triples), _LOST))
    columns: dict[str, list[Any]] = {"single": [], "pair": [], "sound_flagged": []}
    recall: list[list[float | None]] = [[] for _ in CRACKED_TILES]
    for tiles in PHOTO_TILES:
        width = math.ceil(math.sqrt(tiles))
        shape = -(-tiles // width), width
        photos = draw(_PHOTOS * shape[0] * width).reshape(_PHOTOS, *shape)
        highest, pairs = photos.max(axis=(1, 2)), highest_pair(photos)
        if tiles == 1:
            single = pair = max(least, float(np.quantile(highest, 1 - sound_flagged)))
        else:
            limits = np.quantile([highest, pairs], 1 - sound_flagged / 4, axis=1)
            single, pair = max(least, float(limits[0])), max(least, float(limits[1]), enough)
        columns["single"].append(single)
        columns["pair"].append(pair)
        columns["sound_flagged"].append(float(((highest >= single) | (pairs >= pair)).mean()))
        for row, count in zip(recall, CRACKED_TILES, strict=True):
            if count > tiles:
                row.append(None)
                continue
            # A straight crack: neighbours along a row, on to the next one where the photo is narrower.
            marked = photos.reshape(_PHOTOS, -1).copy()
            marked[:, :count] = cracked[generator.integers(0, len(cracked), (_PHOTOS, count))]
            marked = marked.reshape(photos.shape)
            found = (marked.max(axis=(1, 2)) >= single) | (highest_pair(marked) >= pair)
            row.append(float(found.mean()))
    return PhotoRule(tiles=PHOTO_TILES, cracked_tiles=CRACKED_TILES, recall=recall, **columns)


def _measured(
    positives: NDArray[np.bool_],
    scores: NDArray[np.float64],
    threshold: float,
    *,
    groups: NDArray[np.object_],
    rule: Rule = "given",
    target_recall: float | None = None,
    reached: bool | None = None,
    interval: tuple[float | None, float | None] = (None, None),
) -> Decision:
    """Return the decision at a threshold, with its metrics on validation."""
    called = scores >= threshold
    hits = int((positives & called).sum())
    recall = intervals.of_ratio(positives & called, positives, intervals.number(groups))
    point = OperatingPoint(
        rule=rule,
        target_recall=target_recall,
        reached=reached,
        images=int(positives.sum()),
        groups=recall.groups,
        needed=None if target_recall is None else groups_needed(target_recall),
        recall=float(called[positives].mean()),
        recall_low=float(_recall_bounds(positives, scores, groups)[hits]),
        recall_high=recall.high,
        specificity=float((~called[~positives]).mean()),
        precision=hits / max(int(called.sum()), 1),
        threshold_low=interval[0],
        threshold_high=interval[1],
    )
    return Decision(threshold=threshold, chosen=point.describe(), point=point)


def _best(
    true_positives: NDArray[Any], false_positives: NDArray[Any], least_recall: float | None, standard_errors: float
) -> NDArray[np.int64]:
    """Return the index of the threshold for each row of counts, [rows, thresholds in descending order].

    Args:
        true_positives: Counts at each threshold.
        false_positives: Counts at each threshold.
        least_recall: Only thresholds of at least this recall are candidates; None: the highest F1 wins.
        standard_errors: How many standard errors the balanced accuracy may lie below its best.
    """
    positives, negatives = true_positives[:, -1:], false_positives[:, -1:]
    if least_recall is None:
        return _last_of_highest(2 * true_positives / (true_positives + false_positives + positives))
    recall, false_rate = true_positives / positives, false_positives / negatives
    merit = np.where(recall >= least_recall, (recall - false_rate) / 2, -np.inf)
    highest = _last_of_highest(merit)[:, None]
    error = np.hypot(_standard_error(true_positives, positives), _standard_error(false_positives, negatives)) / 2
    least = np.take_along_axis(merit - standard_errors * error, highest, axis=1)
    return _last_of_highest(merit >= least)  # the lowest threshold within the standard errors of the best


def _standard_error(hits: NDArray[Any], cases: NDArray[Any]) -> NDArray[np.float64]:
    """Return the standard error of a proportion after Laplace: never 0, not even for none or all."""
    share = (hits + 1) / (cases + 2)
    return np.asarray(np.sqrt(share * (1 - share) / cases))


def _last_of_highest(merit: NDArray[Any]) -> NDArray[np.int64]:
    return np.asarray(merit.shape[1] - 1 - merit[:, ::-1].argmax(axis=1), np.int64)
