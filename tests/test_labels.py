"""Labels of windows of photos as a source of images: `data=labels`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hairline.config import ConfigError
from hairline.data import images, labels
from hairline.data.prepare import prepare
from hairline.model import saved
from hairline.system.process import Process
from tests.running import composed, train_with
from tests.saved_runs import saved_run

HEADER = ",".join(labels.COLUMNS)


def photo(file: Path, seed: int, size: tuple[int, int] = (96, 64)) -> Path:
    """Write a noisy JPEG whose left half is dark."""
    pixels = np.random.default_rng(seed).normal(160, 20, (size[1], size[0], 3))
    pixels[:, : size[0] // 2] -= 90
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, quality=92)
    return file


def write(folder: Path, *rows: str) -> Path:
    (folder / labels.FILE).write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")
    return folder / labels.FILE


def wall(folder: Path, photos: int = 4, random: tuple[int, ...] = (1, 4)) -> Path:
    """Write photos of six tiles each, all labelled: the dark ones are cracked. Tiles `random` are chosen at random."""
    rows = []
    for number in range(photos):
        photo(folder / "photos" / f"{number}.jpg", seed=number)
        for tile in range(6):
            x, y = 32 * (tile % 3), 32 * (tile // 3)
            chosen = labels.RANDOM if tile in random else labels.SELECTED
            name = "cracked" if x == 0 else "plain"
            rows.append(f"photos/{number}.jpg,{x},{y},32,32,{name},2026-11-29T12:00:00Z,me,{chosen}")
    return write(folder, *rows)


def test_the_last_answer_counts_and_an_empty_one_withdraws(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "a.jpg,0,0,32,32,cracked,t1,me,random",
        f"{tmp_path}/b.jpg,0,0,32,32,plain,t2,me,selected",
        "a.jpg,0,0,32,32,plain,t3,me,random",
        "a.jpg,32,0,32,32,cracked,t4,me,selected",
        "a.jpg,32,0,32,32,,t5,me,selected",
    )
    table = labels.read(file)
    assert table["label"].tolist() == ["plain", "plain"]
    assert table["path"].tolist() == [str(tmp_path / "b.jpg"), str(tmp_path / "a.jpg")]
    assert table["time"].tolist() == ["t2", "t3"]


def test_labels_that_a_spreadsheet_saved_are_read(tmp_path: Path) -> None:
    text = "Path;x;y;width;height;label\r\na.jpg;1;2;3;4;fissuré\r\n"
    for encoding in ("utf-8-sig", "utf-16", "cp1252"):
        (tmp_path / "marks.csv").write_bytes(text.encode(encoding))
        (row,) = labels.read(labels.find(str(tmp_path / "marks.csv"))).itertuples()
        assert row.path == str(tmp_path / "a.jpg")
        assert (row.x, row.y, row.width, row.height, row.label, row.chosen) == (1, 2, 3, 4, "fissuré", "")
    (tmp_path / "marks.csv").write_text("path,x,y,w,h,label\n")
    with pytest.raises(labels.LabelError, match="lacks the columns width, height: it has path, x, y, w, h, label"):
        labels.read(tmp_path / "marks.csv")


@pytest.mark.parametrize("values", ["-1,0,32,32", "0.5,0,32,32", "x,0,32,32", "0,0,0,32"])
def test_what_is_no_window_is_refused(tmp_path: Path, values: str) -> None:
    with pytest.raises(labels.LabelError, match="line 2: (x|width) is .* expected a whole number of pixels"):
        labels.read(write(tmp_path, f"a.jpg,{values},cracked,t,me,random"))


def test_a_window_has_the_pixels_of_its_part_of_the_upright_photo(tmp_path: Path) -> None:
    file = photo(tmp_path / "a.jpg", seed=0, size=(80, 60))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: upright it is 60 wide and 80 high
    with Image.open(file) as image:
        image.save(file, exif=exif, quality=92)
    table = labels.read(write(tmp_path, "a.jpg,20,30,40,50,cracked,t,me,random"))
    (window,) = labels.cut(table)
    np.testing.assert_array_equal(images.decode(window), images.decode(file)[30:80, 20:60])


def test_a_photo_that_shrank_or_went_is_named(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg", seed=0)
    with pytest.raises(labels.LabelError, match="96 x 64 pixels, but a label names the window x=80"):
        labels.cut(labels.read(write(tmp_path, "a.jpg,80,0,32,32,cracked,t,me,random")))
    with pytest.raises(labels.LabelError, match="1 of the 1 labelled photos cannot be read"):
        labels.cut(labels.read(write(tmp_path, "gone.jpg,0,0,32,32,cracked,t,me,random")))


def prepared(path: Path, *overrides: str) -> pd.DataFrame:
    settings = composed("config", "data=labels", f"data.path={path}", *overrides)
    return prepare(settings.data, settings.split, seed=0, process=Process()).manifest


def test_random_tiles_are_the_test_split_and_photos_stay_together(tmp_path: Path) -> None:
    file = wall(tmp_path, random=(1, 3))
    for place in (tmp_path, file):
        table = prepared(place)
        answers = labels.read(file)
        assert len(table) == len(answers) == 24
        random = dict(zip(labels.cut(answers), answers["chosen"] == labels.RANDOM, strict=True))
        assert (table["path"].map(random) == (table["split"] == "test")).all()
        fitted = table[table["split"] != "test"]
        assert (fitted.groupby("group")["split"].nunique() == 1).all()
        assert set(table["group"]) == {str(tmp_path / "photos" / f"{number}.jpg") for number in range(4)}


def test_random_tiles_may_lack_a_class_and_cracks_may_lie_in_one_photo(tmp_path: Path) -> None:
    file = wall(tmp_path, random=(1, 4))
    rows = [row for row in file.read_text().splitlines()[1:] if "cracked" not in row or row.startswith("photos/2")]
    table = prepared(write(tmp_path, *rows))
    assert set(table.loc[table["split"] == "test", "label"]) == {"plain"}
    assert set(table.loc[table["label"] == "cracked", "split"]) == {"train", "val"}


def test_too_few_labels_are_counted(tmp_path: Path) -> None:
    wall(tmp_path, photos=1, random=(0, 1))
    with pytest.raises(labels.LabelError, match=r"cracked 1, plain 3 besides the random.* at least 2 of each class"):
        prepared(tmp_path)


def test_a_folder_without_labels_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a CSV file of labels, or a folder with labels.csv"):
        composed("config", "data=labels", f"data.path={tmp_path}")


def test_a_base_is_adapted_to_labels(tmp_path: Path, two_classes: Path) -> None:
    chosen = {"name": "mobilenetv2", "weights": "random"}  # by conf/config.yaml
    base = saved_run(tmp_path / "base", two_classes, **chosen)
    file = wall(tmp_path / "wall", photos=6)
    (file.parent / labels.SESSION).write_text(json.dumps({"selection": "some rule", "share": 0.1}))
    run = tmp_path / "run"
    run.mkdir()
    settings = ["data=labels", f"data.path={file.parent}", f"base={base}", "tracking=none"]
    settings += ["features.engine=tensorflow"]
    found = train_with(composed("config", *settings), run, settings)
    assert (found["train_images"] + found["val_images"], found["test_images"]) == (24, 12)
    assert np.isnan(found["test_auroc"])  # no random tile is cracked
    assert json.loads((run / "metrics.json").read_text())["test_auroc"] is None
    bundle = saved.read_bundle(run / "model")
    assert bundle.extra["patch_px"] == 32
    assert bundle.threshold is not None
    assert 0 < bundle.threshold < 0.5  # cracks are rarer on the wall than among the labels
    assert labels.describe(str(file)) == {
        "labels.count": "36",
        "labels.random": "12",
        "labels.digest": hashlib.sha256(file.read_bytes()).hexdigest()[:16],
        "labels.selection": "some rule",
    }


def test_what_a_spreadsheet_capitalised_is_still_random(tmp_path: Path) -> None:
    file = wall(tmp_path)
    file.write_text(file.read_text().replace(f",{labels.RANDOM}\n", ",Random\n"))
    assert labels.describe(str(file))["labels.random"] == "8"
    assert (labels.from_labels(path=str(file))["split"] == "test").sum() == 8
