"""Photo headers: what cameras write is read, what is impossible is ignored and noted."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from hairline.data import images
from hairline.inspection import exif

Keys = ExifTags.GPS
BERLIN = {
    Keys.GPSLatitudeRef: "N", Keys.GPSLatitude: (52.0, 30.0, 59.04),
    Keys.GPSLongitudeRef: "E", Keys.GPSLongitude: (13.0, 22.0, 39.72),
}  # fmt: skip


def photo(
    gps: dict[int, Any] | None = None,
    taken: dict[int, Any] | None = None,
    orientation: int | None = None,
    kind: str = "JPEG",
) -> bytes:
    data = Image.Exif()
    data[ExifTags.Base.Make] = "camera"  # Pillow writes no EXIF that holds nothing but sub-directories
    if orientation:
        data[ExifTags.Base.Orientation] = orientation
    data.get_ifd(ExifTags.IFD.GPSInfo).update(gps or {})
    data.get_ifd(ExifTags.IFD.Exif).update(taken or {})
    return images.encoded(Image.new("RGB", (40, 30)), kind, exif=data)


def test_a_photo_without_exif() -> None:
    assert exif.read(photo()) == exif.Header(40, 30)


@pytest.mark.parametrize(
    ("north", "east", "expected"),
    [("N", "E", (52.5164, 13.3777)), ("S", "W", (-52.5164, -13.3777)), ("s", "e", (-52.5164, 13.3777))],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_hemispheres(north: str, east: str, expected: tuple[float, float], kind: str) -> None:
    header = exif.read(photo({**BERLIN, Keys.GPSLatitudeRef: north, Keys.GPSLongitudeRef: east}, kind=kind))
    assert (header.latitude, header.longitude) == pytest.approx(expected, abs=1e-6)
    assert header.doubts == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({Keys.GPSAltitude: 34.5}, (52.5164, 13.3777, 34.5)),
        ({Keys.GPSAltitude: 34.5, Keys.GPSAltitudeRef: b"\x01"}, (52.5164, 13.3777, -34.5)),
        ({Keys.GPSLatitude: (90.0, 0.0, 0.0), Keys.GPSLongitude: (180.0, 0.0, 0.0)}, (90, 180, None)),
        ({Keys.GPSLongitude: (0.0, 0.0, 0.0)}, (52.5164, 0, None)),
    ],
)
def test_altitudes_and_the_edges_of_the_earth(
    change: dict[int, Any], expected: tuple[float, float, float | None]
) -> None:
    header = exif.read(photo({**BERLIN, **change}))
    assert (header.latitude, header.longitude) == pytest.approx(expected[:2], abs=1e-6)
    assert header.altitude_m == expected[2]


@pytest.mark.parametrize(
    "change",
    [
        {Keys.GPSLatitude: (91.0, 0.0, 0.0)},
        {Keys.GPSLatitude: (90.0, 0.0, 1.0)},
        {Keys.GPSLongitude: (181.0, 0.0, 0.0)},
        {Keys.GPSLatitude: (52.0, 75.0, 0.0)},
        {Keys.GPSLongitude: (13.0, 0.0, 99.0)},
        {Keys.GPSLatitude: (IFDRational(0, 0), IFDRational(0, 0), IFDRational(0, 0))},
        {Keys.GPSLatitudeRef: "X"},
        {Keys.GPSLatitudeRef: None},
        {Keys.GPSLongitudeRef: None},
        {Keys.GPSLongitude: None},
        {Keys.GPSLatitude: (52.0, 30.0)},
        {Keys.GPSLatitude: (0.0, 0.0, 0.0), Keys.GPSLongitude: (0.0, 0.0, 0.0)},
        {Keys.GPSMapDatum: "TOKYO"},
    ],
)
def test_incomplete_and_impossible_positions_are_ignored_and_noted(change: dict[int, Any]) -> None:
    header = exif.read(photo({key: value for key, value in {**BERLIN, **change}.items() if value is not None}))
    assert (header.latitude, header.longitude, header.altitude_m) == (None, None, None)
    (doubt,) = header.doubts
    assert "position" in doubt


@pytest.mark.parametrize(
    ("written", "zone", "expected", "doubts"),
    [
        ("2026:05:01 10:20:30", None, "2026-05-01T10:20:30", 0),
        ("2026:05:01 10:20:30", "+02:00", "2026-05-01T10:20:30+02:00", 0),
        ("2026:05:01 10:20:30", "summer", "2026-05-01T10:20:30", 0),
        ("0000:00:00 00:00:00", None, "", 0),
        ("2026:13:01 10:20:30", None, "", 1),
        ("2026:05:01 25:20:30", None, "", 1),
        ("yesterday", None, "", 0),
    ],
)
def test_time(written: str, zone: str | None, expected: str, doubts: int) -> None:
    taken = {ExifTags.Base.DateTimeOriginal: written} | ({ExifTags.Base.OffsetTimeOriginal: zone} if zone else {})
    header = exif.read(photo(taken=taken))
    assert (header.time, len(header.doubts)) == (expected, doubts)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_of_the_upright_photo(orientation: int) -> None:
    content = photo(orientation=orientation)
    height, width = images.decode(content).shape[:2]
    header = exif.read(content)
    assert (header.width, header.height) == (width, height) == ((30, 40) if orientation >= 5 else (40, 30))


def test_a_phones_photo_with_preview_is_a_photo() -> None:
    preview = Image.new("RGB", (20, 15))
    header = exif.read(images.encoded(Image.new("RGB", (40, 30)), "MPO", save_all=True, append_images=[preview]))
    assert (header.width, header.height) == (40, 30)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_exif_does_not_cost_the_photo() -> None:
    content = photo(BERLIN)
    at = content.index(b"Exif\0\0") + 6
    header = exif.read(content[: at + 8] + b"\xff" * 40 + content[at + 48 :])
    assert (header.width, header.height, header.latitude) == (40, 30, None)


def test_other_files_are_refused() -> None:
    with pytest.raises(images.ImageError, match="not an image"):
        exif.read(b"no image")
