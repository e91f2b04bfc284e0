"""Composites and crops join the training split only, and are drawn from training images only."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hairline.config import Config
from hairline.data import drawn, images, manifest, prepare
from hairline.data.synthetic import compose
from hairline.system.process import Process
from hairline.training import head
from hairline.training.train import fit_settings
from tests.running import composed


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Thirty small images of each class in twenty groups, divided."""
    folder = tmp_path_factory.mktemp("photos")
    rng, rows = np.random.default_rng(0), []
    for number in range(60):
        path = folder / f"{number:02}.png"
        Image.fromarray(rng.normal(130, 20, (56, 56, 3)).clip(0, 255).astype(np.uint8)).save(path)
        split = ("train", "train", "val", "test")[number // 3 % 4]
        rows.append((str(path), ("cracked", "plain")[number % 2], f"g{number // 3}", split))
    table, rejected = manifest.scan(pd.DataFrame(rows, columns=["path", "label", "group", "split"], dtype=object))
    assert len(rejected) == 0
    return table.drop(columns="phash")


def add(divided: pd.DataFrame, *, share: float = 0, crops: float = 0, seed: int = 0) -> pd.DataFrame:
    """Return the manifest with drawn images, whose positive class is `cracked`."""
    return drawn.add_drawn(divided, share=share, crops=crops, positive="cracked", seed=seed)


def test_zero_adds_nothing(divided: pd.DataFrame) -> None:
    assert add(divided) is divided
    assert drawn.is_real(divided).all()


@pytest.mark.parametrize(("settings", "origin"), [({"share": 1.5}, drawn.COMPOSITE), ({"crops": 1.5}, drawn.CROP)])
def test_drawn_images_are_training_images_with_the_group_of_their_parent(
    divided: pd.DataFrame, settings: dict[str, float], origin: str
) -> None:
    train = divided[divided["split"] == "train"]
    files = {path: Path(path).read_bytes() for path in divided["path"]}
    table = add(divided, **settings)
    pd.testing.assert_frame_equal(table.iloc[: len(divided)][list(manifest.COLUMNS)], divided.reset_index(drop=True))
    assert {path: Path(path).read_bytes() for path in divided["path"]} == files
    added = table[~drawn.is_real(table)]
    assert len(added) == round(1.5 * len(train)) == added["sha256"].nunique()
    assert set(added["split"]) == {"train"}
    assert set(added[drawn.ORIGIN]) == {origin}
    for row in added.itertuples():
        parent = train[train["sha256"].str.startswith(Path(row.path).name[:32])].iloc[0]
        assert row.group == parent["group"]
        if origin == drawn.CROP:
            assert row.label == parent["label"]
            assert row.width == row.height < 0.63 * parent["width"]
        else:
            assert parent["label"] == "plain"
    if origin == drawn.COMPOSITE:
        assert abs((added["label"] == "cracked").mean() - 0.5) < 0.03
    scanned, rejected = manifest.scan(added[["path", "label", "group", "split"]])
    assert len(rejected) == 0
    pd.testing.assert_frame_equal(scanned[list(manifest.COLUMNS)], added[list(manifest.COLUMNS)])


def test_drawn_images_are_cached_by_parent_and_seed(divided: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    crops = add(divided, crops=1.5)
    both = add(divided, share=0.5, crops=1.5, seed=0)
    is_crop = both[drawn.ORIGIN] == drawn.CROP
    assert both.loc[is_crop, "sha256"].tolist() == crops["sha256"].iloc[len(divided) :].tolist()
    assert (both[drawn.ORIGIN] == drawn.COMPOSITE).sum() == round(0.5 * (divided["split"] == "train").sum())
    stamps = {path: Path(path).stat().st_mtime_ns for path in both["path"]}
    with monkeypatch.context() as patch:
        patch.setattr(drawn.synthetic, "compose", lambda *_, **__: pytest.fail("drawn again"))
        patch.setattr(drawn, "crop", lambda *_, **__: pytest.fail("drawn again"))
        pd.testing.assert_frame_equal(add(divided, share=0.5, crops=1.5), both)
    assert {path: Path(path).stat().st_mtime_ns for path in both["path"]} == stamps
    for origin in (drawn.COMPOSITE, drawn.CROP):
        removed = Path(both.loc[both[drawn.ORIGIN] == origin, "path"].iloc[-1])
        content = removed.read_bytes()
        removed.unlink()
        pd.testing.assert_frame_equal(add(divided, share=0.5, crops=1.5), both)
        assert removed.read_bytes() == content
    other = add(divided, share=0.5, seed=5)
    assert not set(other["sha256"].iloc[len(divided) :]) & set(both["sha256"])


def test_a_parent_that_changes_is_named_and_not_drawn(divided: pd.DataFrame) -> None:
    with pytest.raises(images.ImageError, match=r"00\.png: changed since it was checked"):
        add(divided.assign(sha256=["0" * 63 + f"{number % 10}" for number in range(len(divided))]), crops=1)


def test_images_drawn_with_a_crack_are_labelled_cracked(divided: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    cracks = []

    def recorded(picture: Image.Image, **options: object) -> object:
        cracks.append(options["cracked"])
        return compose(picture, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(drawn.synthetic, "compose", recorded)
    table = add(divided, share=0.7, seed=6)
    added = table[~drawn.is_real(table)]
    assert sorted(cracks) == sorted(added["label"] == "cracked")
    assert all(("-cracked" in Path(row.path).name) == (row.label == "cracked") for row in added.itertuples())


def test_crops_prefer_dark_lines() -> None:
    """A dark line is in far more crops than in randomly placed ones."""
    pixels = np.random.default_rng(0).normal(140, 8, (227, 227, 3)).clip(0, 255).astype(np.uint8)
    pixels[:, 60:64] = 40
    patch = Image.fromarray(pixels)
    found = [np.asarray(drawn.crop(patch, seed=(number,)).convert("L")) for number in range(100)]
    assert sum(int(crop.min()) < crop.mean() - 45 for crop in found) > 75
    assert len({crop.shape for crop in found}) > 20
    assert all(48 <= crop.shape[0] == crop.shape[1] <= 141 for crop in found)
    assert np.array_equal(found[3], np.asarray(drawn.crop(patch, seed=(3,)).convert("L")))


def test_one_pixel_can_be_cropped() -> None:
    assert drawn.crop(Image.new("RGB", (1, 1)), seed=(0,)).size == (1, 1)


@pytest.mark.parametrize("positive", [None, "cracked"])
def test_composites_need_two_classes_one_of_them_cracked(divided: pd.DataFrame, positive: str | None) -> None:
    wrong = (
        divided if positive is None else divided.assign(label=divided["label"].where(divided["group"] != "g0", "odd"))
    )
    with pytest.raises(drawn.MixError, match=r"data.mix=1: the classes are .*data.positive_class"):
        drawn.add_drawn(wrong, share=1, crops=0, positive=positive, seed=0)


def test_real_images_are_unchanged(two_classes: Path) -> None:
    """Splits, labels and hashes of the source's images are those of a run without composites."""

    def prepared(settings: Config) -> prepare.Dataset:
        return prepare.prepare(settings.data, settings.split, seed=settings.seed, process=Process())

    plain = prepared(composed("config", "data=folder", f"data.path={two_classes}"))
    settings = composed("config", "data=folder", f"data.path={two_classes}", "data.mix=0.5", "data.mix_weight=0.25")
    found = prepared(settings)
    columns = list(manifest.COLUMNS)
    pd.testing.assert_frame_equal(found.manifest.iloc[found.real][columns], plain.manifest[columns])
    assert drawn.ORIGIN not in plain.manifest
    assert np.array_equal(found.labels[found.real], plain.labels)
    assert np.array_equal(found.hashes, plain.hashes)
    for split in ("val", "test"):
        assert np.array_equal(found.rows(split), plain.rows(split))
    assert len(found.rows("train")) == round(1.5 * len(plain.rows("train")))
    fit = fit_settings(settings)
    weights = head.row_weights(found, fit)
    assert weights is not None
    own = np.isin(found.rows("train"), found.real)
    assert np.unique(weights[own]).size == np.unique(weights[~own]).size == 1
    assert weights[~own][0] / weights[own][0] == pytest.approx(0.25)
    assert weights.mean() == pytest.approx(1)
    assert head.row_weights(plain, fit) is None
