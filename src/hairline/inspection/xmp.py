"""The position in a photo's XMP metadata, where drones and editors store it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

_BYTES = 1_000_000  # metadata beyond it are no positions
# name="value" or <prefix:name>value</prefix:name>; any namespace prefix, as vendors have their own.
_ENTRY = r"""[\w.-]+:{name}\s*(?:=\s*(?:"([^"<]*)"|'([^'<]*)')|>\s*([^<>]*?)\s*</)"""
# Vendors' spellings: DJI once wrote "Longtitude".
_LATITUDE, _LONGITUDE = (
    ("GPSLatitude", "GpsLatitude", "Latitude"),
    ("GPSLongitude", "GpsLongitude", "GpsLongtitude", "Longitude"),
)
_ALTITUDE = ("AbsoluteAltitude", "GPSAltitude", "GpsAltitude")
_NUMBER = r"[+-]?\d+(?:\.\d+)?"
_DECIMAL_COMMA = re.compile(r"([+-]?\d+),(\d+)")  # degrees and minutes end with a direction
_DEGREES = re.compile(rf"({_NUMBER})(?:[,;°\s]+({_NUMBER}))?(?:[,;'′\s]+({_NUMBER}))?[\"″\s]*([NSEWnsew])?")


def position(info: Mapping[Any, Any], doubts: list[str]) -> dict[str, float]:
    """Return latitude, longitude and altitude of a photo; nothing if the metadata hold no position.

    Args:
        info: Pillow's `Image.info`.
        doubts: Receives a note about a position that is impossible.
    """
    text = info.get("xmp") or info.get("XML:com.adobe.xmp") or ""
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    text = text[:_BYTES]
    north, east = _value(text, _LATITUDE), _value(text, _LONGITUDE)
    if north is None or east is None:
        return {}
    latitude = _degrees(north, _value(text, ("GPSLatitudeRef",)), "NS", 90)
    longitude = _degrees(east, _value(text, ("GPSLongitudeRef",)), "EW", 180)
    if latitude is None or longitude is None or (latitude == 0 and longitude == 0):  # no fix: 0, 0
        doubts.append("XMP position is incomplete or impossible")
        return {}
    found = {"latitude": latitude, "longitude": longitude}
    altitude = _altitude(_value(text, _ALTITUDE), _value(text, ("GPSAltitudeRef",)))
    return found if altitude is None else found | {"altitude_m": altitude}


def _value(text: str, names: Sequence[str]) -> str | None:
    """Return the first value of these names, written as an attribute or an element."""
    for name in names:
        match = re.search(_ENTRY.format(name=name), text)
        if match is not None:
            value = next((group for group in match.groups() if group is not None), "").strip()
            if value:
                return value
    return None


def _degrees(text: str, reference: str | None, directions: str, limit: int) -> float | None:
    """Convert `47.375`, `47,375`, `47,22.5N` or `47,22,30N` to signed degrees; None if they are impossible."""
    decimal = _DECIMAL_COMMA.fullmatch(text.strip())
    match = _DEGREES.fullmatch(f"{decimal[1]}.{decimal[2]}" if decimal else text.strip())
    if match is None:
        return None
    whole, minutes, seconds = (float(part) if part else 0.0 for part in match.groups()[:3])
    direction = (match[4] or reference or "")[:1].upper()
    if direction and direction not in directions or not (0 <= minutes < 60.0001 and 0 <= seconds < 60.0001):
        return None
    value = abs(whole) + minutes / 60 + seconds / 3600
    negative = text.strip().startswith("-") != (direction == directions[1])
    return round(-value if negative else value, 7) if value <= limit else None


def _altitude(text: str | None, reference: str | None) -> float | None:
    """Convert `+123.4`, `123,4` or the fraction `1234/10` to metres; None if it is impossible."""
    match = re.fullmatch(rf"({_NUMBER})(?:/(\d+))?", (text or "").replace(",", "."))
    if match is None or match[2] == "0":
        return None
    value = float(match[1]) / float(match[2] or 1)
    value = -value if reference == "1" else value
    return round(value, 2) if math.isfinite(value) and value < 20_000 else None
