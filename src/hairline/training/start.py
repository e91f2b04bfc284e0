"""What a run starts from: a pretrained backbone, or (in `base`) a finished run.

TensorFlow takes seconds to import, so whatever needs it is imported inside the functions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from hairline import config
from hairline.config import arguments
from hairline.data.prepare import Dataset
from hairline.model import backbones
from hairline.model.decision import Decision
from hairline.model.predictions import Predictions
from hairline.training.head import FitSettings, Frozen, Head, Hooks, Views, train_head

if TYPE_CHECKING:
    import keras

    from hairline.model.features import Features, Recipe

_MEASURED_IMAGES = 500  # of training and of validation, whose features are computed again after fine-tuning


class Start(Protocol):
    """What a run starts from, and the steps that depend on it."""

    @property
    def origin(self) -> str:
        """Where the backbone's weights come from: `imagenet`, `synthetic`, `random`, or a file."""

    @property
    def recipe(self) -> Recipe:
        """How the features are computed."""

    @property
    def converted(self) -> Path | None:
        """The converted backbone, where a saved model holds it."""

    @property
    def builder(self) -> Callable[[], keras.Model]:
        """Builds the backbone; it can be pickled for another process."""

    def check(self, data: Dataset) -> Dataset:
        """Return the images with the positive class that applies.

        Raises:
            HairlineError: If the images do not fit.
        """

    def views(self, data: Dataset, augment: config.Augment) -> Views:
        """Return which images the head is fitted to, and their further views."""

    def head(self, data: Dataset, frozen: Frozen, settings: FitSettings, hooks: Hooks) -> Head:
        """Return the trained head."""

    def decide(
        self, predictions: Predictions, settings: config.Decision, *, resamples: int, share: float | None = None
    ) -> Decision:
        """Return temperature and threshold, chosen on images that took no part in the fit.

        Args:
            predictions: Predictions of all images.
            settings: Configuration group `decision`.
            resamples: Bootstrap resamples of the threshold's interval; 0: no interval.
            share: `Dataset.share`.
        """

    def describe(self) -> dict[str, str]:
        """Return the description of the backbone for `bundle.json`."""

    def statistics(
        self, data: Dataset, frozen: Frozen, head: Head, model: Callable[[], keras.Model]
    ) -> dict[str, np.ndarray]:
        """Return the arrays of `features.npz`: digests of the images, and statistics for the familiarity distance.

        Args:
            data: The images.
            frozen: Their features.
            head: The trained head.
            model: Returns the joined model; called after fine-tuning, when its features differ from the frozen ones.
        """


