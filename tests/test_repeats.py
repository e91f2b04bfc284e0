"""Training accuracy and linear probe describe the images of the source, whatever was drawn on them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from hairline.data.drawn import ORIGIN
from hairline.data.prepare import Dataset
from hairline.evaluation.metrics import measure_splits
from hairline.model.decision import Decision
from hairline.model.features import Features, Recipe
from hairline.training.head import Frozen, Head
from hairline.training.repeats import probe_accuracy

REAL, DRAWN = 60, 400


@pytest.fixture
def data() -> Dataset:
    """Twenty real images in each split, then drawn training images."""
    labels = np.arange(REAL + DRAWN) % 2
    splits = [*np.repeat(["train", "val", "test"], REAL // 3), *["train"] * DRAWN]
    table = pd.DataFrame({"split": splits, "group": np.arange(len(labels)).astype(str)})
    table[ORIGIN] = [*[""] * REAL, *["composite"] * DRAWN]
    return Dataset(table, pd.DataFrame(), ["cracked", "sound"], 0, labels, np.zeros(REAL, np.uint64), "none")


def separated(labels: np.ndarray) -> np.ndarray:
    """Return one column that separates real images, and drawn ones the other way round."""
    side = np.where(np.arange(len(labels)) < REAL, 1.0, -1.0)
    return np.asarray(side * (2.0 * labels - 1.0), np.float32)


def test_training_metrics_count_real_images_only(data: Dataset) -> None:
    margin = separated(data.labels)
    logits = 5 * np.stack([-margin, margin], axis=1)
    head = Head(None, logits, pd.DataFrame())  # type: ignore[arg-type]
    metrics = measure_splits(head.predictions(data), Decision(threshold=0.5), resamples=0)
    assert (metrics["train_accuracy"], metrics["val_accuracy"], metrics["test_accuracy"]) == (1, 1, 1)
    assert metrics["train_loss"] == pytest.approx(np.log1p(np.exp(-10)), rel=1e-3)
    assert (metrics["train_images"], metrics["val_images"], metrics["test_images"]) == (20, 20, 20)


def test_the_probe_is_fitted_to_real_images_only(data: Dataset) -> None:
    features = Features.of(np.stack([separated(data.labels), np.zeros(len(data.labels))], axis=1).astype(np.float32))
    recipe = Recipe("mobilenetv2", "none", 32, "tensorflow")
    frozen = Frozen(recipe, features, features, lambda epoch: features, 1)
    assert probe_accuracy(data, frozen) == {"probe_val_accuracy": 1.0, "probe_test_accuracy": 1.0}
