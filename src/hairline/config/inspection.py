"""The schema of `predict.py`, and the check of what a schema cannot say."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from omegaconf import MISSING

from hairline.config.checks import positive_faults, threshold_faults
from hairline.config.schema import Engine, Store, Threads

_MOST_MEGAPIXELS = 178  # what Pillow opens without taking it for an attack


@dataclass
class Tiles:
    """How photos that are larger than a patch are divided. Pixels are the photo's own."""

    size_px: int | None = None  # side of a tile; null = that of the patches the model was trained on
    stride_px: int | None = None  # from tile to tile; null = what overlap leaves
    overlap: float = 0.0  # share of a tile that the next one covers again: 0.5 takes four times as long as 0


@dataclass
class Overlay:
    """The picture of each photo with its heat map."""

    longest_px: int = 1600  # at most; larger photos are reduced by a whole number


@dataclass
class Privacy:
    """What is left out of all results."""

    strip_location: bool = False  # positions of the photos: no latitude and longitude, no photos.geojson


@dataclass
class Scale:
    """Size on the surface. It is never guessed: without it, there are no millimetres."""

    mm_per_pixel: float | None = None


@dataclass
class ReportPage:
    """How much report.html holds; photos.csv always holds all."""

    photos: int = 2000  # the worst ones are listed
    embed_megabytes: float = 20.0  # of full overlays in the page, the worst first; others are opened from overlays/


@dataclass
class Ray:
    """The cluster of runtime.compute=ray."""

    address: str | None = None  # of a running cluster, or auto; null = start one on this machine
    workers: int | None = None  # processes; null = one per core


@dataclass
class InspectionRuntime(Threads):
    """The machine, or the cluster, that inspects."""

    compute: Literal["local", "ray"] = "local"
    ray: Ray = field(default_factory=Ray)


@dataclass
class Predict:
    """One inspection."""

    run: str = MISSING  # a run directory, an MLflow run id, or models:/<name>@<alias>
    input: str = MISSING  # a photo, a folder, or a pattern such as 'site/**/*.jpg'
    output: str | None = None  # folder of the results; null = outputs/<date>/<time>-predict
    tiles: Tiles = field(default_factory=Tiles)
    overlay: Overlay = field(default_factory=Overlay)
    privacy: Privacy = field(default_factory=Privacy)
    scale: Scale = field(default_factory=Scale)
    report: ReportPage = field(default_factory=ReportPage)
    features: Engine = field(default_factory=Engine)
    runtime: InspectionRuntime = field(default_factory=InspectionRuntime)
    tracking: Store = field(default_factory=Store)
    adapt: Literal["none", "surface"] = "none"  # surface: scale and threshold are fitted to the photos, without labels
    threshold: float | None = None  # probability from which on a tile is of that class; null = the model's own
    positive_class: str | None = None  # what is looked for, of a model that stores none
    labels: Literal["none", "folder"] = "none"  # folder: the name of a photo's folder is its true class
    max_megapixels: float = 80.0  # larger photos are named and left out


def predict_faults(config: Predict) -> Iterator[str]:
    """Give every fault of an inspection's configuration, in words for its user."""
    positive: dict[str, float | None] = {
        "tiles.size_px": config.tiles.size_px,
        "tiles.stride_px": config.tiles.stride_px,
        "scale.mm_per_pixel": config.scale.mm_per_pixel,
        "report.photos": config.report.photos,
        "runtime.ray.workers": config.runtime.ray.workers,
        "runtime.threads": config.runtime.threads,
    }
    yield from positive_faults(positive)
    yield from threshold_faults(config.threshold)
    tiles = config.tiles
    if not 0 <= tiles.overlap < 1:
        yield f"tiles.overlap={tiles.overlap:g}: expected a number from 0 up to, not including, 1"
    if tiles.stride_px is not None and tiles.overlap:
        yield f"tiles.stride_px={tiles.stride_px} and tiles.overlap={tiles.overlap:g} say the same: give one of them"
    if tiles.size_px and tiles.stride_px and tiles.stride_px > tiles.size_px:
        yield (
            f"tiles.stride_px={tiles.stride_px} is larger than tiles.size_px={tiles.size_px}: parts of a photo would "
            "not be looked at; choose a stride up to the size"
        )
    if not 64 <= config.overlay.longest_px <= 20_000:
        yield f"overlay.longest_px={config.overlay.longest_px}: expected 64 to 20000 pixels"
    if not 0 <= config.report.embed_megabytes < math.inf:
        yield f"report.embed_megabytes={config.report.embed_megabytes:g}: expected a number from 0"
    if not 0 < config.max_megapixels <= _MOST_MEGAPIXELS:
        yield f"max_megapixels={config.max_megapixels:g}: expected a number above 0, up to {_MOST_MEGAPIXELS}"
    for key, text in {"run": config.run, "input": config.input, "output": config.output}.items():
        if text is not None and not text.strip():
            yield f"{key}: the text is empty"
