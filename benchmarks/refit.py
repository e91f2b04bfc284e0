"""Head refitted to labels of one half of the photos, judged on the other half, for four ways to choose the labels.

For each way and number of labels: balanced accuracy at the threshold of the new run less that of the base, AUROC, and
how many draws kept the base; one JSON line.
"""

from __future__ import annotations

from typing import Any

import measure
import numpy as np
from new_surface import Surface, cut, figures, parse, scores

COUNTS = (6, 20, 50, 100, 200)
RULES = ("random", "least certain", "most certain", "wrong")


def main() -> None:
    """Cut, compute features, refit and print."""
    settings = parse(__doc__, 3, "number of ways to halve the photos")
    with measure.workplace() as place:
        parts, surface, counts = cut(settings, place)
        result: dict[str, Any] = {"tiles": counts, "as_it_is": figures(surface, scores(parts, *parts.dense))}
        for rule in RULES:
            result[rule] = {str(count): refitted(parts, surface, rule, count, settings.draws) for count in COUNTS}
        measure.report(result | measure.machine())


def refitted(parts: Any, surface: Surface, rule: str, count: int, draws: int) -> dict[str, float]:
    """Refit to labels of half of the photos, as many of each class; return means over the draws."""
    from hairline.model import saved
    from hairline.model.logistic import refit

    statistics = saved.read_statistics(parts.folder)
    kernel, bias = parts.dense_at_threshold
    before, photos = scores(parts, *parts.dense), np.unique(surface.photos)
    positive = parts.bundle.class_names.index(parts.bundle.positive_class)
    labels = np.where(surface.cracked, positive, 1 - positive)
    results = []
    for seed in range(draws):
        random = np.random.default_rng([0, seed])
        inside = np.isin(surface.photos, random.permutation(photos)[: len(photos) // 2])
        margins = before(surface.features)
        allowed = [inside & (surface.cracked == value) for value in (False, True)]
        rows = np.concatenate([order(rule, margins, surface.cracked, half, random)[: count // 2] for half in allowed])
        head = refit(
            surface.features[rows],
            labels[rows],
            surface.photos[rows].tolist(),
            kernel=kernel,
            bias=bias,
            mean=statistics["mean"],
            deviation=statistics["deviation"],
            seed=seed,
            views=surface.views(rows),
        )
        others = np.flatnonzero(~inside)
        old = figures(surface, before, others)
        new = figures(surface, scores(parts, head.kernel, head.bias, threshold=0.5), others)
        change = new["balanced_accuracy"] - old["balanced_accuracy"]
        results.append(new | {"change": change, "kept": float(head.kept)})
    return {key: round(float(np.mean([row[key] for row in results])), 4) for key in results[0]}


def order(
    rule: str, margins: np.ndarray, cracked: np.ndarray, allowed: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Return the tiles that may be labelled, the first to be labelled first."""
    rows = random.permutation(np.flatnonzero(allowed))
    if rule == "wrong":
        return rows[(margins[rows] >= 0) != cracked[rows]]
    sign = {"random": 0, "least certain": 1, "most certain": -1}[rule]
    return rows[np.argsort(sign * np.abs(margins[rows]), kind="stable")]


if __name__ == "__main__":
    main()
