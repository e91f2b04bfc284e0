"""Figures of a training run, of predictions and of comparisons, 1080 pixels wide when saved.

Every function returns a `matplotlib.figure.Figure` that pyplot does not know, so nothing has to be closed. Names from
file systems appear as they are: `$` starts no mathematics, line breaks become spaces, and long names are shortened in
the middle.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, ScalarFormatter
from numpy.typing import NDArray
from sklearn.metrics import (
    ConfusionMatrixDisplay,
    PrecisionRecallDisplay,
    RocCurveDisplay,
    average_precision_score,
    roc_auc_score,
)
from sklearn.metrics import confusion_matrix as count_classes

from hairline.evaluation import metrics
from hairline.model.decision import Decision, describe_groups
from hairline.model.predictions import Predictions
from hairline.system import files

if TYPE_CHECKING:
    from hairline.model.structure import Block

WIDTH_INCHES = 9.0
DOTS_PER_INCH = 120
FONT = "DejaVu Sans"  # part of matplotlib: figures look the same everywhere
# Okabe and Ito 2008, "Color universal design": distinguishable with every kind of colour vision.
BLUE, VERMILLION, GREEN, SKY = "#0072B2", "#D55E00", "#009E73", "#56B4E9"
COLOURS = (BLUE, VERMILLION, GREEN, "#CC79A7", SKY, "#E69F00")
INK, GREY, LIGHT, PALE = "#222222", "#6B6B6B", "#C4C4C4", "#E4E4E4"
_MARKERS = "osD^vP"
_DARK_CELL = 0.72  # share from which on white text on "Blues" has more contrast than black text
_RANKED_JOBS = 15

# A decorator: these settings hold while a figure is built or saved, and matplotlib's own afterwards.
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
_THOUSANDS = FuncFormatter(lambda value, _: f"{value:,.0f}")
_SHORT = FuncFormatter(lambda value, _: f"{value:.4g}")


@styled
def save(figure: Figure, path: Path) -> Path:
    """Save a figure as PNG, atomically; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # compress_level=3 takes a third of the time of the default, for files a tenth larger.
    options: dict[str, Any] = {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": 3}}
    with files.atomic(path) as file:
        figure.savefig(file, format="png", dpi=DOTS_PER_INCH, **options)
    return path


# Training


@styled
def learning_curves(history: pd.DataFrame, step: str = "epoch") -> Figure:
    """Draw loss and accuracy over the epochs for training and validation, with the epoch of the best validation loss.

    Args:
        history: One row an epoch: `epoch loss accuracy val_loss val_accuracy`, losses in nats, and optionally `phase`
            (head, fine-tune), whose later values are shaded. Values may be missing.
        step: What a row is: an epoch, or an iteration of a solver.
    """
    figure = Figure(figsize=(WIDTH_INCHES, 4.2), layout="constrained")
    epochs = history["epoch"].to_numpy(dtype=float)
    val_loss = history["val_loss"].to_numpy(dtype=float, na_value=np.nan)
    best = int(np.nanargmin(val_loss)) if np.isfinite(val_loss).any() else None
    handles: dict[str, Any] = {}
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        handles |= _shade_phases(axes, history)
        columns = [history[name].to_numpy(dtype=float, na_value=np.nan) for name in (quantity, f"val_{quantity}")]
        marker = "o" if len(epochs) <= 40 else None
        for values, label, colour in zip(columns, ("training", "validation"), (BLUE, VERMILLION), strict=True):
            (handles[label],) = axes.plot(epochs, values, color=colour, marker=marker, markersize=3.5, linewidth=1.6)
        if best is not None:
            axes.axvline(epochs[best], color=GREY, linewidth=1, linestyle=":")
            (handles[f"best {step} (validation loss)"],) = axes.plot(
                epochs[best], columns[1][best], "*", color=VERMILLION, markeredgecolor=INK, markersize=13,
                clip_on=False, zorder=5, linestyle="none",
            )  # fmt: skip
        _scale_quantity(axes, quantity, np.concatenate(columns))
        axes.set_xlim(epochs.min() - 0.5, epochs.max() + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=9, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
        axes.set(xlabel=step, title=quantity.capitalize())
        axes.grid(axis="y")
    result = "" if best is None else f": best validation loss {val_loss[best]:.4g} at {step} {epochs[best]:g}"
    figure.suptitle(f"Learning curves{result}")
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=6, frameon=False)
    return figure


@styled
def model_structure(blocks: Sequence[Block], *, title: str) -> Figure:
    """Draw the blocks of a model from pixels to probabilities: layers, output shapes, parameters, what was trained.

    Args:
        blocks: In order; `inputs` are numbers of earlier blocks.
        title: Title of the figure.
    """
    figure = Figure(figsize=(WIDTH_INCHES, 1.3 + 0.62 * len(blocks)), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 100), ylim=(len(blocks) - 0.4, -0.9))
    axes.set_axis_off()
    left, right = 2, 90
    for x, text, align in (
        (left + 2, "layers", "left"), (57, "output", "center"), (74, "parameters", "right"), (80, "", "left"),
    ):  # fmt: skip
        axes.text(x, -0.6, text, color=GREY, fontsize=9, ha=align, va="center")
    arrow = {"arrowstyle": "-|>", "color": GREY, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 9}
    for row, block in enumerate(blocks):
        colour = SKY if block.trained else PALE
        box = FancyBboxPatch((left, row - 0.3), right - left, 0.6, boxstyle="round,pad=0,rounding_size=0.12")
        box.set(facecolor=colour, edgecolor=GREY, linewidth=0.8, mutation_aspect=0.05)
        axes.add_patch(box)
        names = block.first if block.layers == 1 else f"{block.first} … {block.last}"
        layers = fit(names, 285, 10) + ("" if block.layers == 1 else f"  ({block.layers} layers)")
        state = ("trained" if block.trained == block.parameters else "partly trained") if block.trained else "frozen"
        axes.text(left + 2, row, layers, va="center")
        axes.text(57, row, " × ".join(map(str, block.shape)), va="center", ha="center")
        axes.text(74, row, f"{block.parameters:,}" if block.parameters else "–", va="center", ha="right")
        axes.text(78, row, state if block.parameters else "", va="center")
        for lane, source in enumerate(block.inputs):
            if source == row - 1:
                axes.annotate("", (46, row - 0.3), (46, source + 0.3), arrowprops=arrow)
            else:  # around the blocks in between
                beside = right + 2.5 + 2 * lane
                axes.plot([right, beside, beside], [source, source, row], color=GREY, linewidth=1)
                axes.annotate("", (right, row), (beside, row), arrowprops=arrow)
    total, trained = (sum(getattr(block, name) for block in blocks) for name in ("parameters", "trained"))
    figure.suptitle(f"{fit(title, 250, 13)}: {total:,} parameters, {trained:,} of them trained")
    return figure


