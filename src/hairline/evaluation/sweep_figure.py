"""The figure of a sweep: every job's validation loss over the epochs, and the jobs in their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hairline.evaluation.figures import BLUE, GREEN, GREY, PALE, SKY, VERMILLION, WIDTH_INCHES, fit, styled

_NAMED = 15  # jobs that the ranking names
_COLOURED = (VERMILLION, BLUE, GREEN, SKY)
_LABEL_POINTS = 205.0
_OTHERS = "#C4C4C4"


@styled
def comparison(names: Sequence[str], losses: Sequence[float], histories: Sequence[Mapping[str, np.ndarray]]) -> Figure:
    """Overlay the jobs' curves and rank the jobs, the best at the top.

    Args:
        names: What tells each finished job from the others.
        losses: Validation loss of each job's model, in nats; lower is better.
        histories: Each job's `epoch` and `val_loss`.

    Raises:
        ValueError: If there is no job, or the lengths differ.
    """
    if not len(names) or not len(names) == len(losses) == len(histories):
        raise ValueError(
            f"received {len(names)} names, {len(losses)} losses and {len(histories)} histories; expected one of each "
            "for every job, and at least one job"
        )
    order = np.argsort(np.asarray(losses, dtype=float), kind="stable")
    shown = order[:_NAMED]
    colours = {int(job): _COLOURED[rank] for rank, job in enumerate(order[: len(_COLOURED)])}
    figure = Figure(figsize=(WIDTH_INCHES, max(3.8, 1.4 + 0.3 * len(shown))))
    # Fixed margins: a layout engine would draw everything twice, after every job.
    height = figure.get_figheight()
    margins = {"left": 0.07, "right": 0.96, "wspace": 1.2, "top": 1 - 0.4 / height, "bottom": 0.55 / height}
    curves, ranking = figure.subplots(1, 2, gridspec_kw=margins)
    for job in order[::-1]:  # the best are drawn last, on top
        history, colour = histories[job], colours.get(int(job), _OTHERS)
        marker = "o" if len(history["epoch"]) == 1 else None
        curves.plot(history["epoch"], history["val_loss"], color=colour, linewidth=1.4, marker=marker)
    curves.set(xlabel="epoch", title="Validation loss, every job")
    curves.xaxis.set_major_locator(MaxNLocator(integer=True))
    finite = np.concatenate([np.asarray(history["val_loss"], dtype=float) for history in histories])
    if np.nanmin(finite) > 0 and np.nanmax(finite) > 5 * np.nanmin(finite):
        curves.set_yscale("log")
    places = np.arange(len(shown))
    ranked = np.asarray(losses, dtype=float)[shown]
    ranking.hlines(places, ranked.min() * 0.9, ranked, color=PALE, linewidth=1)
    ranking.scatter(ranked, places, color=[colours.get(int(job), GREY) for job in shown], zorder=3)
    labels = [fit(names[job], _LABEL_POINTS, 8) for job in shown]
    ranking.set_yticks(places, labels, fontsize=8)
    ranking.invert_yaxis()
    ranking.margins(x=0.16)
    if ranked.min() > 0 and ranked.max() > 20 * ranked.min():
        ranking.set_xscale("log")
    else:
        ranking.xaxis.set_major_locator(MaxNLocator(nbins=4))
    for place, loss in zip(places, ranked, strict=True):
        ranking.annotate(f"{loss:.4f}", (loss, place), (6, 0), textcoords="offset points", va="center", fontsize=8)
    left_out = f", best {len(shown)} of {len(order)}" if len(order) > len(shown) else ""
    ranking.set(xlabel="validation loss of the kept epoch", title=f"Jobs{left_out}")
    return figure


def histories(tables: Sequence[pd.DataFrame]) -> list[dict[str, np.ndarray]]:
    """Give what `comparison` draws of each job's `history.csv`."""
    return [{column: table[column].to_numpy(dtype=float) for column in ("epoch", "val_loss")} for table in tables]
