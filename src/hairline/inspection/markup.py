"""How findings are written in a page: numbers in the units a reader wants, text from outside made harmless."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from hairline.data import manifest


def name(path: Path, root: Path) -> str:
    """Give a photo's name in the report: its path below the folder of all."""
    try:
        return str(path.relative_to(root))
    except ValueError:
        return str(path)


def position(row: dict[str, Any]) -> str:
    """Give a photo's position in degrees, with line break; empty where there is none."""
    if row["latitude"] is None:
        return ""
    north, east = row["latitude"], row["longitude"]
    return f"{abs(north):.5f}&deg; {'N' if north >= 0 else 'S'}<br>{abs(east):.5f}&deg; {'E' if east >= 0 else 'W'}"


def percent(share: float) -> str:
    """Give a share so that little is not read as nothing, nor nearly all as all."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    return "> 99.9 %" if 0.999 < share < 1 else f"{100 * share:.1f} %"


def area(mm2: float) -> str:
    """Give an area in square metres or centimetres."""
    return f"{mm2 / 1e6:,.2f} m²" if mm2 >= 1e5 else f"{mm2 / 100:,.1f} cm²"


def length(mm: float) -> str:
    """Give a length in metres or millimetres."""
    return f"{mm / 1000:,.2f} m" if mm >= 1000 else f"{mm:,.0f} mm"


def safe(text: str) -> str:
    """Give text from outside as HTML shows it: no mark-up, no control characters, on one line."""
    return html.escape(manifest.printable(text), quote=True)