@styled
def training_size(curve: pd.DataFrame) -> Figure:
    """Draw accuracy and loss over the number of training images.

    Args:
        curve: Columns images, val_accuracy, val_loss, test_accuracy; ascending.
    """
    figure = Figure(figsize=(WIDTH_INCHES, 3.9), layout="constrained")
    accuracy, loss = figure.subplots(1, 2)
    images = curve["images"].to_numpy()
    for name, label, colour, marker in (
        ("val_accuracy", "validation", VERMILLION, "o"), ("test_accuracy", "test", BLUE, "s"),
    ):  # fmt: skip
        accuracy.plot(images, curve[name], color=colour, marker=marker, linewidth=1.6, label=label)
    loss.plot(images, curve["val_loss"], color=VERMILLION, marker="o", linewidth=1.6)
    for axes, title in ((accuracy, "Accuracy"), (loss, "Loss on validation (nats)")):
        axes.set(xscale="log", title=title, xlabel="training images (log axis)")
        axes.set_xticks(images, [f"{count:,}" for count in images])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(_SHORT)
        axes.grid(axis="y")
    _scale_quantity(accuracy, "accuracy", curve[["val_accuracy", "test_accuracy"]].to_numpy(dtype=float).ravel())
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle("Would more images help? The head trained on parts of them")
    return figure