@dataclass(frozen=True)
class Pretrained:
    """A backbone with pretrained weights, and a head that is trained from zero.

    Attributes:
        model: Configuration group `model`.
        image_size: Side of the input, pixels.
        seed: Seed of random weights.
        engine: Engine of the feature pass.
        runtime: Configuration group `runtime`.
        finetune: Configuration group `finetune`.
        weights: Weights file; None: random weights.
        origin: Where the weights come from.
    """

    model: config.Model
    image_size: int
    seed: int
    engine: Literal["auto", "litert", "tensorflow"]
    runtime: config.Runtime
    finetune: config.Finetune
    weights: Path | None
    origin: str

    @classmethod
    def find(cls, model: config.Model, *, image_size: int, **settings: Any) -> Pretrained:
        """Find the weights that the settings name; download them where needed."""
        weights = backbones.find_weights(model.backbone, model.weights, image_size)
        origin = backbones.origin(model.weights, weights)
        return cls(model=model, image_size=image_size, weights=weights, origin=origin, **settings)

    @functools.cached_property
    def recipe(self) -> Recipe:
        """How the features are computed."""
        from hairline.model import engine
        from hairline.model.features import Recipe

        name, precision = self.model.backbone, self.runtime.precision
        return Recipe(
            name,
            backbones.identify(self.weights, self.seed),
            self.image_size,
            engine.choose_engine(self.engine, precision),
            taps=self._taps,
            precision=precision,
            scaling=backbones.scaling(name),
        )

    @property
    def converted(self) -> None:
        """None: the converted backbone is in the cache, if anywhere."""
        return None

    @property
    def _taps(self) -> tuple[str, ...]:
        default = backbones.BACKBONES[self.model.backbone].random_taps if self.weights is None else ()
        return tuple(self.model.taps) or default

    @property
    def builder(self) -> Callable[[], keras.Model]:
        """Builds the backbone with its weights."""
        return functools.partial(
            backbones.build,
            self.model.backbone,
            image_size=self.image_size,
            weights=self.weights,
            seed=self.seed,
            taps=self._taps,
        )

    def check(self, data: Dataset) -> Dataset:
        """Return the images unchanged: any will do."""
        return data

    def views(self, data: Dataset, augment: config.Augment) -> Views:
        """Return the views of the training images that the settings ask for."""
        return Views.drawn(data.rows("train"), augment)

    def head(self, data: Dataset, frozen: Frozen, settings: FitSettings, hooks: Hooks) -> Head:
        """Train a head on the training images."""
        return train_head(data, frozen, settings, hooks=hooks)

    def decide(
        self, predictions: Predictions, settings: config.Decision, *, resamples: int, share: float | None = None
    ) -> Decision:
        """Choose temperature and threshold on the validation images."""
        from hairline.evaluation import thresholds

        return thresholds.choose_decision(predictions.select("val"), **arguments(settings), resamples=resamples)

    def describe(self) -> dict[str, str]:
        """Return name, weights, taps and licence of the backbone."""
        name = self.model.backbone
        licences = {"imagenet": backbones.BACKBONES[name].licence, "synthetic": "Apache-2.0"}
        return {
            "name": name,
            "weights": self.origin,
            "weights_digest": self.recipe.weights,
            "taps": " ".join(self.recipe.taps),
            "scaling": self.recipe.scaling,
            "finetuned": self.finetune.layers,
            "precision": self.runtime.precision,
            "licence": licences.get(self.origin, ""),
        }

    def statistics(
        self, data: Dataset, frozen: Frozen, head: Head, model: Callable[[], keras.Model]
    ) -> dict[str, np.ndarray]:
        """Return digests of the images, and statistics of the saved model's features."""
        from hairline.model import saved
        from hairline.model.familiarity import Distance
        from hairline.model.head import Standardisation

        # Fit on real images only; drawn ones would shift the statistics.
        rows = {"train": np.intersect1d(data.rows("train"), data.real), "val": data.rows("val")}
        standardisation = head.linear.standardisation
        if self.finetune.layers == "none":
            features = {split: frozen.images.rows(numbers) for split, numbers in rows.items()}
        else:
            rare = [rows["train"][data.labels[rows["train"]] == label][:1] for label in range(len(data.class_names))]
            rows = {split: _evenly(numbers, _MEASURED_IMAGES) for split, numbers in rows.items()}
            rows["train"] = np.union1d(rows["train"], np.concatenate(rare))  # an even choice may miss a rare class
            features = {split: self._tuned_features(data, frozen, model(), numbers) for split, numbers in rows.items()}
            standardisation = Standardisation.fit(features["train"])
        mean, deviation = standardisation.mean, standardisation.deviation
        distance = Distance.fit(features["train"], data.labels[rows["train"]], features["val"], mean, deviation)
        return saved.seen_images(data.manifest["sha256"], data.manifest["split"]) | distance.arrays()

    def _tuned_features(self, data: Dataset, frozen: Frozen, model: keras.Model, rows: np.ndarray) -> Features:
        """Compute the features of some images by the fine-tuned model; they are not cached."""
        import keras

        from hairline.model.features import compute

        table = data.manifest.iloc[rows]
        return compute(
            table["path"].tolist(),
            table["sha256"].tolist(),
            # By TensorFlow: converting the model would take longer than a thousand images do.
            replace(frozen.recipe, weights="fine-tuned", engine="tensorflow"),
            lambda: keras.Model(model.input, model.get_layer("features").output),
            keep=False,
            threads=self.runtime.threads,
            label="features of the fine-tuned model",
        )


def _evenly(rows: np.ndarray, most: int) -> np.ndarray:
    """Return at most `most` of some row numbers, evenly spread over their order."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(np.int64))]
