"""Learning curves of labelling sessions in which crack masks answer instead of a person: one JSON line.

Labels come from half of the photos, all figures from the other half; every number is a mean over draws of the halves. A
fifth of the labels goes to randomly chosen tiles, which are never fitted, as in a session.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import numpy as np
import tiles
from new_surface import Surface, figures

CHECKPOINTS = (6, 10, 20, 35, 50, 75, 100, 150, 200)
_SIDES = 8  # tiles along the longer side of a photo, if no size is given
Curve = dict[int, dict[str, float]]  # figures for each number of labels
Choose = Callable[[np.ndarray, np.ndarray, np.ndarray], int]  # from logits, free tiles, selected tiles to a tile


def main() -> None:
    """Compute the features once, simulate the sessions, print the curves."""
    parser = measure.parser(__doc__)
    parser.add_argument("--run", required=True, help="run directory of a trained model with two classes")
    parser.add_argument("--size", type=int, default=0, help="side of a tile in pixels; 0: an eighth of a photo's side")
    parser.add_argument("--pixels", type=int, default=16, help="least number of crack pixels of a cracked tile")
    parser.add_argument("--draws", type=int, default=3, help="number of draws of the photos that are labelled")
    parser.add_argument("--first", type=int, default=0, help="number of the first draw, to judge on others")
    parser.add_argument("--every", type=int, default=5, help="labels between two fits; a session fits after each")
    parser.add_argument("--rules", nargs="+", default=["random", "uncertain", "ours"], help="orders to compare")
    parser.add_argument("--cache", type=Path, help="folder that keeps the features for the next time")
    settings = parser.parse_args()
    with measure.workplace(settings.cache):
        from hairline import tracking
        from hairline.labelling.label import base_layer
        from hairline.model import saved

        parts = saved.Parts(tracking.find(settings.run))
        if parts.bundle.positive is None or len(parts.bundle.class_names) != 2:
            sys.exit(f"--run {settings.run}: expected a model of two classes, one of them for cracks")
        surface, side = read_surface(parts, settings.images, settings.size, settings.pixels)
        measure.say(f"{len(surface.cracked)} tiles of {side} pixels, {int(surface.cracked.sum())} of them cracked")
        base = base_layer(parts)
        result: dict[str, Any] = {"tiles": len(surface.cracked), "cracked": int(surface.cracked.sum()), "size": side}
        draws = range(settings.first, settings.first + settings.draws)
        curves: dict[str, list[Curve]] = {}
        for rule in settings.rules:
            curves[rule] = [simulate(surface, base, rule, seed, settings.every) for seed in draws]
            result[rule] = summary(curves[rule], curves.get("random"))
            print_curve(rule, result[rule])
        measure.report(result | measure.machine())


def read_surface(parts: Any, folder: Path, size: int, pixels: int) -> tuple[Surface, int]:
    """Return the tiles of all photos with masks, without ambiguous ones, and their side in pixels."""
    from PIL import Image

    from hairline.data import augmentation
    from hairline.labelling import pool as pools
    from hairline.labelling.orientations import Orientations

    pairs = tiles.pairs(folder / "images", folder / "masks")
    if not size:
        with Image.open(pairs[0][0]) as photo:
            size = max(photo.size) // _SIDES
    recipe = parts.recipe("auto")
    found, _ = pools.compute([photo for photo, _ in pairs], recipe, lambda: parts.backbone, tile_px=size)
    masks = {str(photo.absolute()): mask for photo, mask in pairs}
    cracked, clear = np.zeros(len(found), bool), np.zeros(len(found), bool)
    for number, photo in enumerate(found.photos):
        rows = np.flatnonzero(found.photo == number)
        cracked[rows], clear[rows] = tiles.cracked(tiles.cracks(masks[photo]), found.boxes[rows], pixels)
    numbers = augmentation.orientations(len(parts.bundle.class_names), parts.bundle.positive)
    oriented = Orientations(found, recipe, lambda: parts.backbone, numbers)
    tile = np.flatnonzero(clear)
    views = lambda rows: oriented.features(tile[rows])  # noqa: E731
    return Surface(found.features[clear], cracked[clear], found.photo[clear], views), size


def simulate(surface: Surface, base: Any, rule: str, seed: int, every: int) -> Curve:
    """Label tiles of half of the photos by a rule; return figures on the other half for each number of labels.

    `estimate`, `low` and `high` are what the page shows, from the labels alone; `balanced_accuracy` is the truth.
    """
    from hairline.labelling import learner
    from hairline.labelling.estimate import estimate
    from hairline.labelling.selection import RANDOM_EVERY, random_order

    generator = np.random.default_rng(seed)
    names = generator.permutation(np.unique(surface.photos))
    inside = np.isin(surface.photos, names[: len(names) // 2])
    pool, others = np.flatnonzero(inside), np.flatnonzero(~inside)
    features, photos = surface.features[pool], surface.photos[pool]
    classes = np.where(surface.cracked[pool], base.positive, 1 - base.positive)
    random = random_order(len(pool), seed)
    choose = chooser(rule, features, photos, base, generator)
    layer, logits = base, base.logits(features)
    curve = {0: judge(base, surface, others)}
    selected: list[int] = []
    asked: list[int] = []
    for count in range(1, CHECKPOINTS[-1] + 1):
        if (count - 1) % RANDOM_EVERY == 0 and len(asked) < len(random):
            asked.append(int(random[len(asked)]))
        else:
            free = np.setdiff1d(np.arange(len(pool)), [*random, *selected])
            selected.append(choose(logits, free, np.array(selected, np.int64)))
        if count in CHECKPOINTS or count % every == 0:
            rows = np.array(selected, np.int64)
            layer, held_out = learner.fit(
                base,
                features,
                rows,
                classes[rows],
                photos[rows].tolist(),
                seed=seed,
                views=lambda rows: surface.views(pool[rows]),
            )
            logits = layer.logits(features)
        if count in CHECKPOINTS:
            rows = np.array([*selected, *asked], np.int64)
            honest = np.concatenate([held_out, logits[asked]])
            found = estimate(honest, classes[rows], photos[rows], logits, photos, seed=seed)
            curve[count] = judge(layer, surface, others) | {"cracked": float(surface.cracked[pool][rows].mean())}
            if found is not None:
                curve[count] |= {"estimate": found.value, "low": found.low, "high": found.high}
    return curve


def chooser(rule: str, features: np.ndarray, photos: np.ndarray, base: Any, generator: np.random.Generator) -> Choose:
    """Return a rule's function: `random` order, least certain first (`uncertain`), or the session's own (`ours`)."""
    from hairline.labelling.selection import Selector

    if rule == "random":
        return lambda logits, free, selected: int(generator.choice(free))
    if rule == "uncertain":
        return lambda logits, free, selected: int(free[np.argmin(np.abs(logits[free, 0] - logits[free, 1]))])
    if rule != "ours":
        sys.exit(f"--rules {rule}: expected random, uncertain or ours")
    selector = Selector(features, photos, mean=base.mean, deviation=base.deviation)
    return lambda logits, free, selected: selector.next(logits, free, selected, base.positive)


def judge(layer: Any, surface: Surface, rows: np.ndarray) -> dict[str, float]:
    """Return balanced accuracy at the layer's threshold, and AUROC, of some tiles."""
    other = 1 - layer.positive
    return figures(surface, lambda features: np.diff(layer.logits(features)[:, [other, layer.positive]])[:, 0], rows)