@styled
def sweep(names: Sequence[str], losses: Sequence[float], histories: Sequence[pd.DataFrame]) -> Figure:
    """Draw the validation loss of every job of a sweep over the epochs, and rank the jobs, the best at the top.

    Args:
        names: Names of the finished jobs.
        losses: Validation loss of each job's model, in nats.
        histories: `history.csv` of each job: `epoch` and `val_loss`.
    """
    values = np.asarray(losses, dtype=float)
    order = np.argsort(values, kind="stable")
    listed = order[:_RANKED_JOBS]
    colours = dict(zip(order.tolist(), (VERMILLION, BLUE, GREEN, SKY), strict=False))
    figure = Figure(figsize=(WIDTH_INCHES, max(3.8, 1.4 + 0.3 * len(listed))))
    # Fixed margins: a layout engine would draw everything twice, after every job.
    height = figure.get_figheight()
    margins = {"left": 0.07, "right": 0.96, "wspace": 1.2, "top": 1 - 0.4 / height, "bottom": 0.55 / height}
    curves, ranking = figure.subplots(1, 2, gridspec_kw=margins)
    for job in order[::-1]:  # the best are drawn last, on top
        history, marker = histories[job], "o" if len(histories[job]) == 1 else None
        colour = colours.get(int(job), LIGHT)
        curves.plot(history["epoch"], history["val_loss"], color=colour, linewidth=1.4, marker=marker)
    curves.set(xlabel="epoch", title="Validation loss, every job")
    curves.xaxis.set_major_locator(MaxNLocator(integer=True))
    all_losses = np.concatenate([history["val_loss"].to_numpy(dtype=float) for history in histories])
    if np.nanmin(all_losses) > 0 and np.nanmax(all_losses) > 5 * np.nanmin(all_losses):
        curves.set_yscale("log")
    places, ranked = np.arange(len(listed)), values[listed]
    ranking.hlines(places, ranked.min() * 0.9, ranked, color=PALE, linewidth=1)
    ranking.scatter(ranked, places, color=[colours.get(int(job), GREY) for job in listed], zorder=3)
    ranking.set_yticks(places, [fit(names[job], 205, 8) for job in listed], fontsize=8)
    ranking.invert_yaxis()
    ranking.margins(x=0.16)
    if ranked.min() > 0 and ranked.max() > 20 * ranked.min():
        ranking.set_xscale("log")
    else:
        ranking.xaxis.set_major_locator(MaxNLocator(nbins=4))
    for place, loss in zip(places, ranked, strict=True):
        ranking.annotate(f"{loss:.4f}", (loss, place), (6, 0), textcoords="offset points", va="center", fontsize=8)
    best = f", best {len(listed)} of {len(order)}" if len(order) > len(listed) else ""
    ranking.set(xlabel="validation loss of the best epoch", title=f"Jobs{best}")
    return figure


def _shade_phases(axes: Axes, history: pd.DataFrame) -> dict[str, Any]:
    """Shade the phases after the first; return their legend entries."""
    if "phase" not in history:
        return {}
    phases, epochs = history["phase"].fillna("").astype(str), history["epoch"].to_numpy(dtype=float)
    starts = np.flatnonzero((phases != phases.shift()).to_numpy())[1:]
    bands: dict[str, Any] = {}
    for index, (start, stop) in enumerate(pairwise([*starts, len(epochs)])):
        band = axes.axvspan(
            epochs[start] - 0.5, epochs[stop - 1] + 0.5, color=("#EFEFEF", "#DDDDDD")[index % 2], zorder=0, linewidth=0
        )
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
    # On a linear axis the last epochs of a loss that falls a hundredfold look flat.
    if len(values) and values.min() > 0 and values.max() / values.min() > 20:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylabel("loss (nats, log axis)")
    else:
        axes.set_ylabel("loss (nats)")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


