"""What the tests share: isolation from the user's caches and stores, and small sets of images."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xdist
from hypothesis import settings
from hypothesis.internal.conjecture import providers
from PIL import Image

from hairline import tracking
from hairline.system import tensorflow

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"

settings.register_profile("hairline", deadline=None, derandomize=True)  # the same examples everywhere, at any speed
settings.load_profile("hairline")
# Constants of the loaded modules would make the examples depend on the tests that ran before in the same process.
providers._get_local_constants = lambda: providers._local_constants


def pytest_sessionstart(session: pytest.Session) -> None:
    """Import the large libraries before pytest turns warnings into errors: what they say then is not ours to mend."""
    if xdist.is_xdist_controller(session):
        return  # it hands the tests to other processes, which would wait for its imports
    with warnings.catch_warnings(), tensorflow.quiet_import():
        warnings.simplefilter("ignore")
        import mlflow.pyfunc  # noqa: F401
        import tensorflow as tf

        tf.config.list_physical_devices()
    logging.getLogger("mlflow").setLevel(logging.ERROR)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests, which start scripts, time for a slow machine."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(900))


def pytest_collection_finish() -> None:
    """Spare the garbage collector half a million objects that live to the end."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _isolated(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the tests away from the user's cache, weights and tracking server."""
    os.environ["HAIRLINE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["KERAS_HOME"] = str(tmp_path_factory.mktemp("keras"))
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def _working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test in a folder of its own, where outputs and stores land."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _precision() -> Iterator[None]:
    """Undo what a run with another precision leaves in Keras, for tests that build networks of their own."""
    yield
    if "keras" in sys.modules:  # most tests do without
        sys.modules["keras"].config.set_dtype_policy("float32")


@pytest.fixture
def no_tensorflow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a script in which importing TensorFlow, Keras or MLflow fails."""
    return poison(tmp_path_factory.mktemp("poison"), "tensorflow", "keras", "mlflow")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Give the folder of real images and weights; the test is skipped where `HAIRLINE_REAL_DATA` names none."""
    place = os.environ.get("HAIRLINE_REAL_DATA")
    if not place:
        pytest.skip("HAIRLINE_REAL_DATA names no folder of real images")
    folder = (ROOT / place).resolve()
    assert (folder / "data" / "metu" / "Positive").is_dir(), folder
    return folder


def poison(place: Path, *names: str) -> dict[str, str]:
    """Return the environment of a script in which importing these packages fails."""
    for name in names:
        (place / f"{name}.py").write_text(f"raise RuntimeError('{name} was imported')")
    return {"PYTHONPATH": os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")])}


def paint(folder: Path, classes: dict[str, int], seed: int = 0, brightness: float = 1.0) -> Path:
    """Write easily told apart JPEGs: each class has stripes of its own direction and number, in noise."""
    size = 40
    generator = np.random.default_rng(seed)
    for index, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = generator.normal(120, 25, (size, size, 3))
            rows = generator.integers(0, size, 2 + 3 * index)
            if index % 2:
                pixels[rows] -= 90
            elif index:
                pixels[:, rows] += 90
            Image.fromarray(np.clip(pixels * brightness, 0, 255).astype(np.uint8)).save(
                folder / name / f"{number:04}.jpg", quality=90
            )
    return folder


@pytest.fixture(scope="session")
def two_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 60 + 60 small images of two classes."""
    return paint(tmp_path_factory.mktemp("two"), {"plain": 60, "cracked": 60})


@pytest.fixture(scope="session")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of other images of the same two classes, which no model has seen."""
    return paint(tmp_path_factory.mktemp("others"), {"plain": 14, "cracked": 12}, seed=7)


@pytest.fixture(scope="session")
def three_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 50 small images of each of three classes."""
    return paint(tmp_path_factory.mktemp("three"), {"plain": 50, "rust": 50, "spalled": 50})


@pytest.fixture(scope="session")
def untrained(two_classes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with a network that was never trained: every fourth image of `two_classes` is a test image."""
    from tests.saved_runs import saved_run

    return saved_run(tmp_path_factory.mktemp("untrained") / "run", two_classes)


@pytest.fixture(scope="session")
def _empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tracking.connect(None, "Default")
    return folder / "mlflow.db"


@pytest.fixture
def empty_store(_empty_store: Path, tmp_path: Path) -> None:
    """An MLflow store in the working directory: copying one is faster than creating its 60 tables."""
    shutil.copyfile(_empty_store, tmp_path / "mlflow.db")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window; tests that need it are skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright.sync_playwright() as started:
        program = program or started.chromium.executable_path  # what `playwright install chromium` brings
        if not Path(program).exists():
            pytest.skip("no Chromium on this machine")
        chromium = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()
