"""A worker's part of an inspection: one photo in, its overlay and its record out.

A record holds all that tables and report need of a photo, and is written last: a photo with a record is done. Local
threads and Ray's processes call the same examiner, which is why their results are the same.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hairline.data import images
from hairline.inspection import exif, overlays
from hairline.inspection.inspector import DISTANCE, Inspection, Inspector
from hairline.model.decision import CANNOT_TELL
from hairline.system import files

FORMAT = 2
OVERLAYS, RECORDS = "overlays", "records"
_THUMBNAIL_PX, _THUMBNAIL_QUALITY = 240, 62
# Ray hands a lost worker's photos to another worker without end; a photo that kills one after another must stop.
_MOST_TRIES = 3
_TINY = 0.9  # of a patch: below it, what the model sees is enlarged beyond what it was trained on


@dataclass(frozen=True)
class Task:
    """What is to be done with each photo; plain values, so that it travels to other machines.

    Attributes:
        model: Folder of the saved model.
        output: Folder of the results.
        inspector: Keyword arguments of `Inspector`.
        longest_px: Longest side of an overlay.
        max_megapixels: Photos with more pixels are refused before they are decoded.
        labels: "folder": the name of a photo's folder is its true class; "none": the truth is not known.
        strip_location: Whether positions are left out.
    """

    model: Path
    output: Path
    inspector: dict[str, Any] = field(default_factory=dict)
    longest_px: int = 1600
    max_megapixels: float = 80.0
    labels: str = "none"
    strip_location: bool = False


class Examiner:
    """Looks at photos one by one; several threads may use one."""

    def __init__(self, task: Task) -> None:
        """Open the model."""
        self._task = task
        self.inspector = Inspector(task.model, **task.inspector)
        told = {
            "format": FORMAT,
            "decode": images.RECIPE,
            "bundle": asdict(self.inspector.bundle),
            "tiles": [self.inspector.tile_px, self.inspector.stride_px],
            "engine": self.inspector.engine,
            "positive": self.inspector.positive,
            "adapted": self.inspector.adapted_to,
            "overlay": task.longest_px,
            "labels": task.labels,
            "strip_location": task.strip_location,
        }
        self.identity = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:24]
        for name in (OVERLAYS, RECORDS):
            (task.output / name).mkdir(parents=True, exist_ok=True)

    def is_done(self, path: Path) -> bool:
        """Say whether a photo that did not change since was examined with these settings."""
        try:
            stamp = _stamp(path, self.identity)
            with record_file(self._task.output, path).open(encoding="utf-8") as file:
                return bool(json.loads(file.readline()) == stamp) and (self._task.output / overlay(path)).is_file()
        except (OSError, ValueError):
            return False

    def forget_others(self) -> None:
        """Delete the records that were made with other settings: they may hold positions."""
        for file in (self._task.output / RECORDS).glob("*/*"):
            try:
                with file.open(encoding="ascii") as record:
                    known = json.loads(record.readline())["identity"] == self.identity
            except (OSError, ValueError, KeyError, TypeError):
                known = False
            if not known:
                file.unlink(missing_ok=True)

    def examine(self, path: Path) -> str | None:
        """Look at one photo, and write its overlay and record.

        Args:
            path: The photo.

        Returns:
            What keeps it from being examined; None if it is done.

        Raises:
            OSError: If the output cannot be written.
        """
        try:
            stamp = _stamp(path, self.identity)
            content = images.read(path)
        except OSError as error:
            return f"cannot be opened: {error.strerror or error}"
        except images.ImageError as error:
            return str(error)
        try:
            header = exif.read(content)
            if header.width * header.height > self._task.max_megapixels * 1e6:
                return (
                    f"{header.width * header.height / 1e6:,.0f} megapixels, more than max_megapixels="
                    f"{self._task.max_megapixels:g}: cut it, or raise the limit if memory allows"
                )
            photo = images.upright(content)
        except images.ImageError as error:
            return str(error)
        del content
        try:
            found = self.inspector.inspect(photo)
            picture = overlays.draw(photo, found, longest_px=self._task.longest_px)
        except MemoryError:
            return "too large for the memory that is left: cut it, or use fewer threads"
        del photo
        thumbnail = overlays.jpeg(picture, _THUMBNAIL_PX, _THUMBNAIL_QUALITY)
        picture = overlays.with_scale(picture, found.positive, self.inspector.bundle.threshold)
        _replace(self._task.output / overlay(path), overlays.jpeg(picture))
        record = self._record(path, header, found, thumbnail)
        text = f"{json.dumps(stamp)}\n{json.dumps(record)}\n"
        _replace(record_file(self._task.output, path), text.encode("ascii"))
        return None

    def _record(self, path: Path, header: exif.Header, found: Inspection, thumbnail: bytes) -> dict[str, Any]:
        label, faults = self._label(path)
        if min(header.width, header.height) < _TINY * self.inspector.tile_px:
            faults.append(
                f"smaller than a patch ({header.width} x {header.height} pixels, patches have "
                f"{self.inspector.tile_px}): it was enlarged, so trust its result less"
            )
        hidden = self._task.strip_location
        return {
            "width": header.width,
            "height": header.height,
            "time": header.time,
            "place": None if hidden else _place(header),
            "label": label,
            "faults": faults,
            "notes": ([] if hidden else header.doubts) + _unfamiliar(found),
            "overlay": overlay(path).as_posix(),
            "thumbnail": base64.b64encode(thumbnail).decode("ascii"),
            **_findings(found),
        }

    def _label(self, path: Path) -> tuple[str, list[str]]:
        if self._task.labels == "none":
            return "", []
        name, known = path.absolute().parent.name, self.inspector.bundle.class_names
        if name in known:
            return name, []
        return "", [f"its folder {name!r} is no class of the model ({', '.join(known)}): label left empty"]


def overlay(path: Path) -> Path:
    """Give the place of a photo's overlay below the output folder: a name that is safe in any page and system."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", path.stem).strip("._")[:60]
    return Path(OVERLAYS, f"{stem or 'photo'}-{_digest(path)[:10]}.jpg")


