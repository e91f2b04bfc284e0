"""Figures: what is drawn is what was given, whatever it is called."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from hairline.evaluation import figures, metrics
from hairline.model.decision import Decision
from hairline.model.predictions import Predictions

AWKWARD = ["a$b$c_{1}^2", r"\$5 \alpha_", "line\nbreak\ttab", "crack 🏗 裂缝\u200d\x07", "x" * 300, "", "\udcff"]
DECISION = Decision(temperature=2.0, threshold=0.37)


def history(epochs: int, **columns: object) -> pd.DataFrame:
    steps = np.arange(1, epochs + 1)
    table = {"epoch": steps, "loss": 1 / steps, "accuracy": 1 - 0.4 / steps}
    table |= {"val_loss": 1.1 / steps, "val_accuracy": 1 - 0.5 / steps}
    return pd.DataFrame(table | columns)


def pictures(count: int, height: int = 12, width: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def predictions(
    images: int = 300, apart: float = 1.0, names: list[str] | None = None, positive: int | None = 1
) -> Predictions:
    """Predictions that separate the classes by `apart`."""
    names = names or ["sound", "cracked"]
    generator = np.random.default_rng(images)
    labels = np.arange(images) % len(names)
    logits = generator.normal(size=(images, len(names))) + 2 * apart * np.eye(len(names))[labels]
    return Predictions(labels, logits, names, positive, np.arange(images), np.full(images, "test"))


def positive_scores(values: Predictions) -> np.ndarray:
    return values.probabilities(DECISION.temperature)[:, 1]


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def drawn(figure: Figure, tmp_path: Path) -> np.ndarray:
    """Save, so that every text is laid out, and return the pixels."""
    with Image.open(figures.save(figure, tmp_path / "figure.png")) as image:
        image.load()
        assert (image.format, image.width) == ("PNG", 1080)
        return np.asarray(image.convert("RGB"))


def laid_out(figure: Figure) -> None:
    """Compute the layout, and raise its warnings."""
    figure.draw_without_rendering()


def overlaps(figure: Figure, chosen: list[Text]) -> list[tuple[object, object]]:
    """Return the pairs of texts whose boxes on the page intersect."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in chosen if text.get_text()]
    return [(a, b) for index, a in enumerate(boxes) for b in boxes[:index] if a.overlaps(b)]


def small() -> Figure:
    return figures.sample_grid(pictures(1), ["a"], title="Small")


def test_saving_makes_folders_replaces_and_repeats_to_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.png"
    assert figures.save(figures.sample_grid(pictures(9), ["a"] * 9, title="Nine"), path) == path
    before = path.read_bytes()
    figures.save(small(), path)
    first = path.read_bytes()
    assert figures.save(small(), path).read_bytes() == first != before
    assert [entry.name for entry in path.parent.iterdir()] == ["b.png"]


