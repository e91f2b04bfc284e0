"""Figures: what is drawn is what was given, whatever it was called."""

import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from hairline.evaluation import figures, metrics

AWKWARD = [
    "a$b$c_{1}^2",
    r"\$5 \alpha_",
    "line\nbreak\ttab",
    "crack 🏗 裂缝\u200d\x07",
    "x" * 300,
    "",
    "\udcff",
]


def history(epochs, **columns):
    steps = np.arange(1, epochs + 1)
    table = {"epoch": steps, "loss": 1 / steps, "accuracy": 1 - 0.4 / steps}
    table |= {"val_loss": 1.1 / steps, "val_accuracy": 1 - 0.5 / steps, "learning_rate": 1e-3}
    return pd.DataFrame(table | columns)


def pictures(count, height=12, width=16):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def scores(seed=0, images=300, apart=1.0):
    generator = np.random.default_rng(seed)
    labels = np.arange(images) % 2
    return labels, 1 / (1 + np.exp(-generator.normal(apart * (2 * labels - 1))))


def texts(axes):
    return [text.get_text() for text in axes.texts]


def drawn(figure, tmp_path):
    """Save, so that every text is laid out, and hand the pixels back."""
    with Image.open(figures.save(figure, tmp_path / "figure.png")) as image:
        image.load()
        assert image.format == "PNG"
        assert image.width == 1080
        return np.asarray(image.convert("RGB"))


def laid_out(figure):
    """All that drawing computes and warns about, without the pixels."""
    figure.draw_without_rendering()


def overlaps(figure, chosen):
    """Pairs of texts whose boxes on the page intersect."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in chosen if text.get_text()]
    return [(a, b) for index, a in enumerate(boxes) for b in boxes[:index] if a.overlaps(b)]


def small(images=1):
    return figures.sample_grid(pictures(images), ["a"] * images, title="Small")


class TestSave:
    def test_makes_folders_and_replaces(self, tmp_path):
        path = tmp_path / "a" / "b.png"
        assert figures.save(small(), path) == path
        before = path.read_bytes()
        figures.save(small(9), str(path))
        assert path.read_bytes() != before
        assert [entry.name for entry in path.parent.iterdir()] == ["b.png"]

    def test_same_figure_same_bytes(self, tmp_path):
        first, second = (figures.save(small(), tmp_path / name) for name in ("a.png", "b.png"))
        assert first.read_bytes() == second.read_bytes()

    def test_a_failure_leaves_what_was_there(self, tmp_path, monkeypatch):
        path = tmp_path / "figure.png"
        path.write_bytes(b"old")

        def fail(self, target, **options):
            target.write(b"half of it")
            raise OSError("disk full")

        monkeypatch.setattr(Figure, "savefig", fail)
        with pytest.raises(OSError, match="disk full"):
            figures.save(small(), path)
        assert [entry.name for entry in tmp_path.iterdir()] == ["figure.png"]
        assert path.read_bytes() == b"old"

    def test_other_formats(self, tmp_path):
        with pytest.raises(ValueError, match=r"figure\.pdf; expected one that ends in \.png"):
            figures.save(small(), tmp_path / "figure.pdf")


def test_neither_pyplot_nor_settings_are_touched(tmp_path):
    code = """