def record_file(output: Path, path: Path) -> Path:
    """Give the place of a photo's record."""
    return output / RECORDS / f"{_digest(path)[:2]}" / f"{_digest(path)}.json"


def read_records(output: Path, paths: list[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Read the records of photos that are done, one at a time."""
    for path in paths:
        with record_file(output, path).open(encoding="ascii") as file:
            file.readline()
            yield path, json.loads(file.readline())


def _findings(found: Inspection) -> dict[str, Any]:
    """Give what was found as JSON has it; probabilities keep all digits of their float32."""
    table = found.table
    names = [name for name in table.columns if name.startswith("prob_") or name == DISTANCE]
    return {
        "predicted": found.predicted,
        "highest_probability": found.highest,
        "positive_share": found.share(found.positive),
        "cannot_tell_share": found.share(CANNOT_TELL),
        "distance": found.distance,
        "unfamiliar": found.is_unfamiliar,
        "regions": [asdict(region) for region in found.regions],
        "tiles": {name: table[name].tolist() for name in ("x", "y", "width", "height", "predicted", *names)},
    }


def _unfamiliar(found: Inspection) -> list[str]:
    if not found.is_unfamiliar:
        return []
    return [f"unlike the images the model was trained on (distance {found.distance:.2f}): check it by eye"]


def _place(header: exif.Header) -> dict[str, float | None] | None:
    if header.latitude is None:
        return None
    return {"latitude": header.latitude, "longitude": header.longitude, "altitude_m": header.altitude_m}


def _stamp(path: Path, identity: str) -> dict[str, Any]:
    stat = path.stat()
    return {"identity": identity, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "ctime_ns": stat.st_ctime_ns}


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]


def _replace(file: Path, content: bytes) -> None:
    """Write a file in one step."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic(file) as opened:
        opened.write(content)


class Worker:
    """What each of Ray's processes keeps: the model, opened once."""

    def __init__(self, task: Task) -> None:
        """Open the model."""
        self._examiner, self._output = Examiner(task), task.output

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Examine the photo that a row names, unless a worker that was lost had done it already."""
        path = Path(os.fsdecode(row["path"]))
        problem = None if self._examiner.is_done(path) else self._examine(path)
        return {"path": row["path"], "problem": problem or ""}

    def _examine(self, path: Path) -> str | None:
        tries = record_file(self._output, path).with_suffix(".tries")
        tries.parent.mkdir(parents=True, exist_ok=True)
        before = int(tries.read_text() or 0) if tries.exists() else 0
        if before < _MOST_TRIES:
            tries.write_text(str(before + 1))
            problem = self._examiner.examine(path)
        else:
            problem = (
                f"the worker was lost {before} times while examining it: examine it alone, with runtime.compute=local"
            )
        tries.unlink()
        return problem
