"""Users without a home folder, homes that cannot be written, uncommitted changes: a sentence, or it works."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

import pytest

import hairline
from hairline.model import backbones
from hairline.system import cache, provenance
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


def test_uncommitted_changes_of_files_in_another_encoding_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes("caf\u00e9\n".encode("latin-1"))
    user = ["-c", "user.name=me", "-c", "user.email=me@mail.org"]
    for arguments in (["init", "-q"], ["add", "."], [*user, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    path.write_bytes("caf\u00e9 and more\n".encode("latin-1"))
    monkeypatch.setattr(hairline, "__file__", str(path))
    monkeypatch.setattr(provenance, "_state", provenance._state.__wrapped__)  # not kept for the next test
    assert "+caf\ufffd and more" in provenance.uncommitted()
