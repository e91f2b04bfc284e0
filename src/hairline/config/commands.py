"""The schemas of the scripts beside `train.py`: one dataclass a script, and the check of what a schema cannot say.

A script `<verb>.py` composes `conf/<verb>.yaml`, whose first default is `/hydra/schema/<verb>@_here_`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from omegaconf import MISSING

from hairline.config.checks import data_faults, positive_faults, unknown
from hairline.config.schema import Data, FeatureSettings, Report, Runtime, Split, Tracking


@dataclass
class Evaluate:
    """A finished run's model on any images."""

    run: str = MISSING  # a run directory, an MLflow run id, or a models:/ URI
    data: Data = MISSING
    part: Literal["all", "train", "val", "test"] = "all"  # as the source's own folders say, or else the run's split
    split: Split = field(default_factory=Split)  # group_by, block_size, pattern: what the bootstrap draws together
    features: FeatureSettings = field(default_factory=FeatureSettings)
    runtime: Runtime = field(default_factory=Runtime)
    report: Report = field(default_factory=Report)
    tracking: Tracking = field(default_factory=Tracking)
    seed: int = 0
    name: str | None = None  # of the data set in tables; null = the folder's or file's


def evaluate_faults(config: Evaluate) -> Iterator[str]:
    """Give every fault of an evaluation's configuration."""
    yield from data_faults(config.data)
    if config.split.group_by == "regex" and not config.split.pattern:
        yield "split.group_by=regex needs split.pattern: a regular expression whose first group names the photo"
    yield from positive_faults(
        {
            "split.block_size": config.split.block_size,
            "data.limit": config.data.limit,
            "features.max_gigabytes": config.features.max_gigabytes,
            "runtime.threads": config.runtime.threads,
        }
    )


@dataclass
class Compare:
    """Finished runs beside each other."""

    runs: list[str] = field(default_factory=list)  # run directories, folders of them (a sweep), or MLflow run ids
    experiment: str | None = None  # or all finished runs of an MLflow experiment
    metric: str = "test_accuracy"  # what the table is ordered by
    resamples: int = 2000  # of the paired bootstrap
    tracking_uri: str | None = None  # MLFLOW_TRACKING_URI wins; null = mlflow.db in the working directory


def compare_faults(config: Compare) -> Iterator[str]:
    """Give every fault of a comparison's configuration."""
    if not config.runs and config.experiment is None:
        yield (
            "nothing to compare: give run directories, runs=[outputs/<date>/<time>,outputs/<date>/<time>], or an "
            "MLflow experiment, experiment=<name>"
        )
    for text in config.runs:
        named = len(text) == 32 and set(text) <= set("0123456789abcdef")
        if not named and not Path(text).expanduser().is_dir():
            yield f"runs: {text} is neither a folder nor an MLflow run id"
    yield from positive_faults({"resamples": config.resamples})


# --- export.py --------------------------------------------------------------------------------------------------------


@dataclass
class Export:
    """One export."""

    run: str = MISSING  # a run directory, an MLflow run id, or models:/<name>@<alias>
    format: str = MISSING  # litert, litert_int8, onnx, saved_model, keras
    output: str | None = None  # the export's folder; with -m <output>/<format>; null = below outputs/<date>
    data: str | None = None  # labelled images, or where the run's lie now; null = those of the run's manifest
    images: int | None = 1000  # validation images the export is tried on, drawn evenly from the classes; null = all
    threads: int | None = None  # CPU threads; null = all cores
    tracking: Tracking = field(default_factory=Tracking)


def export_faults(config: Export) -> Iterator[str]:
    """Give every fault of an export's configuration, in words for its user."""
    from hairline.shipping import formats

    if config.format not in formats.FORMATS:
        yield unknown("format", config.format, formats.FORMATS)
    elif missing := formats.missing(config.format):
        yield (
            f"format={config.format} needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
            f"installed: {formats.FORMATS[config.format].install}"
        )
    for key, value in {"images": config.images, "threads": config.threads}.items():
        if value is not None and value <= 0:
            yield f"{key}={value}: expected a whole number from 1"
    for key, text in {"run": config.run, "output": config.output, "data": config.data}.items():
        if text is not None and not text.strip():
            yield f"{key}: the text is empty"


# --- register.py ------------------------------------------------------------------------------------------------------


@dataclass
class Register:
    """One registration."""

    run: str = MISSING  # a run directory, an MLflow run id, or models:/<name>@<alias>
    tracking: Tracking = field(default_factory=Tracking)


def register_faults(config: Register) -> Iterator[str]:
    """Give every fault of a registration's configuration, in words for its user."""
    if not config.run.strip():
        yield "run: the text is empty"
    if not config.tracking.enabled:
        yield "tracking=none: the registry is MLflow's; leave it out"
    name = config.tracking.registered_model
    if not name.strip() or any(character in name for character in "/:@"):
        yield f"tracking.registered_model={name!r}: expected a name without /, : and @"


# Each script's schema, and what gives its faults.
COMMANDS: dict[str, tuple[type, Callable[[Any], Iterator[str]]]] = {
    "compare": (Compare, compare_faults),
    "evaluate": (Evaluate, evaluate_faults),
    "export": (Export, export_faults),
    "register": (Register, register_faults),
}
