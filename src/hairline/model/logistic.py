"""A dense softmax layer fitted to its minimum: logistic regression by L-BFGS (Liu & Nocedal 1989).

On frozen features the head's problem is convex: there is one answer, and neither a learning rate nor a seed in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize
from scipy.special import log_softmax

# Keeps the scale of a base's scores finite where they tell the classes apart without fault.
_SCALE_PENALTY = 1e-3

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
