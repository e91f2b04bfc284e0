"""One photo from pixels to a heat map, a table and regions: the code behind `predict.py` and `hairline.inspect`."""

from __future__ import annotations

import difflib
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy.special import softmax

from hairline import tracking
from hairline.config import commands
from hairline.data import classes, images
from hairline.inspection import tiles
from hairline.model import saved, surface
from hairline.model.decision import CANNOT_TELL
from hairline.model.engine import ConversionError, EngineName, Pool, choose_engine, prepare_engine
from hairline.model.familiarity import Distance
from hairline.model.predictions import predictions_table
from hairline.system import tensorflow
from hairline.system.errors import HairlineError

UNFAMILIAR = "unfamiliar"  # verdict on a photo of a surface that the model was not trained on
DISTANCE = "distance"  # column of a tile's distance from the training images

Photo = str | os.PathLike[str] | bytes | NDArray[np.uint8] | Image.Image


class InspectionError(HairlineError):
    """The settings do not fit the model."""


@dataclass(frozen=True)
class Inspection:
    """The results of one photo.

    Attributes:
        table: One row per tile, in pixels of the photo: `path x y width height label predicted prob_<class>...
            distance`; without `distance` if the model stores no statistics.
        heat: Mean probabilities of all classes in each cell.
        decided: Predicted class, or "cannot tell", of each cell, str [rows, columns].
        positive: The positive class, for example "cracked".
        probabilities: Probability of the positive class in each cell, float32 [rows, columns].
        regions: Connected cells of the positive class, the largest first.
        verdict: Answer for the photo as a whole: the positive class, `not <positive class>`, `unfamiliar` or
            "cannot tell"; of a model without a threshold, a class.
        evidence: How strongly the photo suggests the positive class, 0 to 1; photos are ordered by it.
        highest: Highest probability of the positive class in a tile.
        distance: Distance of the photo's tiles as a set from the training images, 1 = 95th percentile of validation
            sets; None if the model stores no statistics.
    """

    table: pd.DataFrame
    heat: tiles.HeatMap
    decided: NDArray[np.object_]
    positive: str
    probabilities: NDArray[np.float32]
    regions: list[tiles.Region]
    verdict: str
    evidence: float
    highest: float
    distance: float | None

    @property
    def length_px(self) -> float:
        """Total length of all regions, in pixels."""
        return sum(region.length_px for region in self.regions)

    @property
    def longest_px(self) -> float:
        """Length of the longest region, in pixels."""
        return max((region.length_px for region in self.regions), default=0.0)

    @property
    def heat_map(self) -> NDArray[Any]:
        """Probability of the positive class at each pixel, float32 [height, width]."""
        return self.heat.pixels(self.probabilities)

    def share(self, decision: str) -> float:
        """Return the share of the photo's surface, 0 to 1, that is predicted to be a class or "cannot tell".

        Raises:
            InspectionError: If `decision` is neither.
        """
        columns = map(str, self.table.columns)
        known = [column.removeprefix("prob_") for column in columns if column.startswith("prob_")]
        if decision not in (*known, CANNOT_TELL):
            raise InspectionError(f"share({decision!r}): expected one of {', '.join(known)}, {CANNOT_TELL}")
        areas = self.heat.areas()
        return float(areas[self.decided == decision].sum() / areas.sum())


