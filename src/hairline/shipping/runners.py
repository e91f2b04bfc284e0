"""Exported models in their own runtimes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hairline.system import tensorflow

Predictor = Callable[[np.ndarray], np.ndarray]


def load(name: str, path: Path, threads: int | None = None) -> Predictor:
    """Load an exported model.

    Args:
        name: Key of `formats.FORMATS`.
        path: The exported file or folder.
        threads: CPU threads; None for all cores. TensorFlow uses those that the process was started with.

    Returns:
        A function from uint8 [batch, height, width, 3] RGB to float32 [batch, classes].
    """
    if name == "onnx":
        return _load_onnx(path, threads or os.cpu_count() or 1)
    if name == "saved_model":
        return _load_saved_model(path)
    if name == "keras":
        return _load_keras(path)
    return _load_litert(path, threads or os.cpu_count() or 1)


def _load_litert(path: Path, threads: int) -> Predictor:
    from ai_edge_litert.interpreter import Interpreter

    with tensorflow.quiet():
        interpreter = Interpreter(str(path), num_threads=threads)
        interpreter.allocate_tensors()
        run = interpreter.get_signature_runner()
    # A copy: the next call overwrites the runtime's memory.
    return lambda pixels: np.array(run(images=pixels)["probabilities"])


def _load_onnx(path: Path, threads: int) -> Predictor:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(["probabilities"], {"images": pixels})[0]


def _load_saved_model(path: Path) -> Predictor:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))

    def predict(pixels: np.ndarray) -> np.ndarray:
        # Through `loaded`: a signature holds its variables by weak references only.
        outputs = loaded.signatures["serving_default"](images=tf.constant(pixels))
        return np.asarray(outputs["probabilities"])

    return predict


def _load_keras(path: Path) -> Predictor:
    import keras

    model = keras.models.load_model(path, compile=False, safe_mode=True)
    return lambda pixels: np.asarray(model.predict_on_batch(pixels))
