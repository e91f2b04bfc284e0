"""A dense softmax layer fitted to its minimum: logistic regression by L-BFGS (Liu & Nocedal 1989).

On frozen features the head's problem is convex: there is one answer, and neither a learning rate nor a seed in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize
from scipy.special import log_softmax

# Keeps the scale of a base's scores finite where they tell the classes apart without fault.
_SCALE_PENALTY = 1e-3

# Of the squared distance from the base head's weights, per standardised feature: from next to free to next to fixed.
STRENGTHS = tuple(10.0**power for power in np.arange(-4.0, 4.0))
FOLDS = 10  # each image or group by itself where there are no more of them

Table = NDArray[np.float64]


@dataclass(frozen=True)
class Solution:
    """A fitted layer.

    Attributes:
        kernel: float64 [width, classes].
        bias: float64 [classes].
        scale: What the base's scores are multiplied by; 0 without a base.
    """

    kernel: Table
    bias: Table
    scale: float

    def logits(self, table: NDArray[Any], base: Table | None = None) -> Table:
        """Give float64 [n, classes] of a table [n, width] and the base's scores of its rows."""
        found = (table @ self.kernel.astype(table.dtype)).astype(np.float64) + self.bias
        return found if base is None else found + self.scale * base


def fit(
    table: NDArray[Any],
    targets: NDArray[Any],
    weights: NDArray[Any],
    penalty: float,
    *,
    base: Table | None = None,
    start: Solution | None = None,
    iterations: int = 15_000,
    each: Callable[[Solution, Table], None] | None = None,
) -> Solution:
    """Minimise the weighted mean of the cross entropy, plus half the penalty times the kernel's squared entries.

    Args:
        table: Features [n, width], float32 or float64; products with it are of its precision.
        targets: Share of each class [n, classes]; rows sum to 1.
        weights: What each row counts [n].
        penalty: From 0.
        base: Scores float64 [n, classes] to which the layer's own are added, scaled by a number that is fitted too.
        start: Where to begin; None: at zero, with the base's scores as they are.
        iterations: At most.
        each: Called with what is found after each iteration, and with its logits of the table's rows.
    """
    width, classes = table.shape[1], targets.shape[1]
    share = (weights / weights.sum()).astype(np.float64)[:, None]
    # What all classes have in common changes no probability: the minimum lies in the space where a row's entries sum to
    # zero, which has one dimension less. Two classes take one product of matrix and vector.
    basis = linalg.helmert(classes).T  # orthonormal [classes, classes - 1]
    known: tuple[Table, Table] | None = None

    def parts(parameters: Table) -> tuple[float, Table, Table]:
        kernel = parameters[classes:].reshape(width, classes - 1)
        return (0.0 if base is None else float(parameters[0])), basis @ parameters[1:classes], kernel

    def scored(parameters: Table) -> Table:
        nonlocal known
        if known is None or not np.array_equal(known[0], parameters):
            scale, bias, kernel = parts(parameters)
            found = (table @ kernel.astype(table.dtype)).astype(np.float64) @ basis.T + bias
            known = parameters.copy(), found if base is None else found + scale * base
        return known[1]

    def objective(parameters: Table) -> tuple[float, Table]:
        scale, _, kernel = parts(parameters)
        logarithms = log_softmax(scored(parameters), axis=1)
        loss = -float(np.sum(share * targets * logarithms))
        loss += penalty / 2 * float(np.sum(kernel**2)) + _SCALE_PENALTY / 2 * scale**2
        slope = share * (np.exp(logarithms) - targets)
        of_scale = 0.0 if base is None else float(np.sum(slope * base)) + _SCALE_PENALTY * scale
        slope = slope @ basis
        of_kernel = (table.T @ slope.astype(table.dtype)).astype(np.float64) + penalty * kernel
        return loss, np.concatenate([[of_scale], slope.sum(axis=0), of_kernel.ravel()])

    def solution(parameters: Table) -> Solution:
        scale, bias, kernel = parts(parameters)
        return Solution(kernel @ basis.T, bias, scale)

    first = np.zeros(classes + width * (classes - 1))
    first[0] = base is not None
    if start is not None:
        first = np.concatenate([[start.scale], basis.T @ start.bias, (start.kernel @ basis).ravel()])
    found = optimize.minimize(
        objective,
        first,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": iterations},
        callback=None if each is None else lambda parameters: each(solution(parameters), scored(parameters)),
    )
    return solution(found.x)


@dataclass(frozen=True)
class Refit:
    """A head on the features as they are.

    Attributes:
        kernel: float64 [width, classes].
        bias: float64 [classes].
        strength: Of the pull towards the base head, chosen by cross-validation among `STRENGTHS`.
        losses: Cross-validated log loss of each strength, the classes weighing the same, float64 [strengths].
        held_out: Logits of each image by a head that was fitted without it, float64 [n, classes].
    """

    kernel: Table
    bias: Table
    strength: float
    losses: Table
    held_out: Table


