"""Run a frozen backbone on images, with LiteRT or TensorFlow.

On a CPU, LiteRT (XNNPACK) is several times faster than Keras because it folds batch normalisation into the convolutions
(`benchmarks/features.py`). TensorFlow runs on GPUs, and runs every backbone that does not convert to LiteRT.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import numpy as np

from hairline.model.maps import with_maps
from hairline.system import cache, files, memory, tensorflow
from hairline.system.errors import HairlineError

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")
EngineName = Literal["auto", "litert", "tensorflow"]
Decode = Callable[[int], np.ndarray]
Run = Callable[[Decode, int], Iterator[tuple[int, np.ndarray]]]
Reduce = Callable[[list[np.ndarray]], np.ndarray]

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


def engine_versions(engine: Literal["litert", "tensorflow"]) -> str:
    """Return the versions of the libraries whose rounding an engine's results depend on.

    Keras builds the network, TensorFlow runs it or converts it for LiteRT.
    """
    packages = ("keras", "tensorflow", *(["ai-edge-litert"] if engine == "litert" else []))
    return " ".join(f"{package}-{metadata.version(package)}" for package in packages)


def prepare_engine(
    engine: Literal["litert", "tensorflow"],
    model: Callable[[], keras.Model],
    key: str,
    *,
    image_size: int,
    converted: Path | None = None,
    maps: bool = False,
    threads: int | None = None,
    pool: Pool | None = None,
    reduce: Reduce = lambda outputs: outputs[0],
) -> Run:
    """Load a network into an engine, converting it if necessary.

    Args:
        engine: From `choose_engine`.
        model: Builds the network, from uint8 RGB to its layer `features`; called only if the engine needs it.
        key: Identifies the network with its weights and size; the converted network is cached under it.
        image_size: Input side in pixels.
        converted: The converted network, where a saved model holds it.
        maps: Compute the maps that are pooled into the features, too.
        threads: CPU threads; None for all cores.
        pool: Threads to use; None for threads of each call's own.
        reduce: Computes a batch's results, float32 [images, width], in the thread that ran it, from features and maps:
            the large maps need not be kept.

    Returns:
        A thread-safe function of `decode` and `count`. `decode(i)` returns image i of `count` as uint8 [image_size,
        image_size, 3] and is called from several threads. The function yields the index of the first image and
        float32 [images, width] of each batch, in ascending order.

    Raises:
        ConversionError: If the engine is LiteRT and the model does not convert.
    """
    workers = threads or os.cpu_count() or 1
    if engine == "litert":
        use = cache.use(converted or converted_file(key))
        file = convert(model, key) if converted is None else converted
        return _LiteRT(file, image_size, workers, pool, use, reduce, maps)
    return _TensorFlow(with_maps(model()) if maps else model(), workers, pool, reduce)


class _LiteRT:
    """One single-threaded interpreter per thread; each thread decodes the images it infers.

    Decoding in one thread overlaps with inference in another, without queues. There is one thread more than cores,
    because decoding waits for Python's lock several times per image.
    """

    def __init__(
        self, model: Path, image_size: int, workers: int, pool: Pool | None, use: object, reduce: Reduce, maps: bool
    ) -> None:
        self._pool, self._use, self._reduce = pool, use, reduce
        self._idle: queue.SimpleQueue[_Interpreter] = queue.SimpleQueue()
        self._workers = workers + 1
        for _ in range(self._workers):
            self._idle.put(_Interpreter(image_size, maps=maps, model_path=str(model)))

    def __call__(self, decode: Decode, count: int) -> Iterator[tuple[int, np.ndarray]]:
        def infer(start: int) -> tuple[int, np.ndarray]:
            interpreter = self._idle.get()
            try:
                batch = [decode(row) for row in range(start, min(start + LITERT_BATCH, count))]
                return start, self._reduce(interpreter.run(batch))
            finally:
                self._idle.put(interpreter)

        starts = range(0, count, LITERT_BATCH)
        return map_ordered(infer, starts, self._workers) if self._pool is None else iter(self._pool.map(infer, starts))


class _Interpreter:
    """A LiteRT interpreter with one thread and a fixed batch size."""

    def __init__(self, image_size: int, *, maps: bool, **model: Any) -> None:
        from ai_edge_litert.interpreter import Interpreter

        with tensorflow.quiet():
            self._interpreter = Interpreter(**model, num_threads=1)
            self._input = self._interpreter.get_input_details()[0]["index"]
            self._interpreter.resize_tensor_input(self._input, [LITERT_BATCH, image_size, image_size, 3])
            self._interpreter.allocate_tensors()
        # The converter calls a model's outputs Identity, Identity_1, Identity_2, ... and lists them in any order.
        outputs = {detail["name"]: detail["index"] for detail in self._interpreter.get_output_details()}
        names = sorted(outputs, key=lambda name: (len(name), name))
        self._outputs = [outputs[name] for name in (names if maps else names[:1])]
        self._pixels = np.zeros((LITERT_BATCH, image_size, image_size, 3), np.uint8)

    def run(self, batch: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Infer up to `LITERT_BATCH` images; a smaller batch is padded with images of the previous one."""
        self._pixels[: len(batch)] = batch
        self._interpreter.set_tensor(self._input, self._pixels)
        self._interpreter.invoke()
        return [np.asarray(self._interpreter.get_tensor(output))[: len(batch)] for output in self._outputs]