# Predictions


@styled
def confusion_matrix(predictions: Predictions, decision: Decision, *, title: str) -> Figure:
    """Draw counts and their share of the true class, coloured by that share; without the abstain band."""
    names = predictions.class_names
    classes = len(names)
    probabilities = predictions.probabilities(decision.temperature)
    predicted = decision.classes(probabilities, predictions.positive, abstain=False)
    counts = count_classes(predictions.labels, predicted, labels=range(classes))
    support = counts.sum(axis=1)
    shares = counts / np.maximum(support, 1)[:, None]
    height = float(np.clip(0.42 * classes, 2.4, 9))
    figure = Figure(figsize=(WIDTH_INCHES, 1.6 + height), layout="constrained")
    axes = figure.subplots()
    display = ConfusionMatrixDisplay(shares).plot(
        ax=axes, cmap="Blues", colorbar=False, im_kw={"vmin": 0, "vmax": 1, "aspect": "auto"}
    )
    cell_points = (72 * WIDTH_INCHES - 190) / classes
    decimals = 1 if classes <= 10 else 0
    longest = max(4 + 2 * decimals, *(len(f"{count:,}") for count in counts.flat))
    size = float(np.clip(min(cell_points / (0.68 * longest), 72 * height / classes / 3), 5, 13))
    for (row, column), text in np.ndenumerate(display.text_):
        share = percent(shares[row, column], decimals) if support[row] else "–"
        text.set(text=f"{counts[row, column]:,}\n{share}", size=size, linespacing=1.3, in_layout=False)
        text.set_color("white" if shares[row, column] > _DARK_CELL else "black")
    upright = classes <= 6
    axes.set_xticks(
        range(classes), [fit(name, cell_points - 8 if upright else 110, 10) for name in names],
        rotation=0 if upright else 90,
    )  # fmt: skip
    axes.set_yticks(
        range(classes), [f"{fit(name, 120, 10)} ({total:,})" for name, total in zip(names, support, strict=True)]
    )
    axes.set_xticks(np.arange(1, classes) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, classes) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2 if upright else 1)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="predicted class (percentages: share of the true class)", ylabel="true class (images)")
    threshold = "" if decision.threshold is None else f" at the threshold {decision.threshold:.3g}"
    figure.suptitle(fit(f"{title}{threshold}", 600, 13))
    return figure


@styled
def score_histogram(predictions: Predictions, decision: Decision, *, title: str) -> Figure:
    """Draw the probability of the positive class by true class, and the threshold; for two classes."""
    names, positive = predictions.class_names, predictions.positive or 0
    truth, scores, threshold = _positive_scores(predictions, decision)
    figure = Figure(figsize=(WIDTH_INCHES, 4.0), layout="constrained")
    axes = figure.subplots()
    edges = np.linspace(0, 1, 41)
    highest = 1
    for index, colour in ((1 - positive, BLUE), (positive, VERMILLION)):
        count, _ = np.histogram(scores[truth == (index == positive)], edges)
        highest = max(highest, int(count.max()))
        label = f"{fit(names[index], 150, 9)} ({count.sum():,} images)"
        axes.bar(edges[:-1], count, np.diff(edges), align="edge", color=colour, alpha=0.5, label=label)
        axes.stairs(np.where(count, count, np.nan), edges, color=colour, linewidth=1.4)
    axes.axvline(threshold, color=INK, linestyle="--", linewidth=1.4, label=f"threshold {threshold:.3g}")
    scale = _count_axis(axes, highest)
    axes.set(xlim=(0, 1), ylabel=f"images{scale}", xlabel=f"probability of {fit(names[positive], 300, 10)}")
    axes.grid(axis="y")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(fit(title, 600, 13))
    return figure


