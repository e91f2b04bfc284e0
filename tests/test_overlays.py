"""Overlays show the heat map in the right place."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hairline.inspection import overlays, tiles
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
        regions=tiles.regions(heat, decided == "cracked", values), predicted="cracked", highest=float(values.max()),
        distance=None,
    )  # fmt: skip


def drawn(scores: np.ndarray, longest_px: int = 1000) -> np.ndarray:
    return np.asarray(overlays.draw(Image.fromarray(GREY), inspection(scores), longest_px=longest_px)).astype(int)


def test_colour_lies_on_the_tile_that_was_scored() -> None:
    scores = np.zeros((3, 4))
    scores[1, 2] = 0.95
    picture = drawn(scores)
    redness = picture[..., 0] - picture[..., 2]
    rows, columns = np.nonzero(redness > 40)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx((100, 199, 200, 299), abs=4)
    assert (picture[:95] == 150).all()
    assert (picture[:, :195] == 150).all()
    assert redness[110:190, 210:290].min() > 40


def test_more_probability_is_more_colour() -> None:
    tints = []
    for probability in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        picture = drawn(np.full((3, 4), probability))
        tints.append(np.abs(picture[50, 150] - 150).sum())
    assert tints == sorted(tints)
    assert tints[0] == 0
    assert tints[-1] > 60


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
    tiny = overlays.draw(Image.new("RGB", (5, 3)), inspection(np.zeros((3, 4)), 400, 300), longest_px=64)
    assert tiny.size == (5, 3)


def test_the_scale_marks_the_threshold() -> None:
    picture = overlays.draw(Image.new("RGB", (1200, 900)), inspection(np.zeros((3, 4)), 1200, 900), longest_px=1200)
    whole = overlays.with_scale(picture, "cracked", 0.5)
    assert whole.width == picture.width
    assert whole.height > picture.height
    strip = [np.asarray(overlays.with_scale(picture, "cracked", at))[900:].astype(int) for at in (0.2, 0.8)]
    places = [np.nonzero((part[:, :400].sum(axis=-1) < 140).sum(axis=0) > 30)[0].mean() for part in strip]
    assert places[1] - places[0] == pytest.approx(0.6 * 280, abs=8)
    assert overlays.with_scale(picture, "cracked", None).size == whole.size
    small = Image.new("RGB", (60, 40))
    assert overlays.with_scale(small, "cracked", 0.5).size == small.size  # no room for letters


def test_jpegs_are_reduced_and_have_no_exif() -> None:
    with Image.open(io.BytesIO(overlays.jpeg(Image.new("RGB", (800, 600)), 240))) as image:
        assert image.size == (240, 180)
        assert not image.getexif()
