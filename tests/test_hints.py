"""Every command that is printed as advice, or stands in the docs, works when pasted, for awkward names of classes."""

from __future__ import annotations

import ast
import logging
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from hairline import config, tracking
from hairline.app import commandline, mistakes
from hairline.app.mistakes import Command
from hairline.app.sweep.state import Job, Sweep
from hairline.data import classes
from hairline.data.prepare import prepare
from hairline.inspection import inspector
from hairline.model.saved import Bundle, BundleError
from hairline.system.process import Process
from hairline.training import summary
from tests import test_texts
from tests.conftest import CONF, ROOT, paint
from tests.running import composed

NAMES = [
    "0",
    "1",
    "crack (fine)",
    "no crack, dry",
    "fissuré",
    "裂缝",
    "<0.3mm",
    "it's",
    "1e3",
    "null",
    "a: b",
    "{c}",
    "${d}",
]
PAIRS = [("0", "1"), ("crack (fine)", "no crack, dry"), ("fissuré", "裂缝"), ("<0.3mm", "1e3"), ("it's", "${d}")]


def words(text: str, mark: str) -> list[str]:
    """Return the words after a mark in a message, as a shell reads them."""
    assert mark in text
    return shlex.split(text[text.index(mark) + len(mark) :].partition("\n")[0])


def value(key: str, *pasted: str, script: str = "train") -> Any:
    """Return a setting as the pasted words set it."""
    (text,) = [entry for entry in test_texts.completed(*pasted, script=script) if entry.startswith(f"{key}=")]
    return test_texts.value(text)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_renaming_classes(first: str, second: str) -> None:
    hint = classes.class_map_hint([first, "cracked"], [second, "cracked"])
    assert value("data.class_map", *shlex.split(hint)) == {first: second}


@pytest.mark.parametrize(("first", "second"), PAIRS[1:4:2])
def test_naming_the_positive_class(first: str, second: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = composed("config", "data=folder", f"data.path={paint(tmp_path / 'data', {first: 12, second: 12})}")
    with caplog.at_level(logging.INFO):
        prepare(settings.data, settings.split, seed=0, process=Process())
    one, other, another = words(caplog.text, "threshold, recall or AUROC: add ")
    assert other == "or"
    assert {value("data.positive_class", one), value("data.positive_class", another)} == {first, second}


def test_merging_classes_that_differ_in_case(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = paint(tmp_path / "data", {"Fissuré (fin)": 8, "fissuré (fin)": 8, "sain": 8})
    settings = composed("config", "data=folder", f"data.path='{folder}'")
    prepare(settings.data, settings.split, seed=0, process=Process())
    assert value("data.class_map", *words(caplog.text, "To merge them: ")) == {"Fissuré (fin)": "fissuré (fin)"}


def test_the_positive_class_of_a_model_without_one() -> None:
    for name in NAMES:
        bundle = Bundle([name, "other"], None, 32, "", "", {}, {})
        with pytest.raises(inspector.InspectionError) as error:
            inspector._positive_class(bundle, None)
        one, _, other = words(str(error.value), "stores no positive class: add ")
        assert value("positive_class", one, script="predict") == name
        assert value("positive_class", other, script="predict") == "other"


@pytest.mark.parametrize("name", NAMES)
def test_run_directories_of_any_name(name: str, tmp_path: Path) -> None:
    place = f"outputs/{name}/a run"
    (step,) = summary.next_steps(place, full=True, synthetic=False, by_epochs=False, positive=True)
    (asking,) = summary.next_steps(place, full=True, synthetic=False, by_epochs=False, positive=False)
    assert asking == f"{step} positive_class=<class to find>"
    assert value("run", *words(step.replace("<photos>", "x"), "python predict.py "), script="predict") == place
    folder = tmp_path / place
    folder.mkdir(parents=True)
    for file in ("metrics.json", "config.yaml"):
        (folder / file).write_text("{}")
    with pytest.raises(BundleError) as error:
        tracking.find(folder)
    resume, report = words(str(error.value), "python train.py ")
    assert config.commands.unquoted(resume.removeprefix("resume=")) == str(folder)
    assert report == "report=full"
    sweep = Sweep(tmp_path / "sweeps" / name, command=["seed=0"], swept={"seed": "0"}, working_directory=str(tmp_path))
    sweep.write()
    sweep.record(Job(0, "", {"seed": "0"}, ""), "failed", error="no")
    jobs = sweep.jobs()
    (again,) = words(sweep.describe(sweep.table(jobs)), "python train.py ")
    assert commandline.parse([again], CONF).directory == str(tmp_path)
    shutil.rmtree(tmp_path / "sweeps")


# --- commands without names -------------------------------------------------------------------------------------------

COMMAND = re.compile(r"python (\w+)\.py ([^`#\n|]*)")


def texts() -> list[tuple[str, str]]:
    """Return the docs, the help pages and every text of the code, with their file names."""
    files = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *CONF.rglob("*.yaml")]
    found = [(path.name, path.read_text(encoding="utf-8")) for path in files]
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append((path.name, node.value))
    return found


def test_commands_of_the_docs_and_the_code_are_understood() -> None:
    count = 0
    for name, text in texts():
        for script, line in COMMAND.findall(text):
            line = re.split(r" {2,}|[)\"] |[.,;:]$", re.sub(r"<[^>]*>|\.\.\.", "x", line).strip())[0]
            if script not in {*config.SCRIPTS, "train"} or "-sc " in line or line.count("'") % 2 or line.count('"') % 2:
                continue
            arguments = shlex.split(line)
            arguments = arguments[
                : next((place for place, word in enumerate(arguments) if not re.match(r"[\w.+]+=|-", word)), None)
            ]
            arguments = [word for word in arguments if not word.startswith("experiment=")]  # may be the reader's own
            command = Command(arguments, CONF, script)
            assert mistakes.find(command) is None, (name, line)
            unknown = [key for key in command.values if not command.is_known(key)]
            assert not unknown, (name, line)
            count += bool(arguments)
    assert count > 90
