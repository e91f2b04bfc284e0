"""Finished runs beside each other: what differs in their settings, what they measured, and which is better for sure."""

from __future__ import annotations

import json
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hairline import config as configuration
from hairline import tracking
from hairline.config import Compare
from hairline.data import manifest, sources
from hairline.evaluation import charts, comparison, figures, intervals
from hairline.system import files
from hairline.system.errors import HairlineError

log = logging.getLogger(__name__)

_SHOWN = (
    "test_accuracy",
    "test_balanced_accuracy_at_threshold",
    "test_recall_at_threshold",
    "test_auroc",
    "test_loss",
)
# On the screen; comparison.csv and differences.csv hold all.
_MOST_SETTINGS, _MOST_LETTERS, _MOST_INCOMPARABLE = 6, 40, 3
_LOWER_IS_BETTER = ("loss", "ece", "brier")


class StandingsError(HairlineError):
    """Runs that cannot be laid side by side."""


@dataclass(frozen=True)
class Entry:
    """A finished run.

    Attributes:
        name: As the table calls it.
        settings: Flat settings; empty for an evaluation.
        metrics: Flat numbers.
        predictions: The table of its test images.
        groups: Group of each path.
    """

    name: str
    settings: dict[str, Any]
    metrics: dict[str, Any]
    predictions: pd.DataFrame
    groups: dict[str, str]


def compare(config: Compare, directory: Path) -> pd.DataFrame:
    """Compare runs: a table on the screen, `comparison.csv`, `differences.csv` and `comparison.png`.

    Args:
        config: Checked configuration.
        directory: Where the files go.

    Returns:
        One row a run, the best first: settings that differ, and metrics with intervals.
    """
    with tempfile.TemporaryDirectory(prefix="hairline-") as fetched:
        entries = [read(name, place) for name, place in find(config, Path(fetched)).items()]
    metric = config.metric
    if all(metric not in entry.metrics and f"test_{metric}" in entry.metrics for entry in entries):
        metric = f"test_{metric}"  # as the table's columns are headed
    if any(entry.metrics.get(metric) is None for entry in entries):
        known = sorted(set.intersection(*(set(entry.metrics) for entry in entries)))
        raise StandingsError(configuration.unknown("metric", config.metric, known))
    downwards = not metric.removesuffix("_uncalibrated").endswith(_LOWER_IS_BETTER)
    entries.sort(key=lambda entry: entry.metrics[metric], reverse=downwards)
    table = tabulate(entries)
    differences = against_the_best(entries, config.resamples)
    manifest.write(table, directory / "comparison.csv")
    manifest.write(differences, directory / "differences.csv")
    shown = [name for name in dict.fromkeys([metric, *_SHOWN]) if name in table][:4]
    figure = charts.intervals(
        table, shown, names=table["run"].tolist(), title=f"{len(entries)} runs on their test images"
    )
    figures.save(figure, directory / "comparison.png")
    say(table, shown, differences, directory)
    return table


def find(config: Compare, fetched: Path) -> dict[str, Path]:
    """Give the folder of each run that was asked for, by its name.

    Raises:
        StandingsError: If there are fewer than two.
    """
    folders: dict[str, Path] = {}
    run_ids = []
    for text in config.runs:
        place = Path(text).expanduser()
        if not place.is_dir():
            run_ids.append(text)
        elif (place / "predictions.csv").is_file():
            folders[place.name if place.name not in folders else str(place)] = place
        else:
            inside = sorted(path.parent for path in place.glob("*/predictions.csv"))
            folders |= {f"{place.name}/{path.name}": path for path in inside}
    if run_ids or config.mlflow_experiment is not None:
        folders |= tracking.fetch_runs(config.tracking.uri, config.mlflow_experiment, run_ids, fetched)
    if len(folders) < 2:
        asked = f"mlflow_experiment={config.mlflow_experiment}" if config.mlflow_experiment else f"runs={config.runs}"
        raise StandingsError(
            f"{asked}: {len(folders)} finished runs with predictions.csv found: a comparison takes two at least"
        )
    return folders


