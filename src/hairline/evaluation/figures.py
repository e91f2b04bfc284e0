"""Figures of a training and its predictions, 1080 pixels wide when saved: for the MLflow UI and a README.

Every function returns a `matplotlib.figure.Figure` and leaves no trace: pyplot, which keeps figures and a
window system alive, is never imported. Names from file systems are shown as they are: no mathematics in a
`$`, no line break, no missing glyph, and an ellipsis in the middle where there is no room.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, ScalarFormatter
from numpy.typing import ArrayLike, NDArray

from hairline.evaluation import metrics
from hairline.system import files

WIDTH_INCHES = 9.0
DOTS_PER_INCH = 120
FONT = "DejaVu Sans"  # comes with matplotlib: figures look the same everywhere
# Okabe and Ito 2008, "Color universal design": told apart with every kind of colour vision.
BLUE, VERMILLION, GREEN, SKY = "#0072B2", "#D55E00", "#009E73", "#56B4E9"
INK, GREY, PALE = "#222222", "#6B6B6B", "#E4E4E4"

# A decorator that holds while a figure is built or drawn and then gives matplotlib's own settings back.
styled = matplotlib.rc_context(
    {
        "font.family": [FONT],
        "font.size": 10,
        "text.usetex": False,
        "text.color": INK,
        "figure.facecolor": "white",
        "figure.titlesize": 13,
        "figure.titleweight": "normal",  # the bold font has fewer characters than `_printable` checks
        "savefig.facecolor": "white",
        "figure.constrained_layout.h_pad": 0.06,
        "figure.constrained_layout.w_pad": 0.09,
        "axes.facecolor": "white",
        "axes.edgecolor": GREY,
        "axes.labelcolor": INK,
        "axes.titlesize": 11,
        "axes.titleweight": "normal",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": PALE,
        "xtick.color": INK,
        "ytick.color": INK,
        "legend.fontsize": 9,
        "legend.edgecolor": PALE,
    }
)


@styled
def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as PNG, 1080 pixels wide, whole or not at all; missing folders are made.

    Raises:
        ValueError: The path does not end in .png.
    """
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise ValueError(f"Received the figure path {target}; expected one that ends in .png. Rename it.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic(target) as file:
        # A third of the time of the usual compression, for files a tenth larger.
        quick = {"compress_level": 3}
        figure.savefig(file, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None}, pil_kwargs=quick)
    return target


@styled
def learning_curves(history: pd.DataFrame, *, monitor: str = "val_loss") -> Figure:
    """Loss and accuracy over the epochs, training against validation, with the best validation epoch marked.

    Args:
        history: One row an epoch: `epoch loss accuracy val_loss val_accuracy`, loss in nats, and perhaps
            `phase` (such as head, fine-tune), whose later values are shaded. Numbers may be missing.
        monitor: The column that decides the best epoch, lowest for a loss and highest otherwise.

    Raises:
        ValueError: A column is missing or there is no row.
    """
    wanted = {"epoch", "loss", "accuracy", "val_loss", "val_accuracy", monitor}
    if missing := sorted(wanted - set(history.columns)) or history.empty:
        raise ValueError(
            f"Received a history of {len(history)} rows with the columns {list(history.columns)}, "
            f"missing {missing or 'rows'}; expected one row an epoch. Pass the history.csv of a run."
        )
    figure = Figure(figsize=(WIDTH_INCHES, 4.2), layout="constrained")
    epochs = history["epoch"].to_numpy(dtype=float)
    judged = history[monitor].to_numpy(dtype=float, na_value=np.nan)
    best = None
    if np.isfinite(judged).any():
        best = int(np.nanargmin(judged) if monitor.endswith("loss") else np.nanargmax(judged))
    handles: dict[str, Any] = {}
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        handles |= _shade_phases(axes, history)
        drawn = []
        for column, label, colour in (
            (quantity, "training", BLUE),
            (f"val_{quantity}", "validation", VERMILLION),
        ):
            values = history[column].to_numpy(dtype=float, na_value=np.nan)
            marker = "o" if len(epochs) <= 40 else None
            (handles[label],) = axes.plot(epochs, values, color=colour, marker=marker, markersize=3.5, linewidth=1.6)
            drawn.append(values)
        if best is not None:
            axes.axvline(epochs[best], color=GREY, linewidth=1, linestyle=":")
            (handles[f"best epoch ({_name_of(monitor)})"],) = axes.plot(
                epochs[best], drawn[1][best], "*", color=VERMILLION, markeredgecolor=INK, markersize=13,
                clip_on=False, zorder=5, linestyle="none",
            )  # fmt: skip
        _scale_quantity(axes, quantity, np.concatenate(drawn))
        axes.set_xlim(epochs.min() - 0.5, epochs.max() + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=9, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
        axes.set(xlabel="epoch", title=quantity.capitalize())
        axes.grid(axis="y")
    found = "" if best is None else f": best {_name_of(monitor)} {judged[best]:.4g} at epoch {epochs[best]:g}"
    figure.suptitle(f"Learning curves{found}")
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=6, frameon=False)
    return figure


