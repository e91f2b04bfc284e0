"""The schemas of `evaluate.py` and `compare.py`, and the checks of what a schema cannot say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from omegaconf import MISSING

from hairline.config.checks import data_faults, grouping_faults, positive_faults, threshold_faults
from hairline.config.schema import Data, FeatureSettings, Report, Split, Store, Threads, Tracking
from hairline.config.values import names_run


@dataclass
class Evaluate:
    """A finished run's model on any images."""

    run: str = MISSING  # a run directory, an MLflow run id, or a models:/ URI
    data: Data = MISSING
    part: Literal["all", "train", "val", "test"] = "all"  # as the source's own folders say, or else the run's split
    adapt: Literal["none", "surface"] = "none"  # surface: scale and threshold are fitted to the images, without labels
    threshold: float | None = None  # probability from which on an image is positive; null = the model's own
    split: Split = field(default_factory=Split)  # group_by, block_size, pattern: what the bootstrap draws together
    features: FeatureSettings = field(default_factory=FeatureSettings)
    runtime: Threads = field(default_factory=Threads)
    report: Report = field(default_factory=Report)
    tracking: Tracking = field(default_factory=Tracking)
    seed: int = 0
    name: str | None = None  # of the data set in tables; null = the folder's or file's


def evaluate_faults(config: Evaluate) -> Iterator[str]:
    """Give every fault of an evaluation's configuration."""
    yield from data_faults(config.data)
    yield from threshold_faults(config.threshold)
    yield from grouping_faults(config.split)
    yield from positive_faults(
        {
            "data.limit": config.data.limit,
            "features.max_gigabytes": config.features.max_gigabytes,
            "runtime.threads": config.runtime.threads,
        }
    )


@dataclass
class Compare:
    """Finished runs beside each other."""

    runs: list[str] = field(default_factory=list)  # run directories, folders of them (a sweep), or MLflow run ids
    mlflow_experiment: str | None = None  # or all finished runs of an MLflow experiment
    metric: str = "test_accuracy"  # what the table is ordered by
    resamples: int = 2000  # of the paired bootstrap
    tracking: Store = field(default_factory=Store)


def compare_faults(config: Compare) -> Iterator[str]:
    """Give every fault of a comparison's configuration."""
    if not config.runs and config.mlflow_experiment is None:
        yield (
            "nothing to compare: give run directories, runs=[outputs/<date>/<time>,outputs/<date>/<time>], or an "
            "MLflow experiment, mlflow_experiment=<name>"
        )
    for text in config.runs:
        if not names_run(text) and not Path(text).expanduser().is_dir():
            yield f"runs: {text} is neither a folder nor an MLflow run id"
    yield from positive_faults({"resamples": config.resamples})
