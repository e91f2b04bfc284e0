"""What fixed and fresh views of the training images bring and cost, over several seeds: one JSON line.

A seed draws its own images, split and order of training; the choices share them, so that they are compared seed by
seed. Nothing is taken from the cache but the converted backbone: the seconds are what each choice costs by itself.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import measure

# K views are K times as many training steps an epoch; `none_long` takes as many as views_8 without any augmentation,
# so that more training is not taken for better training.
CHOICES = {
    "none": ["augment=none"],
    "none_long": ["augment=none"],
    "views_2": ["augment=light", "augment.views=2"],
    "views_4": ["augment=light", "augment.views=4"],
    "views_8": ["augment=light", "augment.views=8"],
    "fresh": ["augment=light", "augment.mode=fresh"],
}
FIGURES = ("val_accuracy", "val_loss", "test_accuracy", "test_loss")


def main() -> None:
    """Run a sweep over the seeds for each choice, and print the figures."""
    line = measure.parser(__doc__)
    line.add_argument("--seeds", type=int, default=5, help="seeds, from 0")
    line.add_argument("--limit", type=int, default=2000, help="images of a run")
    line.add_argument("--epochs", type=int, default=10, help="epochs of a run")
    line.add_argument("--only", nargs="+", choices=CHOICES, metavar="CHOICE", help="some of the choices only")
    settings = line.parse_args()
    with measure.workplace() as place:
        measure.report(compare(settings, place))


def compare(settings: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Run all choices; gives the JSON line."""
    common = ["report.level=light", "tracking=none", "features.keep=false", f"data.limit={settings.limit}"]
    measure.train(settings.images, [*common, "epochs=1"], place / "converted")
    seeds = ",".join(str(seed) for seed in range(settings.seeds))
    found: dict[str, list[dict[str, float]]] = {}
    for name, overrides in CHOICES.items():
        if name in (settings.only or CHOICES):
            sweep = place / name
            epochs = settings.epochs * (8 if name == "none_long" else 1)
            job = [*common, *overrides, f"epochs={epochs}"]
            measure.train(settings.images, ["-m", f"seed={seeds}", *job], sweep)
            found[name] = [measure.results(sweep / str(job)) for job in range(settings.seeds)]
    result: dict[str, Any] = {"seeds": settings.seeds, "epochs": settings.epochs}
    for name, runs in found.items():
        result.setdefault("images", measure.images_of(runs[0]))
        result[name] = {figure: spread([run[figure] for run in runs]) for figure in FIGURES}
        result[name]["seconds"] = spread([run["seconds_features"] + run["seconds_head"] for run in runs])
        if name != "none" and "none" in found:
            pairs = list(zip(runs, found["none"], strict=True))
            result[name] |= {
                f"{figure}_less_none": spread([run[figure] - plain[figure] for run, plain in pairs])
                for figure in FIGURES
            }
    return result | measure.machine()


def spread(values: list[float]) -> dict[str, float]:
    """Give mean and standard deviation; the deviation of one value is 0."""
    return {"mean": statistics.mean(values), "sd": statistics.stdev(values) if len(values) > 1 else 0.0}


if __name__ == "__main__":
    main()