@styled
def sample_grid(images: ArrayLike, titles: Sequence[str], *, columns: int = 8, title: str) -> Figure:
    """Images as the model receives them, each with a line of text beneath.

    Args:
        images: uint8 `[n, height, width, 3]`, RGB.
        titles: One text an image, such as its class.
        columns: Images in a row.
        title: What is shown.

    Raises:
        ValueError: The images have another shape or type, or there is not one title an image.
    """
    pictures = _pictures(images, titles=titles)
    figure, cells, width_points = _picture_grid(pictures, columns, 1, title)
    for axes, text in zip(cells, titles, strict=True):
        _caption(axes, 0, fit(text, width_points, 8), size=8)
    return figure


@styled
def confusion_matrix(matrix: ArrayLike, class_names: Sequence[str], *, title: str = "Confusion matrix") -> Figure:
    """Counts and their share of the true class, coloured by that share.

    Args:
        matrix: int `[C, C]`, rows truth, columns predicted; two to about twenty classes.
        class_names: One name a row.
        title: What was evaluated.

    Raises:
        ValueError: The matrix is not square, or there is not one name a row.
    """
    counts = np.asarray(matrix)
    classes = len(class_names)
    if counts.shape != (classes, classes) or classes == 0:
        raise ValueError(
            f"Received a matrix of shape {counts.shape} for {classes} class names; expected "
            f"[{classes}, {classes}]. Make it with metrics.confusion_matrix and the number of classes."
        )
    support = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, support, out=np.full(counts.shape, np.nan), where=support > 0)
    height = float(np.clip(0.42 * classes, 2.4, 9))
    figure = Figure(figsize=(WIDTH_INCHES, 1.6 + height), layout="constrained")
    axes = figure.subplots()
    colours = matplotlib.colormaps["Blues"].with_extremes(bad=PALE)
    axes.imshow(np.ma.masked_invalid(shares), cmap=colours, vmin=0, vmax=1, aspect="auto")
    cell_points = (72 * WIDTH_INCHES - 190) / classes
    decimals = 1 if classes <= 10 else 0
    longest = max(4 + 2 * decimals, *(len(f"{count:,}") for count in counts.flat))
    size = float(np.clip(min(cell_points / (0.68 * longest), 72 * height / classes / 3), 5, 13))
    inks = [[_readable(colour) for colour in row] for row in colours(np.ma.masked_invalid(shares))]
    for (row, column), count in np.ndenumerate(counts):
        text = f"{count:,}\n{percent(shares[row, column], decimals)}"
        axes.text(column, row, text, ha="center", va="center", size=size, color=inks[row][column],
                  linespacing=1.3, in_layout=False)  # fmt: skip
    upright = classes <= 6
    axes.set_xticks(
        range(classes), [fit(name, cell_points - 8 if upright else 110, 10) for name in class_names],
        rotation=0 if upright else 90,
    )  # fmt: skip
    totals = support.ravel()
    axes.set_yticks(
        range(classes),
        [f"{fit(name, 120, 10)} ({total:,})" for name, total in zip(class_names, totals, strict=True)],
    )
    axes.set_xticks(np.arange(1, classes) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, classes) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2 if upright else 1)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="predicted class (percentages: share of the true class)", ylabel="true class (images)")
    figure.suptitle(fit(title, 600, 13))
    return figure


