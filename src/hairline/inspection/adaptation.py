"""Adaptation of the model's last layer to the surface of an inspection, learned from a sample of its photos."""

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
_MAX_PHOTOS, _MAX_TILES = 100, 20_000


def adapt(model: Path, settings: dict[str, Any], photos: list[Path], output: Path) -> tuple[Path, str]:
    """Adapt a saved model to photos, or reuse what an inspection of the same photos stored in `output`.

    Args:
        model: Folder of the saved model.
        settings: Keyword arguments of `Inspector`.
        photos: All photos of the inspection; a sample is drawn evenly from them.
        output: Folder of the results.

    Returns:
        The file with the adapted layer, for `Inspector`, and a description for the report.

    Raises:
        SurfaceError: If the model cannot be adapted.
    """
    file = output / FILE
    parts = saved.Parts(model)
    key = _key(parts.bundle.model_sha256, settings, photos)
    if not file.is_file() or surface.load(file)[2]["key"] != key:
        surface.save(_fit(parts, settings, photos), key, file)
    details = surface.load(file)[2]
    if details["used"]:
        text = f"adapted to these photos: {details['reason']}; validation figures refer to the model before adaptation"
    else:
        text = f"not adapted: {details['reason']}"
    log.info("adapt=surface: %s", text)
    return file, text


def _fit(parts: saved.Parts, settings: dict[str, Any], photos: list[Path]) -> surface.Adapted:
    inspector = Inspector(parts.folder, **settings)
    rows = np.unique(np.linspace(0, len(photos) - 1, _MAX_PHOTOS).astype(np.int64))
    # In a random order: tiles of the first photos alone may reach the limit.
    sample = [photos[row] for row in np.random.default_rng(0).permutation(rows)]
    features = [np.empty((0, parts.dense[0].shape[0]), np.float32)]
    for photo in progress.over(sample, len(sample), "learn the surface", "photos"):
        try:
            features.append(inspector.features(photo))
        except (images.ImageError, OSError, MemoryError):
            continue  # the inspection itself reports what is wrong with it
        if sum(map(len, features)) >= _MAX_TILES:
            break
    return parts.adapted(np.concatenate(features))


def _key(model_sha256: str, settings: dict[str, Any], photos: list[Path]) -> str:
    """Return a digest of all that the adapted layer depends on: the model, the settings and the photos."""
    stamps = []
    for photo in photos:
        stat = photo.stat() if photo.exists() else None
        stamps.append([os.fsdecode(photo.absolute()), stat and stat.st_size, stat and stat.st_mtime_ns])
    content = [model_sha256, {name: value for name, value in settings.items() if name != "threads"}, stamps]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8", "surrogateescape")).hexdigest()
