"""The story of compare.py: finished runs side by side, their settings, their metrics, and which one is better."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hairline import config as configuration
from hairline import tracking
from hairline.config import Compare
from hairline.data import classes, manifest
from hairline.evaluation import intervals, metrics
from hairline.model import predictions
from hairline.model.decision import Decision
from hairline.system import files
from hairline.system.errors import HairlineError

log = logging.getLogger(__name__)

_LISTED = (
    "test_accuracy",
    "test_balanced_accuracy_at_threshold",
    "test_recall_at_threshold",
    "test_auroc",
    "test_loss",
)
# Limits of the screen; comparison.csv and differences.csv are complete.
_MOST_SETTINGS, _MOST_LETTERS, _MOST_INCOMPARABLE = 6, 40, 3
_LOWER_IS_BETTER = ("loss", "ece", "brier")
_POSITION = ["path", "x", "y", "width", "height"]
_COMPARED = ("accuracy", "accuracy_at_threshold", "loss", "balanced_accuracy", "balanced_accuracy_at_threshold")
_RESAMPLES = 2000


class ComparisonError(HairlineError):
    """Runs or predictions that cannot be compared."""


@dataclass(frozen=True)
class Run:
    """A finished run or evaluation.

    Attributes:
        name: Name in the table.
        settings: Flat settings; empty for an evaluation.
        metrics: Flat metrics.
        predictions: Predictions table of its test images.
        groups: Group of each path.
    """

    name: str
    settings: dict[str, Any]
    metrics: dict[str, Any]
    predictions: pd.DataFrame
    groups: dict[str, str]


@dataclass(frozen=True)
class Difference:
    """A metric of the first model less that of the second, on the same images.

    Attributes:
        value: The difference.
        low: Lower end of its 95 % interval.
        high: Upper end.
        images: Number of images that both models predicted.
    """

    value: float
    low: float
    high: float
    images: int

    @property
    def decided(self) -> bool:
        """Whether the interval excludes zero: only then is one of the models better."""
        return self.low > 0 or self.high < 0


def compare(config: Compare, directory: Path) -> pd.DataFrame:
    """Compare runs: a table on the screen, `comparison.csv`, `differences.csv` and `comparison.png`.

    Args:
        config: Checked configuration.
        directory: Folder of the files.

    Returns:
        One row a run, the best first: settings that differ, and metrics with intervals.
    """
    from hairline.evaluation import figures

    with tempfile.TemporaryDirectory(prefix="hairline-") as fetched:
        folders = find_runs(
            config.runs, experiment=config.mlflow_experiment, uri=config.tracking.uri, fetched=Path(fetched)
        )
        runs = [read_run(name, folder) for name, folder in folders.items()]
    metric = find_metric(config.metric, runs)
    highest_first = not metric.removesuffix("_uncalibrated").endswith(_LOWER_IS_BETTER)
    runs.sort(key=lambda run: run.metrics[metric], reverse=highest_first)
    table = tabulate(runs)
    differences = compare_with_best(runs, resamples=config.resamples)
    manifest.write(table, directory / "comparison.csv")
    manifest.write(differences, directory / "differences.csv")
    metric_names = [name for name in dict.fromkeys([metric, *_LISTED]) if name in table][:4]
    title = f"{len(runs)} runs on their test images"
    figure = figures.metric_intervals(table, metric_names, names=table["run"].tolist(), title=title)
    figures.save(figure, directory / "comparison.png")
    log_comparison(table, differences, metric_names=metric_names, directory=directory)
    return table


def find_runs(texts: list[str], *, experiment: str | None, uri: str | None, fetched: Path) -> dict[str, Path]:
    """Return the folder of each run by its name.

    Args:
        texts: Run directories, folders of run directories, and MLflow run ids.
        experiment: MLflow experiment, all finished runs of which are compared.
        uri: MLflow store.
        fetched: Folder for runs that only MLflow has.

    Raises:
        ComparisonError: If there are fewer than two.
    """
    folders: dict[str, Path] = {}
    run_ids = []
    for text in texts:
        path = Path(text).expanduser()
        if not path.is_dir():
            run_ids.append(text)
        elif (path / "predictions.csv").is_file():
            folders[path.name if path.name not in folders else str(path)] = path
        else:
            jobs = sorted(file.parent for file in path.glob("*/predictions.csv"))
            folders |= {f"{path.name}/{job.name}": job for job in jobs}
    if run_ids or experiment is not None:
        folders |= tracking.fetch_runs(uri, experiment, run_ids, fetched)
    if len(folders) < 2:
        setting = f"mlflow_experiment={experiment}" if experiment else f"runs={texts}"
        raise ComparisonError(
            f"{setting}: received {len(folders)} finished runs with predictions.csv, expected two at least: name more "
            "runs"
        )
    return folders


def read_run(name: str, folder: Path) -> Run:
    """Read the files of a run.

    Raises:
        ComparisonError: If a file is missing or damaged, or a probability is not a number.
    """
    table = manifest.read(folder / "predictions.csv", required=("path", "label", "predicted"))
    columns = [f"prob_{name}" for name in predictions.class_names(table)]
    table = table.assign(**{column: pd.to_numeric(table[column], errors="coerce") for column in columns})
    undefined = int(table[columns].isna().any(axis=1).sum())
    if undefined:
        raise ComparisonError(
            f"{folder / 'predictions.csv'}: the probabilities of {undefined} images are not numbers (nan): the "
            "training diverged. Leave this run out, or train it again with a lower learning_rate"
        )
    try:
        results = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ComparisonError(f"{folder / 'metrics.json'} cannot be read: {error}") from error
    settings = configuration.flatten(configuration.plain(folder / "config.yaml"))
    groups: dict[str, str] = {}
    if (folder / "manifest.csv").is_file():
        images = manifest.read(folder / "manifest.csv", required=("path", "group"))
        groups = dict(zip(images["path"], images["group"].where(images["group"] != "", images["path"]), strict=True))
    return Run(name, settings, results, table, groups)


def find_metric(name: str, runs: list[Run]) -> str:
    """Return the full name of a metric that all runs have, `test_` added where it is missing.

    Raises:
        ComparisonError: With the closest known name.
    """
    for metric in (name, f"test_{name}"):
        if all(run.metrics.get(metric) is not None for run in runs):
            return metric
    known = sorted(set.intersection(*(set(run.metrics) for run in runs)))
    raise ComparisonError(configuration.unknown("metric", name, known))


def tabulate(runs: list[Run]) -> pd.DataFrame:
    """Return one row a run: the settings that are not the same for all, and every test metric with its interval."""
    ignored = configuration.NOT_IDENTITY
    settings = [
        key
        for key in sorted({key for run in runs for key in run.settings})
        if not any(key == name or key.startswith(f"{name}.") for name in ignored)
        and len({str(run.settings.get(key)) for run in runs}) > 1
    ]
    rows = []
    for run in runs:
        measured = {key: value for key, value in run.metrics.items() if key.startswith(("test_", "repeats"))}
        row = {"run": run.name, **{key: run.settings.get(key) for key in settings}, **measured}
        rows.append(row | {key: value for key, value in missing_intervals(run).items() if key not in row})
    return pd.DataFrame(rows)


def missing_intervals(run: Run) -> dict[str, float]:
    """Return the intervals of a run that computed no bootstrap, from its predictions."""
    if "test_auroc_interval_low" in run.metrics:
        return {}
    names = predictions.class_names(run.predictions)
    positive = classes.positive_class(names, run.settings.get("data.positive_class"))
    measured = metrics.measure(
        predictions.from_table(
            run.predictions,
            positive=None if positive is None else names.index(positive),
            groups=np.array([run.groups.get(path, path) for path in run.predictions["path"]], dtype=object),
        ),
        Decision(threshold=run.metrics.get("threshold")),
    )
    return {f"test_{key}": value for key, value in measured.items() if "_interval_" in key}


def compare_with_best(runs: list[Run], *, resamples: int) -> pd.DataFrame:
    """Compare the first run with each other one by a paired bootstrap on their shared test images.

    Returns:
        Columns better, other, metric, difference (first less second), low, high, images, decided, note.
    """
    best = runs[0]
    rows: list[dict[str, Any]] = []
    for other in runs[1:]:
        pair = {"better": best.name, "other": other.name}
        groups = other.groups | best.groups
        try:
            differences = paired_bootstrap(best.predictions, other.predictions, groups=groups, resamples=resamples)
        except ComparisonError as error:
            rows.append(pair | {"metric": "", "images": 0, "decided": False, "note": str(error)})
            continue
        for name, difference in differences.items():
            values = {"difference": difference.value, "low": difference.low, "high": difference.high}
            values |= {"images": difference.images, "decided": difference.decided}
            rows.append(pair | {"metric": name, **values, "note": ""})
    columns = ["better", "other", "metric", "difference", "low", "high", "images", "decided", "note"]
    return pd.DataFrame(rows, columns=columns)


def paired_bootstrap(
    first: pd.DataFrame,
    second: pd.DataFrame,
    *,
    groups: Mapping[str, str],
    resamples: int = _RESAMPLES,
    seed: int = 0,
) -> dict[str, Difference]:
    """Compare two models on the images that both predicted; pairs are drawn together (Efron and Tibshirani 1993).

    Args:
        first: Predictions table of the first model; rows without a label are ignored.
        second: Predictions table of the second model, its rows in any order.
        groups: Group of each path: images of a group are drawn together. A path without one is its own group.
        resamples: Number of resamples.
        seed: The same seed draws the same resamples.

    Returns:
        Differences, first less second, of `accuracy`, `balanced_accuracy` and `loss` (of the probabilities; nats), and
        of `accuracy_at_threshold` and `balanced_accuracy_at_threshold` (of the column `predicted`, in which "cannot
        tell" counts as wrong).

    Raises:
        ComparisonError: If the tables share no labelled images, or disagree about labels or classes.
    """
    both, names = _join(first, second)
    labels = _codes(both["label_first"], names)
    sides = []
    for side in ("first", "second"):
        probabilities = both[[f"prob_{name}_{side}" for name in names]].to_numpy(np.float64)
        predicted = {"": probabilities.argmax(axis=1), "_at_threshold": _codes(both[f"predicted_{side}"], names)}
        sides.append(metrics.WeightedMetrics(labels, probabilities, predicted, positive=None))

    def differences(weights: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
        one, two = (side.of_probabilities(weights) | side.of_classes(weights) for side in sides)
        return {name: one[name] - two[name] for name in _COMPARED}

    members = np.array([groups.get(path, path) for path in both["path"]], dtype=object)
    drawn = intervals.bootstrap(differences, members, resamples=resamples, seed=seed)
    observed = differences(np.ones((1, len(both)), np.float32))
    ends = {name: intervals.percentiles(drawn[name], len(set(members))) for name in _COMPARED}
    return {
        name: Difference(float(observed[name][0]), ends[name].low, ends[name].high, len(both)) for name in _COMPARED
    }


def _join(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the labelled images of both tables, columns with the suffixes `_first` and `_second`, and the classes."""
    tables = [table[table["label"].fillna("") != ""] for table in (first, second)]
    names = [predictions.class_names(table) for table in tables]
    if names[0] != names[1]:
        raise ComparisonError(
            f"the two models know other classes: {', '.join(names[0])} and {', '.join(names[1])}: compare models of "
            "the same classes"
        )
    both = tables[0].merge(tables[1], on=_POSITION, suffixes=("_first", "_second"), validate="one_to_one")
    if both.empty:
        raise ComparisonError(
            f"the two predictions tables ({len(tables[0])} and {len(tables[1])} labelled images) share no image: "
            "evaluate both models on the same data, or train both with the same data, split and seed"
        )
    differing = both["label_first"] != both["label_second"]
    if differing.any():
        row = both[differing].iloc[0]
        raise ComparisonError(
            f"{row['path']} is {row['label_first']!r} in one table and {row['label_second']!r} in the other "
            f"({differing.sum()} such images): compare predictions of the same labels"
        )
    return both, names[0]


def _codes(names: pd.Series[str], class_names: list[str]) -> NDArray[np.int64]:
    """Return the index of each class name, -1 for any other text."""
    return pd.Index(class_names, dtype=object).get_indexer(pd.Index(names, dtype=object)).astype(np.int64)


def log_comparison(table: pd.DataFrame, differences: pd.DataFrame, *, metric_names: list[str], directory: Path) -> None:
    """Log the table, and which differences are beyond chance."""
    short = pd.DataFrame({"run": table["run"].map(manifest.printable)})
    settings = [key for key in table.columns[1:] if not key.startswith(("test_", "repeats"))]
    # Settings that most of the runs have, in the order of the table.
    listed = set(sorted(settings, key=lambda key: table[key].isna().sum())[:_MOST_SETTINGS])
    for key in filter(listed.__contains__, settings):
        short[key] = table[key].astype(object).where(table[key].notna(), "-").astype(str).str.slice(0, _MOST_LETTERS)
    for name in metric_names:
        low, high = (table.get(f"{name}_interval_{end}", pd.Series(np.nan, table.index)) for end in ("low", "high"))
        short[name.removeprefix("test_")] = [
            f"{value:.4f}" + (f" ({one:.4f}-{two:.4f})" if one == one else "")
            for value, one, two in zip(table[name].astype(float), low.astype(float), high.astype(float), strict=True)
        ]
    lines = ["", short.to_string(index=False), ""]
    incomparable = 0
    for (one, two), rows in differences.groupby(["better", "other"], sort=False):
        incomparable += bool(rows["note"].iloc[0])
        if not rows["note"].iloc[0] or incomparable <= _MOST_INCOMPARABLE:
            lines.append(verdict(str(one), str(two), rows))
    if incomparable > _MOST_INCOMPARABLE:
        lines.append(f"and {incomparable - _MOST_INCOMPARABLE} more that cannot be compared with it (differences.csv)")
    log.info("\n".join([*lines, "", f"Directory   {files.relative(directory)}"]))


def verdict(first: str, second: str, rows: pd.DataFrame) -> str:
    """Return one line: in which metrics the first run is better or worse than the second, beyond chance."""
    first, second = manifest.printable(first), manifest.printable(second)
    if rows["note"].iloc[0]:
        return f"{first} and {second} cannot be compared: {rows['note'].iloc[0]}"
    parts = []
    for row in rows[rows["decided"].astype(bool)].to_dict("records"):
        better = (row["difference"] > 0) != (row["metric"] in _LOWER_IS_BETTER)
        low, high = sorted((abs(row["low"]), abs(row["high"])))
        parts.append(
            f"{'better' if better else 'worse'} in {row['metric'].replace('_', ' ')} by {abs(row['difference']):.4f} "
            f"({low:.4f} to {high:.4f})"
        )
    images = f"{rows['images'].iloc[0]:,} shared test images"
    if not parts:
        return f"{first} against {second}: no difference beyond chance on {images}"
    return f"{first} against {second}, on {images}: " + "; ".join(parts)