@styled
def prediction_gallery(
    images: ArrayLike, truths: Sequence[str], predictions: Sequence[str], probabilities: Sequence[float],
    names: Sequence[str] | None = None, *, title: str, columns: int = 6,
) -> Figure:  # fmt: skip
    """Images with what the model made of them; right and wrong differ in sign, frame and colour.

    Args:
        images: uint8 `[n, height, width, 3]`, RGB.
        truths: True class of each; an empty text where it is unknown, which gets neither sign.
        predictions: Predicted class of each.
        probabilities: Probability of the predicted class, in `[0, 1]`.
        names: File name of each.
        title: What is shown.
        columns: Images in a row.

    Raises:
        ValueError: The images have another shape or type, or a list has another length.
    """
    shown = ["" for _ in predictions] if names is None else names
    pictures = _pictures(images, truths=truths, predictions=predictions, probabilities=probabilities, names=shown)
    figure, cells, width_points = _picture_grid(pictures, columns, 2 if names is None else 3, title)
    for axes, truth, predicted, probability, name in zip(cells, truths, predictions, probabilities, shown, strict=True):
        sign, colour = ("✓", GREEN) if truth == predicted else ("✗", VERMILLION)
        if not truth:
            sign, colour = "", GREY
        axes.spines[:].set(visible=True, color=colour, linewidth=3)
        if sign:
            badge = {"boxstyle": "square,pad=0.25", "facecolor": colour, "edgecolor": "none"}
            axes.text(0.07, 0.93, sign, color="white", size=12, ha="center", va="center", bbox=badge,
                      transform=axes.transAxes)  # fmt: skip
        _caption(axes, 0, f"{fit(predicted, width_points - 46, 9)} {percent(probability)}", size=9)
        wrong = bool(truth) and truth != predicted
        if wrong:
            _caption(axes, 1, fit(f"truth: {truth}", width_points, 9), size=9, color=VERMILLION)
        _caption(axes, 1 + wrong, fit(name, width_points, 7.5), size=7.5, color=GREY)
    return figure


@styled
def score_histogram(
    labels: ArrayLike, scores: ArrayLike, class_names: Sequence[str], threshold: float | None = None, *,
    positive: int = 1, title: str = "Scores by true class",
) -> Figure:  # fmt: skip
    """How far the classes are apart: the probability of one class, where it is true and where it is not.

    Args:
        labels: True classes, int `[n]` in `0..C-1`.
        scores: float `[n]`, probability of the class `positive`.
        class_names: One name a class.
        threshold: Operating point, drawn as a line.
        positive: The class that the scores belong to.
        title: What was evaluated.

    Raises:
        ValueError: The arrays differ in length.
    """
    true, values = np.asarray(labels), np.asarray(scores, dtype=float)
    if true.shape != values.shape or true.ndim != 1:
        raise ValueError(
            f"Received labels of shape {true.shape} and scores of shape {values.shape}; expected one "
            "number an image in both. Pass one column of the probabilities."
        )
    figure = Figure(figsize=(WIDTH_INCHES, 4.0), layout="constrained")
    axes = figure.subplots()
    edges = np.linspace(0, 1, 41)
    highest = 1
    rest = class_names[1 - positive] if len(class_names) == 2 else "other classes"
    for name, inside, colour in (
        (rest, true != positive, BLUE),
        (class_names[positive], true == positive, VERMILLION),
    ):
        count, _ = np.histogram(values[inside], edges)
        highest = max(highest, int(count.max()))
        label = f"{fit(name, 150, 9)} ({count.sum():,} images)"
        axes.bar(edges[:-1], count, np.diff(edges), align="edge", color=colour, alpha=0.5, label=label)
        axes.stairs(np.where(count, count, np.nan), edges, color=colour, linewidth=1.4)
    if threshold is not None:
        axes.axvline(threshold, color=INK, linestyle="--", linewidth=1.4, label=f"threshold {threshold:.3g}")
    scale = _count_axis(axes, highest)
    axes.set(xlim=(0, 1), ylabel=f"images{scale}", xlabel=f"probability of {fit(class_names[positive], 300, 10)}")
    axes.grid(axis="y")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(fit(title, 600, 13))
    return figure


