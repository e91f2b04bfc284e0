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
from scipy.special import log_softmax

_SCALE_PENALTY = 1e-3  # bounds the scale of the base's scores if they separate the classes perfectly
# Candidate penalties on the squared distance from the base head, per standardised feature: from nearly free to fixed.
STRENGTHS = tuple(10.0**power for power in np.arange(-4.0, 4.0))
FOLDS = 10

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
    start: Solution | None = None,
    iterations: int = 15_000,
    on_iteration: Callable[[Solution, Table], None] | None = None,
) -> Solution:
    """Minimise the weighted mean cross entropy plus an L2 penalty, `penalty / 2 * sum(kernel ** 2)`.

    Args:
        table: Features [n, width], float32 or float64; products with them have the same precision.
        targets: Probability of each class [n, classes]; rows sum to 1.
        weights: Sample weights [n].
        penalty: At least 0.
        base: Scores float64 [n, classes] added to the layer's own, times a scale that is fitted as well.
        start: Initial solution; None for zeros, with the base's scores unscaled.
        iterations: Maximum number of iterations.
        on_iteration: Called after each iteration with the solution and the logits of the table's rows.
    """
    width, classes = table.shape[1], targets.shape[1]
    share = (weights / weights.sum()).astype(np.float64)[:, None]
    # Softmax ignores a constant added to all classes, so the kernel's rows sum to 0 at the minimum. In this subspace,
    # which has one dimension less, two classes need only a product of matrix and vector.
    basis = linalg.helmert(classes).T  # orthonormal [classes, classes - 1]
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
        loss += penalty / 2 * float(np.sum(kernel**2)) + _SCALE_PENALTY / 2 * scale**2
        gradient = share * (np.exp(log_probabilities) - targets)
        scale_gradient = 0.0 if base is None else float(np.sum(gradient * base)) + _SCALE_PENALTY * scale
        gradient = gradient @ basis
        kernel_gradient = (table.T @ gradient.astype(table.dtype)).astype(np.float64) + penalty * kernel
        return loss, np.concatenate([[scale_gradient], gradient.sum(axis=0), kernel_gradient.ravel()])

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
    result = optimize.minimize(objective, initial, jac=True, method="L-BFGS-B", options=options, callback=callback)
    return solution(result.x)


@dataclass(frozen=True)
class Refit:
    """A refitted head on unstandardised features.

    Attributes:
        kernel: float64 [width, classes].
        bias: float64 [classes].
        strength: Penalty on the distance from the base head, chosen by cross-validation among `STRENGTHS`.
        losses: Cross-validated log loss for each strength, with balanced classes, float64 [strengths].
        held_out: Out-of-fold logits, float64 [n, classes].
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
    """Refit a head to a few labelled images by logistic regression penalised towards the base head.

    The logits are those of the base head times a scale, plus an offset and a correction that is linear in the base's
    standardised features. The correction's squared weights are penalised (a Gaussian prior around the base head).
    Classes are balanced.

    Args:
        features: float32 [n, width].
        labels: int64 [n]; every class occurs.
        groups: Group of each image; a group is held out as a whole.
        kernel: The base head's kernel for unstandardised features, float32 [width, classes].
        bias: float32 [classes].
        mean: Mean of the base's training features, float32 [width].
        deviation: float32 [width].
        seed: Seed of the folds.
    """
    base = features.astype(np.float64) @ kernel + bias
    table = (features - mean).astype(np.float64) / deviation / np.sqrt(features.shape[1])
    # The correction lies in the span of the images, so n columns suffice, whatever the width.
    left, values, right = np.linalg.svd(table, full_matrices=False)
    reduced = left * values
    spread = max(float(np.sqrt(np.mean(np.square(base - base.mean(axis=1, keepdims=True))))), 1e-12)
    scores = base / spread
    classes = base.shape[1]
    targets = np.eye(classes)[labels]
    weights = 1.0 / (classes * np.bincount(labels, minlength=classes)[labels].astype(np.float64))
    folds = _folds(labels, groups, seed)

    def solve(rows: NDArray[np.int64], strength: float, start: Solution | None) -> Solution:
        return fit(reduced[rows], targets[rows], weights[rows], strength, base=scores[rows], start=start)

    everything = np.arange(len(labels))
    losses, held_out = [], []
    starts: dict[int, Solution] = {}
    for strength in reversed(STRENGTHS):  # each solution is the start for the next weaker strength
        logits = np.empty_like(base)
        for fold in np.unique(folds):
            starts[fold] = solve(everything[folds != fold], strength, starts.get(fold))
            rows = everything[folds == fold]
            logits[rows] = starts[fold].logits(reduced[rows], scores[rows])
        losses.append(-log_softmax(logits, axis=1)[everything, labels])
        held_out.append(logits)
    best = _strongest(np.array(losses), weights)
    strength = STRENGTHS[::-1][best]
    solution = solve(everything, strength, None)
    scale = solution.scale / spread
    change = (right.T @ solution.kernel) / deviation[:, None] / np.sqrt(features.shape[1])
    return Refit(
        kernel=scale * kernel + change,
        bias=scale * bias + solution.bias - mean @ change,
        strength=strength,
        losses=(np.array(losses) @ weights)[::-1],
        held_out=held_out[best],
    )


def _strongest(losses: Table, weights: Table) -> int:
    """Return the index of the strongest penalty whose loss is within one standard error of the lowest.

    With 20 images the lowest loss is often an accident (one-standard-error rule, Breiman et al. 1984). The standard
    error is that of the paired differences, which is smaller than that of each loss.

    Args:
        losses: Loss for each strength, in descending order, and each image, float64 [strengths, n].
        weights: Sample weights, which sum to 1.
    """
    differences = losses - losses[np.argmin(losses @ weights)]
    means = differences @ weights
    errors = np.sqrt(np.square(weights * (differences - means[:, None])).sum(axis=1))
    return int(np.argmax(means <= errors))


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
