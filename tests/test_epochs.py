"""The head learns; what is kept, when it stops, and what its optimizers and schedules do."""

from __future__ import annotations

import gc

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from hairline.data import pipeline
from hairline.model import optimizers
from hairline.model.features import Features
from hairline.model.head import Standardisation, build_head, compute_outputs
from hairline.model.predictions import probabilities
from hairline.system import tensorflow
from hairline.training import epochs
from hairline.training.head import class_weights

GENERATOR = np.random.default_rng(0)
LABELS = np.tile([0, 1], 100)
VALUES = (GENERATOR.normal(size=(200, 12)) + 0.8 * LABELS[:, None]).astype(np.float32)
FEATURES = Features.of(VALUES)
TRAIN, VAL = np.arange(150), np.arange(150, 200)


def batches(
    numbers: np.ndarray, batch_size: int, order: np.ndarray | None = None, weights: np.ndarray | None = None
) -> tf.data.Dataset:
    rows = FEATURES.rows(numbers)
    one_hot = np.eye(2, dtype=np.float32)[LABELS[numbers]]
    current = pipeline.Pass(rows.read, np.arange(len(numbers)) if order is None else order)
    return pipeline.feature_batches(current, rows.width, one_hot, batch_size=batch_size, weights=weights)


def fit(
    seed: int = 0,
    batch_size: int = 32,
    train: np.ndarray = TRAIN,
    val: np.ndarray = VAL,
    weights: np.ndarray | None = None,
    **changed: object,
) -> tuple[keras.Model, pd.DataFrame]:
    settings = {
        "epochs": 5, "learning_rate": 0.01, "optimizer": {"name": "adam"}, "schedule": {"name": "constant"},
        "steps": -(-len(train) // batch_size),
    }  # fmt: skip
    keras.utils.set_random_seed(0)
    head = build_head(Standardisation.fit(FEATURES), classes=2, dropout=0.0)

    def epoch(number: int) -> tf.data.Dataset:
        return batches(train, batch_size, np.random.default_rng([seed, number]).permutation(len(train)), weights)

    history = epochs.fit(head, epoch, batches(val, 1024), **{**settings, **changed})
    return head, history


def test_it_learns_and_says_what_it_measured() -> None:
    seen: list[int] = []
    head, history = fit(on_epoch=lambda epoch, row: seen.append(epoch))
    measured = ["loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds"]
    assert list(history.columns) == ["phase", "epoch", *measured]
    assert list(history["epoch"]) == seen == [1, 2, 3, 4, 5]
    assert history["val_loss"].iloc[-1] < history["val_loss"].iloc[0]
    scores = probabilities(compute_outputs(head, FEATURES.rows(VAL)))
    found = -np.log(scores[np.arange(50), LABELS[VAL]]).mean()
    assert found == pytest.approx(history["val_loss"].min(), rel=1e-5)  # the best epoch's weights were kept


def test_best_or_last_epoch_is_kept() -> None:
    def val_loss(head: keras.Model) -> float:
        scores = probabilities(compute_outputs(head, FEATURES.rows(VAL)))
        return float(-np.log(scores[np.arange(50), LABELS[VAL]]).mean())

    wild = {"learning_rate": 1.5, "epochs": 7}
    best, history = fit(**wild, keep="best")
    assert history["val_loss"].idxmin() < 6
    assert val_loss(best) == pytest.approx(history["val_loss"].min(), rel=1e-4)
    last, history = fit(**wild, keep="last")
    assert val_loss(last) == pytest.approx(history["val_loss"].iloc[-1], rel=1e-4)


def test_patience_ends_a_training_that_does_not_improve() -> None:
    _, history = fit(learning_rate=1.5, epochs=50, patience=2)
    assert len(history) == history["val_loss"].idxmin() + 3


def test_the_same_seed_gives_the_same_bits() -> None:
    (one, _), (two, _), (other, _) = fit(), fit(), fit(seed=1)
    for first, second in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(one.get_weights()[0], other.get_weights()[0])


def test_a_loss_that_explodes_is_an_error_with_advice() -> None:
    with pytest.raises(epochs.TrainingError, match="lower learning_rate"):
        fit(learning_rate=1e38, optimizer={"name": "sgd", "momentum": 0.9})


SCHEDULES = (
    {"name": "constant"},
    {"name": "cosine", "warmup": 0.1, "final": 0.0},
    {"name": "piecewise", "boundaries": [0.5], "factor": 0.1},
)


@pytest.mark.parametrize(
    ("name", "schedule"),
    [*((name, SCHEDULES[0]) for name in optimizers.OPTIMIZERS), ("adam", SCHEDULES[1]), ("sgd", SCHEDULES[2])],
)
def test_optimizers_learn_under_schedules(name: str, schedule: dict[str, object]) -> None:
    _, history = fit(optimizer={"name": name}, schedule=schedule)
    assert history["val_loss"].min() < np.log(2) - 0.03


def test_schedules_are_the_published_curves() -> None:
    def rates(name: str, **settings: object) -> np.ndarray:
        found = optimizers.schedule(name, 1.0, 100, **settings)
        return np.array([float(found(step)) for step in range(101)])

    cosine = rates("cosine", warmup=0.1, final=0.1)
    np.testing.assert_allclose(cosine[:11], np.arange(11) / 10, atol=1e-6)
    expected = 0.1 + 0.9 * (1 + np.cos(np.pi * np.arange(91) / 90)) / 2
    np.testing.assert_allclose(cosine[10:], expected, atol=1e-5)
    assert rates("cosine", warmup=0.0, final=0.0)[0] == 1.0
    steps = rates("piecewise", boundaries=[0.75, 0.5], factor=0.1)
    np.testing.assert_allclose(steps[[0, 50, 51, 75, 76]], [1, 1, 0.1, 0.1, 0.01], rtol=1e-5)


def test_an_image_that_counts_twice_is_as_good_as_two() -> None:
    settings = {"epochs": 3, "optimizer": {"name": "sgd", "momentum": 0.0}, "keep": "last", "learning_rate": 0.5}
    twice = np.concatenate([TRAIN, TRAIN[:50]])
    doubled, _ = fit(train=twice, batch_size=len(twice), **settings)
    counts = np.where(np.arange(len(TRAIN)) < 50, 2, 1)
    weighed, _ = fit(batch_size=len(TRAIN), weights=(counts / counts.mean()).astype(np.float32), **settings)
    for one, other in zip(doubled.get_weights(), weighed.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.slow
def test_balanced_weights_help_the_rare_class() -> None:
    rare = np.concatenate([np.flatnonzero(LABELS == 0), np.flatnonzero(LABELS == 1)[:8]])
    heads = {}
    for balanced in (False, True):
        weights = class_weights(LABELS[rare], 2).astype(np.float32) if balanced else None
        head, _ = fit(train=rare, val=np.arange(200), epochs=10, keep="last", weights=weights)
        scores = probabilities(compute_outputs(head, FEATURES.rows(np.flatnonzero(LABELS == 1))))
        heads[balanced] = scores[:, 1].mean()
    assert heads[True] > heads[False] + 0.01


@pytest.mark.slow
def test_label_smoothing_keeps_probabilities_from_the_ends() -> None:
    settings = {"epochs": 12, "learning_rate": 0.3, "keep": "last"}
    sharp, soft = (
        probabilities(compute_outputs(fit(**settings, label_smoothing=amount)[0], FEATURES.rows(TRAIN))).max()
        for amount in (0.0, 0.3)
    )
    assert soft < sharp


def test_a_second_phase_numbers_on_and_keeps_the_better_weights() -> None:
    head, history = fit()
    best = history["val_loss"].min()
    before = head.get_weights()
    again = epochs.fit(
        head, lambda epoch: batches(TRAIN, 32), batches(VAL, 1024), steps=5, epochs=3, learning_rate=30.0,
        optimizer={"name": "sgd"}, schedule={"name": "constant"}, phase="fine-tune", before=history,
    )  # fmt: skip
    assert list(again["phase"]) == ["head"] * 5 + ["fine-tune"] * 3
    assert list(again["epoch"]) == list(range(1, 9))
    assert again["val_loss"][5:].min() > best  # far too high a rate
    for one, two in zip(before, head.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.slow
def test_a_later_job_does_not_keep_the_graphs_of_earlier_ones() -> None:
    def graphs() -> int:
        tensorflow.prepare(precision="float32", threads=None, deterministic=False, seed=0)
        gc.collect()
        return sum(type(entry).__name__ == "FuncGraph" for entry in gc.get_objects())

    fit()
    before = graphs()
    for _ in range(3):
        fit()
    assert graphs() <= before


def test_a_compiled_head_that_is_used_again_trains_like_a_new_one() -> None:
    def train(known: dict[str, object], seed: int, **settings: object) -> list[np.ndarray]:
        chosen = {
            "steps": 5, "epochs": 3, "optimizer": {"name": "adam"}, "schedule": {"name": "constant"},
            "label_smoothing": 0.1, **settings,
        }  # fmt: skip
        head = epochs.compiled_head(known, Standardisation.fit(FEATURES), classes=2, dropout=0.3, seed=seed, **chosen)
        epochs.fit(head, lambda number: batches(TRAIN, 32), batches(VAL, 1024), compiled=True, **chosen)
        return list(head.get_weights())

    decaying = {"schedule": {"name": "cosine", "warmup": 0.1, "final": 0.0}}
    runs = [
        (0, {"learning_rate": 0.01}), (3, {"learning_rate": 0.05}), (0, {"learning_rate": 0.01, **decaying}),
        (3, {"learning_rate": 0.01, "optimizer": {"name": "sgd", "momentum": 0.9}}), (0, {"learning_rate": 0.02}),
    ]  # fmt: skip
    known: dict[str, object] = {}
    together = [train(known, seed, **settings) for seed, settings in runs]
    assert len(known) == 3
    for found, (seed, settings) in zip(together, runs, strict=True):
        for one, other in zip(found, train({}, seed, **settings), strict=True):
            np.testing.assert_array_equal(one, other)