@styled
def ranking_curves(
    labels01: ArrayLike, scores: ArrayLike, *, positive_name: str, threshold: float | None = None,
    title: str = "Ranking",
) -> Figure:  # fmt: skip
    """ROC and precision-recall curves with the operating point; a corner too full is enlarged.

    Args:
        labels01: int `[n]`, 1 for positive.
        scores: float `[n]`, higher is more positive.
        positive_name: Name of the positive class.
        threshold: Positive is decided where the score is at least this.
        title: What was evaluated.

    Raises:
        ValueError: As in `metrics.ranking_points`, or only one class occurs.
    """
    thresholds, true_positives, false_positives = metrics.ranking_points(labels01, scores)
    positives, negatives = int(true_positives[-1]), int(false_positives[-1])
    if not positives or not negatives:
        raise ValueError(
            f"Received {positives} positive and {negatives} negative images; expected some of both, or "
            "no curve is defined. Leave this figure out of a report on one class."
        )
    recall, false_rate = true_positives / positives, false_positives / negatives
    precision = true_positives / (true_positives + false_positives)
    share = positives / (positives + negatives)
    figure = Figure(figsize=(WIDTH_INCHES, 4.8), layout="constrained")
    roc, trade = figure.subplots(1, 2)
    roc.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="chance")
    trade.axhline(share, color=GREY, linestyle="--", linewidth=1, label=f"chance ({percent(share)})")
    area, average = metrics.auroc(labels01, scores), metrics.average_precision(labels01, scores)
    passed = 0 if threshold is None else int(np.searchsorted(-thresholds, -threshold, side="right"))
    at = f"threshold {threshold:.3g}:\nrecall {percent(recall[passed - 1])}, " if passed else ""
    _ranking_curve(roc, false_rate, recall, passed, f"AUROC {_below_one(area)}",
                   f"{at}false positives {percent(false_rate[passed - 1])}", rising=True)  # fmt: skip
    _ranking_curve(trade, recall, precision, passed, f"average precision {_below_one(average)}",
                   f"{at}precision {percent(precision[passed - 1])}", rising=False)  # fmt: skip
    roc.legend(loc="lower right")
    trade.legend(loc="lower left")
    roc.set(title="ROC", xlabel="false positive rate", ylabel="recall (true positive rate)")
    trade.set(title="Precision and recall", xlabel="recall", ylabel="precision")
    figure.suptitle(f"{fit(title, 250, 13)}: {fit(positive_name, 250, 13)} against the rest")
    return figure


@styled
def reliability_diagram(
    labels: ArrayLike, probabilities: ArrayLike, *, bins: int = 15, title: str = "Reliability"
) -> Figure:
    """Accuracy against confidence: calibrated bars end on the diagonal; whiskers are 95 % Wilson intervals.

    Args:
        labels: True classes, int `[n]` in `0..C-1`.
        probabilities: float `[n, C]`, rows in `[0, 1]` that sum to 1.
        bins: Number of equally wide bins of confidence.
        title: What was evaluated.

    Raises:
        ValueError: As in `metrics.reliability_bins`.
    """
    confidence, accuracy, count = metrics.reliability_bins(labels, probabilities, bins)
    error = metrics.expected_calibration_error(labels, probabilities, bins)
    figure = Figure(figsize=(WIDTH_INCHES, 5.6), layout="constrained")
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    edges = np.linspace(0, 1, bins + 1)
    filled = count > 0
    left, width = edges[:-1][filled], 1 / bins
    share, sure = accuracy[filled], confidence[filled]
    axes.bar(left, share, width, align="edge", color=SKY, edgecolor="white", label="accuracy")
    axes.bar(left, sure - share, width, bottom=share, align="edge", color="none", edgecolor=VERMILLION,
             hatch="///", linewidth=1, label="gap to the mean confidence")  # fmt: skip
    for middle, right, total in zip(left + width / 2, share, count[filled], strict=True):
        axes.vlines(middle, *metrics.wilson_interval(round(right * total), int(total)), color=INK, linewidth=1.4)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfectly calibrated")
    axes.set(ylim=(0, 1.02), ylabel="accuracy")
    axes.grid(axis="y")
    counts.bar(left, count[filled], width, align="edge", color=GREY, edgecolor="white")
    scale = _count_axis(counts, int(count.max()))
    # Of C classes the likeliest has a probability of 1/C at least: nothing can lie left of that.
    lowest = edges[int(np.floor(bins / np.asarray(probabilities).shape[1] + 1e-9))]
    counts.set(xlim=(lowest, 1), ylabel=f"images{scale}", xlabel="confidence (highest probability of an image)")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(f"{fit(title, 350, 13)}: expected calibration error {error:.2g} ({count.sum():,} images)")
    return figure