@styled
def ranking_curves(predictions: Predictions, decision: Decision, *, title: str) -> Figure:
    """Draw ROC and precision-recall curves with the operating point; a crowded corner is enlarged.

    Both classes must occur.
    """
    truth, scores, threshold = _positive_scores(predictions, decision)
    figure = Figure(figsize=(WIDTH_INCHES, 4.8), layout="constrained")
    axes = figure.subplots(1, 2)
    chance = {"color": GREY, "linewidth": 1}
    roc = RocCurveDisplay.from_predictions(
        truth, scores, ax=axes[0], plot_chance_level=True, chance_level_kw=chance | {"label": "chance"}
    )
    trade_off = PrecisionRecallDisplay.from_predictions(
        truth, scores, ax=axes[1], plot_chance_level=True,
        chance_level_kw=chance | {"label": f"chance ({percent(truth.mean())})"},
    )  # fmt: skip
    called = scores >= threshold
    recall, false_positives = float(called[truth].mean()), float(called[~truth].mean())
    precision = float(truth[called].mean()) if called.any() else np.nan
    point = f"threshold {threshold:.3g}:\nrecall {percent(recall)}, "
    for panel, display, label, x, y, point_label, corner in (
        (axes[0], roc, f"AUROC {_below_one(roc_auc_score(truth, scores))}", false_positives, recall,
         f"{point}false positives {percent(false_positives)}", 0),
        (axes[1], trade_off, f"average precision {_below_one(average_precision_score(truth, scores))}", recall,
         precision, f"{point}precision {percent(precision)}", 1),
    ):  # fmt: skip
        display.line_.set(color=BLUE, linewidth=1.8, label=label, clip_on=False)
        inset = _enlarged_corner(panel, display.line_, corner)
        for place in (panel,) if inset is None else (panel, inset):
            if called.any():
                place.plot(x, y, "o", color=VERMILLION, markersize=8, markeredgecolor=INK, zorder=5,
                           label=point_label, clip_on=place is inset)  # fmt: skip
        panel.set(xlim=(0, 1), ylim=(0, 1))
        panel.grid()
        panel.legend(loc="lower left" if corner else "lower right")
    axes[0].set(title="ROC", xlabel="false positive rate", ylabel="recall (true positive rate)")
    axes[1].set(title="Precision and recall", xlabel="recall", ylabel="precision")
    figure.suptitle(f"{fit(title, 250, 13)}: {fit(predictions.positive_class or '', 250, 13)} against the rest")
    return figure


@styled
def calibration(predictions: Predictions, decision: Decision, *, title: str) -> Figure:
    """Draw reliability diagrams before and after temperature scaling, side by side (Guo et al. 2017)."""
    figure = Figure(figsize=(WIDTH_INCHES, 5.2), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, height_ratios=[3, 1])
    stages = (("before", 1.0), (f"after (temperature {decision.temperature:.3g})", decision.temperature))
    for column, (name, temperature) in enumerate(stages):
        table = predictions.probabilities(temperature)
        axes, counts = panels[:, column]
        confidence, accuracy, count = metrics.reliability_bins(predictions.labels, table)
        filled = count > 0
        bounds = np.array(metrics.reliability_intervals(predictions, table))[filled]
        confidence, accuracy, count = confidence[filled], accuracy[filled], count[filled]
        axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfectly calibrated")
        axes.vlines(confidence, bounds[:, 0], bounds[:, 1], color=INK, linewidth=1.4, label="95 % interval")
        axes.plot(confidence, accuracy, "o", color=BLUE, markeredgecolor="white", markersize=8,
                  label="images of a bin of confidence", clip_on=False, zorder=5)  # fmt: skip
        error = metrics.probability_metrics(predictions.labels, table)["ece"]
        axes.set(ylim=(0, 1.02), title=f"{name}: error {error:.2g}")
        axes.grid(axis="y")
        width = 1 / metrics.BINS
        counts.bar(np.flatnonzero(filled) * width, count, width, align="edge", color=SKY, edgecolor="white")
        # With C classes the highest probability is at least 1/C.
        lowest = np.floor(metrics.BINS / table.shape[1] + 1e-9) * width
        counts.set(yscale="log", ylim=(0.7, 2 * count.max()), xlim=(lowest, 1))
        counts.set_xlabel("confidence (highest probability of an image)")
        counts.yaxis.set_major_formatter(_THOUSANDS)
        counts.yaxis.set_minor_formatter(NullFormatter())
    panels[0, 0].set_ylabel("accuracy")
    panels[1, 0].set_ylabel("images (log axis)")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(f"{fit(title, 400, 13)}: expected calibration error ({len(predictions):,} images)")
    return figure


