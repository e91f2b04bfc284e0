"""The inspection as one self-contained page: summary, table, thumbnails, full overlays; it asks nothing of a network.

Thumbnails lie in the table, so that the page needs no script to be read and printed. The script comes next, so that
sorting and filtering work while the full overlays behind it are still being read.
"""

from __future__ import annotations

import base64
import hashlib
import string
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

import hairline
from hairline.inspection import markup
from hairline.inspection.examiner import read_records
from hairline.model.decision import CANNOT_TELL
from hairline.system import files

REPORT = "report.html"
_SCRIPT = "report.js"


@dataclass(frozen=True)
class About:
    """What a report says beside the photos' own rows.

    Attributes:
        model: Captions and values: which model it was, and how it decides.
        adaptation: Whether and how the model was adapted to the photos.
        positive: The class that is looked for.
        root: Folder that names are relative to.
        tile_px: Side of a tile.
        stride_px: From tile to tile.
        tiles: Number of tiles in all.
        mm_per_pixel: Scale; None where it is not known.
        strip_location: Whether positions were left out.
        problems: What a person has to see to, and why.
        failed: How many of them were not examined.
        others: Number of other files that were passed over.
        embed_megabytes: Of full overlays in the page.
        most_photos: That are listed.
        has_times: Whether a photo says when it was taken.
        has_positions: Whether a photo says where, and that is told.
    """

    model: dict[str, str]
    adaptation: str
    positive: str
    root: Path
    tile_px: int
    stride_px: int
    tiles: int
    mm_per_pixel: float | None
    strip_location: bool
    problems: dict[Path, str]
    failed: int
    others: int
    embed_megabytes: float
    most_photos: int
    has_times: bool
    has_positions: bool


def verdicts(rows: list[dict[str, Any]], positive: str) -> dict[str, int]:
    """Count the photos by what they were decided to be: the positive class first, then "cannot tell", then the rest.

    Args:
        rows: Of photos.csv.
        positive: The class that is looked for.
    """
    names = [positive, CANNOT_TELL, *sorted({row["predicted"] for row in rows} - {positive, CANNOT_TELL})]
    counts = {name: sum(row["predicted"] == name for row in rows) for name in names}
    return {name: count for name, count in counts.items() if count or name == positive}


def worst_first(rows: list[dict[str, Any]], positive: str) -> list[dict[str, Any]]:
    """Sort photos: the positive class by its share of the surface, then those that could not be told, then the rest."""
    rank = {positive: 0, CANNOT_TELL: 1}

    def key(row: dict[str, Any]) -> tuple[int, float, float, str]:
        place = rank.get(row["predicted"], 2)
        return place, -row["cracked_share"] if place == 0 else 0.0, -row["highest_probability"], row["path"]

    return sorted(rows, key=key)


