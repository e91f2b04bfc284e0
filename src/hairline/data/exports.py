"""Read what labelling programs export: Roboflow's `_classes.csv`, Label Studio's CSV and JSON, CVAT's XML.

Each reader returns entries: the image as the program writes it, its label (empty if it has none) and its split. One
class per image is needed; an image with several is an error that names it.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.parsers import expat

from hairline.data import tables
from hairline.data.folders import is_image_like, nfc
from hairline.data.layouts import split_named
from hairline.data.manifest import ManifestError, printable

log = logging.getLogger(__name__)

ROBOFLOW = "_classes.csv"
CVAT = "annotations.xml"
_JSON_LINES = (".jsonl", ".ndjson")
SUFFIXES = (".xml", ".json", *_JSON_LINES)  # of files that are no CSV
_STUDIO_KEYS = re.compile(r'"(annotations|completions|annotator|annotation_id)"')
_SHAPES = ("box", "polygon", "polyline", "points", "mask", "ellipse", "cuboid", "skeleton", "track")
# Columns of Label Studio beside the data and the answers.
_STUDIO_COLUMNS = {
    "id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "created_ago", "agreement",
    "completed_by", "ground_truth", "comment", "sentiment_score",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One image of an export: as written there, its label (empty if it has none), its split (empty if it has none)."""

    image: str
    label: str
    split: str = ""


def read(file: Path) -> list[Entry]:
    """Read an export, known by its name and content.

    Raises:
        ManifestError: If an image has several labels, or the file is of another kind.
    """
    if file.suffix.lower() == ".xml":
        return _cvat(file)
    if file.suffix.lower() in (".json", *_JSON_LINES):
        return _label_studio_json(file)
    return read_table(tables.read(file))


def read_table(table: tables.Table) -> list[Entry]:
    """Read a CSV file that is an export, as `read` does."""
    return _label_studio_csv(table) if _is_label_studio(table.header) else _one_hot(table)


def is_export_table(table: tables.Table) -> bool:
    """Return whether a CSV file is Label Studio's, or has a column of 0 and 1 for each class."""
    return _is_label_studio(table.header) or table.file.name.lower() == ROBOFLOW or _is_one_hot(table)


def is_export(file: Path) -> bool:
    """Return whether a file beside images is the export of CVAT or Label Studio, by how it begins."""
    text = _beginning(file) if file.suffix.lower() in (*SUFFIXES, ".csv") else ""
    if file.suffix.lower() == ".csv":
        return _is_label_studio(text.partition("\n")[0].split(","))
    if file.suffix.lower() == ".xml":
        return "<annotations" in text
    return text.lstrip().startswith(("[", "{")) and '"id"' in text and _STUDIO_KEYS.search(text) is not None


def _is_label_studio(header: Sequence[str]) -> bool:
    return {"annotation_id", "lead_time"} <= {name.strip().strip('"') for name in header}


