"""The user's own YAML files: a fault is named with file and line before Hydra reads the file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hairline.app import mistakes
from hairline.app.mistakes import Command
from tests.conftest import CONF

HEADER = b"# @package _global_\n"


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    shutil.copytree(CONF, tmp_path / "conf")
    return tmp_path / "conf"


@pytest.mark.parametrize(
    ("content", "line", "fault"),
    [
        (b"epochs: 3\n", 1, "expected '# @package _global_' as the first line"),
        (b"# my experiment\nepochs: 3\n", 1, "expected '# @package _global_'"),
        (b"\xef\xbb\xbf" + HEADER + b"epochs: 3\n", 1, "byte order mark"),
        ("# @package _global_\nepochs: 3\n".encode("utf-16"), 1, "byte order mark"),
        (HEADER + b"name: fissur\xe9\n", 2, "not UTF-8"),
        (HEADER + b"model:\n\tdropout: 0.2\n", 3, "contains a tab"),
        (HEADER + b"epochs: 3\n\tseed: 1\n", 3, "contains a tab"),
        (HEADER + b"epochs: 3\nname: a\x07b\n", 3, r"contains '\x07'"),
        (HEADER + b"model: {dropout: 0.2\nepochs: 3\n", 3, "not YAML"),
        (HEADER + b"epochs: 3\noptimizer: sgd\n", 3, "  - override /optimizer: sgd"),
        (HEADER + b"model: xception\n", 2, "  - override /model: xception"),
        (HEADER + b"defaults:\n  - optimizer: sgd\n", 3, "write - override /optimizer: sgd"),
        (HEADER + b"defaults:\n  - override optimizer: sgd\n", 3, "write - override /optimizer: sgd"),
        (HEADER + b"defaults:\n  - /model: xception\n", 3, "write - override /model: xception"),
        (HEADER + b"name: 2024_05_12\n", 2, "is read as 20240512; write the text in quotes: name: '2024_05_12'"),
        (HEADER + b"data:\n  positive_class: 1e3\n", 3, "write the text in quotes: positive_class: '1e3'"),
    ],
)
def test_faults_are_named_with_file_and_line(content: bytes, line: int, fault: str, conf: Path) -> None:
    path = conf / "experiment" / "own.yaml"
    path.write_bytes(content)
    message = mistakes.find(Command(["experiment=own"], conf))
    assert message is not None
    assert message.startswith(f"{path}, line {line}: ")
    assert fault in message


@pytest.mark.parametrize(
    "content",
    [
        HEADER + b"epochs: 3\n",
        b"\n# what it is for\n" + HEADER + b"epochs: 3\n",
        b"#@package _global_\nepochs: 3\n",
        HEADER + b"defaults:\n  - override /optimizer: sgd\n  - _self_\noptimizer:\n  momentum: 0.5\n",
        HEADER + b"name: 'a\tb'\ndata:\n  positive_class: 1\n  path: null\ntags: {a: b}\n",
        HEADER,
    ],
)
def test_sound_files_pass(content: bytes, conf: Path) -> None:
    (conf / "experiment" / "own.yaml").write_bytes(content)
    assert mistakes.find(Command(["experiment=own"], conf)) is None


def test_every_file_of_ours_passes_and_files_elsewhere_are_checked(conf: Path, tmp_path: Path) -> None:
    for group in ("experiment", "search", "optimizer", "data"):
        names = sorted(path.stem for path in (conf / group).glob("*.yaml"))
        assert len(names) >= 2
        assert [mistakes.find(Command([f"{group}={name}"], conf)) for name in names] == [None] * len(names)
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text("epochs: 3\n")
    message = mistakes.find(Command(["--config-dir", str(tmp_path / "mine"), "experiment=own"], conf))
    assert message is not None
    assert "own.yaml, line 1" in message
