"""The `hairline` command: the scripts as verbs."""

import sys

import pytest

from hairline.app import main


def test_the_verbs_are_the_scripts() -> None:
    assert main.verbs() == sorted(path.stem for path in main.scripts().glob("*.py"))
    assert len(main.verbs()) >= 7


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