def _beginning(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(65_536).decode("utf-8", "replace")
    except OSError:
        return ""


# --- Roboflow ---------------------------------------------------------------------------------------------------------


def _is_one_hot(table: tables.Table) -> bool:
    first = table.header[0].lower() if table.header else ""
    if first not in ("filename", "file", "image", "path") or not table.rows or len(table.header) < 3:
        return False
    if table.column("label") is not None:
        return False
    return all(_number(value) in (0, 1) for row in table.rows for value in row[1:])


def _one_hot(table: tables.Table) -> list[Entry]:
    """Read a table with one column per class, 1 for the class of the image; one column alone stands for two classes."""
    names = [nfc(name) for name in table.header[1:]]
    entries = []
    for row, line in zip(table.rows, table.lines, strict=True):
        if not all(_number(value) in (0, 1) for value in row[1:]):
            raise ManifestError(f"{table.file}, line {line}: expected 0 or 1 for each class, received {row[1:]}")
        chosen = [name for name, value in zip(names, row[1:], strict=True) if _number(value) == 1]
        if len(chosen) > 1:
            raise _several(f"{table.file}, line {line}", row[0], chosen)
        label = chosen[0] if chosen else f"no {names[0]}" if len(names) == 1 else ""
        entries.append(Entry(row[0], label, split_named(table.file.parent.name)))
    return entries


def _number(value: str) -> float | None:
    if value.lower() in ("true", "false"):
        return float(value.lower() == "true")
    try:
        return float(value)
    except ValueError:
        return None


# --- Label Studio -----------------------------------------------------------------------------------------------------


def _label_studio_csv(table: tables.Table) -> list[Entry]:
    tasks = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    places = [f"{table.file}, line {line}" for line in table.lines]
    return _minimal_tasks(tasks, places)


def _label_studio_json(file: Path) -> list[Entry]:
    try:
        text = tables.decoded(file.read_bytes(), file)
        by_line = file.suffix.lower() in _JSON_LINES
        tasks = [json.loads(line) for line in text.splitlines() if line.strip()] if by_line else json.loads(text)
    except OSError as error:
        raise ManifestError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{file} is not JSON: {error}. Export it again") from error
    if isinstance(tasks, dict) and {"images", "annotations"} <= set(tasks):
        raise ManifestError(
            f"{file} holds object boxes (COCO), not one class per image: expected an export of image classes, such as "
            "class folders, Label Studio's JSON with choices, or a CSV file with path,label"
        )
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise ManifestError(
            f"{file} is not a list of images as Label Studio exports it (JSON or JSON-MIN). From another program "
            "export class folders, or a CSV file with path,label"
        )
    places = [f"{file}, task {task.get('id', number)}" for number, task in enumerate(tasks, start=1)]
    if not any("annotations" in task or "completions" in task for task in tasks):
        return _minimal_tasks(tasks, places)
    entries = []
    for task, place in zip(tasks, places, strict=True):
        answers = []
        for annotation in _list(task.get("annotations", task.get("completions"))):
            if isinstance(annotation, dict) and not annotation.get("was_cancelled"):
                answers.append([choice for result in _list(annotation.get("result")) for choice in _choices(result)])
        data = task.get("data")
        image = _image_of(data if isinstance(data, dict) else task, place)
        entries.append(Entry(image, _one_label(answers, place, image)))
    return entries


def _choices(result: Any) -> list[str]:
    """Return the choices in one result of an annotation; none if it is a box or another kind."""
    value = result.get("value") if isinstance(result, dict) else None
    return [str(choice) for choice in _list(value.get("choices"))] if isinstance(value, dict) else []


def _minimal_tasks(tasks: list[dict[str, Any]], places: list[str]) -> list[Entry]:
    """Read tasks with one value per question, one task per annotation, as in CSV and JSON-MIN."""
    answers: dict[str, list[list[str]]] = {}
    where: dict[str, str] = {}
    for task, place in zip(tasks, places, strict=True):
        image = _image_of(task, place)
        named = _raw_image(task)
        asked = {key: value for key, value in task.items() if key not in _STUDIO_COLUMNS and value != named}
        usual = [key for key in ("choice", "label", "class") if key in asked]
        others = [key for key, value in asked.items() if isinstance(value, str | dict) or value is None]
        if not usual and len(others) > 1:
            raise ManifestError(
                f"{place}: the fields {', '.join(map(printable, others))} may hold the class. Export as CSV, and name "
                "the columns and the folder of the images: data.columns.path=<field> data.columns.label=<field> "
                "data.images=<folder>"
            )
        name = next(iter(usual + others), None)
        answers.setdefault(image, []).append(_values(asked.get(name)) if name else [])
        where.setdefault(image, place)
    return [Entry(image, _one_label(given, where[image], image)) for image, given in answers.items()]


def _values(value: Any) -> list[str]:
    """Return the choices in a value: a text, or several as a list or {"choices": [...]}, also as JSON in a text."""
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        try:
            value = json.loads(value)
        except ValueError:
            return [value]
    if isinstance(value, dict):
        value = value.get("choices")
    if isinstance(value, list):
        return [str(choice) for choice in value]
    return [str(value)] if value not in (None, "") else []


def _raw_image(task: dict[str, Any]) -> str | None:
    """Return the value of a task that names its image: the first with the suffix of one, or in a usual field."""
    texts = {key: value for key, value in task.items() if isinstance(value, str) and value}
    named = (texts[key] for key in ("image", "img", "photo", "url", "file_upload") if key in texts)
    return next((text for text in texts.values() if is_image_like(Path(text.partition("?")[0]))), next(named, None))


def _image_of(task: dict[str, Any], place: str) -> str:
    """Return the path of a task's image, from an upload, local storage, a bucket or the web."""
    text = _raw_image(task)
    if text is None:
        raise ManifestError(f"{place}: names no image; its fields are {', '.join(map(str, task))}")
    address = urlsplit(text)
    local = parse_qs(address.query).get("d")
    if local:  # /data/local-files/?d=folder/1.jpg
        return local[0]
    if address.scheme in ("http", "https", "s3", "gs", "azure-blob"):
        return unquote(f"{address.netloc}{address.path}")
    return unquote(text) if text.startswith("/data/") else text


def _one_label(answers: list[list[str]], place: str, image: str) -> str:
    """Return the one label of an image, from the choices in each annotation; empty without any."""
    given = [[nfc(choice.strip()) for choice in choices] for choices in answers if choices]
    several = next((choices for choices in given if len(set(choices)) > 1), None)
    if several is not None:
        raise _several(place, image, several)
    labels = sorted({choices[0] for choices in given})
    if len(labels) > 1:
        raise ManifestError(
            f"{place}: {printable(image)} has annotations that contradict each other: {', '.join(labels)}. Keep one"
        )
    return labels[0] if labels else ""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


# --- CVAT -------------------------------------------------------------------------------------------------------------


def _cvat(file: Path) -> list[Entry]:
    """Read `CVAT for images 1.1`: the tag of each image is its class."""
    entries: list[Entry] = []
    tags: list[str] = []
    counts = {"shapes": 0}
    image: dict[str, str] = {}

    def start(name: str, attributes: dict[str, str]) -> None:
        if name == "image":
            image.clear()
            image.update(attributes)
            tags.clear()
        elif name == "tag" and image:
            tags.append(nfc(attributes.get("label", "").strip()))
        elif name in _SHAPES:
            counts["shapes"] += 1

    def end(name: str) -> None:
        if name != "image":
            return
        path = image.get("name", "")
        if len(set(tags)) > 1:
            raise _several(f"{file}, image {image.get('id', len(entries))}", path, tags)
        split = split_named(image.get("subset", ""))
        entries.append(Entry(path, tags[0] if tags else "", split))
        image.clear()

    def refuse(*_: Any) -> None:
        raise ManifestError(f"{file} holds a document type declaration, which CVAT does not write: not read")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse  # entities can grow without bound
    try:
        with file.open("rb") as opened:
            parser.ParseFile(opened)
    except OSError as error:
        raise ManifestError(f"{file} cannot be read: {error.strerror}") from error
    except expat.ExpatError as error:
        raise ManifestError(f"{file} is not complete XML: {error}. Export it again") from error
    if not any(entry.label for entry in entries):
        found = (
            f"{counts['shapes']:,} shapes and no tags" if counts["shapes"] else f"{len(entries)} images without tags"
        )
        raise ManifestError(
            f"{file} holds {found}: expected CVAT's export 'CVAT for images 1.1' with one tag per image, its class"
        )
    return entries


def _several(place: str, image: str, labels: Iterable[str]) -> ManifestError:
    return ManifestError(
        f"{place}: {printable(image)} has several classes ({', '.join(map(printable, labels))}): expected one per "
        "image. Keep one of them, or leave the image out"
    )
