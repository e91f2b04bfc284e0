"""Regions against a flood fill, and lengths and directions of lines that were drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from scipy import ndimage

from hairline.inspection import tiles, traces


def heat_map(values: np.ndarray, cell_px: int) -> tiles.HeatMap:
    """Return a heat map with square cells."""
    rows, columns = values.shape
    return tiles.HeatMap(
        np.arange(columns + 1) * cell_px, np.arange(rows + 1) * cell_px, values[..., None].astype(np.float32), cell_px
    )


def drawn(points: list[tuple[int, int]], cell_px: int = 10, width: int = 600, height: int = 400) -> list[traces.Region]:
    """Return the regions of a line through points, drawn in pixels as a model would see it: blurred, in cells."""
    image = Image.new("L", (width, height))
    ImageDraw.Draw(image).line(points, 255, 4)
    cells = np.asarray(image, float).reshape(height // cell_px, cell_px, width // cell_px, cell_px).mean(axis=(1, 3))
    values = np.minimum(ndimage.gaussian_filter(cells / 60, 0.5), 1).astype(np.float32)
    return traces.find_regions(heat_map(values, cell_px), values >= 0.4, values, 0.4)


def flood(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """Return connected pixels, corners included, by flood fill."""
    left, parts = set(zip(*map(list, np.nonzero(mask)), strict=True)), []
    while left:
        edge, part = [left.pop()], set()
        while edge:
            row, column = edge.pop()
            part.add((row, column))
            for near in [(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)]:
                if near in left:
                    left.remove(near)
                    edge.append(near)
        parts.append(part)
    return parts


@given(st.integers(1, 25), st.integers(1, 25), st.integers(1, 4), st.integers(0, 2**31))
@settings(max_examples=60)
def test_regions_agree_with_a_flood_fill(width: int, height: int, cell_px: int, seed: int) -> None:
    values = np.random.default_rng(seed).random((height, width), np.float32)
    heat = heat_map(values, cell_px)
    regions = traces.find_regions(heat, values > 0.6, values, 0.6)
    spread = heat.pixels(values)
    expected = []
    for part in flood(spread > 0.6):
        rows, columns = (np.array(places) for places in zip(*part, strict=True))
        box = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
        expected.append((len(part), *map(int, box), float(spread[rows, columns].max())))
    assert sorted((r.area_px, r.x, r.y, r.width, r.height, r.highest) for r in regions) == sorted(expected)
    assert [r.length_px for r in regions] == sorted((r.length_px for r in regions), reverse=True)
    for region in regions:
        assert region.length_px >= cell_px
        assert 0 <= region.elongation <= 1
        assert 0 <= region.orientation_deg <= 180
        assert 1 <= len(region.path) <= traces.PATH_POINTS
        for x, y in region.path:
            assert region.x - cell_px <= x <= region.x + region.width + cell_px
            assert 0 <= y < height * cell_px


@pytest.mark.parametrize(
    ("points", "orientation"),
    [([(50, 200), (550, 200)], 0), ([(300, 50), (300, 350)], 90), ([(100, 350), (400, 50)], 45),
     ([(100, 50), (400, 350)], 135), ([(60, 300), (540, 180)], 14)],
)  # fmt: skip
def test_a_straight_line(points: list[tuple[int, int]], orientation: float) -> None:
    (region,) = drawn(points)
    assert region.length_px == pytest.approx(np.hypot(*np.subtract(*points)), rel=0.1)
    assert min(abs(region.orientation_deg - orientation), 180 - abs(region.orientation_deg - orientation)) < 4
    assert region.elongation > 0.8
    ends = sorted([region.path[0], region.path[-1]])
    np.testing.assert_allclose(ends, sorted(map(list, points)), atol=20)


def test_branches_count_and_the_path_is_the_longest_line() -> None:
    (region,) = drawn([(50, 200), (300, 200), (300, 60), (300, 200), (550, 200)])
    assert region.length_px == pytest.approx(500 + 140, rel=0.1)
    assert np.ptp(np.array(region.path)[:, 0]) > 450
    assert np.ptp(np.array(region.path)[:, 1]) < 30
    (zigzag,) = drawn([(50, 100), (150, 300), (250, 100), (350, 300)])
    assert zigzag.length_px == pytest.approx(3 * np.hypot(100, 200), rel=0.12)


def test_a_blob_is_short_and_round_and_nothing_is_nothing() -> None:
    values = np.zeros((20, 20), np.float32)
    assert traces.find_regions(heat_map(values, 10), values >= 0.4, values, 0.4) == []
    values[5:8, 5:8] = 0.9
    (region,) = traces.find_regions(heat_map(values, 10), values >= 0.4, values, 0.4)
    assert region.length_px <= 30
    assert region.elongation == pytest.approx(0, abs=1e-6)
