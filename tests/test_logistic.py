"""Logistic regression against scikit-learn, its training history, and refits near a base head."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from hairline.model import logistic
from hairline.model.logistic import Refit, refit
from hairline.training.solve import solve

GENERATOR = np.random.default_rng(3)
WEIGHTS = GENERATOR.uniform(0.2, 2.0, 240)

WIDTH = 30
MEAN, DEVIATION = np.full(WIDTH, 3.0, np.float32), np.full(WIDTH, 2.0, np.float32)
DIRECTION = np.random.default_rng(7).normal(size=WIDTH).astype(np.float32)


def rows(classes: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(240) % classes
    centres = GENERATOR.normal(size=(classes, 8))
    return GENERATOR.normal(size=(240, 8)) + centres[labels], labels


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_the_fit_equals_that_of_scikit_learn(classes: int) -> None:
    table, labels = rows(classes)
    solution = logistic.fit(table, np.eye(classes)[labels], WEIGHTS, 0.05)
    # For two classes scikit-learn penalises one column, whose square is twice the sum of the two here.
    strength = 0.05 * WEIGHTS.sum() / (2 if classes == 2 else 1)
    reference = LogisticRegression(C=1 / strength, tol=1e-8, max_iter=1000).fit(table, labels, sample_weight=WEIGHTS)
    np.testing.assert_allclose(softmax(solution.logits(table), axis=1), reference.predict_proba(table), atol=2e-4)
    np.testing.assert_allclose(solution.kernel.sum(axis=1), 0, atol=1e-9)


def test_float32_agrees_with_float64_and_each_iteration_reports_its_logits() -> None:
    table, labels = rows(3)
    losses: list[float] = []

    def on_iteration(solution: logistic.Solution, logits: np.ndarray) -> None:
        np.testing.assert_allclose(solution.logits(table.astype(np.float32)), logits, atol=1e-4)
        losses.append(log_loss(labels, softmax(logits, axis=1)))

    targets, weights = np.eye(3)[labels], np.ones(240)
    solution = logistic.fit(table.astype(np.float32), targets, weights, 0.01, on_iteration=on_iteration)
    exact = logistic.fit(table, targets, weights, 0.01)
    np.testing.assert_allclose(solution.logits(table), exact.logits(table), atol=0.02)
    assert len(losses) > 5
    assert losses[-1] < 0.6 * losses[0]


def solve_noise(l2: float, keep: str = "best", width: int = 40) -> tuple[logistic.Solution, pd.DataFrame, list[int]]:
    """Solve with few images and many features, most of which are noise."""
    generator = np.random.default_rng(5)
    labels = np.arange(90) % 2
    table = generator.normal(size=(90, width)).astype(np.float32)
    table[:, 0] += labels * (width > 1)
    targets, epochs = np.eye(2)[labels], []
    solution, history = solve(
        (table[:50], targets[:50]), (table[50:], targets[50:]), None, l2=l2, iterations=300, keep=keep,
        on_epoch=lambda number, row: epochs.append(number),
    )  # fmt: skip
    return solution, history, epochs


def test_the_history_has_one_row_per_iteration() -> None:
    _, history, epochs = solve_noise(0.01)
    measured = ["loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds"]
    assert list(history.columns) == ["phase", "epoch", *measured]
    assert epochs == history["epoch"].tolist() == list(range(1, len(history) + 1))
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]


def test_the_best_or_the_last_iteration_is_kept() -> None:
    best, history, _ = solve_noise(1e-6)
    last, _, _ = solve_noise(1e-6, keep="last")
    assert history["val_loss"].argmin() < len(history) - 5  # it overfits in the end
    assert np.abs(best.kernel).max() < 0.5 * np.abs(last.kernel).max()
    assert history["accuracy"].iloc[-1] == 1


def test_constant_features_give_a_zero_kernel() -> None:
    targets = np.eye(2)[np.arange(10) % 2]
    table = np.zeros((10, 3), np.float32)
    solution, history = solve((table, targets), (table, targets), None, l2=0.1, iterations=50, keep="best")
    assert len(history) == 1
    assert not solution.kernel.any()


def draw(count: int, seed: int, direction: np.ndarray, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return features whose class means differ along `direction`."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    along = direction / np.linalg.norm(direction)
    table = generator.normal(size=(count, WIDTH)) + 1.5 * np.outer(2 * labels - 1, along) + offset * along
    return (MEAN + DEVIATION * table).astype(np.float32), labels.astype(np.int64)


def base_head(direction: np.ndarray) -> dict[str, np.ndarray]:
    weights = 5 * np.stack([-direction, direction], axis=1) / np.linalg.norm(direction) / DEVIATION[:, None]
    return {
        "kernel": weights.astype(np.float32),
        "bias": (-MEAN @ weights).astype(np.float32),
        "mean": MEAN,
        "deviation": DEVIATION,
    }


def refit_to(count: int, base: np.ndarray, truth: np.ndarray, offset: float = 0.0) -> Refit:
    table, labels = draw(count, 1, truth, offset)
    return refit(table, labels, [str(row) for row in range(count)], **base_head(base), seed=0)


def test_equal_views_of_the_images_change_nothing() -> None:
    table, labels = draw(40, 1, DIRECTION)
    plain, repeated = (
        refit(table, labels, list(range(40)), **base_head(DIRECTION), seed=0, views=views)
        for views in (None, np.stack([table] * 7))
    )
    assert repeated.held_out == pytest.approx(plain.held_out, abs=0.02)
    assert repeated.kernel == pytest.approx(plain.kernel, abs=0.002)
    assert np.abs(plain.kernel - base_head(DIRECTION)["kernel"]).max() > 0.01


def test_views_of_images_that_were_chosen_as_uncertain_do_not_discredit_the_base() -> None:
    generator = np.random.default_rng(4)
    truth = generator.normal(size=2000)
    along = DIRECTION / np.linalg.norm(DIRECTION)
    looks = truth[:, None] + generator.normal(size=(2000, 8))  # of an image and its views, each with its own error
    tables = [
        (MEAN + DEVIATION * (generator.normal(0, 0.3, (2000, WIDTH)) + np.outer(look, along))).astype(np.float32)
        for look in looks.T
    ]
    base = base_head(DIRECTION)
    scores = tables[0] @ base["kernel"] + base["bias"]
    chosen = np.argsort(np.abs(scores[:, 1] - scores[:, 0]))[:100]
    found = refit(
        tables[0][chosen],
        (truth[chosen] > 0).astype(np.int64),
        list(range(100)),
        **base,
        seed=0,
        views=np.stack([table[chosen] for table in tables[1:]]),
    )
    assert found.scale > 0.8


def test_a_feature_that_differs_between_views_of_an_image_is_not_trusted() -> None:
    weak = np.zeros(WIDTH, np.float32)
    weak[1] = 1
    table, labels = draw(60, 1, weak)
    table[:, 0] = MEAN[0] + DEVIATION[0] * np.where(labels == 1, 2, -2)  # mirrored, it would say the opposite
    mirrored = table.copy()
    mirrored[:, 0] = 2 * MEAN[0] - table[:, 0]
    alone, both = (
        refit(table, labels, list(range(60)), **base_head(weak), seed=0, views=views).kernel[0]
        for views in (None, mirrored[None])
    )
    assert abs(alone[1] - alone[0]) > 20 * abs(both[1] - both[0])


def accuracy(refitted: Refit, truth: np.ndarray, offset: float = 0.0) -> float:
    table, labels = draw(2000, 2, truth, offset)
    return float(np.mean(np.argmax(table @ refitted.kernel + refitted.bias, axis=1) == labels))


def test_labels_that_agree_with_the_base_keep_its_direction() -> None:
    refitted = refit_to(20, DIRECTION, DIRECTION)
    margin = (refitted.kernel[:, 1] - refitted.kernel[:, 0]) * DEVIATION
    assert margin @ DIRECTION / np.linalg.norm(margin) / np.linalg.norm(DIRECTION) > 0.95
    assert accuracy(refitted, DIRECTION) > 0.9


def test_a_shift_of_all_scores_moves_the_bias() -> None:
    table, labels = draw(2000, 2, DIRECTION, 4.0)
    base = base_head(DIRECTION)
    assert np.mean(np.argmax(table @ base["kernel"] + base["bias"], axis=1) == labels) < 0.6
    assert accuracy(refit_to(60, DIRECTION, DIRECTION, 4.0), DIRECTION, 4.0) > 0.88


def test_many_labels_that_contradict_the_base_override_it() -> None:
    other = np.random.default_rng(8).normal(size=WIDTH).astype(np.float32)
    few, many = refit_to(20, DIRECTION, other), refit_to(400, DIRECTION, other)
    assert accuracy(many, other) > 0.88
    assert accuracy(many, other) > accuracy(few, other)
    correction = (many.kernel - many.scale * base_head(DIRECTION)["kernel"]) @ [-1, 1]
    assert np.linalg.norm(correction) > 0.1 * np.linalg.norm(many.kernel @ [-1, 1])  # not the base with a factor


@pytest.mark.parametrize("count", [8, 60])
@pytest.mark.parametrize("strength", [1e-3, 1.0])
def test_the_refit_minimises_the_loss_with_its_prior(
    count: int, strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logistic, "STRENGTHS", (strength,))
    table, labels = draw(count, 3, DIRECTION, 0.5)
    labels[: count // 4] = 0  # unequal classes are balanced
    base = base_head(np.random.default_rng(9).normal(size=WIDTH).astype(np.float32))
    refitted = refit(table, labels, list(range(count)), **base, seed=0)
    mean = MEAN if count < 40 else table.mean(axis=0)
    deviation = np.sqrt((count * table.var(axis=0) + 50 * DEVIATION**2) / (count + 50))
    sizes = np.bincount(labels)
    worth = 4 * sizes[0] * sizes[1] / count  # 1 / mean of the classes' variances
    weights = worth / (2 * sizes[labels])

    def loss(scale: float, offset: np.ndarray, correction: np.ndarray) -> float:
        logits = scale * (table @ base["kernel"] + base["bias"]) + offset
        logits = logits + (table - mean) / deviation / np.sqrt(WIDTH) @ correction
        misfit = -np.sum(weights * log_softmax(logits, axis=1)[np.arange(count), labels])
        # Two offsets that sum to 0 have one degree of freedom.
        distances = (scale - 1) / logistic.SCALE_DEVIATION, np.linalg.norm(offset) / logistic.OFFSET_DEVIATION
        prior = sum(np.sqrt(1 + distance**2) - 1 for distance in distances)
        return float(misfit + prior + worth * strength / 2 * np.sum(correction**2))

    change = refitted.kernel - refitted.scale * base["kernel"]
    offset = refitted.bias - refitted.scale * base["bias"] + mean @ change
    correction = change * deviation[:, None] * np.sqrt(WIDTH)
    lowest = loss(refitted.scale, offset, correction)
    generator = np.random.default_rng(0)
    for size in (0.05, 0.5):
        for _ in range(20):
            steps = generator.normal(size=(WIDTH + 2, 2)) * size
            step = steps[1] - steps[1].mean()
            nearby = max(refitted.scale + steps[0, 0], logistic.LEAST_SCALE), offset + step, correction + steps[2:]
            assert loss(*nearby) > lowest


def margins(head: Refit | dict[str, np.ndarray], table: np.ndarray) -> np.ndarray:
    kernel, bias = (head["kernel"], head["bias"]) if isinstance(head, dict) else (head.kernel, head.bias)
    return np.asarray((table @ kernel + bias) @ [-1, 1])


@pytest.mark.parametrize("count", [6, 20, 100])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_labels_that_the_base_is_unsure_or_wrong_about_do_not_reverse_it(count: int, share: float) -> None:
    """Some labels are those that the base is wrong about; the rest lie where it is least certain."""
    base = base_head(DIRECTION)
    table, labels = draw(4000, 0, DIRECTION)
    scores = margins(base, table)
    wrong = np.flatnonzero((scores > 0) != (labels == 1))
    unsure = np.argsort(np.abs(scores))
    chosen = np.concatenate([wrong[: round(share * count)], unsure[: count - round(share * count)]])
    refitted = refit(table[chosen], labels[chosen], chosen.tolist(), **base, seed=0)
    others, truth = draw(2000, 99, DIRECTION)
    assert refitted.scale > 0
    assert roc_auc_score(truth, margins(refitted, others)) > 0.9
    assert accuracy(refitted, DIRECTION) > np.mean((margins(base, others) > 0) == truth) - 0.05


def test_a_base_is_kept_if_nearly_all_labels_contradict_it_or_are_of_one_class() -> None:
    table, labels = draw(40, 1, DIRECTION)
    base = base_head(DIRECTION)
    refitted = refit(table, 1 - labels, list(range(40)), **base, seed=0)
    assert refitted.kept
    np.testing.assert_array_equal(refitted.kernel, base["kernel"])
    np.testing.assert_array_equal(refitted.held_out, table.astype(np.float64) @ base["kernel"] + base["bias"])
    assert not refit(table, labels, list(range(40)), **base, seed=0).kept
    one = labels == 0
    assert refit(table[one], labels[one], list(range(20)), **base, seed=0).kept


def test_a_base_that_calls_everything_cracked_is_corrected() -> None:
    """It ranks at an AUROC of 0.8, and nine of ten images are sound."""
    mixed = 0.6 * DIRECTION / np.linalg.norm(DIRECTION) + 0.8 * np.eye(WIDTH)[0]
    base = base_head(mixed.astype(np.float32))
    base["bias"] = base["bias"] + np.array([-20, 20], np.float32)
    table, labels = draw(1000, 1, DIRECTION)
    rows = np.concatenate([np.flatnonzero(labels == 1)[:20], np.flatnonzero(labels == 0)[:180]])
    refitted = refit(table[rows], labels[rows], rows.tolist(), **base, seed=0)
    assert not refitted.kept
    assert accuracy(refitted, DIRECTION) > 0.85


def test_held_out_logits_are_out_of_fold() -> None:
    """On random labels they are no better than chance."""
    generator = np.random.default_rng(0)
    table = (MEAN + DEVIATION * generator.normal(size=(60, WIDTH))).astype(np.float32)
    labels = generator.permutation(np.arange(60) % 2)
    refitted = refit(table, labels, list(range(60)), **base_head(DIRECTION), seed=0)
    assert roc_auc_score(labels, refitted.held_out[:, 1] - refitted.held_out[:, 0]) < 0.75


def test_the_refit_averages_over_penalties_by_their_likelihood(monkeypatch: pytest.MonkeyPatch) -> None:
    table, labels = draw(40, 5, DIRECTION)
    base = base_head(np.random.default_rng(9).normal(size=WIDTH).astype(np.float32))

    def fitted(*strengths: float) -> Refit:
        monkeypatch.setattr(logistic, "STRENGTHS", strengths)
        return refit(table, labels, list(range(40)), **base, seed=0)

    weak, strong, both = fitted(1e-3), fitted(1.0), fitted(1e-3, 1.0)
    likelihoods = [np.exp(-log_loss(labels, softmax(one.held_out, axis=1), normalize=False)) for one in (weak, strong)]
    share = likelihoods[0] / sum(likelihoods)
    assert 0.5 < share < 1
    for name in ("kernel", "bias", "scale", "held_out"):
        expected = share * getattr(weak, name) + (1 - share) * getattr(strong, name)
        np.testing.assert_allclose(getattr(both, name), expected, atol=0.01)  # as far as L-BFGS converges
    assert np.abs(weak.held_out - strong.held_out).max() > 0.5


@pytest.mark.parametrize("count", [2, 6, 23])
def test_folds_keep_groups_together_and_are_balanced(count: int) -> None:
    labels = np.arange(2 * count) % 2
    groups = [f"photo {row // 2}" for row in range(2 * count)]
    folds = logistic._folds(labels, groups, seed=0)
    assert all(folds[2 * number] == folds[2 * number + 1] for number in range(count))
    assert len(np.unique(folds)) == min(logistic.FOLDS, count)
    assert np.bincount(folds).max() - np.bincount(folds).min() <= 2


def test_refit_of_three_classes() -> None:
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(3, WIDTH))
    labels = np.arange(45) % 3
    table = (MEAN + DEVIATION * (centres[labels] + 0.5 * generator.normal(size=(45, WIDTH)))).astype(np.float32)
    base = {"kernel": np.zeros((WIDTH, 3), np.float32), "bias": np.zeros(3, np.float32)}
    refitted = refit(table, labels, list(range(45)), **base, mean=MEAN, deviation=DEVIATION, seed=0)
    assert np.mean(np.argmax(table @ refitted.kernel + refitted.bias, axis=1) == labels) == 1