def _shade_phases(axes: Axes, history: pd.DataFrame) -> dict[str, Any]:
    """Bands behind the phases after the first, and what the legend says about them."""
    if "phase" not in history:
        return {}
    phases = history["phase"].fillna("").astype(str)
    greys = ["#EFEFEF", "#DDDDDD"]
    bands: dict[str, Any] = {}
    starts = np.flatnonzero((phases != phases.shift()).to_numpy())[1:]
    for index, start in enumerate(starts):
        epochs = history["epoch"].to_numpy(dtype=float)
        stop = starts[index + 1] if index + 1 < len(starts) else len(epochs)
        band = axes.axvspan(epochs[start] - 0.5, epochs[stop - 1] + 0.5, color=greys[index % 2], zorder=0, linewidth=0)
        axes.axvline(epochs[start] - 0.5, color=GREY, linewidth=1, linestyle="--")
        bands[f"phase: {fit(phases.iloc[start], 120, 9)}"] = band
    return bands


def _scale_quantity(axes: Axes, quantity: str, values: NDArray[np.float64]) -> None:
    values = values[np.isfinite(values)]
    if quantity == "accuracy":
        axes.set_ylabel("accuracy")
        axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
        if len(values):
            low, high = values.min(), values.max()
            room = 0.06 * max(high - low, 0.005)
            axes.set_ylim(low - room, min(high + room, 1 + room / 3))
        return
    # A loss that falls a hundredfold shows its last epochs on a logarithmic axis alone.
    if len(values) and values.min() > 0 and values.max() / values.min() > 20:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylabel("loss (nats, log axis)")
    else:
        axes.set_ylabel("loss (nats)")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _name_of(column: str) -> str:
    return fit(column.replace("val_", "validation ", 1).replace("_", " "), 200, 9)


def _count_axis(axes: Axes, highest: int) -> str:
    """Logarithmic where a few images stand beside many, and what the label adds then."""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if highest < 50:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
        return ""
    axes.set_yscale("log")
    axes.set_ylim(0.7, highest * 1.6)
    axes.yaxis.set_major_locator(LogLocator(numticks=6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    return " (log axis)"


def _ranking_curve(
    axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], passed: int, label: str, point_label: str,
    *, rising: bool,
) -> None:  # fmt: skip
    """One curve, its operating point (the last of the `passed` first), its corner enlarged if too full."""
    inset = _zoom(axes, x, y, left=rising)
    for panel in (axes,) if inset is None else (axes, inset):
        # Average precision counts each precision over the recall gained there: steps, not slopes.
        panel.plot(np.r_[0, x], np.r_[0 if rising else y[0], y], color=BLUE, linewidth=1.8, label=label,
                   drawstyle="default" if rising else "steps-pre", clip_on=panel is inset)  # fmt: skip
        if passed:
            panel.plot(x[passed - 1], y[passed - 1], "o", color=VERMILLION, markersize=8, markeredgecolor=INK,
                       zorder=5, label=point_label, clip_on=panel is inset)  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.grid()


def _zoom(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], *, left: bool) -> Axes | None:
    """An enlarged upper corner, where the curve comes too close to it to be told apart."""
    distance = np.maximum(x if left else 1 - x, 1 - y).min()
    size = 4 * float(distance)
    if not 0 < size <= 0.2:
        return None
    limits = (0, size) if left else (1 - size, 1)
    inset = axes.inset_axes((0.4 if left else 0.14, 0.4, 0.52, 0.46), xlim=limits, ylim=(1 - size, 1 + size / 40))
    inset.tick_params(labelsize=8)
    inset.locator_params(nbins=4)
    inset.spines[:].set_visible(True)
    for axis in (inset.xaxis, inset.yaxis):
        axis.set_major_formatter(ScalarFormatter(useOffset=False))
    axes.indicate_inset_zoom(inset, edgecolor=GREY)
    return inset


