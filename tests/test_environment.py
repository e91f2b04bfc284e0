"""Users without a home folder or a name, and homes that cannot be written: a sentence, or it works."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from hairline.model import backbones
from hairline.system import cache
from hairline.system.errors import HairlineError


@pytest.fixture
def _nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user id without an entry in the list of users, and no environment."""

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "USER", "LOGNAME", "HAIRLINE_CACHE", "KERAS_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("_nobody")
def test_without_a_home_the_message_names_the_variable() -> None:
    for use in (cache.root, cache.folder, cache.require_home):
        with pytest.raises(HairlineError, match="no home folder.*set the environment variable HOME or HAIRLINE_CACHE"):
            use()


@pytest.mark.usefixtures("_nobody")
def test_the_cache_serves_as_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAIRLINE_CACHE", str(tmp_path))
    monkeypatch.setenv("HOME", "")  # restored after the test
    monkeypatch.delenv("HOME")
    assert backbones.find_weights("mobilenetv2", "some.h5", 160) == Path("some.h5")
    cache.require_home()
    assert os.environ["HOME"] == str(tmp_path)
    assert Path.home() == tmp_path


def test_a_home_that_exists_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    cache.require_home()
    assert os.environ["HOME"] == str(tmp_path)


def test_a_cache_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HAIRLINE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(HairlineError, match="cannot be created.*set the environment variable HAIRLINE_CACHE"):
        cache.folder("features")
