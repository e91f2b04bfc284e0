"""Exports: a model that differs from the evaluated one is not published."""

from __future__ import annotations

import errno
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, PngImagePlugin

import hairline
from hairline import config
from hairline.config import Export, ExportData, Threads, Tracking
from hairline.data import images, labels, manifest
from hairline.model import saved
from hairline.model.decision import Decision
from hairline.shipping import export, formats, parity, readme, runners
from hairline.shipping.formats import ExportError
from hairline.system.errors import QuestionError
from hairline.tracking import FinishedRun
from tests.conftest import paint
from tests.running import composed
from tests.saved_runs import saved_run
from tests.test_images import tiff
from tests.test_labels import wall

# TensorFlow takes long to start in the processes that run the README's code.
PARAMETERS = [
    pytest.param(name, marks=[pytest.mark.slow] if name in ("saved_model", "keras") else []) for name in formats.FORMATS
]


@pytest.fixture(autouse=True, scope="module")
def _timed_briefly() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "_TIMED_SECONDS", 0.0)
        yield


def settings(run: Path, **values: Any) -> Export:
    return Export(**{"run": str(run), "format": "litert", "tracking": Tracking(enabled=False)} | values)


@pytest.fixture(scope="module", params=PARAMETERS)
def shipped(request: pytest.FixtureRequest, untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One export of each format."""
    folder = tmp_path_factory.mktemp("exports") / request.param
    export.export(settings(untrained, format=request.param, runtime=Threads(1)), folder)
    return folder


def block(folder: Path, language: str) -> str:
    """Return the only code block of a language in the README of an export."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return found


def test_the_readme_runs_without_this_project(
    shipped: Path, untrained: Path, two_classes: Path, tmp_path: Path
) -> None:
    """The code as it stands, in a process that cannot import hairline, against the run's own classifier."""
    (tmp_path / "hairline.py").write_text("raise RuntimeError('hairline was imported')")
    paths = [*sorted(two_classes.glob("*/*.jpg"))[::17], shipped / "example.png"]
    code = block(shipped, "python")
    assert len(code.splitlines()) == 16
    output = subprocess.run(
        [sys.executable, "-c", code, *map(str, paths)],
        cwd=shipped, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    lines = [json.loads(line) for line in output.splitlines()]
    names = ["cracked", "plain"]
    found = np.array([[line["probabilities"][name] for name in names] for line in lines])
    expected = hairline.load(untrained).predict(paths)[[f"prob_{name}" for name in names]].to_numpy()
    assert np.abs(found - expected).max() <= (0.05 if shipped.name == "litert_int8" else 1e-4)
    assert np.ptp(found[:, 0]) > 0.1  # an export that ignores its input would be constant
    assert [line["label"] for line in lines] == ["cracked" if row[0] >= 0.4 else "plain" for row in found]
    printed = json.loads(block(shipped, "json"))
    assert printed["label"] == lines[-1]["label"]
    assert printed["probabilities"] == pytest.approx(lines[-1]["probabilities"], abs=1e-6)


def test_the_bundle_describes_the_export(shipped: Path, untrained: Path) -> None:
    bundle = json.loads((shipped / "bundle.json").read_text())
    expected = {
        "class_names": ["cracked", "plain"], "positive_class": "cracked", "input_size": [32, 32],
        "input_dtype": "uint8", "decode": images.RECIPE,
        "decision": {
            "temperature": 1.0, "threshold": 0.4, "chosen": "by hand", "abstain": None, "point": None, "photo": None,
        },
        "commit": "c0ffee", "export_format": shipped.name, "versions": {"python": "3"},
        "data_digest": saved.read_bundle(untrained / "model").data_digest,
    }  # fmt: skip
    assert {key: bundle[key] for key in expected} == expected
    assert "MIT" in bundle["licence"]
    assert bundle["parity"]["images"] == 30
    files = {path.relative_to(shipped).as_posix() for path in shipped.rglob("*") if path.is_file()}
    assert set(bundle["sha256"]) == files - {"README.md", "bundle.json", "example.png"}
    assert not [path for path in shipped.parent.iterdir() if path.name.startswith(".")]


def test_batches_of_any_size_are_predicted(shipped: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (19, 32, 32, 3), dtype=np.uint8)
    run = runners.load(shipped.name, shipped / formats.FORMATS[shipped.name].file, 2)
    one_by_one = np.concatenate([run(image[None]) for image in pixels])
    assert one_by_one.dtype == np.float32
    assert np.abs(run(pixels) - one_by_one).max() < 1e-5


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_the_readme_decodes_as_the_project_does(untrained: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(7)
    grey, colour = draw.integers(0, 65536, (90, 61)), draw.integers(0, 256, (90, 61, 3), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(grey.astype(np.uint16)).save(tmp_path / "I16.tif")
    Image.fromarray(grey.astype(np.int32)).save(tmp_path / "I.tif")
    Image.fromarray(colour).save(tmp_path / "turned.jpg", exif=turned)
    Image.fromarray(colour).quantize(16).save(tmp_path / "P.png")
    Image.fromarray(colour).quantize(16).save(tmp_path / "PA.png", transparency=bytes(range(16)))
    Image.fromarray(colour).convert("YCbCr").save(tmp_path / "YCbCr.jpg")
    for mode in ("1", "L", "LA", "RGB", "RGBA", "CMYK"):
        Image.fromarray(colour).convert(mode).save(tmp_path / f"{mode}.tif")
    paths = sorted(tmp_path.glob("*.*"))
    assert len(paths) == 12
    folder = tmp_path / "out"
    export.export(settings(untrained, images=4), folder)
    found = parity.run_readme(block(folder, "python"), folder, list(map(str, paths)), ["cracked", "plain"])
    pixels = np.stack([images.decode(path, 32) for path in paths])
    assert np.allclose(found, runners.load("litert", folder / "model.tflite")(pixels), atol=1e-6)


@pytest.mark.parametrize(
    ("score", "answer"), [(0.1, "plain"), (0.3, "cannot tell"), (0.59, "cannot tell"), (0.6, "cracked")]
)
def test_the_readme_abstains_in_the_band(score: float, answer: str, untrained: Path) -> None:
    bundle = saved.read_bundle(untrained / "model")
    bundle = replace(bundle, decision=replace(bundle.decision, abstain=[0.3, 0.6]))
    expression = re.findall(r'"label": (.*), "probabilities"', readme.code("keras", bundle))[0]
    assert eval(expression, {"probabilities": {"cracked": score, "plain": 1 - score}}) == answer


def test_three_classes_have_no_threshold(three_classes: Path, tmp_path: Path) -> None:
    run = saved_run(tmp_path / "three", three_classes, positive=None)
    export.export(settings(run, images=9), tmp_path / "out")
    printed = json.loads(block(tmp_path / "out", "json"))
    assert printed["label"] == max(printed["probabilities"], key=printed["probabilities"].get)
    assert json.loads((tmp_path / "out/bundle.json").read_text())["decision"]["threshold"] is None


# --- the gate ---------------------------------------------------------------------------------------------------------


def test_the_gate_counts() -> None:
    bundle = saved.Bundle(["a", "b"], "b", 8, "", "", {}, {}, decision=Decision(threshold=0.5))
    reference, found = (
        np.array([[1 - p, p] for p in values]) for values in ([0.1, 0.9, 0.4, 0.6], [0.1, 0.9, 0.7, 0.6])
    )
    result = parity.compare(reference, found, list("abaa"), bundle)
    assert result.images == 4
    assert result.difference == pytest.approx(0.3)
    assert (result.equal_labels, result.accuracy, result.keras_accuracy) == (0.75, 0.5, 0.75)


GOOD = parity.Parity(images=1000, difference=1e-4, equal_labels=0.999, accuracy=0.99, keras_accuracy=0.995)


def test_the_gates_limits() -> None:
    assert all(GOOD.faults(name) == [] for name in formats.FORMATS)
    for name in set(formats.FORMATS) - {"litert_int8"}:
        assert "differ by up to 0.00011" in replace(GOOD, difference=1.1e-4).faults(name)[0]
        assert "expected at least 0.999" in replace(GOOD, equal_labels=0.9989).faults(name)[0]
        assert len(replace(GOOD, difference=float("nan")).faults(name)) == 1
    assert replace(GOOD, difference=0.3, equal_labels=0.9).faults("litert_int8") == []
    assert "0.60 percentage points" in replace(GOOD, accuracy=0.989).faults("litert_int8")[0]
    assert replace(GOOD, accuracy=1.0).faults("litert_int8") == []


def test_an_export_that_differs_is_not_published(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = runners.load

    def twisted(*arguments: Any) -> Any:
        run = load(*arguments)
        return lambda pixels: run(pixels) + 2e-4

    monkeypatch.setattr(runners, "load", twisted)
    with pytest.raises(ExportError, match="fails the gate on 30 validation images: its probabilities differ"):
        export.export(settings(untrained), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_readme_code_that_decodes_otherwise_is_not_published(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = readme.code
    monkeypatch.setattr(readme, "code", lambda *arguments: code(*arguments).replace("BILINEAR", "NEAREST"))
    with pytest.raises(ExportError, match="the probabilities of the README's code differ"):
        export.export(settings(untrained), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# --- where it goes, and the images it is compared on ------------------------------------------------------------------


@pytest.mark.slow
def test_an_export_replaces_an_export_and_nothing_else(untrained: Path, tmp_path: Path) -> None:
    place = tmp_path / "out"
    place.mkdir()
    export.refuse_other_files(place)
    (place / "thesis.txt").write_text("years of work")
    with pytest.raises(ExportError, match="holds other files than an export"):
        export.export(settings(untrained), place)
    assert (place / "thesis.txt").read_text() == "years of work"
    (place / "thesis.txt").unlink()
    for count in (4, 8):
        export.export(settings(untrained, images=count), place)
        assert json.loads((place / "bundle.json").read_text())["parity"]["images"] == count
    (place / "notes.txt").write_text("my own")
    with pytest.raises(ExportError, match=r"holds other files than an export, such as notes\.txt"):
        export.export(settings(untrained, images=4), place)
    assert (place / "notes.txt").read_text() == "my own"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_export_does_not_replace_a_saved_model(untrained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(untrained, tmp_path / "run")
    (run / "model" / "README.md").write_text("# the card of a run")
    before = {path.name: path.read_bytes() for path in (run / "model").iterdir()}
    with pytest.raises(ExportError, match="holds other files than an export"):
        export.export(settings(run, images=4), run / "model")
    assert {path.name: path.read_bytes() for path in (run / "model").iterdir()} == before


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("writing failed: No space left on device")],
)
def test_a_full_disk_leaves_nothing(error: Exception, tmp_path: Path) -> None:
    def fill() -> None:
        with export.published(tmp_path / "deep" / "out", 10) as place:
            (place / "model").write_text("half")
            raise error

    with pytest.raises(ExportError, match="the disk is full"):
        fill()
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_full_disk_is_recognised_after_any_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill() -> None:
        with export.published(tmp_path / "out", 10):
            monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
            raise RuntimeError("conversion failed")

    with pytest.raises(ExportError, match="the disk is full"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_free_space_is_refused_before_the_block(tmp_path: Path) -> None:
    with (
        pytest.raises(ExportError, match="the disk is full.*an export needs"),
        export.published(tmp_path / "o", 10**18),
    ):
        raise AssertionError("the block must not run")


@pytest.mark.slow
def test_missing_images_are_named_and_found_elsewhere(two_classes: Path, tmp_path: Path) -> None:
    data = shutil.copytree(two_classes, tmp_path / "data")
    run = saved_run(tmp_path / "run", data)
    moved = data.rename(tmp_path / "moved")
    with pytest.raises(ExportError, match="30 of the 30 images to compare on are missing.*data.path=<folder>"):
        export.export(settings(run), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    measurements = export.export(settings(run, data=ExportData(str(moved))), tmp_path / "out")
    assert measurements["images"] == 30  # the run's validation images, recognised by their digest, not all 120
    shutil.rmtree(moved / "plain")
    (moved / "granite").mkdir()
    Image.new("RGB", (40, 40), "grey").save(moved / "granite" / "new.png")  # the run's images keep their labels
    says = "granite: the model knows cracked, plain. Map them: 'data.class_map={granite: plain}'"
    with pytest.raises(ExportError, match=says):
        export.export(settings(run, data=ExportData(str(moved))), tmp_path / "out")


def test_an_export_needs_no_drawn_images_and_accepts_dark_ones(two_classes: Path, tmp_path: Path) -> None:
    run = saved_run(tmp_path / "run", shutil.copytree(two_classes, tmp_path / "data"))
    table = manifest.read(run / "manifest.csv")
    drawn = table.head(2).assign(path=str(tmp_path / "deleted.png"), split=["train", "val"], origin="crop")
    manifest.write(pd.concat([table.assign(origin=""), drawn]), run / "manifest.csv")
    for path in table.loc[table["split"] == "val", "path"]:
        Image.fromarray(np.full((40, 40), 9000, np.uint16)).save(path, "TIFF")  # dark, of a set with 16 bits
    finished = FinishedRun.find(str(run), None)
    found = parity.find_images(finished, ExportData(), None, ["cracked", "plain"], calibration=True)
    assert len(found.validation) == 30
    assert not (found.training["path"] == drawn["path"].iloc[0]).any()
    assert export.export(settings(run), tmp_path / "out")["images"] == 30


def test_images_that_pillow_alone_reads_otherwise_and_any_class_name_are_exported(tmp_path: Path) -> None:
    """The README's code, of a dozen lines, knows fewer kinds of images than the decoder."""
    name = "crack \N{BRICK}"
    run = saved_run(tmp_path / "run", paint(tmp_path / "data", {name: 24, "plain": 24}), positive=name)
    wide = np.linspace(0, 65535, 1600).reshape(40, 40).astype(np.uint16)
    colour = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    texts = PngImagePlugin.PngInfo()
    texts.add_text("note", "x" * 2_000_000, zip=True)
    saved_as: list[bytes] = [
        tiff((wide // 16, {281: 4095})),
        tiff((wide, {262: 0})),
        tiff((colour[::2, ::2].copy(), {254: 1}), (colour, {})),
        images.encoded(Image.fromarray(wide), "PNG", transparency=int(wide[0, 0])),
        images.encoded(Image.fromarray(colour), "PNG", pnginfo=texts),
        tiff((wide, {})),
    ]
    table = manifest.read(run / "manifest.csv").query("split == 'val'")
    assert len(table) == 12
    for path, content in zip(table["path"], saved_as * 2, strict=True):
        Path(path).write_bytes(content)
    alike = [export.reads_alike(path) for path in table["path"]]
    assert alike == [False, False, False, False, False, True] * 2
    assert export.export(settings(run), tmp_path / "out")["images"] == 12
    example = json.loads(block(tmp_path / "out", "json"))
    assert example["probabilities"].keys() == {name, "plain"}


def test_images_in_other_folders_are_read_as_data_class_map_and_class_from_say(
    two_classes: Path, tmp_path: Path
) -> None:
    run, names = saved_run(tmp_path / "run", two_classes), ["cracked", "plain"]
    moved = tmp_path / "moved"
    for label, letter in (("cracked", "C"), ("plain", "U")):
        for number, path in enumerate(sorted((two_classes / label).iterdir())):
            place = "DP"[number % 2]
            (moved / place / f"{letter}{place}").mkdir(parents=True, exist_ok=True)
            shutil.copy(path, moved / place / f"{letter}{place}")
    # The run's own images are recognised by their digests, whatever their folders are called now.
    finished, given = FinishedRun.find(str(run), None), ExportData(str(moved), class_from="parent")
    found = parity.find_images(finished, given, None, names, calibration=True)
    known = manifest.read(run / "manifest.csv").set_index("sha256")["label"]
    assert len(found.validation) == 30
    assert found.validation["label"].tolist() == known[found.validation["sha256"]].tolist()
    (run / "manifest.csv").unlink()
    alone = FinishedRun.find(str(run / "model"), None)
    with pytest.raises(ExportError, match="holds the classes CD, CP, UD, UP"):
        parity.find_images(alone, given, None, names, calibration=False)
    with pytest.raises(QuestionError, match="names follow a pattern") as asked:
        parity.find_images(alone, ExportData(str(moved)), None, names, calibration=False)
    pasted = [word for words in asked.value.choices[0][1] for word in shlex.split(words)]
    pasted[-1] = pasted[-1].replace("uncracked", "plain")
    given = composed("export", "run=x", "format=litert", f"data.path={moved}", *pasted).data
    found = parity.find_images(alone, given, None, names, calibration=False)
    assert found.validation["label"].value_counts().to_dict() == {"cracked": 60, "plain": 60}
    (moved / "list.csv").write_text("path,label\n")
    for letter in "DP":
        for file in (moved / letter).glob("*/*"):
            file.rename(moved / f"{file.parent.name}{file.name}")
        shutil.rmtree(moved / letter)
    with pytest.raises(QuestionError) as asked:
        parity.find_images(alone, ExportData(str(moved)), None, names, calibration=False)
    assert asked.value.choices[0][1] == [f"data.path={moved}/list.csv"]  # there is no data=manifest in export.py


def test_a_run_on_labels_is_exported_when_the_cache_was_emptied(tmp_path: Path) -> None:
    file = wall(tmp_path / "wall")
    rows = labels.from_labels(path=str(file))
    run = saved_run(tmp_path / "run", rows)
    shutil.rmtree(Path(rows["path"].iloc[0]).parents[1])
    with pytest.raises(ExportError, match="are missing"):
        export.export(settings(run), tmp_path / "out")
    found = export.export(settings(run, data=ExportData(str(file.parent))), tmp_path / "out")
    assert found["images"] == (manifest.read(run / "manifest.csv")["split"] == "val").sum()


def test_a_model_folder_without_a_run_needs_images(untrained: Path, two_classes: Path, tmp_path: Path) -> None:
    model, data = shutil.copytree(untrained / "model", tmp_path / "alone"), ExportData(str(two_classes))
    with pytest.raises(ExportError, match=r"has no manifest\.csv"):
        export.export(settings(model), tmp_path / "out")
    assert export.export(settings(model, data=data), tmp_path / "out")["images"] == 120
    with pytest.raises(ExportError, match="holds no training images"):
        export.export(settings(model, format="litert_int8", data=data), tmp_path / "two")


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["run=x", "format=litrt"], "format=litrt: unknown. Did you mean 'litert'?"),
        (["run=x"], "format is missing"),
        (["format=keras"], "run is missing"),
        (["run=x", "format=keras", "images=0"], "images=0: expected a whole number of at least 1"),
        (["run=' '", "format=keras"], "run: the text is empty"),
    ],
)
def test_mistakes_are_named(overrides: list[str], message: str) -> None:
    with pytest.raises(config.ConfigError, match=re.escape(message)):
        composed("export", *overrides)


def test_a_runtime_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else name)
    with pytest.raises(config.ConfigError, match=r"format=onnx needs tf2onnx, which is not installed: .*\[onnx\]"):
        composed("export", "run=x", "format=onnx")
