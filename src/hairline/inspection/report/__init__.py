"""The report of an inspection: one self-contained HTML page, made from its records, that needs no network.

The page reads and prints without its script. Overlays are embedded after the script, so that sorting and filtering
work while they are still loading.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from hairline.data import manifest
from hairline.inspection.records import read_records
from hairline.model.decision import CANNOT_TELL
from hairline.system import files

REPORT = "report.html"
_PAGE = Path(__file__).parent


def write(
    output: Path,
    rows: list[dict[str, Any]],
    *,
    to_check: dict[Path, str],
    facts: dict[str, str],
    positive: str,
    root: Path,
    embed_megabytes: float,
    max_photos: int,
) -> None:
    """Write report.html.

    Args:
        output: Folder of the results, with records and overlays.
        rows: Rows of photos.csv of the inspected photos.
        to_check: Photos that a person must check, inspected or not, with the reason.
        facts: Captions and values that describe the model and the settings.
        positive: The positive class.
        root: Folder that names are relative to.
        embed_megabytes: Limit for the overlays embedded in the page.
        max_photos: Limit for the photos listed.
    """
    listed = sort_worst_first(rows, positive)[:max_photos]
    script, style = ((_PAGE / name).read_text(encoding="utf-8") for name in ("report.js", "report.css"))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PAGE),
        autoescape=True,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"percent": percent, "area": area, "metres": metres, "number": "{:,}".format}
    page = environment.get_template("template.html").generate(
        title=root.name or root.absolute().name or "photos",
        time=datetime.now().astimezone(),
        script=Markup(script),
        style=Markup(style),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        rows=rows,
        surface_px=sum(row["width"] * row["height"] for row in rows),
        listed=listed,
        photos=_photos(listed, root, output),
        overlays=_embedded(listed, output, embed_megabytes),
        counts=count_verdicts(rows, positive),
        kinds={positive: "bad", CANNOT_TELL: "doubt"},
        facts=facts,
        positive=positive,
        has_scale=bool(rows) and "cracked_area_mm2" in rows[0],
        to_check={_name(path, root): reason for path, reason in to_check.items()},
        failed=len({str(path) for path in to_check} - {row["path"] for row in rows}),
    )
    with files.atomic(output / REPORT, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(page)


def count_verdicts(rows: list[dict[str, Any]], positive: str) -> dict[str, int]:
    """Count photos by verdict: the positive class first, then "cannot tell", then the others.

    Args:
        rows: Rows of photos.csv.
        positive: The positive class, which is listed even if no photo has it.
    """
    names = [positive, CANNOT_TELL, *sorted({row["verdict"] for row in rows} - {positive, CANNOT_TELL})]
    counts = {name: sum(row["verdict"] == name for row in rows) for name in names}
    return {name: count for name, count in counts.items() if count or name == positive}


def sort_worst_first(rows: list[dict[str, Any]], positive: str) -> list[dict[str, Any]]:
    """Sort photos: the positive class by its share of the surface, then "cannot tell", then the others."""
    rank = {positive: 0, CANNOT_TELL: 1}

    def key(row: dict[str, Any]) -> tuple[int, float, float, str]:
        place = rank.get(row["verdict"], 2)
        return place, -row["cracked_share"] if place == 0 else 0.0, -row["highest_probability"], row["path"]

    return sorted(rows, key=key)


def _photos(listed: list[dict[str, Any]], root: Path, output: Path) -> Iterator[dict[str, Any]]:
    """Yield each row with the photo's name and thumbnail; the thumbnail is read when its row is written."""
    paths = [Path(row["path"]) for row in listed]
    for row, path, record in zip(listed, paths, read_records(output, paths), strict=True):
        yield row | {"name": _name(path, root), "thumbnail": Markup(record.thumbnail)}


def _embedded(listed: list[dict[str, Any]], output: Path, megabytes: float) -> Iterator[Markup]:
    """Yield overlays in Base64, the worst photos' first, up to a limit."""
    room = megabytes * 1e6
    for row in listed:
        content = base64.b64encode((output / row["overlay"]).read_bytes()).decode("ascii")
        room -= len(content)
        if room < 0:
            return
        yield Markup(content)


def _name(path: Path, root: Path) -> str:
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _printable(value: Any) -> Any:
    """Escape control characters and undecodable bytes of all texts in the page; HTML is escaped after that."""
    return manifest.printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def percent(share: float) -> str:
    """Format a share; a little is not shown as nothing, nor almost all as all."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    return "> 99.9 %" if 0.999 < share < 1 else f"{100 * share:.1f} %"


def area(mm2: float) -> str:
    """Format an area in square metres or square centimetres."""
    return f"{mm2 / 1e6:,.2f} m²" if mm2 >= 1e5 else f"{mm2 / 100:,.1f} cm²"


def metres(mm: float) -> str:
    """Format a length in metres or millimetres."""
    return f"{mm / 1000:,.2f} m" if mm >= 1000 else f"{mm:,.0f} mm"
