"""What an ordinary run starts from: a backbone with weights that were found elsewhere, and a head trained anew.

`few_labels.Base` is the other thing that a run can start from, with the same methods.

TensorFlow takes seconds to import, so whatever needs it is imported inside the functions.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hairline import tracking
from hairline.config import Config
from hairline.data.prepare import Dataset
from hairline.model import backbones
from hairline.system import tensorflow
from hairline.training import repeats
from hairline.training.checkpoint import Checkpoint
from hairline.training.head import Frozen, Head, pass_images, train_head

if TYPE_CHECKING:
    import keras

    from hairline.evaluation.decisions import Decision
    from hairline.model.features import Features

_MEASURED_IMAGES = 500  # of training and of validation, whose features are computed anew after fine-tuning


@dataclass(frozen=True)
class Pretrained:
    """A backbone's weights.

    Attributes:
        weights: The file; None: random ones, of the run's seed.
        origin: Where they come from: `imagenet`, `synthetic`, `random`, or the file the user named.
    """

    weights: Path | None
    origin: str

    @classmethod
    def find(cls, config: Config) -> Pretrained:
        """Find the weights that the configuration names, by download where it must be."""
        settings = config.model
        weights = backbones.find_weights(settings.backbone, settings.weights, config.image_size)
        return cls(weights, backbones.origin(settings.weights, weights))

    def checked(self, data: Dataset) -> Dataset:
        """Take any images."""
        return data

    def features(self, config: Config, data: Dataset) -> Frozen:
        """Compute, or take from the cache, the features of all images and of the training images' further views."""
        from hairline.model import cut, engine
        from hairline.model.features import Recipe

        name, size = config.model.backbone, config.image_size
        taps = tuple(config.model.taps) or (backbones.BACKBONES[name].random_taps if self.weights is None else ())

        @functools.cache
        def backbone() -> keras.Model:
            with tensorflow.strategy(config.runtime.devices).scope():
                return backbones.build(name, image_size=size, weights=self.weights, seed=config.seed, taps=taps)

        if config.finetune.layers == "top" and config.finetune.from_layer is not None:
            cut.first_layer(backbone(), config.finetune.from_layer)  # a wrong name is told before all the work
        digest = backbones.identify(self.weights, config.seed)
        chosen = engine.choose_engine(config.features.engine, config.runtime.precision)
        recipe = Recipe(name, digest, size, chosen, taps=taps, precision=config.runtime.precision)
        return pass_images(config, data, backbone, recipe, "features")

    def head(self, config: Config, data: Dataset, frozen: Frozen, run: tracking.Run, state: Checkpoint) -> Head:
        """Train a head on the training images, epoch by epoch."""
        return train_head(config, data, frozen, run, state=state)

    def decide(self, config: Config, data: Dataset, scores: np.ndarray) -> Decision:
        """Choose temperature and threshold on the validation images."""
        return repeats.decide(config, data, scores)

    def network(self, config: Config, frozen: Frozen) -> dict[str, Any]:
        """Describe the backbone for the saved model."""
        name = config.model.backbone
        licences = {"imagenet": backbones.BACKBONES[name].licence, "synthetic": "Apache-2.0"}
        return {
            "name": name,
            "weights": self.origin,
            "weights_digest": frozen.recipe.weights,
            "taps": " ".join(frozen.recipe.taps),
            "finetuned": config.finetune.layers,
            "precision": config.runtime.precision,
            "licence": licences.get(self.origin, ""),
        }

    def statistics(
        self, config: Config, data: Dataset, frozen: Frozen, head: Head, model: keras.Model
    ) -> dict[str, np.ndarray]:
        """Give the arrays that the saved model tells new images by: which it has seen, and what they were like.

        The latter belong to the joined model's own features, which fine-tuning has moved away from the frozen ones.
        """
        from hairline.model import saved
        from hairline.model.familiarity import Distance
        from hairline.model.head import Standardisation

        # Photos are to be told from photos: with drawn images among them, what is known would lie beside these.
        rows = {"train": np.intersect1d(data.rows("train"), data.real), "val": data.rows("val")}
        standardisation = head.standardisation
        if config.finetune.layers == "none":
            found = {split: frozen.images.rows(numbers) for split, numbers in rows.items()}
        else:
            rows = {split: _evenly(numbers, _MEASURED_IMAGES) for split, numbers in rows.items()}
            found = {split: _tuned_features(config, data, frozen, model, numbers) for split, numbers in rows.items()}
            standardisation = Standardisation.fit(found["train"])
        mean, deviation = standardisation.mean, standardisation.deviation
        distance = Distance.fit(found["train"], data.labels[rows["train"]], found["val"], mean, deviation)
        return saved.seen_images(data.manifest["sha256"], data.manifest["split"]) | distance.arrays()


def _tuned_features(config: Config, data: Dataset, frozen: Frozen, model: keras.Model, rows: np.ndarray) -> Features:
    """Give what the joined model's layer `features` says of some images; nothing is kept."""
    import keras

    from hairline.model.features import compute

    table = data.manifest.iloc[rows]
    return compute(
        table["path"].tolist(),
        table["sha256"].tolist(),
        # By TensorFlow: the model is in memory, and converting it would take longer than a thousand images do.
        replace(frozen.recipe, weights="fine-tuned", engine="tensorflow"),
        lambda: keras.Model(model.input, model.get_layer("features").output),
        keep=False,
        threads=config.runtime.threads,
        label="features of the fine-tuned model",
    )


def _evenly(rows: np.ndarray, most: int) -> np.ndarray:
    """Draw at most `most` of some numbers, evenly over their order."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(np.int64))]
