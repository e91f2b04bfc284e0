"""Tiles, heat maps and regions against brute force over pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hairline.inspection import tiles

SIDES = st.integers(1, 90)


@st.composite
def layouts(draw: st.DrawFn) -> tiles.Grid:
    tile_px = draw(st.integers(1, 40))
    stride_px = draw(st.integers(1, tile_px))
    return tiles.grid(draw(SIDES), draw(SIDES), tile_px=tile_px, stride_px=stride_px)


def covered(grid: tiles.Grid) -> np.ndarray:
    """Return the number of tiles over each pixel."""
    count = np.zeros((grid.height, grid.width), int)
    for x, y, width, height in grid.boxes():
        assert x >= 0
        assert y >= 0
        assert x + width <= grid.width
        assert y + height <= grid.height
        count[y : y + height, x : x + width] += 1
    return count


@given(layouts())
@settings(max_examples=150, deadline=None)
def test_every_pixel_is_covered_and_no_tile_leaves_the_photo(grid: tiles.Grid) -> None:
    assert covered(grid).min() >= 1
    assert len(grid) == len(grid.boxes()) == len({tuple(box) for box in grid.boxes().tolist()})


@given(layouts(), st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_the_heat_map_is_the_mean_of_the_tiles_over_each_pixel(grid: tiles.Grid, seed: int) -> None:
    scores = np.random.default_rng(seed).random((len(grid), 2), np.float32)
    total = np.zeros((grid.height, grid.width, 2))
    for score, (x, y, width, height) in zip(scores, grid.boxes(), strict=True):
        total[y : y + height, x : x + width] += score
    expected = total / covered(grid)[..., None]
    heat = tiles.blend(grid, scores)
    for index in range(2):
        np.testing.assert_allclose(heat.pixels(heat.values[..., index]), expected[..., index], atol=1e-6)
    assert heat.areas().sum() == grid.width * grid.height


def test_a_single_tile_keeps_its_score_to_the_bit() -> None:
    scores = np.array([[0.1, 0.9]], np.float32)
    assert tiles.blend(tiles.grid(7, 5, tile_px=8, stride_px=8), scores).values.tolist() == [[scores[0].tolist()]]


def test_sizes_around_a_patch() -> None:
    whole = [(227, 227), (200, 227), (1, 1)]
    assert [tiles.grid(*size, tile_px=227, stride_px=227).boxes().tolist() for size in whole] == [
        [[0, 0, *size]] for size in whole
    ]
    assert len(tiles.grid(4032, 3024, tile_px=227, stride_px=227)) == 18 * 14
    assert (covered(tiles.grid(6 * 20, 4 * 20, tile_px=20, stride_px=20)) == 1).all()
    strip = tiles.grid(1000, 100, tile_px=227, stride_px=227)  # square tiles of the shorter side
    assert (strip.tile_width, strip.tile_height, len(strip)) == (100, 100, 10)


@pytest.mark.parametrize(("length", "tile", "stride"), [(3, 4, 1), (9, 4, 5), (9, 4, 0)])
def test_tiles_that_would_leave_gaps_are_refused(length: int, tile: int, stride: int) -> None:
    with pytest.raises(ValueError, match=f"tiles of {tile} pixels every {stride} on a side of {length}"):
        tiles.starts(length, tile, stride)


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


@given(st.integers(2, 40), st.integers(2, 40), st.integers(2, 12), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_regions_agree_with_a_flood_fill(width: int, height: int, tile_px: int, seed: int) -> None:
    grid = tiles.grid(width, height, tile_px=tile_px, stride_px=max(1, tile_px // 2))
    heat = tiles.blend(grid, np.random.default_rng(seed).random((len(grid), 1), np.float32))
    values = heat.values[..., 0]
    regions = tiles.regions(heat, values > 0.6, values)
    spread = heat.pixels(values)
    expected = []
    for part in flood(spread > 0.6):
        rows, columns = (np.array(places) for places in zip(*part, strict=True))
        box = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
        expected.append((len(part), *map(int, box), float(spread[rows, columns].max())))
    assert sorted((r.area_px, r.x, r.y, r.width, r.height, r.highest) for r in regions) == sorted(expected)
    assert [r.area_px for r in regions] == sorted((r.area_px for r in regions), reverse=True)
