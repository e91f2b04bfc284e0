"""The story of compare.py: finished runs side by side, their settings, their metrics, and which one is better."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hairline import config as configuration
from hairline import tracking
from hairline.config import Compare, commands
from hairline.data import classes, manifest
from hairline.evaluation import metrics, paired
from hairline.evaluation.evaluate import DESCRIPTION
from hairline.evaluation.metrics import LOWER_IS_BETTER
from hairline.evaluation.paired import ComparisonError
from hairline.model import predictions
from hairline.model.decision import CANNOT_TELL, Decision, describe_groups
from hairline.system import files

log = logging.getLogger(__name__)

_LISTED = (
    "test_accuracy",
    "test_balanced_accuracy_at_threshold",
    "test_recall_at_threshold",
    "test_auroc",
    "test_loss",
)
# Limits of the screen and the figure; comparison.csv and differences.csv are complete.
_MOST_SETTINGS, _MOST_LETTERS, _MOST_ROWS = 6, 40, 20
_MOST_DRAWN = 50
# Resamples of the intervals of runs that computed none: many runs may have to wait for them.
_RESAMPLES = 200
# What surrounds the name of a metric in metrics.json.
_PREFIX = re.compile("(repeats_)?(train_|val_|test_|seen_)?")
_SUFFIX = re.compile("(_uncalibrated)?(_mean|_lowest|_highest)?$")


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

    @property
    def class_names(self) -> list[str]:
        """The classes of its predictions."""
        return predictions.class_names(self.predictions)

    @property
    def positive_class(self) -> str | None:
        """The class that recall counts: of its settings, or guessed by its name; None if there is none."""
        return classes.positive_class(self.class_names, self.settings.get("data.positive_class"))


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
        known: dict[str, dict[str, str]] = {}
        runs = [read_run(name, folder, known) for name, folder in folders]
        reference = None if config.reference is None else find_reference(config.reference, folders)
    metric = find_metric(config.metric, runs)
    highest_first = not is_lower_better(metric)
    ranked = sorted(runs, key=lambda run: run.metrics[metric], reverse=highest_first)
    table = tabulate(ranked)
    differences = compare_with(
        ranked[0] if reference is None else runs[reference],
        ranked,
        paired_metric(metric),
        chosen=reference is None,
        resamples=config.resamples,
    )
    manifest.write(table, directory / "comparison.csv")
    manifest.write(differences, directory / "differences.csv")
    metric_names = [name for name in dict.fromkeys([metric, *_LISTED]) if name in table][:4]
    drawn = table.head(_MOST_DRAWN)
    title = f"{len(runs)} runs on their test images" + (f": the best {_MOST_DRAWN}" if len(drawn) < len(table) else "")
    figure = figures.metric_intervals(drawn, metric_names, names=drawn["run"].tolist(), title=title)
    figures.save(figure, directory / "comparison.png")
    log_comparison(table, differences, metric=metric, metric_names=metric_names, directory=directory)
    return table


def is_lower_better(metric: str) -> bool:
    """Return whether a lower value of a metric of `metrics.json` is better.

    >>> [is_lower_better(name) for name in ("test_loss", "repeats_test_ece_mean", "test_recall_paint_loss")]
    [True, True, False]
    """
    name = _PREFIX.sub("", metric, count=1)
    return _SUFFIX.sub("", name) in LOWER_IS_BETTER


def find_runs(texts: list[str], *, experiment: str | None, uri: str | None, fetched: Path) -> list[tuple[str, Path]]:
    """Return name and folder of each run; equal names are told apart.

    Args:
        texts: Run directories, folders of run directories, and MLflow run ids.
        experiment: MLflow experiment, all finished runs of which are compared.
        uri: MLflow store.
        fetched: Folder for runs that only MLflow has.

    Raises:
        ComparisonError: If there are fewer than two.
    """
    named: dict[Path, tuple[str, str]] = {}  # short and long name by folder: a folder that is named twice counts once
    run_ids = []
    for text in texts:
        path = Path(text).expanduser()
        if not path.is_dir():
            run_ids.append(text)
        elif (path / "predictions.csv").is_file():
            named[path.resolve()] = (path.resolve().name, str(path))
        else:
            jobs = sorted(file.parent for file in path.glob("*/predictions.csv"))
            finished = [job for job in jobs if (job / "metrics.json").is_file()]
            if len(finished) < len(jobs):
                unfinished = ", ".join(job.name for job in jobs if job not in finished)
                log.warning("WARNING: %s: left out, as they have not finished: %s", path, unfinished)
            named |= {job.resolve(): (f"{path.resolve().name}/{job.name}", str(job)) for job in finished}
    if run_ids or experiment is not None:
        for run_id, (name, folder) in tracking.fetch_runs(uri, experiment, run_ids, fetched).items():
            named[folder] = (name, f"{name} {run_id[:6]}")
    if len(named) < 2:
        setting = f"mlflow_experiment={experiment}" if experiment else f"runs={texts}"
        raise ComparisonError(
            f"{setting}: received {len(named)} finished runs with predictions.csv, expected two at least: name more "
            "runs"
        )
    short, long = (Counter(names) for names in zip(*named.values(), strict=True))
    folders: list[tuple[str, Path]] = []
    for number, (folder, (name, longer)) in enumerate(named.items(), start=1):
        unique = name if short[name] == 1 else longer if long[longer] == 1 else f"{longer} ({number})"
        folders.append((unique, folder))
    return folders


def find_reference(text: str, folders: list[tuple[str, Path]]) -> int:
    """Return the number of the run that `reference` names: its name in the table, its folder, or its MLflow run id.

    Raises:
        ComparisonError: If none or several of the runs match.
    """
    place = Path(text).expanduser().resolve()
    matching = [
        number for number, (name, folder) in enumerate(folders) if text in (name, folder.name) or folder == place
    ]
    if len(matching) != 1:
        names = ", ".join(name for name, _ in folders[:_MOST_ROWS])
        raise ComparisonError(
            f"reference={text}: matches {len(matching)} of the compared runs, expected one. Name one of: {names}"
        )
    return matching[0]


def read_run(name: str, folder: Path, known: dict[str, dict[str, str]]) -> Run:
    """Read the files of a run.

    Args:
        name: Its name.
        folder: Its run directory.
        known: As for `read_groups`.

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
    except FileNotFoundError as error:
        resume = commands.command("train", commands.override("resume", str(folder)))
        raise ComparisonError(f"{folder} has not finished: it has no metrics.json. Resume it: {resume}") from error
    except (OSError, ValueError) as error:
        raise ComparisonError(f"{folder / 'metrics.json'} cannot be read: {error}") from error
    settings = configuration.flatten(configuration.plain(folder / "config.yaml"))
    # The model may have been told its positive class, which the settings of an evaluation or with base= do not name.
    for file in filter(Path.is_file, (folder / "environment.json", folder / DESCRIPTION)):
        about = json.loads(file.read_text(encoding="utf-8"))
        settings |= {"data.positive_class": about["positive_class"]} if "positive_class" in about else {}
    run = Run(name, settings, results, table, read_groups(folder / "manifest.csv", known))
    return dataclasses.replace(run, predictions=answered(run))


