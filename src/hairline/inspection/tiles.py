"""Tiles of a photo, and the heat map that the scores of their cells make."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
        cell_px: Side of a cell in pixels, before edges are rounded; the last cells reach to the photo's border.
    """

    x_edges: NDArray[np.int64]
    y_edges: NDArray[np.int64]
    values: NDArray[np.float32]
    cell_px: float

    def areas(self) -> NDArray[np.int64]:
        """Return the area of each cell in pixels, int64 [rows, columns]."""
        return np.outer(np.diff(self.y_edges), np.diff(self.x_edges))

    def pixels(self, cells: NDArray[np.generic]) -> NDArray[np.generic]:
        """Expand one value per cell [rows, columns, ...] to one per pixel [height, width, ...], with the same dtype."""
        return np.repeat(np.repeat(cells, np.diff(self.y_edges), axis=0), np.diff(self.x_edges), axis=1)


def blend(tiles: Grid, scores: NDArray[np.float32], *, cells: int = 1) -> HeatMap:
    """Return the mean score of the tiles that cover each cell of a photo, weighted by the area they cover.

    Args:
        tiles: Tiles of the photo.
        scores: Scores of the tiles, float32 [tiles, classes], or of parts of them, [tiles, rows, columns, classes];
            tiles are in the order of `tiles.boxes()`.
        cells: Cells along the longer side of a tile.

    Examples:
        >>> heat = blend(grid(3, 2, tile_px=2, stride_px=1), np.float32([[0], [1]]), cells=2)
        >>> heat.x_edges.tolist(), heat.values[..., 0].tolist()
        ([0, 1, 2, 3], [[0.0, 0.5, 1.0], [0.0, 0.5, 1.0]])
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim == 2:
        scores = scores[:, None, None]
    _, parts_down, parts_across, classes = scores.shape
    side = max(1.0, max(tiles.tile_width, tiles.tile_height) / cells)
    x_edges, across = _coverage(tiles.columns, tiles.tile_width, tiles.width, parts_across, side)
    y_edges, down = _coverage(tiles.rows, tiles.tile_height, tiles.height, parts_down, side)
    table = scores.reshape(len(tiles.rows), len(tiles.columns), parts_down, parts_across, classes)
    table = table.transpose(0, 2, 1, 3, 4).reshape(down.shape[1], across.shape[1], classes)
    # The parts over a cell are a product of rows and columns, so two small sums are enough.
    total = np.stack([down @ table[..., index] @ across.T for index in range(classes)], axis=-1)
    count = np.outer(down.sum(axis=1), across.sum(axis=1))
    return HeatMap(
        np.rint(x_edges).astype(np.int64),
        np.rint(y_edges).astype(np.int64),
        (total / count[..., None]).astype(np.float32),
        side,
    )


def _coverage(
    positions: NDArray[np.int64], tile_px: int, length_px: int, parts: int, side: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the cells' edges along one side, and the length of each cell that each part of a tile covers.

    Returns:
        float64 [cells + 1], and float64 [cells, tiles x parts].
    """
    count = max(1, round(length_px / side))
    edges = np.append(np.arange(count) * side, float(length_px))
    starts = (positions[:, None] + np.arange(parts) * (tile_px / parts)).ravel()
    ends = starts + tile_px / parts
    overlaps = np.minimum(edges[1:, None], ends) - np.maximum(edges[:-1, None], starts)
    return edges, np.maximum(overlaps, 0.0)