class Inspector:
    """A saved model that inspects photos; safe for use from several threads.

    Attributes:
        bundle: Description of the saved model.
        positive: The positive class.
        tile_px: Side of a tile, in pixels of the photo.
        stride_px: Distance between the starts of neighbouring tiles.
        engine: The engine in use.
        pool: Threads for photos and their tiles.
        adapted_to: Key of the surface that the last layer was adapted to; None for the model's own layer.
        has_distance: Whether the saved model stores the statistics for `Inspection.distance`.
    """

    def __init__(
        self,
        run: str | os.PathLike[str],
        *,
        size_px: int | None = None,
        stride_px: int | None = None,
        overlap: float = 0.0,
        engine: EngineName = "auto",
        threads: int | None = None,
        positive_class: str | None = None,
        threshold: float | None = None,
        adaptation: str | os.PathLike[str] | None = None,
    ) -> None:
        """Load a model.

        Args:
            run: A run directory, its `model/` folder, an MLflow run id, or a `models:/` URI.
            size_px: Side of a tile in pixels of the photo; None for the size of the training patches.
            stride_px: Distance between the starts of neighbouring tiles; None to derive it from `overlap`.
            overlap: Share of a tile that the next one covers again, 0 <= overlap < 1.
            engine: LiteRT, TensorFlow, or the faster one on this machine.
            threads: CPU threads; None for all cores.
            positive_class: The positive class, for a model that stores none.
            threshold: Probability from which the positive class is predicted; None for the model's own.
            adaptation: File of `surface.save` with an adapted last layer; None for the model's own.

        Raises:
            HairlineError: If there is no such model, or the settings do not fit it.
        """
        folder = tracking.find(run)
        self.bundle = saved.read_bundle(folder).at(threshold)
        saved.verify(folder, self.bundle)
        self.positive = _positive_class(self.bundle, positive_class)
        self.tile_px = size_px or int(self.bundle.extra.get("patch_px", self.bundle.image_size))
        if not 0 <= overlap < 1:
            raise InspectionError(f"overlap={overlap:g}: expected 0 <= overlap < 1")
        self.stride_px = stride_px or max(1, round(self.tile_px * (1 - overlap)))
        if self.stride_px > self.tile_px:
            raise InspectionError(
                f"tiles.stride_px={self.stride_px} is larger than a tile ({self.tile_px} pixels) and would leave gaps: "
                "choose a smaller tiles.stride_px or a larger tiles.size_px"
            )
        # The header says how many pixels a photo has, and damaged EXIF is noted: Pillow's warnings would repeat both.
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
        self._layer: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
        self.adapted_to: str | None = None
        if adaptation is not None:
            kernel, bias, details = surface.load(Path(adaptation))
            self._layer, self.adapted_to = (kernel, bias), str(details["key"])
        self._distance = Distance.from_arrays(saved.read_statistics(folder))
        self.has_distance = self._distance is not None
        key = f"inspector-{self.bundle.model_sha256[:32]}"
        self.pool = Pool(threads or os.cpu_count() or 1)
        settings: dict[str, Any] = {"image_size": self.bundle.image_size, "threads": threads, "pool": self.pool}
        self.engine = choose_engine(engine, self.bundle.precision)
        try:
            self.run_engine = prepare_engine(self.engine, lambda: self._keras(folder), key, **settings)
        except ConversionError:
            if engine == "litert":
                raise
            self.engine = "tensorflow"
            self.run_engine = prepare_engine(self.engine, lambda: self._keras(folder), key, **settings)

    def inspect(self, photo: Photo) -> Inspection:
        """Inspect one photo.

        Args:
            photo: A path, the bytes of an image file, uint8 RGB [height, width, 3], or a picture from `images.upright`.
                A photo larger than a tile is tiled, a smaller one scored whole.

        Returns:
            Heat map, table, regions and verdict.

        Raises:
            ImageError: If the photo cannot be read.
        """
        path = os.fspath(photo) if isinstance(photo, str | os.PathLike) else ""
        grid, features, probabilities = self._predict(photo)
        table = pd.DataFrame(grid.boxes(), columns=["x", "y", "width", "height"])
        table.insert(0, "path", pd.Series([path] * len(table), dtype=object))  # not every file name is UTF-8
        table["label"] = ""
        table = predictions_table(table, self.bundle.decide(probabilities), probabilities, self.bundle.class_names)
        distance = None
        if self._distance is not None:
            table[DISTANCE] = self._distance(features)
            distance = self._distance.of_set(features)
        heat = tiles.blend(grid, probabilities)
        flat = heat.values.reshape(-1, heat.values.shape[-1])
        decided = np.array(self.bundle.decide(flat), dtype=object).reshape(heat.values.shape[:2])
        positive = heat.values[..., self.bundle.class_names.index(self.positive)]
        scores = table[f"prob_{self.positive}"]
        return Inspection(
            table=table,
            heat=heat,
            decided=decided,
            positive=self.positive,
            probabilities=positive,
            regions=tiles.regions(heat, decided == self.positive, positive),
            verdict=self._verdict(table, heat, decided, distance),
            evidence=float(scores.max() - scores.median()) if len(scores) > 1 else float(scores.max()),
            highest=float(scores.max()),
            distance=distance,
        )

    def features(self, photo: Photo) -> NDArray[np.float32]:
        """Return the features of a photo's tiles, float32 [tiles, width]; the argument is that of `inspect`."""
        return self._predict(photo)[1]

    def _predict(self, photo: Photo) -> tuple[tiles.Grid, NDArray[np.float32], NDArray[np.float32]]:
        """Return a photo's tiles, their features [tiles, width] and their probabilities [tiles, classes]."""
        picture = photo if isinstance(photo, Image.Image) else saved.open_image(photo)
        grid = tiles.grid(picture.width, picture.height, tile_px=self.tile_px, stride_px=self.stride_px)
        boxes = grid.boxes()
        corners = np.column_stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]).tolist()

        def tile(row: int) -> NDArray[np.uint8]:
            return images.resize(picture, self.bundle.image_size, corners[row])

        outputs = np.concatenate([block for _, block in self.run_engine(tile, len(grid))])
        features, probabilities = np.split(outputs, [outputs.shape[1] - len(self.bundle.class_names)], axis=1)
        if self._layer is not None:
            kernel, bias = self._layer
            probabilities = softmax(features @ kernel + bias, axis=1)
        return grid, features, probabilities

    def _verdict(
        self, table: pd.DataFrame, heat: tiles.HeatMap, decided: NDArray[np.object_], distance: float | None
    ) -> str:
        if distance is not None and distance > 1:
            return UNFAMILIAR
        if self.positive in decided:
            return self.positive
        # Overlapping tiles that contradict each other are a case for a person as well.
        if CANNOT_TELL in decided or (table["predicted"] == self.positive).any():
            return CANNOT_TELL
        if len(self.bundle.class_names) == 2:
            return f"not {self.positive}"
        areas = heat.areas()
        return max(self.bundle.class_names, key=lambda name: areas[decided == name].sum())

    def _keras(self, folder: Path) -> Any:
        """Return the Keras model with its features and its probabilities in one output."""
        with tensorflow.quiet_import():
            import keras

            model = saved.load_model(folder, self.bundle)
        both = [model.get_layer("features").output, model.output]
        return keras.Model(model.input, keras.layers.Concatenate(dtype="float32")(both), name=model.name)


