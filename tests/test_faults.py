"""Disks that are full or read-only, files that may not be read, memory that runs out: a sentence, never a traceback."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from PIL import Image

from hairline.data import manifest, pipeline, sources
from hairline.model import saved
from hairline.system import errors
from tests import darkness
from tests.conftest import ROOT
from tests.running import TINY, train


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount small disks that live in memory, as `size=64k` or `ro`; skipped where that is not allowed."""
    places: list[Path] = []

    def mounted(options: str, place: Path | None = None) -> Path:
        again = place is not None
        place = place or tmp_path / f"disk{len(places)}"
        place.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"remount,{options}" if again else options, "tmpfs", str(place)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no disk can be mounted here")
        if not again:
            places.append(place)
        return place

    yield mounted
    os.chdir("/")
    for place in places:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_told_whoever_meets_it(disk: Callable[..., Path], tmp_path: Path) -> None:
    place = disk("size=64k")
    (place / "filler").write_bytes(bytes(60_000))
    table = pd.DataFrame({"path": ["x" * 1000] * 200})
    darkness.save(tmp_path / "model")
    model = keras.models.load_model(tmp_path / "model" / "model.keras", compile=False, safe_mode=True)
    writers = [
        lambda: manifest.write(table, place / "manifest.csv"),
        lambda: table.to_csv(place / "history.csv"),
        lambda: Image.effect_noise((200, 200), 50).save(place / "figure.png"),
        lambda: saved.save_model(place / "model", model, darkness.BUNDLE, {"mean": np.zeros(30_000)}),
    ]
    for write in writers:
        with pytest.raises(Exception) as caught:  # noqa: PT011 (HDF5 and zip have errors of their own)
            write()
        assert errors.is_user_error(caught.value), repr(caught.value)
        assert "the disk is full" in str(errors.explained(caught.value))
        assert "free some space, or write elsewhere" in str(errors.explained(caught.value))


@pytest.mark.slow
@pytest.mark.parametrize("size", ["16k", "300k", "900k", "2m", "5m", "11m"])
def test_a_run_on_a_disk_that_fills_up_ends_with_a_sentence(
    size: str, disk: Callable[..., Path], two_classes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = disk(f"size={size}")
    monkeypatch.chdir(place)
    found = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *TINY, "data=folder", f"data.path={two_classes}"],
        capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    said = found.stdout + found.stderr
    assert found.returncode == 2, said
    assert "Traceback" not in said, said
    assert "disk" in said
    assert "full" in said


def test_a_read_only_disk_is_told(disk: Callable[..., Path], two_classes: Path, tmp_path: Path) -> None:
    place = disk("size=1m")
    disk("ro", place)
    with pytest.raises(OSError, match="Read-only") as caught:
        manifest.write(pd.DataFrame({"path": ["x"]}), place / "manifest.csv")
    assert "the disk is read-only" in str(errors.explained(caught.value))
    # Nothing needs TensorFlow for this answer: it comes in a second.
    command = [sys.executable, str(ROOT / "train.py"), "data=folder", f"data.path={two_classes}"]
    for overrides, environment in (
        ([], {}),
        ([f"hydra.run.dir={tmp_path / 'run'}"], {"HAIRLINE_CACHE": str(place / "c")}),
    ):
        found = subprocess.run(
            [*command, *overrides], capture_output=True, text=True, cwd=place, env=os.environ | environment, check=False
        )
        said = found.stdout + found.stderr
        assert found.returncode not in (0, None)
        assert "Read-only file system" in said
        assert "hydra.run.dir=<folder>" in said or "HAIRLINE_CACHE" in said
        assert "Traceback" not in said


def test_files_and_folders_that_may_not_be_read_are_named(two_classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        (root / "cache").mkdir()
        (root / "cache").chmod(0o777)
        monkeypatch.setenv("HAIRLINE_CACHE", str(root / "cache"))
        shutil.copytree(two_classes, root / "set")
        for folder in (root / "set", root / "set" / "plain", root / "set" / "cracked"):
            folder.chmod(0o755)  # copied with that of pytest's own, which are the owner's alone
        hidden, locked = root / "set" / "plain" / "0003.jpg", root / "set" / "plain" / "locked"
        hidden.chmod(0)
        locked.mkdir(mode=0)
        if os.geteuid() == 0:
            os.seteuid(65534)  # permissions mean nothing to root
        try:
            with pytest.raises(sources.SourceError, match=r"locked cannot be listed: Permission denied"):
                sources.from_folder(path=str(root / "set"))
            rows = pd.DataFrame({"path": [str(hidden)], "label": ["plain"]})
            _, rejected = manifest.scan(rows)
        finally:
            if os.getuid() == 0:
                os.seteuid(0)
        assert list(rejected["reason"]) == ["cannot be opened: Permission denied"]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        np._core._exceptions._ArrayMemoryError((10**9,), np.dtype(float)),
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[9,9]"),
        RuntimeError("std::bad_alloc"),
    ],
)
@pytest.mark.parametrize(("size", "advice"), [(512, "try batch_size=256"), (1, "try a smaller image_size")])
def test_out_of_memory_says_which_batch_size_to_try(error: Exception, size: int, advice: str) -> None:
    with pytest.raises(errors.OutOfMemoryError, match=advice) as caught, errors.advised("batch_size", size):
        raise error
    assert errors.is_user_error(caught.value)
    assert "out of memory" in str(errors.explained(error))


def test_a_step_that_is_too_large_ends_the_run_with_advice(
    two_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*arguments: object, **keywords: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(keras.Model, "fit", exhausted)
    with pytest.raises(errors.OutOfMemoryError, match="with batch_size=16: try batch_size=8"):
        train(tmp_path / "run", two_classes, "tracking=none", "report.level=light")


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(ZeroDivisionError), errors.advised("batch_size", 4):
        1 / 0  # noqa: B018
    assert errors.explained(ZeroDivisionError()) is None
    assert errors.explained(OSError("elsewhere")) is None


def test_an_image_that_changes_while_it_is_trained_on_is_named(tmp_path: Path) -> None:
    paths = []
    for number in range(4):
        paths.append(tmp_path / f"{number}.png")
        Image.new("RGB", (8, 8), (number,) * 3).save(paths[-1])
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    Image.new("RGB", (8, 8), (200,) * 3).save(paths[2])
    batches = pipeline.batches([str(path) for path in paths], image_size=8, batch_size=2, digests=digests)
    with pytest.raises(errors.UnreadableError, match=r"2\.png: changed since it was checked"):  # noqa: SIM117
        with errors.advised("batch_size", 2):
            list(batches)
