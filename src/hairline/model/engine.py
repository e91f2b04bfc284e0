"""Run a frozen backbone on images, with LiteRT or TensorFlow.

On a CPU, LiteRT (XNNPACK) is several times faster than Keras because it folds batch normalisation into the convolutions
(`benchmarks/features.py`). TensorFlow runs on GPUs, and runs every backbone that does not convert to LiteRT.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from hairline.system import cache, files, tensorflow
from hairline.system.errors import HairlineError

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")
EngineName = Literal["auto", "litert", "tensorflow"]
Decode = Callable[[int], np.ndarray]
Run = Callable[[Decode, int], Iterator[tuple[int, np.ndarray]]]

# Small batches keep activations in the CPU cache: batches of 4 are 15 % faster than 1 or 8, and 30 % faster than 16
# (MobileNetV2 at 160 pixels, 2-core AMD EPYC, November 2026).
LITERT_BATCH = 4
TENSORFLOW_BATCH, TENSORFLOW_BLOCK = 64, 256
# On Linux, a process that may use an NVIDIA or AMD GPU sees one of these devices (the last one under WSL).
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/nvhost-gpu", "/dev/kfd", "/dev/dxg")


class EngineError(HairlineError):
    """An engine is not installed, or a model does not convert to it."""


class ConversionError(EngineError):
    """The model does not convert to LiteRT."""


def choose_engine(name: EngineName, precision: str = "float32") -> Literal["litert", "tensorflow"]:
    """Return the engine to use; `auto` is TensorFlow if there is a GPU, else LiteRT if it is installed.

    Args:
        name: Value of `features.engine`.
        precision: Data type policy of the model; LiteRT supports float32 only.

    Raises:
        EngineError: If `name` is `litert` and LiteRT is not installed.
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
    if sys.platform == "linux" and not any(Path(device).exists() for device in _GPU_DEVICES):
        return "litert"  # importing TensorFlow to list devices takes seconds
    import tensorflow as tf

    return "tensorflow" if tf.config.list_physical_devices("GPU") else "litert"


def prepare_engine(
    engine: Literal["litert", "tensorflow"],
    model: Callable[[], keras.Model],
    key: str,
    *,
    image_size: int,
    threads: int | None = None,
) -> Run:
    """Load a model into an engine, converting it if necessary.

    Args:
        engine: From `choose_engine`.
        model: Builds a model from uint8 RGB to float32 [batch, width]; called only if the engine needs it.
        key: Identifies the model with its weights and size; the converted model is cached under it.
        image_size: Input side in pixels.
        threads: CPU threads; None for all cores.

    Returns:
        A thread-safe function of `decode` and `count`. `decode(i)` returns image i of `count` as uint8 [image_size,
        image_size, 3] and is called from several threads. The function yields the index of the first image and
        float32 [images, width] of each batch, in ascending order.

    Raises:
        ConversionError: If the engine is LiteRT and the model does not convert.
    """
    workers = threads or os.cpu_count() or 1
    if engine == "litert":
        return _LiteRT(convert(model, key), image_size, workers)
    return _TensorFlow(model(), workers)


class _LiteRT:
    """One single-threaded interpreter per thread; each thread decodes the images it infers.

    Decoding in one thread overlaps with inference in another, without queues. There is one thread more than cores,
    because decoding waits for Python's lock several times per image.
    """

    def __init__(self, model: Path, image_size: int, workers: int) -> None:
        self._idle: queue.SimpleQueue[_Interpreter] = queue.SimpleQueue()
        self._workers = workers + 1
        for _ in range(self._workers):
            self._idle.put(_Interpreter(image_size, model_path=str(model)))

    def __call__(self, decode: Decode, count: int) -> Iterator[tuple[int, np.ndarray]]:
        def infer(start: int) -> tuple[int, np.ndarray]:
            interpreter = self._idle.get()
            try:
                batch = [decode(row) for row in range(start, min(start + LITERT_BATCH, count))]
                return start, interpreter.run(batch)
            finally:
                self._idle.put(interpreter)

        return map_ordered(infer, range(0, count, LITERT_BATCH), self._workers)


