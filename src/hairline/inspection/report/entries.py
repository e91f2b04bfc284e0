"""What the report's script knows of a photo: its files, its traced regions and its tiles."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hairline.inspection import triage
from hairline.inspection.records import Record

_LEAST_SHARE = 0.25  # of a tile's shorter side that a trace runs inside it, so that the tile shows it


def entry(record: Record, name: str, positive: str) -> dict[str, Any]:
    """Return a photo's entry, as plain values for JSON.

    Args:
        record: The photo's record.
        name: Its path below the folder of the photos.
        positive: The positive class.
    """
    x, y, width, height = (np.asarray(record.tiles[key], np.int64) for key in ("x", "y", "width", "height"))
    boxes = np.column_stack([x, y, width, height])
    scores = np.asarray(record.tiles[f"prob_{positive}"])
    return {
        "name": name,
        "width": record.header.width,
        "height": record.header.height,
        "photo": record.photo_small,
        "heat": record.heatmap,
        "overlay": record.overlay,
        "regions": [
            {
                "box": [region.x, region.y, region.width, region.height],
                "path": region.path,
                "length": round(region.length_px),
                "highest": round(region.highest, 3),
                "tiles": tiles_on(region.path, boxes),
            }
            for region in record.regions
        ],
        # The tiles are a grid, row by row.
        "grid": {
            "x": np.unique(x).tolist(),
            "y": np.unique(y).tolist(),
            "width": int(width[0]),
            "height": int(height[0]),
        },
        "scores": np.rint(100 * scores).astype(int).tolist(),
        "flagged": [index for index, predicted in enumerate(record.tiles["predicted"]) if predicted == positive],
        "remarks": triage.remarks(record),
    }


def tiles_on(path: list[list[int]], boxes: NDArray[np.int64]) -> list[int]:
    """Return the tiles that show a traced region: those are what a mark on the region labels.

    A tile shows the trace if enough of it runs through; where tiles overlap, the one whose centre is nearest counts.

    Args:
        path: Points [x, y] of the trace, in pixels of the photo.
        boxes: x, y, width and height of the tiles, int64 [tiles, 4]: a grid, row by row.

    Returns:
        Indices of tiles in ascending order; at least one, unless the path is empty.
    """
    if not path:
        return []
    step = max(1.0, float(boxes[0, 2:].min()) / 32)
    points = _sample(np.asarray(path, np.float64), step)
    columns, rows = (np.unique(boxes[:, side]) + boxes[0, 2 + side] / 2 for side in (0, 1))
    column, row = (
        np.abs(centres[:, None] - points[:, side]).argmin(axis=0) for side, centres in enumerate((columns, rows))
    )
    nearest = row * len(columns) + column
    tiles, counts = np.unique(nearest, return_counts=True)
    enough = counts * step >= _LEAST_SHARE * boxes[tiles, 2:].min(axis=1)
    return [int(tile) for tile in (tiles[enough] if enough.any() else tiles[[counts.argmax()]])]


def _sample(path: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    """Return points along a polyline, at most `step` apart, float64 [n, 2]."""
    parts = [path[:1]]
    for start, end in itertools.pairwise(path):
        count = max(1, int(np.ceil(np.hypot(*(end - start)) / step)))
        parts.append(start + (end - start) * (np.arange(1, count + 1) / count)[:, None])
    return np.concatenate(parts)
