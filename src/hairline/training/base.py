"""Adapting a finished run's model to a few labelled images of a new surface: `train.py base=<run>`.

The base's backbone stays, its head and threshold move as far as cross-validation over the new images warrants. None
of the base's own images are needed.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hairline import tracking
from hairline.config import Config, arguments, flatten
from hairline.data import manifest, sources
from hairline.data.prepare import Dataset
from hairline.model import saved
from hairline.system.errors import HairlineError
from hairline.training.checkpoint import Checkpoint
from hairline.training.head import Frozen, Head, pass_images

if TYPE_CHECKING:
    import keras

    from hairline.evaluation.decisions import Decision

log = logging.getLogger(__name__)

_USUAL = {"optimizer.name": "adam", "schedule.name": "constant"}  # what conf/config.yaml chooses
# What a head that is trained by epochs takes.
_IDLE = (*_USUAL, "model.dropout", "model.label_smoothing", "epochs", "batch_size", "learning_rate")


class BaseError(HairlineError):
    """A base that images cannot be added to."""


@dataclass(frozen=True)
class Base:
    """The saved model that is adapted: what a run starts from in place of `pretrained.Pretrained`.

    Attributes:
        parts: Its features and the layer that reads them.
        known: Arrays of its `features.npz`.
    """

    parts: saved.Parts
    known: dict[str, np.ndarray]

    @property
    def origin(self) -> str:
        """Where the backbone's weights come from."""
        return self.parts.bundle.backbone["weights"]

    @classmethod
    def of(cls, run: str) -> Base:
        """Open the saved model that `run` names."""
        folder = tracking.find(run, key="base")
        return cls(saved.Parts(folder), saved.read_statistics(folder))

    def settings(self, config: Config) -> Config:
        """Give the configuration with the base's network and image size in place of the ones it names.

        Raises:
            BaseError: If it asks for another network, or for a training by epochs, which there is none of.
        """
        bundle = self.parts.bundle
        about = bundle.backbone
        own = {"model.backbone": about["name"], "model.taps": about["taps"].split(), "image_size": bundle.image_size}
        asked, usual = flatten(asdict(config)), flatten(asdict(Config())) | _USUAL
        idle = [key for key in (*own, *_IDLE) if asked[key] != usual[key] and asked[key] != own.get(key, usual[key])]
        if idle:
            raise BaseError(
                "base brings its own network and image size, and fits its head outright: "
                f"{', '.join(f'{key}={asked[key]}' for key in idle)} would have no say; leave that out"
            )
        model = replace(config.model, backbone=about["name"], taps=about["taps"].split(), weights="auto")
        runtime = replace(config.runtime, precision=bundle.precision)
        return replace(config, model=model, image_size=bundle.image_size, runtime=runtime, probe=False)

    def checked(self, data: Dataset) -> Dataset:
        """Refuse images of other classes than the base's; gives them with its positive class.

        Raises:
            BaseError: Listing both.
        """
        known = self.parts.bundle.class_names
        if data.class_names != known:
            raise BaseError(
                f"the images have the classes {', '.join(map(manifest.printable, data.class_names))}; the base knows "
                f"{', '.join(map(manifest.printable, known))}, and needs some images of each. Say which is which: "
                f"{sources.class_map_hint(data.class_names, known)}, or train without a base"
            )
        test = data.rows("test")
        splits = saved.seen_splits(self.parts.folder, data.manifest["sha256"].iloc[test])
        seen = int(np.isin(splits, ["train", "val"]).sum())
        if seen:
            log.warning(
                "WARNING: %d of the %d test images are among those that the base was made with: what is measured on "
                "them says nothing of new ones",
                seen,
                len(test),
            )
        positive = self.parts.bundle.positive_class
        return replace(data, positive=None if positive is None else known.index(positive))

    def features(self, config: Config, data: Dataset) -> Frozen:
        """Compute, or take from the cache, the images' features by the base's network."""
        recipe = self.parts.recipe(config.features.engine)
        return pass_images(config, data, lambda: self.parts.backbone, recipe, "features")

    def head(self, config: Config, data: Dataset, frozen: Frozen, run: tracking.Run, state: Checkpoint) -> Head:
        """Fit the base's head anew to all images but the test's.

        Nothing is told to `run` and kept in `state`: it takes a second.

        Returns:
            The head, with the base's standardisation, and a history of one row; the scores of the images it was fitted
            to are by heads that were fitted without them.
        """
        from hairline.model.head import Standardisation, build_head, compute_logits, probabilities
        from hairline.model.logistic import refit

        started = time.perf_counter()
        rows = _fitted(data)
        labels = data.labels[rows]
        standardisation = Standardisation(self.known["mean"], self.known["deviation"])
        kernel, bias = self.parts.dense
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
        model = build_head(standardisation, classes=len(data.class_names), dropout=0.0)
        model.get_layer("logits").set_weights(
            [
                (found.kernel * standardisation.deviation[:, None]).astype(np.float32),
                (found.bias + standardisation.mean @ found.kernel).astype(np.float32),
            ]
        )
        scores = compute_logits(model, frozen.images)
        row = _row(probabilities(scores)[rows], probabilities(found.held_out), labels)
        scores[rows] = found.held_out.astype(np.float32)
        log.info(
            "head of %s fitted anew to %d images, pull towards it %.3g: accuracy on images held out %.4f, "
            "log loss %.4f",
            self.parts.folder,
            len(rows),
            found.strength,
            row["val_accuracy"],
            row["val_loss"],
        )
        history = pd.DataFrame([{"phase": "refit", "epoch": 1} | row | {"seconds": time.perf_counter() - started}])
        return Head(model, standardisation, scores, history)

    def decide(self, config: Config, data: Dataset, scores: np.ndarray) -> Decision:
        """Choose temperature and threshold by the scores of heads that had not seen the image.

        Being sure of a recall of 0.99 takes hundreds of cracked images. With fewer, the threshold of even odds
        between the classes is kept: they weighed the same in the fit.
        """
        from hairline.evaluation import decisions, thresholds

        rows = _fitted(data)
        settings: dict[str, Any] = arguments(config.decision)
        labels = data.labels[rows]
        positives = int((labels == data.positive).sum())
        needed = thresholds.positives_needed(settings["target_recall"])
        if settings["threshold"] == "recall" and positives < needed:
            log.info(
                "threshold 0.5, even odds: being sure of a recall of %g takes %d positive images, and there are %d",
                settings["target_recall"],
                needed,
                positives,
            )
            settings["threshold"] = 0.5
        groups = data.manifest["group"].to_numpy()[rows]
        return decisions.decide(scores[rows], labels, data.positive, **settings, groups=groups)

    def network(self, config: Config, frozen: Frozen) -> dict[str, Any]:
        """Describe the backbone for the saved model: it is the base's."""
        return dict(self.parts.bundle.backbone)

    def statistics(
        self, config: Config, data: Dataset, frozen: Frozen, head: Head, model: keras.Model
    ) -> dict[str, np.ndarray]:
        """Give the base's arrays, with the run's images among what the model has seen and knows."""
        from hairline.model.familiarity import Distance

        now = saved.seen_images(data.manifest["sha256"], data.manifest["split"])
        found = self.known | saved.merge_seen(self.known, now)
        distance = Distance.from_arrays(self.known)
        return found if distance is None else found | distance.including(frozen.images).arrays()


def _fitted(data: Dataset) -> np.ndarray:
    """Give the rows that the head is fitted to."""
    return np.flatnonzero(data.manifest["split"] != "test")


def _row(fitted: np.ndarray, held_out: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    from hairline.evaluation import metrics

    row: dict[str, float] = {}
    for start, table in (("", fitted), ("val_", held_out)):
        measured = metrics.classification_metrics(labels, table, positive=None)
        row |= {f"{start}{key}": measured[key] for key in ("loss", "accuracy")}
    return row | {"learning_rate": 0.0}
