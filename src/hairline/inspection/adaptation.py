"""What an inspection learns of its surface before it begins: the last layer, adapted to a sample of the photos."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from hairline.data import images
from hairline.inspection.inspector import Inspector
from hairline.model import saved, surface
from hairline.system import progress

log = logging.getLogger(__name__)

FILE = "adaptation.npz"
_MOST_PHOTOS, _MOST_TILES = 100, 20_000


def learn(model: Path, settings: dict[str, Any], photos: list[Path], output: Path) -> tuple[Path, str]:
    """Adapt a saved model to photos, and keep what came out beside the results.

    Args:
        model: Folder of the saved model.
        settings: Keyword arguments of `Inspector`.
        photos: All photos of the inspection; a sample is drawn evenly from them.
        output: Folder of the results. What an inspection of the same photos learned there is taken again.

    Returns:
        The file of the adapted layer, for `Inspector`, and what it says of itself.

    Raises:
        SurfaceError: If the model cannot be adapted.
    """
    file = output / FILE
    parts = saved.Parts(model)
    key = _key(parts.bundle.model_sha256, settings, photos)
    if not file.is_file() or surface.load(file)[2]["key"] != key:
        surface.save(_adapted(parts, settings, photos), key, file)
    told = surface.load(file)[2]
    used = "adapted to these photos: {}; what the decision says of validation is from before"
    said = (used if told["used"] else "not adapted: {}").format(told["reason"])
    log.info("adapt=surface: %s", said)
    return file, said


def _adapted(parts: saved.Parts, settings: dict[str, Any], photos: list[Path]) -> surface.Adapted:
    inspector = Inspector(parts.folder, **settings)
    sample = [photos[row] for row in np.unique(np.linspace(0, len(photos) - 1, _MOST_PHOTOS).astype(np.int64))]
    found, count = [], 0
    for photo in progress.over(sample, len(sample), "learn the surface", "photos"):
        try:
            found.append(inspector.features(photo))
        except (images.ImageError, OSError, MemoryError):
            continue  # the inspection itself will say what is wrong with it
        count += len(found[-1])
        if count >= _MOST_TILES:
            break
    width = parts.dense[0].shape[0]
    return parts.adapted(np.concatenate(found) if found else np.empty((0, width), np.float32))


def _key(model: str, settings: dict[str, Any], photos: list[Path]) -> str:
    """Name what is learned from: the model, the tiles, and the photos as they are."""
    stamps = []
    for photo in photos:
        stat = photo.stat() if photo.exists() else None
        stamps.append([os.fsdecode(photo.absolute()), stat and stat.st_size, stat and stat.st_mtime_ns])
    told = [model, {name: value for name, value in settings.items() if name != "threads"}, stamps]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode("utf-8", "surrogateescape")).hexdigest()
