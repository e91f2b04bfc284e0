"""A run that is stopped goes on to the same bits: the state file, phases of training, and whole processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from hairline import config, tracking
from hairline.system import files, signals
from hairline.training import checkpoint
from hairline.training import epochs as training
from hairline.training.checkpoint import Checkpoint
from hairline.training.train import begin
from tests import tracked
from tests.conftest import ROOT
from tests.running import TINY, composed, refused, run, started
from tests.test_epochs import head_trainer, network_trainer, optimizer

# --- the state file ---------------------------------------------------------------------------------------------------


def test_a_state_reads_back_to_the_bit(tmp_path: Path) -> None:
    state = Checkpoint.begin(tmp_path, "identity")
    assert Checkpoint.read(tmp_path / "elsewhere") is None
    assert state.phase("head").load() is None
    about = {"history": [{"loss": 0.1 + 0.2, "epoch": 1}], "best": float("inf")}
    kept = [np.float32([[1.5, -0.0]]), np.int64(7), np.zeros((0, 3))]
    state.phase("head").save(about, {"model": kept, "optimizer": []})
    state.phase("fine-tune").save({"history": []}, {"model": [np.uint32([1, 2])] * 11})
    again = Checkpoint.read(tmp_path)
    assert again is not None
    assert (again.identity, again.working_directory, again.finished) == ("identity", os.getcwd(), False)
    found, arrays = again.phase("head").load()  # type: ignore[misc]
    assert found == about
    assert arrays.keys() == {"model"}
    for one, other in zip(arrays["model"], kept, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
        assert one.tobytes() == other.tobytes()
    assert len(again.phase("fine-tune").load()[1]["model"]) == 11  # type: ignore[index]
    again.finish(keep=False)
    assert Checkpoint.read(tmp_path).finished  # type: ignore[union-attr]
    assert Checkpoint.read(tmp_path).phase("head").load() is None  # type: ignore[union-attr]


def test_a_write_that_fails_leaves_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = Checkpoint.begin(tmp_path, "identity")
    state.phase("head").save({"epoch": 1}, {})

    def full(file: object, **arrays: np.ndarray) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        state.phase("head").save({"epoch": 2}, {})
    assert Checkpoint.read(tmp_path).phase("head").load()[0] == {"epoch": 1}  # type: ignore[union-attr, index]
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.FILE]


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    Checkpoint.begin(tmp_path, "identity")
    content = (tmp_path / checkpoint.FILE).read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"nonsense"):
        (tmp_path / checkpoint.FILE).write_bytes(damaged)
        with pytest.raises(checkpoint.CheckpointError, match=r"state\.npz cannot be read .* delete it"):
            Checkpoint.read(tmp_path)


def test_other_images_and_other_weights_are_refused(tmp_path: Path) -> None:
    state = Checkpoint.begin(tmp_path, "identity")
    state.expect("one", 12_000, "network", "synthetic")
    state.expect("one", 12_000, "network", "synthetic")
    state.phase("head").save({}, {})
    with pytest.raises(checkpoint.CheckpointError, match="12,000 then, 11,999 now"):
        Checkpoint.read(tmp_path).expect("other", 11_999, "network", "synthetic")  # type: ignore[union-attr]
    with pytest.raises(checkpoint.CheckpointError, match="synthetic then, imagenet now. Its head does not fit"):
        Checkpoint.read(tmp_path).expect("one", 12_000, "other", "imagenet")  # type: ignore[union-attr]


def test_two_processes_do_not_work_on_one_run(tmp_path: Path) -> None:
    code = f"from hairline.system import files\nfrom pathlib import Path\nwith files.locked(Path({str(tmp_path)!r})): 1"
    with files.locked(tmp_path):
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "another process is working in this folder" in found.stderr
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert not list(tmp_path.iterdir())


# --- phases -----------------------------------------------------------------------------------------------------------


COSINE = {"name": "cosine", "warmup": 0.1, "final": 0.0}


def fit(state: Checkpoint | None, stop: int | None = None, **changed: object) -> tuple[list[np.ndarray], pd.DataFrame]:
    """Train a head with dropout; stop: the epoch after which the process is as good as killed."""

    def told(number: int, row: dict[str, float]) -> None:
        if number == stop:
            raise KeyboardInterrupt

    settings = {"epochs": 6, "learning_rate": 0.05, "schedule": COSINE, "dropout": 0.4, **changed}
    course = {key: settings.pop(key) for key in ("keep", "patience") if key in settings}
    trainer = {"head": head_trainer, "network": network_trainer}[settings.pop("trainer", "head")](**settings)
    history = training.fit(
        trainer, epochs=settings["epochs"], verbose=False, on_epoch=told,
        state=None if state is None else state.phase("head"), **course,
    )  # fmt: skip
    return trainer.weights(), history.drop(columns="seconds")


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"trainer": "network"},
        {"keep": "last"},
        {"optimizer": optimizer("sgd"), "schedule": {"name": "constant"}, "learning_rate": 1.5,
         "epochs": 30, "patience": 4},
        {"optimizer": optimizer("rmsprop")},
        {"optimizer": optimizer("lion")},
    ],
    ids=lambda changed: "-".join(str(value) for value in changed) or "adam",
)  # fmt: skip
def test_a_phase_goes_on_to_the_same_bits(changed: dict[str, object], tmp_path: Path) -> None:
    weights, history = fit(None, **changed)
    Checkpoint.begin(tmp_path, "identity")
    for stop in (1, 3, 4):  # nothing kept yet; in the middle; twice
        with pytest.raises(KeyboardInterrupt):
            fit(Checkpoint.read(tmp_path), stop, **changed)
    assert len(Checkpoint.read(tmp_path).phase("head").load()[0]["history"]) == 3  # type: ignore[union-attr, index]
    for _ in range(2):  # the second time, nothing is left to be trained
        found, again = fit(Checkpoint.read(tmp_path), stop=1, **changed)
        for one, other in zip(found, weights, strict=True):
            np.testing.assert_array_equal(one, other)
        pd.testing.assert_frame_equal(again, history, check_exact=True)


# --- the command line -------------------------------------------------------------------------------------------------


def saved(folder: Path, *overrides: str) -> Path:
    """Write what a run writes first."""
    folder.mkdir()
    config.save(composed("config", *overrides), folder / "config.yaml")
    return folder


def test_what_changes_numbers_is_refused_and_leaves_nothing(two_classes: Path, tmp_path: Path) -> None:
    folder = saved(tmp_path / "run", "data=folder", f"data.path='{two_classes}'", "data.limit=50", "epochs=3")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    found = run(f"resume={folder}", "epochs=4", f"data.path={two_classes}", "data.limit=60", "name=other")
    said = refused(
        found,
        "data.limit: the run has 50, the command line says 60",
        "epochs: the run has 3, the command line says 4",
    )
    assert "data.path" not in said
    assert {path: path.read_bytes() for path in folder.iterdir() if path.suffix != ".log"} == before
    assert not Path("outputs").exists()
    refused(run("resume=nowhere"), "no run there")
    assert not Path("nowhere").exists()


@pytest.mark.usefixtures("empty_store")
@pytest.mark.parametrize("trained", [True, False])
def test_a_run_that_is_trained_anew_in_its_folder_gets_a_new_mlflow_run(trained: bool, tmp_path: Path) -> None:
    """Its state file was deleted; a run that failed before its first epoch has no numbers to mix with the new ones."""
    folder = saved(tmp_path / "run")
    with tracked.tracked(folder) as first:
        first.metrics({"loss": 1.0} if trained else {}, step=1)
    begin(replace(config.read(folder / "config.yaml"), resume=str(folder)), folder)
    with tracked.tracked(folder) as second:
        second.metrics({"loss": 0.25}, step=1)
    assert (second.id != first.id) == trained
    assert tracked.client().get_run(second.id).data.metrics == {"loss": 0.25}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_raised_and_remembered(number: int) -> None:
    before = {entry: signal.getsignal(entry) for entry in (signal.SIGINT, signal.SIGTERM)}
    received = signals.Signals()
    try:
        received.listen()
        with pytest.raises(KeyboardInterrupt, match=signal.Signals(number).name) as caught:
            os.kill(os.getpid(), number)
        assert signals.exit_code(caught.value) == 128 + number
        with pytest.raises(signals.Stopped):  # somebody swallowed it
            received.check()
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        received.listen()
        for entry, handler in before.items():
            signal.signal(entry, handler)


# --- whole processes --------------------------------------------------------------------------------------------------

WHOLE = (*TINY, "features.engine=tensorflow", "data=folder", "model.dropout=0.2", "epochs=40", "report.level=light")


def stopped(folder: Path, *arguments: str, number: int, until: int = 3) -> tuple[int, str]:
    """Start a run, send it a signal once so many epochs are kept; gives exit status and output."""
    command = [sys.executable, str(ROOT / "train.py"), *arguments, f"hydra.run.dir={folder}"]
    with started(command, stderr=subprocess.STDOUT) as process:
        deadline = time.monotonic() + 300
        while len(epochs(folder)) < until and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
    assert len(epochs(folder)) >= until, said
    return process.returncode, said


def epochs(folder: Path) -> list[object]:
    state = Checkpoint.read(folder) if folder.exists() else None
    kept = None if state is None else state.phase("fine-tune").load() or state.phase("head").load()
    return [] if kept is None else kept[0]["history"]


def numbers(folder: Path) -> dict[str, float]:
    found = json.loads((folder / "metrics.json").read_text())
    return {key: value for key, value in found.items() if not key.startswith("seconds")}


@pytest.mark.slow
def test_stopped_by_every_signal_it_ends_as_if_it_had_not_been(two_classes: Path) -> None:
    settings = (*WHOLE, f"data.path={two_classes}", "augment=light", "augment.mode=fresh", "augment.seed=1")
    assert run(*settings, "hydra.run.dir=whole", "tracking=none").returncode == 0
    folder = Path("outputs", "stopped")
    codes = {signal.SIGTERM: 143, signal.SIGKILL: -9, signal.SIGINT: 130}
    for turn, (number, expected) in enumerate(codes.items(), start=1):
        again = (f"resume={folder}",) if folder.exists() else settings
        code, said = stopped(folder, *again, number=number, until=3 * turn)
        assert code == expected, said
        (entry,) = tracked.runs(experiment="hairline")
        assert entry.info.status == ("RUNNING" if number == signal.SIGKILL else "KILLED")
        if number != signal.SIGKILL:
            assert f"stopped by {number.name}. Resume with: python {ROOT}/train.py resume={folder}" in said
            assert "Traceback" not in said
    found = run(f"resume={folder}")
    assert found.returncode == 0, found.stdout + found.stderr
    assert numbers(folder) == numbers(Path("whole"))
    one, other = (pd.read_csv(place / "history.csv").drop(columns="seconds") for place in (folder, Path("whole")))
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    (again_entry,) = tracked.runs(experiment="hairline")
    assert (again_entry.info.run_id, again_entry.info.status) == (entry.info.run_id, "FINISHED")
    assert tracked.steps(entry.info.run_id, "epoch_loss") == list(range(1, 41))
    assert [path.name for path in Path("outputs").iterdir()] == ["stopped"]
    found = run(f"resume={folder}")
    assert found.returncode == 0
    assert "this run has finished" in found.stdout + found.stderr


@pytest.mark.slow
def test_a_resumed_run_stays_in_the_store_that_the_environment_named(
    two_classes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{Path('server.db').absolute()}"
    with monkeypatch.context() as first:
        first.setenv("MLFLOW_TRACKING_URI", uri)
        code, said = stopped(Path("killed"), *WHOLE, f"data.path={two_classes}", number=signal.SIGTERM)
    assert code == 143, said
    (before,) = tracked.runs(mlflow.MlflowClient(uri), experiment="hairline")
    found = run("resume=killed", "tags.site=bridge")
    assert found.returncode == 0, found.stdout + found.stderr
    assert not Path("mlflow.db").exists()
    (entry,) = tracked.runs(mlflow.MlflowClient(uri), experiment="hairline")
    assert (entry.info.run_id, entry.info.status) == (tracking.run_id(Path("killed")), "FINISHED")
    assert (entry.info.run_name, entry.data.tags["site"]) == (before.info.run_name, "bridge")


@pytest.mark.slow
@pytest.mark.parametrize("layers", ["top", "all"])
def test_fine_tuning_goes_on_as_well(layers: str, two_classes: Path) -> None:
    chosen = (*TINY, "features.engine=tensorflow", "data=folder", f"data.path={two_classes}", "report.level=light")
    tuned = (f"finetune={layers}", "finetune.epochs=6", "augment=light", "augment.views=2")
    settings = (*chosen, *tuned, "model=efficientnetv2b0")  # drops blocks at random: generators inside the backbone
    assert run(*settings, "hydra.run.dir=whole", "tracking=none").returncode == 0
    code, said = stopped(Path("killed"), *settings, number=signal.SIGKILL, until=4)
    assert code == -9, said
    assert 4 <= len(epochs(Path("killed"))) < 8
    found = run("resume=killed")
    assert found.returncode == 0, found.stdout + found.stderr
    assert "head: loaded from state.npz, complete" in found.stdout + found.stderr
    assert numbers(Path("killed")) == numbers(Path("whole"))
