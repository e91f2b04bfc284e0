"""What a run says at its end: lines for the screen, and name, headline metrics and description for MLflow."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import entr

from hairline.config import commands
from hairline.config.names import short_name
from hairline.data import manifest
from hairline.data.prepare import Dataset
from hairline.model.decision import Decision

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

# The final metrics that MLflow gets beside the curves: it draws a chart of each in the order of their names, so the
# curves, `epoch_...`, come first. With the pictures these are 15 charts. metrics.json holds all metrics.
_HEADLINES = (
    "val_loss",
    "test_accuracy",
    "test_accuracy_interval_low",
    "test_accuracy_interval_high",
    "test_recall_at_threshold",
    "test_recall_at_threshold_interval_low",
    "test_recall_at_threshold_interval_high",
    "test_auroc",
    "seconds_total",
)
_LEAST_IMAGES = 20  # of validation, from which on chance is told from learning
# Overrides that say little about what differs between runs.
_PLAIN = ("data=folder", "data.path=", "name=", "tags", "tracking", "report", "runtime", "hydra")


def run_name(overrides: Sequence[str], backbone: str, solver: str) -> str:
    """Return a name that tells a run from its neighbours; what differs comes first, as MLflow cuts long names."""
    differing = [entry.lstrip("+") for entry in overrides]
    settings = dict(entry.split("=", 1) for entry in differing if "=" in entry and not entry.startswith(_PLAIN))
    given = {settings.get("model", ""), settings.get("optimizer", "")}
    return " ".join(filter(None, [short_name(settings), *(name for name in (backbone, solver) if name not in given)]))[
        :250
    ]


def headlines(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the final metrics that MLflow gets.

    Their names have no slash: MLflow draws sections above everything else, the curves included. The validation loss of
    the kept weights is `final_val_loss`; curves are `epoch_val_loss` and so on.
    """
    return {("final_val_loss" if key == "val_loss" else key): metrics[key] for key in _HEADLINES if key in metrics}


def test_lines(data: Dataset, metrics: Mapping[str, float]) -> list[str]:
    """Return the test metrics with their intervals and groups, the spread over repeats, and how the split was made."""
    from hairline.evaluation.metrics import described

    names = ["accuracy"]
    if data.positive is not None:
        names += ["recall_at_threshold", "specificity_at_threshold", "balanced_accuracy_at_threshold", "auroc"]
    lines = [f"test {name.replace('_', ' '):32} {described(metrics, f'test_{name}')}" for name in [*names, "ece"]]
    if "probe_test_accuracy" in metrics:
        label, value = "linear probe, closed form", metrics["probe_test_accuracy"]
        lines.append(f"{label:37} {value:.4f}  (test accuracy of the baseline, fitted in a second)")
    if "repeats" in metrics:
        mean, deviation, low, high = (
            metrics[f"repeats_test_accuracy_{key}"] for key in ("mean", "deviation", "lowest", "highest")
        )
        lines.append(
            f"test accuracy of {metrics['repeats']:.0f} heads: mean {mean:.4f}, deviation {deviation:.4f}, from "
            f"{low:.4f} to {high:.4f}"
        )
    if "test_abstained" in metrics:
        label, value = "test images without an answer", metrics["test_abstained"]
        lines.append(f"{label:37} {value:.4f}  (inside decision.abstain)")
    warning = (
        "" if data.split_by != "none" else ": images of one scene may lie in two splits, so figures may be too good"
    )
    return [*lines, f"split by {data.split_by}{warning}"]


def split_lines(metrics: Mapping[str, float]) -> list[str]:
    """Return a table of images, accuracy and loss of each split; drawn training images are not counted."""
    lines = [f"{'':7}{'images':>9}{'accuracy':>11}{'loss':>9}"]
    for split in manifest.SPLITS:
        # Before calibration, as in the curves: a calibrated test loss would not compare with the others.
        loss = metrics.get(f"{split}_loss_uncalibrated", metrics[f"{split}_loss"])
        lines.append(f"{split:7}{metrics[f'{split}_images']:>9,.0f}{metrics[f'{split}_accuracy']:>11.4f}{loss:>9.4f}")
    return lines


