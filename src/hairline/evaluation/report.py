"""The figures of a run, drawn from its tables."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hairline.data import augmentation, images
from hairline.evaluation import figures, metrics

_PICTURES = 24


def draw(
    folder: Path,
    *,
    manifest: pd.DataFrame,
    labels: np.ndarray,
    probabilities: np.ndarray,
    history: pd.DataFrame,
    class_names: list[str],
    positive: int | None,
    image_size: int,
    augment: dict[str, Any],
    seed: int,
) -> None:
    """Draw samples, curves, confusion matrix, ranking and predictions of the test images.

    Args:
        folder: Where the PNG files go; made where it is missing.
        manifest: With splits.
        labels: int64 [n], class of each row.
        probabilities: float32 [n, classes].
        history: One row an epoch.
        class_names: In the order of the probabilities.
        positive: Index of the positive class; None with several classes.
        image_size: Pixels a side of what the model sees.
        augment: Keys of the configuration group `augment`.
        seed: Chooses which images are shown.
    """
    folder.mkdir(exist_ok=True)
    train, test = (np.flatnonzero(manifest["split"] == split) for split in ("train", "test"))
    figures.save(samples(manifest.iloc[train], image_size, augment, seed), folder / "samples.png")
    figures.save(figures.learning_curves(history), folder / "curves.png")
    truths, found = labels[test], probabilities[test]
    matrix = metrics.confusion_matrix(truths, found.argmax(axis=1), len(class_names))
    figures.save(figures.confusion_matrix(matrix, class_names, title="Test images"), folder / "confusion_matrix.png")
    if positive is not None:
        ranking = figures.ranking_curves(
            truths == positive, found[:, positive], positive_name=class_names[positive], threshold=0.5
        )
        figures.save(ranking, folder / "ranking.png")
    figures.save(
        predictions(manifest.iloc[test], truths, found, class_names, image_size, seed), folder / "predictions.png"
    )


def samples(rows: pd.DataFrame, image_size: int, augment: dict[str, Any], seed: int) -> Figure:
    """Show training images as the model sees them: with augmentation, views beyond the image itself."""
    settings = dict(augment)
    mode, views, view_seed = settings.pop("mode"), settings.pop("views"), settings.pop("seed")
    shown, titles = [], []
    for place, row in enumerate(np.random.default_rng(seed).permutation(len(rows))[:_PICTURES]):
        entry = rows.iloc[row]
        image = images.decode(entry["path"], image_size)
        view = 1 + place if mode == "fresh" else place % views
        if view:
            image = augmentation.view(image, seed=(view_seed, view, int(entry["sha256"][:16], 16)), **settings)
        shown.append(image)
        titles.append(f"{entry['label']}, view {view}" if view else entry["label"])
    told = ", fresh views each epoch" if mode == "fresh" else f", {views} views an image" if views > 1 else ""
    title = f"Training images as the model sees them ({image_size} px{told})"
    return figures.sample_grid(np.stack(shown), titles, title=title)


def predictions(
    rows: pd.DataFrame, truths: np.ndarray, found: np.ndarray, class_names: list[str], image_size: int, seed: int
) -> Figure:
    """Show test predictions: up to half of the places for the surest errors, the rest drawn from the right ones."""
    chosen = found.argmax(axis=1)
    right = chosen == truths
    wrong = np.flatnonzero(~right)
    wrong = wrong[np.argsort(-found[wrong].max(axis=1), kind="stable")]
    good = np.random.default_rng(seed).permutation(np.flatnonzero(right))
    picked = np.concatenate([wrong[: max(_PICTURES // 2, _PICTURES - len(good))], good])[:_PICTURES]
    entries = rows.iloc[picked]
    return figures.prediction_gallery(
        np.stack([images.decode(path, image_size) for path in entries["path"]]),
        entries["label"].tolist(),
        [class_names[index] for index in chosen[picked]],
        found[picked].max(axis=1).tolist(),
        [os.path.basename(path) for path in entries["path"]],
        title=f"Test predictions: {right.sum():,} of {len(right):,} right, {len(wrong):,} wrong",
    )
