"""How far images lie from those a model was trained on, told by their features alone: one by one, and as a set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hairline.model.features import Features

COMPONENTS = 64  # of the features' variation that are told apart; the rest counts as noise of one strength
QUANTILE = 0.99  # of the validation images lie nearer than what is called unlike them
SET_IMAGES, SET_QUANTILE = 64, 0.95  # the same for sets: so many validation images that follow each other
LEAST_SET = 8  # images: the mean of fewer says little
_LEAST_SET_LIMIT = 0.1
_SAMPLE = 2048  # training images that the components are found from


@dataclass(frozen=True)
class Distance:
    """What is kept of the training features to tell others from them.

    A single image is told by a Gaussian with few directions of its own (probabilistic PCA, Tipping & Bishop 1999): its
    squared Mahalanobis distance is large where it varies as no training image does. A set of images, such as a photo's
    tiles, is told by its mean, which finds much smaller differences than any single image shows.

    Attributes:
        mean: float32 [width].
        deviation: float32 [width], above 0.
        components: float32 [k, width], orthonormal directions of the standardised features.
        variances: float32 [k], along them.
        noise: Variance along all other directions, float64 [].
        limit: Squared distance a feature within which `QUANTILE` of the validation images lie, float64 [].
        class_means: Of the standardised training features, float32 [classes, width].
        set_limit: Distance within which `SET_QUANTILE` of the validation sets lie, float64 [].
    """

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]
    components: NDArray[np.float32]
    variances: NDArray[np.float32]
    noise: NDArray[np.float64]
    limit: NDArray[np.float64]
    class_means: NDArray[np.float32]
    set_limit: NDArray[np.float64]

    @classmethod
    def fit(
        cls,
        train: Features,
        labels: NDArray[np.int64],
        val: Features,
        mean: NDArray[np.float32],
        deviation: NDArray[np.float32],
    ) -> Distance:
        """Measure training features; validation features set the limits.

        Args:
            train: Of the training images, drawn ones left out.
            labels: Their classes, int64 [n]; every class occurs.
            val: Of the validation images, in the order of their files: neighbours often show one photo or surface.
            mean: Of the training features, float32 [width].
            deviation: Of the training features, float32 [width].
        """
        some = np.unique(np.linspace(0, len(train) - 1, min(_SAMPLE, len(train))).astype(np.int64))
        # Every class is among those chosen evenly, unless there are hardly any of it.
        some = np.union1d(some, [np.flatnonzero(labels == index)[0] for index in range(labels.max() + 1)])
        table = (train.read(some) - mean) / deviation
        means = [table[labels[some] == index].mean(axis=0) for index in range(labels.max() + 1)]
        spectrum, directions = _principal(table)
        # With few images, fewer: as many directions as images would leave no noise.
        count = min(COMPONENTS, len(spectrum) // 2)
        noise = max(float(spectrum[count:].sum()) / max(1, len(mean) - count), 1e-6)
        found = cls(
            mean=mean,
            deviation=deviation,
            # Rounded as they are kept, so that the limits are those of the distances which a saved model tells.
            components=directions[:count].astype(np.float16).astype(np.float32),
            variances=np.maximum(spectrum[:count], noise).astype(np.float32),
            noise=np.float64(noise),  # type: ignore[arg-type]
            limit=np.float64(1),  # type: ignore[arg-type]
            class_means=np.array(means, np.float16).astype(np.float32),
            set_limit=np.float64(1),  # type: ignore[arg-type]
        )
        squared = np.concatenate([found.squared(block) for block in val.blocks()])
        size = max(2, min(SET_IMAGES, len(val) // LEAST_SET))
        starts = range(0, max(1, len(val) - size + 1), size)
        apart = [found.mean_shift(val.read(slice(start, start + size))) for start in starts]
        return replace(
            found,
            limit=np.quantile(squared, QUANTILE),
            set_limit=np.maximum(np.quantile(apart, SET_QUANTILE), _LEAST_SET_LIMIT),
        )

    def including(self, features: Features) -> Distance:
        """Take images in among what is known: they lie within the limits afterwards, as validation images do."""
        table = features.read()
        limit = np.maximum(self.limit, np.quantile(self.squared(table), QUANTILE))
        apart = self.mean_shift(table) if len(table) >= LEAST_SET else 0.0
        return replace(self, limit=limit, set_limit=np.maximum(self.set_limit, apart))

    @classmethod
    def from_arrays(cls, statistics: Mapping[str, NDArray[np.generic]]) -> Distance | None:
        """Take it from the arrays of a saved model's `features.npz`; None where an older version left none there."""
        places = {name: _place(name) for name in _NAMES}
        if not set(places.values()) <= set(statistics):
            return None
        found: dict[str, Any] = {name: np.asarray(statistics[place]) for name, place in places.items()}
        return cls(**{name: array.astype(np.float32) if array.ndim else array for name, array in found.items()})

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Give what `read` takes, mean and deviation included."""
        found = {_place(name): np.asarray(getattr(self, name)) for name in _NAMES}
        halved = (_place("components"), _place("class_means"))
        return {name: array.astype(np.float16) if name in halved else array for name, array in found.items()}

    def squared(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Give the squared distance of each row, divided by the number of features, float64 [n]."""
        table = (features - self.mean) / self.deviation
        along = (table @ self.components.T).astype(np.float64)
        beside = np.maximum(np.square(table, dtype=np.float64).sum(axis=1) - np.square(along).sum(axis=1), 0.0)
        squared: NDArray[np.float64] = np.square(along) @ (1 / self.variances.astype(np.float64)) + beside / self.noise
        return squared / len(self.mean)

    def __call__(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Say how far single images lie: 1 is as far as the farthest hundredth of the validation images.

        Args:
            features: float32 [n, width].

        Returns:
            float32 [n].
        """
        return np.sqrt(self.squared(features) / self.limit).astype(np.float32)

    def mean_shift(self, features: NDArray[np.float32]) -> float:
        """Say how far a set's mean lies from the training's, in training deviations, as the mean square over features.

        The directions in which the classes differ don't count: sets of any share of cracks are alike in the others.
        What a mean of so few images varies by chance is subtracted.
        """
        table = (features - self.mean) / self.deviation
        middle = self.class_means.mean(axis=0)
        between = np.linalg.qr((self.class_means[1:] - middle).T)[0]
        shift = table.mean(axis=0) - middle
        shift = shift - between @ (between.T @ shift)
        chance = float(table.var(axis=0, ddof=1).mean()) / len(table) if len(table) > 1 else 0.0
        return float(np.sqrt(max(float(np.mean(np.square(shift))) - chance, 0.0)))

    def of_set(self, features: NDArray[np.float32]) -> float:
        """Say how far images lie that belong together, such as a photo's tiles: 1 is as far as validation sets come.

        The median of the single images where they are few; else that, or the distance of their mean, whichever is more.
        """
        single = float(np.median(self(features)))
        if len(features) < LEAST_SET:
            return single
        return max(single, self.mean_shift(features) / float(self.set_limit))


def _principal(table: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Give the variances float64 [k], falling, and directions float32 [k, width] of a table about 0.

    By the smaller of the two products with itself: a second where a singular value decomposition takes ten.
    """
    wide = table.shape[1] > table.shape[0]
    product = (table @ table.T if wide else table.T @ table).astype(np.float64) / len(table)
    values, vectors = np.linalg.eigh(product)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1].astype(np.float32)
    if wide:
        vectors = table.T @ vectors
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=0), 1e-12)
    return values, vectors.T


_NAMES = [field.name for field in fields(Distance)]


def _place(name: str) -> str:
    return name if name in ("mean", "deviation") else f"distance_{name}"
