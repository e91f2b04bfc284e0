"""Projects that moved, writes that fail, and waiting for another process."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import threading
from pathlib import Path
from typing import Any, cast

import filelock
import numpy as np
import pytest

from hairline.data import download
from hairline.model import features
from hairline.model.features import Recipe
from hairline.model.store import Store
from hairline.system import files
from hairline.system.errors import explained
from hairline.tracking import store


class Busy:
    """A lock that another process holds for some time; a clock of its own."""

    def __init__(self, seconds: float) -> None:
        self.left, self.held = seconds, False
        self.asked: list[float] = []

    def acquire(self, timeout: float) -> None:
        self.asked.append(timeout)
        if self.left > timeout:
            self.left -= timeout
            raise filelock.Timeout("busy.lock")
        self.held = True

    def release(self) -> None:
        self.held = False


def test_a_project_is_followed_with_the_folder_inside(tmp_path: Path) -> None:
    old, new = tmp_path / "a" / "project", tmp_path / "b" / "copy"
    for place in (old, new):
        (place / "outputs" / "one").mkdir(parents=True)
    run = str(old / "outputs" / "one")
    assert files.followed(str(old), run, old / "outputs" / "one") == str(old)
    assert files.followed(str(old), run, new / "outputs" / "one") == str(new)
    (tmp_path / "b" / "one").mkdir()
    assert files.followed(str(old), run, tmp_path / "b" / "one") is None
    assert files.followed(str(old), str(tmp_path / "elsewhere"), new) is None
    assert files.followed(str(old), "", new) == str(old)
    (tmp_path / "link").symlink_to(old)
    assert files.followed(str(old), run, tmp_path / "link" / "outputs" / "one") == str(old)


def test_a_full_disk_is_reported_with_the_file(tmp_path: Path) -> None:
    """A write that fails does not name its file, and the user may write to several disks."""
    path = tmp_path / "table.csv"
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left") as caught, files.atomic(path):
        raise full
    message = str(explained(caught.value))
    assert message.startswith(f"the disk is full: {path} cannot be written; ")
    assert "output=<folder>" in message


def test_waiting_is_reported_after_two_seconds_and_every_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    lock: Any = Busy(150)
    with files.waiting(lock, "downloads a.zip"):
        assert lock.held
    assert not lock.held
    said = [record.message for record in caplog.records]
    assert said == [f"waiting for another process that downloads a.zip ({seconds} s)" for seconds in (2, 62, 122)]


def test_a_short_wait_is_silent_and_a_long_one_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with files.waiting(cast("filelock.BaseFileLock", Busy(1.9)), "computes"):
        pass
    assert not caplog.records
    lock: Any = Busy(1000)
    with pytest.raises(filelock.Timeout), files.waiting(lock, "computes", timeout=100):
        pass
    assert lock.asked == [2, 60, 38]
    with pytest.raises(filelock.Timeout), files.waiting(cast("filelock.BaseFileLock", Busy(1)), "computes", timeout=0):
        pass


@pytest.mark.parametrize("what", ["downloads a.zip", "opens an MLflow store", "computes the same features"])
def test_downloads_stores_and_features_say_that_they_wait(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAIRLINE_CACHE", str(tmp_path))
    monkeypatch.setattr(files, "_FIRST_NOTICE", 0.01)
    said, held, noticed = [], threading.Event(), threading.Event()
    monkeypatch.setattr(files.log, "info", lambda text, *values: said.append(text % values) or noticed.set())
    (tmp_path / "a.zip").write_bytes(b"a")
    recipe = Recipe("mobilenetv2", "random-0", 32, "litert")
    Store(recipe.key()).add(["0"], np.zeros((1, 3), np.float32))

    def work() -> None:
        if what.startswith("downloads"):
            download.fetch("http://invalid/a.zip", tmp_path / "a.zip", sha256=hashlib.sha256(b"a").hexdigest())
        elif what.startswith("opens"):
            with store.locked():
                pass
        else:
            features.compute(["a.jpg"], ["0"], recipe, lambda: pytest.fail("not needed"))

    place = {"d": tmp_path / "a.zip.lock", "o": tmp_path / "tracking.lock", "c": Store(recipe.key()).lock.lock_file}

    def hold() -> None:
        with filelock.FileLock(place[what[0]]):
            held.set()
            noticed.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    work()
    holder.join()
    assert said[:1] == [f"waiting for another process that {what} (0 s)"]
