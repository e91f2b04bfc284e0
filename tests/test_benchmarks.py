"""The arithmetic of the benchmark scripts."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import keras
import numpy as np
import pytest
from PIL import Image

from tests import running
from tests.conftest import ROOT

FOLDER = ROOT / "benchmarks"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "measure")


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    return lambda name: running.load(FOLDER / f"{name}.py", monkeypatch)


@pytest.mark.slow
def test_every_script_answers_help() -> None:
    assert len(SCRIPTS) == 19
    processes = {
        name: subprocess.Popen([sys.executable, FOLDER / f"{name}.py", "--help"], stdout=subprocess.PIPE, text=True)
        for name in SCRIPTS
    }
    shown = {name: process.communicate(timeout=60)[0] for name, process in processes.items()}
    assert {name: process.returncode for name, process in processes.items()} == dict.fromkeys(SCRIPTS, 0)
    own = ("coverage", "generalisation", "label_page", "outage", "selection", "soak")
    assert all("--images" in text for name, text in shown.items() if name not in own)
    assert all(f"--{name}" in shown["generalisation"] for name in ("metu", "deepcrack", "uav75"))
    assert "--child" not in shown["against_keras"]


def test_tiles_are_labelled_by_their_masks(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (30, 20), "grey").save(tmp_path / "images" / "a.jpg")
    mask = Image.new("L", (30, 20), 204)  # not a crack, in sets that mark look-alikes
    mask.putpixel((12, 3), 255)
    mask.putpixel((25, 19), 255)
    mask.putpixel((26, 19), 255)
    mask.save(tmp_path / "masks" / "a.png")
    places = (tmp_path / "images", tmp_path / "masks")
    cut = load("tiles").cut
    assert cut(*places, tmp_path / "any", size=10, pixels=1) == {"cracked": 2, "uncracked": 4}
    assert {path.name for path in (tmp_path / "any" / "cracked").iterdir()} == {
        "a_x0010_y0000.png",
        "a_x0020_y0010.png",
    }
    assert cut(*places, tmp_path / "more", size=10, pixels=2) == {"cracked": 1, "uncracked": 4}


def test_the_setting_for_a_surface_is_chosen_without_it(load: Callable[[str], ModuleType]) -> None:
    module = load("generalisation")

    def figures(auroc: float, balanced: float) -> dict[str, float]:
        values = {module.AUROC: auroc, module.BALANCED: balanced, "test_accuracy": auroc}
        values |= {f"test_{name}_at_threshold": balanced for name in ("recall", "specificity")}
        ends = (("low", -0.03), ("high", 0.03))
        return values | {f"{key}_interval_{end}": values[key] + by for key in values for end, by in ends}

    def result(validation: float, metu: float, deepcrack: float, uav75: float) -> object:
        surfaces = {"deepcrack": figures(deepcrack, deepcrack), "uav75": figures(uav75, uav75)}
        return module.Result(validation, figures(metu, metu), surfaces)

    results = {
        "best on deepcrack": result(0.999, 0.998, 0.97, 0.81),
        "best on uav75": result(0.998, 0.997, 0.93, 0.90),
        "spoils metu": result(0.990, 0.989, 0.99, 0.99),
    }
    found = module.summary(results)
    assert found["chosen_without"] == {"deepcrack": "best on uav75", "uav75": "best on deepcrack"}
    assert found["uav75_auroc"] == {"value": 0.81, "low": pytest.approx(0.78), "high": pytest.approx(0.84)}
    assert found["deepcrack_balanced_accuracy"]["value"] == 0.93
    assert found["metu_accuracy"]["value"] == 0.997
    # Within the intervals, METU's validation images decide.
    results["a hair worse on uav75"] = result(0.9985, 0.998, 0.94, 0.88)
    assert module.summary(results)["chosen_without"]["deepcrack"] == "a hair worse on uav75"
    results["worse on uav75"] = result(0.9995, 0.999, 0.96, 0.86)
    assert module.summary(results)["chosen_without"]["deepcrack"] == "a hair worse on uav75"


def test_multiply_adds(load: Callable[[str], ModuleType]) -> None:
    inner_input = keras.Input((4, 4, 6))
    inner = keras.Model(inner_input, keras.layers.Conv2D(8, 1)(inner_input))
    pixels = keras.Input((8, 8, 4))
    hidden = keras.layers.Conv2D(6, 3, strides=2, padding="same", groups=2)(pixels)
    hidden = keras.layers.BatchNormalization()(hidden)
    hidden = keras.layers.DepthwiseConv2D(3, padding="same")(hidden)
    hidden = inner(hidden)
    hidden = keras.layers.SeparableConv2D(5, 3, padding="valid")(hidden)
    hidden = keras.layers.GlobalAveragePooling2D()(hidden)
    model = keras.Model(pixels, keras.layers.Dense(2)(hidden))
    grouped = 4 * 4 * 6 * (3 * 3 * 2)  # each of 6 channels sees half of 4
    depthwise = 4 * 4 * 6 * (3 * 3)
    pointwise = 4 * 4 * 8 * 6
    separable = 2 * 2 * (8 * (3 * 3) + 5 * 8)
    dense = 5 * 2
    counted = load("features").multiply_adds(model)
    assert counted == grouped + depthwise + pointwise + separable + dense


def test_a_missing_epoch_takes_as_long_as_the_last(load: Callable[[str], ModuleType]) -> None:
    extrapolated = load("against_keras").extrapolated
    assert extrapolated(50.0, [30.0], 10) == 50 + 9 * 30  # the process holds the first epoch already
    assert extrapolated(80.0, [32.0, 30.0], 10) == 80 + 8 * 30
    assert extrapolated(50.0, [30.0], 1) == 50


def test_speedups_of_the_rivals_that_ran(load: Callable[[str], ModuleType]) -> None:
    speedups = load("against_keras").speedups
    values = {"keras_seconds": 100.0, "hairline_seconds": 2.0, "hairline_fresh_seconds": 10.0}
    assert speedups(values) == {"speedup_cold": 50.0, "speedup_fresh": 10.0}
    assert speedups({"keras_features_seconds": 6.0, "hairline_seconds": 2.0}) == {"speedup_over_keras_features": 3.0}
    assert speedups({}) == {}


def test_spread(load: Callable[[str], ModuleType]) -> None:
    spread = load("augmentation").spread
    assert spread([1.0, 3.0]) == {"mean": 2.0, "sd": pytest.approx(2**0.5)}
    assert spread([1.0]) == {"mean": 1.0, "sd": 0.0}


def test_a_process_is_measured(
    tmp_path: Path, load: Callable[[str], ModuleType], capfd: pytest.CaptureFixture[str]
) -> None:
    measure = load("measure")
    with capfd.disabled():  # pytest's own standard error has no file
        code = "import os, pathlib; pathlib.Path('seen').write_text(os.environ['HAIRLINE_CACHE'])"
        process = measure.run([sys.executable, "-c", code], tmp_path / "new", tmp_path / "cache")
        assert (tmp_path / "new" / "seen").read_text() == str(tmp_path / "cache")
        assert process.peak_mb > 1
        with pytest.raises(SystemExit, match="exit status 3"):
            measure.run([sys.executable, "-c", "raise SystemExit(3)"], tmp_path)


def test_the_result_is_one_json_line(load: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]) -> None:
    measure = load("measure")
    measure.report({"a": 1.23456, "b": {"c": (0.5, 2)}} | measure.machine())
    (line,) = capsys.readouterr().out.splitlines()
    values = json.loads(line)
    assert (values["a"], values["b"]) == (1.2346, {"c": [0.5, 2]})
    assert values["cores"] >= 1


def test_the_soak_kills_in_a_given_stage_and_detects_damage(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    soak = load("soak")
    (tmp_path / "cache" / "features" / "key").mkdir(parents=True)
    index = tmp_path / "cache" / "features" / "key" / "0123456789abcdef01234567.json"
    rows = np.zeros((2, 3), np.float32)
    np.save(index.with_suffix(".npy"), rows)
    for crc, bad in ((zlib.crc32(rows.data), 0), (1, 1)):
        index.write_text(json.dumps({"digests": ["a", "b"], "crc32": crc}))
        assert soak.corrupt(tmp_path / "cache") == bad
    seen = {name: float(number**2) for number, name in enumerate([*soak.marks(tmp_path), "end"])}
    assert list(soak.lengths(seen).values()) == [1, 3, 5, 7, 9, 11]
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    (tmp_path / "metrics.json").touch()
    assert soak.kill(process, tmp_path, "logging", 0.1)
    assert process.returncode == -9
    process = subprocess.Popen([sys.executable, "-c", ""])
    assert not soak.kill(process, tmp_path, "logging", 20)


@pytest.mark.slow
def test_eight_trainings_at_once_share_a_store_and_a_cache() -> None:
    command = [sys.executable, str(FOLDER / "soak.py"), "--rounds", "0", "--at-once", "8"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    found = json.loads(process.stdout.splitlines()[-1])["at_once"]
    assert found == {
        "processes": 8, "exit_status_0": 8, "finished": 8, "wrong_points": 0, "feature_passes": 1, "corrupt": 0,
    }  # fmt: skip
