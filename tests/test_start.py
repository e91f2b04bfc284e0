"""The scripts as users start them: each test is a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from hairline.app import start
from hairline.app.process import Application
from hairline.system.signals import Signals
from tests.conftest import CONF, ROOT, paint, poison
from tests.running import TINY, refused, run, slow


@pytest.fixture
def nothing_slow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Poison pandas and SciPy as well, which take a second: answers that need no data come without them."""
    return poison(tmp_path_factory.mktemp("poison"), "tensorflow", "keras", "mlflow", "pandas", "scipy")


def test_help_answers_at_once(nothing_slow: dict[str, str]) -> None:
    found = run("--help", environment=nothing_slow)
    assert found.returncode == 0, found.stderr
    choices = found.stdout.partition("Settings")[0]
    assert "optimizer: adam, adamw, lbfgs, lion, rmsprop, sgd" in choices
    assert "schema" not in choices
    assert "  batch_size=64                     images per batch\n" in found.stdout
    assert "  model.taps=[]" in found.stdout
    assert "\nschedule: Learning-rate schedule and early stopping\n" in found.stdout
    assert "  part=all " in refused(run("--help", environment=nothing_slow, script="evaluate.py"), code=0)


@pytest.mark.parametrize(
    ("script", "arguments", "shown"),
    [
        slow("train.py", ["+experiment=recipe"], "batch_size: 512"),
        ("train.py", ["--config-dir", "mine", "experiment=own"], "epochs: 7"),
        slow("train.py", ["hydra.searchpath=[file://mine]", "experiment=own"], "epochs: 7"),
        ("export.py", ["data.path=moved"], "path: moved"),
    ],
)
def test_choices_and_settings_that_are_taken(
    script: str, arguments: list[str], shown: str, tmp_path: Path, no_tensorflow: dict[str, str]
) -> None:
    own = tmp_path / "mine" / "experiment" / "own.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("# @package _global_\nepochs: 7\n")
    given = [argument.replace("mine", str(tmp_path / "mine")) for argument in arguments]
    found = run("--cfg", "job", *given, environment=no_tensorflow, script=script)
    assert shown in found.stdout, found.stderr


def test_a_misspelt_key_is_answered_at_once(nothing_slow: dict[str, str]) -> None:
    said = run("btch_size=3", environment=nothing_slow).stderr
    assert f"Did you mean 'batch_size'?\n  python {ROOT}/train.py batch_size=3" in said
    assert "+btch_size" not in said


@pytest.mark.slow
def test_hydra_shows_its_tracebacks_on_request(nothing_slow: dict[str, str]) -> None:
    found = run("batch_size=many", environment={**nothing_slow, "HYDRA_FULL_ERROR": "1"})
    assert found.returncode == 1
    assert "Traceback" in found.stderr


def test_an_exit_with_a_text_is_printed_without_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        assert os.environ["HYDRA_FULL_ERROR"] == "1"
        sys.exit("no answer from https://me:s3cret@host")

    monkeypatch.setattr(Signals, "listen", lambda self: None)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    assert start._run(Application(), CONF, "train", main) == 2
    assert capsys.readouterr().err == "no answer from https://***@host\n"
    assert "HYDRA_FULL_ERROR" not in os.environ


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        slow("train", ["batch_size=many"], "could not be converted to Integer"),
        ("train", ["data.path={missing}"], f"python {ROOT}/train.py data=folder data.path={{missing}}"),
        slow("train", ["optimizer.momentum=0.5"], "Only optimizer=sgd, optimizer=rmsprop has it"),
        slow("train", ["data=folder", "data.path={missing}/brücke (1)"], "'{missing}/brücke (1)': nothing is there"),
        slow(
            "train",
            ["runtime.precision=half", "+tags.site=x"],
            "expected one of ['float32', 'mixed_float16', 'mixed_bfloat16']",
        ),
        slow("train", ["--cfg", "job", "--info"], "Only one of"),
        ("train", ["hydra.run.dir=/dev/null/x"], "the output folder cannot be written"),
        slow("evaluate", ["data=folder", "data.path=."], "run is missing: add run=... to the command line"),
        ("evaluate", ["run=nowhere", "data=folder", "data.path=."], "run=nowhere: no saved model there"),
        slow("evaluate", ["run=here", "data=folder", "data.path=.", "part=tst"], "Invalid value 'tst'"),
        ("compare", ["rnus=[a]"], "Did you mean 'runs'"),
        slow("predict", ["run=x"], "input is missing: add input="),
        ("predict", ["run=nowhere", "input=x"], "run=nowhere: no saved model there"),
        slow("export", ["run=nowhere", "format=saved_model", "output=out"], "run=nowhere: no saved model there"),
    ],
)
def test_mistakes_are_answered_without_tensorflow(
    script: str, arguments: list[str], message: str, tmp_path: Path, no_tensorflow: dict[str, str]
) -> None:
    missing = str(tmp_path / "missing")
    given = [argument.replace("{missing}", missing) for argument in arguments]
    found = run(*given, environment=no_tensorflow, script=f"{script}.py")
    said = refused(found, message.replace("{missing}", missing))
    assert len(said.splitlines()) <= 25
    assert not [*Path().glob("out"), *Path().glob("outputs/*")]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        slow({"plain": 20, "cracked": 2}, "too few to divide"),
        ({"plain": 20, "cracked": 20}, "identical images have two labels"),
    ],
)
def test_bad_data_is_answered_in_one_screen(
    classes: dict[str, int], message: str, tmp_path: Path, no_tensorflow: dict[str, str]
) -> None:
    data = paint(tmp_path / "data", classes)
    if len(set(classes.values())) == 1 < len(classes):
        shutil.copy(data / "plain" / "0003.jpg", data / "cracked" / "x.jpg")
    said = refused(run("data=folder", f"data.path={data}", environment=no_tensorflow), message)
    assert len(said.splitlines()) <= 25
    assert not list(Path().glob("outputs/*"))
    assert not Path("mlflow.db").exists()


