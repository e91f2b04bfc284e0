"""The map of an inspection: positions of photos in a plane, drawn without a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 1000, 560
_MARGIN = 40
_METRES_PER_DEGREE = 111_320.0  # of latitude, on a sphere with the Earth's mean radius
_LEAST_M = 20.0  # what the map shows at least: positions of phones are no better


@dataclass(frozen=True)
class Track:
    """Positions on the map.

    Attributes:
        points: x and y of each photo, in units of the drawing, north up; None without a position.
        line: Indices of the photos with a position and a time, in the order in which they were taken.
        scale_px: Length of the scale bar, in units of the drawing.
        scale: Its length on the ground, for example "20 m".
    """

    points: list[tuple[float, float] | None]
    line: list[int]
    scale_px: float
    scale: str


def project(places: Sequence[tuple[float, float] | None], times: Sequence[str]) -> Track | None:
    """Project positions into the drawing, with distances to scale.

    The projection is equirectangular at the middle latitude, which is exact enough for a site; a track that crosses the
    180th meridian stays together.

    Args:
        places: Latitude and longitude of each photo in degrees; None if unknown.
        times: When each photo was taken, ISO 8601; "" if unknown.

    Returns:
        None if no photo has a position.
    """
    known = [place for place in places if place is not None]
    if not known:
        return None
    # Longitudes as differences to the first one, -180 to 180.
    east = [(longitude - known[0][1] + 180) % 360 - 180 for _, longitude in known]
    north = [latitude for latitude, _ in known]
    middle_x, middle_y = (min(east) + max(east)) / 2, (min(north) + max(north)) / 2
    shrink = math.cos(math.radians(middle_y))
    metres = [
        ((x - middle_x) * shrink * _METRES_PER_DEGREE, (middle_y - y) * _METRES_PER_DEGREE)
        for x, y in zip(east, north, strict=True)
    ]
    across = max(_LEAST_M, 2 * max(abs(x) for x, _ in metres))
    down = max(_LEAST_M, 2 * max(abs(y) for _, y in metres))
    px_per_m = min((WIDTH - 2 * _MARGIN) / across, (HEIGHT - 2 * _MARGIN) / down)
    drawn = iter([(WIDTH / 2 + x * px_per_m, HEIGHT / 2 + y * px_per_m) for x, y in metres])
    points = [None if place is None else next(drawn) for place in places]
    timed = [index for index, point in enumerate(points) if point is not None and times[index]]
    bar_m = _round_length(WIDTH / 5 / px_per_m)
    return Track(
        points=points,
        line=sorted(timed, key=lambda index: times[index]),
        scale_px=bar_m * px_per_m,
        scale=f"{bar_m / 1000:g} km" if bar_m >= 1000 else f"{bar_m:g} m",
    )


def _round_length(most: float) -> float:
    """Return the largest of 1, 2 or 5 times a power of ten that does not exceed `most`."""
    power: float = 10.0 ** math.floor(math.log10(most))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= most * 1.000001)
