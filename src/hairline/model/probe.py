"""A linear probe: ridge regression in closed form, as a baseline for the head on the same features."""

from __future__ import annotations

import numpy as np

from hairline.model.features import Features

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
    mean, deviation, products, targets = _moments(train, labels, classes)
    share = targets[-1] / len(train)
    inner = products / np.outer(deviation, deviation)
    outer = targets[:-1] / deviation[:, None]
    best, best_accuracy = np.empty(0), -1.0
    for penalty in PENALTIES:
        weights = np.linalg.solve(inner + penalty * len(train) * np.eye(len(inner)), outer) / deviation[:, None]
        candidate = np.vstack([weights, share - mean @ weights])
        accuracy = float(np.mean(classify(candidate, val) == val_labels))
        if accuracy > best_accuracy:
            best, best_accuracy = candidate, accuracy
    return best


def classify(weights: np.ndarray, features: Features) -> np.ndarray:
    """Return the predicted classes, int64 [n], of `ridge` weights."""
    scores = np.concatenate([block @ weights[:-1] + weights[-1] for block in features.blocks()])
    return np.asarray(np.argmax(scores, axis=1))


def _moments(
    features: Features, labels: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the features' mean, deviation and scatter matrix, and their centred products with the one-hot labels.

    The last row of these products holds the class counts.
    """
    one_hot = np.eye(classes)[labels]
    origin = next(features.blocks()).mean(axis=0)
    total = np.zeros(features.width)
    products = np.zeros((features.width, features.width))
    targets = np.zeros((features.width, classes))
    start = 0
    for block in features.blocks():
        # Products in float32 are four times as fast; centring on the first block keeps them small. Sums are float64.
        block -= origin
        total += block.sum(axis=0, dtype=np.float64)
        products += block.T @ block
        targets += block.T @ one_hot[start : start + len(block)].astype(np.float32)
        start += len(block)
    shift = total / len(features)
    counts = one_hot.sum(axis=0)
    products -= len(features) * np.outer(shift, shift)
    targets -= np.outer(shift, counts)
    deviation = np.sqrt(np.maximum(np.diagonal(products), 0.0) / len(features))
    # Avoid division by zero for constant features.
    deviation = np.where(deviation <= 1e-6 * deviation.max(initial=0.0), 1.0, deviation)
    return origin + shift, deviation, products, np.vstack([targets, counts])
