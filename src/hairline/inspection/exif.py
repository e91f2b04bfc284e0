"""What a photo's file says of itself: size, kind, time and place. Only headers are read, no pixels."""

from __future__ import annotations

import contextlib
import io
import math
import re
from dataclasses import dataclass, field
from typing import Any

from PIL import ExifTags, Image

from hairline.data import images

_SIDEWAYS = (5, 6, 7, 8)
_STILL_FORMATS = ("MPO",)  # phones put a preview or a second view behind the photo itself
_WGS84 = re.compile(r"wgs[ -]?(19)?84", re.I)
_TIME = re.compile(r"(\d{4})[:-](\d\d)[:-](\d\d)[ T](\d\d):(\d\d):(\d\d)")
_OFFSET = re.compile(r"[+-]\d\d:\d\d")


@dataclass(frozen=True)
class Header:
    """What is known of a photo without decoding it.

    Attributes:
        width: In pixels, as seen right side up.
        height: In pixels, as seen right side up.
        time: When it was taken, ISO 8601, with the zone where the camera noted one; "" where it is not known.
        latitude: Degrees north (WGS 84); None where it is not known.
        longitude: Degrees east.
        altitude_m: Metres above the sea, as the camera noted it.
        doubts: What the file says and cannot be believed.
    """

    width: int
    height: int
    time: str = ""
    latitude: float | None = None
    longitude: float | None = None
    altitude_m: float | None = None
    doubts: list[str] = field(default_factory=list)


def read(content: bytes) -> Header:
    """Read a photo's headers.

    Args:
        content: The file's bytes.

    Raises:
        ImageError: If the bytes are no image, or an animation or several pages.
    """
    try:
        with Image.open(io.BytesIO(content), formats=images.FORMATS) as image:
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format not in _STILL_FORMATS:
                raise images.ImageError(f"animated or of several pages ({frames}): expected one still photo")
            width, height = image.size
            doubts: list[str] = []
            try:
                exif = image.getexif()
                if exif.get(ExifTags.Base.Orientation) in _SIDEWAYS:
                    width, height = height, width
                time, place = _time(exif, doubts), _place(exif, doubts)
            except Exception as error:  # damaged EXIF makes Pillow raise anything; the photo itself may be sound
                time, place = "", {}
                doubts.append(f"EXIF cannot be read ({type(error).__name__})")
            return Header(width, height, time, doubts=doubts, **place)
    except images.ImageError:
        raise
    except Exception as error:
        raise images.ImageError(images.explain(content, error)) from error


def _time(exif: Image.Exif, doubts: list[str]) -> str:
    """Give the time of the shot; a camera's empty date ("0000:00:00 00:00:00") is none."""
    details = exif.get_ifd(ExifTags.IFD.Exif)
    text = _text(details.get(ExifTags.Base.DateTimeOriginal) or exif.get(ExifTags.Base.DateTime))
    match = _TIME.match(text)
    if match is None:
        return ""
    year, month, day, hour, minute, second = match.groups()
    if not ("1900" <= year and "01" <= month <= "12" and "01" <= day <= "31"):
        if text.strip("0: "):
            doubts.append(f"EXIF time {text!r}")
        return ""
    if not (hour <= "23" and minute <= "59" and second <= "60"):
        doubts.append(f"EXIF time {text!r}")
        return ""
    offset = _text(details.get(ExifTags.Base.OffsetTimeOriginal))
    return f"{year}-{month}-{day}T{hour}:{minute}:{second}" + (offset if _OFFSET.fullmatch(offset) else "")


def _place(exif: Image.Exif, doubts: list[str]) -> dict[str, float]:
    """Give latitude, longitude and altitude; nothing is guessed where a part is missing or absurd."""
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
    if north is None or east is None or (north == 0 and east == 0):  # 0, 0 is what a receiver without a fix writes
        doubts.append("EXIF position is incomplete or impossible")
        return {}
    place = {"latitude": north, "longitude": east}
    with contextlib.suppress(TypeError, ValueError, ZeroDivisionError):
        height = float(gps[keys.GPSAltitude]) if keys.GPSAltitude in gps else math.nan
        below = gps.get(keys.GPSAltitudeRef) in (1, b"\x01", "1")
        if math.isfinite(height) and height < 20_000:
            place["altitude_m"] = round(-height if below else height, 2)
    return place


def _degrees(value: Any, reference: str, directions: str, limit: int) -> float | None:
    """Turn degrees, minutes and seconds into signed degrees; None where they are none."""
    try:
        degrees, minutes, seconds = (float(part) for part in value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    direction = reference[:1].upper()
    if not direction or direction not in directions:
        return None
    # Some cameras write 60.0 for seconds that they rounded up.
    if not (0 <= degrees <= limit and 0 <= minutes < 60.0001 and 0 <= seconds < 60.0001):
        return None
    total = degrees + minutes / 60 + seconds / 3600
    if total > limit:
        return None
    return round(-total if direction == directions[1] else total, 7)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode("ascii", "ignore")
    return value.strip("\x00 ") if isinstance(value, str) else ""
