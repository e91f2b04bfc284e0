"""The tables of an inspection, from its records: predictions.csv, photos.csv and photos.geojson."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hairline.data import manifest
from hairline.inspection.tiles import Region
from hairline.system import files

Record = tuple[Path, dict[str, Any]]

_BLOCK = 50  # photos whose tiles are in memory at once
_DIGITS = 6


def write_predictions(records: Iterable[Record], columns: list[str], file: Path) -> int:
    """Write one row a tile, `path x y width height label predicted prob_<class>... distance`.

    Args:
        records: Of all photos; only some are in memory at a time.
        columns: Names of the columns after `predicted`.
        file: It is replaced where it exists.

    Returns:
        Number of rows.
    """
    order = ["path", "x", "y", "width", "height", "label", "predicted", *columns]
    rows = 0

    def blocks() -> Iterator[pd.DataFrame]:
        nonlocal rows
        iterator = iter(records)
        while block := list(itertools.islice(iterator, _BLOCK)):
            table = pd.concat([_tile_rows(path, record) for path, record in block], ignore_index=True)[order]
            rows += len(table)
            yield table

    _write(blocks(), order, file)
    return rows


def _tile_rows(path: Path, record: dict[str, Any]) -> pd.DataFrame:
    table = pd.DataFrame(record["tiles"])
    # As objects: pandas' own text cannot hold file names that are no UTF-8.
    same = {name: np.full(len(table), text, object) for name, text in (("path", str(path)), ("label", record["label"]))}
    return table.assign(**{name: pd.Series(values, dtype=object) for name, values in same.items()})


def photo_row(path: Path, record: dict[str, Any], mm_per_pixel: float | None) -> dict[str, Any]:
    """Give a photo's row of photos.csv.

    Args:
        path: The photo.
        record: Of it.
        mm_per_pixel: Scale of the photo; None leaves out all that is in millimetres.
    """
    found, place = [Region(**region) for region in record["regions"]], record["place"] or {}
    area = sum(region.area_px for region in found)
    longest = max((region.diagonal_px for region in found), default=0.0)
    lengths = {"cracked_area_px": area, "longest_region_px": round(longest, 1)}
    if mm_per_pixel is not None:
        lengths |= {
            "cracked_area_mm2": round(area * mm_per_pixel**2, 1),
            "longest_region_mm": round(longest * mm_per_pixel, 1),
        }
    return {
        "path": str(path),
        "width": record["width"],
        "height": record["height"],
        "tiles": len(record["tiles"]["x"]),
        "predicted": record["predicted"],
        "highest_probability": round(record["highest_probability"], _DIGITS),
        "cracked_share": round(record["positive_share"], _DIGITS),
        "cannot_tell_share": round(record["cannot_tell_share"], _DIGITS),
        "regions": len(found),
        "boxes": json.dumps([[region.x, region.y, region.width, region.height] for region in found]),
        **lengths,
        "time": record["time"],
        "latitude": place.get("latitude"),
        "longitude": place.get("longitude"),
        "altitude_m": place.get("altitude_m"),
        "overlay": record["overlay"],
        "notes": "; ".join(record["faults"] + record["notes"]),
        "problem": "",
        "distance": None if record["distance"] is None else round(record["distance"], _DIGITS),
        "unfamiliar": record["unfamiliar"],
    }


def write_photos(rows: list[dict[str, Any]], problems: dict[Path, str], file: Path) -> None:
    """Write one row a photo; those that could not be examined come last, with the reason in `problem`."""
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
        rows: From `photo_row`.
        file: It is replaced where it exists, and removed where no photo has a position.

    Returns:
        Number of photos in it.
    """
    told = ("predicted", "highest_probability", "cracked_share", "regions", "time", "altitude_m", "overlay")
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [row["longitude"], row["latitude"]]},
            "properties": {"path": manifest.printable(row["path"])} | {key: row[key] for key in told},
        }
        for row in rows
        if row["latitude"] is not None
    ]
    if not features:
        file.unlink(missing_ok=True)  # of an earlier inspection: positions that were left out must not stay behind
        return 0
    content = {"type": "FeatureCollection", "features": features}
    files.write_text(file, json.dumps(content, indent=1))
    return len(features)


def _write(blocks: Iterator[pd.DataFrame], columns: list[str], file: Path) -> None:
    """Write blocks of a table as one CSV file, as `manifest.write` does for a whole one."""
    style: dict[str, Any] = {"index": False, "quoting": 1, "lineterminator": "\n"}
    with files.atomic(file, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        pd.DataFrame(columns=columns).to_csv(stream, **style)
        for block in blocks:
            block.to_csv(stream, header=False, **style)
