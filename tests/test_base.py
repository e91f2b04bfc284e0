"""A finished run adapted to a few labelled images: `base=`, from the command's settings to the saved model."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hairline
from hairline import config
from hairline.model import maps, saved
from hairline.model.familiarity import Distance
from hairline.training.base import Base, BaseError
from hairline.training.train import with_base
from tests import running
from tests.conftest import paint
from tests.running import composed

pytestmark = pytest.mark.slow  # a base is trained first

QUICK = ("features.engine=tensorflow", "tracking=none", "split.group_by=none")
train = functools.partial(running.train, settings=QUICK)
TAPS = ("block_1_expand_relu:max", "block_3_expand_relu:average")


@pytest.fixture(scope="module")
def base(two_classes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on taps of a network with random weights."""
    place = tmp_path_factory.mktemp("base") / "run"
    settings = ("model=mobilenetv2", "model.weights=random", "image_size=48", "batch_size=16", "learning_rate=0.01")
    train(place, two_classes, *settings, f"model.taps=[{','.join(TAPS)}]", "probe=false")
    return place


@pytest.fixture
def other_surface(tmp_path: Path) -> Path:
    """Sixteen plain images and four cracked ones, darker than those of the base."""
    return paint(tmp_path / "other", {"plain": 16, "cracked": 4}, seed=5, brightness=0.6)


def test_taps_run_from_features_to_the_saved_model_and_its_figures(base: Path) -> None:
    bundle = saved.read_bundle(base / "model")
    assert bundle.backbone["taps"].split() == list(TAPS)
    model = saved.load_model(base / "model", bundle)
    assert model.get_layer("features").output.shape[-1] == saved.read_statistics(base / "model")["mean"].size
    assert [kind for _, kind in maps.tap_maps(model)] == ["max", "average"]
    assert (base / "figures" / "gradcam.png").is_file()
    assert json.loads((base / "metrics.json").read_text())["parity_difference"] <= 1e-4
    predictions = pd.read_csv(base / "predictions.csv")
    again = hairline.load(base).predict(predictions["path"].tolist())
    np.testing.assert_allclose(again["prob_cracked"], predictions["prob_cracked"], atol=1e-4)


def test_a_base_is_adapted_to_twenty_images_and_knows_them_and_its_own(
    base: Path, other_surface: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    found = train(tmp_path / "adapted", other_surface, f"base={base}", "report.level=full")
    counts = pd.read_csv(tmp_path / "adapted" / "manifest.csv").groupby(["label", "split"]).size()
    assert len(counts) == 6  # of four cracked images each part has one at least
    history = pd.read_csv(tmp_path / "adapted" / "history.csv")
    assert history["phase"].tolist() == ["refit"]
    assert history["val_accuracy"][0] >= 0.75
    fitted = int((pd.read_csv(tmp_path / "adapted" / "manifest.csv")["split"] != "test").sum())
    assert f"to {fitted} images in 8 orientations" in caplog.text
    bundle, old = (saved.read_bundle(place / "model") for place in (tmp_path / "adapted", base))
    assert bundle.backbone == old.backbone
    assert (bundle.threshold, bundle.image_size) == (0.5, 48)
    assert bundle.decision.chosen.startswith("for even odds: on validation recall ")  # nobody gave it
    assert bundle.model_sha256 != old.model_sha256
    assert found["parity_difference"] <= 1e-4
    assert config.read(tmp_path / "adapted" / "config.yaml").model.taps == list(TAPS)
    new, old = (saved.read_statistics(place / "model") for place in (tmp_path / "adapted", base))
    assert len(new["image_digest"]) == len(old["image_digest"]) + 20
    first, second = Distance.from_arrays(new), Distance.from_arrays(old)
    assert first is not None
    assert second is not None
    assert first.limit >= second.limit
    digests = pd.read_csv(tmp_path / "adapted" / "manifest.csv")["sha256"]
    assert set(saved.seen_splits(tmp_path / "adapted" / "model", digests)) == {"train", "val", "test"}


def test_test_images_that_the_base_was_made_with_are_told(
    base: Path, two_classes: Path, other_surface: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path / "new", other_surface, f"base={base}", "report=none")
    assert "were among the base's" not in caplog.text
    train(tmp_path / "known", two_classes, f"base={base}", "report=none", "seed=5")
    assert re.search(
        r"WARNING: [1-9]\d* of the \d+ test images were among the base's training or validation images", caplog.text
    )


def test_other_classes_than_the_bases_are_refused(base: Path, tmp_path: Path) -> None:
    paint(tmp_path / "named", {"sound": 6, "broken": 6})
    with pytest.raises(BaseError, match="the base knows cracked, plain"):
        train(tmp_path / "adapted", tmp_path / "named", f"base={base}")


@pytest.mark.parametrize(
    ("override", "idle"),
    [
        ("model=densenet121", "model.backbone=densenet121"),
        ("image_size=64", "image_size=64"),
        ("optimizer=sgd", "optimizer.name=sgd"),
        ("epochs=50", "epochs=50"),
    ],
)
def test_settings_that_a_base_would_ignore_are_refused(base: Path, override: str, idle: str) -> None:
    chosen = [f"base={base}", "data=synthetic", override]
    with pytest.raises(BaseError, match=f"remove {re.escape(idle)}, which would have no effect"):
        with_base(composed("config", *chosen), Base.of(str(base), None, engine="auto", seed=0))


def test_a_base_that_is_none_is_named(two_classes: Path, tmp_path: Path) -> None:
    with pytest.raises(saved.BundleError, match="base=nowhere: no saved model there"):
        train(tmp_path / "run", two_classes, "base=nowhere")
