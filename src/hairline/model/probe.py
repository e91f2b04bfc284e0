"""A linear probe in closed form: what a second of ridge regression makes of the same features, beside every head."""

from __future__ import annotations

import numpy as np

from hairline.model.features import Features

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
WIDEST = 8192  # features; beyond, solving would take longer than the head's epochs


def ridge(train: Features, labels: np.ndarray, val: Features, val_labels: np.ndarray, classes: int) -> np.ndarray:
    """Fit one-hot labels by ridge regression on standardised features (Hoerl & Kennard 1970).

    Args:
        train: Features of the training images.
        labels: int64 [n], the class of each.
        val: Features of the validation images, which choose the penalty among `PENALTIES` (shares of n).
        val_labels: int64 [m].
        classes: Number of classes.

    Returns:
        float64 [width + 1, classes]: weights on the features as they are, the intercept last; see `classify`.
    """
    mean, deviation, products, targets = _moments(train, labels, classes)
    share = targets[-1] / len(train)
    inner = products / np.outer(deviation, deviation)
    outer = targets[:-1] / deviation[:, None]
    best, best_accuracy = np.empty(0), -1.0
    for penalty in PENALTIES:
        weights = np.linalg.solve(inner + penalty * len(train) * np.eye(len(inner)), outer) / deviation[:, None]
        found = np.vstack([weights, share - mean @ weights])
        accuracy = float(np.mean(classify(found, val) == val_labels))
        if accuracy > best_accuracy:
            best, best_accuracy = found, accuracy
    return best


def classify(weights: np.ndarray, features: Features) -> np.ndarray:
    """Give the class int64 [n] of each row of features."""
    return np.argmax(np.concatenate([block @ weights[:-1] + weights[-1] for block in features.blocks()]), axis=1)


def _moments(
    features: Features, labels: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Give mean and deviation of the features, their centred products, and those with the centred targets.

    The last row of the targets' products are the classes' counts.
    """
    one_hot = np.eye(classes)[labels]
    origin = next(features.blocks()).mean(axis=0)
    total = np.zeros(features.width)
    products = np.zeros((features.width, features.width))
    targets = np.zeros((features.width, classes))
    start = 0
    for block in features.blocks():
        # Products in single precision, four times as fast, about a mean that keeps them small; sums in double.
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
    # A feature that never changes says nothing: any scale will do.
    deviation = np.where(deviation <= 1e-6 * deviation.max(initial=0.0), 1.0, deviation)
    return origin + shift, deviation, products, np.vstack([targets, counts])
