"""Figures of what a model is worth: calibration, training size, and models or data sets beside each other.

They are drawn like those of `figures`, and saved by it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray

from hairline.evaluation import metrics
from hairline.evaluation.figures import BLUE, GREEN, GREY, INK, SKY, VERMILLION, WIDTH_INCHES, fit, styled

_COLOURS = (BLUE, VERMILLION, GREEN, "#CC79A7", SKY, "#E69F00")  # Okabe and Ito 2008
_MARKERS = "osD^vP"


@styled
def calibration(
    labels: NDArray[np.int64], before: NDArray[np.float32], after: NDArray[np.float32], *, temperature: float,
    bins: int = 15, title: str = "Calibration",
) -> Figure:  # fmt: skip
    """Reliability diagrams before and after temperature scaling, side by side.

    Args:
        labels: True classes, int [n].
        before: float [n, classes], with temperature 1.
        after: float [n, classes], of the model that is saved.
        temperature: What lies between them.
        bins: Of confidence.
        title: What was evaluated.
    """
    figure = Figure(figsize=(WIDTH_INCHES, 5.2), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, height_ratios=[3, 1])
    classes = before.shape[1]
    for column, (name, table) in enumerate((("before", before), (f"after (temperature {temperature:.3g})", after))):
        error = metrics.expected_calibration_error(labels, table, bins)
        heading = f"{name}: error {error:.2g}"
        _reliability(panels[0, column], panels[1, column], labels, table, bins, heading)
        panels[1, column].set(xlim=(np.floor(bins / classes + 1e-9) / bins, 1))
    panels[0, 0].set_ylabel("accuracy")
    panels[1, 0].set_ylabel("images (log axis)")
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(f"{fit(title, 400, 13)}: expected calibration error ({len(labels):,} images)")
    return figure


def _reliability(
    axes: Axes, counts: Axes, labels: NDArray[np.int64], table: NDArray[np.float32], bins: int, heading: str
) -> None:
    confidence, accuracy, count = metrics.reliability_bins(labels, table, bins)
    filled = count > 0
    left = np.linspace(0, 1, bins + 1)[:-1][filled]
    right = np.rint(accuracy[filled] * count[filled])
    low, high = metrics.wilson_bounds(right, count[filled])
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfectly calibrated")
    axes.vlines(confidence[filled], low, high, color=INK, linewidth=1.4, label="95 % interval")
    axes.plot(confidence[filled], accuracy[filled], "o", color=BLUE, markeredgecolor="white", markersize=8,
              label="images of a bin of confidence", clip_on=False, zorder=5)  # fmt: skip
    axes.set(ylim=(0, 1.02), title=heading)
    axes.grid(axis="y")
    counts.bar(left, count[filled], 1 / bins, align="edge", color=SKY, edgecolor="white")
    counts.set(yscale="log", ylim=(0.7, 2 * count.max()), xlabel="confidence (highest probability of an image)")
    counts.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    counts.yaxis.set_minor_formatter(NullFormatter())


@styled
def training_size(curve: pd.DataFrame) -> Figure:
    """Accuracy and loss over the number of training images.

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
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
        axes.grid(axis="y")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle("Would more images help? The head trained on parts of them")
    return figure


@styled
def intervals(
    table: pd.DataFrame, metric_names: Sequence[str], *, names: Sequence[str], colours: Sequence[str] | None = None,
    title: str,
) -> Figure:  # fmt: skip
    """Metrics with their intervals: a row a model or data set, a panel a metric.

    Args:
        table: A row an entry; a column a metric, and `<metric>_interval_low` and `_high` where known.
        metric_names: Columns that are shown, at most five.
        names: What each row is called.
        colours: What each row's colour stands for, such as its model; None: all alike.
        title: What is shown.
    """
    rows = len(table)
    figure = Figure(figsize=(WIDTH_INCHES, 1.7 + 0.36 * rows), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(metric_names), sharey=True))
    kinds = list(dict.fromkeys(colours or [""]))
    places = np.arange(rows)
    for axes, metric in zip(panels, metric_names, strict=True):
        values = _column(table, metric)
        low = np.fmin(_column(table, f"{metric}_interval_low"), values)
        high = np.fmax(_column(table, f"{metric}_interval_high"), values)
        for number, kind in enumerate(kinds):
            chosen = np.array([(colours or [""] * rows)[row] == kind for row in range(rows)])
            colour = _COLOURS[number % len(_COLOURS)]
            axes.hlines(places[chosen], low[chosen], high[chosen], color=colour, linewidth=2)
            axes.plot(values[chosen], places[chosen], _MARKERS[number % len(_MARKERS)], color=colour,
                      markeredgecolor="white", markersize=8, label=fit(kind, 200, 9), clip_on=False)  # fmt: skip
        told = metric.removeprefix("test_").replace("_at_threshold", "\nat the threshold").replace("_", " ")
        axes.set_xlabel(told, size=9)
        axes.set_ylim(rows - 0.5, -0.5)
        axes.grid(axis="x")
        axes.locator_params(axis="x", nbins=3)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
        axes.margins(x=0.12)
    panels[0].set_yticks(places, [fit(name, 190, 9) for name in names], size=9)
    if len(kinds) > 1:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(fit(title, 600, 13))
    return figure


def _column(table: pd.DataFrame, name: str) -> NDArray[np.float64]:
    if name not in table:
        return np.full(len(table), np.nan)
    return pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64)
