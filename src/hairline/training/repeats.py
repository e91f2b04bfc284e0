"""How far to trust the figures of a run: other seeds, growing training sets, a linear probe beside the head."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from hairline import config
from hairline.config import arguments
from hairline.data import manifest
from hairline.data.prepare import Dataset
from hairline.evaluation import metrics, thresholds
from hairline.model import probe
from hairline.training.head import FitSettings, Frozen, train_head

log = logging.getLogger(__name__)

_SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of the training images
_SPREAD = ("accuracy", "loss", "auroc", "f1", "recall", "ece", "recall_at_threshold", "balanced_accuracy_at_threshold")


def probe_accuracy(data: Dataset, frozen: Frozen) -> dict[str, float]:
    """Fit a linear probe in closed form to real images; returns `probe_val_accuracy` and `probe_test_accuracy`.

    It takes a second. A head that falls behind it has been trained badly.
    """
    if frozen.images.width > probe.WIDEST:
        return {}
    rows = {split: np.intersect1d(data.rows(split), data.real) for split in manifest.SPLITS}
    parts = {split: (frozen.images.rows(rows[split]), data.labels[rows[split]]) for split in manifest.SPLITS}
    weights = probe.ridge(*parts["train"], *parts["val"], classes=len(data.class_names))
    return {
        f"probe_{split}_accuracy": float(np.mean(probe.classify(weights, parts[split][0]) == parts[split][1]))
        for split in ("val", "test")
    }


def repeat_heads(
    data: Dataset,
    frozen: Frozen,
    settings: FitSettings,
    decision: config.Decision,
    *,
    repeats: int,
    first: dict[str, float],
    directory: Path,
) -> dict[str, float]:
    """Train the head again with other seeds, and measure how much the test metrics vary.

    Temperature and threshold are chosen anew for each head. The model that is saved is the first.

    Args:
        data: The images.
        frozen: Their features.
        settings: How the first head was trained; seeds count upwards from its own.
        decision: How thresholds are chosen.
        repeats: Number of heads, the first one included.
        first: Metrics of the first head.
        directory: `repeats.csv` is written there, one row per head.

    Returns:
        `repeats_<metric>_mean`, `_deviation` (of the sample), `_lowest` and `_highest` of test metrics.
    """
    rows = [{"seed": settings.seed} | first]
    for number in range(1, repeats):
        seed = settings.seed + number
        log.info("repeat %d of %d, seed %d", number + 1, repeats, seed)
        head = train_head(data, frozen, replace(settings, seed=seed))
        predictions = head.predictions(data)
        chosen = thresholds.choose_decision(predictions.select("val"), **arguments(decision), resamples=0)
        rows.append({"seed": seed} | metrics.measure_splits(predictions, chosen, resamples=0))
    names = [name for name in ("threshold", "temperature", *(f"test_{name}" for name in _SPREAD)) if name in rows[0]]
    table = pd.DataFrame(rows)[["seed", *names]]
    table.to_csv(directory / "repeats.csv", index=False)
    summary: dict[str, float] = {"repeats": len(table)}
    for name in names:
        values = table[name].to_numpy(np.float64)
        summary |= {
            f"repeats_{name}_mean": float(values.mean()),
            f"repeats_{name}_deviation": float(values.std(ddof=1)),
            f"repeats_{name}_lowest": float(values.min()),
            f"repeats_{name}_highest": float(values.max()),
        }
    return summary


def learning_curve(data: Dataset, frozen: Frozen, settings: FitSettings, whole: dict[str, float]) -> pd.DataFrame:
    """Train the head on growing parts of the training images, which shows whether more images would help.

    Parts are drawn by whole groups as far as possible, each within the next. Batches shrink with the part, so that all
    heads take as many steps.

    Args:
        data: The images.
        frozen: Their features.
        settings: How the head was trained.
        whole: Metrics of the head trained on all of them.

    Returns:
        Columns images, val_accuracy, val_loss, test_accuracy; ascending.
    """
    train = data.rows("train")
    labels = data.labels[train]
    groups = np.unique(data.manifest["group"].to_numpy(str)[train], return_inverse=True)[1]
    order = np.random.default_rng([settings.seed, 0xC0DE]).permutation(groups.max() + 1)[groups]
    rows = []
    for share in _SHARES:
        by_class = [np.flatnonzero(labels == index) for index in range(len(data.class_names))]
        ordered = [places[np.argsort(order[places], kind="stable")] for places in by_class]
        part = np.sort(np.concatenate([places[: max(1, round(share * len(places)))] for places in ordered]))
        smaller = replace(settings, batch_size=max(1, round(share * settings.batch_size)))
        predictions = train_head(data, frozen, smaller, part=part).predictions(data)
        row: dict[str, float] = {"images": len(part)}
        for split, names in (("val", ("accuracy", "loss")), ("test", ("accuracy",))):
            chosen = predictions.select(split)
            measured = metrics.classification_metrics(chosen.labels, chosen.probabilities(), positive=None)
            row |= {f"{split}_{name}": measured[name] for name in names}
        rows.append(row)
    last = {name: whole[name] for name in ("val_accuracy", "val_loss", "test_accuracy")}
    return pd.DataFrame([*rows, {"images": len(train)} | last])
