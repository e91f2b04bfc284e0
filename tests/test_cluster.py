"""Inspections and features on Ray are what this process gives, even if a worker is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from hairline.data import images
from tests import darkness
from tests.conftest import ROOT, paint

PHOTOS = 40
RESULTS = ("predictions.csv", "photos.csv")


def launch(script: str, *overrides: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *overrides], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"RAY_DEDUP_LOGS": "1"} | environment,
    )  # fmt: skip


def start(model: Path, output: str, *overrides: str) -> subprocess.Popen[str]:
    return launch("predict.py", f"run={model}", "input=walls", f"output={output}", *overrides)


def kill_a_worker(process: subprocess.Popen[str], place: Path, done: int) -> int:
    """Kill a worker of Ray once a folder holds so many JSON files, and return how many it holds then; 0: never."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if len(list(place.rglob("*.json"))) >= done:
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):  # it may have ended meanwhile
                    if "MapWorker" in child.name() or any("MapWorker" in part for part in child.cmdline()):
                        child.send_signal(signal.SIGKILL)
                        return len(list(place.rglob("*.json")))
        time.sleep(0.02)
    return 0


def finished(process: subprocess.Popen[str]) -> str:
    try:
        said = process.communicate(timeout=300)[0]
    finally:
        process.kill()
    assert process.returncode == 0, said
    return said


@pytest.mark.slow
def test_ray_gives_what_this_process_gives_and_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    model = darkness.save(tmp_path / "model")
    (tmp_path / "walls").mkdir()
    for number in range(PHOTOS):
        wall = darkness.wall(1600, 1200, [(32 * number, 64, 64, 32)], seed=number)
        Image.fromarray(wall).save(tmp_path / "walls" / f"{number}.jpg")
    finished(start(model, "local"))

    process = start(model, "ray", "runtime.compute=ray", "runtime.ray.workers=2")
    done_when_killed = kill_a_worker(process, Path("ray", "records"), 3)
    said = finished(process)
    assert 0 < done_when_killed < PHOTOS, said
    for name in RESULTS:
        assert Path("ray", name).read_bytes() == Path("local", name).read_bytes(), name
    for path in Path("local", "overlays").iterdir():
        assert Path("ray", "overlays", path.name).read_bytes() == path.read_bytes()

    # A cluster that stops altogether: what is there is not done again.
    for path in sorted(Path("ray", "records").rglob("*.json"))[:5]:
        path.unlink()
    assert f"done before with these settings: {PHOTOS - 5} of {PHOTOS} photos" in finished(
        start(model, "ray", "runtime.compute=ray", "runtime.ray.workers=1")
    )
    assert Path("ray", "predictions.csv").read_bytes() == Path("local", "predictions.csv").read_bytes()


@pytest.mark.slow
def test_ray_writes_the_same_features_and_computes_only_what_is_missing(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    patches, shards = 2100, 5  # of 512 patches, the last one smaller
    paint(tmp_path / "patches", {"cracked": patches // 2, "plain": patches // 2})
    network = ("model=mobilenetv2", "model.weights=random", "image_size=160")
    chosen = ("data=folder", "data.path=patches", *network, "epochs=1", "tracking=none", "report=none")

    def train(cache: str, *overrides: str) -> subprocess.Popen[str]:
        return launch("train.py", *chosen, *overrides, HAIRLINE_CACHE=str(tmp_path / cache))

    def features(cache: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in Path(cache, "features").rglob("*.*") if path.suffix != ".lock"}

    finished(train("local"))
    ray = ("runtime.compute=ray", "runtime.ray.workers=2")
    process = train("ray", *ray)
    Path("ray").mkdir(exist_ok=True)
    done_when_killed = kill_a_worker(process, Path("ray"), 1)
    said = finished(process)
    assert 0 < done_when_killed < shards, said
    assert len(features("local")) == 2 * shards + 1  # and recipe.json
    assert features("ray") == features("local")

    shard = next(path for path in Path("ray").rglob("*.json") if path.name != "recipe.json")
    missing = len(json.loads(shard.read_text())["digests"])
    shard.unlink()
    assert f"features: {missing:,} to compute" in finished(train("ray", *ray))
    assert features("ray") == features("local")

    # What a process raises arrives as it is: a sentence for the user.
    code = "from hairline.system import cluster; from tests import test_cluster as t"
    code += "; list(cluster.map_items(t.Refuses, {}, [1, 2], address=None, workers=1, threads=1))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert found.stderr.splitlines()[-1] == "hairline.data.images.ImageError: 1 is not an image"


class Refuses:
    def __call__(self, item: int) -> int:
        raise images.ImageError(f"{item} is not an image")
