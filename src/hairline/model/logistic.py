"""Logistic regression on features: fit to convergence by L-BFGS (Liu & Nocedal 1989), and refit near a base head.

On frozen features the head's problem is convex: its solution depends on neither a learning rate nor a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize
from scipy.special import log_softmax, softmax
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits

# The prior of a refit: deviations of the factor on the base's scores from 1, and of the shift of a logit from 0. Its
# tails are long (pseudo-Huber): a surface on which the base calls everything cracked needs a shift of many deviations.
SCALE_DEVIATION, OFFSET_DEVIATION = 0.12, 0.15
LEAST_SCALE = 0.1  # of the base's scores: a few misleading labels could turn a correction alone around
# Penalties on the correction of the features, per standardised feature: from nearly free to none at all.
STRENGTHS = tuple(10.0**power for power in np.arange(-4.0, 2.0))
FEW = 30  # with fewer labelled images, features are centred as the base's were
BASE_IMAGES = 50  # the base's deviation of a feature counts as that of so many images
MOST_ORIENTED = 1000  # images that are fitted in all orientations; of more, each is fitted as it is
MOST_DIRECTIONS = 256  # of largest variance, in which the features may be corrected
NEGLIGIBLE = 8.0  # log likelihood below the best penalty's from which on weaker ones are not tried
FOLDS = 10
# The base is kept if the mean recall of its answers is below this (0.5 is chance), or if the covariance of its scores
# with the labels is this many standard errors below 0.
CONTRADICTED, REVERSED = 0.2, 2.5

Table = NDArray[np.float64]


@dataclass(frozen=True)
class Solution:
    """A fitted dense softmax layer.

    Attributes:
        kernel: float64 [width, classes].
        bias: float64 [classes].
        scale: Factor of the base's scores; 0 without a base.
    """

    kernel: Table
    bias: Table
    scale: float

    def logits(self, table: NDArray[Any], base: Table | None = None) -> Table:
        """Return the logits, float64 [n, classes], of features [n, width] and the base's scores."""
        logits = np.asarray(table @ self.kernel.astype(table.dtype), np.float64) + self.bias
        return logits if base is None else logits + self.scale * base


def fit(
    table: NDArray[Any],
    targets: NDArray[Any],
    weights: NDArray[Any],
    penalty: float,
    *,
    base: Table | None = None,
    evidence: float = 1.0,
    start: Solution | None = None,
    iterations: int = 15_000,
    on_iteration: Callable[[Solution, Table], None] | None = None,
) -> Solution:
    """Minimise the weighted mean cross entropy plus an L2 penalty, `penalty / 2 * sum(kernel ** 2)`.

    With a base, its scores are added, times a factor of at least `LEAST_SCALE` that is fitted as well. Factor and bias
    are pulled towards the base as it is, 1 and 0, by a pseudo-Huber penalty: quadratic nearby, linear beyond one
    deviation.

    Args:
        table: Features [n, width], float32 or float64; products with them have the same precision.
        targets: Probability of each class [n, classes]; rows sum to 1.
        weights: Sample weights [n].
        penalty: At least 0.
        base: The base's scores, float64 [n, classes].
        evidence: Number of images that the rows are worth against the prior.
        start: Initial solution; None for zeros, with the base's scores unscaled.
        iterations: Maximum number of iterations.
        on_iteration: Called after each iteration with the solution and the logits of the table's rows.
    """
    width, classes = table.shape[1], targets.shape[1]
    share = (weights / weights.sum()).astype(np.float64)[:, None]
    # Softmax ignores a constant added to all classes, so the kernel's rows sum to 0 at the minimum. In this subspace,
    # which has one dimension less, two classes need only a product of matrix and vector.
    basis = linalg.helmert(classes).T  # orthonormal [classes, classes - 1]
    prior = np.eye(1, classes)[0]  # of the scale, and the bias in the basis
    deviations = np.array([SCALE_DEVIATION, *[OFFSET_DEVIATION] * (classes - 1)])
    cached: tuple[Table, Table] | None = None  # last parameters and their logits

    def parts(parameters: Table) -> tuple[float, Table, Table]:
        kernel = parameters[classes:].reshape(width, classes - 1)
        return (0.0 if base is None else float(parameters[0])), basis @ parameters[1:classes], kernel

    def compute_logits(parameters: Table) -> Table:
        nonlocal cached
        if cached is None or not np.array_equal(cached[0], parameters):
            scale, bias, kernel = parts(parameters)
            logits = (table @ kernel.astype(table.dtype)).astype(np.float64) @ basis.T + bias
            cached = parameters.copy(), logits if base is None else logits + scale * base
        return cached[1]

    def objective(parameters: Table) -> tuple[float, Table]:
        scale, _, kernel = parts(parameters)
        log_probabilities = log_softmax(compute_logits(parameters), axis=1)
        loss = -float(np.sum(share * targets * log_probabilities))
        loss += penalty / 2 * float(np.sum(kernel**2))
        gradient = share * (np.exp(log_probabilities) - targets)
        scale_gradient = 0.0 if base is None else float(np.sum(gradient * base))
        gradient = gradient @ basis
        kernel_gradient = (table.T @ gradient.astype(table.dtype)).astype(np.float64) + penalty * kernel
        total = np.concatenate([[scale_gradient], gradient.sum(axis=0), kernel_gradient.ravel()])
        if base is not None:
            distance = (parameters[:classes] - prior) / deviations
            length = np.sqrt(1 + distance**2)
            loss += float(np.sum(length - 1)) / evidence
            total[:classes] += distance / length / deviations / evidence
        return loss, total

    def solution(parameters: Table) -> Solution:
        scale, bias, kernel = parts(parameters)
        return Solution(kernel @ basis.T, bias, scale)

    def callback(parameters: Table) -> None:
        if on_iteration is not None:
            on_iteration(solution(parameters), compute_logits(parameters))

    initial = np.zeros(classes + width * (classes - 1))
    initial[0] = base is not None
    if start is not None:
        initial = np.concatenate([[start.scale], basis.T @ start.bias, (start.kernel @ basis).ravel()])
    options = {"maxiter": iterations}
    bounds = None if base is None else [(LEAST_SCALE, None), *[(None, None)] * (len(initial) - 1)]
    result = optimize.minimize(
        objective, initial, jac=True, method="L-BFGS-B", bounds=bounds, options=options, callback=callback
    )
    return solution(result.x)