def read(name: str, place: Path) -> Entry:
    """Read what a run left.

    Raises:
        StandingsError: If a file is missing or damaged, or its probabilities are no numbers.
    """
    predictions = manifest.read(place / "predictions.csv", required=("path", "label", "predicted"))
    columns = [column for column in predictions.columns if column.startswith("prob_")]
    predictions = predictions.assign(**{c: pd.to_numeric(predictions[c], errors="coerce") for c in columns})
    broken = int(predictions[columns].isna().any(axis=1).sum())
    if broken:
        raise StandingsError(
            f"{place / 'predictions.csv'}: {broken} images have probabilities that are no numbers (nan): the training "
            "diverged; leave this run out or train it anew"
        )
    try:
        metrics = json.loads((place / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StandingsError(f"{place / 'metrics.json'} cannot be read: {error}") from error
    settings = configuration.flatten(configuration.plain(place / "config.yaml"))
    groups: dict[str, str] = {}
    if (place / "manifest.csv").is_file():
        listed = manifest.read(place / "manifest.csv", required=("path", "group"))
        groups = dict(zip(listed["path"], listed["group"], strict=True))
    return Entry(name, settings, metrics, predictions, groups)


def tabulate(entries: list[Entry]) -> pd.DataFrame:
    """Give one row a run: the settings that are not the same for all, and every test metric with its interval."""
    keys = sorted({key for entry in entries for key in entry.settings})
    quiet = tuple(key for key in configuration.NOT_IDENTITY)
    told = [
        key
        for key in keys
        if not any(key == name or key.startswith(f"{name}.") for name in quiet)
        and len({str(entry.settings.get(key)) for entry in entries}) > 1
    ]
    rows = []
    for entry in entries:
        measured = {key: value for key, value in entry.metrics.items() if key.startswith(("test_", "repeats"))}
        row = {"run": entry.name, **{key: entry.settings.get(key) for key in told}, **measured}
        rows.append(row | {key: value for key, value in missing_intervals(entry).items() if key not in row})
    return pd.DataFrame(rows)


def missing_intervals(entry: Entry) -> dict[str, float]:
    """Give the bootstrap intervals of a run that measured none, from its predictions."""
    if "test_auroc_interval_low" in entry.metrics:
        return {}
    table = entry.predictions
    names = sorted(column.removeprefix("prob_") for column in table.columns if column.startswith("prob_"))
    named = sources.positive_class(names, entry.settings.get("data.positive_class"))
    found = intervals.bootstrap_intervals(
        pd.Categorical(table["label"], categories=names).codes.astype(np.int64),
        table[[f"prob_{name}" for name in names]].to_numpy(np.float64),
        positive=None if named is None else names.index(named),
        threshold=None if named is None else entry.metrics.get("threshold"),
        groups=[entry.groups.get(path, path) for path in table["path"]],
    )
    return {f"test_{key}": value for key, value in found.items()}


def against_the_best(entries: list[Entry], resamples: int) -> pd.DataFrame:
    """Compare the first run with each other one by a paired bootstrap on their shared test images.

    Returns:
        Columns better, other, metric, difference (first less second), low, high, images, decided, note.
    """
    first = entries[0]
    rows: list[dict[str, Any]] = []
    for other in entries[1:]:
        about = {"better": first.name, "other": other.name}
        try:
            found = comparison.paired_bootstrap(
                first.predictions, other.predictions, groups=other.groups | first.groups, resamples=resamples
            )
        except comparison.ComparisonError as error:
            rows.append(about | {"metric": "", "images": 0, "decided": False, "note": str(error)})
            continue
        for name, difference in found.items():
            values = {"difference": difference.value, "low": difference.low, "high": difference.high}
            rows.append(
                about
                | {"metric": name, **values, "images": difference.images, "decided": difference.decided, "note": ""}
            )
    columns = ["better", "other", "metric", "difference", "low", "high", "images", "decided", "note"]
    return pd.DataFrame(rows, columns=columns)


def say(table: pd.DataFrame, shown: list[str], differences: pd.DataFrame, directory: Path) -> None:
    """Print the table, and which differences are beyond chance."""
    told = pd.DataFrame({"run": table["run"].map(manifest.printable)})
    settings = [key for key in table.columns[1:] if not key.startswith(("test_", "repeats"))]
    # Of runs of many kinds the settings that most of them have say most.
    settings = sorted(settings, key=lambda key: table[key].isna().sum())[:_MOST_SETTINGS]
    for key in table.columns[1:]:
        if key in settings:
            told[key] = table[key].astype(object).where(table[key].notna(), "-").astype(str).str.slice(0, _MOST_LETTERS)
    for name in shown:
        low, high = (table.get(f"{name}_interval_{end}", pd.Series(np.nan, table.index)) for end in ("low", "high"))
        told[name.removeprefix("test_")] = [
            f"{value:.4f}" + (f" ({one:.4f}-{two:.4f})" if one == one else "")
            for value, one, two in zip(table[name].astype(float), low.astype(float), high.astype(float), strict=True)
        ]
    lines = ["", told.to_string(index=False), ""]
    incomparable = 0
    for (one, two), rows in differences.groupby(["better", "other"], sort=False):
        incomparable += bool(rows["note"].iloc[0])
        if not rows["note"].iloc[0] or incomparable <= _MOST_INCOMPARABLE:
            lines.append(verdict(str(one), str(two), rows))
    if incomparable > _MOST_INCOMPARABLE:
        lines.append(f"and {incomparable - _MOST_INCOMPARABLE} more that cannot be compared with it (differences.csv)")
    place = files.relative(directory)
    log.info("\n".join([*lines, "", f"Directory   {place}"]))


def verdict(one: str, two: str, rows: pd.DataFrame) -> str:
    """Say in a line whether the first run is better than the second, and in what."""
    one, two = manifest.printable(one), manifest.printable(two)
    if rows["note"].iloc[0]:
        return f"{one} and {two} cannot be compared: {rows['note'].iloc[0]}"
    sign = np.where(rows["metric"].isin(_LOWER_IS_BETTER), -1, 1) * np.sign(rows["difference"])
    parts = [
        f"{'better' if better > 0 else 'worse'} in {row.metric.replace('_', ' ')} by {abs(row.difference):.4f} "
        "({:.4f} to {:.4f})".format(*sorted((abs(row.low), abs(row.high))))
        for row, better in zip(rows.itertuples(), sign, strict=True)
        if row.decided
    ]
    images = f"{rows['images'].iloc[0]:,} shared test images"
    if not parts:
        return f"{one} against {two}: no difference beyond chance on {images}"
    return f"{one} against {two}, on {images}: " + "; ".join(parts)
