"""The real images an export is tried on: those the run kept for validation, and for 8 bits some it was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from hairline.data import images, manifest, sources
from hairline.shipping.formats import ExportError
from hairline.shipping.record import Record

CALIBRATION_IMAGES = 200


@dataclass(frozen=True)
class Samples:
    """Images an export is tried on.

    Attributes:
        validation: Columns path and label.
        training: The same, for the ranges of 8-bit numbers.
    """

    validation: pd.DataFrame
    training: pd.DataFrame

    def calibration(self, image_size: int) -> Iterator[np.ndarray]:
        """Decode training images, uint8 [height, width, 3], drawn evenly from the classes."""
        for path in sources.subsample(self.training, CALIBRATION_IMAGES, 0)["path"]:
            yield images.decode(path, image_size)


def find(record: Record, data: str | None, limit: int | None, class_names: list[str], *, training: bool) -> Samples:
    """List the images.

    Args:
        record: Of the run: its manifest says which images were kept for validation.
        data: A folder or CSV file of labelled images to take instead, or where the run's images lie now.
        limit: Most validation images, drawn evenly from the classes.
        class_names: Of the model.
        training: Whether training images are needed.

    Raises:
        ExportError: If there are none; says how to give some.
    """
    known = record.manifest()
    if data is not None:
        table = _given(data, known, class_names)
    elif known is None:
        raise ExportError(
            f"run={record.run}: its manifest.csv is not at hand, which says what images to try the export on: "
            "give some with data.path=<folder with one sub-folder a class, or CSV file>"
        )
    else:
        table = known
    validation, train = (table[table["split"] == split] for split in ("val", "train"))
    if validation.empty:
        raise ExportError(f"{data or record.run} holds no validation images: give some with data.path=<folder>")
    if training and train.empty:
        raise ExportError(
            f"{data or record.run} holds no training images, from which the ranges of 8-bit numbers are taken: "
            "give data.path=<folder with train and val folders>, or the images that the run was trained on"
        )
    chosen = sources.subsample(validation, limit, 0)
    _refuse_missing(chosen, record, data)
    if training:
        _refuse_missing(sources.subsample(train, CALIBRATION_IMAGES, 0), record, data)
    return Samples(chosen.reset_index(drop=True), train.reset_index(drop=True))


def _given(data: str, known: pd.DataFrame | None, class_names: list[str]) -> pd.DataFrame:
    """Scan the images the user gives; where the run knows them by their bytes, its own split counts."""
    place = Path(data).expanduser()
    if not place.exists():
        raise ExportError(f"data.path={data}: nothing is there (looked for {place.absolute()})")
    rows = sources.from_manifest(path=data) if place.is_file() else sources.from_folder(path=data)
    odd = sorted(set(rows["label"]) - set(class_names))
    if odd:
        raise ExportError(
            f"data.path={data} holds the classes {', '.join(odd)}: the model knows {', '.join(class_names)}"
        )
    table, _ = manifest.scan(rows)
    if known is not None:
        split = dict(zip(known["sha256"], known["split"], strict=True))
        found = table["sha256"].map(split)
        if (found == "val").any():
            return table.assign(split=found.fillna(""))
        table = table[found.ne("train")]  # strangers to the run: all but what it was trained on
    return table if (table["split"] == "val").any() else table.assign(split="val")


def _refuse_missing(table: pd.DataFrame, record: Record, data: str | None) -> None:
    gone = [path for path in table["path"] if not Path(path).is_file()]
    if gone:
        raise ExportError(
            f"{len(gone)} of the {len(table)} images to try the export on are gone, such as "
            f"{manifest.printable(gone[0])}: say where they lie now, data.path=<folder>, or give other labelled images"
            + ("" if data is None else f" (data.path={data})")
            + f" (run={record.run})"
        )
