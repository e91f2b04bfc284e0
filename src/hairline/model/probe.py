"""A linear probe: ridge regression in closed form, as a baseline for the head on the same features."""

from __future__ import annotations

import numpy as np

from hairline.model.features import Features
from hairline.model.head import Standardisation

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
WIDEST = 8192  # features; solving for more takes longer than training the head


def ridge(train: Features, labels: np.ndarray, val: Features, val_labels: np.ndarray, classes: int) -> np.ndarray:
    """Fit one-hot labels by ridge regression on standardised features (Hoerl & Kennard 1970).

    Args:
        train: Features of the training images.
        labels: Their classes, int64 [n].
        val: Features of the validation images, for the choice among `PENALTIES` (shares of n).
        val_labels: Their classes, int64 [m].
        classes: Number of classes.

    Returns:
        float64 [width + 1, classes]: weights of the unstandardised features, and the intercept as last row.
    """
    one_hot = np.eye(classes)[labels]
    share = one_hot.mean(axis=0)
    standardisation = Standardisation.fit(train)
    # Products in float32 are four times as fast; their sums are float64.
    products, targets, start = np.zeros((train.width, train.width)), np.zeros((train.width, classes)), 0
    for block in train.blocks():
        table = standardisation.apply(block)
        products += table.T @ table
        targets += table.T @ (one_hot[start : start + len(table)] - share).astype(np.float32)
        start += len(table)
    mean, deviation = (array.astype(np.float64) for array in (standardisation.mean, standardisation.deviation))
    best, best_accuracy = np.empty(0), -1.0
    for penalty in PENALTIES:
        ridged = products + penalty * len(train) * np.eye(train.width)
        weights = np.linalg.solve(ridged, targets) / deviation[:, None]
        candidate = np.vstack([weights, share - mean @ weights])
        accuracy = float(np.mean(classify(candidate, val) == val_labels))
        if accuracy > best_accuracy:
            best, best_accuracy = candidate, accuracy
    return best


def classify(weights: np.ndarray, features: Features) -> np.ndarray:
    """Return the predicted classes, int64 [n], of `ridge` weights."""
    scores = np.concatenate([block @ weights[:-1] + weights[-1] for block in features.blocks()])
    return np.asarray(np.argmax(scores, axis=1))
