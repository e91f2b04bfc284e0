"""Where the tiles of a photo lie, and how their scores become a heat map and regions. NumPy and SciPy alone.

A heat map is constant between the edges of tiles, so it is kept as cells: exact, and a few kilobytes for a photo of
any size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_TOUCHING = np.ones((3, 3), bool)  # cells that share a corner belong to one region: cracks run diagonally


def starts(length_px: int, tile_px: int, stride_px: int) -> NDArray[np.int64]:
    """Give where tiles start along one side: every stride, and one that ends exactly where the photo ends.

    Args:
        length_px: Of the photo's side.
        tile_px: Of the tile, at most as long.
        stride_px: From tile to tile, 1 to `tile_px`.

    Raises:
        ValueError: If tiles of this length would not cover the side.

    Examples:
        >>> starts(10, tile_px=4, stride_px=4).tolist()
        [0, 4, 6]
        >>> starts(8, tile_px=4, stride_px=4).tolist(), starts(4, tile_px=4, stride_px=2).tolist()
        ([0, 4], [0])
    """
    if not 1 <= stride_px <= tile_px <= length_px:
        raise ValueError(
            f"received tiles of {tile_px} pixels every {stride_px} on a side of {length_px}: expected "
            "1 <= stride <= tile <= side; choose a smaller tiles.size_px or tiles.stride_px"
        )
    regular = np.arange(0, length_px - tile_px + 1, stride_px, dtype=np.int64)
    last = length_px - tile_px
    return regular if regular[-1] == last else np.append(regular, last)


@dataclass(frozen=True)
class Grid:
    """The tiles of one photo, row by row.

    Attributes:
        width: Of the photo, in pixels.
        height: Of the photo, in pixels.
        tile_width: Of each tile, in pixels.
        tile_height: Of each tile, in pixels.
        columns: int64, left edges.
        rows: int64, upper edges.
    """

    width: int
    height: int
    tile_width: int
    tile_height: int
    columns: NDArray[np.int64]
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.columns) * len(self.rows)

    def boxes(self) -> NDArray[np.int64]:
        """Give x, y, width and height of each tile in pixels of the photo, int64 [tiles, 4]."""
        y, x = np.meshgrid(self.rows, self.columns, indexing="ij")
        size = np.broadcast_to([self.tile_width, self.tile_height], (len(self), 2))
        return np.column_stack([x.ravel(), y.ravel(), size])


def grid(width: int, height: int, *, tile_px: int, stride_px: int) -> Grid:
    """Lay tiles over a photo; one that is no larger than a tile is scored whole.

    A photo narrower than a tile in one direction alone gets square tiles of its shorter side, so that nothing is
    stretched; their stride shrinks with them.

    Args:
        width: Of the photo, in pixels.
        height: Of the photo, in pixels.
        tile_px: Side of a tile, in pixels of the photo.
        stride_px: From tile to tile, 1 to `tile_px`.

    Examples:
        >>> grid(500, 300, tile_px=200, stride_px=200).boxes().tolist()[-1]
        [300, 100, 200, 200]
        >>> grid(180, 150, tile_px=200, stride_px=200).boxes().tolist()
        [[0, 0, 180, 150]]
    """
    if max(width, height) <= tile_px:
        origin = np.zeros(1, np.int64)
        return Grid(width, height, width, height, origin, origin)
    side = min(tile_px, width, height)
    stride = max(1, stride_px * side // tile_px)
    return Grid(width, height, side, side, starts(width, side, stride), starts(height, side, stride))


@dataclass(frozen=True)
class HeatMap:
    """Scores over a photo, constant within each cell.

    Attributes:
        x_edges: int64 [columns + 1], from 0 to the photo's width.
        y_edges: int64 [rows + 1], from 0 to the photo's height.
        values: float32 [rows, columns, classes].
    """

    x_edges: NDArray[np.int64]
    y_edges: NDArray[np.int64]
    values: NDArray[np.float32]

    def areas(self) -> NDArray[np.int64]:
        """Give the pixels in each cell, int64 [rows, columns]."""
        return np.outer(np.diff(self.y_edges), np.diff(self.x_edges))

    def pixels(self, cells: NDArray[np.generic]) -> NDArray[np.generic]:
        """Spread one number a cell over the photo.

        Args:
            cells: [rows, columns].

        Returns:
            [height, width], of the same type.
        """
        return np.repeat(np.repeat(cells, np.diff(self.y_edges), axis=0), np.diff(self.x_edges), axis=1)


def blend(tiles: Grid, scores: NDArray[np.float32]) -> HeatMap:
    """Give each point of the photo the mean score of the tiles that cover it.

    Args:
        tiles: Of the photo.
        scores: float32 [tiles, classes], in the order of `tiles.boxes()`.

    Examples:
        >>> heat = blend(grid(3, 2, tile_px=2, stride_px=1), np.float32([[0], [1]]))
        >>> heat.x_edges.tolist(), heat.values[..., 0].tolist()
        ([0, 1, 2, 3], [[0.0, 0.5, 1.0]])
    """
    x_edges, across = _coverage(tiles.columns, tiles.tile_width)
    y_edges, down = _coverage(tiles.rows, tiles.tile_height)
    table = np.asarray(scores, np.float64).reshape(len(tiles.rows), len(tiles.columns), -1)
    # What covers a cell is a product of rows and columns of tiles, so that two small sums do.
    total = np.einsum("ir,rkc,jk->ijc", down, table, across, optimize=True)
    count = np.outer(down.sum(axis=1), across.sum(axis=1))
    return HeatMap(x_edges, y_edges, (total / count[..., None]).astype(np.float32))


def _coverage(positions: NDArray[np.int64], length_px: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Give the edges along one side, and which tile covers what lies between them, 0 or 1 [cells, tiles]."""
    edges = np.unique(np.concatenate([positions, positions + length_px]))
    left = edges[:-1, None]
    return edges, ((positions <= left) & (left < positions + length_px)).astype(np.float64)