def _positive_class(bundle: saved.Bundle, chosen: str | None) -> str:
    """Return the positive class: the user's choice, the stored one, or a well-known name."""
    known = ", ".join(bundle.class_names)
    if bundle.positive_class not in (None, *bundle.class_names):
        raise saved.BundleError(
            f"the saved model's positive class {bundle.positive_class!r} is not one of its classes ({known}): "
            f"{saved.BUNDLE} was changed; copy the folder again or train the model again"
        )
    if chosen is not None and chosen not in bundle.class_names:
        near = difflib.get_close_matches(chosen, bundle.class_names, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InspectionError(f"positive_class={chosen}: expected one of the model's classes ({known}).{hint}")
    if chosen is not None and bundle.positive_class not in (None, chosen):
        raise InspectionError(
            f"positive_class={chosen}: the model's positive class is {bundle.positive_class}, and its threshold "
            "belongs to that class; leave positive_class out"
        )
    by_name = {name.lower(): name for name in bundle.class_names}
    guessed = next((by_name[name] for name in classes.POSITIVE_NAMES if name in by_name), None)
    positive = chosen or bundle.positive_class or guessed
    if positive is None:
        choices = " or ".join(commands.override("positive_class", name) for name in bundle.class_names)
        raise InspectionError(f"the model stores no positive class: add {choices}")
    return positive
