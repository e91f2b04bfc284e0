"""One photo from pixels to a heat map, a table and regions: the code behind `predict.py` and `hairline.inspect`."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.special import expit, softmax

from hairline import tracking
from hairline.config import commands
from hairline.config.checks import did_you_mean
from hairline.data import classes, images
from hairline.data.folders import nfc
from hairline.evaluation import prevalence
from hairline.inspection import tiles, traces
from hairline.model import attribution, saved, surface
from hairline.model.decision import CANNOT_TELL
from hairline.model.engine import EngineName, Pool
from hairline.model.familiarity import Distance
from hairline.model.predictions import predictions_table
from hairline.system.errors import HairlineError

# Chosen on 30 of DeepCrack's photos (docs/notes/heat-maps.md).
LEVEL = 0.4  # value of the heat map from which a cell belongs to a region
_SMOOTHING = (0.5, 0.7)  # of the cells' log odds and probabilities, standard deviations in cells
# Evidence at and above which a photo of an unfamiliar surface is positive, and the share of its shorter side that its
# longest trace must have: textures raise many short ones.
_EVIDENT, _REACH = 0.5, 0.75
_TYPICAL = 2.6  # strength of the evidence that counts 0.5
_CELLS = 10  # along a tile, where the model's features are not pooled maps
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
        heat: Mean probabilities of the tiles that cover each cell, for all classes.
        decided: Predicted class, or "cannot tell", of each cell, str [rows, columns]; of the positive class are only
            cells that `probabilities` mark inside the tiles.
        positive: The positive class, for example "cracked".
        probabilities: The heat map: how strongly each cell suggests the positive class, float32 [rows, columns], 0 to
            1. It is the geometric mean of two probabilities: that of the tiles that cover the cell, and that of a tile
            which looked like this cell everywhere.
        regions: Connected cells of the positive class, the longest first.
        verdict: Answer for the photo as a whole: the positive class, `not <positive class>`, `unfamiliar` or
            "cannot tell"; of a model of more than two classes, a class.
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
    regions: list[traces.Region]
    verdict: str
    evidence: float
    highest: float
    distance: float | None

    @property
    def length_px(self) -> float:
        """Total length of all regions, in pixels."""
        return sum(region.length_px for region in self.regions)

    @property
    def heat_map(self) -> NDArray[Any]:
        """The heat map at each pixel, float32 [height, width], 0 to 1."""
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
        self._index = self.bundle.class_names.index(self.positive)
        self.tile_px = size_px or self.bundle.patch_px
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
        statistics = saved.read_statistics(folder)
        self._layer, self.adapted_to = saved.last_layer(statistics), None
        if adaptation is not None:
            kernel, bias, details = surface.load(Path(adaptation))
            if details["used"]:
                self._layer, self.adapted_to = (kernel, bias), str(details["key"])
        self._distance = Distance.from_arrays(statistics)
        self.has_distance = self._distance is not None
        self.pool = Pool(threads or os.cpu_count() or 1)
        self.engine, self.run_engine = attribution.prepare(
            folder, self.bundle, engine, self._reduce, threads=threads, pool=self.pool
        )

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
        grid, features, log_odds, logits = self._predict(photo)
        probabilities = softmax(logits, axis=1)
        table = pd.DataFrame(grid.boxes(), columns=["x", "y", "width", "height"])
        table.insert(0, "path", pd.Series([path] * len(table), dtype=object))  # not every file name is UTF-8
        table["label"] = ""
        predicted = self.bundle.decide(probabilities)
        table = predictions_table(table, predicted, probabilities, self.bundle.class_names)
        distance, strangeness = None, 1.0
        if self._distance is not None:
            table[DISTANCE] = self._distance(features)
            distance, strangeness = self._distance.of_set(features), float(table[DISTANCE].median())
        cells = log_odds.shape[1]
        both = tiles.blend(grid, np.stack([log_odds, expit(log_odds)], axis=-1), cells=cells).values
        local, alone = (
            ndimage.gaussian_filter(both[..., index], _SMOOTHING[index], mode="nearest") for index in (0, 1)
        )
        heat = tiles.blend(grid, probabilities, cells=cells)
        values = np.sqrt(heat.values[..., self._index] * alone)
        decided = self._decide(heat.values, values)
        regions = traces.find_regions(heat, decided == self.positive, values, LEVEL)
        reach = max((region.length_px for region in regions), default=0.0) / min(grid.width, grid.height)
        evidence = _evidence(local, reach, strangeness)
        return Inspection(
            table=table,
            heat=heat,
            decided=decided,
            positive=self.positive,
            probabilities=values,
            regions=regions,
            verdict=self._verdict(grid, predicted, logits, distance, evidence >= _EVIDENT and reach >= _REACH),
            evidence=evidence,
            highest=float(probabilities[:, self._index].max()),
            distance=distance,
        )

    def features(self, photo: Photo) -> NDArray[np.float32]:
        """Return the features of a photo's tiles, float32 [tiles, width]; the argument is that of `inspect`."""
        return self._predict(photo)[1]

    def _predict(
        self, photo: Photo
    ) -> tuple[tiles.Grid, NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Compute a photo's tiles in one pass.

        Returns:
            The tiles; their features [tiles, width]; the log odds of the positive class if a tile looked like one of
            its cells everywhere [tiles, rows, columns]; and their logits [tiles, classes].
        """
        picture = photo if isinstance(photo, Image.Image) else saved.open_image(photo)
        grid = tiles.grid(picture.width, picture.height, tile_px=self.tile_px, stride_px=self.stride_px)
        boxes = grid.boxes()
        corners = np.column_stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]).tolist()

        def tile(row: int) -> NDArray[np.uint8]:
            return images.resize(picture, self.bundle.image_size, corners[row])

        outputs = np.concatenate([block for _, block in self.run_engine(tile, len(grid))])
        kernel, bias = self._layer
        features, log_odds = np.split(outputs, [len(kernel)], axis=1)
        side = math.isqrt(log_odds.shape[1])
        return grid, features, log_odds.reshape(len(grid), side, side), features @ kernel + bias

    def _reduce(self, outputs: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return features and the cells' log odds of a batch in one array, without its large maps."""
        features, *maps = outputs
        kernel, bias = self._layer
        if maps:
            scores = attribution.responses(maps, kernel, bias)
        else:  # features that are no pooled maps: every cell is as its tile
            whole = features @ kernel + bias
            scores = np.broadcast_to(whole[:, None, None], (len(features), _CELLS, _CELLS, len(bias)))
        log_odds = prevalence.margin(scores, self._index).astype(np.float32)
        return np.concatenate([features, log_odds.reshape(len(features), -1)], axis=1)

    def _decide(self, probabilities: NDArray[np.float32], values: NDArray[np.float32]) -> NDArray[np.object_]:
        """Return the class of each cell, or "cannot tell" [rows, columns].

        Args:
            probabilities: Of the tiles that cover the cell [rows, columns, classes].
            values: The heat map [rows, columns].
        """
        flat = probabilities.reshape(-1, probabilities.shape[-1]).copy()
        decided = np.array(self.bundle.decide(flat), dtype=object)
        # A positive tile marks only some of its cells; the rest is of the most probable other class.
        rest = (decided == self.positive) & (values.ravel() < LEVEL)
        flat[:, self._index] = -1
        decided[rest] = np.array(self.bundle.class_names, dtype=object)[flat[rest].argmax(axis=1)]
        return decided.reshape(values.shape)

    def _verdict(
        self,
        grid: tiles.Grid,
        predicted: Sequence[str],
        logits: NDArray[np.float32],
        distance: float | None,
        evident: bool,
    ) -> str:
        """Return the answer for a photo.

        Args:
            grid: Its tiles.
            predicted: Class of each tile, or "cannot tell".
            logits: Of the tiles [tiles, classes].
            distance: From the training images.
            evident: Whether the evidence is enough on an unfamiliar surface.
        """
        rule = self.bundle.decision.photo
        if rule is None:
            positive = self.positive in predicted
        else:
            log_odds = prevalence.margin(logits, self._index)
            positive = rule.is_positive(log_odds.reshape(len(grid.rows), len(grid.columns)))
        if distance is not None and distance > 1 and self.adapted_to is None:
            return self.positive if positive and evident else UNFAMILIAR
        if positive:
            return self.positive
        if CANNOT_TELL in predicted:
            return CANNOT_TELL
        if len(self.bundle.class_names) == 2:
            return f"not {self.positive}"
        return str(pd.Series([name for name in predicted if name != self.positive]).mode().iloc[0])


def _evidence(local: NDArray[np.float32], reach: float, strangeness: float) -> float:
    """Return how strongly a photo suggests the positive class, 0 to 1: a crack is where a photo differs from itself.

    Args:
        local: Log odds of its cells [rows, columns].
        reach: Length of its longest trace as a share of its shorter side.
        strangeness: Median distance of its tiles from the training images. Textures and objects that the model does not
            know have scores as high as those of cracks.
    """
    low, middle, high, top = np.percentile(local, [25, 50, 75, 99])
    contrast = (top - middle) / (high - low + 0.5)
    strength = contrast * (reach + 0.5) / max(strangeness, 0.1) ** 3
    return float(strength / (strength + _TYPICAL))


def _positive_class(bundle: saved.Bundle, chosen: str | None) -> str:
    """Return the positive class: the user's choice, the stored one, or a well-known name."""
    known = ", ".join(bundle.class_names)
    if bundle.positive_class not in (None, *bundle.class_names):
        raise saved.BundleError(
            f"the saved model's positive class {bundle.positive_class!r} is not one of its classes ({known}): "
            f"{saved.BUNDLE} was changed; copy the folder again or train the model again"
        )
    chosen = None if chosen is None else nfc(chosen)
    if chosen is not None and chosen not in bundle.class_names:
        hint = did_you_mean(chosen, bundle.class_names)
        raise InspectionError(f"positive_class={chosen}: expected one of the model's classes ({known}).{hint}")
    if chosen is not None and bundle.positive_class not in (None, chosen):
        raise InspectionError(
            f"positive_class={chosen}: the model's positive class is {bundle.positive_class}, and its threshold "
            "belongs to that class; leave positive_class out"
        )
    positive = chosen or bundle.positive_class or classes.guess_positive(bundle.class_names)
    if positive is None:
        choices = " or ".join(commands.override("positive_class", name) for name in bundle.class_names)
        raise InspectionError(f"the model stores no positive class: add {choices}")
    return positive
