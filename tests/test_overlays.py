"""Overlays show the heat map in the right place."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pandas as pd
from PIL import Image

from hairline.inspection import overlays, tiles, traces
from hairline.inspection.inspector import Inspection
from hairline.model.decision import CANNOT_TELL

GREY = np.full((300, 400, 3), 150, np.uint8)


def inspection(scores: np.ndarray, width: int = 400, height: int = 300) -> Inspection:
    """Return results of tiles of 100 pixels with probabilities [3, 4]: from 0.5 cracked, from 0.4 cannot tell."""
    heat = tiles.blend(
        tiles.grid(width, height, tile_px=100 * width // 400, stride_px=100 * width // 400),
        scores.reshape(-1, 1).astype(np.float32),
    )
    values = heat.values[..., 0]
    decided = np.where(values >= 0.5, "cracked", np.where(values >= 0.4, CANNOT_TELL, "plain")).astype(object)
    return Inspection(
        table=pd.DataFrame(), heat=heat, decided=decided, positive="cracked", probabilities=values,
        regions=traces.find_regions(heat, decided == "cracked", values, 0.5), verdict="cracked", evidence=1.0,
        highest=float(values.max()), distance=None,
    )  # fmt: skip


def drawn(scores: np.ndarray, longest_px: int = 1000) -> np.ndarray:
    return np.asarray(
        overlays.draw(overlays.reduced(Image.fromarray(GREY), longest_px=longest_px), inspection(scores))
    ).astype(int)


def test_the_heat_map_covers_the_photo() -> None:
    scores = np.zeros((3, 4))
    scores[1, 2], scores[2, 0] = 1.0, 0.2
    with Image.open(io.BytesIO(overlays.heat_png(inspection(scores)))) as image:
        assert (image.size, image.mode) == ((4, 3), "L")
        assert np.asarray(image).tolist() == (255 * scores).tolist()


def test_no_cell_is_lost_in_the_heat_map_of_a_large_photo() -> None:
    columns = 684
    for column in (0, 200, 201, 202, columns - 1):
        values = np.zeros((1, columns, 1), np.float32)
        values[0, column] = 1
        grid = tiles.grid(11 * columns, 11, tile_px=11, stride_px=11)
        found = inspection(np.zeros((3, 4)))
        heat = tiles.blend(grid, values.reshape(-1, 1))
        large = dataclasses.replace(found, heat=heat, probabilities=heat.values[..., 0])
        with Image.open(io.BytesIO(overlays.heat_png(large))) as image:
            assert max(image.size) <= 512
            assert np.asarray(image).max() == 255


def test_regions_have_one_outline_and_doubts_another() -> None:
    scores = np.zeros((3, 4))
    scores[0, 0] = scores[0, 1] = 0.6
    scores[2, 3] = 0.45
    picture = drawn(scores)

    def has(channel: int, rows: slice, columns: slice) -> bool:
        """Return whether a line is drawn in which a channel (0: red, 2: blue) dominates more than in any tint."""
        area = picture[rows, columns]
        return bool((area[..., channel] - np.delete(area, channel, axis=-1).max(axis=-1) > 70).any())

    assert has(0, slice(40, 60), slice(196, 204))
    assert not has(0, slice(40, 60), slice(90, 110))  # no line between two tiles of one region
    assert has(2, slice(200, 300), slice(296, 304))
    assert not has(0, slice(190, 300), slice(290, 400))


def test_large_photos_are_reduced_and_small_ones_kept() -> None:
    scores = np.zeros((3, 4))
    assert drawn(scores, longest_px=400).shape == (300, 400, 3)
    assert drawn(scores, longest_px=399).shape == (150, 200, 3)
    tiny = overlays.draw(Image.new("RGB", (5, 3)), inspection(np.zeros((3, 4)), 400, 300))
    assert tiny.size == (5, 3)


def test_jpegs_are_reduced_and_have_no_exif() -> None:
    with Image.open(io.BytesIO(overlays.jpeg(Image.new("RGB", (800, 600)), 240))) as image:
        assert image.size == (240, 180)
        assert not image.getexif()
