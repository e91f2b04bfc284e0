"""The gate of every export: does it decide like the evaluated model, on the run's validation images?"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hairline.config import ExportData
from hairline.data import classes, drawn, folders, images, labels, manifest, sources
from hairline.model.saved import Bundle
from hairline.shipping.formats import FORMATS, ExportError
from hairline.shipping.runners import Predictor
from hairline.system import progress
from hairline.system.errors import QuestionError
from hairline.tracking import FinishedRun

DIFFERENCE_LIMIT = 1e-4  # between probabilities
LABELS_LIMIT = 0.999  # share of equal labels
ACCURACY_LIMIT = 0.005  # loss of accuracy by quantisation
CALIBRATION_IMAGES = 200
_BATCH = 16
_TIMED_SECONDS = 1.0
_README_SECONDS = 300


@dataclass(frozen=True)
class Images:
    """Images to compare an export with its model on.

    Attributes:
        validation: Columns path and label.
        training: The same columns; from these the ranges of 8-bit integers are estimated.
    """

    validation: pd.DataFrame
    training: pd.DataFrame

    def calibration_pixels(self, image_size: int) -> Iterator[np.ndarray]:
        """Yield decoded training images, uint8 [height, width, 3]."""
        for path in self.training["path"]:
            yield images.decode_file(path, None, image_size)


def find_images(
    run: FinishedRun, data: ExportData, limit: int | None, class_names: list[str], *, calibration: bool
) -> Images:
    """List the images, drawn evenly from the classes.

    Args:
        run: The run; its manifest names the validation images.
        data: Folder or CSV file of labelled images to use instead, or to which the run's images were moved; without a
            path, those in the manifest.
        limit: Maximum number of validation images.
        class_names: Class names of the model.
        calibration: Training images are needed.

    Raises:
        ExportError: If there are none, or some are missing; says how to provide them.
    """
    known = run.manifest()
    if data.path is not None:
        table = _scan(data.path, data, known, class_names)
    elif known is not None:
        table = known
    else:
        raise ExportError(
            f"run={run.name} has no manifest.csv, which names the images to compare on: provide some with "
            "data.path=<folder with one sub-folder per class, or CSV file>"
        )
    table = table[drawn.is_real(table)]
    validation, training = (table[table["split"] == split] for split in ("val", "train"))
    if validation.empty:
        raise ExportError(f"{data.path or run.name} holds no validation images: provide some with data.path=<folder>")
    if calibration and training.empty:
        raise ExportError(
            f"{data.path or run.name} holds no training images, from which the ranges of 8-bit integers are estimated: "
            "set data.path=<folder with train and val folders>, or a folder with the run's training images"
        )
    validation = classes.subsample(validation, limit, 0).reset_index(drop=True)
    training = classes.subsample(training, CALIBRATION_IMAGES if calibration else 0, 0).reset_index(drop=True)
    for chosen in (validation, training):
        missing = [path for path in chosen["path"] if not Path(path).is_file()]
        if missing:
            raise ExportError(
                f"run={run.name}: {len(missing)} of the {len(chosen)} images to compare on are missing, such as "
                f"{manifest.printable(missing[0])}: set data.path=<folder> to where they are now, or to other labelled "
                "images" + ("" if data.path is None else f" (data.path={data.path})")
            )
    return Images(validation, training)


def _scan(path: str, data: ExportData, known: pd.DataFrame | None, class_names: list[str]) -> pd.DataFrame:
    """Return the manifest of the user's images; those of the run, recognised by their digest, keep label and split."""
    place = folders.typed(path)
    if not place.exists():
        raise ExportError(f"data.path={path} does not exist (looked for {place})")
    if labels.find(path).name == labels.FILE and labels.find(path).is_file():
        rows = labels.from_labels(path=path)
    elif place.is_file():
        rows = sources.from_manifest(path=path)
    else:
        try:
            rows = sources.from_folder(path=path, class_from=data.class_from)
        except QuestionError as error:  # the path alone says what it is: this script has no data=<choice>
            choices = [(text, [word for word in words if word != "data=manifest"]) for text, words in error.choices]
            raise QuestionError(error.question, choices) from None
    table, _ = manifest.scan(classes.rename_classes(rows, data.class_map))
    split = None
    if known is not None:
        own = known.drop_duplicates("sha256").set_index("sha256")
        table["label"] = table["sha256"].map(own["label"]).fillna(table["label"])
        split = table["sha256"].map(own["split"])
    unknown = sorted(set(table["label"]) - set(class_names))
    if unknown:
        hint = classes.class_map_hint(sorted(set(table["label"])), class_names)
        raise ExportError(
            f"data.path={path} holds the classes {', '.join(map(manifest.printable, unknown))}: the model knows "
            f"{', '.join(map(manifest.printable, class_names))}. Map them: {hint}"
        )
    if split is not None:
        if (split == "val").any():
            return table.assign(split=split.fillna(""))
        table = table[split.ne("train")]
    return table if (table["split"] == "val").any() else table.assign(split="val")


