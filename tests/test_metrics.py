"""Metrics against scikit-learn, hand-made cases and properties."""

import math
import subprocess
import sys

import numpy as np
import pytest
import sklearn.metrics as oracle
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hairline.evaluation import metrics

EXACT = {"rel": 0, "abs": 1e-9}
repeatable = settings(derandomize=True, deadline=None, max_examples=40)
ranking = st.lists(st.tuples(st.integers(0, 1), st.integers(-20, 20)), min_size=2, max_size=60).map(
    lambda rows: (np.array([row[0] for row in rows]), np.array([row[1] for row in rows], dtype=float))
)


def random_case(seed, classes, images=400, ties=False):
    """Labels of all classes and probabilities that know a little about them."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, images)
    labels[:classes] = np.arange(classes)
    logits = generator.normal(size=(images, classes)) + 1.5 * np.eye(classes)[labels]
    if ties:
        logits = np.round(logits)
    probabilities = np.exp(logits)
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True)


def sklearn_specificity(labels, predicted, index):
    return oracle.recall_score(labels != index, predicted != index)


def sklearn_decisions(labels, predicted, positive):
    average = {"average": "macro"} if positive is None else {"pos_label": positive}
    of_class = [sklearn_specificity(labels, predicted, index) for index in np.unique(labels)]
    return {
        "accuracy": oracle.accuracy_score(labels, predicted),
        "precision": oracle.precision_score(labels, predicted, zero_division=0, **average),
        "recall": oracle.recall_score(labels, predicted, **average),
        "f1": oracle.f1_score(labels, predicted, **average),
        "specificity": np.mean(of_class) if positive is None else of_class[positive],
        "balanced_accuracy": oracle.balanced_accuracy_score(labels, predicted),
    }


def brute_force_ece(labels, probabilities, bins):
    """Bin by bin as the paper writes it, with exact bin edges m / bins."""
    total = 0.0
    for bin_index in range(bins):
        inside = [
            (row.max(), row.argmax() == label)
            for label, row in zip(labels, probabilities, strict=True)
            if bin_index / bins < row.max() <= (bin_index + 1) / bins
        ]
        if inside:
            confidences, right = zip(*inside, strict=True)
            total += len(inside) / len(labels) * abs(np.mean(right) - np.mean(confidences))
    return total


class TestAgainstScikitLearn:
    @pytest.mark.parametrize("ties", [False, True])
    @pytest.mark.parametrize("positive", [0, 1])
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_two_classes_with_a_positive_one(self, seed, positive, ties):
        labels, probabilities = random_case(seed, 2, ties=ties)
        threshold = float(np.sort(probabilities[:, positive])[150])  # on a score: `>=` is put to the test
        received = metrics.classification_metrics(labels, probabilities, positive=positive, threshold=threshold)
        score, truth = probabilities[:, positive], labels == positive
        expected = sklearn_decisions(labels, probabilities.argmax(axis=1), positive)
        at_threshold = sklearn_decisions(labels, np.where(score >= threshold, positive, 1 - positive), positive)
        expected |= {f"{name}_at_threshold": value for name, value in at_threshold.items()}
        expected |= {
            "loss": oracle.log_loss(labels, probabilities),
            "auroc": oracle.roc_auc_score(truth, score),
            "average_precision": oracle.average_precision_score(truth, score),
            "brier": oracle.brier_score_loss(truth, score),
            "ece": brute_force_ece(labels, probabilities, 15),
        }
        assert received == pytest.approx(expected, **EXACT)

    @pytest.mark.parametrize("ties", [False, True])
    @pytest.mark.parametrize("classes", [2, 3, 4, 5])
    def test_macro_averages(self, classes, ties):
        labels, probabilities = random_case(10 + classes, classes, ties=ties)
        expected = sklearn_decisions(labels, probabilities.argmax(axis=1), None)
        one_hot = np.eye(classes)[labels]
        expected |= {
            "loss": oracle.log_loss(labels, probabilities),
            "auroc": oracle.roc_auc_score(one_hot, probabilities, average="macro"),
            "average_precision": oracle.average_precision_score(one_hot, probabilities, average="macro"),
            "brier": oracle.brier_score_loss(labels, probabilities),
            "ece": brute_force_ece(labels, probabilities, 15),
        }
        assert metrics.classification_metrics(labels, probabilities, positive=None) == pytest.approx(expected, **EXACT)

    @pytest.mark.parametrize("classes", [2, 5])
    def test_confusion_matrix_and_rows_per_class(self, classes):
        labels, probabilities = random_case(3, classes)
        predicted = probabilities.argmax(axis=1)
        matrix = metrics.confusion_matrix(labels, predicted, classes)
        assert matrix.dtype == np.int64
        assert matrix.tolist() == oracle.confusion_matrix(labels, predicted).tolist()
        columns = oracle.precision_recall_fscore_support(labels, predicted)
        rows = metrics.per_class(labels, probabilities, [f"class {index}" for index in range(classes)])
        assert [row["class"] for row in rows] == [f"class {index}" for index in range(classes)]
        for index, row in enumerate(rows):
            received = [row[name] for name in ("precision", "recall", "f1", "support", "specificity")]
            expected = [column[index] for column in columns] + [sklearn_specificity(labels, predicted, index)]
            assert received == pytest.approx(expected, **EXACT)

    def test_a_class_never_predicted(self):
        labels, probabilities = random_case(4, 3)
        probabilities[:, 2] = 0
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        received = metrics.classification_metrics(labels, probabilities, positive=None)
        expected = sklearn_decisions(labels, probabilities.argmax(axis=1), None)
        assert {name: received[name] for name in expected} == pytest.approx(expected, **EXACT)

    def test_operating_points(self):
        labels, probabilities = random_case(5, 2, ties=True)
        thresholds, true_positives, false_positives = metrics.ranking_points(labels, probabilities[:, 1])
        false_rate, true_rate, expected = oracle.roc_curve(labels, probabilities[:, 1], drop_intermediate=False)
        assert thresholds == pytest.approx(expected[1:])  # scikit-learn starts with an infinite one
        assert true_positives / true_positives[-1] == pytest.approx(true_rate[1:])
        assert false_positives / false_positives[-1] == pytest.approx(false_rate[1:])


class TestByHand:
    def test_counts_with_known_answers(self):
        """3 cracked (2 found), 5 sound (1 false alarm)."""
        labels = [1, 1, 1, 0, 0, 0, 0, 0]
        crack = np.array([0.9, 0.8, 0.3, 0.7, 0.4, 0.2, 0.1, 0.1])
        received = metrics.classification_metrics(labels, np.column_stack([1 - crack, crack]), positive=1)
        assert received["accuracy"] == pytest.approx(6 / 8)
        assert received["precision"] == pytest.approx(2 / 3)
        assert received["recall"] == pytest.approx(2 / 3)
        assert received["f1"] == pytest.approx(2 / 3)
        assert received["specificity"] == pytest.approx(4 / 5)
        assert received["balanced_accuracy"] == pytest.approx((2 / 3 + 4 / 5) / 2)
        assert received["auroc"] == pytest.approx(13 / 15)  # 0.3 loses against 0.7 and 0.4
        assert received["average_precision"] == pytest.approx((1 + 1 + 3 / 5) / 3)
        assert received["brier"] == pytest.approx((0.01 + 0.04 + 0.49 + 0.49 + 0.16 + 0.04 + 0.01 + 0.01) / 8)

    def test_perfect_and_certain(self):
        received = metrics.classification_metrics([0, 1], np.eye(2), positive=1, threshold=0.5)
        assert received.pop("loss") == pytest.approx(1e-7, rel=1e-3)
        assert {name for name, value in received.items() if value == 0} == {"brier", "ece"}
        assert {value for value in received.values()} == {0.0, 1.0}

    def test_certain_and_wrong_loses_no_more_than_the_clip(self):
        assert metrics.log_loss([0], [[0.0, 1.0]]) == pytest.approx(-math.log(1e-7))

    def test_threshold_zero_is_a_threshold(self):
        received = metrics.classification_metrics([0, 1], [[1, 0], [0.6, 0.4]], positive=1, threshold=0)
        assert (received["recall"], received["recall_at_threshold"]) == (0, 1)
        assert received["specificity_at_threshold"] == 0

    def test_reliability_bins(self):
        probabilities = [[0.4, 0.6], [0.5, 0.5], [0.1, 0.9], [1.0, 0.0], [0.95, 0.05]]
        confidence, accuracy, count = metrics.reliability_bins([1, 1, 0, 0, 0], probabilities, bins=10)
        assert count.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 1, 2]  # an edge belongs to the bin below it
        assert confidence[[4, 5, 8, 9]] == pytest.approx([0.5, 0.6, 0.9, 0.975])
        assert accuracy[[4, 5, 8, 9]].tolist() == [0, 1, 0, 1]
        assert np.isnan(confidence[:4]).all()
        assert np.isnan(accuracy[:4]).all()
        expected = (0.5 + 0.4 + 0.9 + 2 * 0.025) / 5
        assert metrics.expected_calibration_error([1, 1, 0, 0, 0], probabilities, bins=10) == pytest.approx(expected)

    @pytest.mark.parametrize("bins", [1, 7, 10, 15])
    def test_calibration_error_by_brute_force(self, bins):
        labels, probabilities = random_case(6, 3)
        received = metrics.expected_calibration_error(labels, probabilities, bins=bins)
        assert received == pytest.approx(brute_force_ece(labels, probabilities, bins), **EXACT)


class TestUndefined:
    def test_a_single_image(self):
        received = metrics.classification_metrics([1], [[0.2, 0.8]], positive=1, threshold=0.9)
        assert {name for name, value in received.items() if math.isnan(value)} == {
            "specificity",
            "auroc",
            "balanced_accuracy",
            "specificity_at_threshold",
            "balanced_accuracy_at_threshold",
        }
        assert (received["accuracy"], received["accuracy_at_threshold"]) == (1, 0)
        assert (received["precision"], received["precision_at_threshold"]) == (1, 0)
        assert received["average_precision"] == 1

    def test_no_positive_image(self):
        received = metrics.classification_metrics([0, 0], [[0.9, 0.1], [0.8, 0.2]], positive=1)
        undefined = {"precision", "recall", "f1", "auroc", "average_precision", "balanced_accuracy"}
        assert {name for name, value in received.items() if math.isnan(value)} == undefined
        assert received["specificity"] == received["accuracy"] == 1

    def test_false_alarms_alone(self):
        received = metrics.classification_metrics([0, 0], [[0.9, 0.1], [0.2, 0.8]], positive=1)
        assert (received["precision"], received["f1"], received["specificity"]) == (0, 0, 0.5)
        assert math.isnan(received["recall"])

    def test_macro_averages_leave_absent_classes_out(self):
        labels, probabilities = random_case(7, 3)
        padded = np.column_stack([probabilities, np.zeros(len(labels))])
        three = metrics.classification_metrics(labels, probabilities, positive=None)
        assert metrics.classification_metrics(labels, padded, positive=None) == pytest.approx(three)
        row = metrics.per_class(labels, padded, list("abcd"))[3]
        assert row["support"] == 0
        assert row["specificity"] == 1
        assert all(math.isnan(row[name]) for name in ("precision", "recall", "f1"))

    def test_giving_a_class_up_is_not_rewarded(self):
        labels = np.array([0] * 8 + [1] * 2)
        always_zero = np.tile([0.9, 0.1], (10, 1))
        received = metrics.classification_metrics(labels, always_zero, positive=None)
        assert received["precision"] == pytest.approx((0.8 + 0) / 2)


class TestProperties:
    @repeatable
    @given(ranking)
    def test_auroc_agrees_with_counting_pairs(self, case):
        labels, scores = case
        assume(0 < labels.sum() < len(labels))
        differences = scores[labels == 1][:, None] - scores[labels == 0][None, :]
        assert metrics.auroc(labels, scores) == pytest.approx(((np.sign(differences) + 1) / 2).mean(), **EXACT)

    @repeatable
    @given(ranking)
    def test_rankings_survive_monotone_transforms(self, case):
        labels, scores = case
        for transformed in (3 * scores - 7, scores**3, np.arctan(scores), np.exp(scores / 10)):
            for metric in (metrics.auroc, metrics.average_precision):
                assert metric(labels, transformed) == pytest.approx(metric(labels, scores), nan_ok=True, **EXACT)

    @repeatable
    @given(ranking)
    def test_auroc_complement(self, case):
        labels, scores = case
        area = metrics.auroc(labels, scores)
        assert metrics.auroc(labels, -scores) == pytest.approx(1 - area, nan_ok=True, **EXACT)
        assert metrics.auroc(1 - labels, -scores) == pytest.approx(area, nan_ok=True, **EXACT)

    @repeatable
    @given(ranking, st.randoms(use_true_random=False))
    def test_order_of_images_is_irrelevant(self, case, random):
        labels, scores = case
        order = list(range(len(labels)))
        random.shuffle(order)
        crack = (scores + 20) / 40
        table = np.column_stack([1 - crack, crack])
        received = metrics.classification_metrics(labels[order], table[order], positive=1, threshold=0.25)
        expected = metrics.classification_metrics(labels, table, positive=1, threshold=0.25)
        assert received == pytest.approx(expected, nan_ok=True, **EXACT)

    @repeatable
    @given(st.integers(0, 500), st.integers(0, 500), st.floats(0.5, 0.999))
    def test_wilson_holds_the_share_and_mirrors(self, successes, failures, confidence):
        total = successes + failures
        low, high = metrics.wilson_interval(successes, total, confidence)
        assert 0 <= low <= high <= 1
        if total:
            assert low <= successes / total <= high
        assert metrics.wilson_interval(failures, total, confidence) == pytest.approx((1 - high, 1 - low))


class TestWilson:
    def test_published_values(self):
        """Newcombe 1998, Statistics in Medicine 17, table I, method 3."""
        assert metrics.wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
        assert metrics.wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
        assert metrics.wilson_interval(0, 20) == (0.0, pytest.approx(0.1611, abs=5e-5))
        assert metrics.wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)

    def test_nothing_seen_is_anything_possible(self):
        assert metrics.wilson_interval(0, 0) == (0.0, 1.0)

    def test_the_true_share_solves_the_bounds(self):
        """Each bound is the share whose own standard error puts the observation z errors away."""
        low, high = metrics.wilson_interval(7, 50, confidence=0.9)
        for bound in (low, high):
            assert abs(7 / 50 - bound) / math.sqrt(bound * (1 - bound) / 50) == pytest.approx(1.6448536269514722)

    @pytest.mark.parametrize("share", [0.5, 0.9, 0.98])
    @pytest.mark.parametrize("total", [50, 400])
    def test_coverage_in_a_simulation(self, share, total):
        draws = np.random.default_rng(total).binomial(total, share, size=4000)
        bounds = {int(draw): metrics.wilson_interval(int(draw), total) for draw in np.unique(draws)}
        covered = np.mean([bounds[draw][0] <= share <= bounds[draw][1] for draw in draws])
        assert 0.92 <= covered <= 0.99


class TestErrors:
    good = np.array([[0.9, 0.1], [0.2, 0.8]])

    @pytest.mark.parametrize(
        ("labels", "probabilities", "message"),
        [
            ([0, 2], good, "from 0 to 2; expected 0 to 1"),
            ([0, -1], good, "from -1 to 0; expected 0 to 1"),
            ([0.0, 1.0], good, "type float64.*astype"),
            ([[0], [1]], good, r"shape \(2, 1\).*argmax"),
            ([], np.zeros((0, 2)), "at least one"),
            ([0, 1, 1], good, "one entry an image"),
            ([0, 1], [0.1, 0.8], "classes.*sigmoid"),
            ([0, 1], [[1.0], [1.0]], "two classes or more"),
            ([0, 1], [[np.nan, 0.1], [0.2, 0.8]], "without nan"),
            ([0, 1], [[3.0, -2.0], [0.2, 0.8]], "softmax to logits"),
            ([0, 1], [[0.9, 0.2], [0.2, 0.8]], "misses the sum 1 by 0.1"),
        ],
    )
    def test_predictions_that_are_none(self, labels, probabilities, message):
        for call in (
            lambda: metrics.classification_metrics(labels, probabilities, positive=None),
            lambda: metrics.per_class(labels, probabilities, ["a", "b"]),
            lambda: metrics.log_loss(labels, probabilities),
            lambda: metrics.brier_score(labels, probabilities),
            lambda: metrics.expected_calibration_error(labels, probabilities),
        ):
            with pytest.raises(ValueError, match=f"Received.*expected.*{message}|{message}"):
                call()

    def test_float16_rows_pass(self):
        labels, probabilities = random_case(8, 5)
        received = metrics.classification_metrics(labels, probabilities.astype(np.float16), positive=None)
        assert received["auroc"] == pytest.approx(
            metrics.classification_metrics(labels, probabilities, positive=None)["auroc"], abs=1e-3
        )

    @pytest.mark.parametrize(("classes", "positive"), [(3, 1), (2, 2), (2, -1)])
    def test_positive_class(self, classes, positive):
        with pytest.raises(ValueError, match="expected 0 or 1 with two classes"):
            metrics.classification_metrics(*random_case(0, classes), positive=positive)

    @pytest.mark.parametrize(("positive", "threshold"), [(None, 0.5), (1, 1.5), (1, math.nan), (0, -0.1)])
    def test_threshold(self, positive, threshold):
        with pytest.raises(ValueError, match="expected a number in"):
            metrics.classification_metrics(*random_case(0, 2), positive=positive, threshold=threshold)

    def test_names_of_the_classes(self):
        with pytest.raises(ValueError, match="3 class names for 2 columns"):
            metrics.per_class([0, 1], self.good, ["a", "b", "c"])

    def test_confusion_matrix(self):
        with pytest.raises(ValueError, match="predicted from 0 to 4; expected 0 to 1"):
            metrics.confusion_matrix([0, 1], [0, 4], 2)
        with pytest.raises(ValueError, match="one entry an image"):
            metrics.confusion_matrix([0, 1], [0], 2)

    @pytest.mark.parametrize("metric", [metrics.auroc, metrics.average_precision])
    def test_rankings(self, metric):
        with pytest.raises(ValueError, match="labels01 from 0 to 2"):
            metric([0, 2], [0.1, 0.2])
        with pytest.raises(ValueError, match="finite"):
            metric([0, 1], [0.1, np.nan])
        with pytest.raises(ValueError, match="one entry an image"):
            metric([0, 1], self.good)

    def test_bins(self):
        with pytest.raises(ValueError, match="bins=0; expected at least 1"):
            metrics.reliability_bins([0, 1], self.good, bins=0)

    @pytest.mark.parametrize("arguments", [(-1, 5), (6, 5), (1, 5, 0.0), (1, 5, 1.0), (1, 5, math.nan)])
    def test_wilson(self, arguments):
        with pytest.raises(ValueError, match="expected 0 <= successes <= total"):
            metrics.wilson_interval(*arguments)


def test_needs_numpy_alone():
    heavy = ["tensorflow", "mlflow", "hydra", "pandas", "matplotlib", "sklearn", "scipy"]
    code = f"import sys, hairline.evaluation.metrics; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
