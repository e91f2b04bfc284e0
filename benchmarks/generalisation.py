"""AUROC and balanced accuracy of models trained on METU on two other surfaces, DeepCrack and UAV75: one JSON line.

The setting for each surface is chosen without it: by METU's validation images and the other surface. No model is
trained on DeepCrack or UAV75.
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
# Side of a tile in pixels, and least number of crack pixels of a cracked tile; ambiguous tiles are left out.
SURFACES = {"deepcrack": (128, 16), "uav75": (64, 16)}
# Settings to choose from: an experiment, and overrides in addition to those that all share.
_EXPERIMENT = "unseen_surfaces"
CANDIDATES: dict[str, tuple[str, list[str]]] = {
    "last layer, by epochs": ("recipe_plain", []),
    "two taps, head solved": (_EXPERIMENT, ["data.mix=0", "data.crops=0"]),
    "the same, drawn images": (_EXPERIMENT, ["data.crops=0"]),
    "the same, drawn images and crops": (_EXPERIMENT, []),
}
SHARED = ["split.group_by=block", "report.level=full", "tracking=none", "probe=false"]
# Largest loss of validation accuracy on METU, compared with the best setting.
ALLOWED_LOSS = 0.003
AUROC, BALANCED = "test_auroc", "test_balanced_accuracy_at_threshold"


@dataclass(frozen=True)
class Result:
    """Results of one setting.

    Attributes:
        validation: Accuracy on METU's validation split.
        metu: Metrics of METU's test split.
        surfaces: Metrics of each surface's tiles.
    """

    validation: float
    metu: dict[str, Any]
    surfaces: dict[str, dict[str, Any]]


def main() -> None:
    """Cut, train, evaluate, choose and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metu", type=Path, required=True, help="folder with Negative/ and Positive/")
    for name, (side, _) in SURFACES.items():
        text = f"folder with images/ and masks/ of one name each; cut into tiles of {side} pixels"
        parser.add_argument(f"--{name}", type=Path, required=True, help=text)
    parser.add_argument("--seed", type=int, default=0, help="of split and training (default: 0)")
    settings = parser.parse_args()
    if not settings.metu.is_dir():
        raise SystemExit(f"{settings.metu}: no such folder; expected METU's patches in Negative/ and Positive/")
    with measure.workplace() as place:
        counts = {}
        for name, (side, pixels) in SURFACES.items():
            photos = getattr(settings, name)
            counts[name] = tiles.cut(photos / "images", photos / "masks", place / name, side, pixels)
            measure.say(f"{name}: {counts[name]}")
        results = {}
        for number, (name, (experiment, overrides)) in enumerate(CANDIDATES.items(), start=1):
            measure.say(f"setting {number} of {len(CANDIDATES)}: {name}")
            directory = place / f"run{number}"
            measure.train(
                settings.metu, [*SHARED, f"seed={settings.seed}", *overrides], directory, experiment=experiment
            )
            results[name] = evaluate(directory, place)
        measure.report(summary(results) | {"tiles": counts, **measure.machine()})


def evaluate(run: Path, place: Path) -> Result:
    """Evaluate a run on the tiles with `evaluate.py`, at its stored threshold; intervals are over photos."""
    paths = ",".join(str(place / name) for name in SURFACES)
    settings = [f"run='{run}'", "data=folder", f"data.path={paths}", "tracking=none", "hydra.sweep.dir=."]
    grouping = ["split.group_by=regex", f"split.pattern='{tiles.PHOTO_PATTERN}'"]
    names = ["data.class_map={cracked: Positive, uncracked: Negative}"]
    directory = run / "surfaces"
    measure.run([sys.executable, str(EVALUATE), "-m", *settings, *grouping, *names], directory)
    surfaces = {name: measure.results(directory / str(number)) for number, name in enumerate(SURFACES)}
    metrics = measure.results(run)
    return Result(metrics["val_accuracy"], metrics, surfaces)


def choose(results: dict[str, Result], without: str) -> str:
    """Choose a setting by METU's validation images and all surfaces except one.

    Args:
        results: Result of each setting.
        without: The surface to ignore.

    Returns:
        The best setting on METU's validation images among those that are not worse than the leader on the other
        surfaces. The leader has the highest sum of AUROC and balanced accuracy, with a loss of at most `ALLOWED_LOSS`
        on METU. A setting is not worse if both metrics reach the lower ends of the leader's intervals.
    """
    most = max(result.validation for result in results.values())
    others = [surface for surface in SURFACES if surface != without]

    def merit(result: Result) -> float:
        return sum(result.surfaces[surface][key] for surface in others for key in (AUROC, BALANCED))

    best = max((result for result in results.values() if result.validation >= most - ALLOWED_LOSS), key=merit)

    def rivals(result: Result) -> bool:
        return all(
            result.surfaces[surface][key] >= best.surfaces[surface][f"{key}_interval_low"]
            for surface in others
            for key in (AUROC, BALANCED)
        )

    return max((name for name, result in results.items() if rivals(result)), key=lambda name: results[name].validation)


def summary(results: dict[str, Result]) -> dict[str, Any]:
    """Return the figures of each surface with the setting chosen without it, and the results of all settings.

    METU's accuracy is the lower one of the chosen settings.
    """
    chosen = {surface: choose(results, surface) for surface in SURFACES}
    worst = min(set(chosen.values()), key=lambda name: results[name].metu["test_accuracy"])
    figures: dict[str, Any] = {"metu_accuracy": interval(results[worst].metu, "test_accuracy")}
    for surface in ("uav75", "deepcrack"):
        metrics = results[chosen[surface]].surfaces[surface]
        figures[f"{surface}_auroc"] = interval(metrics, AUROC)
        figures[f"{surface}_balanced_accuracy"] = interval(metrics, BALANCED)
        figures |= {f"{surface}_recall": interval(metrics, "test_recall_at_threshold")}
        figures |= {f"{surface}_specificity": interval(metrics, "test_specificity_at_threshold")}
    settings = {
        name: {"metu_validation": result.validation, "metu_test": result.metu["test_accuracy"]}
        | {f"{surface}_{key.removeprefix('test_')}": metrics[key] for surface, metrics in result.surfaces.items()
           for key in (AUROC, BALANCED)}
        for name, result in results.items()
    }  # fmt: skip
    return figures | {"chosen_without": chosen, "settings": settings}


def interval(metrics: dict[str, Any], key: str) -> dict[str, float]:
    """Return a metric with its 95 % interval."""
    return {"value": metrics[key], "low": metrics[f"{key}_interval_low"], "high": metrics[f"{key}_interval_high"]}


if __name__ == "__main__":
    main()
