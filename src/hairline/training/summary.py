"""What a run says at its end: lines for the screen, and name, headline metrics and description for MLflow."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Mapping, Sequence

from hairline.data import manifest
from hairline.data.prepare import Dataset
from hairline.evaluation.metrics import PER_CLASS, interval_of
from hairline.model.decision import Decision

log = logging.getLogger(__name__)

# Metrics that only metrics.json holds.
_DETAILS = re.compile(r"_interval_(low|high|groups)$|_uncalibrated$|_images$|^seconds_(?!total$)|^leak_(?!\w+_across$)")
# Overrides that say little about what differs between runs.
_PLAIN = (
    "model=",
    "optimizer=",
    "data=folder",
    "data.path=",
    "name=",
    "tags",
    "tracking",
    "report",
    "runtime",
    "hydra",
)


def run_name(overrides: Sequence[str], backbone: str, solver: str) -> str:
    """Return a name that tells a run from its neighbours; what differs comes first, as MLflow cuts long names."""
    differing = [entry.lstrip("+") for entry in overrides]
    differing = [entry.removeprefix("experiment=") for entry in differing if not entry.startswith(_PLAIN)]
    return " ".join([*reversed(differing), backbone, solver])[:250]


def headlines(metrics: Mapping[str, float], class_names: Sequence[str]) -> dict[str, float]:
    """Return the metrics that MLflow gets: it draws a chart of each, and the curves would be lost among all of them.

    Their names have no slash: MLflow draws sections above everything else, the curves included.
    """
    # The curves are called val_loss and val_accuracy; the values of the kept weights need other names.
    renamed = {f"best_{key}" if key.startswith("val_") else key: value for key, value in metrics.items()}
    mirrored = class_names if len(class_names) == 2 else ()  # metrics of each of two classes say the same twice
    redundant = {f"test_{metric}_{name}" for metric in PER_CLASS for name in mirrored}
    return {key: value for key, value in renamed.items() if not _DETAILS.search(key) and key not in redundant}


def test_lines(data: Dataset, metrics: Mapping[str, float]) -> list[str]:
    """Return the test metrics with their intervals and groups, the spread over repeats, and how the split was made."""
    names = ["accuracy"]
    if data.positive is not None:
        names += ["recall_at_threshold", "specificity_at_threshold", "balanced_accuracy_at_threshold", "auroc"]
    lines = []
    for name in [*names, "ece"]:
        line = f"test {name.replace('_', ' '):32} {metrics[f'test_{name}']:.4f}"
        interval = interval_of(metrics, f"test_{name}")
        if interval is not None:
            line += f"  ({interval.describe()})"
        lines.append(line)
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


def split_lines(data: Dataset, metrics: Mapping[str, float]) -> list[str]:
    """Return a table of images, accuracy and loss of each split."""
    lines = [f"{'':7}{'images':>9}{'accuracy':>11}{'loss':>9}"]
    for split in manifest.SPLITS:
        # Before calibration, as in the curves: a calibrated test loss would not compare with the others.
        loss = metrics.get(f"{split}_loss_uncalibrated", metrics[f"{split}_loss"])
        lines.append(f"{split:7}{len(data.rows(split)):>9,}{metrics[f'{split}_accuracy']:>11.4f}{loss:>9.4f}")
    return lines


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
    if band is not None and not band[0] <= threshold <= band[1]:
        log.warning("WARNING: the threshold %.4g lies outside decision.abstain=%s", threshold, band)
    elif band is not None:
        log.info("decision.abstain=%s: no answer in between, so %s is answered from %.4g on", band, name, band[1])


def next_steps(place: str, *, full: bool, synthetic: bool, by_epochs: bool) -> list[str]:
    """Return the commands to try next.

    Args:
        place: The run directory.
        full: The run saved a model.
        synthetic: The images were generated.
        by_epochs: The head was trained by epochs.
    """
    place = shlex.quote(place)
    if not full:
        return [f"No model saved  for model and figures: python train.py resume={place} report=full"]
    if synthetic:
        return ["Try next        python train.py data=folder data.path=<folder with one sub-folder per class>"]
    steps = [f"Try next        python predict.py run={place} input=<photos>"]
    if by_epochs:
        sweep = "-m optimizer=adam,sgd learning_rate=1e-2,1e-3"
        steps.append(f"                or repeat the training with {sweep}: one run per combination")
    return steps
