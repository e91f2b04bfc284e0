"""Inspections on Ray give the same results as in threads, even if a worker is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from tests import darkness
from tests.conftest import ROOT

PHOTOS = 40
RESULTS = ("predictions.csv", "photos.csv")


def start(model: Path, output: str, *overrides: str) -> subprocess.Popen[str]:
    chosen = [f"run={model}", "input=walls", f"output={output}", *overrides]
    return subprocess.Popen(
        [sys.executable, str(ROOT / "predict.py"), *chosen],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"RAY_DEDUP_LOGS": "1"},
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> str:
    said = process.communicate(timeout=240)[0]
    assert process.returncode == 0, said
    return said


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ray_gives_what_this_process_gives_and_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    model = darkness.save(tmp_path / "model")
    (tmp_path / "walls").mkdir()
    for number in range(PHOTOS):
        wall = darkness.wall(1600, 1200, [(32 * number, 64, 64, 32)], seed=number)
        Image.fromarray(wall).save(tmp_path / "walls" / f"{number}.jpg")
    finished(start(model, "local"))

    process = start(model, "ray", "runtime.compute=ray", "runtime.ray.workers=2")
    deadline, killed = time.monotonic() + 120, 0
    while not killed and time.monotonic() < deadline and process.poll() is None:
        if len(list(Path("ray", "records").rglob("*.json"))) >= 3:
            for child in psutil.Process(process.pid).children(recursive=True):
                if "MapWorker" in child.name() or any("MapWorker" in part for part in child.cmdline()):
                    child.send_signal(signal.SIGKILL)
                    killed += 1
                    break
        time.sleep(0.02)
    done_when_killed = len(list(Path("ray", "records").rglob("*.json")))
    said = finished(process)
    assert killed == 1, said
    assert done_when_killed < PHOTOS
    for name in RESULTS:
        assert Path("ray", name).read_bytes() == Path("local", name).read_bytes(), name
    for path in Path("local", "overlays").iterdir():
        assert Path("ray", "overlays", path.name).read_bytes() == path.read_bytes()

    # A cluster that stops altogether: what is there is not done again.
    for path in sorted(Path("ray", "records").rglob("*.json"))[:5]:
        path.unlink()
    assert f"{PHOTOS - 5} photos were done before" in finished(
        start(model, "ray", "runtime.compute=ray", "runtime.ray.workers=1")
    )
    assert Path("ray", "predictions.csv").read_bytes() == Path("local", "predictions.csv").read_bytes()
