"""The saved model: a folder with everything needed to use it.

`model.keras` maps uint8 RGB to calibrated probabilities; `model.tflite` is its network up to the features, as LiteRT
runs it; `bundle.json` describes input, classes and decision; `features.npz` holds the last layer, statistics of the
training features and the digests of the images it has seen.
Evaluation, prediction, labelling, adaptation, export and serving read this folder and nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.special import logit

from hairline.data import images
from hairline.model import surface
from hairline.model.decision import Decision
from hairline.model.engine import ConversionError, EngineName, choose_engine, convert, converted_file
from hairline.model.familiarity import Distance
from hairline.model.features import Recipe
from hairline.model.predictions import names, predictions_table
from hairline.system import cache, files, tensorflow
from hairline.system.errors import HairlineError

if TYPE_CHECKING:
    import pandas as pd

_SPLITS = ("train", "val", "test")
MODEL, CONVERTED = "model.keras", "model.tflite"
BUNDLE, FEATURES, SUMMARY = "bundle.json", "features.npz", "summary.txt"
FORMAT = 2


class BundleError(HairlineError):
    """The folder holds no saved model, or a damaged one, or the model does not support a setting."""


@dataclass
class Bundle:
    """Description of a saved model.

    Attributes:
        class_names: In the order of the probabilities.
        positive_class: Class that the threshold refers to; None: the most probable class is predicted.
        image_size: Input side in pixels.
        decode: Version of the decoding steps (`hairline.data.images.RECIPE`).
        data_digest: Digest of the training manifest.
        backbone: Its name, weights, weights_digest, licence, taps, scaling, precision and finetuned.
        versions: Versions of the libraries at training time.
        decision: How probabilities become answers; the model already applies its temperature.
        model_sha256: Digest of `model.keras`.
        converted_sha256: Digest of `model.tflite`; empty where there is none.
        format: Version of this file's format.
        extra: Further values, such as the size of training patches.
    """

    class_names: list[str]
    positive_class: str | None
    image_size: int
    decode: str
    data_digest: str
    backbone: dict[str, str]
    versions: dict[str, str]
    decision: Decision = field(default_factory=Decision)
    model_sha256: str = ""
    converted_sha256: str = ""
    format: int = FORMAT
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def positive(self) -> int | None:
        """Index of the positive class."""
        return None if self.positive_class is None else self.class_names.index(self.positive_class)

    @property
    def threshold(self) -> float | None:
        """Probability from which the positive class is predicted; None: the most probable class is."""
        return self.decision.threshold

    @property
    def temperature(self) -> float:
        """Temperature of the logits, which the model already applies."""
        return self.decision.temperature

    @property
    def patch_px(self) -> int:
        """Side of the training images in pixels of their photos, which tiles of other photos get."""
        return int(self.extra.get("patch_px", self.image_size))

    @property
    def precision(self) -> str:
        """Data type policy of the network."""
        return self.backbone.get("precision", "float32")

    def decide(self, probabilities: NDArray[Any]) -> list[str]:
        """Return the predicted class name of each row of probabilities, float32 [n, classes]."""
        return names(self.decision.classes(probabilities, self.positive), self.class_names)

    def at(self, threshold: float | None) -> Bundle:
        """Return the bundle with another threshold and no abstain band; None changes nothing.

        Raises:
            BundleError: If the model has no threshold.
        """
        if threshold is None:
            return self
        if self.threshold is None:
            raise BundleError(
                f"threshold={threshold:g}: this model has none, it predicts the most probable of "
                f"{', '.join(self.class_names)}; leave threshold out"
            )
        return replace(self, decision=self.decision.at(threshold))

    def describe_decision(self) -> str:
        """Return one line: how probabilities become answers."""
        return self.decision.describe(self.positive_class)


def save_model(
    folder: Path,
    model: Any,
    bundle: Bundle,
    statistics: dict[str, NDArray[Any]],
    engine: Literal["litert", "tensorflow"] = "tensorflow",
) -> None:
    """Save a model; the bundle is written last, so a folder with a bundle is complete.

    Args:
        folder: Created if necessary.
        model: The joined Keras model.
        bundle: Its description; the digests are filled in.
        statistics: Arrays for `features.npz`: those of `Distance.arrays` and `seen_images`.
        engine: The engine of its features; for LiteRT the converted network is saved, too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / MODEL)
    bundle.model_sha256 = files.sha256(folder / MODEL)
    if engine == "litert":
        key = recipe(bundle, engine).model_key()
        with contextlib.suppress(ConversionError):  # logged; the network then runs in TensorFlow
            use = cache.use(converted_file(key))
            shutil.copyfile(convert(lambda: model, key), folder / CONVERTED)
            bundle.converted_sha256 = files.sha256(folder / CONVERTED)
            del use
    kernel, bias = (np.asarray(weight, np.float32) for weight in model.get_layer("logits").get_weights())
    # Reading the last layer from the Keras model would take seconds.
    np.savez(folder / FEATURES, **{**statistics, "kernel": kernel, "bias": bias})  # type: ignore[arg-type]
    files.write_text(folder / BUNDLE, json.dumps(asdict(bundle), indent=2, ensure_ascii=False) + "\n")