class _Interpreter:
    """A LiteRT interpreter with one thread and a fixed batch size."""

    def __init__(self, image_size: int, **model: Any) -> None:
        from ai_edge_litert.interpreter import Interpreter

        with tensorflow.quiet():
            self._interpreter = Interpreter(**model, num_threads=1)
            self._input = self._interpreter.get_input_details()[0]["index"]
            self._interpreter.resize_tensor_input(self._input, [LITERT_BATCH, image_size, image_size, 3])
            self._interpreter.allocate_tensors()
        self._output = self._interpreter.get_output_details()[0]["index"]
        self._pixels = np.zeros((LITERT_BATCH, image_size, image_size, 3), np.uint8)

    def run(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """Infer up to `LITERT_BATCH` images; a smaller batch is padded with images of the previous one."""
        self._pixels[: len(batch)] = batch
        self._interpreter.set_tensor(self._input, self._pixels)
        self._interpreter.invoke()
        return np.asarray(self._interpreter.get_tensor(self._output))[: len(batch)]


class _TensorFlow:
    """The Keras model on all devices it was built for; threads decode ahead."""

    def __init__(self, model: keras.Model, workers: int) -> None:
        self._model, self._workers = model, workers
        self._lock = threading.Lock()  # Keras's `predict` keeps state in the model

    def __call__(self, decode: Decode, count: int) -> Iterator[tuple[int, np.ndarray]]:
        def read(start: int) -> tuple[int, np.ndarray]:
            return start, np.stack([decode(row) for row in range(start, min(start + TENSORFLOW_BLOCK, count))])

        for start, pixels in map_ordered(read, range(0, count, TENSORFLOW_BLOCK), self._workers):
            # Pad to whole batches: other batch sizes round differently, and an image's features must not depend on how
            # many images follow.
            missing = -len(pixels) % TENSORFLOW_BATCH if count > TENSORFLOW_BATCH else 0
            padded = np.pad(pixels, ((0, missing), (0, 0), (0, 0), (0, 0)))
            with self._lock:
                features = self._model.predict(padded, batch_size=TENSORFLOW_BATCH, verbose=0)
            yield start, np.asarray(features, np.float32)[: len(pixels)]


def map_ordered(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Map a function over items in threads; yield results in order, at most a few items ahead to bound memory."""
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > 4 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def convert(build: Callable[[], keras.Model], key: str) -> Path:
    """Return a model as a LiteRT file, converted and checked once, then cached under `key`.

    Raises:
        ConversionError: If the model does not convert.
    """
    file = cache.folder("litert") / f"{key}.tflite"
    if file.is_file():
        return file
    with tensorflow.quiet_import():
        import tensorflow as tf
        from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    log.info("converting the model to LiteRT (once)")
    with tensorflow.quiet():  # without a GPU, TensorFlow prints an error when it looks for one
        model = build()
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        pixels = tf.TensorSpec([None, *model.input_shape[1:]], tf.uint8)
        function = tf.function(lambda images: model(images, training=False)).get_concrete_function(pixels)
        # Conversion takes 4 s from a frozen graph, 19 s through `model.export` (MobileNetV2, 2-core AMD EPYC).
        frozen = convert_variables_to_constants_v2(function)
        content = tf.lite.TFLiteConverter.from_concrete_functions([frozen], tf.Module()).convert()
        _check_outputs(content, model.input_shape[1], lambda images: np.asarray(function(tf.constant(images))))
    except Exception as error:  # the converter may raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        log.warning("WARNING: %s does not convert to LiteRT (%s)", model.name, reason)
        raise ConversionError(f"{model.name} does not convert to LiteRT: use features.engine=tensorflow") from error
    finally:
        logger.setLevel(level)
    with files.atomic(file) as opened:
        opened.write(content)
    return file


def _check_outputs(content: bytes, image_size: int, model: Callable[[np.ndarray], np.ndarray]) -> None:
    """Compare a converted model with the original on noise, which excites every channel."""
    # From full to low contrast: an image may saturate the probabilities and hide a difference.
    contrast = np.array([1, 0.5, 0.2, 0.05]).reshape(-1, 1, 1, 1)
    noise = np.random.default_rng(0).integers(-128, 128, (LITERT_BATCH, image_size, image_size, 3))
    pixels = (128 + noise * contrast).astype(np.uint8)
    outputs, expected = _Interpreter(image_size, model_content=content).run(pixels), model(pixels)
    difference, scale = np.abs(outputs - expected).max(), np.abs(expected).max()
    if not difference <= 1e-4 * scale:
        raise EngineError(
            f"the converted model's outputs differ by up to {difference:.2g} (largest output {scale:.2g})"
        )
