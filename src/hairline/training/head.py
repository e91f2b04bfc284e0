"""The frozen features of all images, and the head that is trained on them.

TensorFlow takes seconds to import, so whatever needs it is imported inside the functions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from hairline.config import Augment, FeatureSettings, Optimizer, Schedule, arguments
from hairline.data import augmentation
from hairline.data.decoded import Decoded
from hairline.data.prepare import Dataset
from hairline.model.head import Linear, Standardisation, Standardised
from hairline.model.predictions import Predictions
from hairline.system import errors
from hairline.system.signals import Signals
from hairline.training.checkpoint import Checkpoint

if TYPE_CHECKING:
    import keras

    from hairline.model.features import Features, Recipe

OnEpoch = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Frozen:
    """A frozen network and the outputs it computed.

    Attributes:
        recipe: How the features are computed.
        images: Features of all images without augmentation.
        reference: All views of the images that a head is fitted to, one view after another, or the plain images where
            every epoch has fresh views. The standardisation of a new head is computed from them.
        training: Returns the features that an epoch is fitted to: the same views every epoch, or fresh ones.
        views: Number of views of each image in `reference`, itself included.
        fresh: Whether each epoch has views of its own.
    """

    recipe: Recipe
    images: Features
    reference: Features
    training: Callable[[int], Features]
    views: int
    fresh: bool = False

    @functools.cached_property
    def standardised(self) -> Standardised:
        """All images, standardised for a head that is trained on all training images."""
        return Standardised(Standardisation.fit(self.reference), self.images)


@dataclass(frozen=True)
class Views:
    """Further views of images, besides the images themselves.

    Attributes:
        rows: The images that a head is fitted to, int64 [n].
        settings: `Recipe.augment` of view 1, view 2 and so on.
        fresh: Whether each epoch has a view of its own, drawn as `settings` says for view 1.
    """

    rows: np.ndarray
    settings: list[dict[str, Any]]
    fresh: bool = False

    @classmethod
    def drawn(cls, rows: np.ndarray, augment: Augment) -> Views:
        """Return the views of some images that the configuration group `augment` asks for."""
        settings = {**arguments(augment, "mode", "views"), "recipe": augmentation.RECIPE}
        fresh = augment.mode == "fresh"
        return cls(rows, [settings] * (1 if fresh else augment.views - 1), fresh)


@dataclass(frozen=True)
class Head:
    """A trained head and what it computed.

    Attributes:
        linear: From features to logits.
        logits: Logits of all images, float32 [n, classes]; out-of-fold where cross-validation was used.
        history: One row per epoch.
    """

    linear: Linear
    logits: np.ndarray
    history: pd.DataFrame

    def predictions(self, data: Dataset) -> Predictions:
        """Return the predictions for the images of the source; drawn images would count in the training accuracy."""
        rows = data.manifest.iloc[data.real]
        return Predictions(
            labels=data.labels[data.real],
            logits=self.logits[data.real],
            class_names=data.class_names,
            positive=data.positive,
            groups=rows["group"].to_numpy(),
            split=rows["split"].to_numpy(),
        )


@dataclass(frozen=True)
class FitSettings:
    """How a head is trained; fine-tuning replaces epochs, batch size and learning rate.

    Attributes:
        optimizer: Configuration group `optimizer`.
        schedule: Configuration group `schedule`.
        epochs: Passes over the training images, at most.
        batch_size: Images per step.
        learning_rate: Highest learning rate.
        dropout: Share of features that are dropped in each training step.
        label_smoothing: Share of the probability that is spread over all classes.
        balanced: Weight each class equally in the loss.
        drawn_weight: Weight of a drawn or cropped image in the loss; a real image weighs 1.
        seed: Seed of weights, dropout and the order of images.
    """

    optimizer: Optimizer
    schedule: Schedule
    epochs: int
    batch_size: int
    learning_rate: float
    dropout: float
    label_smoothing: float
    balanced: bool
    drawn_weight: float
    seed: int

    def steps(self) -> dict[str, Any]:
        """Return the keyword arguments of a trainer that follow from the settings."""
        return {
            "epochs": self.epochs,
            "learning_rate": self.learning_rate,
            "optimizer": arguments(self.optimizer),
            "schedule": arguments(self.schedule, "patience", "keep"),
        }

    def course(self) -> dict[str, Any]:
        """Return the keyword arguments of `epochs.fit` that follow from the settings."""
        return {"epochs": self.epochs, "patience": self.schedule.patience, "keep": self.schedule.keep}

    def targets(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """Return the probabilities that the loss asks for, float32 [n, classes]: one-hot, or smoothed."""
        smoothed = np.eye(classes) * (1 - self.label_smoothing) + self.label_smoothing / classes
        return np.asarray(smoothed[labels], np.float32)


@dataclass(frozen=True)
class Hooks:
    """What happens after each epoch.

    Attributes:
        on_epoch: Called with the epoch's number and metrics.
        state: Saves the epoch, and resumes from it; None: nothing is saved.
        signals: Checked for a request to stop.
    """

    on_epoch: OnEpoch = lambda epoch, row: None
    state: Checkpoint | None = None
    signals: Signals = field(default_factory=Signals)

    def course(self, phase: str) -> dict[str, Any]:
        """Return the keyword arguments of `epochs.fit` for a phase."""
        state = None if self.state is None else self.state.phase(phase)
        return {"phase": phase, "on_epoch": self.on_epoch, "state": state, "signals": self.signals}


@dataclass(frozen=True)
class PassSettings:
    """How images are passed through a frozen network.

    Attributes:
        augment: Configuration group `augment`.
        features: Configuration group `features`.
        threads: CPU threads; None for all cores.
        epochs: Number of epochs that will read fresh views.
        max_gigabytes: Size of the file that holds decoded images for fresh views.
        ray: Address and number of workers of the Ray cluster that computes what is cached; None: this process.
    """

    augment: Augment
    features: FeatureSettings
    threads: int | None
    epochs: int
    max_gigabytes: float
    ray: dict[str, Any] | None


def frozen_features(
    data: Dataset,
    network: Callable[[], keras.Model],
    recipe: Recipe,
    settings: PassSettings,
    *,
    views: Views | None = None,
    label: str = "features",
    converted: Callable[[], Path] | None = None,
) -> Frozen:
    """Pass all images, and further views of some of them, through a frozen network.

    Args:
        data: The images.
        network: Builds the network; called only if some output is not in the cache.
        recipe: How the outputs are computed.
        settings: Augmentation, cache and threads.
        views: Which views of which images; None: those of the training images that the augmentation asks for.
        label: Description for the progress bar.
        converted: Returns the converted network, where a saved model holds it or another process makes it.
    """
    from hairline.model.features import Features, compute

    views, cache = views or Views.drawn(data.rows("train"), settings.augment), settings.features

    def outputs(
        view: int, varied: dict[str, Any], rows: np.ndarray, keep: bool, suffix: str, decoded: Decoded | None = None
    ) -> Features:
        table = data.manifest.iloc[rows]
        return compute(
            table["path"].tolist(),
            table["sha256"].tolist(),
            replace(recipe, view=view, augment=varied),
            network,
            converted=converted,
            keep=keep,
            threads=settings.threads,
            ray=settings.ray if keep else None,  # views that are not cached are needed here, in order
            label=label + suffix,
            decoded=decoded,
        )

    everything = outputs(0, {}, np.arange(len(data.manifest)), cache.keep, "")
    if views.fresh:
        room = settings.max_gigabytes if cache.keep and settings.epochs > 1 else 0.0
        decoded = Decoded(len(views.rows), recipe.image_size, max_gigabytes=room)

        def fresh(epoch: int) -> Features:
            return outputs(epoch, views.settings[0], views.rows, False, f", epoch {epoch}", decoded)

        return Frozen(recipe, everything, everything.rows(views.rows), fresh, views=1, fresh=True)
    count = 1 + len(views.settings)
    further = [
        outputs(view, varied, views.rows, cache.keep, f", view {view + 1}/{count}")
        for view, varied in enumerate(views.settings, start=1)
    ]
    joined = Features.joined([everything.rows(views.rows), *further])
    return Frozen(recipe, everything, joined, lambda epoch: joined, count)


def train_head(
    data: Dataset,
    frozen: Frozen,
    settings: FitSettings,
    *,
    part: np.ndarray | None = None,
    hooks: Hooks | None = None,
) -> Head:
    """Train a head on the features of the training images.

    Args:
        data: The images.
        frozen: Their features.
        settings: How to train.
        part: Positions, among the training images, of those to train on, int64; None: all.
        hooks: What happens after each epoch; None: nothing, and no epoch is logged.
    """
    train, val, classes = data.rows("train"), data.rows("val"), len(data.class_names)
    everything, chosen = frozen.standardised, np.arange(len(train) * frozen.views)
    if part is not None:
        chosen = np.concatenate([part + view * len(train) for view in range(frozen.views)])
        everything = Standardised(Standardisation.fit(frozen.reference.rows(chosen)), frozen.images)
    weights = row_weights(data, settings, views=frozen.views)
    fit = _fit_to_convergence if settings.optimizer.name == "lbfgs" else _fit_by_epochs
    linear, history = fit(
        everything,
        frozen,
        train,
        chosen,
        settings.targets(np.tile(data.labels[train], frozen.views)[chosen], classes),
        None if weights is None else weights[chosen],
        (frozen.images.rows(val), settings.targets(data.labels[val], classes)),
        settings,
        hooks or Hooks(),
        verbose=hooks is not None,
    )
    return Head(linear, everything.logits(linear.kernel, linear.bias), history)


def _fit_by_epochs(
    everything: Standardised,
    frozen: Frozen,
    train: np.ndarray,
    chosen: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray | None,
    val: tuple[Features, np.ndarray],
    settings: FitSettings,
    hooks: Hooks,
    *,
    verbose: bool,
) -> tuple[Linear, pd.DataFrame]:
    """Fit a head by mini-batches.

    Args:
        everything: All images, standardised.
        frozen: Their features.
        train: Rows of the training images.
        chosen: Positions, among the training images and their further views, of those to fit.
        targets: Of these, float32 [n, classes].
        weights: Of these, float32 [n]; None: all 1.
        val: Features and targets of the validation images.
        settings: How to train.
        hooks: What happens after each epoch.
        verbose: Log each epoch.

    Returns:
        The head, and the history.
    """
    from hairline.training import epochs
    from hairline.training.head_trainer import HeadTrainer

    val_features, val_targets = val
    # One thread: more gain nothing on such matrices, and would fight with the other jobs of a parallel sweep.
    with errors.advised("batch_size", settings.batch_size), threadpool_limits(1, "blas"):
        trainer = HeadTrainer(
            *_training(everything, frozen, train, chosen),
            targets,
            Standardised(everything.standardisation, val_features),
            val_targets,
            weights=weights,
            batch_size=settings.batch_size,
            dropout=settings.dropout,
            seed=settings.seed,
            **settings.steps(),
        )
        history = epochs.fit(trainer, verbose=verbose, **settings.course(), **hooks.course("head"))
    return trainer.linear, history


def _training(
    everything: Standardised, frozen: Frozen, train: np.ndarray, chosen: np.ndarray
) -> tuple[Callable[[int], Standardised], np.ndarray]:
    """Return the standardised training features of an epoch, and the rows of `chosen` in them, int64 [n].

    Args:
        everything: All images, standardised.
        frozen: Their features.
        train: Rows of the training images.
        chosen: Positions among the training images and their further views.
    """
    if frozen.fresh:
        return lambda epoch: Standardised(everything.standardisation, frozen.training(epoch)), chosen
    if frozen.views == 1:
        return lambda epoch: everything, train[chosen]
    views = Standardised(everything.standardisation, frozen.reference)
    return lambda epoch: views, chosen


def _fit_to_convergence(
    everything: Standardised,
    frozen: Frozen,
    train: np.ndarray,
    chosen: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray | None,
    val: tuple[Features, np.ndarray],
    settings: FitSettings,
    hooks: Hooks,
    *,
    verbose: bool,
) -> tuple[Linear, pd.DataFrame]:
    """Fit a head by L-BFGS on features that are read into memory; it takes seconds, so no state is saved.

    Arguments and result are those of `_fit_by_epochs`.
    """
    from hairline.training import solve

    standardisation, (val_features, val_targets) = everything.standardisation, val
    solution, history = solve.solve(
        (standardisation.apply(frozen.training(1).read(chosen)), targets),
        (standardisation.apply(val_features.read()), val_targets),
        weights,
        **arguments(settings.optimizer, "name"),
        keep=settings.schedule.keep,
        verbose=verbose,
        on_epoch=hooks.on_epoch,
        signals=hooks.signals,
    )
    fitted = (solution.kernel.astype(np.float32), solution.bias.astype(np.float32))
    return Linear(standardisation, *fitted), history


def row_weights(data: Dataset, settings: FitSettings, *, views: int = 1) -> np.ndarray | None:
    """Return the weight of each view of a training image, float32 [views * n], 1 on average; None: all 1."""
    from sklearn.utils.class_weight import compute_sample_weight

    rows = data.rows("train")
    weights = compute_sample_weight("balanced" if settings.balanced else None, data.labels[rows])
    weights[~np.isin(rows, data.real)] *= settings.drawn_weight
    if (weights == weights[0]).all():
        return None
    return np.asarray(np.tile(weights / weights.mean(), views), np.float32)
