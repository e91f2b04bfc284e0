"""One record per photo: all that tables and report need of it.

A record is written after its overlay, so a photo that has one is done. Local threads and Ray's processes use the same
`Recorder`, so their results are the same.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from hairline.data import images
from hairline.data.folders import nfc
from hairline.inspection import exif, overlays
from hairline.inspection.inspector import Inspection, Inspector
from hairline.inspection.traces import Region
from hairline.model.decision import CANNOT_TELL
from hairline.system import files

FORMAT = 6  # part of every record's identity: raise it when the same photo would get another record
OVERLAYS, HEATMAPS, PHOTOS, RECORDS = "overlays", "heatmaps", "photos_small", "records"
_PICTURES = (OVERLAYS, HEATMAPS, PHOTOS)
_THUMBNAIL_PX, _THUMBNAIL_QUALITY = 240, 62
# Ray hands the photos of a lost worker to another one, endlessly if one photo kills them all.
_MAX_TRIES = 3
_MIN_SIZE = 0.9  # side of a photo in patches, below which it is enlarged beyond what the model was trained on


@dataclass(frozen=True)
class Record:
    """The results of one photo.

    Attributes:
        path: The photo, as the input names it. Not stored: records are found by their photo's absolute path.
        header: Size, time and position; without position if it was stripped.
        label: True class; "" if unknown.
        verdict: The positive class, `not <positive class>`, `unfamiliar` or "cannot tell".
        evidence: How strongly the photo suggests the positive class, 0 to 1.
        highest_probability: Highest probability of the positive class in a tile.
        positive_share: Share of the photo's surface predicted to be of the positive class.
        cannot_tell_share: Share of the surface inside the abstain band.
        distance: Distance of the photo's tiles from the training images, 1 = 95th percentile of validation sets; None
            if the model stores no statistics.
        regions: Traced regions of the positive class, the longest first.
        tiles: Columns `x y width height predicted prob_<class>... distance` of the photo's tiles.
        faults: Reasons why a person must check the photo.
        notes: Further remarks.
        overlay: Path of the photo with its regions below the output folder, with forward slashes.
        heatmap: Path of the heat map, an 8-bit PNG with a pixel per cell, 0 to 255 for 0 to 1.
        photo_small: Path of the plain photo in the size of the overlay.
        thumbnail: Small overlay, a JPEG in Base64.
    """

    path: str
    header: exif.Header
    label: str
    verdict: str
    evidence: float
    highest_probability: float
    positive_share: float
    cannot_tell_share: float
    distance: float | None
    regions: list[Region]
    tiles: dict[str, list[Any]]
    faults: list[str]
    notes: list[str]
    overlay: str
    heatmap: str
    photo_small: str
    thumbnail: str


def read_records(output: Path, paths: Iterable[Path]) -> Iterator[Record]:
    """Read the records of photos that are done, one at a time.

    Args:
        output: Folder of the results.
        paths: The photos.
    """
    for path in paths:
        with record_file(output, path).open(encoding="ascii") as file:
            file.readline()
            values = json.loads(file.readline())
        header, regions = exif.Header(**values.pop("header")), [Region(**region) for region in values.pop("regions")]
        yield Record(path=str(path), header=header, regions=regions, **values)


def write_record(output: Path, path: Path, stamp: dict[str, Any], record: Record) -> None:
    """Write a photo's record in one step: its stamp on the first line, its content on the second."""
    values = {name: value for name, value in vars(record).items() if name != "path"}
    file = record_file(output, path)
    file.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(file, f"{json.dumps(stamp)}\n{json.dumps(values, default=vars)}\n")


def record_file(output: Path, path: Path) -> Path:
    """Return the file of a photo's record."""
    return output / RECORDS / _digest(path)[:2] / f"{_digest(path)}.json"


def picture_path(path: Path, folder: str) -> Path:
    """Return the path of a photo's picture below the output folder; its name is valid on every system.

    Args:
        path: The photo.
        folder: `OVERLAYS`, `HEATMAPS` or `PHOTOS`.
    """
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", path.stem).strip("._")[:60]
    suffix = ".png" if folder == HEATMAPS else ".jpg"
    return Path(folder, f"{stem or 'photo'}-{_digest(path)[:10]}{suffix}")


