"""What a model trained on METU's patches makes of surfaces it never saw: AUROC and balanced accuracy: one JSON line.

Each surface's figures are those of the setting that was chosen without it: by METU's validation images and the other
surface. Nothing is trained on DeepCrack or UAV75.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure
import tiles

EVALUATE = Path(__file__).resolve().parents[1] / "evaluate.py"
# Side of a tile, and crack pixels from which on it is cracked; fewer, but some, and it is left out.
SURFACES = {"deepcrack": (128, 16), "uav75": (64, 16)}
# What is chosen from: an experiment, and settings of `train.py` beside those that all share.
_EXPERIMENT = "unseen_surfaces"
CANDIDATES: dict[str, tuple[str, list[str]]] = {
    "last layer, by epochs": ("recipe", []),
    "two taps, head solved": (_EXPERIMENT, ["data.mix=0", "data.crops=0"]),
    "the same, drawn images": (_EXPERIMENT, ["data.crops=0"]),
    "the same, drawn images and crops": (_EXPERIMENT, []),
}
SHARED = ["split.group_by=block", "report.level=full", "tracking=none", "probe=false"]
# Validation accuracy that a choice may cost on METU itself, below the best setting's.
ALLOWED_LOSS = 0.003
AUROC, BALANCED = "test_auroc", "test_balanced_accuracy_at_threshold"


@dataclass(frozen=True)
class Result:
    """What one setting gave.

    Attributes:
        validation: Accuracy on METU's validation part.
        metu: Metrics of METU's test part.
        surfaces: Metrics of each surface's tiles.
    """

    validation: float
    metu: dict[str, Any]
    surfaces: dict[str, dict[str, Any]]


def main() -> None:
    """Cut, train, evaluate, choose and print."""
    line = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    line.add_argument("--metu", type=Path, required=True, help="folder with Negative/ and Positive/")
    for name, (side, _) in SURFACES.items():
        text = f"folder with images/ and masks/ of one name each; cut into tiles of {side} pixels"
        line.add_argument(f"--{name}", type=Path, required=True, help=text)
    line.add_argument("--seed", type=int, default=0, help="of split and training (default: 0)")
    chosen = line.parse_args()
    if not chosen.metu.is_dir():
        raise SystemExit(f"{chosen.metu}: no such folder; expected METU's patches in Negative/ and Positive/")
    with measure.workplace() as place:
        counts = {}
        for name, (side, pixels) in SURFACES.items():
            photos = getattr(chosen, name)
            counts[name] = tiles.cut(photos / "images", photos / "masks", place / name, side, pixels)
            measure.say(f"{name}: {counts[name]}")
        results = {}
        for number, (name, (experiment, settings)) in enumerate(CANDIDATES.items(), start=1):
            measure.say(f"setting {number} of {len(CANDIDATES)}: {name}")
            directory = place / f"run{number}"
            measure.train(chosen.metu, [*SHARED, f"seed={chosen.seed}", *settings], directory, experiment=experiment)
            results[name] = measured(directory, place)
        measure.report(summary(results) | {"tiles": counts, **measure.machine()})


def measured(run: Path, place: Path) -> Result:
    """Evaluate a run on the tiles by `evaluate.py`, at its stored threshold; intervals are over photos."""
    paths = ",".join(str(place / name) for name in SURFACES)
    settings = [f"run='{run}'", "data=folder", f"data.path={paths}", "tracking=none", "hydra.sweep.dir=."]
    grouping = ["split.group_by=regex", f"split.pattern='{tiles.PHOTO_PATTERN}'"]
    names = ["data.class_map={cracked: Positive, uncracked: Negative}"]
    directory = run / "surfaces"
    measure.run([sys.executable, str(EVALUATE), "-m", *settings, *grouping, *names], directory)
    surfaces = {name: measure.results(directory / str(number)) for number, name in enumerate(SURFACES)}
    found = measure.results(run)
    return Result(found["val_accuracy"], found, surfaces)


def choose(results: dict[str, Result], without: str) -> str:
    """Choose a setting by METU's validation images and all surfaces but one.

    Args:
        results: Of each setting.
        without: The surface that is not looked at.

    Returns:
        Of the settings that the other surfaces cannot tell from the best one, the best on METU's validation images.
        They cannot where AUROC and balanced accuracy lie within the best one's intervals; the best one is that with
        the highest sum of the two, and loses at most `ALLOWED_LOSS` on METU's validation images.
    """
    most = max(result.validation for result in results.values())
    others = [surface for surface in SURFACES if surface != without]

    def merit(result: Result) -> float:
        return sum(result.surfaces[surface][key] for surface in others for key in (AUROC, BALANCED))

    best = max((found for found in results.values() if found.validation >= most - ALLOWED_LOSS), key=merit)

    def rivals(result: Result) -> bool:
        return all(
            result.surfaces[surface][key] >= best.surfaces[surface][f"{key}_interval_low"]
            for surface in others
            for key in (AUROC, BALANCED)
        )

    return max((name for name, found in results.items() if rivals(found)), key=lambda name: results[name].validation)


def summary(results: dict[str, Result]) -> dict[str, Any]:
    """Give the figures of each surface by the setting chosen without it, and all settings' own.

    METU's accuracy is that of the worse of the settings chosen: it must hold for both.
    """
    chosen = {surface: choose(results, surface) for surface in SURFACES}
    worst = min(set(chosen.values()), key=lambda name: results[name].metu["test_accuracy"])
    line: dict[str, Any] = {"metu_accuracy": interval(results[worst].metu, "test_accuracy")}
    for surface in ("uav75", "deepcrack"):
        found = results[chosen[surface]].surfaces[surface]
        line[f"{surface}_auroc"] = interval(found, AUROC)
        line[f"{surface}_balanced_accuracy"] = interval(found, BALANCED)
        line |= {f"{surface}_recall": interval(found, "test_recall_at_threshold")}
        line |= {f"{surface}_specificity": interval(found, "test_specificity_at_threshold")}
    settings = {
        name: {"metu_validation": found.validation, "metu_test": found.metu["test_accuracy"]}
        | {f"{surface}_{key.removeprefix('test_')}": told[key] for surface, told in found.surfaces.items()
           for key in (AUROC, BALANCED)}
        for name, found in results.items()
    }  # fmt: skip
    return line | {"chosen_without": chosen, "settings": settings}


def interval(found: dict[str, Any], key: str) -> dict[str, float]:
    """Give a metric with the ends of its 95 % interval."""
    return {"value": found[key], "low": found[f"{key}_interval_low"], "high": found[f"{key}_interval_high"]}


if __name__ == "__main__":
    main()
