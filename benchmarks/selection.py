"""How often does comparing the best of many runs mislead? Simulated runs on one test set, equal or one better.

Whether a run is right about an image depends on a difficulty that all runs share: `shared` is its share of variance.
`beyond`: some difference is reported as beyond chance. `found`: one is, and the better run is the best. `all`: the
better run is reported as better than each other one. `naive`: some difference is beyond 1.96 standard errors.

    python benchmarks/selection.py
    python benchmarks/selection.py --runs 100 images=5000 trials=500
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from hairline.evaluation import intervals, paired

_RESAMPLES = 1000


def simulate(
    resamples: NDArray[np.float32], accuracy: float, shared: float, lead: float, *, runs: int, trials: int
) -> dict[str, float]:
    """Return the share of trials in which differences are reported.

    Args:
        resamples: How often each image counts, float32 [resamples, images]; the same for all trials.
        accuracy: Of all runs but the first.
        shared: Share of the variance of luck that all runs share.
        lead: By how much the first run is better.
        runs: Number of runs.
        trials: Number of simulated test sets.
    """
    images = resamples.shape[1]
    rates = np.full(runs, accuracy)
    rates[0] += lead
    counts = dict.fromkeys(("beyond", "found", "all", "naive"), 0)
    for trial in range(trials):
        generator = np.random.default_rng(trial)
        luck = np.sqrt(shared) * generator.standard_normal((images, 1))
        luck = luck + np.sqrt(1 - shared) * generator.standard_normal((images, runs))
        right = (luck < norm.ppf(rates)).astype(np.float32)
        observed = right.mean(axis=0, dtype=np.float64)
        best = int(observed.argmax())
        order = np.array([best, *(run for run in range(runs) if run != best)])
        drawn = (resamples @ right[:, order]).astype(np.float64) / images
        errors, thresholds, _ = paired.max_t(observed[order], drawn, groups=images, chosen=True)
        leads = observed[best] - observed[order][1:]
        beyond = leads > thresholds[1:] * errors[1:]
        counts["beyond"] += bool(beyond.any())
        counts["found"] += bool(beyond.any() and best == 0)
        counts["all"] += bool(beyond.all() and best == 0)
        counts["naive"] += bool((leads > intervals.Z * errors[1:]).any())
    return {name: count / trials for name, count in counts.items()}


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("runs", 20), ("images", 2000), ("trials", 300)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    resamples = np.concatenate(list(intervals.resample(np.arange(options.images), _RESAMPLES, seed=0)))
    print("| accuracy | shared | lead | beyond | found | all | naive |\n|---|---|---|---|---|---|---|")
    for lead in (0.0, 0.02):
        for accuracy in (0.9, 0.95, 0.97):
            for shared in (0.0, 0.5, 0.8):
                shares = simulate(resamples, accuracy, shared, lead, runs=options.runs, trials=options.trials)
                found, every = (f"{shares[name]:.3f}" if lead else "-" for name in ("found", "all"))
                cells = f"{shares['beyond']:.3f} | {found} | {every} | {shares['naive']:.3f}"
                print(f"| {accuracy} | {shared} | {lead} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
