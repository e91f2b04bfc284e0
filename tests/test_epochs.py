"""The head learns; what is kept, when it stops, and what its optimizers and schedules do."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Literal

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from hairline import config
from hairline.data import pipeline
from hairline.model import optimizers
from hairline.model.features import Features
from hairline.model.head import Linear, Standardisation, Standardised, build_head
from hairline.model.predictions import probabilities
from hairline.system import tensorflow
from hairline.training import descent, epochs
from hairline.training.head_trainer import HeadTrainer
from hairline.training.network_trainer import NetworkTrainer

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


def optimizer(name: str, **settings: object) -> dict[str, object]:
    return config.arguments(config.GROUPS[f"optimizer/{name}"](name=name, **settings))


SETTINGS = {"epochs": 5, "learning_rate": 0.01, "optimizer": optimizer("adam"), "schedule": {"name": "constant"}}


def head_trainer(
    seed: int = 0,
    batch_size: int = 32,
    train: np.ndarray = TRAIN,
    weights: np.ndarray | None = None,
    dropout: float = 0.0,
    label_smoothing: float = 0.0,
    **changed: object,
) -> HeadTrainer:
    targets = np.eye(2, dtype=np.float32) * (1 - label_smoothing) + np.float32(label_smoothing / 2)
    standardisation = Standardisation.fit(FEATURES)
    everything = Standardised(standardisation, FEATURES)
    return HeadTrainer(
        lambda epoch: everything, train, targets[LABELS[train]], Standardised(standardisation, FEATURES.rows(VAL)),
        targets[LABELS[VAL]], weights=weights, batch_size=batch_size, dropout=dropout, seed=seed,
        **{**SETTINGS, **changed},
    )  # fmt: skip


def fit(
    keep: Literal["best", "last"] = "best",
    patience: int | None = None,
    on_epoch: Callable[[int, epochs.EpochRow], None] = lambda epoch, row: None,
    **settings: object,
) -> tuple[Linear, pd.DataFrame]:
    trainer = head_trainer(**settings)
    count = settings.get("epochs", SETTINGS["epochs"])
    history = epochs.fit(trainer, epochs=count, keep=keep, patience=patience, on_epoch=on_epoch)
    return trainer.linear, history


def network_trainer(
    seed: int = 0, batch_size: int = 32, weights: np.ndarray | None = None, label_smoothing: float = 0.0,
    dropout: float = 0.0, **changed: object,
) -> NetworkTrainer:  # fmt: skip
    keras.utils.set_random_seed(0)
    zeros = np.zeros((FEATURES.width, 2), np.float32), np.zeros(2, np.float32)
    head = build_head(Linear(Standardisation.fit(FEATURES), *zeros), dropout=dropout)

    def epoch(number: int) -> tf.data.Dataset:
        return batches(TRAIN, batch_size, np.random.default_rng([seed, number]).permutation(len(TRAIN)), weights)

    return NetworkTrainer(
        head, epoch, batches(VAL, 1024), steps=-(-len(TRAIN) // batch_size), label_smoothing=label_smoothing,
        **{**SETTINGS, **changed},
    )  # fmt: skip


def val_loss(head: Linear) -> float:
    scores = probabilities(head.logits(FEATURES.rows(VAL)))
    return float(-np.log(scores[np.arange(50), LABELS[VAL]]).mean())


def test_it_learns_and_says_what_it_measured() -> None:
    seen: list[int] = []
    head, history = fit(on_epoch=lambda epoch, row: seen.append(epoch))
    measured = ["loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds"]
    assert list(history.columns) == ["phase", "epoch", *measured]
    assert list(history["epoch"]) == seen == [1, 2, 3, 4, 5]
    assert history["val_loss"].iloc[-1] < history["val_loss"].iloc[0]
    assert val_loss(head) == pytest.approx(history["val_loss"].min(), rel=1e-5)  # the best epoch's weights were kept


def test_best_or_last_epoch_is_kept() -> None:
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
    np.testing.assert_array_equal(one.kernel, two.kernel)
    np.testing.assert_array_equal(one.bias, two.bias)
    assert not np.array_equal(one.kernel, other.kernel)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"weights": (np.arange(150) % 3 / 1).astype(np.float32), "batch_size": 40},
        {"optimizer": optimizer("adamw", weight_decay=0.1, global_clipnorm=0.05), "label_smoothing": 0.2},
        {"optimizer": optimizer("sgd"), "schedule": {"name": "cosine", "warmup": 0.2, "final": 0.1}},
        {"optimizer": optimizer("rmsprop"), "schedule": {"name": "piecewise", "boundaries": [0.7, 0.4], "factor": 0.3}},
        {"optimizer": optimizer("sgd", momentum=0.8, nesterov=True), "batch_size": 50},
        {"optimizer": optimizer("rmsprop", momentum=0.5, rho=0.8), "learning_rate": 0.001},
        {"optimizer": optimizer("lion", global_clipnorm=0.1)},
        {"optimizer": optimizer("lion", weight_decay=0.2), "schedule": {"name": "cosine", "warmup": 0, "final": 0}},
    ],
)
def test_a_head_is_trained_as_keras_trains_it(settings: dict[str, object]) -> None:
    head, network = head_trainer(**settings), network_trainer(**settings)
    one, other = (epochs.fit(trainer, epochs=5, keep="last") for trainer in (head, network))
    for found, expected in zip(head.weights(), network.weights()[-2:], strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-6)
    pd.testing.assert_frame_equal(one.drop(columns="seconds"), other.drop(columns="seconds"), rtol=1e-5)


def test_features_that_do_not_fit_into_memory_give_the_same_head(monkeypatch: pytest.MonkeyPatch) -> None:
    (one, history), _ = fit(dropout=0.2), monkeypatch.setattr("hairline.model.head._MOST_BYTES", 100)
    other, again = fit(dropout=0.2)
    np.testing.assert_array_equal(one.kernel, other.kernel)
    pd.testing.assert_frame_equal(history.drop(columns="seconds"), again.drop(columns="seconds"), check_exact=True)


def test_dropout_drops_the_share_that_was_asked_for() -> None:
    rows = np.repeat(TRAIN, 20)
    trainer = head_trainer(dropout=0.25, train=rows, batch_size=len(rows))
    seen = trainer._inputs(
        Standardised(Standardisation.fit(FEATURES), FEATURES), np.arange(len(rows)), np.random.default_rng(0)
    )
    assert (seen == 0).mean() == pytest.approx(0.25, abs=0.01)
    whole = Standardisation.fit(FEATURES)
    kept = (VALUES[rows] - whole.mean) / whole.deviation
    np.testing.assert_allclose(seen[seen != 0], (kept / 0.75)[seen != 0], rtol=1e-5)


def test_a_loss_that_explodes_is_an_error_with_advice() -> None:
    with pytest.raises(epochs.TrainingError, match="lower learning_rate"):
        fit(learning_rate=1e38, optimizer=optimizer("sgd"))


@pytest.mark.parametrize("schedule", [optimizers.schedule, descent.schedule])
def test_schedules_are_the_published_curves(schedule: Callable[..., Callable[[int], object]]) -> None:
    def rates(name: str, **settings: object) -> np.ndarray:
        found = schedule(name, 1.0, 100, **settings)
        return np.array([float(found(step)) for step in range(101)])

    cosine = rates("cosine", warmup=0.1, final=0.1)
    np.testing.assert_allclose(cosine[:11], np.arange(11) / 10, atol=1e-6)
    expected = 0.1 + 0.9 * (1 + np.cos(np.pi * np.arange(91) / 90)) / 2
    np.testing.assert_allclose(cosine[10:], expected, atol=1e-5)
    assert rates("cosine", warmup=0.0, final=0.0)[0] == 1.0
    steps = rates("piecewise", boundaries=[0.75, 0.5], factor=0.1)
    np.testing.assert_allclose(steps[[0, 50, 51, 75, 76]], [1, 1, 0.1, 0.1, 0.01], rtol=1e-5)


def test_no_boundary_is_a_constant_rate() -> None:
    assert optimizers.piecewise(0.5, 100, boundaries=[], factor=0.1) == 0.5


def test_an_image_that_counts_twice_is_as_good_as_two() -> None:
    settings = {"epochs": 3, "optimizer": optimizer("sgd", momentum=0.0), "keep": "last", "learning_rate": 0.5}
    twice = np.concatenate([TRAIN, TRAIN[:50]])
    doubled, _ = fit(train=twice, batch_size=len(twice), **settings)
    counts = np.where(np.arange(len(TRAIN)) < 50, 2, 1)
    weighed, _ = fit(batch_size=len(TRAIN), weights=(counts / counts.mean()).astype(np.float32), **settings)
    np.testing.assert_allclose(doubled.kernel, weighed.kernel, atol=1e-5)
    np.testing.assert_allclose(doubled.bias, weighed.bias, atol=1e-5)


def test_a_second_phase_numbers_on_and_keeps_the_better_weights() -> None:
    trainer = network_trainer()
    history = epochs.fit(trainer, epochs=5)
    best, before = history["val_loss"].min(), trainer.weights()
    wild = NetworkTrainer(
        trainer._model, lambda epoch: batches(TRAIN, 32), batches(VAL, 1024), steps=5, label_smoothing=0.0, epochs=3,
        learning_rate=30.0, optimizer={"name": "sgd"}, schedule={"name": "constant"},
    )  # fmt: skip
    again = epochs.fit(wild, epochs=3, phase="fine-tune", before=history)
    assert list(again["phase"]) == ["head"] * 5 + ["fine-tune"] * 3
    assert list(again["epoch"]) == list(range(1, 9))
    assert again["val_loss"][5:].min() > best  # far too high a rate
    for one, two in zip(before, wild.weights(), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.slow
def test_a_later_job_does_not_keep_the_graphs_of_earlier_ones() -> None:
    def graphs() -> int:
        tensorflow.prepare(precision="float32", threads=None, deterministic=False, seed=0)
        gc.collect()
        return sum(type(entry).__name__ == "FuncGraph" for entry in gc.get_objects())

    def train() -> None:
        epochs.fit(network_trainer(), epochs=1, verbose=False)

    train()
    before = graphs()
    for _ in range(3):
        train()
    assert graphs() <= before
