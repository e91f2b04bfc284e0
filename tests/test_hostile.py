"""Hostile input: nothing crashes, nothing gets a wrong label, and whatever is left out is named with the reason."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hairline.data import archives, images, manifest, sources
from hairline.system.errors import HairlineError
from tests import fuzzing
from tests.conftest import ROOT
from tests.running import TINY, refused, run


def many(quick: int, full: int) -> pytest.MarkDecorator:
    """Run a test with a few inputs, and with all of them among the slow tests."""
    return pytest.mark.parametrize("count", [quick, pytest.param(full, marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def photos(two_classes: Path) -> list[Path]:
    """A few good photos: real ones where they are at hand, else painted."""
    real = os.environ.get("HAIRLINE_REAL_DATA")
    if real:
        root = (ROOT / real).resolve() / "data" / "metu"
        return [*sorted((root / "Positive").iterdir())[:3], *sorted((root / "Negative").iterdir())[:3]]
    return [*sorted((two_classes / "cracked").iterdir())[:3], *sorted((two_classes / "plain").iterdir())[:3]]


def is_one_line(text: str) -> bool:
    return bool(text.strip()) and manifest.printable(text) == text


# --- images -----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")
@many(150, 2000)
def test_a_damaged_image_is_read_the_same_everywhere_or_named(count: int, photos: list[Path], tmp_path: Path) -> None:
    samples = fuzzing.sample_images(photos)
    assert len(samples) >= 100
    rows = []
    for number, (suffix, content) in enumerate(fuzzing.mutated_images(samples, count)):
        label = "cracked" if hashlib.sha256(content).digest()[0] % 2 else "plain"  # no wonder: a name for each file
        path = tmp_path / "set" / label / f"{number}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        rows.append((str(path), label))
    listed = pd.DataFrame(rows, columns=["path", "label"], dtype=object)
    table, rejected = manifest.scan(listed)
    assert sorted([*table.index, *rejected.index]) == list(range(count))
    assert count // 10 < len(table) < count  # both kinds occur, or the mutations are too tame or too wild
    for row in table.itertuples():
        content = Path(row.path).read_bytes()
        assert row.label == Path(row.path).parent.name == listed["label"][row.Index]
        assert row.sha256 == hashlib.sha256(content).hexdigest()
        whole = images.decode(content)
        assert whole.dtype == np.uint8
        assert whole.shape == (row.height, row.width, 3), row.path
        small = images.resize(whole, 16)
        np.testing.assert_array_equal(images.decode(content, 16), small)
        assert images.inspect(content, 64)[2].mode == "L"
    for row in rejected.itertuples():
        assert is_one_line(manifest.printable(row.reason)), row
        with pytest.raises(images.ImageError):
            images.decode(row.path)


def test_only_the_documented_formats_are_opened(tmp_path: Path) -> None:
    """Pillow would start Ghostscript on a PostScript file, whatever it is called."""
    for kind in ("EPS", "GIF", "PPM", "TGA", "PCX", "JPEG2000"):
        path = tmp_path / f"{kind}.jpg"
        Image.new("RGB", (8, 8)).save(path, kind)
        for read in (images.decode, lambda file: images.inspect(file.read_bytes())):
            with pytest.raises(images.ImageError, match="not an image, or of a format"):
                read(path)


def test_pipes_devices_and_loops_are_rejected(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zeros.jpg").symlink_to("/dev/zero")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "gone.jpg").symlink_to("nowhere")
    (folder / "around").symlink_to("..", target_is_directory=True)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "socket.jpg"))
    with (folder / "huge.jpg").open("wb") as file:
        file.truncate(images.MAX_BYTES + 1)  # takes no room
    (tmp_path / "b").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "b" / "good.jpg")
    table, rejected = manifest.scan(sources.from_folder(path=str(tmp_path)))
    assert {Path(path).name for path in table["path"]} == {"good.jpg"}
    reasons = {Path(row.path).name: row.reason for row in rejected.itertuples() if row.label == "a"}
    assert "not a file" in reasons["pipe.jpg"]
    assert "not a file" in reasons["zeros.jpg"]
    assert "not a file" in reasons["socket.jpg"]
    assert "symbolic links" in reasons["loop.jpg"]
    assert "No such file" in reasons["gone.jpg"]
    assert "larger than any image" in reasons["huge.jpg"]


# --- files that change ------------------------------------------------------------------------------------------------


def test_another_file_of_the_same_size_and_time_is_noticed(tmp_path: Path) -> None:
    """Copying tools restore times, and bitmaps of one size have as many bytes."""
    rows = pd.DataFrame({"path": [str(tmp_path / "a.bmp")], "label": ["a"]})
    digests = []
    for grey in (10, 200):
        Image.new("RGB", (8, 8), (grey,) * 3).save(tmp_path / "fresh.bmp")
        os.utime(tmp_path / "fresh.bmp", (1_000_000_000, 1_000_000_000))
        os.replace(tmp_path / "fresh.bmp", tmp_path / "a.bmp")
        table, _ = manifest.scan(rows)
        digests.append(table["sha256"].iloc[0])
        assert digests[-1] == hashlib.sha256((tmp_path / "a.bmp").read_bytes()).hexdigest()
    assert digests[0] != digests[1]


# --- archives ---------------------------------------------------------------------------------------------------------


@many(60, 500)
def test_a_damaged_archive_gives_right_labels_or_is_named(count: int, photos: list[Path], tmp_path: Path) -> None:
    labels = ["Positive"] * 3 + ["Negative"] * 3
    files = {
        f"set/{label}/{number}.jpg": f"{label}{number}".encode() + path.read_bytes()[:150]  # no two alike
        for number, (label, path) in enumerate(zip(labels, photos, strict=True))
    }
    truth = {hashlib.sha256(content).hexdigest(): name.split("/")[1] for name, content in files.items()}
    outcomes = set()
    outside = {"whole", "archive", "home"}
    for number, content in enumerate(fuzzing.mutated_archives(files, tmp_path, count)):
        (tmp_path / "archive").write_bytes(content)
        home = tmp_path / "home"
        try:
            target = archives.extract(tmp_path / "archive", home / str(number))
        except archives.ArchiveError as error:
            assert str(tmp_path / "archive") in str(error)
            assert is_one_line(str(error)), str(error)
            assert not (home / str(number)).exists()
            outcomes.add("refused")
        else:
            outcomes.add("unpacked")
            for path in target.rglob("*"):
                assert not path.is_symlink()
                if path.is_file():
                    digest = hashlib.sha256(path.read_bytes()).hexdigest()
                    # A zip has no checksum of names: damage makes another folder, but not the other class's.
                    others = {"Positive", "Negative"} - {truth.get(digest, path.parent.name)}
                    assert path.parent.name not in others or "inner" in path.name or digest not in truth
        assert {path.name for path in tmp_path.iterdir()} <= outside
        assert not list(home.glob(".*.partial"))
    assert outcomes == {"refused", "unpacked"}


# --- manifests --------------------------------------------------------------------------------------------------------


@many(100, 500)
def test_a_damaged_manifest_gives_right_labels_or_is_named(count: int, photos: list[Path], tmp_path: Path) -> None:
    names = ["a, b.jpg", 'say "crack".jpg', "emoji \U0001f9f1.jpg", "ä.jpg", "1.jpg", "2.jpg"]
    for name, photo in zip(names, photos, strict=True):
        (tmp_path / name).write_bytes(photo.read_bytes())
    labels = ["cracked", "plain"] * 3
    lines = [f'"{name.replace(chr(34), chr(34) * 2)}",{label}' for name, label in zip(names, labels, strict=True)]
    good = "\n".join(["path,label", *lines, ""]).encode()
    path = tmp_path / "list.csv"
    path.write_bytes(good)
    assert set(sources.from_manifest(path=str(path))["label"]) == {"cracked", "plain"}
    outcomes = set()
    for content in fuzzing.mutated_manifests(good, count):
        path.write_bytes(content)
        try:
            table, rejected = manifest.scan(sources.from_manifest(path=str(path)))
        except HairlineError as error:
            assert "list.csv" in str(error)
            assert len(str(error).splitlines()) <= 3
            outcomes.add("refused")
            continue
        outcomes.add("read")
        encodings = ("utf-8", "cp1252", "utf-16", "utf-16-le", "utf-16-be")
        text = "\n".join(content.decode(encoding, "replace") for encoding in encodings)
        for row in table.itertuples():
            name = Path(row.path).name
            truth = dict(zip(names, labels, strict=True))[name]
            # Another label only where the damage wrote it there, right behind the name.
            quoted = (name, f'"{name.replace(chr(34), chr(34) * 2)}"')
            written = [f"{one}{separator}{row.label}" for one in quoted for separator in ",;\t|"]
            spaced = text.replace(" ", "")
            assert row.label == truth or any(line.replace(" ", "") in spaced for line in written), (name, row.label)
        assert all(is_one_line(manifest.printable(reason)) for reason in rejected["reason"])
    assert outcomes == {"refused", "read"}


# --- names ------------------------------------------------------------------------------------------------------------

NAMES = ["line\nbreak", "emoji \U0001f9f1", "\"quoted\" 'name'", "<b>bold", "undecodable \udcdf", "=1+1, %s", "-m"]
NAMES += ["a" * 200]


def test_a_class_folder_whose_name_is_not_utf8_is_named(tmp_path: Path) -> None:
    for name in ("fine", "geri\udcdfen"):
        (tmp_path / name).mkdir()
    with pytest.raises(sources.SourceError, match=r"geri.+udcdf.*not UTF-8: rename it"):
        sources.from_folder(path=str(tmp_path))


@pytest.mark.slow
def test_any_name_goes_from_the_folder_to_the_report(two_classes: Path, tmp_path: Path) -> None:
    root = tmp_path / "set <i>"
    classes = ["<b>cracked \U0001f9f1", 'plain "wall"\nof 2']
    for folder, name in zip(("cracked", "plain"), classes, strict=True):
        shutil.copytree(two_classes / folder, root / name)
        for odd, path in zip(NAMES, sorted((root / name).iterdir()), strict=False):
            path.rename(path.with_name(f"{odd}.jpg"))
    settings = [*TINY, "data=folder", f"data.path='{root}'", f"data.positive_class='{classes[0]}'"]
    assert "Error" not in refused(run(*settings, "features.engine=tensorflow", timeout=250), code=0)
    (place,) = Path("outputs").glob("*/*")
    table = manifest.read(place / "manifest.csv")
    assert sorted(set(table["label"])) == classes
    assert {Path(path).stem for path in table["path"]} >= set(NAMES)
    inspection = run(f"run={place}", f"input='{root}'", "output=inspection", script="predict.py", timeout=250)
    assert "Error" not in refused(inspection, code=0)
    page = Path("inspection/report.html").read_text(encoding="utf-8")
    for name in ("<b>bold", "<b>cracked", "set <i>"):
        assert name not in page
    assert "&lt;b&gt;bold" in page
