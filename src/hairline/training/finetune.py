"""The stage after the head, where it is asked for: the backbone's upper layers, or all, are trained with it.

TensorFlow takes seconds to import, so whatever needs it is imported inside the function.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hairline import tracking
from hairline.config import Config, arguments
from hairline.data.prepare import Dataset
from hairline.system import errors
from hairline.training.checkpoint import Checkpoint
from hairline.training.head import Frozen, Head, fit_rows, fit_settings, pass_images, row_weights

if TYPE_CHECKING:
    import tensorflow as tf

log = logging.getLogger(__name__)


def finetune(
    config: Config,
    data: Dataset,
    frozen: Frozen,
    head: Head,
    run: tracking.Run,
    state: Checkpoint,
) -> Head:
    """Train the backbone's upper layers, or all, together with the head; both are changed in place.

    What lies below the layers that are trained is still data: its activations are cached like any features.

    Returns:
        The head, with the joined model's scores and the history of both phases.
    """
    import keras

    from hairline.data import pipeline
    from hairline.model.cut import unfreeze
    from hairline.model.head import compute_logits
    from hairline.training import epochs

    settings = config.finetune
    backbone = frozen.model()
    cut = unfreeze(backbone, settings.layers, settings.from_layer)
    phase: dict[str, Any] = {
        "epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "phase": "fine-tune",
        "before": head.history,
        "state": state.phase("fine-tune"),
    }
    if cut is not None:
        log.info("fine-tuning from layer %s up", cut.layer)
        recipe = replace(frozen.recipe, taps=(*frozen.recipe.taps, f"below {cut.layer}"))
        below = pass_images(config, data, lambda: cut.lower, recipe, "activations")
        model = keras.Model(cut.upper.input, head.model(cut.upper.output))
        history = fit_rows(config, data, model, below, run, batch_size=settings.batch_size, **phase)
        scores = compute_logits(model, below.images)
    else:
        model = keras.Model(backbone.input, head.model(backbone.output))
        one_hot = np.eye(len(data.class_names), dtype=np.float32)[data.labels]
        augment = arguments(config.augment, "mode", "views")
        weights = row_weights(config, data)

        def batches(rows: np.ndarray, **order: Any) -> tf.data.Dataset:
            table = data.manifest.iloc[rows]
            return pipeline.batches(
                table["path"].tolist(),
                image_size=config.image_size,
                batch_size=settings.batch_size,
                labels=one_hot[rows],
                digests=table["sha256"].tolist(),
                augment=augment,
                **order,
            )

        def epoch(number: int) -> tf.data.Dataset:
            view = number if config.augment.mode == "fresh" else (number - 1) % config.augment.views
            seed = int(np.random.default_rng([config.seed, number]).integers(2**31))
            return batches(data.rows("train"), view=view, shuffle=True, seed=seed, weights=weights)

        steps = -(-len(data.rows("train")) // settings.batch_size)
        shared = fit_settings(config, data, run)
        with errors.advised("finetune.batch_size", settings.batch_size):
            history = epochs.fit(model, epoch, batches(data.rows("val")), steps=steps, **shared, **phase)
            scores = model.predict(batches(np.arange(len(data.manifest))), verbose=0)
    return replace(head, scores=scores, history=history)
