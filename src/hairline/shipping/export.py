"""The story of one export: convert, try on real images in its own runtime, describe, and only then let it out."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import os
import platform
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hairline.config import Export
from hairline.model import saved
from hairline.shipping import formats, parity, readme, record, runners, samples
from hairline.shipping.formats import FORMATS, ExportError
from hairline.system import tensorflow
from hairline.tracking import registry

log = logging.getLogger(__name__)

_README_IMAGES = 32
# A SavedModel takes about three times the Keras file while a LiteRT file is made of it.
_ROOM = 4


def export(config: Export, folder: Path) -> dict[str, Any]:
    """Export a finished run's model.

    Args:
        config: Checked configuration.
        folder: Where the export goes; an earlier export there is replaced, anything else is left alone.

    Returns:
        What the gate measured.

    Raises:
        ExportError: If it cannot be made, or fails the gate: then nothing is left in `folder`.
    """
    refuse_taken(folder)
    source = record.read(config.run, config.tracking.uri)
    entry, bundle = FORMATS[config.format], saved.read_bundle(source.model)
    found = samples.find(source, config.data.path, config.images, bundle.class_names, training=entry.quantised)
    with published(folder, (source.model / saved.MODEL).stat().st_size) as place:
        _prepare_machine(config.runtime.threads)
        classifier = saved.Classifier(source.model)
        log.info("%s: converting", entry.title)
        path = formats.convert(
            config.format, source.model, classifier.model, place, lambda: found.calibration(bundle.image_size)
        )
        about = (place, config.format, bundle)
        readme.write_bundle(*about, path, {}, source.commit())  # the README's lines, which are tried, read it
        measured, example = _gate(config, classifier, path, found, place)
        readme.write_bundle(*about, path, measured, source.commit())
        readme.write_readme(*about, measured, example, _machine(config.runtime.threads))
    row = {"format": config.format, **measured}
    log.info("\n%s\n", parity.table([row]))
    beside = [folder / saved.BUNDLE, folder / readme.README]
    if config.tracking.enabled and source.run_id is not None:
        if not registry.log_export(source.run_id, config.tracking.uri, row, beside):
            log.warning("WARNING: not logged: MLflow's store knows no run %s", source.run_id)
    log.info("Export          %s\nHow to run it   %s", folder, folder / readme.README)
    return measured


def _gate(
    config: Export, classifier: saved.Classifier, path: Path, found: samples.Samples, place: Path
) -> tuple[dict[str, Any], np.ndarray]:
    """Measure an export in its own runtime, and refuse one that is not what was evaluated.

    Returns:
        The measurements, and the example's probabilities, float64 [classes].
    """
    bundle = classifier.bundle
    shipped = runners.load(config.format, path, config.runtime.threads)
    paths, labels = found.validation["path"].tolist(), found.validation["label"].tolist()
    result, probabilities = parity.measure(paths, labels, bundle, classifier.model.predict_on_batch, shipped)
    faults = result.faults(config.format)
    few = sorted({int(row) for row in np.linspace(0, len(paths) - 1, min(len(paths), _README_IMAGES))})
    tried = [*(paths[row] for row in few), str(readme.write_example(place))]
    printed = parity.run_instructions(readme.code(config.format, bundle), place, tried, bundle)
    differing = float(np.abs(printed[:-1] - probabilities[few]).max())
    if not differing <= parity.DIFFERENCE_LIMIT:
        faults.append(
            f"the README's lines give probabilities that differ by up to {differing:.2g} from the gate's; "
            f"allowed are {parity.DIFFERENCE_LIMIT:g}"
        )
    if faults:
        raise ExportError(
            f"format={config.format} fails the gate on {result.images:,} validation images: {'; '.join(faults)}. "
            "Nothing was written; choose another format"
        )
    measured = {
        **dataclasses.asdict(result),
        "readme_difference": differing,
        "megabytes": parity.size(path) / 1e6,
        **parity.timed(shipped, bundle.image_size),
    }
    return measured, printed[-1]


def refuse_taken(folder: Path) -> None:
    """Refuse a place where something other than an export lies.

    Raises:
        ExportError: If there is.
    """
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() and not all((folder / name).is_file() for name in (saved.BUNDLE, readme.README)):
        raise ExportError(f"output={folder}: something else lies there; choose a folder that is new, or delete it")


@contextlib.contextmanager
def published(folder: Path, model_bytes: int) -> Iterator[Path]:
    """Give a folder beside `folder` that takes its place when the block has ended well, and vanishes otherwise.

    Args:
        folder: The export's place.
        model_bytes: Size of the model, from which the room needed is estimated.

    Raises:
        ExportError: If the disk is full, or the place cannot be written to.
    """
    parent = folder.parent
    place = parent / f".{folder.name}.{uuid.uuid4().hex[:8]}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(parent).free
        if free < _ROOM * model_bytes:
            raise OSError(
                errno.ENOSPC, f"an export needs {_ROOM * model_bytes / 1e6:.0f} MB, {free / 1e6:.0f} are free"
            )
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
        if _is_full(error, parent):
            raise ExportError(f"output={folder}: the disk is full ({error}). Nothing was written: make room") from error
        if isinstance(error, OSError):
            raise ExportError(f"output={folder} cannot be written: {error.strerror or error}") from error
        raise
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _is_full(error: BaseException | None, parent: Path) -> bool:
    """Tell a full disk, whoever met it: TensorFlow and the converters wrap the system's error in their own."""
    while error is not None:
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            return True
        error = error.__cause__
    return parent.is_dir() and shutil.disk_usage(parent).free == 0


def _prepare_machine(threads: int | None) -> None:
    """Start TensorFlow on the processor alone: that is what is timed, and where the runtimes run."""
    tensorflow.prepare(precision="float32", threads=threads, deterministic=False, seed=0)
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # an earlier job in this process has started the devices
        tf.config.set_visible_devices([], "GPU")


def _machine(threads: int | None) -> str:
    return f"{threads or os.cpu_count()} threads of an {platform.machine()} processor"
