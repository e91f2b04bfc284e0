"""The networks of a run: what fails the check against the feature path is not saved."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from hairline.model.head import Linear, Standardisation
from hairline.training.networks import Networks


def build() -> keras.Model:
    """Build a network of one convolution."""
    pixels = keras.Input((16, 16, 3), dtype="uint8")
    maps = keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1 / 255)(pixels))
    return keras.Model(pixels, keras.layers.GlobalAveragePooling2D(name="features")(maps))


def test_a_model_that_fails_the_check_is_not_saved(two_classes: Path, tmp_path: Path) -> None:
    networks = Networks(build, "one", {"precision": "float32", "threads": None, "deterministic": False, "seed": 0})
    even = Linear(
        Standardisation(*np.float32([[0] * 4, [1] * 4])), np.zeros((4, 2), np.float32), np.zeros(2, np.float32)
    )
    path = str(next(path for path in two_classes.rglob("*.*") if path.is_file()))
    arguments = {"temperature": 1.0, "paths": [path], "image_size": 16, "exact": True}
    with pytest.raises(RuntimeError, match=r"differ from the trained head's by 0\.4 .* was not saved"):
        networks.join(even, probabilities=np.float32([[0.9, 0.1]]), **arguments)
    with pytest.raises(AttributeError, match="model"):
        networks.save(tmp_path / "model", None, {}, "tensorflow")  # type: ignore[arg-type]
    assert not (tmp_path / "model").exists()
    assert networks.join(even, probabilities=np.float32([[0.5, 0.5]]), **arguments) < 1e-6
    assert networks.model.output_shape == (None, 2)
