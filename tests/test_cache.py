"""The size of the cache: what is counted, in which order it is deleted, and what is spared."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hairline.data import download, drawn, sources
from hairline.model import engine
from hairline.system import cache, files
from tests.running import started

MEGABYTE = 1e-3  # in GB


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A part of one megabyte in each folder, the first one used least recently."""
    monkeypatch.setenv("HAIRLINE_CACHE", str(tmp_path / "cache"))
    found = {}
    for age, name in enumerate(cache.FOLDERS):
        part = cache.folder(name) / "part"
        if name == "litert":
            part.write_bytes(bytes(10**6))
        else:
            (part / "deep").mkdir(parents=True)
            for number in range(2):
                (part / "deep" / f"{number}").write_bytes(bytes(10**6 // 2))
        os.utime(part, (1000 + age, 1000 + age))
        found[name] = part
    (cache.folder("features") / "part.lock").touch()
    return found


def left(parts: dict[str, Path]) -> list[str]:
    return [name for name, part in parts.items() if part.exists()]


@pytest.mark.parametrize("kept", range(7))
def test_all_folders_are_counted_and_the_least_recently_used_part_goes_first(kept: int, parts: dict[str, Path]) -> None:
    cache.evict((kept + 0.5) * MEGABYTE)
    assert left(parts) == list(cache.FOLDERS[max(6 - kept, 0) :])
    assert not list(cache.root().rglob(f"*{files.PARTIAL}"))
    assert (cache.root() / "features" / "part.lock").exists()


def test_use_counts_as_the_latest_and_ends_with_its_object(parts: dict[str, Path]) -> None:
    first = cache.use(parts["features"])
    cache.evict(1e-9)
    assert left(parts) == ["features"]
    del first
    cache.evict(1.5 * MEGABYTE)
    assert left(parts) == ["features"]
    cache.evict(1e-9)
    assert left(parts) == []
    assert cache.use(Path("elsewhere")) is None


def test_a_folder_is_used_with_all_its_parts(parts: dict[str, Path]) -> None:
    use = cache.use(parts["windows"].parent)
    cache.evict(1e-9)
    assert left(parts) == ["windows"]
    del use
    cache.evict(1e-9)
    assert left(parts) == []


def test_what_another_process_uses_is_spared_until_it_dies(parts: dict[str, Path]) -> None:
    code = (
        "import sys; from pathlib import Path; from hairline.system import cache\n"
        f"cache.hold(Path({str(parts['datasets'])!r})); print('ready', flush=True); sys.stdin.read()"
    )
    with started([sys.executable, "-c", code], stdin=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        cache.evict(1e-9)
        assert left(parts) == ["datasets"]
    cache.evict(1e-9)
    assert left(parts) == []
    assert [path.name for path in (cache.root() / ".in-use").iterdir()] == ["lock"]


def test_a_folder_that_is_being_created_is_spared_and_one_that_was_left_is_not(parts: dict[str, Path]) -> None:
    target = cache.folder("synthetic") / "v1.2"
    use = cache.use(target)

    def fill(partial: Path) -> Path:
        (partial / "content").mkdir()
        (partial / "content" / "a").write_bytes(bytes(1000))
        cache.evict(1e-9)
        return partial / "content"

    files.create_folder(target, fill)
    assert (target / "a").exists()
    del use
    leftover = target.with_name(files.partial_name("v1.3"))
    leftover.mkdir()
    (leftover / "b").write_bytes(bytes(1000))
    cache.evict(1e-9)
    assert not leftover.exists()


def test_images_are_held_and_an_unused_network_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAIRLINE_CACHE", str(tmp_path / "cache"))
    table = sources.from_synthetic(count=4, size=32, classes=2, generator_seed=0)
    table = table.assign(split="train", group="", sha256=[files.sha256(Path(path)) for path in table["path"]])
    table = drawn.add_drawn(table.assign(width=32, height=32), share=0.5, crops=0, positive="cracked", seed=0)

    def install(archive: download.Archive, folder: Path, **_: object) -> Path:
        (folder / archive.name / "0").mkdir(parents=True)
        return Path(table["path"][0]).parents[1]

    monkeypatch.setattr(download, "install", install)
    sources.from_concrete_cracks(path=None)
    file = engine.converted_file("model")
    file.write_bytes(b"x")
    cache.evict(1e-9)
    assert all(Path(path).exists() for path in table["path"])
    assert (tmp_path / "cache" / "datasets" / download.CONCRETE_CRACKS.name / "0").exists()
    assert not file.exists()