@pytest.mark.slow
def test_no_figure_stays_open_and_no_setting_changes(tmp_path: Path) -> None:
    code = """
import sys, numpy as np, matplotlib, pathlib
from matplotlib import pyplot
before = matplotlib.rcParams.copy()
from hairline.evaluation import figures
figures.save(figures.sample_grid(np.zeros((1, 8, 8, 3), np.uint8), ["a"], title="b"), pathlib.Path(sys.argv[1]))
print(pyplot.get_fignums(), matplotlib.rcParams.copy() == before)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "figure.png")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[] True\n"


def test_learning_curves_mark_the_best_epoch(tmp_path: Path) -> None:
    table = history(12)
    table.loc[6, "val_loss"] = 0.01
    figure = figures.learning_curves(table)
    for axes, quantity in zip(figure.axes, ("loss", "accuracy"), strict=True):
        lines = [line for line in axes.lines if len(line.get_xdata()) == 12]
        assert lines[0].get_ydata().tolist() == table[quantity].tolist()
        assert lines[1].get_ydata().tolist() == table[f"val_{quantity}"].tolist()
        (star,) = [line for line in axes.lines if line.get_marker() == "*"]
        assert star.get_xydata().tolist() == [[7, table[f"val_{quantity}"][6]]]
    assert figure.get_suptitle() == "Learning curves: best validation loss 0.01 at epoch 7"
    solved = figures.learning_curves(table, "iteration")
    assert solved.get_suptitle() == "Learning curves: best validation loss 0.01 at iteration 7"
    assert [axes.get_xlabel() for axes in solved.axes] == ["iteration", "iteration"]
    drawn(figure, tmp_path)
    ticks = [tick for tick in figure.axes[0].get_xticks() if 0.5 <= tick <= 12.5]
    assert ticks == [int(tick) for tick in ticks]


@pytest.mark.parametrize(("epochs", "missing"), [(1, []), (6, [2, 3]), (6, range(6))])
def test_learning_curves_of_one_epoch_or_missing_values(epochs: int, missing: list[int]) -> None:
    table = history(epochs)
    table.loc[list(missing), ["val_loss", "val_accuracy"]] = np.nan
    if len(missing) == epochs:
        table[["loss", "accuracy"]] = np.nan
    figure = figures.learning_curves(table)
    laid_out(figure)
    assert ("best" in figure.get_suptitle()) == (len(missing) < epochs)


def test_phases_after_the_first_are_shaded() -> None:
    figure = figures.learning_curves(history(7, phase=["head"] * 4 + ["fine-tune"] * 2 + ["last"]))
    for axes in figure.axes:
        assert [(band.get_x(), band.get_width()) for band in axes.patches] == [(4.5, 2), (6.5, 1)]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"phase: fine-tune", "phase: last"} < set(legend)
    assert not figures.learning_curves(history(3, phase=["head"] * 3)).axes[0].patches


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.9), (0.99, 1.0), (1.0, 1.0)])
def test_accuracy_fills_its_axis(low: float, high: float) -> None:
    values = np.linspace(low, high, 8)
    figure = figures.learning_curves(history(8, accuracy=values, val_accuracy=values))
    laid_out(figure)
    bottom, top = figure.axes[1].get_ylim()
    assert bottom < low <= high < top < 1.01
    assert top - bottom < 1.3 * (high - low) + 0.001


def test_a_loss_over_decades_is_logarithmic() -> None:
    losses = ([1, 0.5, 0.3], [1, 0.1, 0.001], [1, 0.1, 0.0])
    scales = [figures.learning_curves(history(3, loss=loss)).axes[0].get_yscale() for loss in losses]
    assert scales == ["linear", "log", "linear"]


def test_training_size_draws_every_part(tmp_path: Path) -> None:
    curve = pd.DataFrame(
        {"images": [10, 20, 40], "val_accuracy": [0.7, 0.8, 0.9], "val_loss": [0.6, 0.4, 0.2], "test_accuracy": 0.85}
    )
    figure = figures.training_size(curve)
    drawn(figure, tmp_path)
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines] == [[0.7, 0.8, 0.9], [0.85] * 3]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()][:3] == ["10", "20", "40"]
    perfect = figures.training_size(curve.assign(val_accuracy=1.0, test_accuracy=1.0))
    assert perfect.axes[0].get_ylim()[1] < 1.01  # no accuracy lies above 1


def test_a_sweep_ranks_its_jobs(tmp_path: Path) -> None:
    losses = [0.3, 0.1, 0.2, *np.linspace(0.4, 0.9, 15)]
    names = [f"job {number} {AWKWARD[number % len(AWKWARD)]}" for number in range(len(losses))]
    figure = figures.sweep(names, losses, [history(1 + number % 2) for number in range(len(losses))])
    drawn(figure, tmp_path)
    curves, ranking = figure.axes
    assert len(curves.lines) == 18
    assert [label.get_text()[:5] for label in ranking.get_yticklabels()][:3] == ["job 1", "job 2", "job 0"]
    assert texts(ranking)[0] == "0.1000"
    assert ranking.get_title() == "Jobs, best 15 of 18"
    assert not overlaps(figure, ranking.get_yticklabels())


@pytest.mark.parametrize("classes", [2, 20])
def test_every_count_and_share(classes: int) -> None:
    names = [f"class number {index}" for index in range(classes)]
    values = predictions(4000, 0.8, names, positive=None)
    figure = figures.confusion_matrix(values, Decision(), title="Test split")
    (axes,) = figure.axes
    matrix = sklearn.metrics.confusion_matrix(values.labels, values.logits.argmax(axis=1))
    assert len(axes.texts) == classes**2
    for text in axes.texts:
        column, row = text.get_position()
        count, share = text.get_text().split("\n")
        assert count == f"{matrix[row, column]:,}"
        expected = 100 * matrix[row, column] / matrix[row].sum()
        assert float(share.strip("<>%")) == pytest.approx(expected, abs=0.06 if classes <= 10 else 1)
    laid_out(figure)
    assert not overlaps(figure, [*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels()])
    assert axes.get_yticklabels()[0].get_text().endswith(f"({matrix[0].sum():,})")


def test_every_cell_can_be_read() -> None:
    """The contrast of text is at least 4.5, as WCAG 2.2 asks."""
    labels = np.repeat(np.arange(20), 100)
    predicted = np.concatenate([np.where(np.arange(100) < 5 * row, (row + 1) % 20, row) for row in range(20)])
    values = Predictions.of(labels, 0.9 * np.eye(20)[predicted] + 0.005, [str(index) for index in range(20)], None)
    (axes,) = figures.confusion_matrix(values, Decision(), title="x").axes
    used = set()
    for text in axes.texts:
        column, row = text.get_position()
        share = ((labels == row) & (predicted == column)).sum() / 100
        colour = np.array(axes.images[0].cmap(share)[:3])
        linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
        luminance = linear @ [0.2126, 0.7152, 0.0722]
        used.add(text.get_color())
        assert (1.05 / (luminance + 0.05) if text.get_color() == "white" else luminance / 0.05 + 1) >= 4.4
    assert used == {"black", "white"}


def test_the_threshold_decides_the_confusion_matrix_and_a_class_may_be_missing() -> None:
    values = Predictions.of(np.array([0, 0]), np.array([[0.7, 0.3], [0.5, 0.5]]), ["a", "b"], 1)
    figure = figures.confusion_matrix(values, Decision(threshold=0.4, abstain=[0.2, 0.6]), title="x")
    assert texts(figure.axes[0]) == ["1\n50.0%", "1\n50.0%", "0\n–", "0\n–"]
    laid_out(figure)


def test_scores_are_counted_by_class(tmp_path: Path) -> None:
    values = predictions(500)
    figure = figures.score_histogram(values, DECISION, title="Test")
    (axes,) = figure.axes
    for index, bars in enumerate(axes.containers):
        expected, _ = np.histogram(positive_scores(values)[values.labels == index], 40, (0, 1))
        assert [bar.get_height() for bar in bars] == expected.tolist()
        assert bars.get_label() == f"{['sound', 'cracked'][index]} (250 images)"
    assert [line.get_xdata()[0] for line in axes.lines] == [0.37]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("probability of cracked", "images")
    drawn(figure, tmp_path)


def test_many_images_get_a_log_axis_and_a_class_may_be_missing() -> None:
    figure = figures.score_histogram(predictions(6000, 4), DECISION, title="Many")
    assert figure.axes[0].get_yscale() == "log"
    values = predictions(10)
    laid_out(figures.score_histogram(values.select(values.labels == 0), DECISION, title="One class"))


def test_ranking_curves_hold_the_operating_point(tmp_path: Path) -> None:
    values = predictions()
    labels, scores = values.labels, positive_scores(values)
    figure = figures.ranking_curves(values, DECISION, title="Test")
    roc, trade = figure.axes
    decided = scores >= 0.37
    recall = decided[labels == 1].mean()
    points = [line.get_xydata()[0] for axes in (roc, trade) for line in axes.lines if line.get_marker() == "o"]
    assert points[0] == pytest.approx([decided[labels == 0].mean(), recall])
    assert points[1] == pytest.approx([recall, labels[decided].mean()])
    curve = max(roc.lines, key=lambda line: len(line.get_xdata())).get_xydata()
    area = sklearn.metrics.roc_auc_score(labels, scores)
    assert np.trapezoid(curve[:, 1], curve[:, 0]) == pytest.approx(area)
    assert f"AUROC {area:.4f}" in [text.get_text() for text in roc.get_legend().get_texts()]
    assert "cracked" in figure.get_suptitle()
    drawn(figure, tmp_path)


def test_a_crowded_corner_is_enlarged() -> None:
    figure = figures.ranking_curves(predictions(2000, 2.4), Decision(threshold=0.4), title="Test")
    for axes in figure.axes:
        (inset,) = axes.child_axes
        assert inset.get_xlim()[1] - inset.get_xlim()[0] <= 0.2
        assert [line.get_marker() for line in inset.lines] == ["None", "o"]
    laid_out(figure)


def test_an_operating_point_without_positives_is_left_out() -> None:
    figure = figures.ranking_curves(predictions(), Decision(threshold=1.0), title="Test")
    assert not [line for axes in figure.axes for line in axes.lines if line.get_marker() == "o"]


@pytest.mark.parametrize("classes", [2, 4])
def test_calibration_shows_both_errors(classes: int, tmp_path: Path) -> None:
    values = predictions(400, 0.3, [str(index) for index in range(classes)], positive=None)
    figure = figures.calibration(values, DECISION, title="Test images")
    drawn(figure, tmp_path)
    top = figure.axes[:2]
    for axes, name, temperature in zip(top, ("before", "after"), (1.0, 2.0), strict=True):
        table = values.probabilities(temperature)
        error = metrics.probability_metrics(values.labels, table)["ece"]
        assert axes.get_title().startswith(name)
        assert axes.get_title().endswith(f"error {error:.2g}")
        confidence, accuracy, count = metrics.reliability_bins(values.labels, table)
        points = next(line for line in axes.lines if line.get_marker() == "o")
        np.testing.assert_allclose(points.get_xydata(), np.column_stack([confidence, accuracy])[count > 0])
        assert axes.get_xlim()[0] <= 1 / classes
    assert not overlaps(figure, [axes.title for axes in top])


@pytest.mark.parametrize("rows", [1, 7, 25])
def test_metric_intervals_hold_any_names_and_gaps(rows: int, tmp_path: Path) -> None:
    names = [AWKWARD[row % len(AWKWARD)] for row in range(rows)]
    values = np.linspace(0.5, 1, rows)
    table = pd.DataFrame({"test_auroc": values, "test_recall_at_threshold": np.nan})
    table = table.assign(test_auroc_interval_low=values - 0.1, test_auroc_interval_high=None)
    table["test_auroc_interval_groups"] = 12 + np.arange(rows)
    groups = ["a" if row % 2 else "b" for row in range(rows)]
    shown = ["test_auroc", "test_recall_at_threshold"]
    figure = figures.metric_intervals(table, shown, names=names, groups=groups, title="x")
    drawn(figure, tmp_path)
    assert not overlaps(figure, figure.axes[0].get_yticklabels())
    full = [line for line in figure.axes[0].lines if line.get_markeredgecolor() == "white"]
    points = sorted(float(y) for line in full for y in line.get_xdata())
    np.testing.assert_allclose(points, values)
    assert "at the threshold" in figure.axes[1].get_xlabel()
    assert "few groups: 12" in figure.axes[0].get_xlabel()


def test_a_value_without_an_interval_does_not_look_certain() -> None:
    table = pd.DataFrame({"test_f1": [0.7, 0.8, np.nan], "test_f1_interval_low": [0.6, np.nan, np.nan]})
    table["test_f1_interval_high"] = [0.9, np.nan, np.nan]
    figure = figures.metric_intervals(table, ["test_f1"], names=list("abc"), title="x")
    laid_out(figure)
    (axes,) = figure.axes
    (hollow,) = [line for line in axes.lines if line.get_markeredgecolor() != "white"]
    assert hollow.get_xydata().tolist() == [[0.8, 1.0]]
    assert "hollow: no interval" in axes.get_xlabel()


@pytest.mark.parametrize(("count", "columns"), [(1, 8), (9, 4)])
def test_every_image_has_its_title(count: int, columns: int) -> None:
    images = pictures(count)
    names = [f"name {index}" for index in range(count)]
    figure = figures.sample_grid(images, names, columns=columns, title="Samples")
    (axes,) = figure.axes
    for shown, image in zip(axes.images, images, strict=True):
        assert np.array_equal(shown.get_array(), image)
    assert texts(axes) == names
    laid_out(figure)
    assert not overlaps(figure, [*figure.texts, *axes.texts])
    for shown, text in zip(axes.images, axes.texts, strict=True):  # each below its own image
        left, _, bottom, _ = shown.get_extent()
        assert text.get_position()[0] == left
        assert 0 < bottom - text.get_position()[1] < 10


def test_right_and_wrong_predictions_differ(tmp_path: Path) -> None:
    figure = figures.prediction_gallery(
        pictures(2), ["cracked", "sound"], ["cracked", "cracked"], [0.992, 0.73], ["a.jpg", "b.jpg"], title="Test"
    )
    (axes,) = figure.axes
    right, wrong = ["✓", "cracked 99.2%", "a.jpg"], ["✗", "cracked 73.0%", "truth: sound", "b.jpg"]
    assert texts(axes) == right + wrong
    frames = [patch.get_edgecolor() for patch in axes.patches]
    assert frames[0] != frames[1]
    drawn(figure, tmp_path)


def test_captions_keep_to_their_image(tmp_path: Path) -> None:
    count, name = 14, "a very long name of a class or file_" * 4
    figure = figures.prediction_gallery(
        pictures(count, 16, 16), ["y" * 90] * count, [name] * count, [0.9995] * count, [name] * count, title="t" * 400
    )
    drawn(figure, tmp_path)
    captions = [text for text in figure.axes[0].texts if text.get_text() not in "✓✗"]
    assert not overlaps(figure, [*figure.texts, *captions])
    assert all("…" in text.get_text() for text in captions)


def test_any_name_in_any_figure(tmp_path: Path) -> None:
    """Warnings are errors here, and a missing glyph is one; the user's own settings must not matter."""
    count = len(AWKWARD)
    two, many = predictions(names=AWKWARD[2:4]), predictions(names=AWKWARD, positive=None)
    with matplotlib.rc_context({"font.family": ["monospace"], "figure.facecolor": "black", "savefig.facecolor": "red"}):
        for figure in (
            figures.confusion_matrix(many, Decision(), title=AWKWARD[3]),
            figures.prediction_gallery(
                pictures(count), AWKWARD[::-1], AWKWARD, [0.5] * count, AWKWARD, title=AWKWARD[0]
            ),
            figures.score_histogram(two, DECISION, title=AWKWARD[6]),
            figures.ranking_curves(two, DECISION, title=AWKWARD[1]),
            figures.calibration(two, DECISION, title=AWKWARD[0]),
            figures.learning_curves(history(3, phase=["head", *AWKWARD[2:4]])),
        ):
            laid_out(figure)
        pixels = drawn(figures.sample_grid(pictures(count), AWKWARD, title=AWKWARD[4]), tmp_path)
        assert pixels[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("name", ["a$b$c", r"\$5", "$", "$$x$"])
def test_dollars_are_dollars(name: str) -> None:
    text = figures.sample_grid(pictures(1), [name], title="Dollars").axes[0].texts[0]
    assert text._preprocess_math(text.get_text()) == (name, False)


def test_unknown_characters_become_boxes_and_long_names_lose_their_middle() -> None:
    figure = figures.sample_grid(pictures(2), ["crack\n裂缝 \x07é", "ends.jpg" * 40], title="Names")
    replaced, shortened = texts(figure.axes[0])
    assert replaced == "crack □□ é"
    assert shortened.startswith("ends.jpg")
    assert shortened.endswith("ends.jpg")
    assert shortened.count("…") == 1
