"""The figures of a run, drawn from its tables."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from hairline.data import augmentation, images
from hairline.data.manifest import printable
from hairline.evaluation import charts, figures, metrics

if TYPE_CHECKING:
    import keras

    from hairline.evaluation.leaks import Leaks
    from hairline.model.decision import Decision
    from hairline.model.predictions import Predictions

log = logging.getLogger(__name__)

_PICTURES = 24
_PAIRS, _MAPS = 12, 12


def draw_training(
    folder: Path,
    *,
    manifest: pd.DataFrame,
    history: pd.DataFrame,
    image_size: int,
    augment: dict[str, Any],
    seed: int,
    leaks: Leaks,
    split_by: str,
    curve: pd.DataFrame | None,
) -> None:
    """Draw samples, curves, the closest pairs across the split, and accuracy over the number of training images.

    Args:
        folder: Where the PNG files go; made where it is missing.
        manifest: With splits.
        history: One row an epoch.
        image_size: Pixels a side of what the model sees.
        augment: Keys of the configuration group `augment`.
        seed: Chooses which images are shown.
        leaks: Of the split.
        split_by: How it was made.
        curve: Columns images, val_accuracy, val_loss, test_accuracy; None: not measured.
    """
    train = np.flatnonzero(manifest["split"] == "train")
    figures.save(samples(manifest.iloc[train], image_size, augment, seed), folder / "samples.png")
    figures.save(figures.learning_curves(history), folder / "curves.png")
    figures.save(closest_pairs(leaks, image_size, split_by), folder / "leaks.png")
    if curve is not None:
        figures.save(charts.training_size(curve), folder / "learning_curve.png")


def draw_predictions(
    folder: Path,
    *,
    rows: pd.DataFrame,
    predictions: Predictions,
    decision: Decision,
    image_size: int,
    title: str,
    seed: int,
    model: Callable[[], keras.Model],
) -> None:
    """Draw confusion, ranking, scores, calibration, the worst errors, predictions and Grad-CAM.

    Args:
        folder: Where the PNG files go; made where it is missing.
        rows: Manifest rows of the images.
        predictions: Their labels and logits.
        decision: Temperature and threshold.
        image_size: Side of the model's input, pixels.
        title: What was evaluated.
        seed: Chooses which images are shown.
        model: Gives the joined model, for Grad-CAM.
    """
    names, size, positive, labels = predictions.class_names, image_size, predictions.positive, predictions.labels
    probabilities, uncalibrated = predictions.probabilities(decision.temperature), predictions.probabilities()
    threshold, title = decision.threshold, printable(title)
    chosen = probabilities.argmax(axis=1)
    if positive is not None and threshold is not None:
        chosen = np.where(probabilities[:, positive] >= threshold, positive, 1 - positive)
        score, truth = probabilities[:, positive], labels == positive
        histogram = figures.score_histogram(labels, score, names, threshold, positive=positive, title=title)
        figures.save(histogram, folder / "scores.png")
        if truth.any() and not truth.all():
            ranking = figures.ranking_curves(
                truth, score, positive_name=names[positive], threshold=threshold, title=title
            )
            figures.save(ranking, folder / "ranking.png")
    matrix = metrics.confusion_matrix(labels, chosen, len(names))
    at = "" if threshold is None else f" at the threshold {threshold:.3g}"
    figures.save(figures.confusion_matrix(matrix, names, title=f"{title}{at}"), folder / "confusion_matrix.png")
    reliability = charts.calibration(labels, uncalibrated, probabilities, temperature=decision.temperature, title=title)
    figures.save(reliability, folder / "reliability.png")
    figures.save(examples(rows, labels, probabilities, names, size, seed), folder / "predictions.png")
    figures.save(worst_errors(rows, labels, probabilities, chosen, names, size, title), folder / "errors.png")
    attention = heat_maps(rows, labels, probabilities, chosen, names, size, model, seed)
    if attention is not None:
        figures.save(attention, folder / "gradcam.png")


def closest_pairs(leaks: Leaks, image_size: int, split_by: str) -> Figure:
    """Show the most alike images of two parts, side by side."""
    rows = leaks.pairs.head(_PAIRS)
    pairs, titles = [], []
    for row in rows.itertuples():
        both = [images.decode(str(path), image_size) for path in (row.path, row.other_path)]
        pairs.append(np.concatenate(both, axis=1))
        one, two = (os.path.basename(str(path)) for path in (row.path, row.other_path))
        titles.append(f"{row.distance} bits: {row.split} {one}, {row.other_split} {two}")
    across = leaks.counts["leak_near_across"] + leaks.counts["leak_identical_across"]
    title = f"Most alike across the split (by {split_by}): {across:,} near-identical or identical images"
    return figures.sample_grid(np.stack(pairs), titles, columns=3, title=title)


def worst_errors(
    rows: pd.DataFrame,
    truths: np.ndarray,
    found: np.ndarray,
    chosen: np.ndarray,
    class_names: list[str],
    image_size: int,
    title: str,
) -> Figure:
    """Show each cell of the confusion matrix: the surest of the wrong answers, the least sure of the right ones."""
    sure = found[np.arange(len(chosen)), chosen]
    cells = [(truth, answer) for truth in range(len(class_names)) for answer in range(len(class_names))]
    cells.sort(key=lambda cell: cell[0] == cell[1])
    places = max(2, min(6, _PICTURES // len(cells)))
    picked: list[int] = []
    for truth, answer in cells:
        inside = np.flatnonzero((truths == truth) & (chosen == answer))
        order = np.argsort(-sure[inside] if truth != answer else sure[inside], kind="stable")
        picked += inside[order][:places].tolist()
        if len(picked) >= 2 * _PICTURES:  # of many classes the first wrong cells fill the page
            break
    entries = rows.iloc[picked]
    errors = int((truths != chosen).sum())
    wrong = {0: "", 1: "the one error; then "}.get(errors, f"the surest of {errors:,} errors, by kind; then ")
    return figures.prediction_gallery(
        np.stack([images.decode(path, image_size) for path in entries["path"]]),
        [class_names[index] for index in truths[picked]],
        [class_names[index] for index in chosen[picked]],
        sure[picked].tolist(),
        [os.path.basename(path) for path in entries["path"]],
        title=f"{title}: {wrong}the least sure right answers",
    )


def heat_maps(
    rows: pd.DataFrame,
    truths: np.ndarray,
    found: np.ndarray,
    chosen: np.ndarray,
    names: list[str],
    image_size: int,
    model: Callable[[], keras.Model],
    seed: int,
) -> Figure | None:
    """Show what spoke for the answers, wrong ones first; None where the model keeps no map."""
    from hairline.evaluation import gradcam

    wrong = np.flatnonzero(truths != chosen)
    wrong = wrong[np.argsort(-found[wrong, chosen[wrong]], kind="stable")][: _MAPS // 2]
    right = np.random.default_rng(seed).permutation(np.flatnonzero(truths == chosen))
    picked = np.concatenate([wrong, right])[:_MAPS]
    pixels = np.stack([images.decode(path, image_size) for path in rows["path"].iloc[picked]])
    try:
        heat = gradcam.heat_maps(model(), pixels, chosen[picked])
    except gradcam.NoMapError as error:
        log.warning("WARNING: no figure of what speaks for the answers: %s", error)
        return None
    return figures.prediction_gallery(
        np.stack([np.concatenate([one, overlaid(one, two)], axis=1) for one, two in zip(pixels, heat, strict=True)]),
        [names[index] for index in truths[picked]],
        [names[index] for index in chosen[picked]],
        found[picked, chosen[picked]].tolist(),
        [os.path.basename(path) for path in rows["path"].iloc[picked]],
        columns=3,
        title="What spoke for the answer (Grad-CAM: the brighter, the more)",
    )


def overlaid(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay a heat map, float32 [rows, columns] in 0 to 1, over pixels, uint8 [height, width, 3]."""
    height, width = pixels.shape[:2]
    smooth = Image.fromarray(heat.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    # Of viridis's family, told apart with every kind of colour vision, and its lightness alone shows the order.
    coloured = matplotlib.colormaps["inferno"](np.clip(np.asarray(smooth), 0, 1))[..., :3] * 255
    grey = pixels.mean(axis=2, keepdims=True)
    return np.rint(0.45 * grey + 0.55 * coloured).astype(np.uint8)


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


def examples(
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
        title=f"Test predictions by the most probable class: {right.sum():,} right, {len(wrong):,} wrong",
    )