class Recorder:
    """Inspects photo files and writes an overlay and a record of each; safe for use from several threads.

    Attributes:
        output: Folder of the results.
        inspector: The model in use.
        identity: Digest of all settings that change a record.
    """

    def __init__(
        self,
        output: Path,
        *,
        model: Path,
        inspector: dict[str, Any],
        longest_px: int = 1600,
        max_megapixels: float = 80.0,
        labels: Literal["none", "folder"] = "none",
        strip_location: bool = False,
    ) -> None:
        """Load the model.

        Args:
            output: Folder of the results.
            model: Folder of the saved model.
            inspector: Keyword arguments of `Inspector`.
            longest_px: Longest side of an overlay.
            max_megapixels: Larger photos are refused before they are decoded.
            labels: "folder": the name of a photo's folder is its true class; "none": true classes are unknown.
            strip_location: Leave out positions.
        """
        self.output = output
        self.inspector = Inspector(model, **inspector)
        self._max_megapixels, self._longest_px = max_megapixels, longest_px
        self._labels, self._strip_location = labels, strip_location
        settings = {
            "format": FORMAT,
            "decode": images.RECIPE,
            "bundle": asdict(self.inspector.bundle),
            "tiles": [self.inspector.tile_px, self.inspector.stride_px],
            "engine": self.inspector.engine,
            "positive": self.inspector.positive,
            "adapted": self.inspector.adapted_to,
            "overlay": longest_px,
            "labels": labels,
            "strip_location": strip_location,
        }
        self.identity = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:24]
        for name in (*_PICTURES, RECORDS):
            (output / name).mkdir(parents=True, exist_ok=True)

    def is_done(self, path: Path) -> bool:
        """Return whether a photo has a record with these settings and has not changed since."""
        try:
            with record_file(self.output, path).open(encoding="ascii") as file:
                done = bool(json.loads(file.readline()) == self._stamp(path))
        except (OSError, ValueError):
            return False
        return done and all((self.output / picture_path(path, folder)).is_file() for folder in _PICTURES)

    def delete_other_records(self) -> None:
        """Delete the records of other settings: they may hold positions."""
        for file in (self.output / RECORDS).glob("*/*"):
            try:
                with file.open(encoding="ascii") as record:
                    current = json.loads(record.readline())["identity"] == self.identity
            except (OSError, ValueError, KeyError, TypeError):
                current = False
            if not current:
                file.unlink(missing_ok=True)

    def process(self, path: Path) -> str | None:
        """Inspect one photo and write its overlay and record.

        Returns:
            The reason why it cannot be inspected; None once it is done.

        Raises:
            OSError: If the output cannot be written.
        """
        try:
            stamp = self._stamp(path)
        except OSError as error:
            return f"cannot be opened: {error.strerror or error}"
        try:
            header, inspection, small = self._inspect(path)
        except images.ImageError as error:
            return str(error)
        except MemoryError:
            return "too large for the memory that is left: cut it, or use fewer threads"
        picture = overlays.draw(small, inspection)
        pictures = {
            OVERLAYS: overlays.jpeg(picture),
            HEATMAPS: overlays.heat_png(inspection),
            PHOTOS: overlays.jpeg(small),
        }
        for folder, content in pictures.items():
            files.write_bytes(self.output / picture_path(path, folder), content)
        thumbnail = overlays.jpeg(picture, _THUMBNAIL_PX, _THUMBNAIL_QUALITY)
        write_record(self.output, path, stamp, self._record(path, header, inspection, thumbnail))
        return None

    def _inspect(self, path: Path) -> tuple[exif.Header, Inspection, Image.Image]:
        """Return a photo's header, results and a small copy; the photo itself is released."""
        content = images.read(path)
        header = exif.read(content)
        megapixels = header.width * header.height / 1e6
        if megapixels > self._max_megapixels:
            raise images.ImageError(
                images.too_large(megapixels, self._max_megapixels)
                + f", or raise max_megapixels (up to {images.MAX_MEGAPIXELS:g}) if memory allows"
            )
        photo = images.upright(content)
        del content
        inspection = self.inspector.inspect(photo)
        return header, inspection, overlays.reduced(photo, longest_px=self._longest_px)

    def _record(self, path: Path, header: exif.Header, inspection: Inspection, thumbnail: bytes) -> Record:
        if self._strip_location:
            header = replace(header, latitude=None, longitude=None, altitude_m=None, doubts=[])
        faults, notes = [], []
        label, class_names = nfc(path.absolute().parent.name), self.inspector.bundle.class_names
        if self._labels == "none":
            label = ""
        elif label not in class_names:
            faults.append(f"its folder {label!r} is no class of the model ({', '.join(class_names)}): label left empty")
            label = ""
        if min(header.width, header.height) < _MIN_SIZE * self.inspector.tile_px:
            faults.append(
                f"smaller than a patch ({header.width} x {header.height} pixels, patches have "
                f"{self.inspector.tile_px}): it was enlarged, so trust its result less"
            )
        if inspection.distance is not None and inspection.distance > 1:
            notes.append(
                f"unlike the images the model was trained on (distance {inspection.distance:.2f}): check it by eye"
            )
        table = inspection.table.drop(columns=["path", "label"])
        return Record(
            path=str(path),
            header=header,
            label=label,
            verdict=inspection.verdict,
            evidence=inspection.evidence,
            highest_probability=inspection.highest,
            positive_share=inspection.share(inspection.positive),
            cannot_tell_share=inspection.share(CANNOT_TELL),
            distance=inspection.distance,
            regions=inspection.regions,
            # As Python floats, probabilities keep all digits of their float32.
            tiles={str(name): table[name].tolist() for name in table},
            faults=faults,
            notes=notes,
            overlay=picture_path(path, OVERLAYS).as_posix(),
            heatmap=picture_path(path, HEATMAPS).as_posix(),
            photo_small=picture_path(path, PHOTOS).as_posix(),
            thumbnail=base64.b64encode(thumbnail).decode("ascii"),
        )

    def _stamp(self, path: Path) -> dict[str, Any]:
        """Return what identifies a record: the settings, and the photo's size and times."""
        stat = path.stat()
        times = {"mtime_ns": stat.st_mtime_ns, "ctime_ns": stat.st_ctime_ns}
        return {"identity": self.identity, "size": stat.st_size, **times}


class RayRecorder:
    """A `Recorder` in a process of Ray."""

    def __init__(self, **settings: Any) -> None:
        """Load the model; the settings are those of `Recorder`."""
        self._recorder = Recorder(**settings)

    def __call__(self, path: Path) -> tuple[Path, str | None]:
        """Process a photo, unless a worker that was lost had finished it; return it with its problem, or None."""
        return path, None if self._recorder.is_done(path) else self._process(path)

    def _process(self, path: Path) -> str | None:
        tries = record_file(self._recorder.output, path).with_suffix(".tries")
        tries.parent.mkdir(parents=True, exist_ok=True)
        before = int(tries.read_text() or 0) if tries.exists() else 0
        if before < _MAX_TRIES:
            tries.write_text(str(before + 1))
            problem = self._recorder.process(path)
        else:
            problem = (
                f"the worker was lost {before} times while examining it: examine it alone, with runtime.compute=local"
            )
        tries.unlink()
        return problem


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]
