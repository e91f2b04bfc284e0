"""Exports: that what ships is what was evaluated, and that what is not does not ship."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

import hairline
from hairline import config
from hairline.config import Export, ExportData, Threads, Tracking
from hairline.data import images
from hairline.model import saved
from hairline.model.decision import Decision
from hairline.shipping import export, formats, parity, readme, runners
from hairline.shipping.formats import ExportError
from tests.conftest import ROOT
from tests.running import composed
from tests.saved_runs import saved_run

FORMATS = ("litert", "litert_int8", "onnx", "saved_model", "keras")
# TensorFlow takes long to start in the processes that run the README's lines.
PARAMETERS = [
    pytest.param(name, marks=[pytest.mark.slow] if name in ("saved_model", "keras") else []) for name in FORMATS
]


@pytest.fixture(autouse=True, scope="module")
def _timed_briefly() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "_TIMED_SECONDS", 0.0)
        yield


@pytest.fixture(scope="module")
def finished(two_classes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_run(tmp_path_factory.mktemp("run") / "one", two_classes)


def settings(run: Path, **values: Any) -> Export:
    return Export(run=str(run), tracking=Tracking(enabled=False), **values)


@pytest.fixture(scope="module", params=PARAMETERS)
def shipped(request: pytest.FixtureRequest, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One export of each format."""
    folder = tmp_path_factory.mktemp("exports") / request.param
    export.export(settings(finished, format=request.param, runtime=Threads(1)), folder)
    return folder


def code_of(folder: Path) -> str:
    found = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(found) == 1
    return found[0]


def test_all_formats_are_tried() -> None:
    assert set(FORMATS) == set(formats.FORMATS)


def test_the_readme_runs_without_this_project(shipped: Path, finished: Path, two_classes: Path, tmp_path: Path) -> None:
    """The lines as they stand, in a process that cannot import hairline, against the run's own classifier."""
    (tmp_path / "hairline.py").write_text("raise RuntimeError('hairline was imported')")
    paths = [*sorted(two_classes.glob("*/*.jpg"))[::17], shipped / "example.png"]
    lines = [
        json.loads(line)
        for line in subprocess.run(
            [sys.executable, "-c", code_of(shipped), *map(str, paths)],
            cwd=shipped, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True,
        ).stdout.splitlines()
    ]  # fmt: skip
    expected = hairline.load(finished).predict(paths)
    names = ["cracked", "plain"]
    found = np.array([[line["probabilities"][name] for name in names] for line in lines])
    limit = 0.05 if shipped.name == "litert_int8" else 1e-4
    assert np.abs(found - expected[[f"prob_{name}" for name in names]].to_numpy()).max() <= limit
    assert np.ptp(found[:, 0]) > 0.1  # the model tells images apart: an export that ignores its input would show
    assert [line["label"] for line in lines] == ["cracked" if row[0] >= 0.4 else "plain" for row in found]
    printed = json.loads(re.findall(r"```json\n(.*?)```", (shipped / "README.md").read_text(), re.DOTALL)[0])
    assert printed["label"] == lines[-1]["label"]
    assert printed["probabilities"] == pytest.approx(lines[-1]["probabilities"], abs=1e-6)


def test_the_lines_are_few(shipped: Path) -> None:
    assert len(code_of(shipped).splitlines()) <= 13


def test_the_bundle_says_what_a_user_has_to_know(shipped: Path, finished: Path) -> None:
    told = json.loads((shipped / "bundle.json").read_text())
    expected = {
        "class_names": ["cracked", "plain"], "positive_class": "cracked", "input_size": [32, 32],
        "input_dtype": "uint8", "decode": images.RECIPE,
        "decision": {"temperature": 1.0, "threshold": 0.4, "chosen": "by hand", "abstain": None, "point": None},
        "commit": "c0ffee", "export_format": shipped.name, "versions": {"python": "3"},
    }  # fmt: skip
    assert {key: told[key] for key in expected} == expected
    assert "MIT" in told["licence"]
    assert told["data_digest"] == saved.read_bundle(finished / "model").data_digest
    assert told["parity"]["images"] == 30
    assert set(told["sha256"]) == {
        path.relative_to(shipped).as_posix()
        for path in shipped.rglob("*")
        if path.is_file() and path.name not in ("README.md", "bundle.json", "example.png")
    }
    assert not [path for path in shipped.parent.iterdir() if path.name.startswith(".")]


