"""Inspections from start to end, by a model whose answers are known beforehand."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import geojson
import numpy as np
import pandas as pd
import pytest
from PIL import ExifTags, Image

import hairline
from hairline import config
from hairline.config import inspection
from hairline.data import images
from hairline.inspection import examiner
from hairline.inspection import predict as photos
from hairline.inspection.inspector import InspectionError, Inspector
from hairline.model import saved
from hairline.model.decision import Decision
from hairline.system import cluster
from tests import darkness
from tests.running import composed, run

TILE = darkness.PATCH_PX
DARK = (TILE, 2 * TILE, 2 * TILE, TILE)  # of a wall of 10 x 7 tiles and a bit
SIZE = (10 * TILE + 5, 7 * TILE)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return darkness.save(tmp_path_factory.mktemp("darkness") / "model")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Four walls: two with the same dark place, one light, one with a position and a time."""
    folder = tmp_path / "site"
    (folder / "north").mkdir(parents=True)
    for name, dark in {"a": [DARK], "b": [], "north/c": [DARK, (7 * TILE, 0, TILE, TILE)]}.items():
        Image.fromarray(darkness.wall(*SIZE, dark)).save(folder / f"{name}.png")
    data = Image.Exif()
    keys = ExifTags.GPS
    data.get_ifd(ExifTags.IFD.GPSInfo).update(
        {keys.GPSLatitudeRef: "S", keys.GPSLatitude: (33.0, 51.0, 25.0),
         keys.GPSLongitudeRef: "E", keys.GPSLongitude: (151.0, 12.0, 55.0)}
    )  # fmt: skip
    data.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2026:05:01 10:20:30"
    Image.fromarray(darkness.wall(*SIZE, [])).save(folder / "d.jpg", exif=data)
    return folder


def predict(model: Path, place: Path | str, *overrides: str) -> int:
    chosen = [f"run={model}", f"input='{place}'", "output=out", "features.engine=litert", *overrides]
    return photos.inspect_photos(composed("predict", *chosen), Path("unused"))[0]


def table(name: str) -> pd.DataFrame:
    return pd.read_csv(Path("out", name), keep_default_na=False)


def test_an_array_a_path_and_bytes_give_the_same(model: Path, tmp_path: Path) -> None:
    pixels = darkness.wall(*SIZE, [DARK])
    Image.fromarray(pixels).save(tmp_path / "wall.png")
    found = hairline.inspect(pixels, run=model, engine="tensorflow")
    for source in (tmp_path / "wall.png", str(tmp_path / "wall.png"), (tmp_path / "wall.png").read_bytes()):
        other = hairline.inspect(source, run=model, engine="tensorflow")
        assert (other.heat_map == found.heat_map).all()
        assert other.table.drop(columns="path").equals(found.table.drop(columns="path"))
    assert found.heat_map.dtype == np.float32
    assert found.heat_map.shape == pixels.shape[:2]
    assert list(found.table.columns) == ["path", "x", "y", "width", "height", "label", "predicted", "prob_cracked",
                                         "prob_plain"]  # fmt: skip
    assert found.table[["x", "y"]].iloc[-1].tolist() == [SIZE[0] - TILE, SIZE[1] - TILE]


def test_what_is_found_is_what_was_painted(model: Path) -> None:
    found = hairline.inspect(darkness.wall(*SIZE, [DARK]), run=model, engine="tensorflow")
    x, y, width, height = DARK
    (region,) = found.regions
    assert (region.x, region.y, region.width, region.height, region.area_px) == (*DARK, width * height)
    assert found.predicted == "cracked"
    assert found.share("cracked") == width * height / (SIZE[0] * SIZE[1])
    assert found.highest == pytest.approx(darkness.probability(60), abs=0.01)
    inside = found.heat_map[y : y + height, x : x + width]
    np.testing.assert_allclose(inside, darkness.probability(60), atol=0.01)
    assert found.heat_map[y, x - 1] == pytest.approx(darkness.probability(200), abs=0.01)
    light = hairline.inspect(darkness.wall(*SIZE, []), run=model, engine="tensorflow")
    assert (light.predicted, light.regions, light.share("cracked")) == ("plain", [], 0)