@dataclass(frozen=True)
class Refit:
    """A refitted head on unstandardised features.

    Attributes:
        kernel: float64 [width, classes].
        bias: float64 [classes].
        scale: Factor of the base's scores, from `LEAST_SCALE`.
        held_out: Out-of-fold logits of the images themselves, float64 [n, classes].
        kept: Nearly all labels contradict the base or its ranking, or a class has none, so the base is kept as it is.
    """

    kernel: Table
    bias: Table
    scale: float
    held_out: Table
    kept: bool


def refit(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    groups: Sequence[object],
    *,
    kernel: NDArray[Any],
    bias: NDArray[Any],
    mean: NDArray[np.float32],
    deviation: NDArray[np.float32],
    seed: int,
    views: NDArray[np.float32] | None = None,
) -> Refit:
    """Refit a head to a few labelled images by logistic regression with a prior around the base head.

    The logits are those of the base head times a factor of at least `LEAST_SCALE`, plus an offset and a correction that
    is linear in standardised features. All three are pulled towards the base as it is (1, 0, 0). How far the last one
    may go is not decided: the heads of all `STRENGTHS` are averaged, weighted by their out-of-fold likelihood
    (pseudo-Bayesian model averaging, Geisser & Eddy 1979). Classes are balanced (see `balance`). Further views of an
    image are fitted as well, with the base's score of the image itself; all views of an image together count as one.

    Features are standardised as they vary among the labelled images, since another surface varies in other features
    than the base's images do; with few labels the base's statistics count for more.

    Labels that are chosen because the base is wrong about them are no sample of the surface: a fit to them would turn
    the base's ranking around. If nearly all contradict it, or rank the other way round, the base is kept.

    Args:
        features: float32 [n, width].
        labels: int64 [n].
        groups: Group of each image; a group is held out as a whole.
        kernel: The base head's kernel for unstandardised features, float [width, classes].
        bias: float [classes]; the class of the highest logit is the base's answer.
        mean: Mean of the base's training features, float32 [width].
        deviation: float32 [width].
        seed: Seed of the folds.
        views: Features of further views of the images, such as mirror images, float32 [views, n, width].
    """
    images, classes = len(labels), bias.size
    base = features.astype(np.float64) @ kernel + bias
    counts = np.bincount(labels, minlength=classes)
    if not counts.all() or _contradicted(base, labels):
        return Refit(np.asarray(kernel, np.float64), np.asarray(bias, np.float64), 1.0, base, kept=True)
    folds = _folds(labels, groups, seed)
    count = 1 if views is None else 1 + len(views)
    if views is not None:
        features = np.concatenate([features, *views])
        # The base's scores stay those of the images themselves. Images may have been chosen for these scores, such as
        # the least certain ones; the scores of other views would then seem to say nothing about the class.
        base = np.tile(base, (count, 1))
        labels, folds = np.tile(labels, count), np.tile(folds, count)
    # The matrices are so small that threads of the linear algebra library cost far more than they save.
    with threadpool_limits(1, user_api="blas"):
        centre, unit = _standardisation(features, images, mean, deviation)
        table = (features - centre) / unit / np.sqrt(features.shape[1])
        # The correction lies in the span of the images, so as many columns suffice, whatever the width. Features hardly
        # vary beyond the first directions: without the others the fit is as good, and several times faster.
        if min(table.shape) > MOST_DIRECTIONS:
            left, values, right = randomized_svd(table, MOST_DIRECTIONS, n_iter=2, random_state=0)
        else:
            left, values, right = np.linalg.svd(table, full_matrices=False)
        reduced = (left * values).astype(np.float32)
        targets = np.eye(classes)[labels]

        def solve(rows: NDArray[np.int64], strength: float, start: Solution | None) -> Solution:
            weights = balance(labels[rows], classes) / count
            return fit(
                reduced[rows], targets[rows], weights, strength, base=base[rows], evidence=weights.sum(), start=start
            )

        everything = np.arange(len(labels))
        likelihoods, held_out = [], []
        solutions: list[Solution] = []
        starts: dict[int, Solution] = {}
        for strength in reversed(STRENGTHS):  # each solution is the start for the next weaker strength
            logits = np.empty_like(base)
            for fold in np.unique(folds):
                rows, others = everything[folds == fold], everything[folds != fold]
                if len(np.unique(labels[others])) < classes:
                    logits[rows] = base[rows]
                    continue
                starts[fold] = solve(others, strength, starts.get(fold))
                logits[rows] = starts[fold].logits(reduced[rows], base[rows])
            solutions.append(solve(everything, strength, solutions[-1] if solutions else None))
            held_out.append(logits[:images])
            likelihoods.append(log_softmax(logits, axis=1)[everything, labels] @ balance(labels, classes) / count)
            if likelihoods[-1] < max(likelihoods) - NEGLIGIBLE:
                break
        shares = softmax(likelihoods)
        scale, change, offset, logits = (
            np.tensordot(shares, values, axes=1)
            for values in (
                [solution.scale for solution in solutions],
                [solution.kernel for solution in solutions],
                [solution.bias for solution in solutions],
                held_out,
            )
        )
        change = (right.T @ change) / unit[:, None] / np.sqrt(features.shape[1])
    return Refit(scale * kernel + change, scale * bias + offset - centre @ change, float(scale), logits, kept=False)


