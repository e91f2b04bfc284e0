"""The numbers of a run: what was decided on validation, measured on test, and how far a retraining would move it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from hairline import tracking
from hairline.config import Config, arguments
from hairline.data import manifest
from hairline.data.prepare import Dataset
from hairline.evaluation import decisions, intervals, leaks, measures, metrics
from hairline.evaluation.decisions import Decision
from hairline.model import probe
from hairline.training.head import Frozen, train_head

log = logging.getLogger(__name__)

_PARTS = (1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of the training images
_SPREAD = ("accuracy", "loss", "auroc", "f1", "recall", "ece", "recall_at_threshold", "balanced_accuracy_at_threshold")


def decide(config: Config, data: Dataset, scores: np.ndarray) -> Decision:
    """Choose temperature and threshold on the validation images.

    Args:
        config: Of the run.
        data: Its images.
        scores: Logits float32 [n, classes] of all images.
    """
    rows = data.rows("val")
    thorough = {} if config.report.level == "full" else {"resamples": 0}
    return decisions.decide(
        scores[rows],
        data.labels[rows],
        data.positive,
        **arguments(config.decision),
        groups=data.manifest["group"].to_numpy()[rows],
        **thorough,
    )


def say_decision(config: Config, data: Dataset, decision: Decision) -> None:
    """Print the threshold, how it was chosen, and what the abstain band makes of it."""
    point, band = decision.point, decision.abstain
    if point is not None:
        name = manifest.printable(data.class_names[data.positive or 0])
        log.info("threshold %.4g on %s, %s", point.threshold, name, point.describe())
        if band is not None and not band[0] <= point.threshold <= band[1]:
            log.warning("WARNING: the threshold %.4g lies outside decision.abstain=%s", point.threshold, band)
        elif band is not None:
            log.info(
                "decision.abstain=%s: no answer between these, so %s is answered from %.4g on", band, name, band[1]
            )


def probabilities(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Give calibrated probabilities float32 [n, classes] of logits."""
    from hairline.model import head

    return head.probabilities(scores, temperature)


def measure(config: Config, data: Dataset, scores: np.ndarray, decision: Decision) -> dict[str, float]:
    """Measure all splits; the test part in full, with intervals.

    Returns:
        Flat metrics. `train_loss` and `val_loss` are the training's own, before calibration; all of `test_` are of the
        calibrated model, but for `test_loss_uncalibrated` and `test_ece_uncalibrated`.
    """
    results: dict[str, float] = {}
    calibrated = probabilities(scores, decision.temperature)
    plain = probabilities(scores, 1.0)
    for split in ("train", "val"):
        rows = data.rows(split)
        found = metrics.classification_metrics(data.labels[rows], plain[rows], positive=data.positive)
        results |= {f"{split}_{key}": found[key] for key in ("accuracy", "loss")} | {f"{split}_images": len(rows)}
    val, test = data.rows("val"), data.rows("test")
    for name, table in (("val_ece_uncalibrated", plain), ("val_ece", calibrated)):
        results[name] = metrics.expected_calibration_error(data.labels[val], table[val])
    found = measures.measure(
        data.labels[test],
        calibrated[test],
        data.class_names,
        positive=data.positive,
        threshold=None if decision.point is None else decision.point.threshold,
        abstain=decision.abstain,
        groups=data.manifest["group"].to_numpy()[test],
        resamples=intervals.RESAMPLES if config.report.level == "full" else 0,
    )
    results |= {f"test_{key}": value for key, value in found.items()} | {"test_images": len(test)}
    results["test_loss_uncalibrated"] = metrics.log_loss(data.labels[test], plain[test])
    results["test_ece_uncalibrated"] = metrics.expected_calibration_error(data.labels[test], plain[test])
    return results | describe_decision(decision)


def measure_probe(data: Dataset, frozen: Frozen) -> dict[str, float]:
    """Fit the closed-form probe to the images as they are; gives `probe_val_accuracy` and `probe_test_accuracy`.

    It takes a second, and a head that is not at least as good has been trained badly.
    """
    if frozen.images.width > probe.WIDEST:
        return {}
    parts = {split: (frozen.images.rows(data.rows(split)), data.labels[data.rows(split)]) for split in manifest.SPLITS}
    weights = probe.ridge(*parts["train"], *parts["val"], classes=len(data.class_names))
    found = {split: np.mean(probe.classify(weights, parts[split][0]) == parts[split][1]) for split in ("val", "test")}
    return {f"probe_{split}_accuracy": float(value) for split, value in found.items()}


