"""The head learns; what is kept, when it stops, and what its optimizers and schedules do."""

from __future__ import annotations

import keras
import numpy as np
import pandas as pd
import pytest

from hairline import training
from hairline.model import classifier, optimizers
from hairline.model.features import Features

GENERATOR = np.random.default_rng(0)
LABELS = np.tile([0, 1], 100)
VALUES = (GENERATOR.normal(size=(200, 12)) + 0.8 * LABELS[:, None]).astype(np.float32)
FEATURES = Features.of(VALUES)
TRAIN, VAL = np.arange(150), np.arange(150, 200)


def fit(**changed: object) -> tuple[keras.Model, pd.DataFrame]:
    settings = {
        "epochs": 5, "batch_size": 32, "learning_rate": 0.01, "optimizer": {"name": "adam"},
        "schedule": {"name": "constant"}, "seed": 0,
    }  # fmt: skip
    keras.utils.set_random_seed(0)
    head = classifier.build_head(classifier.Standardisation.of(FEATURES), classes=2, dropout=0.0)
    settings = {**settings, **changed}
    history = training.fit_head(
        head, lambda epoch: FEATURES.rows(TRAIN), LABELS[TRAIN], FEATURES.rows(VAL), LABELS[VAL], **settings
    )
    return head, history


def test_it_learns_and_says_what_it_measured() -> None:
    seen: list[int] = []
    head, history = fit(on_epoch=lambda epoch, row: seen.append(epoch))
    assert list(history.columns) == [
        "epoch",
        "loss",
        "accuracy",
        "val_loss",
        "val_accuracy",
        "learning_rate",
        "seconds",
    ]
    assert list(history["epoch"]) == seen == [1, 2, 3, 4, 5]
    assert history["val_loss"].iloc[-1] < history["val_loss"].iloc[0]
    scores = classifier.probabilities(classifier.logits(head, FEATURES.rows(VAL)))
    found = -np.log(scores[np.arange(50), LABELS[VAL]]).mean()
    assert found == pytest.approx(history["val_loss"].min(), rel=1e-5)  # the best epoch's weights were kept


def test_best_or_last_epoch_is_kept() -> None:
    def val_loss(head: keras.Model) -> float:
        scores = classifier.probabilities(classifier.logits(head, FEATURES.rows(VAL)))
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
    with pytest.raises(training.TrainingError, match="lower learning_rate"):
        fit(learning_rate=1e38, optimizer={"name": "sgd", "momentum": 0.9})


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
@pytest.mark.parametrize(
    "schedule",
    [
        {"name": "constant"},
        {"name": "cosine", "warmup": 0.1, "final": 0.0},
        {"name": "piecewise", "boundaries": [0.5], "factor": 0.1},
    ],
    ids=lambda s: s["name"],
)
def test_every_optimizer_learns_under_every_schedule(name: str, schedule: dict[str, object]) -> None:
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


def test_balanced_weights_help_the_rare_class() -> None:
    rare = np.concatenate([np.flatnonzero(LABELS == 0), np.flatnonzero(LABELS == 1)[:8]])
    heads = {}
    for balanced in (False, True):
        keras.utils.set_random_seed(0)
        head = classifier.build_head(classifier.Standardisation.of(FEATURES), classes=2, dropout=0.0)
        training.fit_head(
            head, lambda epoch: FEATURES.rows(rare), LABELS[rare], FEATURES, LABELS,
            epochs=20, batch_size=32, learning_rate=0.01,
            optimizer={"name": "adam"}, schedule={"name": "constant"}, balanced=balanced, keep="last",
        )  # fmt: skip
        scores = classifier.probabilities(classifier.logits(head, FEATURES.rows(np.flatnonzero(LABELS == 1))))
        heads[balanced] = scores[:, 1].mean()
    assert heads[True] > heads[False] + 0.05


def test_label_smoothing_keeps_probabilities_from_the_ends() -> None:
    settings = {"epochs": 60, "learning_rate": 0.1, "keep": "last"}
    sharp, soft = (
        classifier.probabilities(
            classifier.logits(fit(**settings, label_smoothing=amount)[0], FEATURES.rows(TRAIN))
        ).max()
        for amount in (0.0, 0.3)
    )
    assert soft < sharp
