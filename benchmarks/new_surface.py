"""Effect of adaptation without labels on a new surface: one JSON line."""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import measure
import numpy as np
import tiles

PREVALENCES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
_MOST_TILES = 1500  # of a sample with a given share of cracks
_LEAST_CRACKED = 2

Score = Callable[[np.ndarray], np.ndarray]  # from features to log odds relative to the threshold


@dataclass(frozen=True)
class Surface:
    """Tiles of a surface.

    Attributes:
        features: float32 [n, width].
        cracked: bool [n].
        photos: Photo of each tile, [n].
        views: Returns the features of tiles in other orientations, float32 [views, tiles, width].
    """

    features: np.ndarray
    cracked: np.ndarray
    photos: np.ndarray
    views: Callable[[np.ndarray], np.ndarray]


def main() -> None:
    """Cut, compute features, measure and print."""
    settings = parse(__doc__, 6, "number of samples of tiles for each share of cracks")
    with measure.workplace() as place:
        parts, surface, counts = cut(settings, place)
        kernel, bias = parts.dense
        as_it_is = figures(surface, scores(parts, kernel, bias))
        result = {"tiles": counts, "as_it_is": as_it_is}
        result |= {"adapted": adapted(parts, surface, as_it_is, settings.draws)}
        measure.report(result | measure.machine())


def parse(description: str | None, draws: int, meaning: str) -> argparse.Namespace:
    """Return the options of a benchmark on tiles; `meaning` says what is drawn `draws` times."""
    parser = measure.parser(description)
    parser.add_argument("--run", required=True, help="run directory of a trained model with a threshold")
    parser.add_argument("--size", type=int, default=128, help="side of a tile in pixels")
    parser.add_argument("--pixels", type=int, default=16, help="least number of crack pixels of a cracked tile")
    parser.add_argument("--draws", type=int, default=draws, help=meaning)
    return parser.parse_args()


def cut(settings: argparse.Namespace, place: Path) -> tuple[Any, Surface, Any]:
    """Cut the photos into a folder below `place`; return the model, the tiles with their features, and their counts."""
    from hairline import tracking
    from hairline.model import saved

    folder = place / "tiles"
    counts = tiles.cut(settings.images / "images", settings.images / "masks", folder, settings.size, settings.pixels)
    measure.say(f"{counts}")
    parts = saved.Parts(tracking.find(settings.run))
    return parts, compute_features(parts, sorted(folder.rglob("*.png"))), counts


def compute_features(parts: Any, paths: list[Path]) -> Surface:
    """Compute the features of tiles."""
    from hairline.data import augmentation
    from hairline.model.features import compute

    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    photos = [re.search(tiles.PHOTO_PATTERN, str(path))[1] for path in paths]  # type: ignore[index]
    numbers = augmentation.orientations(len(parts.bundle.class_names), parts.bundle.positive)

    def features(rows: np.ndarray, view: int = 0) -> np.ndarray:
        names, keys = [str(paths[row]) for row in rows], [digests[row] for row in rows]
        recipe = replace(parts.recipe("auto"), view=view)
        return compute(names, keys, recipe, lambda: parts.backbone).read()

    return Surface(
        features(np.arange(len(paths))),
        np.array([path.parent.name == "cracked" for path in paths]),
        np.array(photos),
        lambda rows: np.stack([features(rows, view) for view in numbers]),
    )


def scores(parts: Any, kernel: np.ndarray, bias: np.ndarray, threshold: float | None = None) -> Score:
    """Return a function for the log odds of a crack relative to a threshold; default: the model's own."""
    threshold = parts.bundle.threshold if threshold is None else threshold
    positive = parts.bundle.class_names.index(parts.bundle.positive_class)
    least = np.log(threshold / (1 - threshold))

    def score(features: np.ndarray) -> np.ndarray:
        logits = features @ kernel + bias
        return logits[:, positive] - logits[:, 1 - positive] - least

    return score


def figures(surface: Surface, score: Score, rows: np.ndarray | slice = slice(None)) -> dict[str, float]:
    """Return AUROC and balanced accuracy of some tiles."""
    from sklearn.metrics import roc_auc_score

    truth, above = surface.cracked[rows], score(surface.features[rows])
    balanced = ((above[truth] >= 0).mean() + (above[~truth] < 0).mean()) / 2
    return {"auroc": round(roc_auc_score(truth, above), 4), "balanced_accuracy": round(float(balanced), 4)}


def adapted(parts: Any, surface: Surface, before: dict[str, float], draws: int) -> dict[str, Any]:
    """Return the change of balanced accuracy by adaptation, for each share of cracks in the sample adapted to.

    It is measured on all tiles, because a sample with few cracks says little about recall.
    """

    def change(layer: Any) -> float:
        after = figures(surface, scores(parts, layer.kernel, layer.bias))
        return after["balanced_accuracy"] - before["balanced_accuracy"]

    everything = parts.adapted(surface.features)
    means = {}
    for share in PREVALENCES:
        samples = [sample(surface, share, np.random.default_rng(seed)) for seed in range(draws)]
        changes = [change(parts.adapted(surface.features[rows])) for rows in samples]
        means[f"{share:g}"] = round(float(np.mean(changes)), 4)
    whole = {"distance": round(everything.distance, 3), "all": round(change(everything), 4)}
    return whole | means | {"worst": min(means.values())}


def sample(surface: Surface, share: float, random: np.random.Generator) -> np.ndarray:
    """Draw the largest sample of tiles with a given share of cracks."""
    cracked, sound = (random.permutation(np.flatnonzero(surface.cracked == value)) for value in (True, False))
    total = int(min(len(cracked) / share, len(sound) / (1 - share), _MOST_TILES))
    positives = max(_LEAST_CRACKED, round(total * share))
    return np.concatenate([cracked[:positives], sound[: total - positives]])


if __name__ == "__main__":
    main()
