"""The report of an inspection: one self-contained HTML page, made from its records, that needs no network.

The page reads and prints without its script. Images are embedded after the script, so that the page works while they
are still loading; those beyond the limit are read from the folders beside the page.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from hairline.data import manifest
from hairline.inspection import triage
from hairline.inspection.records import Record, read_records
from hairline.inspection.report.entries import entry
from hairline.inspection.report.track import HEIGHT, WIDTH, project
from hairline.system import files

REPORT = "report.html"
_PAGE = Path(__file__).parent
_SCRIPTS = ("zoom", "list", "map", "marks", "viewer", "start")  # each may use those before it


def write(
    output: Path,
    rows: list[dict[str, Any]],
    *,
    problems: Mapping[Path, str],
    remarks: Mapping[str, list[str]],
    facts: dict[str, str],
    class_names: list[str],
    positive: str,
    mm_per_pixel: float | None,
    root: Path,
    identity: str,
    retrain: str,
    embed_megabytes: float,
    max_photos: int,
) -> None:
    """Write report.html.

    Args:
        output: Folder of the results, with records and images.
        rows: Rows of photos.csv of the inspected photos.
        problems: Photos that could not be inspected, with the reason.
        remarks: What a person should know of inspected photos, by path.
        facts: Captions and values that describe the model and the settings.
        class_names: The model's classes.
        positive: The positive class.
        mm_per_pixel: Scale of the photos; None shows lengths in pixels.
        root: Folder that names are relative to.
        identity: Digest of the settings; marks made in the page belong to it and to `root`.
        retrain: Command that trains on the table of exported marks.
        embed_megabytes: Limit for the images embedded in the page.
        max_photos: Limit for the photos listed.
    """
    listed = triage.sort(rows, positive)[:max_photos]
    page = _environment().get_template("template.html")
    groups = triage.groups(positive)
    unit = "px" if mm_per_pixel is None else "mm"
    script, style = _script(), (_PAGE / "report.css").read_text(encoding="utf-8")
    settings: dict[str, Any] = {
        "identity": hashlib.sha256(f"{identity} {root.absolute()}".encode(errors="surrogateescape")).hexdigest()[:16],
        "root": str(root.absolute()),
        "mm_per_pixel": mm_per_pixel,
        "classes": [positive, *(name for name in class_names if name != positive)],
    }
    places = [None if row["latitude"] is None else (row["latitude"], row["longitude"]) for row in listed]
    content = page.generate(
        title=root.name or root.absolute().name or "photos",
        time=datetime.now().astimezone(),
        style=Markup(style),
        style_digest=_digest(style),
        script=Markup(script),
        script_digest=_digest(script),
        settings=settings,
        groups=groups,
        names=[_name(Path(row["path"]), root) for row in listed],
        kinds=[triage.kind(row["verdict"], positive) for row in listed],
        counts=triage.count(rows, len(problems), positive),
        rows=rows,
        listed=listed,
        photos=_photos(listed, root, output, positive),
        failed={_name(path, root): reason for path, reason in list(problems.items())[:max_photos]},
        remarks=triage.by_reason({_name(Path(path), root): texts for path, texts in remarks.items()}),
        remarked=sum(bool(texts) for texts in remarks.values()),
        images=_embedded(listed, output, embed_megabytes),
        track=project(places, [row["time"] for row in listed]),
        map_size=(WIDTH, HEIGHT),
        facts=facts,
        positive=positive,
        retrain=retrain,
        traced=sum(row[f"length_{unit}"] for row in rows if row["verdict"] == positive),
        unit=unit,
    )
    with files.atomic(output / REPORT, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(content)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PAGE),
        autoescape=True,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "measure": measure,
        "number": "{:,}".format,
        "by_part": by_part,
    }
    return environment


def _script() -> str:
    """Return the page's script, in one scope."""
    parts = [(_PAGE / "script" / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS]
    return '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _photos(
    listed: list[dict[str, Any]], root: Path, output: Path, positive: str
) -> Iterator[tuple[dict[str, Any], dict[str, Any], Markup]]:
    """Yield row, entry and thumbnail of each photo; its record is read when it is written."""
    paths = [Path(row["path"]) for row in listed]
    records: Iterable[Record] = read_records(output, paths)
    for row, path, record in zip(listed, paths, records, strict=True):
        yield row, entry(record, _name(path, root), positive), Markup(record.thumbnail)


def _embedded(listed: list[dict[str, Any]], output: Path, megabytes: float) -> Iterator[tuple[str, Markup]]:
    """Yield path and content in Base64 of the images, in the order of the list, up to a limit."""
    room = megabytes * 1e6
    for row in listed:
        for path in (row["photo_small"], row["heatmap"]):
            content = base64.b64encode((output / path).read_bytes()).decode("ascii")
            room -= len(content)
            if room < 0:
                return
            yield path, Markup(content)


def _name(path: Path, root: Path) -> str:
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _printable(value: Any) -> Any:
    """Escape control characters and undecodable bytes of all texts in the page; HTML is escaped after that."""
    return manifest.printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def measure(value: float, unit: str) -> str:
    """Format a length in pixels ("px") or millimetres ("mm"; metres from 1000 on)."""
    if unit == "mm" and value >= 1000:
        return f"{value / 1000:,.2f} m"
    return f"{value:,.0f} {unit}"


def by_part(name: str) -> Markup:
    """Return a path whose parts stay whole, so that lines break between folders and not inside a name that fits."""
    parts = re.split(r"(?<=[/\\])", manifest.printable(name))
    # A part that is longer than the line breaks after "_" rather than anywhere.
    words = [Markup("<wbr>").join(re.split(r"(?<=_)", part)) for part in parts]
    return Markup("").join(Markup("<span>{}</span>").format(part) for part in words)
