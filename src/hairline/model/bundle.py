"""The saved model: a folder that says all there is to say about using it.

`model.keras` eats uint8 RGB and gives calibrated probabilities; `bundle.json` says what goes in and what comes out;
`features.npz` holds the statistics of the training features. Evaluation, prediction, export and serving read this
folder and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hairline.model.decision import Decision
from hairline.model.predictions import names
from hairline.system import files
from hairline.system.errors import HairlineError

if TYPE_CHECKING:
    import keras

_SPLITS = ("train", "val", "test")
MODEL, BUNDLE, FEATURES = "model.keras", "bundle.json", "features.npz"
FORMAT = 2


class BundleError(HairlineError):
    """A folder that is no saved model, or a damaged one."""


@dataclass
class Bundle:
    """What a user of the model has to know.

    Attributes:
        class_names: In the order of the probabilities.
        positive_class: What the threshold refers to; None: the most probable class wins.
        image_size: Pixels a side of the model's input.
        decode: How a file becomes pixels (`hairline.data.images.RECIPE`).
        decision: How probabilities become answers; its temperature is already applied in the model.
        data_digest: Of the manifest the model was trained on.
        backbone: Its name, weights, digest of the weights, and licence.
        model_sha256: Of `model.keras`.
        versions: Of the libraries that made it.
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
    format: int = FORMAT
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def positive(self) -> int | None:
        """Index of the positive class."""
        return None if self.positive_class is None else self.class_names.index(self.positive_class)

    @property
    def threshold(self) -> float | None:
        """Probability from which on the positive class is predicted; None: the most probable class is."""
        return self.decision.threshold

    @property
    def temperature(self) -> float:
        """Temperature of the logits; already applied in the model."""
        return self.decision.temperature

    def decide(self, probabilities: np.ndarray) -> list[str]:
        """Return the predicted class name of each row of probabilities, float32 [n, classes]."""
        return names(self.decision.classes(probabilities, self.positive), self.class_names)

    def at(self, threshold: float | None) -> Bundle:
        """Give the description with another threshold, and without abstaining; None keeps both.

        Raises:
            BundleError: If there is no threshold to replace.
        """
        if threshold is None:
            return self
        if self.threshold is None:
            raise BundleError(
                f"threshold={threshold:g}: this model has none, as it answers the most probable of "
                f"{', '.join(self.class_names)}; leave threshold out"
            )
        return replace(self, decision=self.decision.at(threshold))

    @property
    def precision(self) -> str:
        """Data type policy that the network was built with."""
        return self.backbone.get("precision", "float32")

    def describe_decision(self) -> str:
        """Return one line: how probabilities become answers."""
        return self.decision.describe(self.positive_class)


def save(folder: Path, model: keras.Model, bundle: Bundle, statistics: dict[str, np.ndarray]) -> None:
    """Write a saved model; the bundle comes last, so that a folder with one is whole.

    Args:
        folder: Made where it is missing.
        model: The joined model.
        bundle: Its description; `model_sha256` is filled in.
        statistics: Arrays for `features.npz`: `mean` and `deviation`, float32 [width].
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / MODEL)
    np.savez(folder / FEATURES, **statistics)  # type: ignore[arg-type]
    bundle.model_sha256 = _sha256(folder / MODEL)
    files.write_text(folder / BUNDLE, json.dumps(asdict(bundle), indent=2, ensure_ascii=False) + "\n")


def read(folder: Path) -> Bundle:
    """Read and check the description of a saved model.

    Raises:
        BundleError: If it is missing, damaged, or of a later format.
    """
    try:
        values = json.loads((folder / BUNDLE).read_text(encoding="utf-8"))
        bundle = Bundle(**{**values, "decision": Decision.of(values.get("decision", {}))})
    except OSError as error:
        raise BundleError(f"{folder} holds no saved model: {BUNDLE} cannot be read ({error.strerror})") from error
    except (ValueError, TypeError) as error:
        raise BundleError(f"{folder / BUNDLE} is damaged or of another version: {error}") from error
    if bundle.format != FORMAT:
        raise BundleError(f"{folder / BUNDLE} has format {bundle.format}; this version reads format {FORMAT}")
    return bundle


def seen_images(digests: Iterable[str], splits: Iterable[str]) -> dict[str, np.ndarray]:
    """Give arrays for `features.npz` that say which images took part in making a model, and how.

    Args:
        digests: sha256 of each image's file.
        splits: `train`, `val` or `test` of each.

    Returns:
        `image_digest`, uint64 [n], the first 16 digits of each; `image_split`, uint8 [n], its place in `_SPLITS`.
    """
    return {
        "image_digest": np.array([int(digest[:16], 16) for digest in digests], np.uint64),
        "image_split": np.array([_SPLITS.index(split) for split in splits], np.uint8),
    }


def seen_both(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Join arrays of `seen_images`; where both have an image, the second says how."""
    both = {}
    fresh = ~np.isin(first.get("image_digest", np.empty(0, np.uint64)), second["image_digest"])
    for name, empty in (("image_digest", np.empty(0, np.uint64)), ("image_split", np.empty(0, np.uint8))):
        both[name] = np.concatenate([first.get(name, empty)[fresh], second[name]])
    return both


def splits_of(folder: Path, digests: Iterable[str]) -> list[str]:
    """Say for each image whether the saved model's training, validation or test had it; empty text: none had.

    Args:
        folder: The saved model.
        digests: sha256 of each image's file.
    """
    kept = read_statistics(folder)
    if "image_digest" not in kept:
        raise BundleError(f"{folder / FEATURES} does not say which images the model has seen: train it anew")
    known = dict(zip(kept["image_digest"].tolist(), kept["image_split"].tolist(), strict=True))
    places = (known.get(int(digest[:16], 16)) for digest in digests)
    return ["" if place is None else _SPLITS[place] for place in places]


def read_statistics(folder: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a saved model's `features.npz`.

    Raises:
        BundleError: If they cannot be read.
    """
    try:
        with np.load(folder / FEATURES, allow_pickle=False) as kept:
            return {name: kept[name] for name in kept.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BundleError(f"{folder / FEATURES} cannot be read ({error}): copy the whole folder again") from error


def load_model(folder: Path, bundle: Bundle) -> keras.Model:
    """Load the Keras model of a saved model, code-free and with its digest checked.

    Raises:
        BundleError: If the file is not the one that was saved.
    """
    import keras

    verify(folder, bundle)
    return keras.models.load_model(folder / MODEL, compile=False, safe_mode=True)


def verify(folder: Path, bundle: Bundle) -> None:
    """Check that the Keras model of a saved model is the one that was saved.

    Raises:
        BundleError: If it is not, or is missing.
    """
    try:
        found = _sha256(folder / MODEL)
    except OSError as error:
        raise BundleError(f"{folder / MODEL} cannot be read ({error.strerror})") from error
    if found != bundle.model_sha256:
        raise BundleError(
            f"{folder / MODEL} is not the model that was saved: its sha256 is {found[:16]}..., expected "
            f"{bundle.model_sha256[:16]}...; copy the whole folder again or train anew"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