def summary(curves: list[Curve], random: list[Curve] | None) -> dict[str, dict[str, float]]:
    """Return means over draws for each number of labels, and how good the page's estimates were.

    `gain` is the balanced accuracy less that in random order, if that was simulated before; `gain_error` is the
    standard error of its mean over the draws.
    """
    result: dict[str, dict[str, float]] = {}
    for count in (0, *CHECKPOINTS):
        points = [curve[count] for curve in curves]
        row = {key: float(np.mean([point[key] for point in points])) for key in ("balanced_accuracy", "auroc")}
        shown = [point for point in points if "estimate" in point]
        if shown:
            row["estimate"] = float(np.mean([point["estimate"] for point in shown]))
            row["inside"] = float(
                np.mean([point["low"] <= point["balanced_accuracy"] <= point["high"] for point in shown])
            )
            row["widest"] = float(max(point["high"] - point["low"] for point in shown))
        if random is not None and random is not curves and len(curves) > 1:
            gains = [
                point["balanced_accuracy"] - curve[count]["balanced_accuracy"]
                for point, curve in zip(points, random, strict=True)
            ]
            row["gain"] = float(np.mean(gains))
            row["gain_error"] = float(np.std(gains, ddof=1) / np.sqrt(len(gains)))
        result[str(count)] = row
    return result


def print_curve(rule: str, curve: dict[str, dict[str, float]]) -> None:
    """Print one curve for readers."""
    for count, row in curve.items():
        line = (
            f"{rule:10} {count:>4} labels  balanced accuracy {row['balanced_accuracy']:.3f}  AUROC {row['auroc']:.3f}"
        )
        if "estimate" in row:
            line += f"  estimate {row['estimate']:.3f}, truth inside {row['inside']:.0%}, widest {row['widest']:.2f}"
        if "gain" in row:
            line += f"  over random order {row['gain']:+.3f}, standard error {row['gain_error']:.3f}"
        measure.say(line)


if __name__ == "__main__":
    main()
