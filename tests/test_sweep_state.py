"""A sweep's state on disk: claiming jobs, resuming, the summary, and the study of a search."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import optuna
import pandas as pd
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from hairline import tracking
from hairline.app.process import Application
from hairline.app.sweep import command, job, state
from hairline.app.sweep.state import Sweep
from hairline.config import ConfigError
from hairline.evaluation import figures
from hairline.system.process import Process
from hairline.tracking import sync
from tests import tracked
from tests.running import composing


def started(folder: Path, session: str, **changes: object) -> Sweep:
    sweep = Sweep(folder.absolute(), "s", session=session, swept={"learning_rate": "1,2,3"}, **changes)  # type: ignore[arg-type]
    sweep.write()
    return sweep


def run(sweep: Sweep, number: int, identity: str, *, value: float = 0.5, end: str = "finished") -> tuple[int, bool]:
    with sweep.claim(number, identity, {"learning_rate": identity}) as job:
        finished = job.status == "finished"
        if not finished:
            if end == "finished":
                results = {"val_loss": value, "val_accuracy": 0.9, "test_accuracy": 0.8, "seconds_total": 1.5}
                (sweep.directory(job) / "metrics.json").write_text(json.dumps(results))
                pd.DataFrame({"epoch": [1, 2], "val_loss": [2 * value, value]}).to_csv(
                    sweep.directory(job) / "history.csv"
                )
            if end != "dies":
                sweep.record(job, end, value=value if end == "finished" else None, error="no\nmore" * (end == "failed"))
        return job.number, finished


def test_a_second_start_skips_what_finished_and_goes_on_with_the_rest(tmp_path: Path) -> None:
    first = started(tmp_path / "s", "first")
    assert run(first, 0, "a") == (0, False)
    assert run(first, 1, "b", end="failed") == (1, False)
    assert run(first, 2, "c", end="dies") == (2, False)
    second = started(tmp_path / "s", "second")
    second.end_dead_jobs("interrupted")
    assert [job.status for job in second.jobs()] == ["finished", "failed", "interrupted"]
    # In another order, and with a new configuration between: directories follow configurations, not numbers.
    assert run(second, 0, "c") == (2, False)
    assert run(second, 1, "new") == (3, False)
    assert run(second, 2, "a") == (0, True)
    assert run(second, 3, "b") == (1, False)
    assert [job.status for job in second.jobs()] == ["finished"] * 4


def test_a_job_whose_configuration_was_at_fault_goes_on_once_it_is_mended(tmp_path: Path) -> None:
    settings = {"data.path": "photos"}
    for session, identity, expected in (("1", "", "failed"), ("2", "", "failed"), ("3", "a", "running")):
        sweep = started(tmp_path / "s", session)
        with sweep.claim(0, identity, settings) as job:
            if expected == "failed":
                sweep.record(job, "failed", error="nothing is there")
        (job,) = sweep.jobs()
        assert (job.number, job.identity, job.status) == (0, identity, expected)
    with sweep.claim(1, "", {"data.path": "others"}) as job:
        assert job.number == 1


@pytest.mark.usefixtures("empty_store")
@pytest.mark.parametrize("other", [False, True])
def test_a_sweep_is_sent_from_any_folder_and_past_jobs_that_logged_nothing(
    other: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = tracking.tracking_uri(None)
    experiment = tracking.connect(uri, "e")
    parent = tracking.open_parent(uri, experiment, name="s", run_id=None, tags={}, parameters={})
    sweep = started(tmp_path / "s", "first", store=uri, experiment_id=experiment, run_id=parent)
    for number, end in enumerate(("finished", "failed", "finished")):
        run(sweep, number, str(number), end=end)
        if end == "finished":
            with tracked.tracked(sweep.folder / str(number), enabled=False) as logged:
                logged.metrics({"loss": 1.0}, step=1)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    typed = f"sqlite:///{tmp_path / 'other.db'}" if other else None
    directories = state.run_directories(tmp_path / "s")
    assert [directory.name for directory in directories] == ["0", "2"]
    sync.synchronise(directories, typed or uri)
    if not other:
        state.refresh(tmp_path / "s", typed)
        assert mlflow.MlflowClient(uri).get_run(parent).data.metrics["jobs_finished"] == 2
    assert len(tracked.runs(mlflow.MlflowClient(typed or uri))) == 2 + (not other)
    assert not Path("mlflow.db").exists()


def test_the_same_configuration_twice_in_one_start_is_two_jobs(tmp_path: Path) -> None:
    for session in ("first", "second"):
        sweep = started(tmp_path / "s", session)
        assert [run(sweep, number, "a") for number in range(3)] == [(n, session == "second") for n in range(3)]


def test_jobs_that_start_at_once_get_directories_of_their_own(tmp_path: Path) -> None:
    sweep = started(tmp_path / "s", "first")
    run(sweep, 0, "a")
    run(sweep, 1, "b")
    again = started(tmp_path / "s", "second")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: run(again, number, f"new {number}")[0], range(8)))
    assert sorted(found) == list(range(2, 10))
    assert len(again.jobs()) == 10


def test_a_job_that_still_runs_is_waited_for_and_not_ended(tmp_path: Path) -> None:
    first, second = (started(tmp_path / "s", session) for session in ("first", "second"))
    with ThreadPoolExecutor(1) as pool, first.claim(0, "a", {}) as job:
        second.end_dead_jobs("failed")
        assert [job.status for job in second.jobs()] == ["running"]
        waiting = pool.submit(run, second, 0, "a")
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.3)
        first.record(job, "finished", value=1.0)
    assert waiting.result() == (0, True)


@pytest.mark.parametrize("stop", [False, True])
def test_a_failure_stops_the_sweep_only_with_stop_on_error(stop: bool, tmp_path: Path) -> None:
    sweep = started(tmp_path / "s", "first", stop_on_error=stop)
    run(sweep, 0, "a", end="failed")
    assert sweep.stopped is stop
    assert not started(tmp_path / "s", "second", stop_on_error=stop).stopped


def test_the_table_and_the_parent_name_the_best_and_the_failed() -> None:
    experiment = tracking.connect(None, "e")
    parent = tracking.open_parent(
        None, experiment, name="s", run_id=None, tags={}, parameters={"learning_rate": "a,b,c"}
    )
    sweep = started(Path("s"), "first", experiment_id=experiment, run_id=parent)
    client = tracked.client()
    sweep.begin_summary()
    losses = {"a": 0.5, "b": 0.25, "c": float("nan")}
    for number, (name, value) in enumerate(losses.items()):
        run(sweep, number, name, value=value)
        sweep.add(sweep.jobs()[number])
        child = client.create_run(experiment, tags={tracking.PARENT: parent}).info.run_id
        (sweep.folder / str(number) / "mlflow_run_id.txt").write_text(child + "\n")
    run(sweep, 3, "d", end="failed")
    table = sweep.update()
    assert table["status"].tolist() == ["finished"] * 3 + ["failed"]
    assert table["learning_rate"].tolist() == ["a", "b", "c", "d"]
    assert table["error"].tolist() == ["", "", "", "no"]
    assert pd.read_csv("s/sweep.csv")["status"].tolist() == table["status"].tolist()
    assert sweep.best().number == 1  # type: ignore[union-attr]
    found = client.get_run(parent)
    assert found.data.metrics["best_job_val_loss"] == 0.25
    assert found.data.metrics["jobs_failed"] == 1
    assert found.data.tags["best_run_id"] == table["run_id"][1]
    assert "Failed: `d`" in found.data.tags["mlflow.note.content"]
    # Updated after every job: the best so far, by the number of jobs.
    assert [point.value for point in client.get_metric_history(parent, "best_job_val_loss")] == [0.5, 0.25, 0.25, 0.25]
    assert {item.path for item in client.list_artifacts(parent)} == {"sweep.csv", "comparison.png"}
    said = sweep.describe(table)
    assert "1 job failed" in said
    assert "s/3 (d): no" in said
    said = sweep.describe(table, shown=Process(moved=True).shown)  # resumed from another folder
    assert f"{Path.cwd()}/s/3 (d): no" in said
    assert f"sweep.resume={Path.cwd()}/s" in said
    # A child whose process died before it could note the run is deleted, a noted one ends.
    stray = client.create_run(experiment, tags={tracking.PARENT: parent}).info.run_id
    run(sweep, 4, "e", end="dies")
    noted = client.create_run(experiment, tags={tracking.PARENT: parent}).info.run_id
    (sweep.folder / "4" / "mlflow_run_id.txt").write_text(noted)
    sweep.end_dead_jobs("failed")
    assert client.get_run(stray).info.lifecycle_stage == "deleted"
    assert client.get_run(noted).info.status == "FAILED"


def test_a_job_is_added_at_the_same_cost_after_any_number_of_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = started(tmp_path / "s", "first", run_id="parent")
    read = []
    whole = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, **options: read.append(path.name) or whole(path, **options))
    monkeypatch.setattr(pd, "read_csv", lambda path, **_: read.append(path.name) or pd.DataFrame())
    monkeypatch.setattr(figures, "sweep", lambda names, *_: read.append(f"{len(names)} drawn"))
    monkeypatch.setattr(figures, "save", lambda *_: None)
    monkeypatch.setattr(tracking, "update_run", lambda *_, **settings: read.append(settings["step"]))
    costs = []
    sweep.begin_summary()
    for number in range(60):
        job = state.Job(
            number, str(number), {"learning_rate": str(number)}, "first", "finished", value=1 / (number + 1)
        )
        results = {"val_loss": job.value, "val_accuracy": 0.9, "test_accuracy": 0.8, "seconds_total": 1.5}
        sweep.directory(job).mkdir()
        (sweep.directory(job) / "metrics.json").write_text(json.dumps(results))
        sweep.record(job, "finished", value=job.value)
        read.clear()
        sweep.add(job)
        assert read[-1] == number + 1
        costs.append(len(read))
    assert max(costs) == costs[29] == costs[59]
    assert "30 drawn" in read
    assert len(whole(sweep.folder / "sweep.csv").splitlines()) == 1 + 60
    assert state.Summary.read(sweep.folder / state.SUMMARY).counts == {"finished": 60}


def test_the_sweep_is_not_locked_while_mlflow_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = started(tmp_path / "s", "first", run_id="parent")
    locked = []

    def update_run(*_: object, **__: object) -> None:
        with sweep.lock("sweep", timeout=0):
            locked.append(False)

    monkeypatch.setattr(tracking, "update_run", update_run)
    sweep.begin_summary()
    run(sweep, 0, "a", end="failed")
    sweep.add(sweep.jobs()[0])
    sweep.update()
    assert locked == [False, False]


def test_a_resumed_sweep_lists_each_job_once(tmp_path: Path) -> None:
    for session, ends in (("first", ["finished", "failed"]), ("second", ["finished", "finished"])):
        sweep = started(tmp_path / "s", session)
        sweep.begin_summary()
        for number, end in enumerate(ends):
            if not run(sweep, number, "ab"[number], end=end)[1]:
                sweep.add(sweep.jobs()[number])
        table = pd.read_csv(sweep.folder / "sweep.csv")
        assert table["job"].tolist() == [0, 1]
        assert table["status"].tolist() == ends


def test_a_sweep_is_accepted_if_one_combination_of_its_values_is_valid() -> None:
    overrides = ["optimizer=lbfgs", "model.dropout=0.2,0", "finetune=top,none"]  # L-BFGS: no dropout, no fine-tuning
    with composing():
        composed = GlobalHydra.instance().config_loader().load_configuration("config", overrides, RunMode.MULTIRUN)
        parsed = list(command._parse(overrides).values())
        config = command._check_jobs(composed, parsed)
        assert (config.model.dropout, config.finetune.layers) == (0.0, "none")
        parsed = list(command._parse([*overrides[:2], "finetune=top"]).values())
        with pytest.raises(ConfigError, match="lbfgs"):
            command._check_jobs(composed, parsed)


def test_a_folder_without_a_sweep_is_refused(tmp_path: Path) -> None:
    (tmp_path / state.STATE).write_text('{"name": "x", "unknown": 1}')
    with pytest.raises(state.SweepError, match="holds no sweep.*Expected the directory of a sweep"):
        Sweep.read(tmp_path)


def test_a_best_run_whose_settings_cannot_be_read_is_told_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = started(tmp_path / "s", "first")
    run(sweep, 0, "a")
    (sweep.folder / "0" / "config.yaml").write_text("seed: [")
    assert job._complete_best(sweep, Application()) == 1
    assert "s/0 could not be completed" in capsys.readouterr().err


# --- searches ---------------------------------------------------------------------------------------------------------

STORAGE = "sqlite:///optuna.db"
SPACE = {"rate": FloatDistribution(0.1, 1.0), "optimizer": CategoricalDistribution(["adam", "sgd"])}


def test_a_study_lies_in_a_folder_of_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "100%25?"
    folder.mkdir()
    with composing():
        composed = (
            GlobalHydra.instance().config_loader().load_configuration("config", ["search=head"], RunMode.MULTIRUN)
        )
    command._prepare_search(composed, Sweep(folder))
    optuna.create_study(study_name="s", storage=composed.hydra.sweeper.storage)
    assert (folder / "optuna.db").is_file()


@pytest.mark.parametrize(("jobs", "expected"), [(-1, os.cpu_count()), (3, 3)])
def test_a_search_runs_as_many_jobs_as_joblib_at_once(jobs: int, expected: int, tmp_path: Path) -> None:
    typed = ["search=head", "hydra/launcher=joblib", f"hydra.launcher.n_jobs={jobs}"]
    with composing():
        composed = GlobalHydra.instance().config_loader().load_configuration("config", typed, RunMode.MULTIRUN)
    command._prepare_search(composed, Sweep(tmp_path))
    assert composed.hydra.sweeper.n_jobs == expected


def test_a_resumed_study_queues_failed_trials_once_and_counts_the_complete_ones() -> None:
    assert command.resume_study(STORAGE, "s", 7) == (7, 0)  # a new study
    study = optuna.create_study(study_name="s", storage=STORAGE)
    trials = [study.ask(SPACE) for _ in range(4)]
    study.tell(trials[0], 0.5)
    study.tell(trials[1], state=TrialState.FAIL)
    study.tell(trials[2], 0.25)
    # The fourth is left running, as a killed process leaves it.
    for _ in range(2):  # once more without running any
        assert command.resume_study(STORAGE, "s", 10) == (8, 6)
    again = optuna.load_study(study_name="s", storage=STORAGE)
    assert not again.get_trials(states=(TrialState.RUNNING,))
    queued = [again.ask(SPACE) for _ in range(2)]
    assert [trial.params for trial in queued] == [trials[1].params, trials[3].params]
    for trial in queued:
        again.tell(trial, 1.0)
    # What failed once and then went well is not queued a second time.
    assert command.resume_study(STORAGE, "s", 4)[0] == 0
    assert not optuna.load_study(study_name="s", storage=STORAGE).get_trials(states=(TrialState.WAITING,))
