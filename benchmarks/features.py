"""Images per second of decoding, of the engine and of both, against this machine's limit: one JSON line.

The limit is the machine's SGEMM rate divided by the network's floating-point operations per image. The network has
random weights: its size and speed do not depend on them.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import measure
import numpy as np

if TYPE_CHECKING:
    import keras

TENSORFLOW_IMAGES = 512  # it is several times slower on a CPU


def main() -> None:
    """Measure and print."""
    parser = measure.parser(__doc__)
    parser.add_argument("--backbone", default="mobilenetv2", help="a name of conf/model")
    parser.add_argument("--image-size", type=int, default=160, help="input side in pixels")
    parser.add_argument("--limit", type=int, default=2000, help="number of images")
    parser.add_argument("--repeats", type=int, default=3, help="number of passes; the fastest is reported")
    settings = parser.parse_args()
    with measure.workplace():
        measure.report(rates(settings.images, settings.backbone, settings.image_size, settings.limit, settings.repeats))


def rates(folder: Any, name: str, size: int, limit: int, repeats: int) -> dict[str, Any]:
    """Return the measured rates."""
    from hairline.data import classes, images, manifest, sources
    from hairline.model import backbones, engine, features
    from hairline.system import tensorflow

    table, _ = manifest.scan(classes.subsample(sources.from_folder(path=str(folder)), limit, 0))
    paths, digests, count = table["path"].tolist(), table["sha256"].tolist(), len(table)
    gemm = [sgemm_gflops()]  # before TensorFlow starts its threads, and again at the end

    tensorflow.prepare(precision="float32", threads=None, deterministic=False, seed=0)
    model = backbones.build(name, image_size=size, weights=None)
    recipe = features.Recipe(name, backbones.identify(None, 0), size, engine.choose_engine("litert"))

    def decoded() -> list[np.ndarray]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(lambda path: images.decode(path, size), paths))

    def infer(kind: Any, number: int) -> None:
        run = engine.prepare_engine(kind, lambda: model, recipe.model_key(), image_size=size)
        for _ in run(lambda row: pixels[row], number):
            pass

    def both() -> None:
        features.compute(paths, digests, recipe, lambda: model, keep=False)

    few = min(count, TENSORFLOW_IMAGES)
    pixels = decoded()
    infer("litert", 1)  # converts the backbone
    infer("tensorflow", few)  # traces the graph
    values = {
        "decode_images_per_second": count / best(decoded, repeats),
        "engine_images_per_second": count / best(lambda: infer("litert", count), repeats),
        # Byte-identical images are computed once.
        "both_images_per_second": len(set(digests)) / best(both, repeats),
        "tensorflow_images_per_second": few / best(lambda: infer("tensorflow", few), repeats),
    }
    gemm.append(sgemm_gflops())
    amount = multiply_adds(model)
    reachable = max(gemm) * 1e9 / (2 * amount)
    return {
        **{"images": count, "backbone": name, "image_size": size, "multiply_adds": amount},
        "file_mb": engine.converted_file(recipe.model_key()).stat().st_size / 1e6,
        "engine_milliseconds_per_image": 1000 / values["engine_images_per_second"],
        **values,
        **{"sgemm_gflops_before": gemm[0], "sgemm_gflops_after": gemm[1], "limit_images_per_second": reachable},
        "fraction_of_limit": values["both_images_per_second"] / reachable,
        **measure.machine(),
    }


def multiply_adds(model: keras.Model) -> int:
    """Return the multiply-adds per image in convolutions and dense layers.

    Each output position of a layer uses every kernel entry once, whatever the strides, groups or depth. One
    multiply-add is two floating-point operations.
    """
    total = 0
    for layer in model.layers:
        if hasattr(layer, "layers"):  # a nested model
            total += multiply_adds(layer)
            continue
        kernels = [getattr(layer, name, None) for name in ("kernel", "depthwise_kernel", "pointwise_kernel")]
        size = sum(math.prod(kernel.shape) for kernel in kernels if kernel is not None)
        if size:
            total += size * math.prod(layer.output.shape[1:-1])
    return total


def sgemm_gflops(side: int = 2048, repeats: int = 8) -> float:
    """Return the rate of NumPy's float32 matrix product in 10^9 operations per second, the best of several."""
    one, two = np.random.default_rng(0).random((2, side, side), np.float32)
    return 2 * side**3 / best(lambda: one @ two, repeats) / 1e9


def best(work: Callable[[], object], repeats: int) -> float:
    """Return the seconds of the fastest of several calls."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


if __name__ == "__main__":
    main()