def write(rows: list[dict[str, Any]], about: About, output: Path) -> None:
    """Write report.html.

    Args:
        rows: Of photos.csv, of the photos that were examined.
        about: What else is told.
        output: Folder of the results; records and overlays are read from it.
    """
    listed = worst_first(rows, about.positive)[: about.most_photos]
    place = resources.files("hairline.inspection")
    script = place.joinpath(_SCRIPT).read_text(encoding="utf-8")
    page = string.Template(place.joinpath(REPORT).read_text(encoding="utf-8"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rows_mark, overlays_mark = "\0rows\0", "\0overlays\0"
    text = page.substitute(
        **_summary(rows, listed, about),
        script=script,
        script_digest=f"sha256-{digest}",
        rows=rows_mark,
        overlays=overlays_mark,
    )
    before, _, rest = text.partition(rows_mark)
    between, _, after = rest.partition(overlays_mark)
    with files.atomic(output / REPORT, "w", encoding="utf-8", newline="\n") as file:
        file.write(before)
        file.writelines(_rows(listed, about, output))
        file.write(between)
        file.writelines(_overlays(listed, about, output))
        file.write(after)


def _summary(rows: list[dict[str, Any]], listed: list[dict[str, Any]], about: About) -> dict[str, str]:
    counts = verdicts(rows, about.positive)
    kinds = {about.positive: "bad", CANNOT_TELL: "doubt"}
    cards = [_card(f"{len(rows):,}", "photos examined", "")]
    cards += [_card(f"{count:,}", name, kinds.get(name, "good")) for name, count in counts.items()]
    if unfamiliar := sum(row["unfamiliar"] for row in rows):
        cards.append(_card(f"{unfamiliar:,}", "unlike the training images", "warn"))
    surface = sum(row["width"] * row["height"] for row in rows)
    area = sum(row["cracked_area_px"] for row in rows)
    if surface:
        cards.append(
            _card(
                markup.percent(area / surface),
                f"of the surface in tiles called {about.positive}",
                "bad" if area else "",
            )
        )
    if about.mm_per_pixel is not None:
        cards.append(_card(markup.area(area * about.mm_per_pixel**2), f"in tiles {about.positive}", ""))
    if about.failed:
        cards.append(_card(f"{about.failed:,}", "not examined", "warn"))
    shown = f"{len(listed):,} of {len(rows):,} photos" if len(listed) < len(rows) else f"{len(rows):,} photos"
    name = about.root.name or about.root.absolute().name or "photos"
    now = datetime.now().astimezone()
    return {
        "title": markup.safe(name),
        "subtitle": f"<strong>{markup.safe(name)}</strong> &middot; {now:%d %B %Y, %H:%M}",
        "cards": "".join(cards),
        "reading": _reading(about) + _familiarity(rows),
        "positive": markup.safe(about.positive),
        "scale": _scale(about),
        "facts": "".join(
            f"<dt>{markup.safe(key)}</dt><dd>{markup.safe(value)}</dd>" for key, value in _facts(about).items()
        ),
        "problems": _problems(about),
        "choices": "".join(f'<option value="{markup.safe(name)}">{markup.safe(name)}</option>' for name in counts),
        "shown": shown,
        "head": "".join(_head(about)),
        "footer": _footer(rows, listed),
    }


def _reading(about: About) -> str:
    overlap = f", one every {about.stride_px} pixels" if about.stride_px < about.tile_px else ""
    return (
        f"Each photo was divided into tiles of {about.tile_px} &times; {about.tile_px} of its own pixels{overlap}, and "
        "each tile scored. Colour shows the probability; outlined in red are regions at or above the threshold, dashed "
        "in blue what the model cannot tell. The worst photos come first; look at those yourself."
    )


def _familiarity(rows: list[dict[str, Any]]) -> str:
    count = sum(row["unfamiliar"] for row in rows)
    if not count:
        return ""
    return (
        f" <strong>{count:,} of {len(rows):,} photos look unlike the images the model was trained on</strong> "
        "(distance above 1: farther than all but a hundredth of its validation images): what it says of them may be "
        "wrong whatever the probability, so check them by eye."
    )


def _scale(about: About) -> str:
    if about.mm_per_pixel is None:
        return "No scale was given, so there are no lengths or areas in millimetres."
    return (
        f"One pixel was given as {about.mm_per_pixel:g} mm: areas and lengths are those of whole tiles, so they are "
        "upper bounds, and hold for surfaces seen straight on at that distance."
    )


def _facts(about: About) -> dict[str, str]:
    facts = {"Model": about.model["model"], "Decision": about.model["decision"], "Classes": about.model["classes"]}
    facts["Network"] = f"{about.model['backbone']}, sha256 {about.model['digest']}, {about.model['engine']}"
    facts["Adaptation"] = about.adaptation
    facts["Tiles"] = f"{about.tiles:,}"
    if about.strip_location:
        facts["Positions"] = "left out"
    if about.others:
        facts["Passed over"] = f"{about.others:,} other files"
    return facts | {"Made with": f"hairline {hairline.__version__}"}


def _problems(about: About) -> str:
    if not about.problems:
        return ""
    entries = "".join(
        f"<li><strong>{markup.safe(markup.name(path, about.root))}</strong>: {markup.safe(reason)}</li>"
        for path, reason in about.problems.items()
    )
    title = f"See to {'this photo' if len(about.problems) == 1 else f'these {len(about.problems):,} photos'}"
    return f'<section class="panel warn" id="problems"><h2>{title}</h2><ul>{entries}</ul></section>'


def _footer(rows: list[dict[str, Any]], listed: list[dict[str, Any]]) -> str:
    cut = f"The {len(listed):,} worst of {len(rows):,} photos are listed. " if len(listed) < len(rows) else ""
    return f"{cut}All photos: photos.csv. All tiles: predictions.csv. Full overlays: the folder overlays."


def _head(about: About) -> Iterator[str]:
    yield '<th scope="col"><span>Overlay</span></th>'
    for title, number in _columns(about):
        kind = ' class="n"' if number else ""
        yield f'<th scope="col"{kind}><button type="button">{markup.safe(title)}</button></th>'


def _columns(about: About) -> list[tuple[str, bool]]:
    columns = [("Photo", False), ("Result", False), ("Highest probability", True), ("Share of surface", True)]
    columns.append(("Regions", True))
    if about.mm_per_pixel is not None:
        columns += [("Area", True), ("Longest region", True)]
    if about.has_times:
        columns.append(("Taken", False))
    if about.has_positions:
        columns.append(("Position", False))
    return columns


def _rows(listed: list[dict[str, Any]], about: About, output: Path) -> Iterator[str]:
    """Give the table's rows; thumbnails are read as they are written."""
    paths = [Path(row["path"]) for row in listed]
    for number, (row, (path, record)) in enumerate(zip(listed, read_records(output, paths), strict=True)):
        name = markup.name(path, about.root)
        kind = {about.positive: "bad", CANNOT_TELL: "doubt"}.get(row["predicted"], "")
        highest, share = row["highest_probability"], row["cracked_share"]
        caption = (
            f"{name}: {row['predicted']}, highest probability {highest:.3f}, {markup.percent(share)} of the surface"
        )
        notes = f'<small class="note">{markup.safe(row["notes"])}</small>' if row["notes"] else ""
        cells = [
            f'<button type="button" class="open" aria-label="Open the overlay of {markup.safe(name)}">'
            f'<img alt="Heat map over {markup.safe(name)}" decoding="async" '
            f'src="data:image/jpeg;base64,{record["thumbnail"]}"></button>',
            f"{markup.safe(name)}<small>{row['width']:,} &times; {row['height']:,}, {row['tiles']:,} "
            f"tile{'s' * (row['tiles'] != 1)}</small>{notes}",
            f'<span class="badge {kind}">{markup.safe(row["predicted"])}</span>',
            f'{highest:.3f}<span class="bar"><i style="width:{100 * highest:.0f}%"></i></span>',
            markup.safe(markup.percent(share)),
            f"{row['regions']:,}",
        ]
        keys = ["", name, row["predicted"], highest, share, row["regions"]]
        if about.mm_per_pixel is not None:
            cells += [markup.area(row["cracked_area_mm2"]), markup.length(row["longest_region_mm"])]
            keys += [row["cracked_area_mm2"], row["longest_region_mm"]]
        if about.has_times:
            cells.append(markup.safe(row["time"]).replace("T", "<br>", 1))
            keys.append(row["time"])
        if about.has_positions:
            cells.append(markup.position(row))
            keys.append("" if row["latitude"] is None else f"{row['latitude']:.7f}")
        kinds = ["", "name", "", *("n" if numeric else "t" for _, numeric in _columns(about)[2:])]
        told = "".join(
            f'<td class="{style}" data-value="{markup.safe(str(key))}">{cell}</td>'
            for style, key, cell in zip(kinds, keys, cells, strict=True)
        )
        yield (
            f'<tr data-number="{number}" data-verdict="{markup.safe(row["predicted"])}" data-highest="{highest}" '
            f'data-overlay="{markup.safe(row["overlay"])}" data-caption="{markup.safe(caption)}" '
            f'data-text="{markup.safe((name + " " + row["notes"]).lower())}">{told}</tr>\n'
        )


def _overlays(listed: list[dict[str, Any]], about: About, output: Path) -> Iterator[str]:
    """Give the full overlays as far as there is room, the worst photos' first."""
    room = about.embed_megabytes * 1e6
    for number, row in enumerate(listed):
        content = base64.b64encode((output / row["overlay"]).read_bytes()).decode("ascii")
        room -= len(content)
        if room < 0:
            return
        yield f'<script type="text/plain" id="full-{number}">{content}</script>\n'


def _card(value: str, caption: str, kind: str) -> str:
    return f'<li class="{kind}"><b>{markup.safe(value)}</b><span>{markup.safe(caption)}</span></li>'
