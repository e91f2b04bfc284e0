"""Size of each backbone and its time per image in turns with MobileNetV2: one JSON line per backbone.

Random weights: size and speed do not depend on them. Each is timed between two passes of MobileNetV2, so that other
work on the machine slows both; the ratio is the median over the turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import measure
import numpy as np

REFERENCE = "mobilenetv2"


def main() -> None:
    """Measure and print."""
    from hairline.model.backbones import BACKBONES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), help="names of conf/model")
    parser.add_argument("--image-size", type=int, default=160, help="input side in pixels")
    parser.add_argument("--images", type=int, default=32, help="number of images of a pass")
    parser.add_argument("--turns", type=int, default=7, help="number of passes of each network")
    settings = parser.parse_args()
    pixels = np.random.default_rng(0).integers(0, 256, (settings.images, *2 * [settings.image_size], 3), np.uint8)
    with measure.workplace():
        reference, _ = prepared(REFERENCE, pixels)
        for name in settings.backbones:
            infer, megabytes = prepared(name, pixels)
            times = [(seconds(reference), seconds(infer), seconds(reference)) for _ in range(settings.turns)]
            measure.report(
                {
                    "backbone": name,
                    "image_size": settings.image_size,
                    "file_mb": megabytes,
                    f"times_{REFERENCE}": statistics.median(2 * own / (one + other) for one, own, other in times),
                    "milliseconds_per_image": 1000 * min(own for _, own, _ in times) / settings.images,
                    f"milliseconds_per_image_{REFERENCE}": 1000 * min(one for one, *_ in times) / settings.images,
                    **measure.machine(),
                }
            )


def prepared(name: str, pixels: np.ndarray) -> tuple[Callable[[], None], float]:
    """Return a function that runs a network over all images, and the size of its file in MB."""
    from hairline.model import backbones, engine, features
    from hairline.system import tensorflow

    size = pixels.shape[1]
    tensorflow.prepare(precision="float32", threads=None, deterministic=False, seed=0)
    key = features.Recipe(name, backbones.identify(None, 0), size, "litert").model_key()
    run = engine.prepare_engine(
        "litert", lambda: backbones.build(name, image_size=size, weights=None), key, image_size=size
    )

    def infer() -> None:
        for _ in run(lambda row: pixels[row], len(pixels)):
            pass

    infer()
    return infer, engine.converted_file(key).stat().st_size / 1e6


def seconds(work: Callable[[], None]) -> float:
    """Return the seconds of a call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
