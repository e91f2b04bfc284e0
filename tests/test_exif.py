"""What a photo's headers say: right for what cameras write, nothing for what cannot be."""

from __future__ import annotations

import io
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
    size: tuple[int, int] = (40, 30),
) -> bytes:
    data = Image.Exif()
    data[ExifTags.Base.Make] = "camera"  # Pillow writes no EXIF that holds nothing but sub-directories
    if orientation:
        data[ExifTags.Base.Orientation] = orientation
    if gps:
        data.get_ifd(ExifTags.IFD.GPSInfo).update(gps)
    if taken:
        data.get_ifd(ExifTags.IFD.Exif).update(taken)
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, kind, exif=data)
    return buffer.getvalue()


def test_a_photo_without_exif_says_nothing() -> None:
    assert exif.read(photo()) == exif.Header(40, 30)


@pytest.mark.parametrize(
    ("north", "east", "expected"),
    [("N", "E", (52.5164, 13.3777)), ("S", "W", (-52.5164, -13.3777)), ("N", "W", (52.5164, -13.3777)),
     ("s", "e", (-52.5164, 13.3777))],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_hemispheres(north: str, east: str, expected: tuple[float, float], kind: str) -> None:
    found = exif.read(photo({**BERLIN, Keys.GPSLatitudeRef: north, Keys.GPSLongitudeRef: east}, kind=kind))
    assert (found.latitude, found.longitude) == pytest.approx(expected, abs=1e-6)
    assert found.doubts == []


def test_altitude_has_a_sign() -> None:
    above = exif.read(photo({**BERLIN, Keys.GPSAltitude: 34.5}))
    below = exif.read(photo({**BERLIN, Keys.GPSAltitude: 34.5, Keys.GPSAltitudeRef: b"\x01"}))
    assert (above.altitude_m, below.altitude_m) == (34.5, -34.5)


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
def test_incomplete_and_impossible_positions_are_none_and_said(change: dict[int, Any]) -> None:
    gps = {key: value for key, value in {**BERLIN, **change}.items() if value is not None}
    found = exif.read(photo(gps))
    assert (found.latitude, found.longitude, found.altitude_m) == (None, None, None)
    assert len(found.doubts) == 1
    assert "position" in found.doubts[0]


def test_edges_of_the_earth_are_positions() -> None:
    gps = {**BERLIN, Keys.GPSLatitude: (90.0, 0.0, 0.0), Keys.GPSLongitude: (180.0, 0.0, 0.0)}
    assert (exif.read(photo(gps)).latitude, exif.read(photo(gps)).longitude) == (90, 180)
    assert exif.read(photo({**BERLIN, Keys.GPSLongitude: (0.0, 0.0, 0.0)})).longitude == 0


@pytest.mark.parametrize(
    ("written", "zone", "expected"),
    [
        ("2026:05:01 10:20:30", None, "2026-05-01T10:20:30"),
        ("2026:05:01 10:20:30", "+02:00", "2026-05-01T10:20:30+02:00"),
        ("2026:05:01 10:20:30", "summer", "2026-05-01T10:20:30"),
        ("0000:00:00 00:00:00", None, ""),
        ("2026:13:01 10:20:30", None, ""),
        ("2026:05:01 25:20:30", None, ""),
        ("yesterday", None, ""),
    ],
)
def test_time(written: str, zone: str | None, expected: str) -> None:
    taken = {ExifTags.Base.DateTimeOriginal: written} | ({ExifTags.Base.OffsetTimeOriginal: zone} if zone else {})
    assert exif.read(photo(taken=taken)).time == expected


@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_is_that_of_the_upright_photo(orientation: int) -> None:
    content = photo(orientation=orientation)
    height, width = images.decode(content).shape[:2]
    found = exif.read(content)
    assert (found.width, found.height) == (width, height) == ((30, 40) if orientation >= 5 else (40, 30))


@pytest.mark.parametrize("kind", ["WEBP", "PNG", "TIFF"])
def test_animations_and_pages_are_refused(kind: str) -> None:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (0, 90, 180)]
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    with pytest.raises(images.ImageError, match=r"animated or of several pages \(3\)"):
        exif.read(buffer.getvalue())


def test_a_phones_double_picture_is_a_photo() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, "MPO", save_all=True, append_images=[Image.new("RGB", (20, 15))])
    found = exif.read(buffer.getvalue())
    assert (found.width, found.height) == (40, 30)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_exif_does_not_cost_the_photo() -> None:
    content = photo(BERLIN)
    at = content.index(b"Exif\0\0") + 6
    found = exif.read(content[: at + 8] + b"\xff" * 40 + content[at + 48 :])
    assert (found.width, found.height, found.latitude) == (40, 30, None)


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(images.ImageError, match="not an image"):
        exif.read(b"no image")
