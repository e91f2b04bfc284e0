"""Fine-tune the upper layers of the backbone, or all of them, together with the head.

TensorFlow takes seconds to import, so whatever needs it is imported inside the functions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hairline import config
from hairline.config import Augment, arguments
from hairline.data.prepare import Dataset
from hairline.model.head import Linear, build_head, compute_outputs
from hairline.system import errors
from hairline.training.head import (
    FitSettings,
    Frozen,
    Head,
    Hooks,
    PassSettings,
    frozen_features,
    row_weights,
)

if TYPE_CHECKING:
    import keras
    import pandas as pd
    import tensorflow as tf

log = logging.getLogger(__name__)


def finetune(
    backbone: keras.Model,
    data: Dataset,
    frozen: Frozen,
    head: Head,
    settings: config.Finetune,
    fit: FitSettings,
    passes: PassSettings,
    hooks: Hooks,
) -> Head:
    """Train layers of the backbone together with the head; the backbone is changed in place.

    The layers below those that are trained stay frozen: their activations are cached like any features.

    Returns:
        The head, with the logits of the joined model and the history of both phases.
    """
    import keras

    from hairline.model.cut import unfreeze

    assert settings.layers != "none"
    cut = unfreeze(backbone, settings.layers, settings.from_layer)
    keras.utils.set_random_seed(fit.seed)
    tuned = build_head(head.linear, dropout=fit.dropout)
    fit = replace(fit, epochs=settings.epochs, batch_size=settings.batch_size, learning_rate=settings.learning_rate)
    passes = replace(passes, epochs=settings.epochs)
    if cut is None:
        model = keras.Model(backbone.input, tuned(backbone.output))
        size = frozen.recipe.image_size
        logits, history = _train_on_images(model, data, head.history, fit, hooks, passes.augment, size)
    else:
        log.info("fine-tuning from layer %s upwards", cut.layer)
        recipe = replace(frozen.recipe, taps=(*frozen.recipe.taps, f"below {cut.layer}"))
        below = frozen_features(data, lambda: cut.lower, recipe, passes, label="activations")
        model = keras.Model(cut.upper.input, tuned(cut.upper.output))
        history = _train_on_activations(model, data, head.history, fit, hooks, below)
        logits = compute_outputs(model, below.images)
    return Head(Linear(head.linear.standardisation, *tuned.get_layer("logits").get_weights()), logits, history)


def _train_on_activations(
    model: keras.Model, data: Dataset, before: pd.DataFrame, fit: FitSettings, hooks: Hooks, below: Frozen
) -> pd.DataFrame:
    """Train a network on the cached outputs of the frozen layers below it; returns the history with `before`."""
    from hairline.data import pipeline

    one_hot = np.eye(len(data.class_names), dtype=np.float32)
    labels = np.tile(data.labels[data.rows("train")], below.views)
    val = below.images.rows(data.rows("val"))
    current = pipeline.Pass(val.read, np.arange(len(labels)))  # `epoch` sets what it reads
    weights = row_weights(data, fit, views=below.views)
    batches = pipeline.feature_batches(current, val.width, one_hot[labels], batch_size=fit.batch_size, weights=weights)
    in_order = pipeline.Pass(val.read, np.arange(len(val)))
    val_batches = pipeline.feature_batches(in_order, val.width, one_hot[data.labels[data.rows("val")]], batch_size=1024)

    def epoch(number: int) -> tf.data.Dataset:
        current.read = below.training(number).read
        current.order = np.random.default_rng([fit.seed, number]).permutation(len(labels))
        return batches

    return _train(model, epoch, val_batches, len(labels), before, fit, hooks)


def _train_on_images(
    model: keras.Model,
    data: Dataset,
    before: pd.DataFrame,
    fit: FitSettings,
    hooks: Hooks,
    augment: Augment,
    image_size: int,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Train the whole network on pixels: nothing of it is frozen, so nothing can be cached.

    Returns:
        Logits of all images, float32 [n, classes], and the history, which includes `before`.
    """
    from hairline.data import pipeline

    one_hot = np.eye(len(data.class_names), dtype=np.float32)[data.labels]
    varied = arguments(augment, "mode", "views")
    weights = row_weights(data, fit)
    train = data.rows("train")

    def batches(rows: np.ndarray, **order: Any) -> tf.data.Dataset:
        table = data.manifest.iloc[rows]
        return pipeline.batches(
            table["path"].tolist(),
            table["sha256"].tolist(),
            one_hot[rows],
            image_size=image_size,
            batch_size=fit.batch_size,
            augment=varied,
            **order,
        )

    def epoch(number: int) -> tf.data.Dataset:
        view = number if augment.mode == "fresh" else (number - 1) % augment.views
        seed = int(np.random.default_rng([fit.seed, number]).integers(2**31))
        return batches(train, view=view, shuffle=True, seed=seed, weights=weights)

    history = _train(model, epoch, batches(data.rows("val")), len(train), before, fit, hooks)
    with errors.advised("finetune.batch_size", fit.batch_size):
        logits = model.predict(batches(np.arange(len(data.manifest))), verbose=0)
    return logits, history


def _train(
    model: keras.Model,
    epoch: Callable[[int], tf.data.Dataset],
    val: tf.data.Dataset,
    images: int,
    before: pd.DataFrame,
    fit: FitSettings,
    hooks: Hooks,
) -> pd.DataFrame:
    """Train a network in the phase `fine-tune`; returns the history with `before`."""
    from hairline.training import epochs
    from hairline.training.network_trainer import NetworkTrainer

    steps = -(-images // fit.batch_size)
    with errors.advised("finetune.batch_size", fit.batch_size):
        trainer = NetworkTrainer(model, epoch, val, steps=steps, label_smoothing=fit.label_smoothing, **fit.steps())
        return epochs.fit(trainer, before=before, **fit.course(), **hooks.course("fine-tune"))