def _positive_scores(
    predictions: Predictions, decision: Decision
) -> tuple[NDArray[np.bool_], NDArray[np.float32], float]:
    """Return whether each image is positive, its probability of the positive class, and the threshold."""
    if predictions.positive is None or decision.threshold is None:
        raise TypeError("expected predictions with a positive class and a decision with a threshold")
    scores = predictions.probabilities(decision.temperature)[:, predictions.positive]
    return predictions.labels == predictions.positive, scores, decision.threshold


def _count_axis(axes: Axes, highest: int) -> str:
    """Choose a log axis where small and large counts occur; return the suffix of the axis label."""
    axes.yaxis.set_major_formatter(_THOUSANDS)
    if highest < 50:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
        return ""
    axes.set(yscale="log", ylim=(0.7, highest * 1.6))
    axes.yaxis.set_major_locator(LogLocator(numticks=6))
    axes.yaxis.set_major_formatter(_THOUSANDS)
    axes.yaxis.set_minor_formatter(NullFormatter())
    return " (log axis)"


def _enlarged_corner(axes: Axes, line: Any, corner: int) -> Axes | None:
    """Zoom in on the corner (x = `corner`, y = 1); return None if the curve stays away from it."""
    x, y = line.get_data()
    size = 4 * float(np.maximum(np.abs(x - corner), 1 - y).min())
    if not 0 < size <= 0.2:
        return None
    limits = (1 - size, 1) if corner else (0, size)
    inset = axes.inset_axes((0.14 if corner else 0.4, 0.4, 0.52, 0.46), xlim=limits, ylim=(1 - size, 1 + size / 40))
    inset.plot(x, y, color=BLUE, linewidth=1.8, drawstyle=line.get_drawstyle())
    inset.tick_params(labelsize=8)
    inset.locator_params(nbins=4)
    inset.spines[:].set_visible(True)
    for axis in (inset.xaxis, inset.yaxis):
        axis.set_major_formatter(ScalarFormatter(useOffset=False))
    axes.indicate_inset_zoom(inset, edgecolor=GREY)
    return inset


# Comparisons


@styled
def metric_intervals(
    table: pd.DataFrame, metric_names: Sequence[str], *, names: Sequence[str], groups: Sequence[str] | None = None,
    title: str,
) -> Figure:  # fmt: skip
    """Draw metrics with their intervals: one row a model or data set, one panel a metric.

    A hollow marker is a value whose interval was not computed: a full one would look certain.

    Args:
        table: One row an entry; one column a metric, and `<metric>_interval_low`, `_high` and `_groups` where known.
        metric_names: Columns to draw, at most five.
        names: Name of each row.
        groups: Group of each row, such as its model: one colour and marker a group; None: one group.
        title: Title of the figure.
    """
    rows = len(table)
    figure = Figure(figsize=(WIDTH_INCHES, 1.7 + 0.36 * rows), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(metric_names), sharey=True))
    members = np.array(groups if groups is not None else [""] * rows, dtype=object)
    places = np.arange(rows)
    for axes, metric in zip(panels, metric_names, strict=True):
        values = _numbers(table, metric)
        low = np.fmin(_numbers(table, f"{metric}_interval_low"), values)
        high = np.fmax(_numbers(table, f"{metric}_interval_high"), values)
        hollow = np.isnan(_numbers(table, f"{metric}_interval_low")) & ~np.isnan(values)
        for number, group in enumerate(dict.fromkeys(members)):
            chosen = members == group
            colour = COLOURS[number % len(COLOURS)]
            axes.hlines(places[chosen], low[chosen], high[chosen], color=colour, linewidth=2)
            axes.plot(values[chosen], places[chosen], _MARKERS[number % len(_MARKERS)], color=colour,
                      markeredgecolor="white", markersize=8, label=fit(group, 200, 9), clip_on=False)  # fmt: skip
            if (rest := chosen & hollow).any():
                axes.plot(values[rest], places[rest], _MARKERS[number % len(_MARKERS)], color="white",
                          markeredgecolor=colour, markersize=6, clip_on=False)  # fmt: skip
        words = metric.removeprefix("test_").removesuffix("_at_threshold").replace("_", " ")
        label = fit(words, 200, 9) + "\nat the threshold" * metric.endswith("_at_threshold")
        note = "\nhollow: no interval" if hollow.any() else ""
        axes.set_xlabel(label + _groups_behind(table, metric) + note, size=9)
        axes.set_ylim(rows - 0.5, -0.5)
        axes.grid(axis="x")
        axes.locator_params(axis="x", nbins=3)
        axes.xaxis.set_major_formatter(_SHORT)
        axes.margins(x=0.12)
    panels[0].set_yticks(places, [fit(name, 190, 9) for name in names], size=9)
    if len(set(members)) > 1:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(fit(title, 600, 13))
    return figure