def read_bundle(folder: Path) -> Bundle:
    """Read and check the description of a saved model.

    Raises:
        BundleError: If it is missing, damaged, or of another format.
    """
    try:
        values = json.loads((folder / BUNDLE).read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise BundleError(
                f"{folder / BUNDLE} has format {values['format']}; this version reads format {FORMAT}: train the model "
                "again, or use the version of hairline that wrote it"
            )
        return Bundle(**{**values, "decision": Decision.of(values["decision"])})
    except BundleError:
        raise
    except OSError as error:
        raise BundleError(f"{folder} holds no saved model: {BUNDLE} cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{folder / BUNDLE} is damaged: {error}") from error


def load_model(folder: Path, bundle: Bundle) -> Any:
    """Load the Keras model after checking its digest; the file cannot execute code.

    Raises:
        BundleError: If the file is missing or is not the one that was saved.
    """
    verify(folder, bundle)
    with tensorflow.quiet_import():
        import keras

    return keras.models.load_model(folder / MODEL, compile=False, safe_mode=True)


def load_backbone(folder: Path, bundle: Bundle) -> Any:
    """Load the Keras model up to its features; arguments and errors as for `load_model`."""
    model = load_model(folder, bundle)
    import keras

    return keras.Model(model.input, model.get_layer("features").output, name=model.name)


def verify(folder: Path, bundle: Bundle) -> None:
    """Check the digests of the Keras model and of the converted network.

    Raises:
        BundleError: If a file is missing or is not the one that was saved.
    """
    expected = {MODEL: bundle.model_sha256}
    if bundle.converted_sha256:
        expected[CONVERTED] = bundle.converted_sha256
    for name, digest in expected.items():
        try:
            found = files.sha256(folder / name)
        except OSError as error:
            raise BundleError(f"{folder / name} cannot be read ({error.strerror})") from error
        if found != digest:
            raise BundleError(
                f"{folder / name} is not the model that was saved: its sha256 is {found[:16]}..., expected "
                f"{digest[:16]}...; copy the whole folder again or train anew"
            )


def converted_network(folder: Path, bundle: Bundle) -> Path | None:
    """Return the file of the converted network; None if the saved model has none."""
    return folder / CONVERTED if bundle.converted_sha256 else None


def recipe(bundle: Bundle, engine: EngineName) -> Recipe:
    """Return the recipe of a saved model's features.

    A frozen backbone shares cached features with its training and with other heads; a fine-tuned one does not.
    """
    backbone = bundle.backbone
    tuned = backbone.get("finetuned", "none") != "none"
    return Recipe(
        backbone["name"],
        bundle.model_sha256 if tuned else backbone["weights_digest"],
        bundle.image_size,
        choose_engine(engine, bundle.precision),
        taps=tuple(backbone["taps"].split()),
        precision=bundle.precision,
        scaling="" if tuned else backbone.get("scaling", ""),
    )


def read_statistics(folder: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays in a saved model's `features.npz`.

    Raises:
        BundleError: If they cannot be read.
    """
    try:
        with np.load(folder / FEATURES, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BundleError(f"{folder / FEATURES} cannot be read ({error}): copy the whole folder again") from error


def last_layer(statistics: dict[str, NDArray[Any]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return kernel float32 [width, classes] and bias float32 [classes], from features to calibrated logits.

    Args:
        statistics: From `read_statistics`.

    Raises:
        BundleError: If an older version saved the model, without them.
    """
    if "kernel" not in statistics:
        raise BundleError(f"{FEATURES} lacks the last layer: an older version saved this model; train it anew")
    return statistics["kernel"], statistics["bias"]


def seen_images(digests: Iterable[str], splits: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Return arrays for `features.npz` with the images that a model has seen.

    Args:
        digests: sha256 of each image file.
        splits: `train`, `val` or `test` for each image.

    Returns:
        `image_digest`, uint64 [n], the first 16 digits of each; `image_split`, uint8 [n], the index in `_SPLITS`.
    """
    return {
        "image_digest": np.array([int(digest[:16], 16) for digest in digests], np.uint64),
        "image_split": np.array([_SPLITS.index(split) for split in splits], np.uint8),
    }


def merge_seen(first: dict[str, NDArray[Any]], second: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Merge arrays of `seen_images`: the second overrides the first, but what was trained or tuned on stays so."""
    first, test = seen_images([], []) | first, _SPLITS.index("test")
    former = dict(zip(first["image_digest"].tolist(), first["image_split"].tolist(), strict=True))
    pairs = zip(second["image_digest"].tolist(), second["image_split"].tolist(), strict=True)
    splits = [former.get(digest, test) if split == test else split for digest, split in pairs]
    second = second | {"image_split": np.array(splits, np.uint8)}
    new = ~np.isin(first["image_digest"], second["image_digest"])
    return {name: np.concatenate([first[name][new], second[name]]) for name in ("image_digest", "image_split")}


def seen_splits(folder: Path, digests: Iterable[str]) -> list[str]:
    """Return for each image the split in which a saved model has seen it; empty text if it has not.

    Args:
        folder: The saved model.
        digests: sha256 of each image file.
    """
    arrays = read_statistics(folder)
    if "image_digest" not in arrays:
        raise BundleError(f"{folder / FEATURES} does not list the images the model has seen: train it anew")
    seen = dict(zip(arrays["image_digest"].tolist(), arrays["image_split"].tolist(), strict=True))
    indices = (seen.get(int(digest[:16], 16)) for digest in digests)
    return ["" if index is None else _SPLITS[index] for index in indices]


class Classifier:
    """A saved model, ready to predict.

    Attributes:
        bundle: Description of the model.
        model: The Keras model, from uint8 RGB to probabilities.
    """

    def __init__(self, folder: Path) -> None:
        """Load the saved model in `folder`."""
        self.bundle = read_bundle(folder)
        self.model = load_model(folder, self.bundle)

    def predict(
        self, sources: str | os.PathLike[str] | bytes | np.ndarray | Iterable[Any], *, batch_size: int = 32
    ) -> pd.DataFrame:
        """Classify whole images.

        Args:
            sources: One or many images: paths, encoded image bytes, or uint8 RGB arrays [height, width, 3].
            batch_size: Images per batch.

        Returns:
            One row per image: `path` (empty for bytes and arrays), `x`, `y`, `width`, `height` in pixels of the source,
            `label` (empty), `predicted`, and `prob_<class>` for each class.

        Raises:
            ImageError: If an image cannot be read.
        """
        import pandas as pd

        single = isinstance(sources, str | os.PathLike | bytes) or getattr(sources, "ndim", 0) == 3
        items: list[Any] = [sources] if single else list(sources)  # type: ignore[arg-type]
        rows, parts = [], [np.empty((0, len(self.bundle.class_names)), np.float32)]
        for start in range(0, len(items), batch_size):
            batch = items[start : start + batch_size]
            pictures = [open_image(item) for item in batch]
            for item, picture in zip(batch, pictures, strict=True):
                path = os.fspath(item) if isinstance(item, str | os.PathLike) else ""
                rows.append((path, picture.width, picture.height, ""))
            pixels = np.stack([images.resize(picture, self.bundle.image_size) for picture in pictures])
            parts.append(self.model.predict_on_batch(pixels))
        probabilities = np.concatenate(parts)
        table = pd.DataFrame(rows, columns=["path", "width", "height", "label"], dtype=object)
        table = table.astype({"width": np.int64, "height": np.int64})
        return predictions_table(table, self.bundle.decide(probabilities), probabilities, self.bundle.class_names)


def open_image(source: str | os.PathLike[str] | bytes | np.ndarray) -> Image.Image:
    """Open an image from a path, encoded bytes or a uint8 RGB array.

    Raises:
        ImageError: If it cannot be read; the message names it.
    """
    try:
        return images.upright(source)
    except images.ImageError as error:
        if isinstance(source, np.ndarray):
            raise
        name = "the bytes given" if isinstance(source, bytes) else os.fspath(source)
        raise images.ImageError(f"{name}: {error}") from error


class Parts:
    """A saved model in two parts: the backbone, from images to features, and the last layer.

    The Keras model is loaded on first use: with cached features it is not needed.
    """

    def __init__(self, folder: Path) -> None:
        """Read the bundle in `folder` and check the model's digest."""
        self.folder, self.bundle = folder, read_bundle(folder)
        verify(folder, self.bundle)

    @functools.cached_property
    def model(self) -> Any:
        """The Keras model, from uint8 RGB to probabilities."""
        return load_model(self.folder, self.bundle)

    @functools.cached_property
    def backbone(self) -> Any:
        """The Keras model up to its features."""
        return load_backbone(self.folder, self.bundle)

    @property
    def converted(self) -> Path | None:
        """File of the converted network up to the features; None if there is none."""
        return converted_network(self.folder, self.bundle)

    @functools.cached_property
    def statistics(self) -> dict[str, NDArray[Any]]:
        """The arrays of `features.npz`."""
        return read_statistics(self.folder)

    @functools.cached_property
    def distance(self) -> Distance | None:
        """Measures how far images lie from the training images; None if the model stores no statistics for it."""
        return Distance.from_arrays(self.statistics)

    @functools.cached_property
    def dense(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Kernel float32 [width, classes] and bias float32 [classes], from features to calibrated logits."""
        return last_layer(self.statistics)

    @property
    def dense_at_threshold(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """`dense` with a bias by which the model's answer at its threshold is the class of the highest logit."""
        kernel, bias = self.dense
        shift = np.zeros_like(bias)
        if self.bundle.positive is not None and self.bundle.threshold is not None:
            shift[self.bundle.positive] = -logit(self.bundle.threshold)
        return kernel, bias + shift

    def adapted(self, features: NDArray[np.float32]) -> surface.Adapted:
        """Adapt the last layer to the features of a new surface, float32 [n, width].

        Raises:
            SurfaceError: If the model has no threshold, or no statistics of its training features.
        """
        bundle, distance = self.bundle, self.distance
        if bundle.threshold is None or bundle.positive is None or len(bundle.class_names) != 2:
            raise surface.SurfaceError(
                f"adapt=surface moves the threshold between two classes; this model has the classes "
                f"{', '.join(bundle.class_names)} and no threshold: leave adapt out"
            )
        if distance is None:
            raise surface.SurfaceError(
                "adapt=surface needs statistics of the training features, which this saved model lacks: train it anew, "
                "or leave adapt out"
            )
        kernel, bias = self.dense
        return surface.adapt(
            features, distance=distance, kernel=kernel, bias=bias, positive=bundle.positive, threshold=bundle.threshold
        )

    def recipe(self, engine: EngineName) -> Recipe:
        """Return the recipe of the model's features."""
        return recipe(self.bundle, engine)
