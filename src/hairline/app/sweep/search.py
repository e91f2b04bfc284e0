"""Searches by Optuna: what Hydra's sweeper does not do when a search is started a second time."""

from __future__ import annotations

from typing import Any


def continued(storage: str, study_name: str, n_trials: int) -> tuple[int, int]:
    """Prepare a study to go on: what was interrupted or failed is queued to be tried again.

    Hydra's sweeper counts `n_trials` anew at each start, and leaves trials of a killed process as running for ever.

    Args:
        storage: Address of Optuna's storage.
        study_name: Name of the study in it; it need not exist.
        n_trials: Trials in all, those of earlier starts included.

    Returns:
        Trials still to be run, the queued ones included, and trials that the study knows already.
    """
    import optuna
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if study_name not in optuna.get_all_study_names(storage):
        return n_trials, 0
    study = optuna.load_study(study_name=study_name, storage=storage)
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    complete = [trial.params for trial in study.get_trials(states=(TrialState.COMPLETE,))]
    waiting: list[dict[str, Any]] = [
        trial.system_attrs["fixed_params"]
        for trial in study.get_trials(states=(TrialState.WAITING,))
        if "fixed_params" in trial.system_attrs
    ]
    for trial in study.get_trials(states=(TrialState.FAIL,)):
        if trial.params and trial.params not in complete and trial.params not in waiting:
            study.enqueue_trial(trial.params)
            waiting.append(trial.params)
    return max(0, n_trials - len(complete)), len(study.get_trials())