def test_a_bug_shows_its_traceback(no_tensorflow: dict[str, str]) -> None:
    """TensorFlow's import fails here, which no user can have caused."""
    found = run(*TINY, "data.count=20", "tracking=none", environment=no_tensorflow)
    assert found.returncode == 1
    assert re.search(r"Traceback.*RuntimeError: (tensorflow|keras) was imported", found.stdout, re.DOTALL)


@pytest.mark.parametrize("log", ["server.log", "predict.log"])
def test_a_command_that_fails_leaves_the_files_of_others(log: str, no_tensorflow: dict[str, str]) -> None:
    Path("logs").mkdir()
    Path("logs", log).write_text("mine\n")
    arguments = ["run=nowhere", "input=x", "hydra.run.dir=logs"]
    refused(run(*arguments, environment=no_tensorflow, script="predict.py"), "no saved model there")
    assert Path("logs", log).read_text().startswith("mine\n")


@pytest.mark.parametrize(
    ("script", "arguments", "output"),
    [("predict", ["input=a,b"], "out"), slow("export", ["format=litert", "images=1,2"], "out/litert")],
)
def test_no_job_replaces_the_results_of_another(
    script: str, arguments: list[str], output: str, no_tensorflow: dict[str, str]
) -> None:
    found = run("-m", "run=nowhere", *arguments, "output=out", environment=no_tensorflow, script=f"{script}.py")
    said = refused(found, f"{output} is the output of job 0 of this command", code=1)
    assert said.count("leave output= out, for a folder per job, or start one command per job") == 2  # also at the end


def test_a_printed_command_resumes_from_where_it_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_tensorflow: dict[str, str]
) -> None:
    (tmp_path / "conf").symlink_to(CONF)
    (tmp_path / "train.py").write_text(
        """
import errno
import hydra
from hairline import config as configuration
from hairline.app import start
from hairline.training.checkpoint import Checkpoint

@hydra.main(config_path=start.CONF, config_name="config", execution_whitelist=start.TARGETS)
@start.job
def main(config, call):
    configuration.save(config, call.directory / "config.yaml")
    Checkpoint.begin(call.directory, "identity")
    raise OSError(errno.ENOSPC, "No space left on device")

start.start(__file__, main)
"""
    )
    found = run("hydra.run.dir=one", environment=no_tensorflow, script=str(tmp_path / "train.py"))
    refused(found, "the disk is full", f"then resume with: python {tmp_path}/train.py resume=one")
    assert Path("one", "state.npz").is_file()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = run("resume=../one", environment=no_tensorflow, script=str(tmp_path / "train.py"))
    refused(found, f"then resume with: python {tmp_path}/train.py resume={tmp_path}/one\n")


@pytest.mark.slow
def test_a_run_from_start_to_end(two_classes: Path) -> None:
    found = run(*TINY, "data=folder", f"data.path={two_classes}", "batch_size=512")
    said = found.stdout + found.stderr
    assert found.returncode == 0, said
    assert not re.search(r"Traceback|UserWarning|DeprecationWarning|cuda|E0000|I0000", said), said
    assert "batch_size=512 is larger than the training split" in said
    for part in ("train", "val", "test"):
        assert re.search(rf"^{part} +\d+ +0\.\d{{4}}|^{part} +\d+ +1\.0000", said, re.MULTILINE), said
    place = Path(re.search(r"Run directory +(\S+)", said)[1])  # type: ignore[index]
    assert (place / "model" / "bundle.json").is_file()
    assert "epoch 1/2" in (place / "train.log").read_text()
    server = r"mlflow ui --app-name hairline --workers 1 --backend-store-uri sqlite:///\S+mlflow.db(?: --port 50\d\d)?"
    assert re.search(rf"Compare runs +{server}\s+then open http://127.0.0.1:50\d\d/#/experiments/\d+/runs", said)
    assert "Try next" in said
    assert Path("mlflow.db").is_file()
    assert Path("mlruns").is_dir()
