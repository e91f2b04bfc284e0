"""Adapting a finished run's model to a few labelled images of a new surface: `train.py base=<run>`.

The base's backbone stays, its head and threshold move as far as cross-validation over the new images warrants. None
of the base's own images are needed.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hairline import inference
from hairline.config import Config, arguments
from hairline.data import manifest
from hairline.model import bundle as bundles
from hairline.phases import Frozen
from hairline.preparation import Data

if TYPE_CHECKING:
    import keras

    from hairline.evaluation.decisions import Decision
    from hairline.model.classifier import Standardisation
    from hairline.model.refit import Refit

log = logging.getLogger(__name__)


class BaseError(ValueError):
    """A base that images cannot be added to."""


@dataclass(frozen=True)
class Base:
    """The saved model that is adapted.

    Attributes:
        parts: Its features and the layer that reads them.
        statistics: Arrays of its `features.npz`.
    """

    parts: inference.Parts
    statistics: dict[str, np.ndarray]

    @classmethod
    def of(cls, run: str) -> Base:
        """Open the saved model that `run` names."""
        folder = inference.find(run, key="base")
        return cls(inference.Parts(folder), bundles.read_statistics(folder))

    def settings(self, config: Config) -> Config:
        """Give the configuration with the base's network and image size in place of the ones it names."""
        bundle = self.parts.bundle
        about = bundle.backbone
        model = replace(config.model, backbone=about["name"], taps=about["taps"].split(), weights="auto")
        runtime = replace(config.runtime, precision=about.get("precision", "float32"))
        return replace(config, model=model, image_size=bundle.image_size, runtime=runtime)


def checked(base: Base, data: Data) -> Data:
    """Refuse images of other classes than the base's; gives them with its positive class.

    Raises:
        BaseError: Listing both.
    """
    known = base.parts.bundle.class_names
    if data.class_names != known:
        raise BaseError(
            f"the images have the classes {', '.join(map(manifest.shown, data.class_names))}; the base knows "
            f"{', '.join(map(manifest.shown, known))}, and needs some images of each. Say which is which: "
            f"'data.class_map={{{data.class_names[0]}: {known[0]}}}', or train without a base"
        )
    positive = base.parts.bundle.positive_class
    return replace(data, positive=None if positive is None else known.index(positive))


def base_features(config: Config, data: Data, base: Base) -> Frozen:
    """Compute, or take from the cache, the images' features by the base's network."""
    from hairline.model.features import compute

    recipe = base.parts.recipe(config.features.engine)
    found = compute(
        data.manifest["path"].tolist(),
        data.manifest["sha256"].tolist(),
        recipe,
        lambda: base.parts.backbone,
        **arguments(config.features, "engine"),
        threads=config.runtime.threads,
    )
    training = found.rows(data.rows("train"))
    return Frozen(lambda: base.parts.backbone, recipe, found, lambda epoch: training, 1)


def refit_head(
    config: Config, data: Data, frozen: Frozen, base: Base
) -> tuple[keras.Model, Standardisation, np.ndarray, pd.DataFrame, Decision]:
    """Fit the base's head anew to all images but the test's, and choose temperature and threshold.

    Returns:
        The head; the base's standardisation; logits float32 [n, classes] of all images, of those it was fitted to by
        heads that were fitted without them; a history of one row; and the decision.
    """
    from hairline.model import classifier
    from hairline.model.refit import refit

    started = time.perf_counter()
    rows = np.flatnonzero(data.manifest["split"] != "test")
    labels = data.labels[rows]
    standardisation = classifier.Standardisation(base.statistics["mean"], base.statistics["deviation"])
    kernel, bias = base.parts.dense
    found = refit(
        frozen.images.read(rows),
        labels,
        data.manifest["group"].iloc[rows].tolist(),
        kernel=kernel,
        bias=bias,
        mean=standardisation.mean,
        deviation=standardisation.deviation,
        seed=config.seed,
    )
    head = classifier.build_head(standardisation, classes=len(data.class_names), dropout=0.0)
    head.get_layer("logits").set_weights(
        [
            (found.kernel * standardisation.deviation[:, None]).astype(np.float32),
            (found.bias + standardisation.mean @ found.kernel).astype(np.float32),
        ]
    )
    scores = classifier.logits(head, frozen.images)
    row = _row(classifier.probabilities(scores)[rows], classifier.probabilities(found.held_out), labels)
    scores[rows] = found.held_out.astype(np.float32)
    _say(base, found, row, len(rows))
    history = pd.DataFrame([{"phase": "refit", "epoch": 1} | row | {"seconds": time.perf_counter() - started}])
    return head, standardisation, scores, history, _decide(config, data, scores, rows)


def _row(fitted: np.ndarray, held_out: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    from hairline.evaluation import metrics

    row: dict[str, float] = {}
    for start, table in (("", fitted), ("val_", held_out)):
        measured = metrics.classification_metrics(labels, table, positive=None)
        row |= {f"{start}{key}": measured[key] for key in ("loss", "accuracy")}
    return row | {"learning_rate": 0.0}


def _decide(config: Config, data: Data, scores: np.ndarray, rows: np.ndarray) -> Decision:
    """Choose temperature and threshold by the scores of heads that had not seen the image.

    Being sure of a recall of 0.99 takes hundreds of cracked images. With fewer, the threshold of even odds between
    the classes is kept: they weighed the same in the fit.
    """
    from hairline.evaluation import decisions, thresholds

    settings: dict[str, Any] = arguments(config.decision)
    labels = data.labels[rows]
    positives = int((labels == data.positive).sum())
    if settings["threshold"] == "recall" and positives < thresholds.positives_needed(settings["target_recall"]):
        log.info(
            "threshold 0.5, even odds: being sure of a recall of %g takes %d positive images, and there are %d",
            settings["target_recall"],
            thresholds.positives_needed(settings["target_recall"]),
            positives,
        )
        settings["threshold"] = 0.5
    groups = data.manifest["group"].to_numpy()[rows]
    return decisions.decide(scores[rows], labels, data.positive, **settings, groups=groups)


def _say(base: Base, found: Refit, row: dict[str, float], count: int) -> None:
    log.info(
        "head of %s fitted anew to %d images, pull towards it %.3g: accuracy on images held out %.4f, log loss %.4f",
        base.parts.folder,
        count,
        found.strength,
        row["val_accuracy"],
        row["val_loss"],
    )
