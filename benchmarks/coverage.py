"""How often do 95 % intervals hold the truth? Simulated images in groups that are right or wrong together.

An image is right if a luck that it partly shares with its group, normal with variance 1, falls below a quantile; the
share of the variance that groups share is the correlation. The truth of each metric then follows from the accuracy.

    python benchmarks/coverage.py
    python benchmarks/coverage.py --groups 8 30 --sizes 10 --correlations 0.5 --trials 2000
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from hairline.evaluation import intervals, metrics

POSITIVE = 0.4  # share of positive images
METRICS = ("accuracy", "recall", "specificity", "precision", "f1", "auroc")


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        groups: Number of groups.
        size: Images of each group.
        accuracy: Probability that an image is right.
        correlation: Share of the variance of luck that a group shares.
    """

    groups: int
    size: int
    accuracy: float
    correlation: float

    def truths(self) -> dict[str, float]:
        """Return the value of each metric on infinitely many groups."""
        hits, alarms = POSITIVE * self.accuracy, (1 - POSITIVE) * (1 - self.accuracy)
        return {
            "accuracy": self.accuracy,
            "recall": self.accuracy,
            "specificity": self.accuracy,
            "precision": hits / (hits + alarms),
            "f1": 2 * hits / (hits + alarms + POSITIVE),
            "auroc": float(norm.cdf(np.sqrt(2) * norm.ppf(self.accuracy))),
        }

    def draw(self, generator: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
        """Return labels, scores (positive from 0.5 on) and groups of a sample, [n] each."""
        groups = np.repeat(np.arange(self.groups), self.size)
        labels = (generator.random(len(groups)) < POSITIVE).astype(np.int64)
        shared, single = generator.standard_normal(self.groups)[groups], generator.standard_normal(len(groups))
        luck = np.sqrt(self.correlation) * shared + np.sqrt(1 - self.correlation) * single
        margin = norm.ppf(self.accuracy) + luck
        return labels, norm.cdf((2 * labels - 1) * margin), groups


def coverage(case: Case, *, trials: int, seed: int = 0) -> dict[str, float]:
    """Return how often the interval of each metric holds the truth; a sample without an AUROC never does."""
    truths, hits = case.truths(), dict.fromkeys(METRICS, 0)
    images = case.groups * case.size
    for trial in range(trials):
        labels, scores, groups = case.draw(np.random.default_rng([seed, trial]))
        inside, called = labels == 1, scores >= 0.5
        found = {
            "accuracy": intervals.of_ratio(inside == called, np.ones(images), groups),
            "recall": intervals.of_ratio(inside & called, inside, groups),
            "specificity": intervals.of_ratio(~inside & ~called, ~inside, groups),
            "precision": intervals.of_ratio(inside & called, called, groups),
            "f1": intervals.of_ratio(2.0 * (inside & called), 1.0 * inside + called, groups),
        }
        if 0 < labels.sum() < images:
            table = np.column_stack([1 - scores, scores])
            found["auroc"] = metrics.auroc_interval(labels, table, positive=1, groups=groups)
        for name, interval in found.items():
            hits[name] += interval.low <= truths[name] <= interval.high
    return {name: hits[name] / trials for name in METRICS}


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    defaults = {
        "groups": [8, 30, 100, 300],
        "sizes": [1, 10, 87],
        "accuracies": [0.85, 0.95, 0.98],
        "correlations": [0.1, 0.3],
    }
    for name, values in defaults.items():
        parser.add_argument(f"--{name}", nargs="+", type=type(values[0]), default=values)
    parser.add_argument("--trials", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    numbers = parser.parse_args()
    print(f"| groups | images each | accuracy | correlation | {' | '.join(METRICS)} |")
    print("|---" * (4 + len(METRICS)) + "|")
    for groups in numbers.groups:
        for size in numbers.sizes:
            for accuracy in numbers.accuracies:
                for correlation in numbers.correlations if size > 1 else [0.0]:
                    case = Case(groups, size, accuracy, correlation)
                    shares = coverage(case, trials=numbers.trials, seed=numbers.seed)
                    cells = " | ".join(f"{100 * shares[name]:.1f}" for name in METRICS)
                    print(f"| {groups} | {size} | {accuracy} | {correlation} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
