"""Composites and crops join the training part alone, and nothing of validation or test gets into them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hairline.config import Config
from hairline.data import drawn, manifest, prepare
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


def test_off_is_off(divided: pd.DataFrame) -> None:
    assert drawn.add_drawn(divided, share=0, crops=0, positive=None, seed=0) is divided
    assert drawn.is_real(divided).all()


def test_rows_that_were_there_stay_as_they_were(divided: pd.DataFrame) -> None:
    before = {path: Path(path).read_bytes() for path in divided["path"]}
    found = drawn.add_drawn(divided, share=0.5, crops=0, positive="cracked", seed=0)
    pd.testing.assert_frame_equal(found.iloc[: len(divided)][list(manifest.COLUMNS)], divided.reset_index(drop=True))
    for split in ("val", "test"):
        assert (found["split"] == split).sum() == (divided["split"] == split).sum()
    assert {path: Path(path).read_bytes() for path in divided["path"]} == before


def test_composites_are_training_images_of_their_parents_groups(divided: pd.DataFrame) -> None:
    train = divided[divided["split"] == "train"]
    found = drawn.add_drawn(divided, share=1.5, crops=0, positive="cracked", seed=0)
    added = found[~drawn.is_real(found)]
    assert len(added) == round(1.5 * len(train))
    assert set(added["split"]) == {"train"}
    assert set(added[drawn.ORIGIN]) == {drawn.COMPOSITE}
    by_digest = train.set_index("sha256")
    for row in added.itertuples():
        parent = by_digest.loc[by_digest.index.str.startswith(Path(row.path).name[:32])].iloc[0]
        assert parent["label"] == "plain"
        assert row.group == parent["group"]
    assert abs((added["label"] == "cracked").mean() - 0.5) < 0.03
    assert added["sha256"].nunique() == len(added)
    outside = set(divided.loc[divided["split"] != "train", "group"])
    assert not outside & set(added["group"])


def test_composites_are_files_like_any_other(divided: pd.DataFrame) -> None:
    added = drawn.add_drawn(divided, share=0.5, crops=0, positive="cracked", seed=3).iloc[len(divided) :]
    scanned, rejected = manifest.scan(added[["path", "label", "group", "split"]])
    assert len(rejected) == 0
    pd.testing.assert_frame_equal(scanned[list(manifest.COLUMNS)], added[list(manifest.COLUMNS)])


def test_the_same_again_is_not_drawn_again(divided: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    first = drawn.add_drawn(divided, share=0.5, crops=0, positive="cracked", seed=4)
    stamps = {path: Path(path).stat().st_mtime_ns for path in first["path"]}
    contents = {path: Path(path).read_bytes() for path in first["path"]}
    with monkeypatch.context() as patch:
        patch.setattr(drawn.synthetic, "compose", lambda *_, **__: pytest.fail("drawn again"))
        pd.testing.assert_frame_equal(drawn.add_drawn(divided, share=0.5, crops=0, positive="cracked", seed=4), first)
    assert {path: Path(path).stat().st_mtime_ns for path in first["path"]} == stamps
    gone = first["path"].iloc[-1]
    Path(gone).unlink()
    pd.testing.assert_frame_equal(drawn.add_drawn(divided, share=0.5, crops=0, positive="cracked", seed=4), first)
    assert Path(gone).read_bytes() == contents[gone]
    other = drawn.add_drawn(divided, share=0.5, crops=0, positive="cracked", seed=5)
    assert not set(other["sha256"].iloc[len(divided) :]) & set(first["sha256"])


def test_labels_say_what_is_drawn(divided: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file labelled as cracked was drawn with a crack, and no other."""
    asked = []

    def noted(picture: Image.Image, **options: object) -> object:
        asked.append(options["cracked"])
        return compose(picture, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(drawn.synthetic, "compose", noted)
    found = drawn.add_drawn(divided, share=0.7, crops=0, positive="cracked", seed=6)
    added = found[~drawn.is_real(found)]
    assert sorted(asked) == sorted(added["label"] == "cracked")
    assert all(("-cracked" in Path(row.path).name) == (row.label == "cracked") for row in added.itertuples())


def test_crops_are_parts_of_training_images_of_their_class(divided: pd.DataFrame) -> None:
    """Without a positive class, beside composites, and the same again from the cache."""
    train = divided[divided["split"] == "train"]
    found = drawn.add_drawn(divided, share=0, crops=1.5, positive=None, seed=0)
    cut = found[~drawn.is_real(found)]
    assert set(cut[drawn.ORIGIN]) == {drawn.CROP}
    assert set(cut["split"]) == {"train"}
    assert len(cut) == round(1.5 * len(train))
    assert cut["sha256"].nunique() == len(cut)
    for row in cut.itertuples():
        parent = train[train["sha256"].str.startswith(Path(row.path).name[:32])].iloc[0]
        assert (row.label, row.group) == (parent["label"], parent["group"])
        assert row.width == row.height < 0.63 * parent["width"]
    stamps = {path: Path(path).stat().st_mtime_ns for path in cut["path"]}
    both = drawn.add_drawn(divided, share=0.5, crops=1.5, positive="cracked", seed=0)
    assert both[drawn.ORIGIN].value_counts().to_dict() == {
        "": len(divided), drawn.CROP: len(cut), drawn.COMPOSITE: round(0.5 * len(train)),
    }  # fmt: skip
    assert both.loc[both[drawn.ORIGIN] == drawn.CROP, "sha256"].tolist() == cut["sha256"].tolist()
    assert {path: Path(path).stat().st_mtime_ns for path in stamps} == stamps
    scanned, rejected = manifest.scan(cut[["path", "label", "group", "split"]].reset_index(drop=True))
    assert len(rejected) == 0
    pd.testing.assert_frame_equal(scanned[list(manifest.COLUMNS)], cut[list(manifest.COLUMNS)].reset_index(drop=True))


def test_a_crop_shows_what_is_darkest_more_often_than_not() -> None:
    """A dark line down a patch is in far more crops than a part drawn anywhere would have it in."""
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
def test_it_takes_two_classes_of_which_one_is_cracked(divided: pd.DataFrame, positive: str | None) -> None:
    wrong = (
        divided if positive is None else divided.assign(label=divided["label"].where(divided["group"] != "g0", "odd"))
    )
    with pytest.raises(drawn.MixError, match=r"data.mix=1: the classes are .*data.positive_class"):
        drawn.add_drawn(wrong, share=1, crops=0, positive=positive, seed=0)


def test_a_run_sees_its_own_images_unchanged(two_classes: Path) -> None:
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
