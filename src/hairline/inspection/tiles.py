"""Tiles of a photo, and the heat map and regions that their scores make.

A heat map is constant between the edges of tiles, so it is stored as cells: exact, and a few kilobytes for any photo.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_TOUCHING = np.ones((3, 3), bool)  # cells that share a corner belong to one region: cracks run diagonally


def starts(length_px: int, tile_px: int, stride_px: int) -> NDArray[np.int64]:
    """Return the starts of tiles along one side: every stride, and a last tile that ends exactly at the border.

    Args:
        length_px: Length of the photo's side.
        tile_px: Length of a tile, at most `length_px`.
        stride_px: Distance between starts, 1 to `tile_px`.

    Raises:
        ValueError: If the tiles would leave gaps.

    Examples:
        >>> starts(10, tile_px=4, stride_px=4).tolist()
        [0, 4, 6]
        >>> starts(8, tile_px=4, stride_px=4).tolist(), starts(4, tile_px=4, stride_px=2).tolist()
        ([0, 4], [0])
    """
    if not 1 <= stride_px <= tile_px <= length_px:
        raise ValueError(
            f"received tiles of {tile_px} pixels every {stride_px} on a side of {length_px}: expected "
            "1 <= stride <= tile <= side"
        )
    regular = np.arange(0, length_px - tile_px + 1, stride_px, dtype=np.int64)
    last = length_px - tile_px
    return regular if regular[-1] == last else np.append(regular, last)


@dataclass(frozen=True)
class Grid:
    """The tiles of one photo, row by row.

    Attributes:
        width: Width of the photo, in pixels.
        height: Height of the photo, in pixels.
        tile_width: Width of each tile, in pixels.
        tile_height: Height of each tile, in pixels.
        columns: Left edges of the tiles, int64.
        rows: Upper edges of the tiles, int64.
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
        """Return x, y, width and height of each tile in pixels of the photo, int64 [tiles, 4]."""
        y, x = np.meshgrid(self.rows, self.columns, indexing="ij")
        size = np.broadcast_to([self.tile_width, self.tile_height], (len(self), 2))
        return np.column_stack([x.ravel(), y.ravel(), size])


def grid(width: int, height: int, *, tile_px: int, stride_px: int) -> Grid:
    """Divide a photo into tiles; a photo no larger than a tile becomes one tile.

    A photo narrower than a tile in one direction only gets square tiles of its shorter side, so that they are not
    stretched; the stride shrinks in proportion.

    Args:
        width: Width of the photo, in pixels.
        height: Height of the photo, in pixels.
        tile_px: Side of a tile, in pixels.
        stride_px: Distance between the starts of neighbouring tiles, 1 to `tile_px`.

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
    """Scores of a photo, constant within each cell.

    Attributes:
        x_edges: Edges of the cells, int64 [columns + 1], from 0 to the photo's width.
        y_edges: Edges of the cells, int64 [rows + 1], from 0 to the photo's height.
        values: Mean scores, float32 [rows, columns, classes].
    """

    x_edges: NDArray[np.int64]
    y_edges: NDArray[np.int64]
    values: NDArray[np.float32]

    def areas(self) -> NDArray[np.int64]:
        """Return the area of each cell in pixels, int64 [rows, columns]."""
        return np.outer(np.diff(self.y_edges), np.diff(self.x_edges))

    def pixels(self, cells: NDArray[np.generic]) -> NDArray[np.generic]:
        """Expand one value per cell [rows, columns, ...] to one per pixel [height, width, ...], with the same dtype."""
        return np.repeat(np.repeat(cells, np.diff(self.y_edges), axis=0), np.diff(self.x_edges), axis=1)


def blend(tiles: Grid, scores: NDArray[np.float32]) -> HeatMap:
    """Return the mean score of the tiles that cover each point of a photo.

    Args:
        tiles: Tiles of the photo.
        scores: Scores of the tiles, float32 [tiles, classes], in the order of `tiles.boxes()`.

    Examples:
        >>> heat = blend(grid(3, 2, tile_px=2, stride_px=1), np.float32([[0], [1]]))
        >>> heat.x_edges.tolist(), heat.values[..., 0].tolist()
        ([0, 1, 2, 3], [[0.0, 0.5, 1.0]])
    """
    x_edges, across = _coverage(tiles.columns, tiles.tile_width)
    y_edges, down = _coverage(tiles.rows, tiles.tile_height)
    table = np.asarray(scores, np.float64).reshape(len(tiles.rows), len(tiles.columns), -1)
    # The tiles over a cell are a product of rows and columns, so two small sums are enough.
    total = np.einsum("ir,rkc,jk->ijc", down, table, across, optimize=True)
    count = np.outer(down.sum(axis=1), across.sum(axis=1))
    return HeatMap(x_edges, y_edges, (total / count[..., None]).astype(np.float32))


def _coverage(positions: NDArray[np.int64], length_px: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the cells' edges along one side, and whether each tile covers each cell, 0 or 1 [cells, tiles]."""
    edges = np.unique(np.concatenate([positions, positions + length_px]))
    left = edges[:-1, None]
    return edges, ((positions <= left) & (left < positions + length_px)).astype(np.float64)


