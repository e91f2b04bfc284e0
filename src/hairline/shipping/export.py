"""The story of `export.py`: convert the model, check it on real images in its own runtime, then publish it."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import TiffImagePlugin

from hairline import tracking
from hairline.config import Export
from hairline.data import images
from hairline.model import saved
from hairline.shipping import formats, parity, readme, runners
from hairline.shipping.formats import FORMATS, ExportError
from hairline.system import errors, files, tensorflow
from hairline.tracking import registry

log = logging.getLogger(__name__)

_README_IMAGES = 32
_LONGEST_TEXT = 2**20  # that Pillow reads in a PNG
_PHOTOMETRIC = 262  # tag of TIFF
# Free disk space needed, in sizes of the model: a SavedModel of three times its size is an intermediate step to LiteRT.
_FREE_SPACE = 4


def export(config: Export, folder: Path) -> dict[str, Any]:
    """Export the model of a finished run.

    Args:
        config: Checked configuration.
        folder: Folder of the export. An earlier export is replaced; a folder with other files is refused.

    Returns:
        The measurements of the gate.

    Raises:
        ExportError: If the conversion fails, or the export differs from the model. Nothing is left in `folder`.
    """
    refuse_other_files(folder)
    run = tracking.FinishedRun.find(config.run, config.tracking.uri)
    name, bundle = config.format, saved.read_bundle(run.model)
    compared = parity.find_images(
        run, config.data, config.images, bundle.class_names, calibration=FORMATS[name].quantised
    )
    with published(folder, (run.model / saved.MODEL).stat().st_size) as place:
        prepare_tensorflow(config.runtime.threads)
        classifier = saved.Classifier(run.model)
        log.info("%s: converting", FORMATS[name].title)
        path = formats.convert(
            name, run.model, classifier.model, place, lambda: compared.calibration_pixels(bundle.image_size)
        )
        commit = run.commit()
        readme.write_bundle(place, name, bundle, path, commit, {})  # the README's code reads it
        measurements, example = gate(name, path, place, classifier, compared, config.runtime.threads)
        readme.write_bundle(place, name, bundle, path, commit, measurements)
        machine = f"{config.runtime.threads or os.cpu_count()} threads of an {platform.machine()} processor"
        readme.write_readme(place, name, bundle, measurements, example, machine)
    row = {"format": name, **measurements}
    log.info("%s", parity.describe(row))
    if config.tracking.enabled and run.run_id is not None:
        description = [folder / saved.BUNDLE, folder / readme.README]
        try:
            if not registry.log_export(run.run_id, config.tracking.uri, row, description):
                log.warning("WARNING: the export is not logged: MLflow's store has no run %s", run.run_id)
        except tracking.TrackingError as error:
            log.warning("WARNING: the export is complete, but not logged: %s", str(error).splitlines()[0])
    log.info("Export          %s\nHow to run it   %s", folder, folder / readme.README)
    return measurements


def gate(
    name: str, path: Path, place: Path, classifier: saved.Classifier, compared: parity.Images, threads: int | None
) -> tuple[dict[str, Any], np.ndarray]:
    """Measure an export in its own runtime, and reject one that differs from the model.

    Args:
        name: Key of `FORMATS`.
        path: The exported file or folder.
        place: Folder of the export.
        classifier: The saved model.
        compared: Images to compare on.
        threads: CPU threads; None for all cores.

    Returns:
        The measurements, and the probabilities of the example image, float64 [classes].

    Raises:
        ExportError: If the export or the README's code differs from the model.
    """
    bundle, run = classifier.bundle, runners.load(name, path, threads)
    paths, labels = compared.validation["path"].tolist(), compared.validation["label"].tolist()
    result, probabilities = parity.measure(paths, labels, bundle, classifier.model.predict_on_batch, run)
    faults = result.faults(name)
    rows = np.unique(np.linspace(0, len(paths) - 1, min(len(paths), _README_IMAGES)).astype(np.int64)).tolist()
    rows = [row for row in rows if reads_alike(paths[row])]
    tried = [*(paths[row] for row in rows), str(readme.write_example(place))]
    printed = parity.run_readme(readme.code(name, bundle), place, tried, bundle.class_names)
    difference = float(np.abs(printed[:-1] - probabilities[rows]).max(initial=0))
    if not difference <= parity.DIFFERENCE_LIMIT:  # also true for NaN
        faults.append(
            f"the probabilities of the README's code differ by up to {difference:.2g} from those of the runtime; "
            f"allowed are {parity.DIFFERENCE_LIMIT:g}"
        )
    if faults:
        raise ExportError(
            f"format={name} fails the gate on {result.images:,} validation images: {'; '.join(faults)}. "
            "Nothing was written; choose another format"
        )
    measurements = {
        **dataclasses.asdict(result),
        "readme_difference": difference,
        "megabytes": sum(file.stat().st_size for file in formats.files(path)) / 1e6,
        **parity.timings(run, bundle.image_size),
    }
    return measurements, printed[-1]


def reads_alike(path: str) -> bool:
    """Return whether Pillow alone reads an image as hairline does, so that the README's code can be tried on it.

    The code leaves out what is rare: HEIC, reduced copies before the photo, long texts, and grey images of more than 8
    bits that do not use all 16, whose 0 is white, or of which one value is transparent.
    """
    try:
        with images.opened(images.read(path)) as image:
            image.load()
            texts = (value for value in image.info.values() if isinstance(value, str | bytes))
            if image.format == "HEIF" or image.tell() or max(map(len, texts), default=0) > _LONGEST_TEXT:
                return False
            if not image.mode.startswith("I"):
                return True
            inverted = isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == 0
            return int(np.asarray(image).max()) >= 2**14 and not inverted and "transparency" not in image.info
    except images.ImageError:
        return False


def refuse_other_files(folder: Path) -> None:
    """Refuse a folder that is neither new, nor empty, nor an earlier export: an export replaces all that it holds.

    Raises:
        ExportError: If it is.
    """
    if not folder.exists():
        return
    others = sorted({entry.name for entry in folder.iterdir()} if folder.is_dir() else {folder.name})
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # no bundle, or another file of that name
        bundle = json.loads((folder / saved.BUNDLE).read_text(encoding="utf-8"))
        if "export_format" in bundle:  # a saved model has a bundle and a README as well
            own = {readme.README, readme.EXAMPLE, saved.BUNDLE, *bundle["sha256"]}
            found = (file for file in folder.rglob("*") if not file.is_dir())
            others = sorted({file.relative_to(folder).as_posix() for file in found} - own)
    if others:
        raise ExportError(
            f"output={folder} holds other files than an export, such as {others[0]}; choose a new folder, or delete it"
        )


@contextlib.contextmanager
def published(folder: Path, model_bytes: int) -> Iterator[Path]:
    """Yield a temporary folder that replaces `folder` after the block, and is deleted if the block fails.

    Args:
        folder: Folder of the export.
        model_bytes: Size of the model, from which the disk space needed is estimated.

    Raises:
        ExportError: If the disk is full, or the folder cannot be written.
    """
    parent = folder.parent
    place = parent / files.partial_name(folder.name)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        free, needed = shutil.disk_usage(parent).free, _FREE_SPACE * model_bytes
        if free < needed:
            raise OSError(errno.ENOSPC, f"an export needs {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free")
        place.mkdir()
        yield place
        former = parent / f"{place.name}.former"
        if folder.exists():
            folder.replace(former)
        try:
            place.replace(folder)
        except OSError:
            if former.exists():
                former.replace(folder)
            raise
        shutil.rmtree(former, ignore_errors=True)
    except Exception as error:
        # Converters report a full disk in errors of their own.
        if errors.is_disk_full(error) or (parent.is_dir() and shutil.disk_usage(parent).free == 0):
            raise ExportError(
                f"output={folder}: the disk is full ({error}), nothing was written. Free some space, or choose another "
                "folder"
            ) from error
        if isinstance(error, OSError):
            raise ExportError(f"output={folder} cannot be written: {error.strerror or error}") from error
        raise
    finally:
        shutil.rmtree(place, ignore_errors=True)


def prepare_tensorflow(threads: int | None) -> None:
    """Start TensorFlow without GPUs: exports are compared and timed on the CPU."""
    tensorflow.prepare(precision="float32", threads=threads, deterministic=False, seed=0)
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # an earlier job in this process has started the devices
        tf.config.set_visible_devices([], "GPU")