@dataclass(frozen=True)
class Parity:
    """The comparison of an export with its model.

    Attributes:
        images: Number of validation images.
        difference: Largest difference in probability, on the same pixels.
        equal_labels: Share of images with the same label at the threshold.
        accuracy: Accuracy of the export at the threshold.
        keras_accuracy: Accuracy of the model at the threshold.
    """

    images: int
    difference: float
    equal_labels: float
    accuracy: float
    keras_accuracy: float

    def faults(self, name: str) -> list[str]:
        """Return the limits of format `name` that are exceeded; NaN exceeds every limit."""
        faults = []
        if FORMATS[name].quantised:
            lost = self.keras_accuracy - self.accuracy
            if not lost <= ACCURACY_LIMIT + 1e-12:  # 0.995 - 0.990 is a little more than 0.005
                faults.append(
                    f"its accuracy is {lost * 100:.2f} percentage points below the model's; "
                    f"allowed are {ACCURACY_LIMIT * 100:g}"
                )
            return faults
        if not self.difference <= DIFFERENCE_LIMIT:
            faults.append(f"its probabilities differ by up to {self.difference:.2g}; allowed are {DIFFERENCE_LIMIT:g}")
        if not self.equal_labels >= LABELS_LIMIT:
            faults.append(
                f"{self.equal_labels:.4f} of its labels equal the model's; expected at least {LABELS_LIMIT:g}"
            )
        return faults


def measure(
    paths: Sequence[str], labels: Sequence[str], bundle: Bundle, original: Predictor, exported: Predictor
) -> tuple[Parity, np.ndarray]:
    """Predict image files with both models and compare.

    Args:
        paths: Image files.
        labels: True class of each.
        bundle: Bundle of the model.
        original: The Keras model.
        exported: The export in its own runtime.

    Returns:
        The comparison, and the export's probabilities, float32 [n, classes].

    Raises:
        ImageError: If a file cannot be read.
    """
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    with progress.bar(len(paths), "parity", "img") as bar:
        for start in range(0, len(paths), _BATCH):
            batch = paths[start : start + _BATCH]
            pixels = np.stack([images.decode_file(path, None, bundle.image_size) for path in batch])
            parts.append((np.asarray(original(pixels)), np.asarray(exported(pixels))))
            bar.update(len(batch))
    reference, probabilities = (np.concatenate(part) for part in zip(*parts, strict=True))
    return compare(reference, probabilities, labels, bundle), probabilities


def compare(reference: np.ndarray, probabilities: np.ndarray, labels: Sequence[str], bundle: Bundle) -> Parity:
    """Compare the probabilities of an export, float32 [n, classes], with those of the Keras model on the same pixels.

    Args:
        reference: Probabilities of the Keras model.
        probabilities: Probabilities of the export.
        labels: True class of each image.
        bundle: Bundle of the model.
    """
    decided = np.array(bundle.decide(probabilities), dtype=object)
    expected = np.array(bundle.decide(reference), dtype=object)
    truth = np.array(labels, dtype=object)
    return Parity(
        images=len(truth),
        difference=float(np.abs(reference.astype(np.float64) - probabilities).max()),
        equal_labels=float((decided == expected).mean()),
        accuracy=float((decided == truth).mean()),
        keras_accuracy=float((expected == truth).mean()),
    )


def run_readme(code: str, folder: Path, paths: Sequence[str], class_names: Sequence[str]) -> np.ndarray:
    """Run the README's code as it stands, in another process, on image files.

    Args:
        code: The code.
        folder: The export; the working directory of the process.
        paths: Image files.
        class_names: Class names of the model.

    Returns:
        Probabilities, float64 [n, classes].

    Raises:
        ExportError: If the code fails, or prints something else.
    """
    # -P: nothing in the folder is imported. As an argument, not a file: users paste it.
    command = [sys.executable, "-P", "-c", code, *(str(Path(path).absolute()) for path in paths)]
    # Without GPUs, and with UTF-8 for paths in any language.
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "PYTHONUTF8": "1"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_README_SECONDS, check=False,
            encoding="utf-8",
        )  # fmt: skip
        if done.returncode:
            raise ValueError(done.stderr.strip().splitlines()[-1:])
        rows = [json.loads(line)["probabilities"] for line in done.stdout.splitlines()]
        return np.array([[row[name] for name in class_names] for row in rows], np.float64)
    except (ValueError, KeyError, TypeError, subprocess.TimeoutExpired) as error:
        raise ExportError(f"the code of the export's README does not run: {error}") from error


def timings(run: Predictor, image_size: int) -> dict[str, float]:
    """Return the median milliseconds per image for batches of 1 and 16, each timed for about a second."""
    result = {}
    for batch in (1, 16):
        pixels = np.random.default_rng(0).integers(0, 256, (batch, image_size, image_size, 3), dtype=np.uint8)
        for _ in range(2):  # the first call of a shape plans it
            run(pixels)
        seconds: list[float] = []
        while sum(seconds) < _TIMED_SECONDS or len(seconds) < 5:
            start = time.perf_counter()
            run(pixels)
            seconds.append(time.perf_counter() - start)
        result[f"milliseconds_batch_{batch}"] = statistics.median(seconds) / batch * 1e3
    return result


def describe(row: dict[str, Any]) -> str:
    """Return the measurements of an export in two lines."""
    return (
        "Parity          largest difference {difference:.1e}, equal labels {equal_labels:.4f}, their accuracy "
        "{accuracy:.4f} (Keras {keras_accuracy:.4f})\n"
        "Size and speed  {megabytes:.1f} MB; {milliseconds_batch_1:.2f} ms per image one by one, "
        "{milliseconds_batch_16:.2f} ms in batches of 16"
    ).format_map(row)
