"""Benefit and cost of fixed and fresh views of the training images, over several seeds: one JSON line.

Each seed has its own images, split and training order, which the choices share: they are compared seed by seed. Only
the converted backbone is cached, so the seconds are the full cost of each choice.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import measure

# K views are K times as many training steps per epoch. `none_long` has the steps of views_8 without augmentation, to
# separate the effect of longer training.
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
    """Run a sweep over the seeds for each choice, and print the metrics."""
    parser = measure.parser(__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0")
    parser.add_argument("--limit", type=int, default=2000, help="images per run")
    parser.add_argument("--epochs", type=int, default=10, help="epochs per run")
    parser.add_argument("--only", nargs="+", choices=CHOICES, metavar="CHOICE", help="run only these choices")
    settings = parser.parse_args()
    with measure.workplace() as place:
        measure.report(compare(settings, place))


def compare(settings: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Run all choices and return their metrics."""
    common = ["report.level=light", "tracking=none", "features.keep=false", f"data.limit={settings.limit}"]
    measure.train(settings.images, [*common, "epochs=1"], place / "converted")
    seeds = ",".join(str(seed) for seed in range(settings.seeds))
    runs_by_choice: dict[str, list[dict[str, float]]] = {}
    for name, overrides in CHOICES.items():
        if name in (settings.only or CHOICES):
            sweep = place / name
            epochs = settings.epochs * (8 if name == "none_long" else 1)
            job = [*common, *overrides, f"epochs={epochs}"]
            measure.train(settings.images, ["-m", f"seed={seeds}", *job], sweep)
            runs_by_choice[name] = [measure.results(sweep / str(job)) for job in range(settings.seeds)]
    result: dict[str, Any] = {"seeds": settings.seeds, "epochs": settings.epochs}
    for name, runs in runs_by_choice.items():
        result.setdefault("images", measure.images_of(runs[0]))
        result[name] = {figure: spread([run[figure] for run in runs]) for figure in FIGURES}
        result[name]["seconds"] = spread([run["seconds_features"] + run["seconds_head"] for run in runs])
        if name != "none" and "none" in runs_by_choice:
            pairs = list(zip(runs, runs_by_choice["none"], strict=True))
            result[name] |= {
                f"{figure}_less_none": spread([run[figure] - plain[figure] for run, plain in pairs])
                for figure in FIGURES
            }
    return result | measure.machine()


def spread(values: list[float]) -> dict[str, float]:
    """Return mean and standard deviation; the deviation of a single value is 0."""
    return {"mean": statistics.mean(values), "sd": statistics.stdev(values) if len(values) > 1 else 0.0}


if __name__ == "__main__":
    main()
