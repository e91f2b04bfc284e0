"""Start from a finished run and adapt it to a few labelled images of a new surface: `train.py base=<run>`.

The base's backbone stays; its head and threshold move as far as cross-validation over the new images supports. The
base's own images are not needed.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import expit

from hairline import config, tracking
from hairline.config import arguments
from hairline.data import augmentation, classes, manifest
from hairline.data.prepare import Dataset
from hairline.model import saved
from hairline.model.decision import Decision
from hairline.model.engine import EngineName
from hairline.model.predictions import Predictions, probabilities
from hairline.model.saved import Bundle
from hairline.system.errors import HairlineError
from hairline.training.head import FitSettings, Frozen, Head, Hooks, Views

if TYPE_CHECKING:
    import keras

    from hairline.model.features import Recipe

log = logging.getLogger(__name__)


class BaseError(HairlineError):
    """A finished run that cannot be adapted to the images."""


@dataclass(frozen=True)
class Base:
    """A finished run that is adapted.

    Attributes:
        parts: Its backbone and last layer.
        engine: Engine of the feature pass.
        seed: Seed of the cross-validation.
    """

    parts: saved.Parts
    engine: EngineName
    seed: int

    @classmethod
    def of(cls, run: str, uri: str | None, *, engine: EngineName, seed: int) -> Base:
        """Open the saved model that `run` names, in the store at `uri` where it is an MLflow run or model."""
        folder = tracking.find(run, uri, key="base")
        return cls(saved.Parts(folder), engine, seed)

    @property
    def bundle(self) -> Bundle:
        """Description of the saved model."""
        return self.parts.bundle

    @property
    def origin(self) -> str:
        """Where the backbone's weights come from."""
        return self.bundle.backbone["weights"]

    @functools.cached_property
    def recipe(self) -> Recipe:
        """How the features are computed."""
        return self.parts.recipe(self.engine)

    @property
    def converted(self) -> Path | None:
        """The converted backbone, which the base holds; None if it does not."""
        return self.parts.converted

    @property
    def builder(self) -> Callable[[], keras.Model]:
        """Loads the base's backbone."""
        return functools.partial(saved.load_backbone, self.parts.folder, self.bundle)

    def check(self, data: Dataset) -> Dataset:
        """Return the images with the base's positive class.

        Raises:
            BaseError: If the images have other classes than the base.
        """
        known = self.bundle.class_names
        if data.class_names != known:
            missing = ", ".join(manifest.printable(name) for name in known if name not in data.class_names)
            hint = f"Map them with {classes.class_map_hint(data.class_names, known)}"
            if set(data.class_names) < set(known):
                hint = f"Add images of {missing}"
            raise BaseError(
                f"the images have the classes {', '.join(map(manifest.printable, data.class_names))}; the base knows "
                f"{', '.join(map(manifest.printable, known))} and needs images of each. {hint}, or train without base="
            )
        test = data.rows("test")
        splits = saved.seen_splits(self.parts.folder, data.manifest["sha256"].iloc[test])
        seen = int(np.isin(splits, ["train", "val"]).sum())
        if seen:
            log.warning(
                "WARNING: %d of the %d test images were among the base's training or validation images: test figures "
                "will be too good",
                seen,
                len(test),
            )
        return replace(data, positive=self.bundle.positive)

    def views(self, data: Dataset, augment: config.Augment) -> Views:
        """Return the orientations of the images that the head is fitted to; `augment` is without effect (`checks`)."""
        from hairline.model.logistic import MOST_ORIENTED

        rows = _fitted_rows(data)
        count = len(augmentation.orientations(len(data.class_names), data.positive))
        return Views(rows, [{"recipe": augmentation.RECIPE}] * count if len(rows) <= MOST_ORIENTED else [])

    def head(self, data: Dataset, frozen: Frozen, settings: FitSettings, hooks: Hooks) -> Head:
        """Refit the base's head to all images except the test split.

        It takes a second, so no epoch is reported and nothing is saved in between.

        Returns:
            The head with the base's standardisation, out-of-fold logits of the images it was fitted to, and a history
            of one row.
        """
        from hairline.model.head import Linear, Standardisation
        from hairline.model.logistic import refit

        started = time.perf_counter()
        rows = _fitted_rows(data)
        labels = data.labels[rows]
        features = frozen.reference.read().reshape(frozen.views, len(rows), -1)
        standardisation = Standardisation(self.parts.statistics["mean"], self.parts.statistics["deviation"])
        mean, deviation = standardisation.mean, standardisation.deviation
        kernel, bias = self.parts.dense_at_threshold
        fitted = refit(
            features[0],
            labels,
            data.manifest["group"].iloc[rows].tolist(),
            kernel=kernel,
            bias=bias,
            mean=mean,
            deviation=deviation,
            seed=self.seed,
            views=features[1:],
        )
        weights = (fitted.kernel * deviation[:, None], fitted.bias + mean @ fitted.kernel)
        linear = Linear(standardisation, *(weight.astype(np.float32) for weight in weights))
        logits = linear.logits(frozen.images)
        row = _history_row(logits[rows], fitted.held_out, labels)
        logits[rows] = fitted.held_out.astype(np.float32)
        if fitted.kept:
            log.warning(
                "WARNING: nearly all of the %d labels contradict %s or its ranking, or a class has none: its head is "
                "kept as it is. Check the labels, and add images that the base is right about",
                len(rows),
                self.parts.folder,
            )
        else:
            log.info(
                "refitted the head of %s to %d images%s, factor %.2f on its scores: out-of-fold accuracy %.4f, "
                "log loss %.4f",
                self.parts.folder,
                len(rows),
                f" in {frozen.views} orientations" if frozen.views > 1 else "",
                fitted.scale,
                row["val_accuracy"],
                row["val_loss"],
            )
        history = pd.DataFrame([{"phase": "refit", "epoch": 1} | row | {"seconds": time.perf_counter() - started}])
        return Head(linear, logits, history)

    def decide(
        self, predictions: Predictions, settings: config.Decision, *, resamples: int, share: float | None = None
    ) -> Decision:
        """Choose temperature and threshold on the out-of-fold logits.

        The threshold's interval is always computed: these sets are small, and its width matters most there. Being sure
        of a recall of 0.99 takes hundreds of groups of positive images. With too few, the threshold stays at 0.5, which
        is the base's threshold before the fit, and the probabilities are those of the fit: a few labels, chosen for
        what they teach, say little about calibration.
        """
        from hairline.evaluation import thresholds

        chosen: dict[str, Any] = arguments(settings)
        fitted = predictions.select(predictions.split != "test")
        if settings.threshold == "recall" and share is not None and fitted.positive is not None:
            return _decide_at_share(fitted, chosen, share)
        decision = thresholds.choose_decision(fitted, **chosen)
        point = decision.point
        if point is None or point.reached is not False or point.needed is None or point.groups >= point.needed:
            return decision
        log.info(
            "threshold 0.5: too few groups of positive images to be sure of a recall of %g (%d needed, %d available)",
            settings.target_recall,
            point.needed,
            point.groups,
        )
        return thresholds.choose_decision(
            fitted, **(chosen | {"threshold": 0.5, "calibration": "none", "rule": "even"})
        )

    def describe(self) -> dict[str, str]:
        """Return the description of the base's backbone."""
        return dict(self.bundle.backbone)

    def statistics(
        self, data: Dataset, frozen: Frozen, head: Head, model: Callable[[], keras.Model]
    ) -> dict[str, np.ndarray]:
        """Return the base's arrays, extended by the run's images."""
        arrays, distance = self.parts.statistics, self.parts.distance
        seen = saved.merge_seen(arrays, saved.seen_images(data.manifest["sha256"], data.manifest["split"]))
        return arrays | seen | ({} if distance is None else distance.including(frozen.images).arrays())


