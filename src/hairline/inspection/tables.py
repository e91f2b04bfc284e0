"""The tables of an inspection, made from its records: predictions.csv, photos.csv and photos.geojson."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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


def write_geojson(rows: Iterable[dict[str, Any]], file: Path) -> int:
    """Write the photos that have a position as GeoJSON (RFC 7946: longitude first, WGS 84).

    Args:
        rows: Rows from `photo_row`.
        file: The GeoJSON file; an earlier one is replaced, or removed if no photo has a position.

    Returns:
        Number of photos with a position.
    """
    names = ("verdict", "evidence", "highest_probability", "cracked_share", "regions", "time", "altitude_m", "overlay")
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [row["longitude"], row["latitude"]]},
            "properties": {"path": manifest.printable(row["path"])} | {name: row[name] for name in names},
        }
        for row in rows
        if row["latitude"] is not None
    ]
    if features:
        files.write_text(file, json.dumps({"type": "FeatureCollection", "features": features}, indent=1))
    else:
        file.unlink(missing_ok=True)  # positions from an earlier inspection that have been stripped since
    return len(features)
