"""The command line before Hydra reads it: checks, and what resume=, sweep.resume= and search= imply."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest

from hairline import config
from hairline.app import commandline, help
from hairline.app.sweep.state import Job, Sweep, SweepError
from hairline.training.checkpoint import Checkpoint
from tests.conftest import CONF
from tests.running import composed
from tests.test_texts import completed


def test_a_help_page_and_repeated_commands_start_as_the_user_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python", "/bin/hairline", "train"])
    assert commandline.CommandLine(["seed=1"]).repeated([]) == "hairline train seed=1"
    lines = ["  python train.py                 one run", "  python train.py seed=1          another"]
    page = "\n".join([*lines, "== Settings ==", "{}", "== Flags =="])
    one, another = help.explained(page, "train").splitlines()[:2]
    assert one == "  hairline train                  one run"
    assert another == "  hairline train seed=1           another"


# --- checks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("+=", "no name before the ="),
        ("=", "no name before the ="),
        ("++=1", "no name before the ="),
        ("~=x", "no name before the ="),
        ("+augment=[1,[2,[3]]]", "expected one of light, none, strong"),
        ("augment={a:[1]}", "expected one of light, none, strong"),
        ("model=mobilnetv2", "Did you mean 'mobilenetv2'\\? Available: convnexttiny"),
        ("optimizer=adam,sdg", "Did you mean 'sgd'\\?"),
        ("hydra/launcher=ray", 'pip install -e "\\.\\[ray\\]"'),
    ],
)
def test_a_command_that_cannot_work_is_refused(typed: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(config.ConfigError, match=message):
        commandline.parse([typed], CONF)


@pytest.mark.parametrize(
    "arguments",
    [
        ["seed=1"],
        ["-m", "optimizer=adam,sgd"],
        ["-m", "optimizer=choice(adam,sgd)"],
        ["--config-dir", "mine", "experiment=own"],  # Hydra finds the user's own choices
        ["search=head", "--cfg", "job"],
        ["resume=nowhere", "--cfg", "job"],
        ["seed=1,2", "-c", "job"],
    ],
)
def test_other_commands_stay_as_they_are(arguments: list[str]) -> None:
    assert completed(*arguments) == arguments


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("+experiment=recipe", "experiment=recipe"),
        ("+tags.site=bridge", "+tags.site=bridge"),
    ],
)
def test_hydra_can_read_what_was_typed(typed: str, expected: str) -> None:
    assert completed(typed) == [expected]


@pytest.mark.parametrize("key", ["hydra.run.dir", "hydra.sweep.dir"])
def test_the_home_folder_is_meant_in_hydras_folders_too(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert completed(f"{key}=~/runs/${{now:%Y}}") == [f"{key}={tmp_path}/runs/${{now:%Y}}"]
    assert completed(f"{key}='~/my runs'") == [f"{key}='{tmp_path}/my runs'"]
    assert completed(f"{key}=runs/~") == [f"{key}='runs/~'"]


def test_no_sweep_to_resume_is_no_multirun() -> None:
    assert completed("sweep.resume=null", "name=a,b") == ["sweep.resume=null", "name='a,b'"]


# --- completion -------------------------------------------------------------------------------------------------------


def test_a_resumed_run_implies_its_folder_and_its_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "start").mkdir()
    monkeypatch.chdir(tmp_path / "start")
    folder = tmp_path / "a run"
    folder.mkdir()
    chosen = composed("config", "data=folder", f"data.path='{tmp_path}'", "optimizer=lion", "schedule=cosine")
    config.save(chosen, folder / "config.yaml")
    Checkpoint.begin(folder, "identity")
    monkeypatch.chdir(tmp_path)
    place = [f"resume='{folder}'", f"hydra.run.dir='{folder}'"]
    command = commandline.parse(["resume='a run'", "seed=1"], CONF)
    assert command.completed == [
        *place, "data=folder", "optimizer=lion", "schedule=cosine", f"data.path='{tmp_path}'", "seed=1",
    ]  # fmt: skip
    assert command.directory == str(tmp_path / "start")
    assert command.overrides == ["seed=1"]
    assert commandline.parse(["resume='a run'", "~tags", "-m"], CONF).overrides == ["~tags"]
    found = completed(f"resume={folder}", "data=synthetic", "optimizer=adam")
    assert found == [*place, "schedule=cosine", "data=synthetic", "optimizer=adam"]
    with pytest.raises(config.ConfigError, match="resume=nowhere: no run there"):
        completed("resume=nowhere")
    for number, other in enumerate(("nc: 2\n", "- one\n", "data: photos\n", "")):  # of another program
        (tmp_path / f"other {number}").mkdir()
        (tmp_path / f"other {number}" / "config.yaml").write_text(other)
        with pytest.raises(config.ConfigError, match="no run there"):
            completed(f"resume=other {number}")
    with pytest.raises(config.ConfigError, match="experiment= sets many settings"):
        completed(f"resume={folder}", "experiment=recipe")
    assert completed(f"resume={folder}", "hydra.run.dir='a run'")[:2] == place
    with pytest.raises(config.ConfigError, match="hydra.run.dir=other: a resumed run stays in its folder"):
        completed(f"resume={folder}", "hydra.run.dir=other")


def test_a_resumed_sweep_repeats_its_command(tmp_path: Path) -> None:
    folder = tmp_path / "a sweep"
    saved = ["seed=0,1", "optimizer=sgd", "hydra/launcher=basic"]
    Sweep(folder, command=saved, working_directory=str(tmp_path)).write()
    place = [f"hydra.sweep.dir='{folder}'", f"sweep.resume='{folder}'"]
    command = commandline.parse([f"sweep.resume={folder}"], CONF)
    assert command.completed == ["-m", *saved, *place]
    assert command.directory == str(tmp_path)
    changed = ["-m", "seed=0,1,2", "hydra/launcher=other"]
    assert completed(f"sweep.resume={folder}", *changed) == ["optimizer=sgd", *changed, *place]
    elsewhere = ["--config-dir", "mine"]
    assert completed(*elsewhere, f"sweep.resume={folder}") == ["-m", *saved, *elsewhere, *place]
    # Hydra prints one configuration, that of the first job.
    asked = completed(f"sweep.resume={folder}", "--cfg", "job")
    assert asked == ["seed=0", "optimizer=sgd", "hydra/launcher=basic", "--cfg", "job", *place]
    with pytest.raises(SweepError, match="holds no sweep"):
        completed("sweep.resume=nowhere")


def test_what_lies_in_a_copied_project_is_resumed_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, copy = tmp_path / "project", tmp_path / "copy"
    (project / "run").mkdir(parents=True)
    monkeypatch.chdir(project)
    config.save(composed("config"), project / "run" / "config.yaml")
    Checkpoint.begin(project / "run", "identity")
    Sweep(project / "sweep", working_directory=str(project), place=str(project / "sweep")).write()
    shutil.copytree(project, copy)
    for place in (project, copy):
        assert commandline.parse([f"resume={place / 'run'}"], CONF).directory == str(place)
        assert commandline.parse([f"sweep.resume={place / 'sweep'}"], CONF).directory == str(place)


def test_latest_is_the_newest_run_with_a_model(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match="run=latest: outputs/ holds no finished run with a model"):
        commandline.parse(["run=latest"], CONF, "predict")
    for age, name in enumerate(("2026-05-02/09-00-00", "sweeps/first/3", "2026-05-01/10-00-00", "2026-05-03/08-00-00")):
        bundle = tmp_path / "outputs" / name / "model" / "bundle.json"
        bundle.parent.mkdir(parents=True)
        bundle.write_text("{}")
        os.utime(bundle, (1_000_000 - age, 1_000_000 - age))
    (tmp_path / "outputs" / "2026-05-04" / "07-00-00").mkdir(parents=True)  # no model
    command = commandline.parse(["run=latest", "input=x"], CONF, "predict")
    assert command.completed == ["run='outputs/2026-05-02/09-00-00'", "input=x"]
    assert command.typed == ["run=latest", "input=x"]
    assert command.notes == ["run=latest is outputs/2026-05-02/09-00-00"]
    os.utime(tmp_path / "outputs" / "sweeps" / "first" / "3" / "model" / "bundle.json")
    assert completed("base=latest") == ["base='outputs/sweeps/first/3'"]
    (tmp_path / "outputs" / "mine" / "model").mkdir(parents=True)  # of hydra.run.dir=outputs/mine
    (tmp_path / "outputs" / "mine" / "model" / "bundle.json").touch()
    assert completed("base=latest") == ["base='outputs/mine'"]
    (tmp_path / "latest").mkdir()  # a run directory of this name comes first
    assert completed("base=latest") == ["base=latest"]


def test_a_sweeps_folder_is_its_best_job(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "a sweep", command=["seed=0,1,2"], working_directory=str(tmp_path))
    sweep.write()
    keys = {"evaluate": "run", "export": "run", "register": "run", "predict": "run", "train": "base"}
    for script, key in keys.items():
        with pytest.raises(config.ConfigError, match="no job of this sweep has finished"):
            commandline.parse([f"{key}=a sweep"], CONF, script)
    for number, value in enumerate((0.5, 0.1, float("nan"))):
        sweep.record(Job(number, "", {}, ""), "finished", value=value)
    sweep.record(Job(3, "", {}, ""), "failed")
    for script, key in keys.items():
        assert list(commandline.parse([f"{key}=a sweep"], CONF, script).completed) == [f"{key}='a sweep/1'"]
    found = commandline.parse(["-m", f"run={tmp_path}/a sweep,other"], CONF, "evaluate").completed
    assert found == ["-m", "run='a sweep/1',other"]
    assert commandline.parse(["run=a sweep"], CONF, "sync").completed == ["run=a sweep"]  # all jobs


def test_a_search_is_a_multirun() -> None:
    assert completed("search=head") == ["-m", "search=head"]
    assert completed("-m", "search=head") == ["-m", "search=head"]
