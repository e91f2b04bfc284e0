"""Size, time and position of a photo, read from its headers without decoding pixels."""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import dataclass, field
from typing import Any

from PIL import ExifTags, Image

from hairline.data import images
from hairline.inspection import xmp

_WGS84 = re.compile(r"wgs[ -]?(19)?84", re.I)
_TIME = re.compile(r"(\d{4})[:-](\d\d)[:-](\d\d)[ T](\d\d):(\d\d):(\d\d)")
_OFFSET = re.compile(r"[+-]\d\d:\d\d")


@dataclass(frozen=True)
class Header:
    """The headers of a photo.

    Attributes:
        width: In pixels, upright.
        height: In pixels, upright.
        time: When it was taken, ISO 8601, with the time zone if the camera stored one; "" if unknown.
        latitude: Degrees north (WGS 84); None if unknown.
        longitude: Degrees east.
        altitude_m: Metres above sea level.
        doubts: EXIF values that are impossible and were ignored.
    """

    width: int
    height: int
    time: str = ""
    latitude: float | None = None
    longitude: float | None = None
    altitude_m: float | None = None
    doubts: list[str] = field(default_factory=list)


def read(content: bytes) -> Header:
    """Read the headers of an image file.

    Args:
        content: Bytes of the file.

    Raises:
        ImageError: If the bytes are not an image, or an animation or several pages.
    """
    with images.opened(content) as image:
        width, height = image.size
        doubts: list[str] = []
        try:
            exif = image.getexif()
            if exif.get(ExifTags.Base.Orientation) in images.SIDEWAYS:
                width, height = height, width
            time, position = _time(exif, doubts), _position(exif, doubts)
        except Exception as error:  # Pillow raises anything on damaged EXIF; the photo itself may be sound
            time, position = "", {}
            doubts.append(f"EXIF cannot be read ({type(error).__name__})")
        if not position:
            position = xmp.position(image.info, doubts)
        return Header(width, height, time, doubts=doubts, **position)


def _time(exif: Image.Exif, doubts: list[str]) -> str:
    """Return when the photo was taken; "" for a camera's empty date ("0000:00:00 00:00:00")."""
    details = exif.get_ifd(ExifTags.IFD.Exif)
    text = _text(details.get(ExifTags.Base.DateTimeOriginal) or exif.get(ExifTags.Base.DateTime))
    match = _TIME.match(text)
    if match is None:
        return ""
    year, month, day, hour, minute, second = match.groups()
    date_valid = "1900" <= year and "01" <= month <= "12" and "01" <= day <= "31"
    if not (date_valid and hour <= "23" and minute <= "59" and second <= "60"):
        if text.strip("0: "):
            doubts.append(f"EXIF time {text!r}")
        return ""
    offset = _text(details.get(ExifTags.Base.OffsetTimeOriginal))
    return f"{year}-{month}-{day}T{hour}:{minute}:{second}" + (offset if _OFFSET.fullmatch(offset) else "")


def _position(exif: Image.Exif, doubts: list[str]) -> dict[str, float]:
    """Return latitude, longitude and altitude; nothing if a part is missing or impossible."""
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    keys = ExifTags.GPS
    if keys.GPSLatitude not in gps and keys.GPSLongitude not in gps:
        return {}
    datum = _text(gps.get(keys.GPSMapDatum))
    if datum and not _WGS84.search(datum):
        doubts.append(f"EXIF position in the datum {datum!r}, not WGS 84")
        return {}
    north = _degrees(gps.get(keys.GPSLatitude), _text(gps.get(keys.GPSLatitudeRef)), "NS", 90)
    east = _degrees(gps.get(keys.GPSLongitude), _text(gps.get(keys.GPSLongitudeRef)), "EW", 180)
    if north is None or east is None or (north == 0 and east == 0):  # receivers without a fix write 0, 0
        doubts.append("EXIF position is incomplete or impossible")
        return {}
    position = {"latitude": north, "longitude": east}
    with contextlib.suppress(TypeError, ValueError, ZeroDivisionError):
        height = float(gps.get(keys.GPSAltitude, math.nan))
        below = gps.get(keys.GPSAltitudeRef) in (1, b"\x01", "1")
        if math.isfinite(height) and height < 20_000:
            position["altitude_m"] = round(-height if below else height, 2)
    return position


def _degrees(value: Any, reference: str, directions: str, limit: int) -> float | None:
    """Convert degrees, minutes and seconds to signed degrees; None if they are impossible."""
    try:
        degrees, minutes, seconds = (float(part) for part in value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    total = degrees + minutes / 60 + seconds / 3600
    direction = reference[:1].upper()
    # Some cameras write 60.0 for rounded seconds.
    valid = 0 <= degrees and 0 <= minutes < 60.0001 and 0 <= seconds < 60.0001 and total <= limit
    if not valid or not direction or direction not in directions:
        return None
    return round(-total if direction == directions[1] else total, 7)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode("ascii", "ignore")
    return value.strip("\x00 ") if isinstance(value, str) else ""
