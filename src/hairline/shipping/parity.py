"""The gate of every export: does what ships decide as what was evaluated did?"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hairline.data import images
from hairline.model.saved import Bundle
from hairline.shipping.formats import FORMATS, ExportError
from hairline.shipping.runners import Predict
from hairline.system import progress

DIFFERENCE_LIMIT = 1e-4  # between probabilities, on the same pixels; also of the README's lines, from file bytes on
LABELS_LIMIT = 0.999  # share of equal labels at the threshold
ACCURACY_LIMIT = 0.005  # what a quantised model may lose
BATCHES = (1, 16)
_STEP = 16
_TIMED_SECONDS = 1.0
_README_SECONDS = 300


@dataclass(frozen=True)
class Parity:
    """What the gate measured.

    Attributes:
        images: Validation images.
        difference: Largest difference in probability from the Keras model, on the same pixels.
        equal_labels: Share of images with the same label at the threshold, from file bytes on.
        accuracy: At the threshold, of the export.
        keras_accuracy: At the threshold, of the Keras model.
    """

    images: int
    difference: float
    equal_labels: float
    accuracy: float
    keras_accuracy: float

    def faults(self, name: str) -> list[str]:
        """Say which limits of format `name` are not kept."""
        lost = self.keras_accuracy - self.accuracy
        if FORMATS[name].quantised:
            limits = [
                (
                    # A rounding of the difference itself must not decide: 0.995 - 0.990 is a little more than 0.005.
                    lost <= ACCURACY_LIMIT + 1e-12,
                    f"its accuracy is {lost * 100:.2f} percentage points below the original's; "
                    f"allowed are {ACCURACY_LIMIT * 100:g}",
                )
            ]
        else:
            limits = [
                (
                    self.difference <= DIFFERENCE_LIMIT,
                    f"its probabilities differ by up to {self.difference:.2g}; allowed are {DIFFERENCE_LIMIT:g}",
                ),
                (
                    self.equal_labels >= LABELS_LIMIT,
                    f"{self.equal_labels:.4f} of its labels are the original's; expected at least {LABELS_LIMIT:g}",
                ),
            ]
        # Written so that a NaN, which no comparison holds for, is a fault.
        return [fault for kept, fault in limits if not kept]


def compare(
    reference: np.ndarray, found: np.ndarray, labels: Sequence[str], decided: Sequence[str], bundle: Bundle
) -> Parity:
    """Compare the probabilities of an export with the original's.

    Args:
        reference: float32 [n, classes], of the Keras model.
        found: float32 [n, classes], of the export, on the same pixels.
        labels: The true class of each image.
        decided: The Keras model's decision on each image, from the file's bytes on.
        bundle: Class names and threshold.
    """
    shipped = np.array(bundle.decide(found), dtype=object)
    truth = np.array(labels, dtype=object)
    original = np.array(decided, dtype=object)
    return Parity(
        images=len(truth),
        difference=float(np.abs(reference.astype(np.float64) - found).max()),
        equal_labels=float((shipped == original).mean()),
        accuracy=float((shipped == truth).mean()),
        keras_accuracy=float((original == truth).mean()),
    )


def measure(
    paths: Sequence[str], labels: Sequence[str], bundle: Bundle, original: Predict, shipped: Predict
) -> tuple[Parity, np.ndarray]:
    """Run both models on image files.

    Args:
        paths: Image files.
        labels: The true class of each.
        bundle: Of the original.
        original: The Keras model.
        shipped: The export in its own runtime.

    Returns:
        The measurement, and the export's probabilities, float32 [n, classes].

    Raises:
        ImageError: If a file cannot be read.
    """
    reference, found = [], []
    with progress.bar(len(paths), "parity", "img") as shown:
        for start in range(0, len(paths), _STEP):
            batch = paths[start : start + _STEP]
            pixels = np.stack([images.decode(path, bundle.image_size) for path in batch])
            reference.append(np.asarray(original(pixels)))
            found.append(np.asarray(shipped(pixels)))
            shown.update(len(batch))
    expected, probabilities = np.concatenate(reference), np.concatenate(found)
    return compare(expected, probabilities, labels, bundle.decide(expected), bundle), probabilities


def milliseconds(shipped: Predict, image_size: int, batch: int) -> float:
    """Time a model; gives milliseconds an image, the median of the calls of about a second."""
    pixels = np.random.default_rng(0).integers(0, 256, (batch, image_size, image_size, 3), dtype=np.uint8)
    for _ in range(2):  # the first call of a shape plans it
        shipped(pixels)
    seconds: list[float] = []
    while sum(seconds) < _TIMED_SECONDS or len(seconds) < 5:
        started = time.perf_counter()
        shipped(pixels)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) / batch * 1e3


def run_instructions(code: str, folder: Path, paths: Sequence[str], bundle: Bundle) -> np.ndarray:
    """Run the README's lines as they stand, in a process of their own, from the files' bytes on.

    Args:
        code: The lines.
        folder: The export; the lines run there.
        paths: Image files.
        bundle: Of the original.

    Returns:
        Probabilities, float64 [n, classes].

    Raises:
        ExportError: If they fail, or print something else.
    """
    # -P: nothing that lies in the folder is imported. The code is given, not a file, as a user would paste it.
    command = [sys.executable, "-P", "-c", code, *(str(Path(path).absolute()) for path in paths)]
    # On the processor, as everything here; and so that paths of any language come back whole.
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "PYTHONUTF8": "1"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_README_SECONDS, check=False,
            encoding="utf-8",
        )  # fmt: skip
        if done.returncode:
            raise ValueError(done.stderr.strip().splitlines()[-1:])
        rows = [json.loads(line)["probabilities"] for line in done.stdout.splitlines()]
        return np.array([[row[name] for name in bundle.class_names] for row in rows], np.float64)
    except (ValueError, KeyError, TypeError, subprocess.TimeoutExpired) as error:
        raise ExportError(f"the lines of the export's README do not run: {error}") from error


def timed(shipped: Predict, image_size: int) -> dict[str, float]:
    """Time a model at the batch sizes that services and phones use."""
    return {f"milliseconds_batch_{batch}": milliseconds(shipped, image_size, batch) for batch in BATCHES}


def size(path: Path) -> int:
    """Give the bytes of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [entry for entry in path.rglob("*") if entry.is_file()]
    return sum(entry.stat().st_size for entry in files)


def table(rows: Sequence[dict[str, object]]) -> str:
    """Lay out measurements for the screen, a line a format."""
    head = f"{'':14}{'MB':>7}{'largest':>12}{'equal':>9}{'accuracy':>10}{'Keras':>9}{'ms/image':>10}{'ms/image':>10}"
    below = f"{'':14}{'':>7}{'difference':>12}{'labels':>9}{'':>10}{'accuracy':>9}{'batch 1':>10}{'batch 16':>10}"
    lines = [head.rstrip(), below.rstrip()]
    for row in rows:
        lines.append(
            f"{row['format']:14}{row['megabytes']:>7.1f}{row['difference']:>12.1e}{row['equal_labels']:>9.4f}"
            f"{row['accuracy']:>10.4f}{row['keras_accuracy']:>9.4f}"
            f"{row['milliseconds_batch_1']:>10.2f}{row['milliseconds_batch_16']:>10.2f}"
        )
    return "\n".join(lines)
