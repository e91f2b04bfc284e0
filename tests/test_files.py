"""Waiting for another process."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import filelock
import pytest

from hairline.system import files


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


def test_a_real_lock_is_released(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_FIRST_NOTICE", 0.01)
    first, second = (filelock.FileLock(tmp_path / "a.lock") for _ in range(2))
    caplog.set_level(logging.INFO)
    with files.waiting(first, "computes"):
        with pytest.raises(filelock.Timeout), files.waiting(second, "computes", timeout=0.03):
            pass
        assert "waiting for another process that computes" in caplog.text
    with files.waiting(second, "computes"):
        assert second.is_locked
