"""Photos unlike those of the training are named, and a model adapts to them: from the photos to tables and report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hairline.inspection import adaptation, predict
from hairline.inspection.inspector import Inspector
from hairline.model import saved, surface
from hairline.model.decision import Decision
from tests import darkness
from tests.running import composed

TILE = darkness.PATCH_PX
SIZE = (10 * TILE, 6 * TILE)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = darkness.save(tmp_path_factory.mktemp("known") / "model")
    darkness.make_known(folder)
    return folder


def wall(path: Path, *, tint: float = 1.0, brightness: float = 1.0, dark: bool = True, seed: int = 0) -> None:
    """Write a wall with a dark box; `tint` weakens its blue."""
    path.parent.mkdir(parents=True, exist_ok=True)
    boxes = [(2 * TILE, TILE, 2 * TILE, TILE)] if dark else []
    pixels = darkness.wall(*SIZE, boxes, seed) * brightness * np.array([1, 1, tint])
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


def inspect(model: Path, place: Path, *overrides: str) -> pd.DataFrame:
    chosen = (f"run={model}", f"input='{place}'", "output=out", "features.engine=litert", *overrides)
    predict.inspect_photos(composed("predict", *chosen), Path("unused"))
    return pd.read_csv("out/photos.csv", keep_default_na=False)


def test_photos_unlike_the_training_images_are_named_everywhere(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wall(tmp_path / "site" / "a.png")
    wall(tmp_path / "site" / "b.png", tint=0.6)
    with caplog.at_level("INFO", logger="hairline"):
        rows = inspect(model, tmp_path / "site")
    assert rows.columns[-1] == "distance"
    assert (rows["verdict"] == "unfamiliar").tolist() == [False, True]
    assert rows["distance"][0] <= 1 < rows["distance"][1]
    assert "unlike the images the model was trained on" in rows["notes"][1]
    assert rows["notes"][0] == ""
    tiles = pd.read_csv("out/predictions.csv")
    assert tiles.columns[-1] == "distance"
    medians = tiles.groupby("path")["distance"].median()
    assert (rows["distance"].to_numpy() >= medians[rows["path"]].to_numpy() - 1e-6).all()
    assert "1  unfamiliar" in caplog.text
    page = Path("out/report.html").read_text()
    assert '<b>1</b><span class="group-name">unfamiliar</span>' in page


def test_a_model_that_tells_no_distance_leaves_the_column_empty(tmp_path: Path) -> None:
    old = darkness.save(tmp_path / "old" / "model")
    wall(tmp_path / "a.png")
    rows = inspect(old, tmp_path / "a.png")
    assert (rows["distance"][0], rows["verdict"][0]) == ("", "cracked")
    assert "distance" not in pd.read_csv("out/predictions.csv")
    with pytest.raises(surface.SurfaceError, match="train it anew"):
        inspect(old, tmp_path / "a.png", "adapt=surface")


def test_a_dim_surface_is_fit_to_and_the_report_says_so(model: Path, tmp_path: Path) -> None:
    """On walls photographed in the dusk all is dark: as trained the model calls every tile cracked."""
    for number in range(3):
        wall(tmp_path / "site" / f"{number}.png", brightness=0.55, tint=0.9, seed=number)
    plain = inspect(model, tmp_path / "site")
    assert (plain["cracked_share"] == 1).all()
    assert "none: the model as it was trained" in Path("out/report.html").read_text()
    rows = inspect(model, tmp_path / "site", "adapt=surface")
    np.testing.assert_allclose(rows["cracked_share"], 2 / 60, atol=1e-6)
    assert "adapted to these photos: distance" in Path("out/report.html").read_text()
    told = surface.load(Path("out", adaptation.FILE))[2]
    assert told["used"]


def test_large_photos_do_not_keep_later_ones_from_being_learnt(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adaptation, "_MAX_TILES", 150)
    for number in range(20):
        wall(tmp_path / "site" / f"{number:02}.png", seed=number)
    seen: list[Path] = []
    features = Inspector.features
    monkeypatch.setattr(Inspector, "features", lambda self, photo: seen.append(photo) or features(self, photo))
    inspect(model, tmp_path / "site", "adapt=surface")
    assert 2 <= len(seen) < 10
    assert max(int(path.stem) for path in seen) > 9


def test_the_same_command_learns_nothing_twice(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2):
        wall(tmp_path / "site" / f"{number}.png", brightness=0.55, tint=0.9, seed=number)
    first = inspect(model, tmp_path / "site", "adapt=surface")

    def refused(*arguments: object) -> None:
        raise AssertionError("learned again")

    monkeypatch.setattr(adaptation, "_fit", refused)
    pd.testing.assert_frame_equal(inspect(model, tmp_path / "site", "adapt=surface"), first)
    wall(tmp_path / "site" / "new.png", brightness=0.55, tint=0.9, seed=7)
    with pytest.raises(AssertionError, match="learned again"):
        inspect(model, tmp_path / "site", "adapt=surface")


def test_photos_like_the_training_images_leave_the_model_as_it_is(model: Path, tmp_path: Path) -> None:
    for number in range(2):
        wall(tmp_path / "site" / f"{number}.png", seed=number)
    plain = inspect(model, tmp_path / "site")
    adapted = inspect(model, tmp_path / "site", "adapt=surface")
    told = surface.load(Path("out", adaptation.FILE))[2]
    assert not told["used"]
    assert "look like the training images" in Path("out/report.html").read_text()
    np.testing.assert_allclose(adapted["highest_probability"], plain["highest_probability"], atol=1e-5)


def test_a_model_without_a_threshold_cannot_be_adapted(tmp_path: Path) -> None:
    folder = darkness.save(tmp_path / "three" / "model", class_names=["cracked", "plain", "other"], decision=Decision())
    wall(tmp_path / "a.png")
    with pytest.raises(surface.SurfaceError, match="leave adapt out"):
        inspect(folder, tmp_path / "a.png", "adapt=surface")


def test_bundles_of_other_settings_are_not_mixed_up(model: Path, tmp_path: Path) -> None:
    wall(tmp_path / "a.png", brightness=0.55, tint=0.9)
    settings = {"engine": "litert", "threads": 1}
    digest = saved.read_bundle(model).model_sha256
    key = adaptation._key(digest, settings, [tmp_path / "a.png"])
    assert key == adaptation._key(digest, settings | {"threads": 2}, [tmp_path / "a.png"])
    assert key != adaptation._key(digest, settings | {"size_px": 9}, [tmp_path / "a.png"])
    assert key != adaptation._key("other", settings, [tmp_path / "a.png"])