def _groups_behind(table: pd.DataFrame, metric: str) -> str:
    """Return a line with the number of groups behind the intervals of a metric; empty if unknown."""
    groups = _numbers(table, f"{metric}_interval_groups")
    if np.isnan(groups).all():
        return ""
    low, high = int(np.nanmin(groups)), int(np.nanmax(groups))
    return f"\n{describe_groups(low)}" + (f" to {high:,}" if low < high else "")


def _numbers(table: pd.DataFrame, column: str) -> NDArray[np.float64]:
    if column not in table:
        return np.full(len(table), np.nan)
    return pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64)


# Images


@styled
def sample_grid(images: NDArray[np.uint8], titles: Sequence[str], *, columns: int = 8, title: str) -> Figure:
    """Draw images, each with a line of text below it.

    Args:
        images: RGB, uint8 [n, height, width, 3].
        titles: Text below each image.
        columns: Images in a row.
        title: Title of the figure.
    """
    figure, axes, cells = _image_grid(images, columns, 1, title)
    for cell, text in zip(cells, titles, strict=True):
        _caption(axes, cell, 0, fit(text, cell.width, 8), size=8)
    return figure


@styled
def prediction_gallery(
    images: NDArray[np.uint8], truths: Sequence[str], predictions: Sequence[str], probabilities: Sequence[float],
    names: Sequence[str], *, title: str, columns: int = 6,
) -> Figure:  # fmt: skip
    """Draw images with their predictions; right and wrong ones differ in sign, frame and colour.

    Args:
        images: RGB, uint8 [n, height, width, 3].
        truths: True class of each.
        predictions: Predicted class of each.
        probabilities: Probability of the predicted class.
        names: File name of each.
        title: Title of the figure.
        columns: Images in a row.
    """
    figure, axes, cells = _image_grid(images, columns, 3, title)
    for cell, truth, predicted, probability, name in zip(cells, truths, predictions, probabilities, names, strict=True):
        wrong = truth != predicted
        sign, colour = ("✗", VERMILLION) if wrong else ("✓", GREEN)
        frame = Rectangle((cell.left, cell.bottom), cell.width, cell.height, fill=False, edgecolor=colour, linewidth=3)
        axes.add_patch(frame)
        badge = {"boxstyle": "square,pad=0.25", "facecolor": colour, "edgecolor": "none"}
        place = cell.left + 0.07 * cell.width, cell.bottom + 0.93 * cell.height
        axes.text(*place, sign, color="white", size=12, ha="center", va="center", bbox=badge)
        _caption(axes, cell, 0, f"{fit(predicted, cell.width - 46, 9)} {percent(probability)}", size=9)
        if wrong:
            _caption(axes, cell, 1, fit(f"truth: {truth}", cell.width, 9), size=9, color=VERMILLION)
        _caption(axes, cell, 1 + wrong, fit(name, cell.width, 7.5), size=7.5, color=GREY)
    return figure


