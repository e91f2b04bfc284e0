"""Galleries: which images are shown, and which figures are drawn."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hairline import config
from hairline.config import arguments
from hairline.data import manifest, sources
from hairline.evaluation import galleries, leaks
from hairline.model import attribution
from hairline.model.decision import Decision
from hairline.model.predictions import Predictions
from hairline.model.structure import Block
from tests import darkness

LABELS = np.array([0, 0, 0, 1, 1, 1, 1])
SCORES = np.array([0.1, 0.9, 0.6, 0.95, 0.2, 0.4, 0.7])
TABLE = np.column_stack([1 - SCORES, SCORES])
ANSWERS = TABLE.argmax(axis=1)


def test_errors_come_first_the_surest_at_the_top() -> None:
    picked = galleries.errors_and_others(LABELS, ANSWERS, TABLE, count=6, seed=0)
    assert picked[:3].tolist() == [1, 4, 2]  # 0.9 and 0.8; 5 and 2 tie at 0.6, and errors fill half of the places
    assert sorted(picked[3:]) == [0, 3, 6]
    everything = galleries.errors_and_others(LABELS, ANSWERS, TABLE, count=50, seed=0)
    assert sorted(everything) == list(range(7))


def test_each_cell_shows_its_worst_images() -> None:
    assert galleries.worst_of_each_cell(LABELS, ANSWERS, TABLE).tolist() == [1, 2, 4, 5, 0, 6, 3]


@pytest.fixture
def listed(two_classes: Path) -> pd.DataFrame:
    table, _ = manifest.scan(sources.from_folder(path=str(two_classes)))
    table = table.iloc[::6].reset_index(drop=True)
    return table.assign(split=[("train", "val", "test")[row % 3] for row in range(len(table))], group=table["sha256"])


def test_predictions_without_a_positive_class_are_drawn(listed: pd.DataFrame, tmp_path: Path) -> None:
    labels = (listed["label"] == "plain").to_numpy().astype(np.int64)
    scores = np.random.default_rng(0).random(len(labels))
    table = np.column_stack([scores, 1 - scores])
    folder = darkness.save(tmp_path / "model")
    predictions = Predictions.of(labels, table, ["cracked", "plain"], None)
    shown = galleries.Shown(listed, predictions, Decision(threshold=None), darkness.IMAGE_SIZE, seed=0)
    galleries.draw_predictions(tmp_path / "figures", shown, "line\nbreak")
    heat_maps = functools.partial(attribution.class_maps, folder, engine="tensorflow")
    galleries.draw_heat(tmp_path / "figures", shown, heat_maps)
    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert names == {"confusion_matrix", "reliability", "predictions", "errors", "gradcam"}
    for path in (tmp_path / "figures").iterdir():
        with Image.open(path) as image:
            assert image.width == 1080


def test_training_with_fresh_views_is_drawn(listed: pd.DataFrame, tmp_path: Path) -> None:
    history = pd.DataFrame({"epoch": [1], "loss": 1.0, "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.5})
    augment = arguments(config.Augment(mode="fresh", views=2))
    report = leaks.find(listed, listed["phash"].to_numpy())
    galleries.draw_images(
        tmp_path, manifest=listed, image_size=32, augment=augment, seed=0, leaks=report, split_by="hash"
    )
    curve = history.rename(columns={"epoch": "images"}).assign(test_accuracy=0.5)
    galleries.draw_training(tmp_path, history, "epoch", curve)
    blocks = [Block("image", "features", 3, (8,), 20, 0, ()), Block("logits", "logits", 1, (2,), 18, 18, (0,))]
    galleries.draw_model(tmp_path, blocks, "tiny")
    assert {path.stem for path in tmp_path.iterdir()} == {"model", "samples", "curves", "leaks", "learning_curve"}