class _TensorFlow:
    """The Keras model on all devices it was built for; threads decode ahead."""

    def __init__(self, model: keras.Model, workers: int, pool: Pool | None, reduce: Reduce) -> None:
        self._model, self._workers, self._pool, self._reduce = model, workers, pool, reduce
        self._lock = threading.Lock()  # Keras's `predict` keeps state in the model

    def __call__(self, decode: Decode, count: int) -> Iterator[tuple[int, np.ndarray]]:
        def read(start: int) -> tuple[int, np.ndarray]:
            rows = range(start, min(start + TENSORFLOW_BLOCK, count))
            return start, np.stack([decode(row) for row in rows] if pool is None else pool.map(decode, rows))

        pool, starts = self._pool, range(0, count, TENSORFLOW_BLOCK)
        blocks = map_ordered(read, starts, self._workers) if pool is None else map(read, starts)
        for start, pixels in blocks:
            # Pad to whole batches: other batch sizes round differently, and an image's features must not depend on how
            # many images follow.
            missing = -len(pixels) % TENSORFLOW_BATCH if count > TENSORFLOW_BATCH else 0
            padded = np.pad(pixels, ((0, missing), (0, 0), (0, 0), (0, 0)))
            with self._lock:
                outputs = self._model.predict(padded, batch_size=TENSORFLOW_BATCH, verbose=0)
            outputs = outputs if isinstance(outputs, list) else [outputs]
            yield start, self._reduce([np.asarray(output, np.float32)[: len(pixels)] for output in outputs])


