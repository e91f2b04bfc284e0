"""Engines: how a frozen backbone turns pixels into features, as fast as the machine allows.

LiteRT (XNNPACK) folds batch normalisation into the convolutions, which Keras on a CPU does not: it is several times
faster there (`benchmarks/features.py`). TensorFlow is the engine where a GPU is present, and wherever a backbone does
not convert.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hairline import cache, runtime

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

Name = Literal["auto", "litert", "tensorflow"]
Decode = Callable[[int], np.ndarray]

# Small batches keep a layer's activations in the processor's cache: 4 images are 15 % quicker than 8 or 1, and 30 %
# quicker than 16 (MobileNetV2 at 160 pixels, 2-core AMD EPYC, November 2026).
LITERT_BATCH = 4
TENSORFLOW_BATCH, TENSORFLOW_BLOCK = 64, 256


class EngineError(ValueError):
    """An engine that cannot be used."""


class ConversionError(EngineError):
    """A backbone that does not convert to LiteRT."""


def choose(name: Name) -> Literal["litert", "tensorflow"]:
    """Say which engine runs: TensorFlow where a GPU is present, else LiteRT where it is installed.

    Raises:
        EngineError: If LiteRT is asked for and not installed.
    """
    installed = importlib.util.find_spec("ai_edge_litert") is not None
    if name == "litert" and not installed:
        raise EngineError(
            "features.engine=litert: the package ai-edge-litert is not installed; install it "
            "(pip install ai-edge-litert) or use features.engine=tensorflow"
        )
    if name != "auto":
        return name
    if not installed:
        return "tensorflow"
    import tensorflow as tf

    return "tensorflow" if tf.config.list_physical_devices("GPU") else "litert"


def run(
    engine: Literal["litert", "tensorflow"],
    backbone: Callable[[], keras.Model],
    key: str,
    decode: Decode,
    count: int,
    *,
    image_size: int,
    threads: int | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Turn images into features.

    Args:
        engine: From `choose`.
        backbone: Builds the model from uint8 RGB to features; called only if the engine needs it.
        key: Names the backbone with its weights and size; a converted model is kept under it.
        decode: Gives image number i as uint8 [image_size, image_size, 3]; called from several threads.
        count: Number of images.
        image_size: Pixels a side.
        threads: CPU threads; None for all cores.

    Raises:
        ConversionError: If the engine is LiteRT and the backbone does not convert.

    Returns:
        An iterator over the number of the first image and float32 [images, width], in ascending order without gaps.
        What has to be made ready first is ready when this function returns.
    """
    workers = threads or os.cpu_count() or 1
    if engine == "litert":
        converted = _converted(backbone, key)
        if converted is None:
            raise ConversionError("the backbone does not convert to LiteRT: use features.engine=tensorflow")
        return _litert(converted, decode, count, image_size, workers)
    return _tensorflow(backbone(), decode, count, workers)


def _litert(model: Path, decode: Decode, count: int, image_size: int, workers: int) -> Iterator[tuple[int, np.ndarray]]:
    """Run single-threaded interpreters, one a thread; each decodes the images it then infers.

    Decoding and inference of different threads overlap without queues. One thread more than there are cores: while
    one waits for Python's lock, which decoding takes and gives back several times an image, another one works.
    """
    workers += 1
    idle: queue.SimpleQueue[_Interpreter] = queue.SimpleQueue()
    for _ in range(workers):
        idle.put(_Interpreter(model, image_size))

    def infer(start: int) -> tuple[int, np.ndarray]:
        interpreter = idle.get()
        try:
            return start, interpreter.run([decode(row) for row in range(start, min(start + LITERT_BATCH, count))])
        finally:
            idle.put(interpreter)

    return _in_order(infer, range(0, count, LITERT_BATCH), workers)