def test_batches_of_any_size_are_taken(shipped: Path, finished: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (19, 32, 32, 3), dtype=np.uint8)
    run = runners.load(shipped.name, shipped / formats.FORMATS[shipped.name].file, 2)
    one_by_one = np.concatenate([run(image[None]) for image in pixels])
    assert one_by_one.dtype == np.float32
    assert np.abs(run(pixels) - one_by_one).max() < 1e-5


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("kind", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "turned"])
def test_the_lines_decode_as_the_project_does(kind: str, tmp_path: Path) -> None:
    draw = np.random.default_rng(7)
    grey, colour = draw.integers(0, 65536, (90, 61)), draw.integers(0, 256, (90, 61, 3), dtype=np.uint8)
    path, extra = tmp_path / "image.tif", {}
    if kind == "I;16":
        image = Image.fromarray(grey.astype(np.uint16))
    elif kind == "I":
        image = Image.fromarray(grey.astype(np.int32))
    elif kind == "turned":
        image, path = Image.fromarray(colour), tmp_path / "image.jpg"
        exif = Image.Exif()
        exif[0x0112] = 6
        extra = {"exif": exif}
    elif kind in ("P", "PA"):
        image, path = Image.fromarray(colour).quantize(16), tmp_path / "image.png"
        extra = {"transparency": bytes(range(16))} if kind == "PA" else {}
    else:
        image = Image.fromarray(colour).convert(kind)
        path = path if kind != "YCbCr" else tmp_path / "image.jpg"
    image.save(path, **extra)
    for size in (32, 61, 200):
        place = {"path": path, "bundle": {"input_size": [size, size]}, "np": np, "Image": Image, "ImageOps": ImageOps}
        exec(readme.DECODE, place)
        assert np.array_equal(place["pixels"], images.decode(path, size))


@pytest.mark.parametrize(
    ("score", "answer"), [(0.1, "plain"), (0.3, "cannot tell"), (0.59, "cannot tell"), (0.6, "cracked")]
)
def test_the_lines_abstain_in_the_band(score: float, answer: str, finished: Path) -> None:
    bundle = saved.read_bundle(finished / "model")
    bundle = replace(bundle, decision=replace(bundle.decision, abstain=[0.3, 0.6]))
    expression = re.findall(r'"label": (.*), "probabilities"', readme.code("keras", bundle))[0]
    assert eval(expression, {"found": {"cracked": score, "plain": 1 - score}}) == answer


def test_three_classes_have_no_threshold(three_classes: Path, tmp_path: Path) -> None:
    run = saved_run(tmp_path / "three", three_classes, positive=None)
    export.export(settings(run, format="litert", images=9), tmp_path / "out")
    printed = json.loads(re.findall(r"```json\n(.*?)```", (tmp_path / "out/README.md").read_text(), re.DOTALL)[0])
    assert printed["label"] == max(printed["probabilities"], key=printed["probabilities"].get)
    assert json.loads((tmp_path / "out/bundle.json").read_text())["decision"]["threshold"] is None


# --- the gate ---------------------------------------------------------------------------------------------------------


def measured(reference: list[float], found: list[float], truth: str) -> parity.Parity:
    bundle = saved.Bundle(["a", "b"], "b", 8, "", "", {}, {}, decision=Decision(threshold=0.5))
    labels = {"0": "a", "1": "b"}
    both = [np.stack([1 - np.array(values), np.array(values)], axis=1) for values in (reference, found)]
    return parity.compare(*both, [labels[letter] for letter in truth], bundle.decide(both[0]), bundle)


def test_the_gate_counts() -> None:
    result = measured([0.1, 0.9, 0.4, 0.6], [0.1, 0.9, 0.7, 0.6], "0100")
    assert result.images == 4
    assert result.difference == pytest.approx(0.3)
    assert (result.equal_labels, result.accuracy, result.keras_accuracy) == (0.75, 0.5, 0.75)


GOOD = parity.Parity(images=1000, difference=1e-4, equal_labels=0.999, accuracy=0.99, keras_accuracy=0.995)


def test_the_gates_limits() -> None:
    assert all(GOOD.faults(name) == [] for name in FORMATS)
    for name in set(FORMATS) - {"litert_int8"}:
        assert "differ by up to 0.00011" in replace(GOOD, difference=1.1e-4).faults(name)[0]
        assert "expected at least 0.999" in replace(GOOD, equal_labels=0.9989).faults(name)[0]
        assert len(replace(GOOD, difference=float("nan")).faults(name)) == 1
    assert replace(GOOD, difference=0.3, equal_labels=0.9).faults("litert_int8") == []
    assert "0.60 percentage points" in replace(GOOD, accuracy=0.989).faults("litert_int8")[0]
    assert replace(GOOD, accuracy=1.0).faults("litert_int8") == []


