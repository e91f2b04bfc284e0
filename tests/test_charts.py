"""Charts of calibration, training size and comparisons: what is drawn is what was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hairline.evaluation import charts, metrics
from tests.test_figures import AWKWARD, drawn, overlaps, scores


def test_calibration_shows_both_errors(tmp_path: Path) -> None:
    labels, score = scores(images=400)
    before = np.column_stack([1 - score, score])
    after = before**0.5 / (before**0.5).sum(axis=1, keepdims=True)
    figure = charts.calibration(labels, before, after, temperature=2.0, title="Test images")
    drawn(figure, tmp_path)
    top = figure.axes[:2]
    for axes, table, name in zip(top, (before, after), ("before", "after"), strict=True):
        error = metrics.expected_calibration_error(labels, table)
        assert axes.get_title().startswith(name)
        assert axes.get_title().endswith(f"error {error:.2g}")
        confidence, accuracy, count = metrics.reliability_bins(labels, table)
        points = next(line for line in axes.lines if line.get_marker() == "o")
        np.testing.assert_allclose(points.get_xdata(), confidence[count > 0])
        np.testing.assert_allclose(points.get_ydata(), accuracy[count > 0])
    assert not overlaps(figure, [axes.title for axes in top])


def test_training_size_draws_every_part(tmp_path: Path) -> None:
    curve = pd.DataFrame(
        {"images": [10, 20, 40], "val_accuracy": [0.7, 0.8, 0.9], "val_loss": [0.6, 0.4, 0.2], "test_accuracy": 0.85}
    )
    figure = charts.training_size(curve)
    drawn(figure, tmp_path)
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines] == [[0.7, 0.8, 0.9], [0.85] * 3]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()][:3] == ["10", "20", "40"]


@pytest.mark.parametrize("rows", [1, 2, 7, 25])
def test_intervals_hold_any_names_and_gaps(rows: int, tmp_path: Path) -> None:
    names = [AWKWARD[row % len(AWKWARD)] for row in range(rows)]
    values = np.linspace(0.5, 1, rows)
    table = pd.DataFrame({"test_auroc": values, "test_recall_at_threshold": np.nan})
    table = table.assign(test_auroc_interval_low=values - 0.1, test_auroc_interval_high=None)
    shown = ["test_auroc", "test_recall_at_threshold"]
    figure = charts.intervals(
        table, shown, names=names, colours=["a" if row % 2 else "b" for row in range(rows)], title="x"
    )
    drawn(figure, tmp_path)
    assert not overlaps(figure, figure.axes[0].get_yticklabels())
    points = sorted(float(y) for line in figure.axes[0].lines for y in line.get_xdata())
    np.testing.assert_allclose(points, values)
    assert "at the threshold" in figure.axes[1].get_xlabel()