def kept_epoch(history: pd.DataFrame, keep: str, *, step: str = "epoch") -> str:
    """Return which epoch's weights the model has, where they are not simply the last ones; else empty text.

    Args:
        history: Columns phase, epoch and val_loss; epochs are numbered through all phases.
        keep: `best` or `last`.
        step: What a row of the history is: an epoch, or an iteration of a solver.
    """
    if keep == "last" or len(history) < 2:
        return ""
    row = history.iloc[int(history["val_loss"].argmin())]
    return f"weights of {step} {int(row['epoch'])} of {len(history)} ({row['phase']}): the lowest validation loss"


def weights_note(origin: str) -> str:
    """Return a sentence about backbone weights that were not trained on photographs; else empty text."""
    texts = {
        "random": "Backbone with RANDOM weights: for tests; a pretrained backbone is far better",
        "synthetic": "Backbone weights trained on SYNTHETIC images only: ImageNet weights are better",
    }
    return texts.get(origin, "")


def chance_note(data: Dataset, metrics: Mapping[str, float]) -> str:
    """Return a sentence if the validation images show that nothing was learned; else empty text.

    That is: neither accuracy nor log loss is better than with the shares of the classes as the probabilities of every
    image. Fewer than `_LEAST_IMAGES` images show nothing.
    """
    labels = data.labels[data.rows("val")]
    if len(labels) < _LEAST_IMAGES:
        return ""
    shares = np.bincount(labels, minlength=len(data.class_names)) / len(labels)
    if metrics["val_accuracy"] > shares.max() or metrics["val_loss"] < 0.99 * entr(shares).sum():
        return ""
    name = manifest.printable(data.class_names[int(shares.argmax())])
    return (
        f"WARNING: on the validation images the model is no better than always answering {name} (accuracy "
        f"{shares.max():.4f}). Check the labels, learning_rate and model.weights"
    )


def seconds_line(metrics: Mapping[str, float]) -> str:
    """Return the seconds of each stage."""
    stages = {key.removeprefix("seconds_"): value for key, value in metrics.items() if key.startswith("seconds_")}
    return "seconds  " + "  ".join(f"{name} {value:.1f}" for name, value in stages.items())


def log_decision(data: Dataset, decision: Decision) -> None:
    """Log how the threshold was chosen, and what the abstain band does to it."""
    threshold, band = decision.threshold, decision.abstain
    if threshold is None:
        return
    name = manifest.printable(data.class_names[data.positive or 0])
    log.info("threshold %.4g for class %s, chosen %s", threshold, name, decision.chosen)
    if decision.photo is not None:
        log.info("%s", decision.photo.describe(name))
    if band is not None and not band[0] <= threshold <= band[1]:
        log.warning("WARNING: the threshold %.4g lies outside decision.abstain=%s", threshold, band)
    elif band is not None:
        log.info("decision.abstain=%s: no answer in between, so %s is answered from %.4g on", band, name, band[1])


def next_steps(place: str, *, full: bool, synthetic: bool, by_epochs: bool, positive: bool) -> list[str]:
    """Return the commands to try next.

    Args:
        place: The run directory.
        full: The run saved a model.
        synthetic: The images were generated.
        by_epochs: The head was trained by epochs.
        positive: One of the classes is the one to find.
    """
    run = commands.override("run", place)
    if not full:
        command = commands.command("train", commands.override("resume", place), "report=full")
        return [f"No model saved  for model and figures: {command}"]
    if synthetic:
        own = commands.command("train", "data=folder", "data.path=<folder with one sub-folder per class>")
        return [f"Try next        {own}"]
    settings = [] if positive else ["positive_class=<class to find>"]
    steps = [f"Try next        {commands.command('predict', run, 'input=<photos>', *settings)}"]
    if by_epochs:
        sweep = "-m optimizer=adam,sgd learning_rate=1e-2,1e-3"
        steps.append(f"                or repeat the training with {sweep}: one run per combination")
    return steps
