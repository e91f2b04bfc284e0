"""Labelling sessions in no time: tiles with random features, whose classes a hidden direction decides."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from hairline.labelling.learner import Layer
from hairline.labelling.pool import Pool
from hairline.labelling.session import Session

NAMES = ["cracked", "sound"]
TILE_PX, PER_PHOTO = 16, 12  # a photo has four columns and three rows of tiles
WIDTH = 6  # of the features


@dataclass(frozen=True)
class Wall:
    """A pool whose classes are known."""

    pool: Pool
    base: Layer
    cracked: np.ndarray

    def open(self, folder: Path, **changes: object) -> Session:
        settings = {"by": "me", "seed": 0, "model": "a model"} | changes
        return Session(folder, self.pool, self.base, NAMES, **settings)  # type: ignore[arg-type]

    def name(self, tile: int) -> str:
        return NAMES[0] if self.cracked[tile] else NAMES[1]


def wall(folder: Path, photos: int = 8, share: float = 0.3, seed: int = 0, drawn: bool = False) -> Wall:
    """Make a wall; the base ranks its tiles well, at a threshold that is wrong."""
    generator = np.random.default_rng(seed)
    count = photos * PER_PHOTO
    truth = generator.normal(size=count)
    features = generator.normal(size=(count, WIDTH)).astype(np.float32)
    features[:, 0] = truth + generator.normal(0, 0.3, count)
    cracked = truth > np.quantile(truth, 1 - share)
    paths = [str(folder / "photos" / f"{number}.png") for number in range(photos)]
    if drawn:
        (folder / "photos").mkdir(parents=True, exist_ok=True)
        for path in paths:
            pixels = generator.integers(0, 256, (3 * TILE_PX, 4 * TILE_PX, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    places = [(x * TILE_PX, y * TILE_PX, TILE_PX, TILE_PX) for y in range(3) for x in range(4)]
    kernel = np.zeros((WIDTH, 2), np.float32)
    kernel[0] = (1, -1)
    pool = Pool(
        paths,
        np.tile([4 * TILE_PX, 3 * TILE_PX], (photos, 1)),
        np.repeat(np.arange(photos), PER_PHOTO),
        np.tile(np.array(places, np.int64), (photos, 1)),
        features,
    )
    base = Layer(
        kernel, np.array([-3.0, 0.0], np.float32), np.zeros(WIDTH, np.float32), np.ones(WIDTH, np.float32), 0, 0.5
    )
    return Wall(pool, base, cracked)
