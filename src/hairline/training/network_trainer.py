"""Train a Keras network by mini-batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hairline.model import optimizers
from hairline.training.checkpoint import Arrays
from hairline.training.epochs import EpochRow


class NetworkTrainer:
    """Trains a Keras network on batches of a tf.data pipeline."""

    def __init__(
        self,
        model: keras.Model,
        train: Callable[[int], tf.data.Dataset],
        val: tf.data.Dataset,
        *,
        steps: int,
        epochs: int,
        learning_rate: float,
        optimizer: dict[str, Any],
        schedule: dict[str, Any],
        label_smoothing: float,
    ) -> None:
        """Compile the network.

        Args:
            model: Model to logits [batch, classes].
            train: Returns the batches of an epoch, numbered from 1: pairs of inputs and one-hot labels, or triples with
                the weight of each image in the loss.
            val: Pairs of the validation images.
            steps: Batches per epoch.
            epochs: Number of epochs over which the schedule runs.
            learning_rate: Highest learning rate.
            optimizer: Keys of the configuration group `optimizer`.
            schedule: Keys of the configuration group `schedule`, less patience and keep.
            label_smoothing: Share of the probability that is spread over all classes.
        """
        self.steps = steps
        self._model, self._train, self._val = model, train, val
        rate = optimizers.schedule(**schedule, learning_rate=learning_rate, steps=steps * epochs)
        model.compile(
            optimizer=optimizers.build(**optimizer, learning_rate=rate),
            loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing),
            metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
            jit_compile=False,
        )

    def epoch(self, number: int, advance: Callable[[], object]) -> EpochRow:
        """Train for one epoch, as described in `epochs.Trainer`."""
        history = self._model.fit(
            self._train(number),
            validation_data=self._val,
            callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: advance())],
            shuffle=False,  # the pipeline does it
            verbose=0,
        ).history
        row = {key: float(history[key][0]) for key in ("loss", "accuracy", "val_loss", "val_accuracy")}
        return {**row, "learning_rate": float(self._model.optimizer.learning_rate)}

    def weights(self) -> list[np.ndarray]:
        """Return the weights in the order of Keras."""
        return list(self._model.get_weights())

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Replace the weights."""
        self._model.set_weights(weights)

    def state(self) -> dict[str, list[np.ndarray]]:
        """Return the variables of the model, the random generators of its layers included, and of the optimizer."""
        return {"model": _values(self._model.variables), "optimizer": _values(self._model.optimizer.variables)}

    def restore(self, state: Arrays) -> None:
        """Continue from what `state` returned."""
        self._model.optimizer.build(self._model.trainable_variables)
        _assign(self._model.variables, state["model"])
        _assign(self._model.optimizer.variables, state["optimizer"])


def _values(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def _assign(variables: Sequence[keras.Variable], values: Sequence[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
