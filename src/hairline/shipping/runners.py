"""An exported model run by its own runtime, as it will be in the field."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hairline.system import tensorflow

Predict = Callable[[np.ndarray], np.ndarray]


def load(name: str, path: Path, threads: int | None = None) -> Predict:
    """Open an exported model.

    Args:
        name: A key of `formats.FORMATS`.
        path: Its file or folder.
        threads: CPU threads; None for all cores. TensorFlow takes what the process was started with.

    Returns:
        A function from uint8 [batch, height, width, 3] RGB to float32 [batch, classes].
    """
    return _LOADERS[name](path, threads or os.cpu_count() or 1)


def _load_litert(path: Path, threads: int) -> Predict:
    from ai_edge_litert.interpreter import Interpreter

    with tensorflow.quiet():
        interpreter = Interpreter(str(path), num_threads=threads)
        interpreter.allocate_tensors()
        run = interpreter.get_signature_runner()
    # A copy: the runtime's own memory is overwritten by the next call.
    return lambda pixels: np.array(run(images=pixels)["probabilities"])


def _load_onnx(path: Path, threads: int) -> Predict:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(["probabilities"], {"images": pixels})[0]


def _load_saved_model(path: Path, threads: int) -> Predict:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    run = loaded.signatures["serving_default"]
    # `loaded` stands in the function to stay alive: its variables are only weakly held by the signature.
    return lambda pixels, _=loaded: run(images=tf.constant(pixels))["probabilities"].numpy()


def _load_keras(path: Path, threads: int) -> Predict:
    import keras

    model = keras.models.load_model(path, compile=False, safe_mode=True)
    return lambda pixels: model.predict_on_batch(pixels)


_LOADERS: dict[str, Callable[[Path, int], Predict]] = {
    "litert": _load_litert,
    "litert_int8": _load_litert,
    "onnx": _load_onnx,
    "saved_model": _load_saved_model,
    "keras": _load_keras,
}
