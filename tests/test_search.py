"""Searches that are started a second time."""

from __future__ import annotations

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from hairline.app.sweep import search

STORAGE = "sqlite:///optuna.db"
SPACE = {"rate": FloatDistribution(0.1, 1.0), "optimizer": CategoricalDistribution(["adam", "sgd"])}


def test_a_new_study_runs_all_its_trials() -> None:
    assert search.continued(STORAGE, "s", 7) == (7, 0)


def test_what_was_interrupted_or_failed_is_tried_again_and_the_rest_counted() -> None:
    study = optuna.create_study(study_name="s", storage=STORAGE)
    trials = [study.ask(SPACE) for _ in range(4)]
    study.tell(trials[0], 0.5)
    study.tell(trials[1], state=TrialState.FAIL)
    study.tell(trials[2], 0.25)
    # The fourth is left running, as a killed process leaves it.
    left, known = search.continued(STORAGE, "s", 10)
    assert left == 8
    assert known == 6
    again = optuna.load_study(study_name="s", storage=STORAGE)
    assert not again.get_trials(states=(TrialState.RUNNING,))
    queued = [again.ask(SPACE) for _ in range(2)]
    assert [trial.params for trial in queued] == [trials[1].params, trials[3].params]
    for trial in queued:
        again.tell(trial, 1.0)
    # What failed once and then went well is not queued a second time.
    assert search.continued(STORAGE, "s", 4)[0] == 0
    assert not optuna.load_study(study_name="s", storage=STORAGE).get_trials(states=(TrialState.WAITING,))


def test_starting_twice_without_running_queues_once() -> None:
    study = optuna.create_study(study_name="s", storage=STORAGE)
    study.ask(SPACE)
    assert search.continued(STORAGE, "s", 3)[0] == 3
    assert search.continued(STORAGE, "s", 3)[0] == 3
    assert len(optuna.load_study(study_name="s", storage=STORAGE).get_trials(states=(TrialState.WAITING,))) == 1
