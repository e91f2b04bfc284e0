"""The map: distances to scale, north up, whole across the 180th meridian."""

from __future__ import annotations

import math

import pytest

from hairline.inspection.report.track import HEIGHT, WIDTH, project


def distance_m(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Return the great-circle distance of two positions (haversine formula)."""
    (lat, lon), (to_lat, to_lon) = (tuple(map(math.radians, place)) for place in (one, other))
    half = math.sin((to_lat - lat) / 2) ** 2 + math.cos(lat) * math.cos(to_lat) * math.sin((to_lon - lon) / 2) ** 2
    return 2 * 6_378_137 * math.asin(math.sqrt(half))


def metres(text: str) -> float:
    value, unit = text.split()
    return float(value) * {"m": 1, "km": 1000}[unit]


@pytest.mark.parametrize("shift", [0.0, 166.63, -13.37])
def test_distances_are_to_scale(shift: float) -> None:
    places = [(52.5, 13.37), (52.501, 13.372), (52.4995, 13.3715), (52.5003, 13.3699)]
    track = project([(lat, (lon + shift + 180) % 360 - 180) for lat, lon in places], [""] * 4)
    assert track is not None
    px_per_m = track.scale_px / metres(track.scale)
    for first in range(4):
        for second in range(first):
            drawn = math.dist(track.points[first], track.points[second])  # type: ignore[arg-type]
            assert drawn / px_per_m == pytest.approx(distance_m(places[first], places[second]), rel=2e-3)
    (x, y), (east_x, north_y) = track.points[0], track.points[1]  # type: ignore[misc]
    assert east_x > x
    assert north_y < y


def test_what_is_drawn_fits() -> None:
    track = project([(0.0, 0.0), None, (1.0, 30.0), (-1.0, -30.0)], ["2026-05-02", "", "2026-05-01", ""])
    assert track is not None
    assert track.points[1] is None
    assert track.line == [2, 0]
    for point in track.points:
        assert point is None or (0 < point[0] < WIDTH and 0 < point[1] < HEIGHT)
    assert 0 < track.scale_px < WIDTH / 2


def test_one_place_is_in_the_middle_and_no_place_is_no_map() -> None:
    track = project([(52.5, 13.37)] * 3, [""] * 3)
    assert track is not None
    assert track.points == [(WIDTH / 2, HEIGHT / 2)] * 3
    assert metres(track.scale) <= 20
    assert project([None, None], ["", ""]) is None