def answered(run: Run) -> pd.DataFrame:
    """Return the predictions of a run with the class at the threshold where it gave no answer, as its metrics count."""
    table, threshold, positive = run.predictions, run.metrics.get("threshold"), run.positive_class
    if positive is None or threshold is None:
        return table
    negative = next(name for name in run.class_names if name != positive)
    at_threshold = np.where(table[f"prob_{positive}"] >= threshold, positive, negative)
    return table.assign(predicted=table["predicted"].mask(table["predicted"] == CANNOT_TELL, at_threshold))


def read_groups(path: Path, known: dict[str, dict[str, str]]) -> dict[str, str]:
    """Return the group of each image, by its path; empty without a manifest.

    Args:
        path: The manifest of a run.
        known: Groups of other manifests by their digest: the jobs of a sweep share their images.
    """
    if not path.is_file():
        return {}
    digest = files.sha256(path)
    if digest not in known:
        images = manifest.read(path, required=("path", "group"))
        groups = images["group"].where(images["group"] != "", images["path"])
        known[digest] = dict(zip(images["path"], groups, strict=True))
    return known[digest]


def find_metric(name: str, runs: list[Run]) -> str:
    """Return the full name of a metric that all runs have, `test_` added where it is missing.

    Raises:
        ComparisonError: With the closest known name.
    """
    for metric in (name, f"test_{name}"):
        if all(run.metrics.get(metric) is not None for run in runs):
            return metric
    for metric in (name, f"test_{name}"):
        if all(metric in run.metrics for run in runs):
            lacking = next(run.name for run in runs if run.metrics[metric] is None)
            raise ComparisonError(f"metric={name}: not defined for {lacking}, as its images lack a class")
    known = [{key for key, value in run.metrics.items() if value is not None} for run in runs]
    raise ComparisonError(configuration.unknown("metric", name, sorted(set.intersection(*known))))