def _standardisation(
    features: NDArray[np.float32], images: int, mean: NDArray[np.float32], deviation: NDArray[np.float32]
) -> tuple[Table, Table]:
    """Return mean and deviation of the features of so many images.

    With fewer than `FEW` images the mean is the base's. Its deviation counts as that of `BASE_IMAGES` more images.
    """
    centre = mean.astype(np.float64) if images < FEW else features.mean(axis=0, dtype=np.float64)
    variance = images * features.var(axis=0, dtype=np.float64) + BASE_IMAGES * np.square(deviation, dtype=np.float64)
    return centre, np.sqrt(variance / (images + BASE_IMAGES))


def balance(labels: NDArray[np.int64], classes: int) -> Table:
    """Return weights by which the classes, which all occur, count the same, float64 [n].

    Their sum is the number of images they are worth: n for equal classes, and less than `classes ** 2` times the
    smallest class, so that ninety-nine images of one class and one of the other are weak evidence against a prior.

    >>> balance(np.array([0, 0, 0, 1]), 2).round(2).tolist()
    [0.5, 0.5, 0.5, 1.5]
    """
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    total = classes**2 / np.sum(1 / counts)
    return np.asarray(total / (classes * counts[labels]))


def _contradicted(logits: Table, labels: NDArray[np.int64]) -> bool:
    """Return whether a base is wrong about nearly all labels, or ranks them the other way round beyond chance."""
    weights = balance(labels, logits.shape[1])
    weights = weights / weights.sum()
    recall = weights @ (logits.argmax(axis=1) == labels)
    centred = logits - weights @ logits
    # Each image's share in the covariance of logits and labels.
    agreement = (centred - centred.mean(axis=1, keepdims=True))[np.arange(len(labels)), labels]
    mean = weights @ agreement
    error = np.sqrt(np.square(weights * (agreement - mean)).sum())
    return bool(recall < CONTRADICTED or mean < -REVERSED * error)


def _folds(labels: NDArray[np.int64], groups: Sequence[object], seed: int) -> NDArray[np.int64]:
    """Return each image's fold, stratified by class; at most `FOLDS`, fewer if there are fewer groups."""
    _, group = np.unique(np.array(groups, dtype=str), return_inverse=True)
    members = [np.flatnonzero(group == number) for number in range(group.max() + 1)]
    order = np.random.default_rng([seed, 0xF01D]).permutation(len(members))
    counts = np.zeros((min(FOLDS, len(members)), int(labels.max()) + 1))
    folds = np.empty(len(labels), np.int64)
    for number in order[np.argsort([-len(members[number]) for number in order], kind="stable")]:
        rows = members[number]
        added = np.bincount(labels[rows], minlength=counts.shape[1])
        folds[rows] = np.lexsort((counts.sum(axis=1), counts @ (added > 0)))[0]
        counts[folds[rows[0]]] += added
    return folds