def map_ordered(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Map a function over items in threads; yield results in order, at most a few items ahead to bound memory."""
    with ThreadPoolExecutor(workers) as threads:
        yield from _ordered(threads, function, items, ahead=4 * workers)


class Pool:
    """The threads of an inspection: each works on a photo, and idle ones help with the tiles of the others' photos.

    So no more photos are decoded at once than there are threads, and one large photo still uses all threads.

    Attributes:
        workers: Number of threads.
    """

    def __init__(self, workers: int) -> None:
        """Create the pool; its threads start with the first work and end with the pool."""
        self.workers = workers
        self._threads = ThreadPoolExecutor(workers)

    def map_ordered(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Map a function over items; yield results in order. Not for use in the pool's own threads."""
        return _ordered(self._threads, function, items, ahead=2 * self.workers)

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Map a function over items in the calling thread, with the help of idle ones; return results in order."""
        work = _Work(function, items)
        for _ in range(min(self.workers, len(items) - 1)):
            self._threads.submit(work.run)
        return work.finish()


class _Work(Generic[Item, Result]):
    """Items that several threads process; each takes the next one until there are none."""

    def __init__(self, function: Callable[[Item], Result], items: Sequence[Item]) -> None:
        self._function: Callable[[Item], Result] | None = function
        self._left = deque(enumerate(items))
        self._results: dict[int, Result] = {}
        self._error: BaseException | None = None
        self._running = 0
        self._changed = threading.Condition()

    def run(self) -> None:
        """Process items until none is left, or one has failed."""
        while True:
            with self._changed:
                if not self._left or self._function is None:
                    return
                number, item = self._left.popleft()
                function = self._function
                self._running += 1
            try:
                result = function(item)
            except BaseException as error:
                with self._changed:
                    self._error = self._error or error
                    self._left.clear()
            else:
                self._results[number] = result
            finally:
                with self._changed:
                    self._running -= 1
                    self._changed.notify_all()

    def finish(self) -> list[Result]:
        """Process the rest, wait for the other threads' items, and return all results in order."""
        self.run()
        with self._changed:
            self._changed.wait_for(lambda: not self._running)
        # Threads that were too busy to help still hold this object, which must not hold the photo.
        self._function = None
        if self._error is not None:
            raise self._error
        return [self._results[number] for number in range(len(self._results))]


def _ordered(
    threads: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], *, ahead: int
) -> Iterator[Result]:
    """Yield results in order, at most `ahead` items ahead; no item is running when the iteration ends."""
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(threads.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
        wait(pending)


def converted_file(key: str) -> Path:
    """Return the place of a converted model in the cache; another version of the engine converts it again."""
    digest = hashlib.sha256(engine_versions("litert").encode()).hexdigest()[:8]
    return cache.folder("litert") / f"{key}-maps-{digest}.tflite"


def convert(build: Callable[[], keras.Model], key: str) -> Path:
    """Return a network as a LiteRT file, converted and checked once, then cached as `converted_file`.

    The file computes the maps that are pooled, too (`with_maps`): one conversion serves features and heat maps.

    Raises:
        ConversionError: If the model does not convert.
    """
    file = converted_file(key)
    if not file.is_file():
        content = _converted(build)
        memory.release()
        files.write_bytes(file, content)
    return file


def _converted(build: Callable[[], keras.Model]) -> bytes:
    """Convert a network and check it; returns the content of the file."""
    with tensorflow.quiet_import():
        import tensorflow as tf
        from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    log.info("converting the model to LiteRT (once)")
    with tensorflow.quiet():  # without a GPU, TensorFlow prints an error when it looks for one
        model = with_maps(build())
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        pixels = tf.TensorSpec([None, *model.input_shape[1:]], tf.uint8)
        function = tf.function(lambda images: model(images, training=False)).get_concrete_function(pixels)
        # Conversion takes 4 s from a frozen graph, 19 s through `model.export` (MobileNetV2, 2-core AMD EPYC).
        # Networks without control flow need no lowering of it, which takes as long as the rest.
        frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)
        content: bytes = tf.lite.TFLiteConverter.from_concrete_functions([frozen], tf.Module()).convert()
        _check_outputs(content, model.input_shape[1], lambda images: function(tf.constant(images)))
    except Exception as error:  # the converter may raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        log.warning("WARNING: %s does not convert to LiteRT (%s)", model.name, reason)
        raise ConversionError(f"{model.name} does not convert to LiteRT: use features.engine=tensorflow") from error
    finally:
        logger.setLevel(level)
    return content


def _check_outputs(content: bytes, image_size: int, model: Callable[[np.ndarray], Any]) -> None:
    """Compare a converted model with the original on noise, which excites every channel."""
    # From full to low contrast: an image may saturate the probabilities and hide a difference.
    contrast = np.array([1, 0.5, 0.2, 0.05]).reshape(-1, 1, 1, 1)
    noise = np.random.default_rng(0).integers(-128, 128, (LITERT_BATCH, image_size, image_size, 3))
    pixels = (128 + noise * contrast).astype(np.uint8)
    outputs = _Interpreter(image_size, maps=True, model_content=content).run(pixels)
    found = model(pixels)
    tensors = found if isinstance(found, list | tuple) else [found]
    for output, tensor in zip(outputs, map(np.asarray, tensors), strict=True):
        difference, scale = np.abs(output - tensor).max(), np.abs(tensor).max()
        if not difference <= 1e-4 * scale:
            raise EngineError(
                f"the converted model's outputs differ by up to {difference:.2g} (largest output {scale:.2g})"
            )
