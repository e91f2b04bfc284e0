"""Distance of images from the training images, in feature space: of single images, and of a set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from hairline.model.features import Features

COMPONENTS = 64  # principal components with a variance of their own; the rest is isotropic noise
QUANTILE = 0.99  # share of validation images at a distance of at most 1
SET_IMAGES, SET_QUANTILE = 64, 0.95  # size of a validation set, and share of these sets at a distance of at most 1
LEAST_SET = 8  # images; the mean of fewer is too noisy
_LEAST_SET_LIMIT = 0.1
_SAMPLE = 2048  # training images that the components are computed from


@dataclass(frozen=True)
class Distance:
    """Statistics of the training features, for the distance of other images.

    A single image's distance is the Mahalanobis distance under probabilistic PCA (Tipping & Bishop 1999): large if the
    image varies in directions in which the training images do not. The distance of a set of images, for example the
    tiles of a photo, is that of its mean, which reveals much smaller differences than any single image.

    Attributes:
        mean: float32 [width].
        deviation: float32 [width], above 0.
        components: float32 [k, width], orthonormal directions of the standardised features.
        variances: float32 [k], along the components.
        noise: Variance along all other directions, float64 [].
        limit: `QUANTILE` of the validation images' squared distance per feature, float64 [].
        class_means: Class means of the standardised training features, float32 [classes, width].
        set_limit: `SET_QUANTILE` of the validation sets' mean shift, float64 [].
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
        """Fit the Gaussian to training features and the limits to validation features.

        Args:
            train: Features of the training images, without synthetic ones.
            labels: Their classes, int64 [n]; every class occurs.
            val: Features of the validation images in file order: neighbours often show one photo or surface.
            mean: Mean of the training features, float32 [width].
            deviation: Their deviation, float32 [width].
        """
        sample = np.unique(np.linspace(0, len(train) - 1, min(_SAMPLE, len(train))).astype(np.int64))
        # Add the first image of each class: an even sample may miss a rare class.
        sample = np.union1d(sample, [np.flatnonzero(labels == index)[0] for index in range(labels.max() + 1)])
        table = (train.read(sample) - mean) / deviation
        means = [table[labels[sample] == index].mean(axis=0) for index in range(labels.max() + 1)]
        count = min(COMPONENTS, min(table.shape) // 2)  # as many components as images would leave no noise
        variances, directions, rest = _principal_components(table, count)
        noise = max(rest / max(1, len(mean) - count), 1e-6)
        distance = cls(
            mean=mean,
            deviation=deviation,
            # Rounded as in the saved model, so that the limits below fit the distances it computes.
            components=directions.astype(np.float16).astype(np.float32),
            variances=np.maximum(variances, noise).astype(np.float32),
            noise=np.array(noise),
            limit=np.array(1.0),
            class_means=np.array(means, np.float16).astype(np.float32),
            set_limit=np.array(1.0),
        )
        squared = np.concatenate([distance.squared(block) for block in val.blocks()])
        size = max(2, min(SET_IMAGES, len(val) // LEAST_SET))
        starts = range(0, max(1, len(val) - size + 1), size)
        shifts = [distance.mean_shift(val.read(slice(start, start + size))) for start in starts]
        return replace(
            distance,
            limit=np.quantile(squared, QUANTILE),
            set_limit=np.maximum(np.quantile(shifts, SET_QUANTILE), _LEAST_SET_LIMIT),
        )

    def including(self, features: Features) -> Distance:
        """Return the distance with limits raised so that these images lie within them, as validation images do."""
        table = features.read()
        limit = np.maximum(self.limit, np.quantile(self.squared(table), QUANTILE))
        shift = self.mean_shift(table) if len(table) >= LEAST_SET else 0.0
        return replace(self, limit=limit, set_limit=np.maximum(self.set_limit, shift))

    @classmethod
    def from_arrays(cls, statistics: Mapping[str, NDArray[Any]]) -> Distance | None:
        """Load from the arrays of a saved model's `features.npz`; None if an older version saved none."""
        keys = {name: _key(name) for name in _NAMES}
        if not set(keys.values()) <= set(statistics):
            return None
        arrays: dict[str, Any] = {name: np.asarray(statistics[key]) for name, key in keys.items()}
        return cls(**{name: array.astype(np.float32) if array.ndim else array for name, array in arrays.items()})

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays for `from_arrays`, mean and deviation included."""
        arrays = {name: np.asarray(getattr(self, name)) for name in _NAMES}
        half = ("components", "class_means")
        return {_key(name): array.astype(np.float16) if name in half else array for name, array in arrays.items()}

    def squared(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return each row's squared Mahalanobis distance divided by the number of features, float64 [n]."""
        table = (features - self.mean) / self.deviation
        along = (table @ self.components.T).astype(np.float64)
        residual = np.maximum(np.square(table, dtype=np.float64).sum(axis=1) - np.square(along).sum(axis=1), 0.0)
        squared = np.square(along) @ (1 / self.variances.astype(np.float64)) + residual / self.noise
        return np.asarray(squared / len(self.mean))

    def __call__(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the distance of single images; 1 = 99th percentile of validation images.

        Args:
            features: float32 [n, width].

        Returns:
            float32 [n].
        """
        return np.sqrt(self.squared(features) / self.limit).astype(np.float32)

    def mean_shift(self, features: NDArray[np.float32]) -> float:
        """Return the root mean square, over features, of a set's mean minus the training mean, in training deviations.

        Directions in which the class means differ are projected out, so that the share of cracks has no effect. The
        sampling variance of the mean is subtracted.
        """
        table = (features - self.mean) / self.deviation
        centre = self.class_means.mean(axis=0)
        between = np.linalg.qr((self.class_means[1:] - centre).T)[0]
        shift = table.mean(axis=0) - centre
        shift = shift - between @ (between.T @ shift)
        chance = float(table.var(axis=0, ddof=1).mean()) / len(table) if len(table) > 1 else 0.0
        return float(np.sqrt(max(float(np.mean(np.square(shift))) - chance, 0.0)))

    def of_set(self, features: NDArray[np.float32]) -> float:
        """Return the distance of a set, for example a photo's tiles; 1 = 95th percentile of validation sets.

        This is the median distance of its images or, if that is larger and the set has `LEAST_SET` images, the
        distance of their mean.
        """
        median = float(np.median(self(features)))
        if len(features) < LEAST_SET:
            return median
        return max(median, self.mean_shift(features) / float(self.set_limit))


def _principal_components(
    table: NDArray[np.float32], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float32], float]:
    """Return the largest eigenvalues and their eigenvectors of the second moments about 0, and the others' sum.

    An eigendecomposition of the smaller Gram matrix takes a fraction of a second; a singular value decomposition takes
    ten.

    Returns:
        float64 [count], descending; float32 [count, width]; the sum of the other eigenvalues.
    """
    wide = table.shape[1] > table.shape[0]
    product = (table @ table.T if wide else table.T @ table).astype(np.float64) / len(table)
    size = len(product)
    none = np.empty(0), product[:, :0]
    values, vectors = linalg.eigh(product, subset_by_index=[size - count, size - 1]) if count else none
    values, directions = np.maximum(values[::-1], 0.0), vectors[:, ::-1].astype(np.float32)
    if wide:
        directions = table.T @ directions
        directions = directions / np.maximum(np.linalg.norm(directions, axis=0), 1e-12)
    return values, directions.T, max(float(np.trace(product) - values.sum()), 0.0)


_NAMES = [field.name for field in fields(Distance)]


def _key(name: str) -> str:
    """Return a field's key in `features.npz`."""
    return name if name in ("mean", "deviation") else f"distance_{name}"