def describe_decision(decision: Decision) -> dict[str, float]:
    """Give the decision as flat numbers."""
    found: dict[str, float] = {"temperature": decision.temperature}
    if decision.point is not None:
        values = decision.point.values()
        found |= {
            key: values[key] for key in ("threshold", "threshold_low", "threshold_high") if values[key] is not None
        }
        found |= {f"val_{key}_at_threshold": values[key] for key in ("recall", "specificity", "precision")}
        found |= {"val_recall_at_threshold_interval_low": values["recall_low"]}
        found |= {"val_recall_at_threshold_interval_high": values["recall_high"]}
    return found


def repeat(config: Config, data: Dataset, frozen: Frozen, first: dict[str, float], directory: Path) -> dict[str, float]:
    """Train the head again with other seeds, on the same features and split, and measure how far the numbers move.

    Temperature and threshold are chosen anew for each head. The model that is saved is the first.

    Args:
        config: `repeats` counts the first head as well; the seeds follow on from its own.
        data: The images.
        frozen: Their features.
        first: Metrics of the first head.
        directory: `repeats.csv` is written there, a row a head.

    Returns:
        `repeats_<metric>_mean`, `_deviation`, `_lowest` and `_highest` of test metrics; the deviation is the sample's.
    """
    quiet = replace(config, report=replace(config.report, level="light"))
    rows = [{"seed": config.seed} | first]
    for number in range(1, config.repeats):
        again = replace(quiet, seed=config.seed + number)
        log.info("repeat %d of %d, seed %d", number + 1, config.repeats, again.seed)
        everything = np.arange(len(data.rows("train")))
        scores = train_head(again, data, frozen, tracking.Run(), everything).scores
        rows.append({"seed": again.seed} | measure(again, data, scores, decide(again, data, scores)))
    told = [name for name in ("threshold", "temperature", *(f"test_{name}" for name in _SPREAD)) if name in rows[0]]
    table = pd.DataFrame(rows)[["seed", *told]]
    table.to_csv(directory / "repeats.csv", index=False)
    found: dict[str, float] = {"repeats": len(table)}
    for name in told:
        values = table[name].to_numpy(np.float64)
        found |= {
            f"repeats_{name}_mean": float(values.mean()),
            f"repeats_{name}_deviation": float(values.std(ddof=1)),
            f"repeats_{name}_lowest": float(values.min()),
            f"repeats_{name}_highest": float(values.max()),
        }
    return found


def learning_curve(config: Config, data: Dataset, frozen: Frozen, whole: dict[str, float]) -> pd.DataFrame:
    """Train the head on growing parts of the training images: whether more of them would help.

    The parts are drawn by whole groups as far as possible, each within the next. Batches shrink with the part, so that
    all heads take as many steps.

    Args:
        config: Of the run.
        data: The images.
        frozen: Their features.
        whole: Metrics of the head trained on all of them.

    Returns:
        Columns images, val_accuracy, val_loss, test_accuracy; ascending.
    """
    train = data.rows("train")
    labels = data.labels[train]
    groups = np.unique(data.manifest["group"].to_numpy(str)[train], return_inverse=True)[1]
    drawn = np.random.default_rng([config.seed, 0xC0DE]).permutation(groups.max() + 1)[groups]
    quiet = replace(config, report=replace(config.report, level="light"))
    rows = []
    for share in _PARTS:
        of_classes = [np.flatnonzero(labels == index) for index in range(len(data.class_names))]
        ordered = [places[np.argsort(drawn[places], kind="stable")] for places in of_classes]
        part = np.sort(np.concatenate([places[: max(1, round(share * len(places)))] for places in ordered]))
        smaller = replace(quiet, batch_size=max(8, round(share * config.batch_size)))
        scores = train_head(smaller, data, frozen, tracking.Run(), part).scores
        found = probabilities(scores, 1.0)
        row: dict[str, float] = {"images": len(part)}
        for split, names in (("val", ("accuracy", "loss")), ("test", ("accuracy",))):
            chosen = data.rows(split)
            values = metrics.classification_metrics(data.labels[chosen], found[chosen], positive=None)
            row |= {f"{split}_{name}": values[name] for name in names}
        rows.append(row)
    last = {name: whole[name] for name in ("val_accuracy", "val_loss", "test_accuracy")}
    return pd.DataFrame([*rows, {"images": len(train)} | last])


def find_leaks(data: Dataset, directory: Path) -> leaks.Leaks:
    """Report what the split keeps apart and what not; `leaks.csv` gets the closest pairs."""
    images = data.manifest.iloc[data.real]  # what is drawn on a training image is no leak of another's
    found = leaks.find(images, data.hashes)
    manifest.write(found.pairs, directory / "leaks.csv")
    counts = found.counts
    log.info(
        "leaks: %s groups, the largest of %s images; of the validation and test images %s have a near-identical one "
        "in another part, %s an identical one",
        *(f"{counts[f'leak_{key}']:,}" for key in ("groups", "largest_group", "near_across", "identical_across")),
    )
    return found