import sys, numpy as np, matplotlib
before = matplotlib.rcParams.copy()  # dict(rcParams) would ask for the backend and so load pyplot
from hairline.evaluation import figures
figures.save(figures.confusion_matrix(np.eye(2, dtype=int), ["a", "b"]), sys.argv[1])
print("matplotlib.pyplot" in sys.modules, matplotlib.rcParams.copy() == before)
"""
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "figure.png")]
    received = subprocess.run(command, capture_output=True, text=True, check=True)
    assert received.stdout == "False True\n"


class TestLearningCurves:
    def test_curves_labels_and_the_best_epoch(self, tmp_path):
        table = history(12)
        table.loc[6, "val_loss"] = 0.01
        figure = figures.learning_curves(table)
        loss, accuracy = figure.axes
        assert (loss.get_xlabel(), loss.get_ylabel()[:11]) == ("epoch", "loss (nats,")
        assert accuracy.get_ylabel() == "accuracy"
        for axes, quantity in ((loss, "loss"), (accuracy, "accuracy")):
            lines = [line for line in axes.lines if len(line.get_xdata()) == 12]
            assert lines[0].get_ydata().tolist() == table[quantity].tolist()
            assert lines[1].get_ydata().tolist() == table[f"val_{quantity}"].tolist()
            (star,) = [line for line in axes.lines if line.get_marker() == "*"]
            assert star.get_xydata().tolist() == [[7, table[f"val_{quantity}"][6]]]
        assert figure.get_suptitle() == "Learning curves: best validation loss 0.01 at epoch 7"
        drawn(figure, tmp_path)
        ticks = [tick for tick in loss.get_xticks() if 0.5 <= tick <= 12.5]
        assert ticks == [int(tick) for tick in ticks]
        assert len(ticks) >= 2

    def test_best_by_accuracy(self):
        figure = figures.learning_curves(history(5, val_accuracy=[0.5, 0.9, 0.8, 0.7, 0.6]), monitor="val_accuracy")
        assert "best validation accuracy 0.9 at epoch 2" in figure.get_suptitle()

    def test_one_epoch(self):
        figure = figures.learning_curves(history(1))
        laid_out(figure)
        assert [tick for tick in figure.axes[0].get_xticks() if 0.5 < tick < 1.5] == [1]

    @pytest.mark.parametrize("gone", [[2, 3], range(6)])
    def test_missing_numbers(self, gone):
        table = history(6)
        table.loc[list(gone), ["val_loss", "val_accuracy"]] = np.nan
        figure = figures.learning_curves(table)
        laid_out(figure)
        assert ("best" in figure.get_suptitle()) == (len(gone) < 6)

    def test_nothing_finite_at_all(self):
        table = history(3)
        table[["loss", "accuracy", "val_loss", "val_accuracy"]] = np.nan
        laid_out(figures.learning_curves(table))

    def test_phases_are_bounded(self):
        figure = figures.learning_curves(history(6, phase=["head"] * 4 + ["fine-tune"] * 2))
        for axes in figure.axes:
            (band,) = axes.patches
            assert (band.get_x(), band.get_width()) == (4.5, 2)
            assert any(line.get_xdata()[0] == 4.5 for line in axes.lines)
        assert "phase: fine-tune" in [text.get_text() for text in figure.legends[0].get_texts()]
        laid_out(figure)

    @pytest.mark.parametrize(("low", "high"), [(0.5, 0.9), (0.99, 1.0), (1.0, 1.0)])
    def test_accuracy_fills_its_axis(self, low, high):
        values = np.linspace(low, high, 8)
        figure = figures.learning_curves(history(8, accuracy=values, val_accuracy=values))
        laid_out(figure)
        axes = figure.axes[1]
        bottom, top = axes.get_ylim()
        assert bottom < low
        assert high < top < 1.01
        assert top - bottom < 1.3 * (high - low) + 0.001
        shown = [label.get_text() for label in axes.get_yticklabels()]
        assert len(set(shown)) == len(shown) >= 3

    def test_a_loss_over_decades_is_logarithmic(self):
        scales = [
            figures.learning_curves(history(3, loss=loss)).axes[0].get_yscale()
            for loss in ([1, 0.5, 0.3], [1, 0.1, 0.001], [1, 0.1, 0.0])
        ]
        assert scales == ["linear", "log", "linear"]

    def test_columns(self):
        with pytest.raises(ValueError, match=r"missing \['val_loss'\]; expected one row an epoch"):
            figures.learning_curves(history(3).drop(columns="val_loss"))
        with pytest.raises(ValueError, match="history of 0 rows"):
            figures.learning_curves(history(3).head(0))


class TestSampleGrid:
    @pytest.mark.parametrize(("count", "columns"), [(1, 8), (9, 4)])
    def test_every_image_with_its_title(self, count, columns):
        images = pictures(count)
        names = [f"name {index}" for index in range(count)]
        figure = figures.sample_grid(images, names, columns=columns, title="Samples")
        assert len(figure.axes) == count
        for axes, image, name in zip(figure.axes, images, names, strict=True):
            assert np.array_equal(axes.images[0].get_array(), image)
            assert texts(axes) == [name]
        assert [text.get_text() for text in figure.texts] == ["Samples"]
        laid_out(figure)
        assert not overlaps(figure, [*figure.texts, *(axes.texts[0] for axes in figure.axes)])

    def test_long_titles_keep_to_their_image(self, tmp_path):
        figure = figures.sample_grid(pictures(8), ["W" * 80, "a long class name, really"] * 4, title="t" * 400)
        drawn(figure, tmp_path)
        assert not overlaps(figure, [*figure.texts, *(axes.texts[0] for axes in figure.axes)])

    @pytest.mark.parametrize(
        ("images", "message"),
        [
            (pictures(2).astype(float), "type float64; expected uint8"),
            (pictures(2)[..., 0], "expected uint8"),
            (pictures(0), "one image at least"),
            (pictures(3), "3 images and 2 titles"),
        ],
    )
    def test_errors(self, images, message):
        with pytest.raises(ValueError, match=message):
            figures.sample_grid(images, ["a", "b"], title="Samples")


class TestConfusionMatrix:
    @pytest.mark.parametrize("classes", [2, 20])
    def test_every_count_and_share(self, classes):
        matrix = np.random.default_rng(classes).integers(0, 3000, (classes, classes))
        names = [f"class number {index}" for index in range(classes)]
        figure = figures.confusion_matrix(matrix, names, title="Test split")
        (axes,) = figure.axes
        assert len(axes.texts) == classes**2
        for text in axes.texts:
            column, row = text.get_position()
            count, share = text.get_text().split("\n")
            assert count == f"{matrix[row, column]:,}"
            expected = 100 * matrix[row, column] / matrix[row].sum()
            assert float(share.strip("<>%")) == pytest.approx(expected, abs=0.06 if classes <= 10 else 1)
        assert "predicted" in axes.get_xlabel()
        assert "true" in axes.get_ylabel()
        laid_out(figure)
        assert not overlaps(figure, [*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels()])
        assert axes.get_yticklabels()[0].get_text().endswith(f"({matrix[0].sum():,})")

    def test_every_cell_can_be_read(self):
        """At least the contrast that WCAG 2.2 asks of texts, 4.5."""
        matrix = np.diag(np.arange(5, 101, 5))
        matrix[np.arange(20), np.arange(1, 21) % 20] = np.arange(95, -1, -5)
        (axes,) = figures.confusion_matrix(matrix, [str(index) for index in range(20)]).axes
        used = set()
        for text in axes.texts:
            column, row = text.get_position()
            colour = np.array(axes.images[0].cmap(matrix[row, column] / 100)[:3])
            linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
            luminance = linear @ [0.2126, 0.7152, 0.0722]
            used.add(text.get_color())
            contrast = 1.05 / (luminance + 0.05) if text.get_color() == "white" else luminance / 0.05 + 1
            assert contrast >= 4.5
        assert used == {"black", "white"}

    def test_hundred_percent_only_when_all(self):
        cells = texts(figures.confusion_matrix([[9999, 1], [0, 5]], ["a", "b"]).axes[0])
        assert cells == ["9,999\n>99.9%", "1\n<0.1%", "0\n0%", "5\n100%"]

    def test_a_class_without_images(self):
        figure = figures.confusion_matrix([[3, 1], [0, 0]], ["a", "b"])
        assert texts(figure.axes[0])[2:] == ["0\n–", "0\n–"]
        laid_out(figure)

    def test_errors(self):
        with pytest.raises(ValueError, match=r"shape \(2, 2\) for 3 class names; expected \[3, 3\]"):
            figures.confusion_matrix(np.eye(2, dtype=int), ["a", "b", "c"])


class TestPredictionGallery:
    def test_right_wrong_and_unknown(self, tmp_path):
        figure = figures.prediction_gallery(
            pictures(3),
            ["cracked", "sound", ""],
            ["cracked", "cracked", "sound"],
            [0.992, 0.73, 1.0],
            ["a.jpg", "b.jpg", "c.jpg"],
            title="Test split",
        )
        right, wrong, unknown = figure.axes
        assert texts(right) == ["✓", "cracked 99.2%", "a.jpg"]
        assert texts(wrong) == ["✗", "cracked 73.0%", "truth: sound", "b.jpg"]
        assert texts(unknown) == ["sound 100%", "c.jpg"]
        frames = [{to_hex(spine.get_edgecolor()) for spine in axes.spines.values()} for axes in figure.axes]
        assert frames == [{"#009e73"}, {"#d55e00"}, {"#6b6b6b"}]
        assert all(spine.get_visible() and spine.get_linewidth() >= 2 for spine in right.spines.values())
        drawn(figure, tmp_path)

    def test_captions_keep_to_their_image(self, tmp_path):
        count = 14
        name = "a very long name of a class or file_" * 4
        figure = figures.prediction_gallery(
            pictures(count, 16, 16),
            ["y" * 90] * count,
            [name] * count,
            [0.9995] * count,
            [name] * count,
            title="Long",
        )
        drawn(figure, tmp_path)
        assert not overlaps(figure, [*figure.texts, *(text for axes in figure.axes for text in axes.texts[1:])])
        assert all("…" in text for text in texts(figure.axes[0])[1:])

    def test_without_names(self):
        figure = figures.prediction_gallery(pictures(1), ["a"], ["a"], [0.5], None, title="One")
        assert texts(figure.axes[0]) == ["✓", "a 50.0%", ""]

    def test_errors(self):
        with pytest.raises(ValueError, match="2 images and 1 probabilities"):
            figures.prediction_gallery(pictures(2), ["a"] * 2, ["a"] * 2, [0.5], title="Two")


class TestScoreHistogram:
    def test_counts_and_threshold(self, tmp_path):
        labels, values = scores(images=500)
        figure = figures.score_histogram(labels, values, ["sound", "cracked"], 0.37)
        (axes,) = figure.axes
        assert [len(bars) for bars in axes.containers] == [40, 40]
        for index, bars in enumerate(axes.containers):
            expected, _ = np.histogram(values[labels == index], 40, (0, 1))
            assert [bar.get_height() for bar in bars] == expected.tolist()
            assert bars.get_label() == f"{['sound', 'cracked'][index]} (250 images)"
        assert [line.get_xdata()[0] for line in axes.lines] == [0.37]
        assert axes.get_xlabel() == "probability of cracked"
        assert axes.get_ylabel() == "images"
        drawn(figure, tmp_path)

    def test_many_images_get_a_log_axis(self):
        figure = figures.score_histogram(*scores(images=6000, apart=4), ["a", "b"])
        assert figure.axes[0].get_yscale() == "log"
        assert figure.axes[0].get_ylabel() == "images (log axis)"
        laid_out(figure)

    def test_one_class_against_several(self):
        figure = figures.score_histogram([0, 1, 2], [0.2, 0.3, 0.9], ["a", "b", "c"], positive=0)
        assert [bars.get_label() for bars in figure.axes[0].containers] == [
            "other classes (2 images)",
            "a (1 images)",
        ]

    def test_a_class_without_images(self):
        laid_out(figures.score_histogram([0, 0], [0.2, 0.3], ["a", "b"]))

    def test_errors(self):
        with pytest.raises(ValueError, match=r"scores of shape \(2, 2\)"):
            figures.score_histogram([0, 1], np.eye(2), ["a", "b"])


class TestRankingCurves:
    def test_curves_and_the_operating_point(self, tmp_path):
        labels, values = scores()
        figure = figures.ranking_curves(labels, values, positive_name="cracked", threshold=0.5)
        roc, trade = figure.axes
        decided = values >= 0.5
        recall = decided[labels == 1].mean()
        points = [line.get_xydata()[0] for axes in (roc, trade) for line in axes.lines if line.get_marker() == "o"]
        assert points[0] == pytest.approx([decided[labels == 0].mean(), recall])
        assert points[1] == pytest.approx([recall, labels[decided].mean()])
        curve = max(roc.lines, key=lambda line: len(line.get_xdata())).get_xydata()
        assert np.trapezoid(curve[:, 1], curve[:, 0]) == pytest.approx(metrics.auroc(labels, values))
        steps = max(trade.lines, key=lambda line: len(line.get_xdata()))
        assert steps.get_drawstyle() == "steps-pre"
        area = (np.diff(steps.get_xdata()) * steps.get_ydata()[1:]).sum()
        assert area == pytest.approx(metrics.average_precision(labels, values))
        assert (roc.get_xlabel(), trade.get_xlabel(), trade.get_ylabel()) == (
            "false positive rate",
            "recall",
            "precision",
        )
        assert f"AUROC {area:.4f}"[:5] in roc.get_legend().get_texts()[1].get_text()
        assert "cracked" in figure.get_suptitle()
        drawn(figure, tmp_path)

    def test_a_full_corner_is_enlarged(self):
        figure = figures.ranking_curves(*scores(images=2000, apart=2.4), positive_name="cracked", threshold=0.4)
        for axes in figure.axes:
            (inset,) = axes.child_axes
            assert inset.get_xlim()[1] - inset.get_xlim()[0] <= 0.2
            assert [line.get_marker() for line in inset.lines] == ["None", "o"]
        laid_out(figure)

    @pytest.mark.parametrize("threshold", [None, 2.0])
    def test_no_operating_point(self, threshold):
        figure = figures.ranking_curves([0, 1], [0.2, 0.9], positive_name="cracked", threshold=threshold)
        assert not [line for axes in figure.axes for line in axes.lines if line.get_marker() == "o"]
        laid_out(figure)

    def test_one_class(self):
        with pytest.raises(ValueError, match="2 positive and 0 negative images; expected some of both"):
            figures.ranking_curves([1, 1], [0.2, 0.9], positive_name="cracked")


class TestReliabilityDiagram:
    @pytest.mark.parametrize("classes", [2, 4])
    def test_bars_are_the_bins(self, classes, tmp_path):
        generator = np.random.default_rng(classes)
        probabilities = generator.dirichlet(np.ones(classes), 500)
        labels = generator.integers(0, classes, 500)
        figure = figures.reliability_diagram(labels, probabilities, bins=10)
        confidence, accuracy, count = metrics.reliability_bins(labels, probabilities, bins=10)
        filled = count > 0
        axes, counts = figure.axes
        bars, gaps = axes.containers
        assert [bar.get_height() for bar in bars] == pytest.approx(accuracy[filled].tolist())
        ends = [bar.get_y() + bar.get_height() for bar in gaps]
        assert ends == pytest.approx(confidence[filled].tolist())
        assert [bar.get_height() for bar in counts.containers[0]] == count[filled].tolist()
        assert len(axes.collections) == filled.sum()
        error = metrics.expected_calibration_error(labels, probabilities, bins=10)
        assert f"{error:.2g} (500 images)" in figure.get_suptitle()
        assert axes.get_xlim()[0] <= 1 / classes
        assert "confidence" in counts.get_xlabel()
        drawn(figure, tmp_path)

    def test_one_image(self):
        laid_out(figures.reliability_diagram([0], [[1.0, 0.0]]))


class TestNames:
    def test_the_page_is_white_whatever_the_settings(self, tmp_path):
        with matplotlib.rc_context({"figure.facecolor": "black", "savefig.facecolor": "black"}):
            pixels = drawn(small(), tmp_path)
        assert pixels[0, 0].tolist() == [255, 255, 255]

    def test_any_name_in_any_figure(self):
        """Warnings are errors here, a missing glyph is one; the user's own settings must not matter."""
        settings = {"font.family": ["monospace"], "axes.facecolor": "black"}
        count = len(AWKWARD)
        labels, values = scores()
        with matplotlib.rc_context(settings):
            for figure in (
                figures.confusion_matrix(np.eye(count, dtype=int), AWKWARD, title=AWKWARD[3]),
                figures.prediction_gallery(
                    pictures(count), AWKWARD[::-1], AWKWARD, [0.5] * count, AWKWARD, title=AWKWARD[0]
                ),
                figures.sample_grid(pictures(count), AWKWARD, title=AWKWARD[4]),
                figures.score_histogram(labels, values, AWKWARD[2:4], title=AWKWARD[6]),
                figures.ranking_curves(labels, values, positive_name=AWKWARD[3], title=AWKWARD[1]),
                figures.reliability_diagram(labels, np.column_stack([1 - values, values]), title=AWKWARD[0]),
                figures.learning_curves(history(3, phase=["head", *AWKWARD[2:4]])),
            ):
                laid_out(figure)
                assert figure.get_facecolor() == (1, 1, 1, 1)

    @pytest.mark.parametrize("name", ["a$b$c", r"\$5", "$", "$$x$"])
    def test_dollars_are_dollars(self, name):
        figure = figures.sample_grid(pictures(1), [name], title="Dollars")
        text = figure.axes[0].texts[0]
        assert text._preprocess_math(text.get_text()) == (name, False)

    def test_other_characters(self):
        figure = figures.sample_grid(pictures(2), ["crack\n裂缝 \x07é", "ends.jpg" * 40], title="Names")
        assert texts(figure.axes[0]) == ["crack □□ é"]
        (shortened,) = texts(figure.axes[1])
        assert shortened.startswith("ends.jpg")
        assert shortened.endswith("ends.jpg")
        assert shortened.count("…") == 1
