"""TensorFlow as a process uses it: quiet import, threads, precision, seeds, devices."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from hairline.system import memory

if TYPE_CHECKING:
    import tensorflow as tf


def prepare(*, precision: str, threads: int | None, deterministic: bool, seed: int) -> None:
    """Import TensorFlow and apply the settings of the whole process.

    Args:
        precision: Keras's global dtype policy.
        threads: CPU threads of TensorFlow; None for all cores.
        deterministic: Whether operations on a GPU give the same bits every time.
        seed: Seed of Python, NumPy and TensorFlow.
    """
    memory.limit_heaps()
    with quiet_import():
        import keras
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
    tf.get_logger().addFilter(_is_not_retracing)
    keras.utils.clear_session()
    _clear_gradient_registry()
    keras.config.set_dtype_policy(precision)
    keras.utils.set_random_seed(seed)
    if threads is not None:
        # RuntimeError: an earlier job of this process has started TensorFlow's thread pools, which are fixed then.
        with contextlib.suppress(RuntimeError):
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
    if deterministic and gpus:
        # Not on a CPU: operations are deterministic there, and this would make tf.data decode images one by one.
        tf.config.experimental.enable_op_determinism()


def _is_not_retracing(record: logging.LogRecord) -> bool:
    """Filter the warning about retraced functions: every job of a sweep has its own models."""
    return "triggered tf.function retracing" not in record.getMessage()


def _clear_gradient_registry() -> None:
    """Release the graphs of earlier jobs in this process: TensorFlow 2.21 keeps 15 MB per trained model forever.

    Every trained model registers its gradients under new names, and these refer to its graphs and features.
    """
    from tensorflow.python.framework import ops

    registry = getattr(getattr(ops, "gradient_registry", None), "_registry", {})
    for name in [name for name in registry if name.startswith("CustomGradient-")]:
        del registry[name]


def strategy(devices: Literal["one", "all"]) -> tf.distribute.Strategy:
    """Return the strategy to build models under: the default device, or all visible GPUs."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy() if devices == "all" else tf.distribute.get_strategy()


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Import TensorFlow in the block; its libraries' output is shown only if the import fails."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if "tensorflow" in sys.modules:
        yield
        return
    with quiet(), uncollected():
        yield


@contextlib.contextmanager
def without_plots() -> Iterator[None]:
    """Import TensorFlow in the block without the packages that Keras imports only for plots, data frames and wrappers.

    It takes 4.5 instead of 8 s (2-core AMD EPYC). For a process that has one thread so far: for any other, the packages
    would be missing meanwhile. They can be imported after the block.
    """
    hidden = [name for name in ("matplotlib", "pandas", "sklearn") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: importing it raises ModuleNotFoundError
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Run imports without garbage collection, and exempt their objects from it: saves 1 s of TensorFlow's 6."""
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
    """Hide what C++ libraries write to standard error, unless the block fails; logging settings do not reach them."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as hidden:
        os.dup2(hidden.fileno(), 2)
        try:
            yield
        except BaseException:
            hidden.seek(0)
            os.write(saved, hidden.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