def _decide_at_share(fitted: Predictions, chosen: dict[str, Any], share: float) -> Decision:
    """Choose the threshold of the highest balanced accuracy on a surface of which selected tiles were labelled.

    Args:
        fitted: Out-of-fold predictions of the tiles.
        chosen: Keyword arguments of `choose_decision`; the threshold is replaced.
        share: Share of the positive class among all tiles of the surface.
    """
    from hairline.evaluation import prevalence, thresholds

    assert fitted.positive is not None
    even = thresholds.choose_decision(fitted, **chosen | {"threshold": 0.5}, resamples=0)
    hits = fitted.labels == fitted.positive
    margin = prevalence.threshold_margin(prevalence.margin(fitted.logits, fitted.positive), hits, share)
    threshold = float(np.clip(expit(margin / even.temperature), 1e-6, 1 - 1e-6))
    log.info(
        "threshold %.4g: where a tile is as likely %s as the average tile, which the labels put at %.1f %%",
        threshold,
        manifest.printable(str(fitted.positive_class)),
        100 * share,
    )
    return thresholds.choose_decision(fitted, **chosen | {"threshold": threshold, "rule": "share"})


def _fitted_rows(data: Dataset) -> np.ndarray:
    """Return the rows that the head is fitted to."""
    return np.flatnonzero(data.manifest["split"] != "test")


def _history_row(logits: np.ndarray, out_of_fold: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return loss and accuracy on the fitted images, and out-of-fold as `val_loss` and `val_accuracy`."""
    from hairline.evaluation import metrics

    row: dict[str, float] = {}
    for prefix, scores in (("", logits), ("val_", out_of_fold)):
        measured = metrics.classification_metrics(labels, probabilities(scores), positive=None)
        row |= {f"{prefix}{key}": measured[key] for key in ("loss", "accuracy")}
    return row | {"learning_rate": 0.0}