class _Interpreter:
    """A LiteRT interpreter on one thread, with a fixed batch size."""

    def __init__(self, model: Path, image_size: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        with runtime.quiet():
            self._interpreter = Interpreter(str(model), num_threads=1)
            self._input = self._interpreter.get_input_details()[0]["index"]
            self._interpreter.resize_tensor_input(self._input, [LITERT_BATCH, image_size, image_size, 3])
            self._interpreter.allocate_tensors()
        self._output = self._interpreter.get_output_details()[0]["index"]
        self._pixels = np.zeros((LITERT_BATCH, image_size, image_size, 3), np.uint8)

    def run(self, batch: list[np.ndarray]) -> np.ndarray:
        """Infer at most a batch of images; a smaller one is filled up with what the one before left."""
        for place, pixels in enumerate(batch):
            self._pixels[place] = pixels
        self._interpreter.set_tensor(self._input, self._pixels)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output)[: len(batch)]


def _tensorflow(backbone: keras.Model, decode: Decode, count: int, workers: int) -> Iterator[tuple[int, np.ndarray]]:
    """Run the Keras model, on all the devices it was built for, on images that threads decode ahead."""

    def read(start: int) -> tuple[int, np.ndarray]:
        return start, np.stack([decode(index) for index in range(start, min(start + TENSORFLOW_BLOCK, count))])

    for start, pixels in _in_order(read, range(0, count, TENSORFLOW_BLOCK), workers):
        yield start, np.asarray(backbone.predict(pixels, batch_size=TENSORFLOW_BATCH, verbose=0), np.float32)


def _in_order(function: Callable[[int], Any], starts: range, workers: int) -> Iterator[Any]:
    """Map a function over batches in threads; results come in order, few batches ahead, so that memory stays flat."""
    with ThreadPoolExecutor(workers) as pool:
        waiting = []
        try:
            for start in starts:
                waiting.append(pool.submit(function, start))
                if len(waiting) > 4 * workers:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


def _converted(backbone: Callable[[], keras.Model], key: str) -> Path | None:
    """Give the backbone as a LiteRT file, converted once and kept; None, and said, where it does not convert."""
    file = cache.folder("litert") / f"{key}.tflite"
    if file.is_file():
        return file
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    log.info("converting the backbone for LiteRT, once")
    model = backbone()
    try:
        with _quiet():
            pixels = tf.TensorSpec([None, *model.input_shape[1:]], tf.uint8)
            function = tf.function(lambda images: model(images, training=False)).get_concrete_function(pixels)
            # From a frozen graph conversion takes 4 s, by way of `model.export` 19 s (MobileNetV2, 2-core AMD EPYC).
            frozen = convert_variables_to_constants_v2(function)
            content = tf.lite.TFLiteConverter.from_concrete_functions([frozen], tf.Module()).convert()
        _refuse_other_features(content, model.input_shape[1:], lambda images: np.asarray(function(tf.constant(images))))
    except Exception as error:  # the converter raises whatever its passes do
        log.warning("WARNING: %s does not convert to LiteRT (%s)", model.name, _line(error))
        return None
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(file)
    return file


def _refuse_other_features(content: bytes, shape: tuple[int, ...], model: Callable[[np.ndarray], np.ndarray]) -> None:
    """Compare the converted model with the one it was made from on noise, which excites every channel."""
    from ai_edge_litert.interpreter import Interpreter

    pixels = np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8)
    with runtime.quiet():
        interpreter = Interpreter(model_content=content)
        place = interpreter.get_input_details()[0]["index"]
        interpreter.resize_tensor_input(place, pixels.shape)
        interpreter.allocate_tensors()
    interpreter.set_tensor(place, pixels)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    expected = model(pixels)
    difference, scale = np.abs(found - expected).max(), np.abs(expected).max()
    if not difference <= 1e-4 * scale:
        raise EngineError(f"its features differ by {difference:.2g} where the largest is {scale:.2g}")


class _quiet:
    """Silence the converter's chatter, which comes by print and by logging."""

    def __enter__(self) -> None:
        self._logger = logging.getLogger("tensorflow")
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self._logger.setLevel(self._level)


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
