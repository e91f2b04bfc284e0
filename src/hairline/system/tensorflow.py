"""The machine a run works on: TensorFlow's import, threads, precision, seeds and devices."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import tensorflow as tf

_M_ARENA_MAX = -8  # of glibc's malloc.h


def prepare(*, precision: str, threads: int | None, deterministic: bool, seed: int) -> None:
    """Import TensorFlow quietly and set what holds for the whole process.

    Args:
        precision: Keras's global data type policy.
        threads: CPU threads TensorFlow may use; None for all cores.
        deterministic: Whether operations on a GPU must give the same bits each time.
        seed: Of Python, NumPy and TensorFlow.
    """
    _few_heaps()
    with quiet_import():
        import keras
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
    tf.get_logger().addFilter(_says_something)
    keras.utils.clear_session()
    _forget_gradients()
    keras.config.set_dtype_policy(precision)
    keras.utils.set_random_seed(seed)
    if threads is not None:
        # RuntimeError: an earlier job in this process has started TensorFlow's thread pools; they cannot be changed.
        with contextlib.suppress(RuntimeError):
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
    if deterministic and gpus:
        # On a CPU the operations used here are deterministic anyway, and this switch would make tf.data decode
        # one image at a time.
        tf.config.experimental.enable_op_determinism()


def _says_something(record: logging.LogRecord) -> bool:
    """Leave out that functions are traced again: every job of a sweep has models of its own."""
    return "triggered tf.function retracing" not in record.getMessage()


def _few_heaps() -> None:
    """Let threads share heaps, as many as there are cores: glibc makes eight a core, each keeping what is freed in it.

    TensorFlow starts new threads every epoch: by the tenth, 150 MB of a run's memory were such remains.
    """
    if platform.libc_ver()[0] == "glibc":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, max(2, os.cpu_count() or 1))


def _forget_gradients() -> None:
    """Let go of the graphs of earlier jobs in this process, which TensorFlow 2.21 keeps for ever.

    Every model that is trained registers gradients of its own under new names, and these hold its graphs and all that
    those refer to, such as features: 15 MB a job of a sweep.
    """
    from tensorflow.python.framework import ops

    registered = getattr(getattr(ops, "gradient_registry", None), "_registry", {})
    for name in [name for name in registered if name.startswith("CustomGradient-")]:
        del registered[name]


def strategy(devices: Literal["one", "all"]) -> tf.distribute.Strategy:
    """Give the strategy that models are built under: the default device, or all visible GPUs."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy() if devices == "all" else tf.distribute.get_strategy()


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Import TensorFlow in the block without what its libraries print while they load, unless the import fails."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if "tensorflow" in sys.modules:
        yield
        return
    with quiet(), uncollected():
        yield


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Import in the block what stays for good: the garbage collector neither looks for any there nor ever after.

    A second of the six that TensorFlow's import takes, and some of each collection later.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what C++ libraries write to the process's standard error off the screen, unless the block fails.

    For lines that come before, or beside, any logging that could be told to be silent.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as swallowed:
        os.dup2(swallowed.fileno(), 2)
        try:
            yield
        except BaseException:
            swallowed.seek(0)
            os.write(saved, swallowed.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
