"""Tiles and heat maps against brute force over pixels."""

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
@settings(max_examples=150)
def test_every_pixel_is_covered_and_no_tile_leaves_the_photo(grid: tiles.Grid) -> None:
    assert covered(grid).min() >= 1
    assert len(grid) == len(grid.boxes()) == len({tuple(box) for box in grid.boxes().tolist()})


@given(layouts(), st.integers(0, 2**31))
@settings(max_examples=60)
def test_the_heat_map_is_the_mean_of_the_parts_of_tiles_over_each_pixel(grid: tiles.Grid, seed: int) -> None:
    shape = (len(grid), grid.tile_height, grid.tile_width, 2)
    scores = np.random.default_rng(seed).random(shape, np.float32)
    total = np.zeros((grid.height, grid.width, 2))
    for score, (x, y, width, height) in zip(scores, grid.boxes(), strict=True):
        total[y : y + height, x : x + width] += score
    heat = tiles.blend(grid, scores, cells=max(grid.tile_width, grid.tile_height))
    np.testing.assert_allclose(heat.values, total / covered(grid)[..., None], atol=1e-6)
    assert heat.pixels(heat.values[..., 0]).shape == (grid.height, grid.width)


@given(layouts(), st.integers(1, 7), st.integers(0, 2**31))
@settings(max_examples=60)
def test_cells_cover_the_photo_and_keep_an_even_score(grid: tiles.Grid, cells: int, seed: int) -> None:
    heat = tiles.blend(grid, np.full((len(grid), 5, 5, 1), 0.25, np.float32), cells=cells)
    np.testing.assert_allclose(heat.values, 0.25, atol=1e-6)
    assert heat.areas().sum() == grid.width * grid.height
    assert heat.areas().min() > 0
    random = tiles.blend(grid, np.random.default_rng(seed).random((len(grid), 1), np.float32), cells=cells).values
    assert 0 <= random.min() <= random.max() <= 1


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
