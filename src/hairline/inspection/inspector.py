"""One photo from pixels to a heat map, a table and regions: what every way of inspecting calls."""

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
from hairline.data import images, sources
from hairline.inspection import tiles
from hairline.model import predictions, saved, surface
from hairline.model.decision import CANNOT_TELL
from hairline.model.engine import ConversionError, EngineName, choose_engine, prepare_engine
from hairline.model.familiarity import Distance
from hairline.system import tensorflow
from hairline.system.errors import HairlineError

DISTANCE = "distance"  # column of how far a tile lies from the training images
# What training notes in a saved model: the usual side of its patches, before they were squeezed to the model's input.
PATCH_SIZE = "patch_px"


class InspectionError(HairlineError):
    """Settings that do not fit the model."""


@dataclass(frozen=True)
class Inspection:
    """What was found in one photo.

    Attributes:
        table: One row a tile: `path x y width height label predicted prob_<class>... distance`, pixels of the photo;
            without `distance` for a saved model that does not tell.
        heat: Mean probabilities of all classes, cell by cell.
        decided: Predicted class, or "cannot tell", of each cell, str [rows, columns].
        positive: The class that is looked for, such as "cracked".
        probabilities: Of the positive class in each cell, float32 [rows, columns].
        regions: Connected cells of the positive class, the largest first.
        predicted: Of the photo as a whole: the positive class where it has a region; "cannot tell" where a tile or a
            cell could be of it; else the class with the largest area.
        highest: Highest probability of the positive class in a tile.
        distance: How far the photo's tiles as a set lie from the training images; 1 is as far as neighbouring
            validation images do. None for a saved model that does not tell.
    """

    table: pd.DataFrame
    heat: tiles.HeatMap
    decided: NDArray[np.object_]
    positive: str
    probabilities: NDArray[np.float32]
    regions: list[tiles.Region]
    predicted: str
    highest: float
    distance: float | None

    @property
    def is_unfamiliar(self) -> bool:
        """Say whether the photo is unlike the training images, so that its probabilities are not to be trusted."""
        return self.distance is not None and self.distance > 1

    @property
    def heat_map(self) -> NDArray[Any]:
        """Probability of the positive class at each pixel, float32 [height, width]."""
        return self.heat.pixels(self.probabilities)

    def share(self, decision: str) -> float:
        """Give the share of the photo's surface, 0 to 1, that was decided to be `decision`, a class or "cannot tell".

        Raises:
            InspectionError: If it is neither.
        """
        columns = map(str, self.table.columns)
        known = [column.removeprefix("prob_") for column in columns if column.startswith("prob_")]
        if decision not in (*known, CANNOT_TELL):
            raise InspectionError(f"share({decision!r}): expected one of {', '.join(known)}, {CANNOT_TELL}")
        areas = self.heat.areas()
        return float(areas[self.decided == decision].sum() / areas.sum())