def _pictures(images: ArrayLike, **companions: Sequence[Any]) -> NDArray[np.uint8]:
    pictures = np.asarray(images)
    if pictures.ndim != 4 or pictures.shape[3] != 3 or pictures.dtype != np.uint8 or not len(pictures):
        raise ValueError(
            f"Received images of shape {pictures.shape} and type {pictures.dtype}; expected uint8 [images, "
            "height, width, 3] with one image at least. Pass what the decoder returns, before any scaling."
        )
    for name, values in companions.items():
        if len(values) != len(pictures):
            raise ValueError(
                f"Received {len(pictures)} images and {len(values)} {name}; expected as many. "
                "Take both from the same rows."
            )
    return pictures


def _picture_grid(
    pictures: NDArray[np.uint8], columns: int, lines: int, title: str
) -> tuple[Figure, list[Axes], float]:
    """A figure, its axes with the pictures, and their width in points.

    They are placed by hand: constrained layout takes seconds for 64.
    """
    if columns < 1:
        raise ValueError(f"Received columns={columns}; expected at least 1. Eight suit a page.")
    columns = min(columns, max(len(pictures), 4))
    rows = -(-len(pictures) // columns)
    margin, gap, heading, caption = 0.12, 0.14, 0.5, 0.08 + 0.165 * lines
    width = (WIDTH_INCHES - 2 * margin - (columns - 1) * gap) / columns
    height = width * pictures.shape[1] / pictures.shape[2]
    total = heading + rows * (height + caption + gap)
    figure = Figure(figsize=(WIDTH_INCHES, total))
    figure.text(0.5, 1 - 0.5 * heading / total, fit(title, 600, 13), size=13, ha="center", va="center")
    cells = []
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        left = margin + column * (width + gap)
        bottom = total - heading - row * (height + caption + gap) - height
        axes = figure.add_axes(
            (left / WIDTH_INCHES, bottom / total, width / WIDTH_INCHES, height / total), xticks=[], yticks=[]
        )
        axes.imshow(picture, aspect="auto", interpolation="antialiased")
        axes.spines[:].set_visible(False)
        cells.append(axes)
    return figure, cells, 72 * width


def _caption(axes: Axes, line: int, text: str, *, size: float, color: str = INK) -> None:
    axes.annotate(
        text, (0, 0), (0, -5 - 11.9 * line), xycoords="axes fraction", textcoords="offset points", size=size,
        color=color, va="top",
    )  # fmt: skip


def _readable(colour: NDArray[np.float64]) -> str:
    """Black or white, whichever contrasts more (relative luminance of WCAG 2.2; both are equal at 0.179)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return "black" if float(np.dot(linear, [0.2126, 0.7152, 0.0722])) > 0.179 else "white"


def percent(share: float, decimals: int = 1) -> str:
    """A percentage that says 0 and 100 only when it is meant."""
    smallest = 10.0 ** (-2 - decimals)
    if np.isnan(share):
        return "–"
    if 0 < share < smallest:
        return f"<{smallest:.{decimals}%}"
    if 1 - smallest < share < 1:
        return f">{1 - smallest:.{decimals}%}"
    return f"{share:.{decimals}%}" if 0 < share < 1 else f"{share:.0%}"


def _below_one(value: float) -> str:
    return ">0.9999" if 0.9999 < value < 1 else f"{value:.4f}"


def fit(text: str, width_points: float, size: float) -> str:
    """A text in one line of at most this width, shortened in the middle, safe from mathtext."""
    text = _printable(text)
    if len(text) > 400:
        text = text[:200] + text[-200:]
    kept, shown = len(text), text
    while kept > 2 and sum(map(_character_width, shown)) * size > width_points:
        kept -= 1
        shown = text[: (kept + 1) // 2] + "…" + text[len(text) - kept // 2 :]
    return shown.replace("$", r"\$")


def _printable(text: str) -> str:
    """In one line, with the characters of the font: others become a box, invisible ones go."""
    one_line = " ".join(str(text).split())
    known = _characters()
    return "".join(
        character if ord(character) in known else "□"
        for character in one_line
        if ord(character) in known or unicodedata.category(character)[0] not in "CM"
    )


@cache
def _characters() -> frozenset[int]:
    return frozenset(get_font(findfont(FONT)).get_charmap())


@cache
def _character_width(character: str) -> float:
    """Width in points at a size of one point."""
    font = get_font(findfont(FONT))
    font.set_size(100, 72)
    font.set_text(character)
    return float(font.get_width_height()[0] / 64 / 100) if character != " " else 0.32