def tabulate(runs: list[Run]) -> pd.DataFrame:
    """Return one row a run: the settings in which they differ, and every test metric with its interval.

    A setting that only some of the runs have comes with another one, as an optimizer's own do; it is listed if these
    runs differ in it.
    """
    settings = [
        key
        for key in sorted({key for run in runs for key in run.settings})
        if configuration.is_identity(key) and len({str(run.settings[key]) for run in runs if key in run.settings}) > 1
    ]
    rows = []
    for run in runs:
        measured = {key: value for key, value in run.metrics.items() if key.startswith(("test_", "repeats"))}
        row = {"run": run.name, **{key: run.settings.get(key) for key in settings}, **measured}
        rows.append(row | {key: value for key, value in missing_intervals(run).items() if key not in row})
    return pd.DataFrame(rows)


def missing_intervals(run: Run) -> dict[str, float]:
    """Return the intervals of a run that computed no bootstrap, as the jobs of a sweep, from its predictions."""
    if "test_balanced_accuracy_interval_low" in run.metrics:
        return {}
    positive = run.positive_class
    measured = metrics.measure(
        predictions.from_table(
            run.predictions,
            positive=None if positive is None else run.class_names.index(positive),
            groups=np.array([run.groups.get(path, path) for path in run.predictions["path"]], dtype=object),
        ),
        Decision(threshold=run.metrics.get("threshold")),
        resamples=_RESAMPLES,
    )
    return {f"test_{key}": value for key, value in measured.items() if "_interval_" in key}


def paired_metric(metric: str) -> str:
    """Return the metric in which runs are compared image by image: the given one, or accuracy."""
    name = metric.removeprefix("test_")
    return name if name in paired.METRICS else "accuracy"


def compare_with(reference: Run, runs: list[Run], metric: str, *, chosen: bool, resamples: int) -> pd.DataFrame:
    """Compare a run with each other one on their shared test images, corrected for the number of comparisons.

    Args:
        reference: The run that is compared with the others.
        runs: All runs.
        metric: One of `paired.METRICS`.
        chosen: Whether the reference is the best of all runs, which is corrected for too.
        resamples: Resamples of the images.

    Returns:
        Columns reference, other, metric, difference (reference less other), low, high, p_value, images, groups,
        verdict (better, worse, or no difference beyond chance; empty if they cannot be compared), note.
    """
    others = [run for run in runs if run is not reference]
    groups = {path: group for run in reversed(runs) for path, group in run.groups.items()} | reference.groups
    results = paired.compare(
        reference.predictions,
        [run.predictions for run in others],
        metric,
        groups=groups,
        positive=reference.positive_class,
        chosen=chosen,
        resamples=resamples,
    )
    rows: list[dict[str, Any]] = []
    for other, result in zip(others, results, strict=True):
        row: dict[str, Any] = {"reference": reference.name, "other": other.name, "metric": metric}
        if isinstance(result, ComparisonError):
            rows.append(row | {"images": 0, "groups": 0, "verdict": "", "note": str(result)})
            continue
        outcome = "no difference"
        if result.decided:
            outcome = "better" if (result.value > 0) != (metric in LOWER_IS_BETTER) else "worse"
        values: dict[str, Any] = {
            "difference": result.value,
            "low": result.low,
            "high": result.high,
            "p_value": result.p_value,
        }
        values |= {"images": result.images, "groups": result.groups, "verdict": outcome, "note": ""}
        rows.append(row | values)
    columns = ["reference", "other", "metric", "difference", "low", "high", "p_value", "images", "groups", "verdict"]
    return pd.DataFrame(rows, columns=[*columns, "note"])