@dataclass(frozen=True)
class Region:
    """A connected part of a photo, in pixels.

    Attributes:
        x: Left edge of the bounding box.
        y: Upper edge of the bounding box.
        width: Width of the bounding box.
        height: Height of the bounding box.
        area_px: Area of the region itself.
        highest: Highest probability in the region.
        length_px: Length of what was traced.
        orientation_deg: Direction of its longest axis, from 0 (along x) up to 180, counter-clockwise.
        elongation: 1 minus the ratio of its shorter to its longer axis: 0 is round, 1 a line.
        path: Points [x, y] of the trace, in order, at most `PATH_POINTS`.
    """

    x: int
    y: int
    width: int
    height: int
    area_px: int
    highest: float
    length_px: float = 0.0
    orientation_deg: float = 0.0
    elongation: float = 0.0
    path: list[list[int]] = field(default_factory=list)


def regions(heat: HeatMap, chosen: NDArray[np.bool_], values: NDArray[np.float32]) -> list[Region]:
    """Return the connected regions of a heat map, the largest first.

    Args:
        heat: The heat map, for the positions of its cells.
        chosen: Cells of regions, bool [rows, columns]; cells that touch, also at a corner, belong to one region.
        values: Probabilities of the cells, float32 [rows, columns].

    Examples:
        >>> heat = blend(grid(4, 2, tile_px=2, stride_px=2), np.float32([[0.1], [0.9]]))
        >>> regions(heat, heat.values[..., 0] > 0.5, heat.values[..., 0])[0].x
        2
    """
    labels, count = ndimage.label(chosen, structure=_TOUCHING)
    numbers = np.arange(1, count + 1)
    areas, highest = ndimage.sum_labels(heat.areas(), labels, numbers), ndimage.maximum(values, labels, numbers)
    result = []
    for (rows, columns), area, value in zip(ndimage.find_objects(labels), areas, highest, strict=True):
        x, right = int(heat.x_edges[columns.start]), int(heat.x_edges[columns.stop])
        y, lower = int(heat.y_edges[rows.start]), int(heat.y_edges[rows.stop])
        width, height = right - x, lower - y
        result.append(
            Region(
                x,
                y,
                width,
                height,
                int(area),
                float(value),
                length_px=float(np.hypot(width, height)),
                orientation_deg=float(np.rad2deg(np.arctan2(height, width))),
                elongation=1 - min(width, height) / max(width, height),
                path=[[x, lower], [right, y]],
            )  # fmt: skip
        )
    return sorted(result, key=lambda region: (-region.area_px, region.y, region.x))
