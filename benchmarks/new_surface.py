"""What adapting without labels, and a few labels, do for a model on a surface it never saw: one JSON line."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure
import numpy as np
import tiles

PREVALENCES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
LABELS = (20, 50, 100, 200)
_MOST_TILES = 1500  # a draw of a given share of cracks has
_LEAST_CRACKED = 2

Score = Callable[[np.ndarray], np.ndarray]  # from features to log odds above the threshold


@dataclass(frozen=True)
class Surface:
    """Tiles of a surface.

    Attributes:
        features: float32 [n, width], by the model's network.
        cracked: bool [n].
        photos: Which each was cut from, [n].
    """

    features: np.ndarray
    cracked: np.ndarray
    photos: np.ndarray


def main() -> None:
    """Cut, compute features, measure and print."""
    line = measure.parser(__doc__)
    line.add_argument("--run", required=True, help="run directory of a trained model with a threshold")
    line.add_argument("--size", type=int, default=128, help="pixels a side of a tile")
    line.add_argument("--pixels", type=int, default=16, help="crack pixels from which on a tile is cracked")
    line.add_argument("--draws", type=int, default=6, help="of tiles for a share of cracks, of photos for labels")
    chosen = line.parse_args()
    with measure.workplace() as place:
        from hairline import tracking
        from hairline.model import saved

        folder = place / "tiles"
        counts = tiles.cut(chosen.images / "images", chosen.images / "masks", folder, chosen.size, chosen.pixels)
        measure.say(f"{counts}")
        parts = saved.Parts(tracking.find(chosen.run))
        surface = seen(parts, sorted(folder.rglob("*.png")))
        kernel, bias = parts.dense
        as_it_is = figures(surface, scores(parts, kernel, bias))
        found = {"tiles": counts, "as_it_is": as_it_is}
        found |= {"adapted": adapted(parts, surface, as_it_is, chosen.draws)}
        found |= {"labels": {str(count): labelled(parts, surface, count, chosen.draws) for count in LABELS}}
        measure.report(found | measure.machine())


def seen(parts: Any, paths: list[Path]) -> Surface:
    """Pass tiles through the model's network."""
    from hairline.model.features import compute

    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    features = compute([str(path) for path in paths], digests, parts.recipe("auto"), lambda: parts.backbone).read()
    photos = [re.search(tiles.PHOTO_PATTERN, str(path))[1] for path in paths]  # type: ignore[index]
    return Surface(features, np.array([path.parent.name == "cracked" for path in paths]), np.array(photos))


def scores(parts: Any, kernel: np.ndarray, bias: np.ndarray, threshold: float | None = None) -> Score:
    """Give the log odds of a crack above a threshold; None: the model's own."""
    threshold = parts.bundle.threshold if threshold is None else threshold
    positive = parts.bundle.class_names.index(parts.bundle.positive_class)
    least = np.log(threshold / (1 - threshold))

    def score(features: np.ndarray) -> np.ndarray:
        logits = features @ kernel + bias
        return logits[:, positive] - logits[:, 1 - positive] - least

    return score


def figures(surface: Surface, score: Score, rows: np.ndarray | slice = slice(None)) -> dict[str, float]:
    """Give AUROC and balanced accuracy of some tiles."""
    from hairline.evaluation import metrics

    truth, above = surface.cracked[rows], score(surface.features[rows])
    balanced = ((above[truth] >= 0).mean() + (above[~truth] < 0).mean()) / 2
    return {"auroc": round(metrics.auroc(truth, above), 4), "balanced_accuracy": round(float(balanced), 4)}


def adapted(parts: Any, surface: Surface, before: dict[str, float], draws: int) -> dict[str, Any]:
    """Tell what adapting changes, by the share of cracks among the tiles that are adapted to.

    Told on all tiles, as a draw with few cracks says little about recall.
    """

    def change(made: Any) -> float:
        after = figures(surface, scores(parts, made.kernel, made.bias))
        return after["balanced_accuracy"] - before["balanced_accuracy"]

    everything = parts.adapted(surface.features)
    means = {}
    for share in PREVALENCES:
        samples = [drawn(surface, share, np.random.default_rng(seed)) for seed in range(draws)]
        changes = [change(parts.adapted(surface.features[rows])) for rows in samples]
        means[f"{share:g}"] = round(float(np.mean(changes)), 4)
    whole = {"distance": round(everything.distance, 3), "all": round(change(everything), 4)}
    return whole | means | {"worst": min(means.values())}


def drawn(surface: Surface, share: float, random: np.random.Generator) -> np.ndarray:
    """Draw tiles of which a given share is cracked, as many as there are for it."""
    cracked, sound = (random.permutation(np.flatnonzero(surface.cracked == value)) for value in (True, False))
    total = int(min(len(cracked) / share, len(sound) / (1 - share), _MOST_TILES))
    positives = max(_LEAST_CRACKED, round(total * share))
    return np.concatenate([cracked[:positives], sound[: total - positives]])


def labelled(parts: Any, surface: Surface, count: int, draws: int) -> dict[str, float]:
    """Fit the head anew to labelled tiles of half of the photos, at even odds; told on the other half."""
    from hairline.model import saved
    from hairline.model.logistic import refit

    known = saved.read_statistics(parts.folder)
    names, kernel, bias = np.unique(surface.photos), *parts.dense
    positive = parts.bundle.class_names.index(parts.bundle.positive_class)
    labels = np.where(surface.cracked, positive, 1 - positive)
    found = []
    for seed in range(draws):
        random = np.random.default_rng(seed)
        inside = np.isin(surface.photos, random.permutation(names)[: len(names) // 2])
        halves = [np.flatnonzero(inside & (surface.cracked == value)) for value in (True, False)]
        rows = np.concatenate([random.permutation(half)[: count // 2] for half in halves])
        head = refit(
            surface.features[rows],
            labels[rows],
            surface.photos[rows].tolist(),
            kernel=kernel,
            bias=bias,
            mean=known["mean"],
            deviation=known["deviation"],
            seed=seed,
        )
        others = np.flatnonzero(~inside)
        own = figures(surface, scores(parts, kernel, bias), others)
        found.append(figures(surface, scores(parts, head.kernel, head.bias, threshold=0.5), others))
        found[-1] |= {f"{key}_before": value for key, value in own.items()}
    return {key: round(float(np.mean([row[key] for row in found])), 4) for key in found[0]}


if __name__ == "__main__":
    main()
