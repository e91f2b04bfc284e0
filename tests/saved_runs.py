"""Run directories in no time: a small network that was never trained, with the files that a run leaves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from hairline.data import images, manifest, sources
from hairline.model import saved
from hairline.model.decision import Decision


def saved_run(
    place: Path, data: Path | pd.DataFrame, seed: int = 0, positive: str | None = "cracked", **backbone: str
) -> Path:
    """Write a run directory with a small network that was never trained: what it says depends on every pixel.

    Args:
        place: The run directory.
        data: Folder of its images, or rows of a source.
        seed: Seed of the network.
        positive: Positive class.
        backbone: Entries of the bundle's `backbone` that differ.
    """
    import keras

    table, _ = manifest.scan(data if isinstance(data, pd.DataFrame) else sources.from_folder(path=str(data)))
    table = table.reset_index(drop=True)
    table["split"] = [("train", "train", "val", "test")[row % 4] for row in range(len(table))]
    names = sorted(table["label"].unique())
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((32, 32, 3), dtype="uint8")
    scaled = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(inputs)
    hidden = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(scaled)
    hidden = keras.layers.BatchNormalization()(hidden)
    pooled = keras.layers.GlobalAveragePooling2D(name="features")(hidden)
    scores = keras.layers.Dense(len(names), kernel_initializer=keras.initializers.RandomNormal(0, 4), name="logits")(
        pooled
    )
    model = keras.Model(inputs, keras.layers.Softmax(name="probabilities")(scores), name="hairline")
    bundle = saved.Bundle(
        class_names=names, positive_class=positive, image_size=32, decode=images.RECIPE,
        data_digest=manifest.digest(table), versions={"python": "3"},
        backbone={"name": "tiny", "licence": "MIT", "taps": "", "finetuned": "all"} | backbone,
        decision=Decision(threshold=None if positive is None else 0.4, chosen="by hand"),
    )  # fmt: skip
    (place / "model").mkdir(parents=True)
    statistics = {"mean": np.zeros(8, np.float32), "deviation": np.ones(8, np.float32)}
    statistics |= saved.seen_images(table["sha256"], table["split"])
    saved.save_model(place / "model", model, bundle, statistics)
    manifest.write(table, place / "manifest.csv")
    (place / "environment.json").write_text(json.dumps({"git": {"commit": "c0ffee", "dirty": False}}))
    return place
