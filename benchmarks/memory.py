"""Peak memory of a cold `train.py` run with its full report, on fewer and on more images: one JSON line."""

from __future__ import annotations

import statistics
from typing import Any

import measure


def main() -> None:
    """Run on both numbers of images, each time from an empty cache, and print the peaks."""
    line = measure.parser(__doc__)
    line.add_argument("--small", type=int, default=3000, help="images of the smaller run")
    line.add_argument("--large", type=int, default=12000, help="images of the larger run, or all there are if fewer")
    line.add_argument("--epochs", type=int, default=10, help="epochs of both")
    line.add_argument("--repeats", type=int, default=3, help="runs of each; the median counts")
    settings = line.parse_args()
    with measure.workplace() as place:
        large = min(settings.large, measure.listed(settings.images))
        if large <= settings.small:
            line.error(f"{settings.images} has {large} images: more than --small {settings.small} are needed")
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
