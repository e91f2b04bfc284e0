"""The `hairline` command: the scripts as verbs."""

import sys

import pytest

from hairline.app import main
from hairline.config import commands
from hairline.system import provenance
from hairline.system.provenance import SCRIPTS


def test_the_verbs_are_the_scripts() -> None:
    assert list(SCRIPTS) == sorted(path.stem for path in main.scripts().glob("*.py"))
    assert len(SCRIPTS) == 8


@pytest.mark.parametrize(("arguments", "text"), [([], "Usage"), (["--help"], "train"), (["--version"], "hairline 0.")])
def test_it_says_how_to_call_it(
    arguments: list[str], text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["hairline", *arguments])
    main.main()
    assert text in capsys.readouterr().out


def test_an_unknown_verb_is_answered_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["hairline", "trane"])
    with pytest.raises(SystemExit, match="trane: no such verb[\\s\\S]*train"):
        main.main()


@pytest.mark.parametrize(
    ("started", "argument", "command", "recorded"),
    [
        ("/venv/bin/hairline", "/venv/scripts/train.py", "hairline predict run=x", ["hairline", "train", "seed=1"]),
        (r"hairline.exe", r"scripts/train.py", "hairline predict run=x", ["hairline", "train", "seed=1"]),
        ("train.py", "train.py", "python predict.py run=x", ["python", "train.py", "seed=1"]),
        ("../a b/train.py", "../a b/train.py", "python '../a b/predict.py' run=x", ["python", "train.py", "seed=1"]),
        ("-m", "/site/pytest/__main__.py", "python predict.py run=x", ["python", "__main__.py", "seed=1"]),
    ],
)
def test_printed_commands_begin_as_the_user_began(
    started: str, argument: str, command: str, recorded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", started])
    monkeypatch.setattr(sys, "argv", [argument, "seed=1"])
    assert commands.command("predict", "run=x") == command
    assert provenance.command() == recorded