@pytest.mark.parametrize("twist", [lambda found: found[:, ::-1], lambda found: found + 2e-4])
def test_an_export_that_differs_is_not_let_out(
    twist: Any, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = runners.load

    def twisted(*arguments: Any) -> Any:
        run = load(*arguments)
        return lambda pixels: twist(run(pixels))

    monkeypatch.setattr(runners, "load", twisted)
    with pytest.raises(ExportError, match="fails the gate on 30 validation images: its probabilities differ"):
        export.export(settings(finished, format="litert"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_readme_lines_that_decode_otherwise_are_not_let_out(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readme, "DECODE", readme.DECODE.replace("BILINEAR", "NEAREST"))
    with pytest.raises(ExportError, match="the README's lines give probabilities that differ"):
        export.export(settings(finished, format="litert"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# --- where it goes, and what it is tried on ---------------------------------------------------------------------------


def test_an_export_replaces_an_export_and_nothing_else(finished: Path, tmp_path: Path) -> None:
    place = tmp_path / "out"
    place.mkdir()
    export.refuse_taken(place)
    (place / "thesis.txt").write_text("years of work")
    with pytest.raises(ExportError, match="something else lies there"):
        export.export(settings(finished, format="litert"), place)
    assert (place / "thesis.txt").read_text() == "years of work"
    (place / "thesis.txt").unlink()
    export.export(settings(finished, format="litert", images=4), place)
    before = (place / "bundle.json").read_text()
    export.export(settings(finished, format="litert", images=8), place)
    assert (place / "bundle.json").read_text() != before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


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


def test_a_disk_without_room_is_refused_before_work(tmp_path: Path) -> None:
    with (
        pytest.raises(ExportError, match="the disk is full.*an export needs"),
        export.published(tmp_path / "o", 10**18),
    ):
        raise AssertionError("the block must not run")


def test_images_that_are_gone_are_named_and_may_lie_elsewhere(two_classes: Path, tmp_path: Path) -> None:
    import shutil

    data = tmp_path / "data"
    shutil.copytree(two_classes, data)
    run = saved_run(tmp_path / "run", data)
    moved = data.rename(tmp_path / "moved")
    with pytest.raises(ExportError, match="30 of the 30 images to try the export on are gone.*data.path=<folder>"):
        export.export(settings(run, format="litert"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    told = export.export(settings(run, format="litert", data=ExportData(str(moved))), tmp_path / "out")
    assert told["images"] == 30  # the run's validation images, known by their bytes, and not all 120
    shutil.rmtree(moved / "plain")
    (moved / "granite").mkdir()
    shutil.copy(next((moved / "cracked").iterdir()), moved / "granite")
    with pytest.raises(ExportError, match="granite: the model knows cracked, plain"):
        export.export(settings(run, format="litert", data=ExportData(str(moved))), tmp_path / "out")


def test_a_model_folder_alone_needs_images(finished: Path, two_classes: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(finished / "model", tmp_path / "alone")
    with pytest.raises(ExportError, match=r"its manifest\.csv is not at hand"):
        export.export(settings(tmp_path / "alone", format="litert"), tmp_path / "out")
    told = export.export(
        settings(tmp_path / "alone", format="litert", data=ExportData(str(two_classes))), tmp_path / "out"
    )
    assert told["images"] == 120
    with pytest.raises(ExportError, match="holds no training images"):
        export.export(
            settings(tmp_path / "alone", format="litert_int8", data=ExportData(str(two_classes))), tmp_path / "two"
        )


# --- the command line -------------------------------------------------------------------------------------------------


def test_the_defaults() -> None:
    found = composed("export", "run=x", "format=litert")
    assert (found.images, found.output, found.data.path, found.runtime.threads) == (1000, None, None, None)
    assert found.tracking.registered_model == "hairline"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["run=x", "format=litrt"], "format=litrt: unknown. Did you mean 'litert'?"),
        (["run=x"], "format is missing"),
        (["format=keras"], "run is missing"),
        (["run=x", "format=keras", "images=0"], "images=0: expected a whole number from 1"),
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


def test_a_run_without_a_model_answers_without_tensorflow(tmp_path: Path) -> None:
    poison = tmp_path / "poison"
    poison.mkdir()
    for name in ("tensorflow", "keras", "mlflow"):
        (poison / f"{name}.py").write_text(f"raise RuntimeError('{name} was imported')")
    found = subprocess.run(
        [sys.executable, str(ROOT / "export.py"), "run=nowhere", "format=saved_model", "output=out"],
        capture_output=True, text=True, env={"PYTHONPATH": str(poison)}, check=False,
    )  # fmt: skip
    assert found.returncode == 2
    assert "run=nowhere: no saved model there" in found.stdout + found.stderr
    assert "Traceback" not in found.stdout + found.stderr
    assert not Path("out").exists()
    assert not list(Path("outputs").iterdir())
