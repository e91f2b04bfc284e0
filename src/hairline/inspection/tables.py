"""The tables of an inspection, made from its records: predictions.csv, photos.csv, photos.geojson and photos.kml."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd

from hairline.data import manifest
from hairline.inspection.records import Record
from hairline.system import files

_BLOCK = 50  # photos whose tiles are in memory at once
_DIGITS = 6


def write_predictions(records: Iterable[Record], columns: list[str], file: Path) -> None:
    """Write one row per tile: `path x y width height label predicted prob_<class>... distance`.

    Args:
        records: Records of the photos; 50 are in memory at a time.
        columns: Names of the columns after `predicted`.
        file: The CSV file; an earlier one is replaced.
    """
    columns = ["path", "x", "y", "width", "height", "label", "predicted", *columns]
    style: dict[str, Any] = {"index": False, "quoting": 1, "lineterminator": "\n"}
    iterator = iter(records)
    with files.atomic(file, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        pd.DataFrame(columns=columns).to_csv(stream, **style)
        while block := list(itertools.islice(iterator, _BLOCK)):
            table = pd.concat([_tile_rows(record) for record in block], ignore_index=True)
            table[columns].to_csv(stream, header=False, **style)


def _tile_rows(record: Record) -> pd.DataFrame:
    table = pd.DataFrame(record.tiles)
    # As objects: pandas' own strings cannot hold file names that are not UTF-8.
    path, label = (pd.Series([text] * len(table), dtype=object) for text in (record.path, record.label))
    return table.assign(path=path, label=label)


def photo_row(record: Record, mm_per_pixel: float | None) -> dict[str, Any]:
    """Return a photo's row of photos.csv.

    Args:
        record: The photo's record.
        mm_per_pixel: Scale of the photo; None leaves out lengths and areas in millimetres.
    """
    area = sum(region.area_px for region in record.regions)
    length = sum(region.length_px for region in record.regions)
    longest = max((region.length_px for region in record.regions), default=0.0)
    lengths = {"cracked_area_px": area, "length_px": round(length, 1), "longest_px": round(longest, 1)}
    if mm_per_pixel is not None:
        lengths |= {
            "cracked_area_mm2": round(area * mm_per_pixel**2, 1),
            "length_mm": round(length * mm_per_pixel, 1),
            "longest_mm": round(longest * mm_per_pixel, 1),
        }
    return {
        "path": record.path,
        "width": record.header.width,
        "height": record.header.height,
        "tiles": len(record.tiles["x"]),
        "verdict": record.verdict,
        "evidence": round(record.evidence, _DIGITS),
        "highest_probability": round(record.highest_probability, _DIGITS),
        "cracked_share": round(record.positive_share, _DIGITS),
        "cannot_tell_share": round(record.cannot_tell_share, _DIGITS),
        "regions": len(record.regions),
        "boxes": json.dumps([[region.x, region.y, region.width, region.height] for region in record.regions]),
        **lengths,
        "time": record.header.time,
        "latitude": record.header.latitude,
        "longitude": record.header.longitude,
        "altitude_m": record.header.altitude_m,
        "overlay": record.overlay,
        "heatmap": record.heatmap,
        "photo_small": record.photo_small,
        "notes": "; ".join(record.faults + record.header.doubts + record.notes),
        "problem": "",
        "distance": None if record.distance is None else round(record.distance, _DIGITS),
    }


def write_photos(rows: list[dict[str, Any]], problems: dict[Path, str], file: Path) -> None:
    """Write photos.csv, one row per photo.

    Args:
        rows: Rows from `photo_row`.
        problems: Photos that could not be inspected, with the reason; they come last.
        file: The CSV file; an earlier one is replaced.
    """
    failed = [{"path": str(path), "problem": reason} for path, reason in problems.items()]
    columns = list(rows[0]) if rows else ["path", "problem"]
    table = pd.DataFrame(rows + failed, columns=columns, dtype=object)
    for name in ("width", "height", "tiles", "regions", "cracked_area_px"):
        if name in table:
            table[name] = table[name].astype("Int64")
    manifest.write(table, file)


# Columns of a photo's row that maps show.
_SHOWN = ("verdict", "evidence", "highest_probability", "cracked_share", "regions", "time", "altitude_m", "overlay")
_KML = "http://www.opengis.net/kml/2.2"


def write_places(rows: Iterable[dict[str, Any]], geojson: Path, kml: Path) -> int:
    """Write the photos that have a position for maps: GeoJSON (RFC 7946, longitude first, WGS 84) and KML 2.2.

    Args:
        rows: Rows from `photo_row`.
        geojson: The GeoJSON file; an earlier one is replaced, or removed if no photo has a position.
        kml: The KML file, likewise.

    Returns:
        Number of photos with a position.
    """
    rows = [row for row in rows if row["latitude"] is not None]
    if rows:
        files.write_text(
            geojson, json.dumps({"type": "FeatureCollection", "features": list(map(_feature, rows))}, indent=1)
        )
        files.write_text(kml, _kml(rows))
    else:  # positions from an earlier inspection that have been stripped since
        geojson.unlink(missing_ok=True)
        kml.unlink(missing_ok=True)
    return len(rows)


def _feature(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "Feature",
        "geometry": {"type": "Point", "coordinates": [row["longitude"], row["latitude"]]},
        "properties": {"path": manifest.printable(row["path"])} | {name: row[name] for name in _SHOWN},
    }


def _kml(rows: Iterable[dict[str, Any]]) -> str:
    """Return the photos as KML: a placemark each, with its values as extended data."""
    root = ElementTree.Element("kml", xmlns=_KML)
    document = ElementTree.SubElement(root, "Document")
    for row in rows:
        path = manifest.printable(row["path"])
        placemark = ElementTree.SubElement(document, "Placemark")
        ElementTree.SubElement(placemark, "name").text = manifest.printable(Path(row["path"]).name)
        data = ElementTree.SubElement(placemark, "ExtendedData")
        for name, value in {"path": path, **{name: row[name] for name in _SHOWN}}.items():
            if value is not None and value != "":
                ElementTree.SubElement(ElementTree.SubElement(data, "Data", name=name), "value").text = str(value)
        point = ElementTree.SubElement(placemark, "Point")
        ElementTree.SubElement(point, "coordinates").text = f"{row['longitude']},{row['latitude']}"
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"