def log_comparison(
    table: pd.DataFrame, differences: pd.DataFrame, *, metric: str, metric_names: list[str], directory: Path
) -> None:
    """Log the table, and which differences are beyond chance."""
    listed_rows = table.head(_MOST_ROWS)
    short = pd.DataFrame({"run": listed_rows["run"].map(manifest.printable)})
    settings = [key for key in table.columns[1:] if not key.startswith(("test_", "repeats"))]
    # Settings that most of the runs have, in the order of the table.
    listed = set(sorted(settings, key=lambda key: table[key].isna().sum())[:_MOST_SETTINGS])
    for key in filter(listed.__contains__, settings):
        values = listed_rows[key].astype(object)
        short[key] = values.where(values.notna(), "-").astype(str).str.slice(0, _MOST_LETTERS)
    for name in metric_names:
        ends = (listed_rows.get(f"{name}_interval_{end}", pd.Series(np.nan, table.index)) for end in ("low", "high"))
        low, high = (pd.to_numeric(end, errors="coerce") for end in ends)
        short[name.removeprefix("test_")] = [
            f"{value:.4f}" + (f" ({one:.4f}-{two:.4f})" if one == one else "")
            for value, one, two in zip(listed_rows[name].astype(float), low, high, strict=False)
        ]
    lines = ["", short.to_string(index=False)]
    if len(table) > len(short):
        lines.append(f"and {len(table) - len(short):,} more (comparison.csv)")
    lines += ["", *verdicts(differences, metric=metric), "", f"Directory   {files.relative(directory)}"]
    log.info("\n".join(lines))


def verdicts(differences: pd.DataFrame, *, metric: str) -> list[str]:
    """Return lines: in which metric the reference is better or worse than each other run, beyond chance."""
    reference, compared = manifest.printable(differences["reference"].iloc[0]), differences["metric"].iloc[0]
    known = differences[differences["note"] == ""]
    lines = []
    if compared != metric.removeprefix("test_"):
        lines.append(f"{metric} cannot be compared image by image; accuracy is")
    if len(known):
        images, groups = known["images"].max(), known["groups"].max()
        lines.append(
            f"{reference} against {len(known):,} other {'runs' if len(known) > 1 else 'run'} in "
            f"{compared.replace('_', ' ')}, on {images:,} shared test images ({describe_groups(groups)}); "
            "95 % intervals, corrected for all comparisons:"
        )
    for row in known.head(_MOST_ROWS).to_dict("records"):
        outcome = (
            "no difference beyond chance" if row["verdict"] == "no difference" else f"{row['verdict']} beyond chance"
        )
        lines.append(
            f"  against {manifest.printable(row['other'])}: {outcome}, {row['difference']:+.4f} ({row['low']:+.4f} to "
            f"{row['high']:+.4f})"
        )
    if len(known) > _MOST_ROWS:
        counts = known["verdict"].value_counts()
        beyond = ", ".join(
            f"{name} than {counts.get(name, 0):,}" for name in ("better", "worse") if counts.get(name, 0)
        )
        lines.append(
            f"  of all {len(known):,}: {beyond + ' beyond chance, ' if beyond else ''}no difference beyond chance from "
            f"{counts.get('no difference', 0):,} (differences.csv)"
        )
    for note, rows in differences[differences["note"] != ""].groupby("note", sort=False):
        others = [manifest.printable(name) for name in rows["other"].head(3)]
        more = f" and {len(rows) - 3:,} more" if len(rows) > 3 else ""
        lines.append(f"{reference} and {', '.join(others)}{more} cannot be compared: {note}")
    return lines
