"""Peak memory of a cold `train.py` run with full report, for two numbers of images: one JSON line."""

from __future__ import annotations

import statistics
from typing import Any

import measure


def main() -> None:
    """Train on both numbers of images, each time with an empty cache, and print the peaks."""
    parser = measure.parser(__doc__)
    parser.add_argument("--small", type=int, default=3000, help="images of the smaller run")
    parser.add_argument("--large", type=int, default=12000, help="images of the larger run, at most all")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of each run")
    parser.add_argument("--repeats", type=int, default=3, help="runs per size; the median is reported")
    settings = parser.parse_args()
    with measure.workplace() as place:
        large = min(settings.large, measure.count_images(settings.images))
        if large <= settings.small:
            parser.error(f"{settings.images} has {large} images: more than --small {settings.small} are needed")
        result: dict[str, Any] = {}
        for name, limit in (("small", settings.small), ("large", large)):
            peaks = []
            for repeat in range(settings.repeats):
                directory, cache = place / f"{name}_{repeat}", place / f"cache_{name}_{repeat}"
                overrides = [f"data.limit={limit}", f"epochs={settings.epochs}"]
                peaks.append(measure.train(settings.images, overrides, directory, cache).peak_mb)
            result[f"{name}_images"] = measure.images_of(measure.results(directory))
            result |= {f"{name}_peak_mb": statistics.median(peaks), f"{name}_peaks_mb": peaks}
    growth = result["large_peak_mb"] - result["small_peak_mb"]
    measure.report(result | {"growth_mb": growth} | measure.machine())


if __name__ == "__main__":
    main()
