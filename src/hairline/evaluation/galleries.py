"""The figures of a run and of an evaluation: which ones are drawn, and which images they show."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from hairline.data import augmentation, images
from hairline.data.manifest import printable
from hairline.evaluation import figures
from hairline.model.decision import Decision
from hairline.model.predictions import Predictions

if TYPE_CHECKING:
    from hairline.evaluation.leaks import Leaks
    from hairline.model.structure import Block

log = logging.getLogger(__name__)

HeatMaps = Callable[[NDArray[np.uint8], NDArray[np.int64]], NDArray[np.float32] | None]

_IMAGES, _PAIRS, _MAPS = 24, 12, 12


def draw_images(
    folder: Path,
    *,
    manifest: pd.DataFrame,
    image_size: int,
    augment: dict[str, Any],
    seed: int,
    leaks: Leaks,
    split_by: str,
) -> None:
    """Draw `samples.png` and `leaks.png`: training images, and the closest pairs across the split.

    Args:
        folder: Folder of the PNG files; made if it is missing.
        manifest: With splits.
        image_size: Side of the model's input, pixels.
        augment: Keys of the configuration group `augment`.
        seed: Chooses the images.
        leaks: Leak report of the split.
        split_by: How the images were grouped.
    """
    train = manifest[manifest["split"] == "train"]
    figures.save(training_samples(train, image_size=image_size, augment=augment, seed=seed), folder / "samples.png")
    figures.save(closest_pairs(leaks, image_size=image_size, split_by=split_by), folder / "leaks.png")


def draw_training(folder: Path, history: pd.DataFrame, step: str, curve: pd.DataFrame | None) -> None:
    """Draw `curves.png` and `learning_curve.png`.

    Args:
        folder: Folder of the PNG files; made if it is missing.
        history: One row an epoch.
        step: What a row of the history is: an epoch, or an iteration of a solver.
        curve: Columns images, val_accuracy, val_loss, test_accuracy; None: not measured.
    """
    figures.save(figures.learning_curves(history, step), folder / "curves.png")
    if curve is not None:
        figures.save(figures.training_size(curve), folder / "learning_curve.png")


def draw_model(folder: Path, blocks: Sequence[Block], network: str) -> None:
    """Draw `model.png`.

    Args:
        folder: Folder of the PNG files; made if it is missing.
        blocks: The model's blocks in order.
        network: Name of its backbone.
    """
    figures.save(figures.model_structure(blocks, title=network), folder / "model.png")


@dataclass(frozen=True)
class Shown:
    """Images whose predictions are drawn.

    Attributes:
        rows: Manifest rows of the images.
        predictions: Their labels and logits.
        decision: Temperature and threshold; the abstain band is ignored.
        image_size: Side of the model's input, pixels.
        seed: Chooses the images of the galleries.
    """

    rows: pd.DataFrame
    predictions: Predictions
    decision: Decision
    image_size: int
    seed: int

    @functools.cached_property
    def probabilities(self) -> NDArray[np.float32]:
        """Calibrated probabilities, float32 [n, classes]."""
        return self.predictions.probabilities(self.decision.temperature)

    @functools.cached_property
    def answers(self) -> NDArray[np.int64]:
        """Class of each image at the threshold, int64 [n]."""
        return self.decision.classes(self.probabilities, self.predictions.positive, abstain=False)

    def pixels(self, picked: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the pixels of some images, uint8 [n, image_size, image_size, 3]."""
        return np.stack([images.decode_file(path, None, self.image_size) for path in self.rows["path"].iloc[picked]])

    def gallery(
        self,
        picked: NDArray[np.int64],
        answers: NDArray[np.int64],
        title: str,
        pixels: NDArray[np.uint8],
        columns: int = 6,
    ) -> Figure:
        """Draw some images with label, answer and its probability."""
        names = self.predictions.class_names
        return figures.prediction_gallery(
            pixels,
            [names[index] for index in self.predictions.labels[picked]],
            [names[index] for index in answers[picked]],
            self.probabilities[picked, answers[picked]].tolist(),
            [os.path.basename(path) for path in self.rows["path"].iloc[picked]],
            title=title,
            columns=columns,
        )


def draw_predictions(folder: Path, shown: Shown, title: str) -> None:
    """Draw confusion matrix, ranking, scores, calibration, predictions, and the worst errors.

    Args:
        folder: Folder of the PNG files; made if it is missing.
        shown: The images.
        title: Name of the images.
    """
    title, predictions, decision = printable(title), shown.predictions, shown.decision
    labels, probabilities, answers = predictions.labels, shown.probabilities, shown.answers
    chosen = {"confusion_matrix": figures.confusion_matrix, "reliability": figures.calibration}
    if predictions.positive is not None and decision.threshold is not None:
        chosen["scores"] = figures.score_histogram
        if len(np.unique(labels)) == 2:
            chosen["ranking"] = figures.ranking_curves
    for name, draw in chosen.items():
        figures.save(draw(predictions, decision, title=title), folder / f"{name}.png")

    likeliest = probabilities.argmax(axis=1)
    picked = errors_and_others(labels, likeliest, probabilities, count=_IMAGES, seed=shown.seed)
    right = int((likeliest == labels).sum())
    counts = f"Test predictions by the most probable class: {right:,} right, {len(labels) - right:,} wrong"
    figures.save(shown.gallery(picked, likeliest, counts, shown.pixels(picked)), folder / "predictions.png")

    picked = worst_of_each_cell(labels, answers, probabilities)
    errors = int((labels != answers).sum())
    worst = {0: "", 1: "the one error; then "}.get(errors, f"the surest of {errors:,} errors, by kind; then ")
    worst_title = f"{title}: {worst}the least sure right answers"
    figures.save(shown.gallery(picked, answers, worst_title, shown.pixels(picked)), folder / "errors.png")


