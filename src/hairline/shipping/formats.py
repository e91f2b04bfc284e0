"""The formats a model ships in: a table, and the conversion to each."""

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
from typing import TYPE_CHECKING

import numpy as np

from hairline.config import unknown
from hairline.model import saved
from hairline.system import tensorflow
from hairline.system.errors import HairlineError

if TYPE_CHECKING:
    import keras

# ONNX Runtime 1.14 and later run it; newer sets add nothing that a classifier needs.
_ONNX_OPSET = 17


class ExportError(HairlineError):
    """A model that cannot be exported as it was asked for."""


@dataclass(frozen=True)
class Format:
    """A format: what lies in its folder and what it takes to make and to run it.

    Attributes:
        title: As people call it.
        file: Name of the model's file or folder.
        modules: What has to be importable here, beyond TensorFlow, to make it and to run the gate.
        install: What brings those modules.
        runtime: Packages that run it in the field, beyond NumPy and Pillow.
        quantised: Whether probabilities may differ from the original's.
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


def missing(name: str) -> list[str]:
    """Name the modules that a format needs and that are not installed."""
    return [module for module in FORMATS[name].modules if importlib.util.find_spec(module) is None]


def convert(
    name: str, source: Path, model: keras.Model, folder: Path, calibration: Callable[[], Iterable[np.ndarray]]
) -> Path:
    """Write a model in a format.

    Args:
        name: A key of `FORMATS`.
        source: The saved model's folder.
        model: The same model, loaded: uint8 [batch, height, width, 3] RGB in, probabilities [batch, classes] out.
        folder: Where the file or folder goes.
        calibration: Gives training images, uint8 [height, width, 3]; called only for quantised formats.

    Returns:
        The file or folder.

    Raises:
        ExportError: If the converter gives up.
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
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    _write_saved_model(model, Path(place))
                    content = _litert(Path(place), calibration if FORMATS[name].quantised else None)
                target.write_bytes(content)
    except OSError:
        raise
    except Exception as error:  # the converters raise whatever their passes do
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ExportError(f"format={name}: {model.name} does not convert: {first}; choose another format") from error
    return target


def _serving(model: keras.Model) -> tuple[Callable, list]:
    """Give the function that ships, with names that do not depend on how the model was built, and its signature."""
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


def _litert(saved_model: Path, calibration: Callable[[], Iterable[np.ndarray]] | None) -> bytes:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model))
    if calibration is not None:

        def representative() -> Iterator[dict[str, np.ndarray]]:
            for pixels in calibration():
                yield {"images": pixels[None]}

        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = representative
    return converter.convert()


def _onnx(model: keras.Model) -> bytes:
    import tensorflow as tf
    import tf2onnx

    function, signature = _serving(model)
    with tf.device("/CPU:0"):
        converted, _ = tf2onnx.convert.from_function(
            tf.function(function, input_signature=signature), input_signature=signature, opset=_ONNX_OPSET
        )
    return converted.SerializeToString()


@contextmanager
def _quiet_converters() -> Iterator[None]:
    """Silence the converters' chatter, which comes by C++, by logging and by warnings of their own parts' age."""
    loggers = [logging.getLogger(name) for name in ("tensorflow", "tf2onnx", "absl")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with tensorflow.quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def faults(name: str) -> Iterator[str]:
    """Yield what is wrong with an export format: an unknown name, or a package that is not installed."""
    if name not in FORMATS:
        yield unknown("format", name, FORMATS)
    elif absent := missing(name):
        yield (
            f"format={name} needs {', '.join(absent)}, which {'is' if len(absent) == 1 else 'are'} not "
            f"installed: {FORMATS[name].install}"
        )