class _Cell(NamedTuple):
    """Place of an image on a page, in points from its lower left corner."""

    left: float
    bottom: float
    width: float
    height: float


def _image_grid(images: NDArray[np.uint8], columns: int, lines: int, title: str) -> tuple[Figure, Axes, list[_Cell]]:
    """Return a figure, its axes in points, which cover it, and the places of the images.

    Axes for each image, or constrained layout, would take seconds.
    """
    columns = min(columns, max(len(images), 4))
    rows = -(-len(images) // columns)
    margin, gap, heading, caption = 9, 10, 36, 6 + 12 * lines
    page = 72 * WIDTH_INCHES
    width = (page - 2 * margin - (columns - 1) * gap) / columns
    height = width * images.shape[1] / images.shape[2]
    total = heading + rows * (height + caption + gap)
    figure = Figure(figsize=(WIDTH_INCHES, total / 72))
    figure.text(0.5, 1 - 0.5 * heading / total, fit(title, 600, 13), size=13, ha="center", va="center")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    cells = []
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        cell = _Cell(
            margin + column * (width + gap), total - heading - row * (height + caption + gap) - height, width, height
        )
        cells.append(cell)
        extent = (cell.left, cell.left + width, cell.bottom, cell.bottom + height)
        axes.imshow(image, extent=extent, interpolation="antialiased")
    axes.set(xlim=(0, page), ylim=(0, total), aspect="auto")
    return figure, axes, cells


def _caption(axes: Axes, cell: _Cell, line: int, text: str, *, size: float, color: str = INK) -> None:
    axes.text(cell.left, cell.bottom - 5 - 11.9 * line, text, size=size, color=color, va="top")


# Text


def percent(share: float, decimals: int = 1) -> str:
    """Return a percentage that reads 0 % or 100 % only for exactly none or all.

    >>> percent(0.99999), percent(1), percent(0.5), percent(0.0001), percent(0)
    ('>99.9%', '100%', '50.0%', '<0.1%', '0%')
    """
    smallest = 10.0 ** (-2 - decimals)
    if 0 < share < smallest:
        return f"<{smallest:.{decimals}%}"
    if 1 - smallest < share < 1:
        return f">{1 - smallest:.{decimals}%}"
    return f"{share:.{decimals}%}" if 0 < share < 1 else f"{share:.0%}"


def _below_one(value: float) -> str:
    return ">0.9999" if 0.9999 < value < 1 else f"{value:.4f}"


def fit(text: str, width_points: float, size: float) -> str:
    """Return text in one line of at most this width, shortened in the middle, with `$` escaped for matplotlib."""
    text = _printable(text)
    if len(text) > 400:
        text = text[:200] + text[-200:]
    length, shortened = len(text), text
    while length > 2 and sum(map(_character_width, shortened)) * size > width_points:
        length -= 1
        shortened = text[: (length + 1) // 2] + "…" + text[len(text) - length // 2 :]
    shortened = shortened.replace("$", r"\$")
    return f" {shortened}" if shortened.startswith("_") else shortened  # matplotlib leaves such labels out of legends


def _printable(text: str) -> str:
    """Return text in one line; characters that the font lacks become a box, invisible ones are removed."""
    characters = _font_characters()
    return "".join(
        character if ord(character) in characters else "□"
        for character in " ".join(str(text).split())
        if ord(character) in characters or unicodedata.category(character)[0] not in "CM"
    )


@cache
def _font_characters() -> frozenset[int]:
    return frozenset(get_font(findfont(FONT)).get_charmap())


@cache
def _character_width(character: str) -> float:
    """Return the width in points at a font size of one point."""
    font = get_font(findfont(FONT))
    font.set_size(100, 72)
    font.set_text(character)
    return float(font.get_width_height()[0] / 64 / 100) if character != " " else 0.32