def test_tiles_are_seen_as_training_saw_patches(model: Path) -> None:
    """A tile's row is what the classifier says of the tile cut out and given as an image."""
    pixels = np.random.default_rng(0).integers(0, 256, (90, 100, 3), dtype=np.uint8)
    found = hairline.inspect(pixels, run=model, size_px=40, overlap=0.5, engine="tensorflow")
    cut = [pixels[r.y : r.y + r.height, r.x : r.x + r.width] for r in found.table.itertuples()]
    expected = hairline.load(str(model)).predict(cut)
    np.testing.assert_allclose(found.table["prob_cracked"], expected["prob_cracked"], atol=1e-6)
    assert len(cut) == 4 * 4


def test_a_patch_is_scored_whole(model: Path) -> None:
    patch = darkness.wall(TILE, TILE - 2, [])
    found = hairline.inspect(patch, run=model, engine="tensorflow")
    assert found.table[["x", "y", "width", "height"]].to_numpy().tolist() == [[0, 0, TILE, TILE - 2]]
    assert found.table["prob_plain"][0] == pytest.approx(hairline.load(str(model)).predict(patch)["prob_plain"][0])


def test_litert_says_what_tensorflow_says(model: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    first, second = (hairline.inspect(pixels, run=model, engine=name, threads=2) for name in ("litert", "tensorflow"))
    np.testing.assert_allclose(first.heat_map, second.heat_map, atol=1e-5)


def test_tables(model: Path, site: Path) -> None:
    assert predict(model, site) == 0
    tiles, rows = table("predictions.csv"), table("photos.csv")
    order = [str(site / name) for name in ("a.png", "b.png", "d.jpg", "north/c.png")]
    assert rows["path"].tolist() == order
    assert rows["predicted"].tolist() == ["cracked", "plain", "plain", "cracked"]
    assert rows["regions"].tolist() == [1, 0, 0, 2]
    boxes = json.loads(rows["boxes"][3])
    assert boxes == [list(DARK), [7 * TILE, 0, TILE, TILE]]
    assert rows["cracked_share"][0] == pytest.approx(2 / 70 * (10 * TILE) / SIZE[0], abs=1e-6)
    assert rows["highest_probability"][0] == pytest.approx(
        tiles[tiles["path"] == order[0]]["prob_cracked"].max(), abs=1e-6
    )
    assert rows["time"].tolist() == ["", "", "2026-05-01T10:20:30", ""]
    assert [name for name in rows if "mm" in name] == []
    assert (rows["tiles"] == 11 * 7).all()
    assert len(tiles) == rows["tiles"].sum()
    assert list(tiles)[:7] == ["path", "x", "y", "width", "height", "label", "predicted"]
    dark = tiles[tiles["predicted"] == "cracked"]
    assert sorted(dark.loc[dark["path"] == order[0], "x"]) == [TILE, 2 * TILE]
    for name in rows["overlay"]:
        with Image.open(Path("out", name)) as overlay:
            assert overlay.width == SIZE[0]
            assert not overlay.getexif()


def test_places_are_valid_geojson_and_can_be_left_out(model: Path, site: Path) -> None:
    predict(model, site)
    content = geojson.loads(Path("out/photos.geojson").read_text())
    assert content.is_valid
    (feature,) = content["features"]
    assert feature["geometry"]["coordinates"] == pytest.approx([151.215278, -33.856944], abs=1e-6)
    assert feature["properties"]["path"] == str(site / "d.jpg")
    assert table("photos.csv")["latitude"].tolist() == ["", "", "-33.8569444", ""]
    assert "33.85694&deg; S" in Path("out/report.html").read_text()

    (site / "d.jpg").rename(site / "e.jpg")  # nor of photos that are there no longer
    predict(model, site, "privacy.strip_location=true")
    assert not Path("out/photos.geojson").exists()
    for path in [path for path in Path("out").rglob("*") if path.is_file()]:
        assert not re.search(rb"33\.85|151\.21", path.read_bytes()), path
    assert table("photos.csv")["time"][2] == "2026-05-01T10:20:30"


def test_millimetres_only_with_a_scale(model: Path, site: Path) -> None:
    predict(model, site / "a.png", "scale.mm_per_pixel=0.5")
    row = table("photos.csv").iloc[0]
    assert row["cracked_area_mm2"] == 2 * TILE * TILE * 0.25
    assert row["longest_region_mm"] == pytest.approx(np.hypot(2 * TILE, TILE) * 0.5, abs=0.05)
    page = Path("out/report.html").read_text()
    assert "One pixel was given as 0.5 mm" in page
    assert "measures no crack width" in page


def test_what_is_done_is_not_done_again(model: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predict(model, site)
    before = {name: Path("out", name).read_bytes() for name in ("predictions.csv", "photos.csv")}
    seen: list[str] = []
    examine = examiner.Examiner.examine

    def counted(self: examiner.Examiner, path: Path) -> str | None:
        seen.append(path.name)
        return examine(self, path)

    monkeypatch.setattr(examiner.Examiner, "examine", counted)
    predict(model, site)
    assert seen == []
    (Path("out") / table("photos.csv")["overlay"][0]).unlink()
    Image.fromarray(darkness.wall(*SIZE, [], seed=1)).save(site / "b.png")
    predict(model, site)
    assert sorted(seen) == ["a.png", "b.png"]
    Image.fromarray(darkness.wall(*SIZE, [])).save(site / "b.png")
    predict(model, site)
    assert {name: Path("out", name).read_bytes() for name in before} == before
    seen.clear()
    predict(model, site, "tiles.overlap=0.5")
    assert len(seen) == 4


def test_an_inspection_that_was_killed_goes_on(model: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predict(model, site, "output=whole")
    replace, records = examiner._replace, []

    def killed(file: Path, content: bytes) -> None:
        records.append(file) if file.suffix == ".json" else None
        if len(records) == 2:  # the second overlay is there, its record is not
            raise KeyboardInterrupt
        replace(file, content)

    monkeypatch.setattr(examiner, "_replace", killed)
    with pytest.raises(KeyboardInterrupt):
        predict(model, site, "runtime.threads=1")
    monkeypatch.setattr(examiner, "_replace", replace)
    assert not Path("out/photos.csv").exists()
    assert len(list(Path("out/records").rglob("*.json"))) == 1
    predict(model, site)
    for name in ("predictions.csv", "photos.csv", "photos.geojson"):
        assert Path("out", name).read_bytes() == Path("whole", name).read_bytes()


def test_a_photo_that_takes_down_its_workers_is_given_up(model: Path, site: Path, tmp_path: Path) -> None:
    task = examiner.Task(model, tmp_path / "out", {"engine": "tensorflow"})
    worker, path = examiner.Worker(task), site / "a.png"
    tries = examiner.record_file(task.output, path).with_suffix(".tries")
    tries.parent.mkdir(parents=True)
    row = {"path": os.fsencode(path)}
    tries.write_text("3")
    assert "worker was lost 3 times" in worker(row)["problem"]
    assert worker(row)["problem"] == ""  # asked once more, it is tried once more
    assert not tries.exists()
    assert len(list((tmp_path / "out" / "records").rglob("*.json"))) == 1


def test_bad_files_are_named_and_the_rest_is_done(
    model: Path, site: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    (site / "broken.jpg").write_bytes(b"abc")
    (site / "empty.png").write_bytes(b"")
    (site / "notes.txt").write_text("not a photo")
    frames = [Image.fromarray(darkness.wall(64, 64, [], seed=number)) for number in range(3)]
    frames[0].save(site / "moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(site / "moving.webp", save_all=True, append_images=frames[1:])
    Image.fromarray(darkness.wall(9, 7, [])).save(site / "tiny.png")
    Image.new("L", (10_000, 10_000)).save(site / "huge.png")
    expected = {
        "broken.jpg": "not an image",
        "empty.png": "empty file",
        "moving.gif": "not a kind of image that is read",
        "moving.webp": "animated",
        "tiny.png": "smaller than a patch (9 x 7 pixels, patches have 32)",
        "huge.png": "100 megapixels",
    }
    assert predict(model, site) == len(expected)
    rows = table("photos.csv").set_index("path")
    page = Path("out/report.html").read_text()
    for name, reason in expected.items():
        row = rows.loc[str(site / name)]
        assert reason in row["problem"] + row["notes"]
        assert re.search(rf"{re.escape(name)}: .*{re.escape(reason)}", caplog.text)
        assert name in page.partition("<table")[0]
    assert "notes.txt" in caplog.text
    done = rows[rows["problem"] == ""]
    assert len(done) == 4 + 1
    assert set(table("predictions.csv")["path"]) == set(done.index)


def test_a_folder_of_nothing_but_bad_files_has_a_report_too(model: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "broken.jpg").write_bytes(b"abc")
    assert predict(model, tmp_path / "bad") == 1
    assert table("photos.csv")["problem"].tolist() == ["not an image, or of a format this project does not read"]
    assert len(table("predictions.csv")) == 0
    assert "broken.jpg" in Path("out/report.html").read_text()


def test_classes_come_from_folders_and_wrong_ones_are_named(model: Path, tmp_path: Path) -> None:
    for name in ("cracked", "plian"):
        (tmp_path / "walls" / name).mkdir(parents=True)
        Image.fromarray(darkness.wall(64, 64, [])).save(tmp_path / "walls" / name / "1.png")
    assert predict(model, tmp_path / "walls", "labels=folder") == 1
    tiles = table("predictions.csv")
    assert tiles.groupby(tiles["path"].str.split("/").str[-2])["label"].unique().map(list).to_dict() == {
        "cracked": ["cracked"], "plian": [""],
    }  # fmt: skip
    assert "plian" in table("photos.csv")["notes"][1]
    with pytest.raises(InspectionError, match=r"positive_class=craked: no class of the model. Did you mean 'cracked'"):
        predict(model, tmp_path / "walls", "positive_class=craked")


def test_no_photos_is_an_error(model: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "notes.txt").write_text("")
    (tmp_path / "empty").mkdir()
    for place, message in {
        "nothing": "no photos there",
        "empty": "no photos there",
        "nowhere": "nothing is there",
        "*.jpg": "nothing is there",
    }.items():
        with pytest.raises(photos.InputError, match=message):
            predict(model, place)
    assert not Path("out").exists()
    with pytest.raises(photos.InputError, match="output=nothing: holds all of input=nothing"):
        photos.listed("nothing", Path("nothing"))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_text(model: Path, site: Path) -> None:
    odd = os.fsdecode(b"caf\xe9 \n'\"<b>.jpg")
    (site / "d.jpg").rename(site / odd)
    assert predict(model, site) == 0
    text = Path("out/predictions.csv").read_bytes()
    assert os.fsencode(site / odd).replace(b'"', b'""') in text
    assert geojson.loads(Path("out/photos.geojson").read_text()).is_valid
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert "caf\\udce9 \\n&#x27;&quot;&lt;b&gt;.jpg" in page


def test_inputs(model: Path, site: Path, tmp_path: Path) -> None:
    def names(text: Path | str, output: str = "out") -> list[str]:
        return [path.name for path in photos.listed(str(text), tmp_path / output).photos]

    assert names(site) == ["a.png", "b.png", "d.jpg", "c.png"]
    assert names(site / "a.png") == ["a.png"]
    assert names(site / "*.png") == ["a.png", "b.png"]
    assert names(site / "**" / "*.png") == ["a.png", "b.png", "c.png"]
    assert names(site / "nor*") == ["c.png"]
    assert names(site, "site/north") == ["a.png", "b.png", "d.jpg"]
    (site / "b.png").unlink()
    (site / "b.png").symlink_to(site / "a.png")
    assert names(site) == ["a.png", "d.jpg", "c.png"]


def test_orientation_is_undone(model: Path, tmp_path: Path) -> None:
    wall = darkness.wall(*SIZE, [DARK])
    data = Image.Exif()
    data[ExifTags.Base.Orientation] = 6  # the camera stood upright: a quarter to the right brings it back
    Image.fromarray(np.rot90(wall).copy()).save(tmp_path / "turned.png", exif=data)
    predict(model, tmp_path / "turned.png")
    assert json.loads(table("photos.csv")["boxes"][0]) == [list(DARK)]


def abstaining(self: saved.Bundle, probabilities: np.ndarray) -> list[str]:
    return [["plain", "cannot tell", "cracked"][int(p >= 0.3) + int(p > 0.9)] for p in probabilities[:, 0]]


def test_cannot_tell(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved.Bundle, "decide", abstaining)
    inspector = Inspector(model, engine="tensorflow")
    wall = darkness.wall(*SIZE, [])
    wall[:TILE, :TILE] = 125
    doubtful = inspector.inspect(wall)
    assert (doubtful.predicted, doubtful.regions) == ("cannot tell", [])
    assert doubtful.share("cannot tell") == TILE * TILE / (SIZE[0] * SIZE[1])
    assert sorted(doubtful.table["predicted"].unique()) == ["cannot tell", "plain"]
    wall[TILE : 2 * TILE, :TILE] = 30
    assert inspector.inspect(wall).predicted == "cracked"


def test_another_threshold_than_the_models(model: Path) -> None:
    wall = darkness.wall(*SIZE, [])
    wall[:TILE, :TILE] = 125
    tile = Inspector(model, engine="tensorflow").inspect(wall).highest
    found = [Inspector(model, engine="tensorflow", threshold=tile + change).inspect(wall) for change in (-0.01, 0.01)]
    assert [entry.predicted for entry in found] == ["cracked", "plain"]
    with pytest.raises(InspectionError, match=r"share\('crack'\): expected one of cracked, plain, cannot tell"):
        found[0].share("crack")
    with pytest.raises(InspectionError, match="positive_class=plain: the model was made to look for cracked"):
        Inspector(model, positive_class="plain")


@pytest.mark.parametrize(
    ("threshold", "abstain", "told"),
    [
        (0.3, None, "cracked from a probability of 0.3 (for a recall of 0.99)"),
        (0.3, [0.2, 0.7], "cracked from a probability of 0.7, cannot tell from 0.2 up to 0.7"),
        (None, None, "the most probable class"),
    ],
)
def test_the_decision_in_words(threshold: float | None, abstain: list[float] | None, told: str) -> None:
    about = {"image_size": 8, "decode": "", "data_digest": "", "backbone": {}, "versions": {}}
    bundle = saved.Bundle(
        ["cracked", "plain"],
        "cracked",
        **about,
        decision=Decision(threshold=threshold, chosen="for a recall of 0.99", abstain=abstain),
    )
    assert bundle.describe_decision() == told
    if threshold is None:
        with pytest.raises(saved.BundleError, match="threshold=0.5: this model has none"):
            bundle.at(0.5)
    else:
        assert (bundle.at(0.5).threshold, bundle.at(0.5).decision.abstain, bundle.at(None)) == (0.5, None, bundle)


def test_tiles_that_contradict_each_other_are_a_case_for_a_person(model: Path) -> None:
    wall = darkness.wall(2 * TILE, TILE, [])
    wall[:, TILE // 2 : -TILE // 2] = 110  # the middle tile says cracked (0.86), its neighbours' halves say plain
    found = Inspector(model, overlap=0.5, engine="tensorflow").inspect(wall)
    assert found.table["predicted"].tolist() == ["plain", "cracked", "plain"]
    assert (found.decided == "plain").all()
    assert (found.predicted, found.regions) == ("cannot tell", [])


def test_three_classes(tmp_path: Path) -> None:
    place = darkness.save(
        tmp_path / "three", class_names=["cracked", "plain", "rust"], positive_class=None, decision=Decision()
    )
    found = hairline.inspect(darkness.wall(*SIZE, [DARK]), run=place, engine="tensorflow")
    assert (found.positive, found.predicted) == ("cracked", "cracked")  # by its well-known name
    assert list(found.table)[-3:] == ["prob_cracked", "prob_plain", "prob_rust"]
    other = hairline.inspect(darkness.wall(*SIZE, []), run=place, positive_class="rust", engine="tensorflow")
    assert other.positive == "rust"
    unknown = darkness.save(tmp_path / "unknown", class_names=["a", "b", "c"], positive_class=None, decision=Decision())
    with pytest.raises(InspectionError, match=r"add positive_class=<one of a, b, c>"):
        Inspector(unknown)


def test_a_model_that_was_changed_is_refused(tmp_path: Path) -> None:
    place = darkness.save(tmp_path / "model")
    with (place / saved.MODEL).open("ab") as file:
        file.write(b"x")
    with pytest.raises(saved.BundleError, match="is not the model that was saved"):
        Inspector(place)
    other = darkness.save(tmp_path / "other", positive_class="kracked")
    with pytest.raises(saved.BundleError, match="'kracked' is none of its classes"):
        Inspector(other)


def test_arrays_of_another_kind_are_refused(model: Path) -> None:
    inspector = Inspector(model, engine="tensorflow")
    for wrong in (np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3)), np.zeros((0, 9, 3), np.uint8)):
        with pytest.raises(images.ImageError, match="expected uint8"):
            inspector.inspect(wrong)


def test_groups_are_keyword_arguments() -> None:
    tiles, ray = ({field.name for field in dataclasses.fields(kind)} for kind in (inspection.Tiles, inspection.Ray))
    inspector = set(inspect.signature(Inspector).parameters)
    assert inspector - tiles == {"run", "engine", "threads", "positive_class", "threshold", "adaptation"}
    assert set(inspect.signature(cluster.map_files).parameters) - ray == {"worker", "arguments", "paths", "threads"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("tiles.size_px=0", "tiles.size_px=0: expected a number above 0"),
        ("tiles.overlap=1", "from 0 up to, not including, 1"),
        ("scale.mm_per_pixel=-1", "scale.mm_per_pixel=-1: expected"),
        ("max_megapixels=500", "up to 178"),
        ("overlay.longest_px=1", "expected 64 to 20000"),
        ("runtime.threads=0", "runtime.threads=0: expected a number above 0"),
        ("threshold=1.5", "threshold=1.5: expected a probability between 0 and 1"),
    ],
)
def test_faults_say_what_to_do(change: str, message: str) -> None:
    with pytest.raises(config.ConfigError, match=message):
        predict(Path("model"), "photos", change)
    both: list[Any] = ["tiles.overlap=0.5", "tiles.stride_px=9"]
    with pytest.raises(config.ConfigError, match="give one of them"):
        predict(Path("model"), "photos", *both)


@pytest.fixture
def no_tensorflow(tmp_path: Path) -> dict[str, str]:
    """An environment in which importing TensorFlow, Keras or MLflow fails."""
    (tmp_path / "poison").mkdir()
    for name in ("tensorflow", "keras", "mlflow"):
        (tmp_path / "poison" / f"{name}.py").write_text(f"raise RuntimeError('{name} was imported')")
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path / "poison"), str(Path(hairline.__file__).parents[1])])}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inptu=x"], "Did you mean: 'input'?"),
        (["run=x"], "input is missing: add input="),
        (["run=nowhere", "input=x"], "run=nowhere: no saved model there"),
        (["run=x", "input=y", "runtime.compute=spark"], "expected one of ['local', 'ray']"),
        (["run=x", "input=y", "tiles.size=3"], "Did you mean: 'size_px'?"),
    ],
)
def test_mistakes_are_answered_without_tensorflow(
    arguments: list[str], message: str, no_tensorflow: dict[str, str]
) -> None:
    found = run(*arguments, environment=no_tensorflow, script="predict.py")
    assert found.returncode not in (0, None)
    assert message in found.stdout + found.stderr
    assert "Traceback" not in found.stdout + found.stderr
    assert not Path("outputs").exists() or not list(Path("outputs").rglob("*.log"))