class Inspector:
    """A saved model, ready to look at photos; several threads may use one.

    Attributes:
        bundle: What the model expects and gives.
        positive: The class that is looked for.
        tile_px: Side of a tile in pixels of the photo.
        stride_px: From tile to tile.
        engine: The engine that runs.
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
        """Open a model.

        Args:
            run: A run directory, its `model/` folder, an MLflow run id, or a `models:/` URI.
            size_px: Side of a tile in pixels of the photo; None for that of the patches the model was trained on.
            stride_px: From tile to tile; None for what `overlap` leaves.
            overlap: Share of a tile that the next one covers again, 0 up to, not including, 1.
            engine: LiteRT, TensorFlow, or whichever is quicker on this machine.
            threads: CPU threads; None for all cores.
            positive_class: The class that is looked for, for a model that stores none; None for the one stored.
            threshold: Its probability from which on it is answered; None for the one stored with the model.
            adaptation: File of `surface.save`: the last layer as it was adapted to a surface; None for the model's own.

        Raises:
            ValueError: If there is no such model, or the settings do not fit it.
        """
        folder = tracking.find(run)
        self.bundle = saved.read_bundle(folder).at(threshold)
        saved.verify(folder, self.bundle)
        self.positive = _positive(self.bundle, positive_class)
        self.tile_px = size_px or int(self.bundle.extra.get(PATCH_SIZE, self.bundle.image_size))
        if not 0 <= overlap < 1:
            raise InspectionError(f"overlap={overlap:g}: expected a number from 0 up to, not including, 1")
        self.stride_px = stride_px or max(1, round(self.tile_px * (1 - overlap)))
        if self.stride_px > self.tile_px:
            raise InspectionError(
                f"tiles.stride_px={self.stride_px} is larger than a tile ({self.tile_px} pixels): parts of a photo "
                "would not be looked at; choose a smaller stride or a larger tiles.size_px"
            )
        # Whether a photo has too many pixels is checked by its header; Pillow's warning would come beside that.
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        # Damaged EXIF is noted with the photo.
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
        self._adapted = None if adaptation is None else surface.load(Path(adaptation))
        self._distance = Distance.from_arrays(saved.read_statistics(folder))
        key = f"told-{self.bundle.model_sha256[:32]}"
        settings: dict[str, Any] = {"image_size": self.bundle.image_size, "threads": threads}
        self.engine = choose_engine(engine, self.bundle.precision)
        try:
            self.run_engine = prepare_engine(self.engine, lambda: self._keras(folder), key, **settings)
        except ConversionError as error:
            if engine == "litert":
                raise InspectionError(
                    "features.engine=litert: this model does not convert; use features.engine=tensorflow"
                ) from error
            self.engine = "tensorflow"
            self.run_engine = prepare_engine(self.engine, lambda: self._keras(folder), key, **settings)

    @property
    def adapted_to(self) -> str | None:
        """Name what the last layer was adapted to; None for the model as it is."""
        return None if self._adapted is None else str(self._adapted[2]["key"])

    @property
    def tells_distance(self) -> bool:
        """Say whether the saved model tells how far photos lie from its training images."""
        return self._distance is not None

    def inspect(self, photo: str | os.PathLike[str] | bytes | NDArray[np.uint8] | Image.Image) -> Inspection:
        """Look at one photo.

        Args:
            photo: A path, the bytes of an image file, uint8 RGB [height, width, 3], or a picture from `images.upright`.
                One that is larger than a tile is tiled, a smaller one scored whole.

        Returns:
            Heat map, table, regions and verdict.

        Raises:
            ImageError: If it cannot be read.
        """
        path = os.fspath(photo) if isinstance(photo, str | os.PathLike) else ""
        grid, features, scores = self._passed(photo)
        table = pd.DataFrame(grid.boxes(), columns=["x", "y", "width", "height"])
        table.insert(0, "path", pd.Series([path] * len(table), dtype=object))  # not every file name is UTF-8
        table["label"] = ""
        table = predictions.table(table, self.bundle.decide(scores), scores, self.bundle.class_names)
        if self._distance is not None:
            table[DISTANCE] = self._distance(features)
        far = None if self._distance is None else self._distance.of_set(features)
        return self._conclude(table, tiles.blend(grid, scores), far)

    def features(self, photo: str | os.PathLike[str] | bytes | NDArray[np.uint8] | Image.Image) -> NDArray[np.float32]:
        """Give the features of a photo's tiles, float32 [tiles, width]; arguments as for `inspect`."""
        return self._passed(photo)[1]

    def _passed(self, photo: Any) -> tuple[tiles.Grid, NDArray[np.float32], NDArray[np.float32]]:
        """Pass a photo's tiles through the model; gives where they lie, their features, and their probabilities."""
        picture = photo if isinstance(photo, Image.Image) else saved.named_picture(photo)
        grid = tiles.grid(picture.width, picture.height, tile_px=self.tile_px, stride_px=self.stride_px)
        boxes = grid.boxes()
        corners = np.column_stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]).tolist()

        def tile(row: int) -> NDArray[np.uint8]:
            return images.resize(picture, self.bundle.image_size, corners[row])

        told = np.concatenate([block for _, block in self.run_engine(tile, len(grid))])
        features, scores = np.split(told, [told.shape[1] - len(self.bundle.class_names)], axis=1)
        if self._adapted is not None:
            scores = softmax(features @ self._adapted[0] + self._adapted[1], axis=1)
        return grid, features, scores

    def _conclude(self, table: pd.DataFrame, heat: tiles.HeatMap, distance: float | None) -> Inspection:
        """Decide cell by cell, and for the photo as a whole."""
        flat = heat.values.reshape(-1, heat.values.shape[-1])
        decided = np.array(self.bundle.decide(flat), dtype=object).reshape(heat.values.shape[:2])
        probabilities = heat.values[..., self.bundle.class_names.index(self.positive)]
        found = tiles.regions(heat, decided == self.positive, probabilities)
        areas = heat.areas()
        sizes = {name: areas[decided == name].sum() for name in self.bundle.class_names}
        predicted = max(sizes, key=lambda name: sizes[name])
        if found:
            predicted = self.positive
        elif CANNOT_TELL in decided or (table["predicted"] == self.positive).any():
            predicted = CANNOT_TELL  # overlapping tiles that contradict each other are a case for a person as well
        highest = float(table[f"prob_{self.positive}"].max())
        return Inspection(table, heat, decided, self.positive, probabilities, found, predicted, highest, distance)

    def _keras(self, folder: Path) -> Any:
        """Give the model with its features beside the probabilities, one behind the other."""
        with tensorflow.quiet_import():
            import keras

            model = saved.load_model(folder, self.bundle)
        both = [model.get_layer("features").output, model.output]
        return keras.Model(model.input, keras.layers.Concatenate(dtype="float32")(both), name=model.name)


def _positive(bundle: saved.Bundle, named: str | None) -> str:
    """Say which class is looked for."""
    known = ", ".join(bundle.class_names)
    if named is not None:
        if named in bundle.class_names:
            if bundle.positive_class not in (None, named):
                raise InspectionError(
                    f"positive_class={named}: the model was made to look for {bundle.positive_class}, and its "
                    "threshold is of that class; leave positive_class out"
                )
            return named
        near = difflib.get_close_matches(named, bundle.class_names, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InspectionError(f"positive_class={named}: no class of the model.{hint} Its classes are {known}")
    if bundle.positive_class is not None:
        if bundle.positive_class in bundle.class_names:
            return bundle.positive_class
        raise saved.BundleError(
            f"the saved model's positive class {bundle.positive_class!r} is none of its classes ({known}): "
            f"{saved.BUNDLE} was changed; copy the folder again or train anew"
        )
    by_name = {name.lower(): name for name in bundle.class_names}
    for name in sources.POSITIVE_NAMES:
        if name in by_name:
            return by_name[name]
    raise InspectionError(f"the model stores no class to look for: add positive_class=<one of {known}>")