@dataclass(frozen=True)
class Region:
    """A connected part of the photo.

    Attributes:
        x: Left edge of its bounding box, in pixels.
        y: Upper edge.
        width: Of the box.
        height: Of the box.
        area_px: Pixels in the region itself.
        highest: Highest value in it.
    """

    x: int
    y: int
    width: int
    height: int
    area_px: int
    highest: float

    @property
    def diagonal_px(self) -> float:
        """Diagonal of the bounding box, in pixels."""
        return float(np.hypot(self.width, self.height))


def regions(heat: HeatMap, chosen: NDArray[np.bool_], values: NDArray[np.float32]) -> list[Region]:
    """Find the connected regions of a heat map, the largest first.

    Args:
        heat: Gives the cells' places.
        chosen: bool [rows, columns]; cells that touch, be it at a corner, belong together.
        values: float32 [rows, columns], the values that `highest` is taken from.

    Examples:
        >>> heat = blend(grid(4, 2, tile_px=2, stride_px=2), np.float32([[0.1], [0.9]]))
        >>> regions(heat, heat.values[..., 0] > 0.5, heat.values[..., 0])[0].x
        2
    """
    labels, _ = ndimage.label(chosen, structure=_TOUCHING)
    areas = heat.areas()
    found = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        inside = labels[rows, columns] == number
        x, right = int(heat.x_edges[columns.start]), int(heat.x_edges[columns.stop])
        y, lower = int(heat.y_edges[rows.start]), int(heat.y_edges[rows.stop])
        area = int(areas[rows, columns][inside].sum())
        found.append(Region(x, y, right - x, lower - y, area, float(values[rows, columns][inside].max())))
    return sorted(found, key=lambda region: (-region.area_px, region.y, region.x))