def refit(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    groups: Sequence[object],
    *,
    kernel: NDArray[np.float32],
    bias: NDArray[np.float32],
    mean: NDArray[np.float32],
    deviation: NDArray[np.float32],
    seed: int,
) -> Refit:
    """Fit a head near a given one by penalised logistic regression.

    Its logits are those of the base head, scaled, plus a correction linear in the base's standardised features and an
    offset; the correction's squared weights are penalised (a Gaussian prior about the base head). Classes weigh the
    same whatever their numbers.

    Args:
        features: float32 [n, width].
        labels: int64 [n]; every class occurs.
        groups: Of the images; those of one group are held out together.
        kernel: The base head's, on the features as they are, float32 [width, classes].
        bias: float32 [classes].
        mean: Of the base's training features, float32 [width].
        deviation: float32 [width].
        seed: Of the division into folds.
    """
    base = features.astype(np.float64) @ kernel + bias
    table = (features - mean).astype(np.float64) / deviation / np.sqrt(features.shape[1])
    # The correction lies in the span of the images: as many numbers as there are images do, whatever the width.
    left, values, right = np.linalg.svd(table, full_matrices=False)
    short = left * values
    spread = max(float(np.sqrt(np.mean(np.square(base - base.mean(axis=1, keepdims=True))))), 1e-12)
    base_short = base / spread
    targets = np.eye(base.shape[1])[labels]
    weights = _weights(labels, base.shape[1])
    folds = _folds(labels, groups, seed)

    def solved(rows: NDArray[np.int64], strength: float, start: Solution | None) -> Solution:
        return fit(short[rows], targets[rows], weights[rows], strength, base=base_short[rows], start=start)

    everything = np.arange(len(labels))
    found: list[tuple[Table, Table]] = []
    starts: dict[int, Solution] = {}
    for strength in reversed(STRENGTHS):  # from the base head away: each solution is near the one before
        held_out = np.empty_like(base)
        for fold in np.unique(folds):
            starts[fold] = solved(everything[folds != fold], strength, starts.get(fold))
            rows = everything[folds == fold]
            held_out[rows] = starts[fold].logits(short[rows], base_short[rows])
        found.append((-log_softmax(held_out, axis=1)[everything, labels], held_out))
    losses = np.array([each for each, _ in found])
    best = _nearest_to_the_base(losses, weights)
    strength = STRENGTHS[::-1][best]
    best_fit = solved(everything, strength, None)
    scale = best_fit.scale / spread
    change = (right.T @ best_fit.kernel) / deviation[:, None] / np.sqrt(features.shape[1])
    return Refit(
        kernel=scale * kernel + change,
        bias=scale * bias + best_fit.bias - mean @ change,
        strength=strength,
        losses=(losses @ weights)[::-1],
        held_out=found[best][1],
    )


def _nearest_to_the_base(losses: Table, weights: Table) -> int:
    """Choose among strengths in descending order the first that no other betters beyond its standard error.

    With 20 images the lowest loss is often an accident (the one-standard-error rule, Breiman et al. 1984; of the
    difference image by image, which is surer than that of each loss).

    Args:
        losses: Of each strength and image, float64 [strengths, n].
        weights: Of the images; they sum to 1.
    """
    lowest = losses[np.argmin(losses @ weights)]
    for number, row in enumerate(losses):
        difference = row - lowest
        mean = float(weights @ difference)
        if mean <= float(np.sqrt(np.sum(np.square(weights * (difference - mean))))):
            return number
    raise AssertionError("the lowest loss is within its own error")


def _weights(labels: NDArray[np.int64], classes: int) -> Table:
    counts = np.bincount(labels, minlength=classes)
    return 1.0 / (classes * counts[labels].astype(np.float64))


def _folds(labels: NDArray[np.int64], groups: Sequence[object], seed: int) -> NDArray[np.int64]:
    """Hand out groups to folds, so that the classes are spread evenly."""
    _, group = np.unique(np.array(groups, dtype=str), return_inverse=True)
    members = [np.flatnonzero(group == number) for number in range(group.max() + 1)]
    order = np.random.default_rng([seed, 0xF01D]).permutation(len(members))
    counts = np.zeros((min(FOLDS, len(members)), int(labels.max()) + 1))
    folds = np.empty(len(labels), np.int64)
    for number in order[np.argsort([-len(members[number]) for number in order], kind="stable")]:
        rows = members[number]
        own = np.bincount(labels[rows], minlength=counts.shape[1])
        folds[rows] = np.lexsort((counts.sum(axis=1), counts @ (own > 0)))[0]
        counts[folds[rows[0]]] += own
    return folds
