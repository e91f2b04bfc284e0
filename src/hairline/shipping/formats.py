"""The formats of an export, and the conversion to each."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hairline.config import unknown
from hairline.model import saved
from hairline.system import tensorflow
from hairline.system.errors import HairlineError

if TYPE_CHECKING:
    import keras

_ONNX_OPSET = 17  # ONNX Runtime 1.14 and later; newer sets add nothing that a classifier needs


class ExportError(HairlineError):
    """A model that cannot be exported."""


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        title: Name of the format in text.
        file: Name of the exported file or folder.
        modules: Modules needed here to convert and check a model, besides TensorFlow.
        install: Command that installs them.
        runtime: Packages that run the export, besides NumPy and Pillow.
        quantised: Whether probabilities may differ from the model's.
    """

    title: str
    file: str
    modules: tuple[str, ...]
    install: str
    runtime: tuple[str, ...]
    quantised: bool = False


_LITERT = (("ai_edge_litert",), "pip install ai-edge-litert", ("ai-edge-litert",))

FORMATS: dict[str, Format] = {
    "litert": Format("LiteRT", "model.tflite", *_LITERT),
    "litert_int8": Format("LiteRT, 8-bit integers", "model.tflite", *_LITERT, quantised=True),
    "onnx": Format(
        "ONNX", "model.onnx", ("tf2onnx", "onnx", "onnxruntime"), "pip install -e '.[onnx]'", ("onnxruntime",)
    ),
    "saved_model": Format("SavedModel", "saved_model", (), "", ("tensorflow",)),
    "keras": Format("Keras", saved.MODEL, (), "", ("tensorflow", "keras")),
}


def faults(name: str) -> Iterator[str]:
    """Yield the faults of an export format: an unknown name, or a package that is not installed."""
    if name not in FORMATS:
        yield unknown("format", name, FORMATS)
        return
    missing = [module for module in FORMATS[name].modules if importlib.util.find_spec(module) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        yield f"format={name} needs {', '.join(missing)}, which {verb} not installed: {FORMATS[name].install}"


def files(path: Path) -> list[Path]:
    """Return the files of an export, which is a file or a folder."""
    return [path] if path.is_file() else sorted(entry for entry in path.rglob("*") if entry.is_file())


def convert(
    name: str, source: Path, model: keras.Model, folder: Path, calibration: Callable[[], Iterable[np.ndarray]]
) -> Path:
    """Save a model in a format.

    Args:
        name: Key of `FORMATS`.
        source: Folder of the saved model.
        model: The same model, loaded: uint8 [batch, height, width, 3] RGB in, probabilities [batch, classes] out.
        folder: Folder of the export.
        calibration: Returns training images, uint8 [height, width, 3]; called for quantised formats only.

    Returns:
        The file or folder.

    Raises:
        ExportError: If the converter fails.
    """
    target = folder / FORMATS[name].file
    if name == "keras":
        shutil.copyfile(source / saved.MODEL, target)
        return target
    try:
        with _quiet_converters():
            if name == "saved_model":
                _write_saved_model(model, target)
            elif name == "onnx":
                target.write_bytes(_onnx(model))
            else:
                with tempfile.TemporaryDirectory(dir=folder) as temporary:
                    _write_saved_model(model, Path(temporary))
                    content = _litert(temporary, calibration if FORMATS[name].quantised else None)
                target.write_bytes(content)
    except OSError:
        raise
    except Exception as error:  # converters raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ExportError(
            f"format={name}: {model.name} cannot be converted: {reason}; choose another format"
        ) from error
    return target


def _serving(model: keras.Model) -> tuple[Callable[..., Any], list[Any]]:
    """Return the exported function, with names that do not depend on how the model was built, and its signature."""
    import tensorflow as tf

    def probabilities(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": model(images, training=False)}

    return probabilities, [tf.TensorSpec((None, *model.input_shape[1:]), tf.uint8, name="images")]


def _write_saved_model(model: keras.Model, folder: Path) -> None:
    import keras

    function, signature = _serving(model)
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serving_default", function, input_signature=signature)
    archive.write_out(str(folder), verbose=False)


def _litert(saved_model: str, calibration: Callable[[], Iterable[np.ndarray]] | None) -> bytes:
    import tensorflow as tf

    converter: Any = tf.lite.TFLiteConverter.from_saved_model(saved_model)
    if calibration is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ({"images": pixels[None]} for pixels in calibration())
    return bytes(converter.convert())


def _onnx(model: keras.Model) -> bytes:
    import tensorflow as tf
    import tf2onnx

    function, signature = _serving(model)
    with tf.device("/CPU:0"):
        converted, _ = tf2onnx.convert.from_function(
            tf.function(function, input_signature=signature), input_signature=signature, opset=_ONNX_OPSET
        )
    return bytes(converted.SerializeToString())


@contextmanager
def _quiet_converters() -> Iterator[None]:
    """Silence the converters, which print from C++, log, and warn of deprecations in their own code."""
    logging.disable(logging.WARNING)
    try:
        with tensorflow.quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
