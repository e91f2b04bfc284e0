"""Using a finished run: find its saved model, load it, predict."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from hairline.data import images
from hairline.model import predictions, surface
from hairline.model.bundle import (
    BUNDLE,
    FEATURES,
    MODEL,
    Bundle,
    BundleError,
    load_model,
    read_statistics,
    seen_images,
    verify,
)
from hairline.model.bundle import read as read_bundle
from hairline.model.bundle import save as save_model
from hairline.model.bundle import seen_both as merge_seen
from hairline.model.bundle import splits_of as seen_splits
from hairline.model.engine import EngineName, choose_engine
from hairline.model.familiarity import Distance
from hairline.model.features import Recipe
from hairline.system import tensorflow

__all__ = [
    "BUNDLE",
    "Bundle",
    "BundleError",
    "Classifier",
    "FEATURES",
    "MODEL",
    "Parts",
    "load_model",
    "merge_seen",
    "named_picture",
    "read_bundle",
    "read_statistics",
    "save_model",
    "seen_images",
    "seen_splits",
    "verify",
]


class Classifier:
    """A saved model, ready to predict.

    Attributes:
        bundle: What the model expects and gives.
        model: The Keras model, uint8 RGB in, probabilities out.
    """

    def __init__(self, folder: Path) -> None:
        """Load the saved model that lies in `folder`."""
        self.bundle = read_bundle(folder)
        with tensorflow.quiet_import():
            self.model: Any = load_model(folder, self.bundle)

    def predict(
        self, sources: str | os.PathLike[str] | bytes | np.ndarray | Iterable[Any], *, batch_size: int = 32
    ) -> pd.DataFrame:
        """Classify whole images.

        Args:
            sources: One image or many: paths, encoded image bytes, or uint8 RGB arrays [height, width, 3].
            batch_size: Images a step.

        Returns:
            One row an image: `path` (empty for bytes and arrays), `x`, `y`, `width`, `height` in pixels of the
            source, `label` (empty: the truth is not known), `predicted`, and `prob_<class>` for each class.

        Raises:
            ImageError: If one cannot be read.
        """
        one_array = isinstance(sources, np.ndarray) and sources.ndim == 3
        single = one_array or isinstance(sources, str | os.PathLike | bytes)
        items = [sources] if single else list(sources)  # type: ignore[arg-type]
        rows, parts = [], []
        for start in range(0, len(items), batch_size):
            batch = [self._pixels(item) for item in items[start : start + batch_size]]
            for item, (_, width, height) in zip(items[start : start + batch_size], batch, strict=True):
                path = os.fspath(item) if isinstance(item, str | os.PathLike) else ""
                rows.append({"path": path, "x": 0, "y": 0, "width": width, "height": height, "label": ""})
            parts.append(self.model.predict_on_batch(np.stack([pixels for pixels, _, _ in batch])))
        classes = len(self.bundle.class_names)
        found = np.concatenate(parts) if parts else np.empty((0, classes), np.float32)
        table = pd.DataFrame(rows, columns=["path", "x", "y", "width", "height", "label"], dtype=object)
        table = table.astype({name: np.int64 for name in ("x", "y", "width", "height")})
        return predictions.table(table, self.bundle.decide(found), found, self.bundle.class_names)

    def _pixels(self, source: Any) -> tuple[np.ndarray, int, int]:
        picture = named_picture(source)
        return images.resize(picture, self.bundle.image_size), picture.width, picture.height


def named_picture(source: str | os.PathLike[str] | bytes | np.ndarray) -> Image.Image:
    """Open an image given as a path, encoded bytes or uint8 RGB array; an error names it.

    Raises:
        ImageError: If it cannot be read.
    """
    try:
        return images.upright(source)
    except images.ImageError as error:
        if isinstance(source, np.ndarray):
            raise
        name = "the bytes given" if isinstance(source, bytes) else os.fspath(source)
        raise images.ImageError(f"{name}: {error}") from error


class Parts:
    """A saved model in its two parts: what makes the features of an image, and the layer that reads them.

    The file is opened once, and only if it is needed: kept features need no network.
    """

    def __init__(self, folder: Path) -> None:
        """Read the description of the saved model in `folder`, and check the model's digest."""
        self.folder, self.bundle = folder, read_bundle(folder)
        verify(folder, self.bundle)

    @functools.cached_property
    def model(self) -> Any:
        """The Keras model, uint8 RGB in, probabilities out."""
        with tensorflow.quiet_import():
            return load_model(self.folder, self.bundle)

    @functools.cached_property
    def backbone(self) -> Any:
        """The model up to its features."""
        import keras

        return keras.Model(self.model.input, self.model.get_layer("features").output, name=self.model.name)

    @functools.cached_property
    def dense(self) -> tuple[np.ndarray, np.ndarray]:
        """Kernel float32 [width, classes] and bias float32 [classes] from features to calibrated logits."""
        kernel, bias = (np.asarray(weight, np.float32) for weight in self.model.get_layer("logits").get_weights())
        return kernel, bias

    def adapted(self, features: np.ndarray) -> surface.Adapted:
        """Adapt the last layer to the features of a new surface, float32 [n, width].

        Raises:
            SurfaceError: If the model has no threshold to move, or does not say what it was trained on.
        """
        bundle, distance = self.bundle, Distance.from_arrays(read_statistics(self.folder))
        if bundle.threshold is None or bundle.positive_class is None or len(bundle.class_names) != 2:
            raise surface.SurfaceError(
                f"adapt=surface moves the threshold between two classes; this model knows "
                f"{', '.join(bundle.class_names)}, without a threshold: leave adapt out"
            )
        if distance is None:
            raise surface.SurfaceError(
                "adapt=surface needs to know what the model was trained on, and this saved model does not say: train "
                "it anew, or leave adapt out"
            )
        kernel, bias = self.dense
        positive = bundle.class_names.index(bundle.positive_class)
        return surface.adapt(
            features, distance=distance, kernel=kernel, bias=bias, positive=positive, threshold=bundle.threshold
        )

    def recipe(self, engine: EngineName) -> Recipe:
        """Say how the features are made: those of a frozen backbone are shared with its training and its other heads.

        Whatever was fine-tuned has features of its own.
        """
        about = self.bundle.backbone
        tuned = about.get("finetuned", "none") != "none"
        return Recipe(
            about["name"],
            self.bundle.model_sha256 if tuned else about["weights_digest"],
            self.bundle.image_size,
            choose_engine(engine, self.bundle.precision),
            taps=tuple(about["taps"].split()),
            precision=self.bundle.precision,
        )
