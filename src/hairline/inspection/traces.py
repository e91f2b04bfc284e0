"""Regions of a heat map and the line that runs through each: its length, direction and elongation."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse import csgraph
from skimage.morphology import skeletonize

from hairline.inspection.tiles import HeatMap

PATH_POINTS = 40
_FINER = 4  # points per cell along which the heat map is interpolated: its outline follows a crack more closely
_TOUCHING = np.ones((3, 3), bool)  # cells that share a corner belong to one region: cracks run diagonally
_STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))


@dataclass(frozen=True)
class Region:
    """A connected part of a photo, in pixels.

    Attributes:
        x: Left edge of the bounding box.
        y: Upper edge of the bounding box.
        width: Width of the bounding box.
        height: Height of the bounding box.
        area_px: Area of the region itself.
        highest: Highest value of the heat map in the region.
        length_px: Length of all lines through the region, branches included; at least the side of a cell.
        orientation_deg: Direction of its longest axis, 0 to 180, counter-clockwise from the x axis.
        elongation: 1 minus the ratio of its shortest to its longest axis: 0 for a disc, 1 for a line.
        path: Points [x, y] along its longest line, at most `PATH_POINTS`.
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


def find_regions(heat: HeatMap, chosen: NDArray[np.bool_], values: NDArray[np.float32], level: float) -> list[Region]:
    """Return the connected regions of a heat map, the longest first.

    The line is the skeleton (Zhang & Suen 1984, scikit-image) of the interpolated map above `level`.

    Args:
        heat: Positions of the cells.
        chosen: Cells of regions, bool [rows, columns]; cells that touch, also at a corner, belong to one region.
        values: The map, float32 [rows, columns].
        level: Value from which a point belongs to a region.
    """
    labels, count = ndimage.label(chosen, structure=_TOUCHING)
    if not count:
        return []
    numbers = np.arange(1, count + 1)
    areas, highest = ndimage.sum_labels(heat.areas(), labels, numbers), ndimage.maximum(values, labels, numbers)
    around = ndimage.grey_dilation(labels, footprint=_TOUCHING)  # the interpolated outline leaves the chosen cells
    owners = np.kron(np.where(labels, labels, around), np.ones((_FINER, _FINER), labels.dtype))
    fine = ndimage.zoom(np.where(around, values, 0.0), _FINER, order=1, mode="nearest", grid_mode=True)
    points, steps, lengths = _graph(skeletonize((fine >= level) & (owners > 0)))  # type: ignore[no-untyped-call]
    of_point = owners[tuple(points.T)]
    inside = of_point[steps[:, 0]] == of_point[steps[:, 1]]  # an interpolated outline may touch another region's
    steps, lengths = steps[inside], lengths[inside]
    totals = np.bincount(of_point[steps[:, 0]], lengths, count + 1)
    paths = _longest_paths(len(points), steps, lengths, of_point)
    side = heat.cell_px
    result = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        x, right = int(heat.x_edges[columns.start]), int(heat.x_edges[columns.stop])
        y, lower = int(heat.y_edges[rows.start]), int(heat.y_edges[rows.stop])
        cells = np.argwhere(labels[rows, columns] == number)
        orientation, elongation = _axes(cells)
        line = points[paths[number]] if number in paths else (cells + (rows.start, columns.start))[:1] * _FINER
        line = line[np.unique(np.linspace(0, len(line) - 1, PATH_POINTS).astype(np.int64))]
        places = np.minimum((line[:, ::-1] + 0.5) * side / _FINER, (heat.x_edges[-1] - 1, heat.y_edges[-1] - 1))
        result.append(
            Region(
                x=x,
                y=y,
                width=right - x,
                height=lower - y,
                area_px=int(areas[number - 1]),
                highest=float(highest[number - 1]),
                length_px=float(max(totals[number] / _FINER, 1.0) * side),
                orientation_deg=orientation,
                elongation=elongation,
                path=np.rint(places).astype(np.int64).tolist(),
            )
        )
    return sorted(result, key=lambda region: (-region.length_px, region.y, region.x))


def _graph(skeleton: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the points of a skeleton [n, 2], its steps as pairs of point numbers [m, 2], and their lengths [m].

    A diagonal step is left out where two straight ones connect the same points.
    """
    points = np.argwhere(skeleton)
    numbers = np.full(np.add(skeleton.shape, 2), -1, np.int64)
    numbers[1:-1, 1:-1][skeleton] = np.arange(len(points))
    at = points + 1
    steps, lengths = [], []
    for down, across in _STEPS:
        other = numbers[at[:, 0] + down, at[:, 1] + across]
        there = other >= 0
        if down and across:
            there &= (numbers[at[:, 0] + down, at[:, 1]] < 0) & (numbers[at[:, 0], at[:, 1] + across] < 0)
        steps.append(np.column_stack([np.flatnonzero(there), other[there]]))
        lengths.append(np.full(int(there.sum()), np.hypot(down, across)))
    return points, np.concatenate(steps), np.concatenate(lengths)


def _longest_paths(
    count: int, steps: NDArray[np.int64], lengths: NDArray[np.float64], owners: NDArray[np.integer]
) -> dict[int, NDArray[np.int64]]:
    """Return the points along the longest of each owner's shortest paths."""
    if not count:
        return {}
    graph = sparse.coo_matrix((lengths, steps.T), shape=(count, count)).tocsr()
    _, parts = csgraph.connected_components(graph, directed=False)

    def farthest(sources: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
        distances, before, _ = csgraph.dijkstra(
            graph, directed=False, indices=sources, min_only=True, return_predecessors=True
        )
        order = np.lexsort((distances, parts))
        return order[np.append(np.flatnonzero(np.diff(parts[order])), len(order) - 1)], distances, before

    ends = farthest(np.unique(parts, return_index=True)[1])[0]
    ends, distances, before = farthest(ends)
    paths: dict[int, NDArray[np.int64]] = {}
    for end in ends[np.argsort(distances[ends])]:  # the longest of an owner's parts comes last
        path = [int(end)]
        while before[path[-1]] >= 0:
            path.append(int(before[path[-1]]))
        paths[int(owners[end])] = np.array(path)
    return paths


def _axes(cells: NDArray[np.int64]) -> tuple[float, float]:
    """Return direction in degrees and elongation of cells [n, 2] as (row, column), by their second moments."""
    # Each cell is a square of side 1, whose own variance along any axis is 1/12.
    moments = np.cov(cells.T, bias=True) + np.eye(2) / 12 if len(cells) > 1 else np.eye(2) / 12
    values, vectors = np.linalg.eigh(moments)
    down, across = vectors[:, 1]
    return float(np.rad2deg(np.arctan2(-down, across)) % 180), float(1 - np.sqrt(values[0] / values[1]))