def draw_heat(folder: Path, shown: Shown, heat_maps: HeatMaps) -> None:
    """Draw `gradcam.png`: what speaks for the answers, where in the images.

    Args:
        folder: Folder of the PNG files; made if it is missing.
        shown: The images.
        heat_maps: From pixels uint8 [n, height, width, 3] and the answers int64 [n] to what speaks for them, float32
            [n, rows, columns] from 0 to 1; None if the model has no maps.
    """
    labels, answers = shown.predictions.labels, shown.answers
    picked = errors_and_others(labels, answers, shown.probabilities, count=_MAPS, seed=shown.seed)
    pixels = shown.pixels(picked)
    heat = heat_maps(pixels, answers[picked])
    if heat is None:
        log.warning("WARNING: gradcam.png is not drawn: the model's features are not pooled maps")
    else:
        pairs = np.concatenate([pixels, heat_overlays(pixels, heat)], axis=2)
        heat_title = "Evidence for the answer (Grad-CAM: the brighter, the more)"
        figures.save(shown.gallery(picked, answers, heat_title, pairs, columns=3), folder / "gradcam.png")


def errors_and_others(
    labels: NDArray[np.int64], answers: NDArray[np.int64], probabilities: NDArray[np.float32], *, count: int, seed: int
) -> NDArray[np.int64]:
    """Choose images: the surest errors for up to half of the places, then random right answers."""
    wrong = np.flatnonzero(labels != answers)
    wrong = wrong[np.argsort(-probabilities[wrong, answers[wrong]], kind="stable")]
    right = np.random.default_rng(seed).permutation(np.flatnonzero(labels == answers))
    return np.concatenate([wrong[: max(count // 2, count - len(right))], right])[:count]


def worst_of_each_cell(
    labels: NDArray[np.int64], answers: NDArray[np.int64], probabilities: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Choose images of each cell of the confusion matrix: the surest wrong answers, then the least sure right ones."""
    classes = probabilities.shape[1]
    cells = [(truth, answer) for truth in range(classes) for answer in range(classes)]
    cells.sort(key=lambda cell: cell[0] == cell[1])
    places = max(2, min(6, _IMAGES // len(cells)))
    picked: list[int] = []
    for truth, answer in cells:
        inside = np.flatnonzero((labels == truth) & (answers == answer))
        sureness = probabilities[inside, answer]
        picked += inside[np.argsort(-sureness if truth != answer else sureness, kind="stable")][:places].tolist()
        if len(picked) >= 2 * _IMAGES:  # with many classes the first wrong cells fill the page
            break
    return np.array(picked, np.int64)


def heat_overlays(pixels: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Lay heat maps [n, rows, columns] over images, uint8 [n, height, width, 3]."""
    overlays = []
    for image, one in zip(pixels, heat, strict=True):
        smooth = Image.fromarray(one).resize(image.shape[1::-1], Image.Resampling.BICUBIC)
        # Perceptually uniform, and distinguishable with every kind of colour vision.
        coloured = matplotlib.colormaps["inferno"](np.clip(np.asarray(smooth), 0, 1))[..., :3] * 255
        overlays.append(np.rint(0.45 * image.mean(axis=2, keepdims=True) + 0.55 * coloured).astype(np.uint8))
    return np.stack(overlays)


def closest_pairs(leaks: Leaks, *, image_size: int, split_by: str) -> Figure:
    """Draw the most similar images of two splits side by side."""
    pairs, titles = [], []
    for row in leaks.pairs.head(_PAIRS).itertuples():
        paths = [str(row.path), str(row.other_path)]
        pairs.append(np.concatenate([images.decode_file(path, None, image_size) for path in paths], axis=1))
        first, second = map(os.path.basename, paths)
        titles.append(f"{row.distance} bits: {row.split} {first}, {row.other_split} {second}")
    across = leaks.counts["leak_near_across"] + leaks.counts["leak_identical_across"]
    title = f"Most alike across the split (by {split_by}): {across:,} near-identical or identical images"
    return figures.sample_grid(np.stack(pairs), titles, columns=3, title=title)


def training_samples(rows: pd.DataFrame, *, image_size: int, augment: dict[str, Any], seed: int) -> Figure:
    """Draw training images as the model sees them: augmented, except view 0."""
    settings = dict(augment)
    mode, views = settings.pop("mode"), settings.pop("views")
    samples, titles = [], []
    for place, row in enumerate(np.random.default_rng(seed).permutation(len(rows))[:_IMAGES]):
        entry = rows.iloc[row]
        view = 1 + place if mode == "fresh" else place % views
        pixels = images.decode_file(entry["path"], None, image_size)
        samples.append(augmentation.draw(pixels, entry["sha256"], view, settings))
        titles.append(f"{entry['label']}, view {view}" if view else entry["label"])
    mode_text = ", fresh views each epoch" if mode == "fresh" else f", {views} views an image" if views > 1 else ""
    title = f"Training images as the model sees them ({image_size} px{mode_text})"
    return figures.sample_grid(np.stack(samples), titles, title=title)