def test_the_command(model: Path, site: Path, no_tensorflow: dict[str, str]) -> None:
    """A converted model needs no TensorFlow, so that the command starts in seconds; the exit status tells of faults."""
    hairline.inspect(site / "a.png", run=model, engine="litert")
    found = run(f"run={model}", f"input={site}", "output=out", environment=no_tensorflow, script="predict.py")
    said = found.stdout + found.stderr
    assert found.returncode == 0, said
    assert re.search(r"2  cracked\n +2  plain", said), said
    assert "out/report.html" in said
    assert not list(Path("outputs").rglob("*.*"))
    assert "2  cracked" in Path("out/predict.log").read_text()
    produced = {path.name for path in Path("out").iterdir()}
    assert produced == {"predictions.csv", "photos.csv", "photos.geojson", "report.html", "overlays", "records",
                        "predict.log"}  # fmt: skip
    (site / "broken.jpg").write_bytes(b"abc")
    again = run(f"run={model}", f"input={site}/**/*.*", environment=no_tensorflow, script="predict.py")
    assert again.returncode == 1, again.stdout + again.stderr
    assert "broken.jpg: not an image" in again.stdout + again.stderr
    (place,) = Path("outputs").glob("*/*-predict")
    assert len(pd.read_csv(place / "photos.csv")) == 5
