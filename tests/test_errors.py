"""Full and read-only disks, unreadable files, too little memory: a message, never a traceback."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from PIL import Image

from hairline.data import folders, manifest, pipeline, sources
from hairline.model import saved
from hairline.system import errors, files
from hairline.training import head_trainer
from tests import darkness
from tests.running import TINY, refused, run, train


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mount small disks in memory, with options such as `size=64k` or `ro`; skip where mounting is not allowed."""
    mounted: list[Path] = []

    def mount(options: str, place: Path | None = None) -> Path:
        again = place is not None
        place = place or tmp_path / f"disk{len(mounted)}"
        place.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"remount,{options}" if again else options, "tmpfs", str(place)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no disk can be mounted here")
        if not again:
            mounted.append(place)
        return place

    yield mount
    os.chdir("/")
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_recognised_whichever_library_reports_it(disk: Callable[..., Path], tmp_path: Path) -> None:
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
        assert errors.is_disk_full(caught.value)
        assert "free some space, or write elsewhere" in str(errors.explained(caught.value))
    nameless = OSError(28, "No space left on device")
    folders = {"the working directory": lambda: tmp_path, "the cache": lambda: place}
    assert f"no space is left in the cache ({place});" in str(errors.explained(nameless, folders))


@pytest.mark.slow
@pytest.mark.parametrize("size", ["16k", "300k", "900k", "2m", "5m", "11m"])
def test_a_run_whose_disk_fills_up_ends_with_a_message(
    size: str, disk: Callable[..., Path], two_classes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(disk(f"size={size}"))
    refused(run(*TINY, "data=folder", f"data.path={two_classes}", timeout=250), "disk", "full")


@pytest.mark.slow
def test_a_read_only_disk_is_reported(
    disk: Callable[..., Path], two_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = disk("size=1m")
    disk("ro", place)
    with pytest.raises(OSError, match="Read-only") as caught:
        manifest.write(pd.DataFrame({"path": ["x"]}), place / "manifest.csv")
    assert "the disk is read-only" in str(errors.explained(caught.value))
    monkeypatch.chdir(place)
    data = ("data=folder", f"data.path={two_classes}")
    refused(run(*data), "Read-only file system", "hydra.run.dir=<folder>")
    elsewhere = run(*data, f"hydra.run.dir={tmp_path / 'run'}", environment={"HAIRLINE_CACHE": str(place / "c")})
    refused(elsewhere, "Read-only file system", "HAIRLINE_CACHE")


def test_files_and_folders_without_permission_are_named(two_classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        (root / "cache").mkdir()
        (root / "cache").chmod(0o777)
        monkeypatch.setenv("HAIRLINE_CACHE", str(root / "cache"))
        shutil.copytree(two_classes, root / "set")
        for folder in (root / "set", root / "set" / "plain", root / "set" / "cracked"):
            folder.chmod(0o755)  # pytest's folders are private
        hidden, locked = root / "set" / "plain" / "0003.jpg", root / "set" / "plain" / "locked"
        hidden.chmod(0)
        locked.mkdir(mode=0)
        if os.geteuid() == 0:
            os.seteuid(65534)  # root may read everything
        try:
            with pytest.raises(folders.FolderError, match=r"locked cannot be listed: Permission denied"):
                sources.from_folder(path=str(root / "set"))
            _, rejected = manifest.scan(pd.DataFrame({"path": [str(hidden)], "label": ["plain"]}))
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
def test_out_of_memory_advises_a_batch_size(error: Exception, size: int, advice: str) -> None:
    with pytest.raises(errors.OutOfMemoryError, match=advice), errors.advised("batch_size", size):
        raise error
    assert "out of memory" in str(errors.explained(error))


@pytest.mark.slow
def test_out_of_memory_in_training_ends_the_run_with_advice(
    two_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*arguments: object, **keywords: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(head_trainer.HeadTrainer, "epoch", exhausted)
    with pytest.raises(errors.OutOfMemoryError, match="with batch_size=16: try batch_size=8"):
        train(tmp_path / "run", two_classes, "tracking=none", "report.level=light")


@pytest.mark.parametrize("inside", [(), ("sub", "folder")])
def test_a_file_where_a_folder_belongs_is_named(tmp_path: Path, inside: tuple[str, ...]) -> None:
    file = tmp_path / "results"
    file.write_text("mine")
    with pytest.raises((FileExistsError, NotADirectoryError)) as caught:
        file.joinpath(*inside).mkdir(parents=True, exist_ok=True)
    assert errors.explained(caught.value) == f"{file} is a file; expected a folder: delete the file, or choose a folder"


def test_a_name_that_no_file_can_have_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too long") as caught:
        (tmp_path / ("a" * 300)).touch()
    expected = f"{'a' * 40}...: too long for a file: expected names up to 255 bytes and paths up to 4,096"
    assert errors.explained(caught.value) == expected


def test_bugs_are_not_explained() -> None:
    with pytest.raises(ZeroDivisionError) as caught, errors.advised("batch_size", 4):
        1 / 0  # noqa: B018
    assert not errors.is_user_error(caught.value)
    assert errors.is_user_error(errors.HairlineError())
    assert errors.explained(OSError("another fault")) is None


def test_an_image_that_changes_or_vanishes_during_training_is_named(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        Image.new("RGB", (8, 8), (number,) * 3).save(path)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    Image.new("RGB", (8, 8), (200,) * 3).save(paths[2])
    paths[3].unlink()
    for place, fault in ((2, r"2\.png: changed since it was checked"), (3, r"3\.png: cannot be opened")):
        part = slice(place, place + 1)
        batches = pipeline.batches(
            [str(path) for path in paths[part]], digests[part], np.eye(1), image_size=8, batch_size=2, augment={}
        )
        with pytest.raises(errors.UnreadableError, match=fault), errors.advised("batch_size", 2):
            list(batches)


@pytest.mark.parametrize("old", [None, b"old"])
def test_an_atomic_write_that_fails_leaves_what_was_there(old: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(RuntimeError), files.atomic(path) as file:  # noqa: PT012
        file.write(b"half of it")
        raise RuntimeError
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == ([] if old is None else [old])
    with files.atomic(path, "w", encoding="utf-8") as file:
        file.write("größer")
    assert [entry.read_text(encoding="utf-8") for entry in tmp_path.iterdir()] == ["größer"]
