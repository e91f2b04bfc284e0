"""`predict.py` from photos to tables and report, by a model with known answers: the darker a tile, the more cracked."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import geojson
import numpy as np
import pandas as pd
import pytest
from PIL import ExifTags, Image

import hairline
from hairline import config
from hairline.inspection import predict, records
from hairline.system import cluster, files
from tests import darkness
from tests.darkness import DARK, SIZE
from tests.running import composed, run

TILE = darkness.PATCH_PX
TABLES = ("predictions.csv", "photos.csv", "photos.geojson")


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


def inspect_site(model: Path, place: Path | str, *overrides: str) -> int:
    chosen = [f"run={model}", f"input='{place}'", "output=out", "features.engine=litert", *overrides]
    return predict.inspect_photos(composed("predict", *chosen), Path("unused"))[0]


def table(name: str) -> pd.DataFrame:
    return pd.read_csv(Path("out", name), keep_default_na=False)


def test_tables(model: Path, site: Path) -> None:
    assert inspect_site(model, site) == 0
    tiles, rows = table("predictions.csv"), table("photos.csv")
    paths = [str(site / name) for name in ("a.png", "b.png", "d.jpg", "north/c.png")]
    assert rows["path"].tolist() == paths
    assert rows["verdict"].tolist() == ["cracked", "not cracked", "not cracked", "cracked"]
    assert rows["regions"].tolist() == [1, 0, 0, 2]
    assert json.loads(rows["boxes"][3]) == [list(DARK), [7 * TILE, 0, TILE, TILE]]
    assert rows["cracked_share"][0] == pytest.approx(2 / 70 * (10 * TILE) / SIZE[0], abs=1e-6)
    first = tiles[tiles["path"] == paths[0]]
    assert rows["highest_probability"][0] == pytest.approx(first["prob_cracked"].max(), abs=1e-6)
    assert rows["time"].tolist() == ["", "", "2026-05-01T10:20:30", ""]
    assert not any("mm" in name for name in rows)
    assert (rows["tiles"] == 11 * 7).all()
    assert len(tiles) == rows["tiles"].sum()
    assert list(tiles)[:7] == ["path", "x", "y", "width", "height", "label", "predicted"]
    assert sorted(first.loc[first["predicted"] == "cracked", "x"]) == [TILE, 2 * TILE]
    for name in rows["overlay"]:
        with Image.open(Path("out", name)) as overlay:
            assert overlay.width == SIZE[0]
            assert not overlay.getexif()


def test_positions_are_valid_geojson_and_can_be_left_out(model: Path, site: Path) -> None:
    inspect_site(model, site)
    content = geojson.loads(Path("out/photos.geojson").read_text())
    assert content.is_valid
    (feature,) = content["features"]
    assert feature["geometry"]["coordinates"] == pytest.approx([151.215278, -33.856944], abs=1e-6)
    assert feature["properties"]["path"] == str(site / "d.jpg")
    kml = "{http://www.opengis.net/kml/2.2}"
    (place,) = ElementTree.parse("out/photos.kml").iter(f"{kml}Placemark")
    assert place.findtext(f"{kml}name") == "d.jpg"
    longitude, latitude = map(float, str(place.findtext(f"{kml}Point/{kml}coordinates")).split(","))
    assert [longitude, latitude] == pytest.approx([151.215278, -33.856944], abs=1e-6)
    assert table("photos.csv")["latitude"].tolist() == ["", "", "-33.8569444", ""]
    assert "33.85694&deg; S" in Path("out/report.html").read_text()

    (site / "d.jpg").rename(site / "e.jpg")  # records of photos that no longer exist hold positions, too
    inspect_site(model, site, "privacy.strip_location=true")
    assert not Path("out/photos.geojson").exists()
    assert not Path("out/photos.kml").exists()
    for path in [path for path in Path("out").rglob("*") if path.is_file()]:
        assert not re.search(rb"33\.85|151\.21", path.read_bytes()), path
    assert table("photos.csv")["time"][2] == "2026-05-01T10:20:30"


def test_millimetres_only_with_a_scale(model: Path, site: Path) -> None:
    inspect_site(model, site / "a.png", "scale.mm_per_pixel=0.5")
    row = table("photos.csv").iloc[0]
    assert row["cracked_area_mm2"] == 2 * TILE * TILE * 0.25
    assert row["longest_mm"] == pytest.approx(row["longest_px"] / 2, abs=0.1)
    assert TILE <= row["longest_px"] <= 2 * TILE + TILE
    assert "0.5 mm per pixel" in Path("out/report.html").read_text()


def test_photos_that_are_done_are_skipped(model: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inspect_site(model, site)
    before = [Path("out", name).read_bytes() for name in TABLES]
    processed: list[str] = []
    process = records.Recorder.process

    def counted(self: records.Recorder, path: Path) -> str | None:
        processed.append(path.name)
        return process(self, path)

    monkeypatch.setattr(records.Recorder, "process", counted)
    inspect_site(model, site)
    assert processed == []
    (Path("out") / table("photos.csv")["overlay"][0]).unlink()
    Image.fromarray(darkness.wall(*SIZE, [], seed=1)).save(site / "b.png")
    inspect_site(model, site)
    assert sorted(processed) == ["a.png", "b.png"]
    Image.fromarray(darkness.wall(*SIZE, [])).save(site / "b.png")
    inspect_site(model, site)
    assert [Path("out", name).read_bytes() for name in TABLES] == before
    processed.clear()
    inspect_site(model, site, "tiles.overlap=0.5")
    assert len(processed) == 4


def test_an_inspection_that_was_killed_resumes(model: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inspect_site(model, site, "output=whole")
    written: list[Path] = []

    def killed(path: Path, text: str) -> None:
        written.append(path)
        if len(written) >= 2:  # the second overlay exists, its record does not
            raise KeyboardInterrupt
        path.write_text(text)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            inspect_site(model, site, "runtime.threads=1")
    assert not Path("out/photos.csv").exists()
    assert len(list(Path("out/records").rglob("*.json"))) == 1
    inspect_site(model, site)
    for name in TABLES:
        assert Path("out", name).read_bytes() == Path("whole", name).read_bytes()


def test_a_photo_that_kills_its_workers_is_given_up(model: Path, site: Path, tmp_path: Path) -> None:
    output, path = tmp_path / "out", site / "a.png"
    worker = records.RayRecorder(output=output, model=model, inspector={"engine": "tensorflow"})
    tries = records.record_file(output, path).with_suffix(".tries")
    tries.parent.mkdir(parents=True)
    tries.write_text("3")
    assert "worker was lost 3 times" in str(worker(path)[1])
    assert worker(path) == (path, None)  # the next inspection tries it again
    assert not tries.exists()
    assert len(list((output / "records").rglob("*.json"))) == 1


def test_bad_files_are_named_and_the_rest_is_done(model: Path, site: Path, caplog: pytest.LogCaptureFixture) -> None:
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
    assert inspect_site(model, site) == len(expected)
    rows = table("photos.csv").set_index("path")
    page = Path("out/report.html").read_text()
    for name, reason in expected.items():
        row = rows.loc[str(site / name)]
        assert reason in row["problem"] + row["notes"]
        assert any(name in block and reason in block for block in caplog.text.split("\n\n"))
        assert name in page
    assert "notes.txt" in caplog.text
    done = rows[rows["problem"] == ""]
    assert len(done) == 4 + 1
    assert set(table("predictions.csv")["path"]) == set(done.index)

    assert inspect_site(model, site / "broken.jpg") == 1  # nothing else: there are tables and a report all the same
    assert table("photos.csv")["problem"].tolist() == ["not an image, or of a format that hairline does not read"]
    assert len(table("predictions.csv")) == 0
    assert "broken.jpg" in Path("out/report.html").read_text()


def test_labels_come_from_folders_and_unknown_ones_are_named(model: Path, tmp_path: Path) -> None:
    for name in ("cracked", "plian"):
        (tmp_path / "walls" / name).mkdir(parents=True)
        Image.fromarray(darkness.wall(64, 64, [])).save(tmp_path / "walls" / name / "1.png")
    assert inspect_site(model, tmp_path / "walls", "labels=folder") == 1
    assert table("predictions.csv").groupby("path")["label"].unique().map(list).tolist() == [["cracked"], [""]]
    assert "plian" in table("photos.csv")["notes"][1]


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
        with pytest.raises(predict.InputError, match=message):
            inspect_site(model, place)
    assert not Path("out").exists()
    with pytest.raises(predict.InputError, match="output=nothing: holds all of input=nothing"):
        predict.list_photos("nothing", Path("nothing"))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_not_text(model: Path, site: Path) -> None:
    odd = os.fsdecode(b"caf\xe9 \n'\"<b>.jpg")
    (site / "d.jpg").rename(site / odd)
    assert inspect_site(model, site) == 0
    text = Path("out/predictions.csv").read_bytes()
    assert os.fsencode(site / odd).replace(b'"', b'""') in text
    assert geojson.loads(Path("out/photos.geojson").read_text()).is_valid
    assert len(list(ElementTree.parse("out/photos.kml").iter())) > 3
    assert "caf\\udce9 \\n&#39;&#34;&lt;b&gt;.jpg" in Path("out/report.html").read_text(encoding="utf-8")


def test_inputs(site: Path, tmp_path: Path) -> None:
    def names(text: Path, output: str = "out") -> list[str]:
        return [path.name for path in predict.list_photos(str(text), tmp_path / output).photos]

    assert names(site) == ["a.png", "b.png", "d.jpg", "c.png"]
    assert names(site / "a.png") == ["a.png"]
    assert names(site / "*.png") == ["a.png", "b.png"]
    assert names(site / "**" / "*.png") == ["a.png", "b.png", "c.png"]
    assert names(site / "nor*") == ["c.png"]
    assert names(site, "site/north") == ["a.png", "b.png", "d.jpg"]
    (site / "b.png").unlink()
    (site / "b.png").symlink_to(site / "a.png")
    assert names(site) == ["a.png", "d.jpg", "c.png"]


def test_an_inspection_stands_for_its_photos_and_a_table_of_the_users_own_does_not(
    model: Path, site: Path, tmp_path: Path
) -> None:
    inspect_site(model, site, f"output={tmp_path}/inspection")
    photos = predict.list_photos(str(site), tmp_path / "other").photos
    found = predict.list_photos(str(tmp_path / "inspection"), tmp_path / "other").photos
    assert sorted(path.resolve() for path in found) == sorted(path.resolve() for path in photos)
    (site / "photos.csv").write_text("name,lat,lon\n")
    assert predict.list_photos(str(site), tmp_path / "other").photos == photos


def test_two_inspections_do_not_write_into_one_folder(model: Path, site: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with files.locked(tmp_path / "out"), pytest.raises(files.LockedError, match="another process"):
        inspect_site(model, site, f"output={tmp_path}/out")


def test_photos_are_turned_upright(model: Path, tmp_path: Path) -> None:
    data = Image.Exif()
    data[ExifTags.Base.Orientation] = 6  # the camera was held upright: turning right by 90 degrees undoes it
    Image.fromarray(np.rot90(darkness.wall(*SIZE, [DARK])).copy()).save(tmp_path / "turned.png", exif=data)
    inspect_site(model, tmp_path / "turned.png")
    assert json.loads(table("photos.csv")["boxes"][0]) == [list(DARK)]


def test_without_ray_the_answer_is_how_to_install_it(model: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(cluster.ClusterError, match="runtime.compute=ray: Ray is not installed"):
        inspect_site(model, site, "runtime.compute=ray", "runtime.ray.workers=2")


@pytest.mark.parametrize("other", ["tiles.overlap=0.5", "tiles.size_px=8"])
def test_conflicting_tiles_are_refused(other: str) -> None:
    with pytest.raises(config.ConfigError, match="tiles.stride_px=9"):
        inspect_site(Path("model"), "photos", "tiles.stride_px=9", other)


@pytest.mark.slow
def test_the_command(model: Path, site: Path, no_tensorflow: dict[str, str]) -> None:
    """With a converted model the command needs no TensorFlow and starts in seconds; the exit status tells of faults."""
    hairline.inspect(site / "a.png", run=model, engine="litert")
    process = run(f"run={model}", f"input={site}", "output=out", environment=no_tensorflow, script="predict.py")
    screen = process.stdout + process.stderr
    assert process.returncode == 0, screen
    assert re.search(r"2  cracked\n +2  not cracked", screen), screen
    assert "out/report.html" in screen
    assert not list(Path("outputs").rglob("*.*"))
    assert "2  cracked" in Path("out/predict.log").read_text()
    assert all(Path("out", name).is_file() for name in (*TABLES, "report.html"))
    (site / "broken.jpg").write_bytes(b"abc")
    inputs = f"input='{site}/**/*.*','{site}/north'"
    again = run("-m", f"run={model}", inputs, environment=no_tensorflow, script="predict.py")
    assert again.returncode == 1, again.stdout + again.stderr
    assert re.search(r"not an image.*\n +\S*broken\.jpg", again.stdout + again.stderr)
    (place,) = Path("outputs").glob("*/*-predicts")
    assert [len(pd.read_csv(place / job / "photos.csv")) for job in "01"] == [5, 1]
