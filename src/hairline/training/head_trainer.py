"""Train a linear head on frozen features by mini-batches, in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.special import log_softmax

from hairline.model.head import Linear, Standardised
from hairline.training import descent
from hairline.training.checkpoint import Arrays
from hairline.training.epochs import EpochRow


class HeadTrainer:
    """Trains a linear head on features by mini-batches.

    The gradient of a linear layer is two products of matrices, which NumPy computes ten times as fast as a network of
    TensorFlow does, and without importing it.
    """

    def __init__(
        self,
        train: Callable[[int], Standardised],
        rows: np.ndarray,
        targets: np.ndarray,
        val: Standardised,
        val_targets: np.ndarray,
        *,
        weights: np.ndarray | None,
        batch_size: int,
        dropout: float,
        seed: int,
        epochs: int,
        learning_rate: float,
        optimizer: dict[str, Any],
        schedule: dict[str, Any],
    ) -> None:
        """Start from zeros: the problem is convex, and a random start is noise that ten epochs would have to unlearn.

        Args:
            train: Returns the training features of an epoch, numbered from 1; the same object if they do not change.
            rows: Those of them to train on, int64 [n].
            targets: Probabilities of their classes, float32 [n, classes].
            val: Features of the validation images.
            val_targets: Theirs, float32 [m, classes].
            weights: Weight of each training row in the loss, float32 [n]; None: all 1.
            batch_size: Rows per step.
            dropout: Share of features that are dropped in each step.
            seed: Seed of the order of rows and of dropout.
            epochs: Number of epochs over which the schedule runs.
            learning_rate: Highest learning rate.
            optimizer: Keys of the configuration group `optimizer`.
            schedule: Keys of the configuration group `schedule`, less patience and keep.
        """
        standardisation = val.standardisation
        width, classes = len(standardisation.mean), targets.shape[1]
        self.steps = -(-len(targets) // batch_size)
        self._standardisation, self._train, self._rows = standardisation, train, rows
        self._targets, self._weights = targets, weights
        self._val, self._val_targets = val, val_targets
        self._batch_size, self._dropout, self._seed = batch_size, dropout, seed
        self._batch = np.empty((min(batch_size, len(targets)), width), np.float32)  # allocating it costs as much
        self._kernel, self._bias = np.zeros((width, classes), np.float32), np.zeros(classes, np.float32)
        rate = descent.schedule(**schedule, learning_rate=learning_rate, steps=self.steps * epochs)
        self._optimizer = descent.Optimizer([self._kernel, self._bias], rate, **optimizer)

    @property
    def linear(self) -> Linear:
        """The head as it is now."""
        return Linear(self._standardisation, *self.weights())

    @np.errstate(over="ignore", invalid="ignore")  # `epochs.fit` refuses a loss that is not finite, with advice
    def epoch(self, number: int, advance: Callable[[], object]) -> EpochRow:
        """Train for one epoch, as described in `epochs.Trainer`."""
        features = self._train(number)
        order = np.random.default_rng([self._seed, number]).permutation(len(self._targets))
        dropped = np.random.default_rng([self._seed, number, 1])
        loss = right = 0.0
        kernel, bias = self._kernel, self._bias
        for start in range(0, len(order), self._batch_size):
            rows = order[start : start + self._batch_size]
            inputs, targets = self._inputs(features, rows, dropped), self._targets[rows]
            scores = log_softmax(inputs @ kernel + bias, axis=1)
            weights = np.ones(len(rows), np.float32) if self._weights is None else self._weights[rows]
            errors = (np.exp(scores) - targets) * (weights / len(rows))[:, None]
            self._optimizer.step([inputs.T @ errors, errors.sum(axis=0)])
            loss -= float(weights @ (targets * scores).sum(axis=1))
            right += float((scores.argmax(axis=1) == targets.argmax(axis=1)).sum())
            advance()
        scores = log_softmax(self._val.logits(kernel, bias), axis=1)
        return {
            "loss": loss / len(order),
            "accuracy": right / len(order),
            "val_loss": -float((self._val_targets * scores).sum(axis=1).mean()),
            "val_accuracy": float((scores.argmax(axis=1) == self._val_targets.argmax(axis=1)).mean()),
            "learning_rate": self._optimizer.learning_rate,
        }

    def _inputs(self, features: Standardised, rows: np.ndarray, dropped: np.random.Generator) -> np.ndarray:
        """Return the features of rows, after dropout, in memory that the next batch uses again."""
        batch = features.take(self._rows[rows], self._batch[: len(rows)])
        if self._dropout:
            batch *= dropped.random(batch.shape, np.float32) >= self._dropout
            batch /= 1 - self._dropout
        return batch

    def weights(self) -> list[np.ndarray]:
        """Return copies of kernel float32 [width, classes] and bias float32 [classes]."""
        return [self._kernel.copy(), self._bias.copy()]

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Replace kernel and bias."""
        self._kernel[...], self._bias[...] = weights

    def state(self) -> dict[str, list[np.ndarray]]:
        """Return the weights and the state of the optimizer; other randomness follows from the epoch's number."""
        return {"model": self.weights(), "optimizer": self._optimizer.state()}

    def restore(self, state: Arrays) -> None:
        """Continue from what `state` returned."""
        self.set_weights(state["model"])
        self._optimizer.restore(state["optimizer"])
