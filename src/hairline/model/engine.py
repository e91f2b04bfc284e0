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
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from hairline.system import cache, files, tensorflow
from hairline.system.errors import HairlineError

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

Item, Found = TypeVar("Item"), TypeVar("Found")
EngineName = Literal["auto", "litert", "tensorflow"]
Decode = Callable[[int], np.ndarray]
Ready = Callable[[Decode, int], Iterator[tuple[int, np.ndarray]]]

# Small batches keep a layer's activations in the processor's cache: 4 images are 15 % quicker than 8 or 1, and 30 %
# quicker than 16 (MobileNetV2 at 160 pixels, 2-core AMD EPYC, November 2026).
LITERT_BATCH = 4
TENSORFLOW_BATCH, TENSORFLOW_BLOCK = 64, 256
# One of these exists wherever Linux lets a process use an NVIDIA or AMD GPU (the last one under Windows).
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/nvhost-gpu", "/dev/kfd", "/dev/dxg")


class EngineError(HairlineError):
    """An engine that cannot be used."""


class ConversionError(EngineError):
    """A backbone that does not convert to LiteRT."""


def choose_engine(name: EngineName, precision: str = "float32") -> Literal["litert", "tensorflow"]:
    """Say which engine runs: TensorFlow where a GPU is present, else LiteRT where it is installed.

    Args:
        name: What is asked for.
        precision: Data type policy of the model; one of 16 bits does not convert to LiteRT.

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
    if not installed or precision != "float32":
        return "tensorflow"
    if sys.platform == "linux" and not any(Path(place).exists() for place in _GPU_DEVICES):
        return "litert"  # TensorFlow takes seconds to say the same
    import tensorflow as tf

    return "tensorflow" if tf.config.list_physical_devices("GPU") else "litert"


def prepare_engine(
    engine: Literal["litert", "tensorflow"],
    model: Callable[[], keras.Model],
    key: str,
    *,
    image_size: int,
    threads: int | None = None,
) -> Ready:
    """Make an engine ready for many sets of images, which may come from several threads at once.

    Args:
        engine: From `choose_engine`.
        model: Builds a model from uint8 RGB to float32 [batch, width]; called only if the engine needs it.
        key: Names the model with its weights and size; a converted model is kept under it.
        image_size: Pixels a side.
        threads: CPU threads; None for all cores.

    Raises:
        ConversionError: If the engine is LiteRT and the model does not convert.

    Returns:
        A function of `decode` (gives image number i as uint8 [image_size, image_size, 3]; called from several threads)
        and `count`, the number of images. It returns an iterator over the number of the first image and float32
        [images, width], in ascending order without gaps.
    """
    workers = threads or os.cpu_count() or 1
    if engine == "litert":
        converted = _converted(model, key)
        if converted is None:
            raise ConversionError("the model does not convert to LiteRT: use features.engine=tensorflow")
        return _LiteRT(converted, image_size, workers)
    return _TensorFlow(model(), workers)


class _LiteRT:
    """Single-threaded interpreters, one a thread; each decodes the images it then infers.

    Decoding and inference of different threads overlap without queues. One thread more than there are cores: while
    one waits for Python's lock, which decoding takes and gives back several times an image, another one works.
    """

    def __init__(self, model: Path, image_size: int, workers: int) -> None:
        self._idle: queue.SimpleQueue[_Interpreter] = queue.SimpleQueue()
        self._workers = workers + 1
        for _ in range(self._workers):
            self._idle.put(_Interpreter(model, image_size))

    def __call__(self, decode: Decode, count: int) -> Iterator[tuple[int, np.ndarray]]:
        def infer(start: int) -> tuple[int, np.ndarray]:
            interpreter = self._idle.get()
            try:
                return start, interpreter.run([decode(row) for row in range(start, min(start + LITERT_BATCH, count))])
            finally:
                self._idle.put(interpreter)

        return map_ordered(infer, range(0, count, LITERT_BATCH), self._workers)


class _Interpreter:
    """A LiteRT interpreter on one thread, with a fixed batch size."""

    def __init__(self, model: Path, image_size: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        with tensorflow.quiet():
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


class _TensorFlow:
    """The Keras model, on all the devices it was built for, on images that threads decode ahead."""

    def __init__(self, model: keras.Model, workers: int) -> None:
        self._model, self._workers = model, workers
        self._one_at_a_time = threading.Lock()  # Keras's `predict` keeps state in the model

    def __call__(self, decode: Decode, count: int) -> Iterator[tuple[int, np.ndarray]]:
        def read(start: int) -> tuple[int, np.ndarray]:
            return start, np.stack([decode(index) for index in range(start, min(start + TENSORFLOW_BLOCK, count))])

        for start, pixels in map_ordered(read, range(0, count, TENSORFLOW_BLOCK), self._workers):
            # Filled up with zeros: a batch of another size rounds differently, and an image's features should not
            # depend on how many others come with it.
            missing = -len(pixels) % TENSORFLOW_BATCH if count > TENSORFLOW_BATCH else 0
            full = np.pad(pixels, ((0, missing), (0, 0), (0, 0), (0, 0)))
            with self._one_at_a_time:
                found = self._model.predict(full, batch_size=TENSORFLOW_BATCH, verbose=0)
            yield start, np.asarray(found, np.float32)[: len(pixels)]


def map_ordered(function: Callable[[Item], Found], items: Iterable[Item], workers: int) -> Iterator[Found]:
    """Map a function over items in threads; results come in order, few items ahead, so that memory stays flat."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Found]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _converted(build: Callable[[], keras.Model], key: str) -> Path | None:
    """Give the model as a LiteRT file, converted once and kept; None, and said, where it does not convert."""
    file = cache.folder("litert") / f"{key}.tflite"
    if file.is_file():
        return file
    with tensorflow.quiet_import():
        import tensorflow as tf
        from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    log.info("converting the model for LiteRT, once")
    with tensorflow.quiet():  # on a machine without a GPU TensorFlow's search for one is told as an error
        model = build()
    try:
        with _quiet():
            pixels = tf.TensorSpec([None, *model.input_shape[1:]], tf.uint8)
            function = tf.function(lambda images: model(images, training=False)).get_concrete_function(pixels)
            # From a frozen graph conversion takes 4 s, by way of `model.export` 19 s (MobileNetV2, 2-core AMD EPYC).
            frozen = convert_variables_to_constants_v2(function)
            content = tf.lite.TFLiteConverter.from_concrete_functions([frozen], tf.Module()).convert()
        _refuse_other_outputs(content, model.input_shape[1:], lambda images: np.asarray(function(tf.constant(images))))
    except Exception as error:  # the converter raises whatever its passes do
        log.warning("WARNING: %s does not convert to LiteRT (%s)", model.name, _line(error))
        return None
    with files.atomic(file) as opened:
        opened.write(content)
    return file


def _refuse_other_outputs(content: bytes, shape: tuple[int, ...], model: Callable[[np.ndarray], np.ndarray]) -> None:
    """Compare the converted model with the one it was made from on noise, which excites every channel."""
    from ai_edge_litert.interpreter import Interpreter

    # From full contrast down to nearly plain: where one saturates a probability, another one does not.
    contrast = np.array([1, 0.5, 0.2, 0.05]).reshape(-1, 1, 1, 1)
    noise = np.random.default_rng(0).integers(-128, 128, (len(contrast), *shape))
    pixels = (128 + noise * contrast).astype(np.uint8)
    with tensorflow.quiet():
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
        raise EngineError(f"its outputs differ by {difference:.2g} where the largest is {scale:.2g}")


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
