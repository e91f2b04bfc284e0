"""The position in XMP metadata: as vendors write it, and only where EXIF has none."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from hairline.data import images
from hairline.inspection import exif, xmp

PACKET = (
    '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" {}</rdf:Description>'
    '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
DJI = 'xmlns:drone-dji="http://www.dji.com/drone-dji/1.0/"'
EXIF = 'xmlns:exif="http://ns.adobe.com/exif/1.0/"'
ZURICH = {"latitude": 47.375, "longitude": 8.55}


def attributes(namespace: str, **values: str) -> str:
    prefix = namespace.partition(":")[2].partition("=")[0]
    return PACKET.format(f"{namespace} " + " ".join(f'{prefix}:{key}="{value}"' for key, value in values.items()) + ">")


def elements(namespace: str, **values: str) -> str:
    prefix = namespace.partition(":")[2].partition("=")[0]
    inner = "".join(f"<{prefix}:{key}>{value}</{prefix}:{key}>\n" for key, value in values.items())
    return PACKET.format(f"{namespace}>{inner}")


@pytest.mark.parametrize("written", [attributes, elements])
@pytest.mark.parametrize(
    ("namespace", "values", "expected"),
    [
        (DJI, {"GpsLatitude": "47.375", "GpsLongitude": "8.55"}, ZURICH),
        (DJI, {"GpsLatitude": "+47.375000", "GpsLongitude": "+8.550000", "AbsoluteAltitude": "+408.25"},
         ZURICH | {"altitude_m": 408.25}),
        (DJI, {"GpsLatitude": "-33.9", "GpsLongtitude": "-70.5"}, {"latitude": -33.9, "longitude": -70.5}),
        (DJI, {"GpsLatitude": "47,375", "GpsLongitude": "+8,55", "AbsoluteAltitude": "+408,25"},
         ZURICH | {"altitude_m": 408.25}),
        (EXIF, {"GPSLatitude": "47,22.5N", "GPSLongitude": "8,33.0E"}, ZURICH),
        (EXIF, {"GPSLatitude": "47,22,30N", "GPSLongitude": "8,33,0E", "GPSAltitude": "4082/10", "GPSAltitudeRef": "0"},
         ZURICH | {"altitude_m": 408.2}),
        (EXIF, {"GPSLatitude": "33,54.0S", "GPSLongitude": "70,30W"}, {"latitude": -33.9, "longitude": -70.5}),
        (EXIF, {"GPSLatitude": "47.375", "GPSLatitudeRef": "North", "GPSLongitude": "8.55", "GPSLongitudeRef": "E"},
         ZURICH),
        (EXIF, {"GPSLatitude": "33.9", "GPSLatitudeRef": "S", "GPSLongitude": "70.5", "GPSLongitudeRef": "W"},
         {"latitude": -33.9, "longitude": -70.5}),
        ('xmlns:Camera="http://pix4d.com/camera/1.0/"', {"GPSLatitude": "47.375", "GPSLongitude": "8.55"}, ZURICH),
        ('xmlns:drone-parrot="x"', {"Latitude": "47.375", "Longitude": "8.55"}, ZURICH),
        (EXIF, {"GPSLatitude": "47.375N", "GPSLongitude": "8.55E", "GPSAltitude": "12/0"}, ZURICH),
        (EXIF, {"GPSLatitude": "5,0N", "GPSLongitude": "8,33E", "GPSAltitude": "30/1", "GPSAltitudeRef": "1"},
         {"latitude": 5.0, "longitude": 8.55, "altitude_m": -30.0}),
    ],
)  # fmt: skip
def test_positions_of_many_vendors(
    written: object, namespace: str, values: dict[str, str], expected: dict[str, float]
) -> None:
    doubts: list[str] = []
    assert xmp.position({"xmp": written(namespace, **values).encode()}, doubts) == pytest.approx(expected)  # type: ignore[operator]
    assert doubts == []


@pytest.mark.parametrize(
    "values",
    [
        {"GPSLatitude": "97,22.5N", "GPSLongitude": "8,33E"},
        {"GPSLatitude": "47,22.5E", "GPSLongitude": "8,33E"},
        {"GPSLatitude": "47,75N", "GPSLongitude": "8,33E"},
        {"GPSLatitude": "0", "GPSLongitude": "0"},
        {"GPSLatitude": "north", "GPSLongitude": "8"},
    ],
)
def test_impossible_positions_are_doubted(values: dict[str, str]) -> None:
    doubts: list[str] = []
    assert xmp.position({"xmp": attributes(EXIF, **values).encode()}, doubts) == {}
    assert len(doubts) == 1


def test_no_position_is_no_doubt() -> None:
    for text in ("", "not xml <<<", attributes(EXIF, GPSLatitude="47"), attributes(EXIF, CreateDate="2026")):
        doubts: list[str] = []
        assert xmp.position({"xmp": text.encode()}, doubts) == {}
        assert doubts == []


def photo(kind: str, packet: str, gps: bool = False) -> bytes:
    picture = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    metadata = Image.Exif()
    if gps:
        metadata.get_ifd(0x8825).update({1: "N", 2: (10.0, 0.0, 0.0), 3: "E", 4: (20.0, 0.0, 0.0)})
    if kind == "PNG":
        texts = PngInfo()
        texts.add_itxt("XML:com.adobe.xmp", packet)
        return images.encoded(picture, kind, pnginfo=texts, exif=metadata.tobytes())
    return images.encoded(picture, kind, xmp=packet.encode(), exif=metadata)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_comes_first(kind: str) -> None:
    packet = attributes(DJI, GpsLatitude="47.375", GpsLongitude="8.55")
    header = exif.read(photo(kind, packet))
    assert (header.latitude, header.longitude) == (47.375, 8.55)
    header = exif.read(photo(kind, packet, gps=True))
    assert (header.latitude, header.longitude) == (10.0, 20.0)
