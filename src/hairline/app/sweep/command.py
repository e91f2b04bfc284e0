"""Prepare a sweep from its command: once, before its jobs start."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import filelock
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from hairline import config as configuration
from hairline import tracking
from hairline.app import log as logs
from hairline.app import settings
from hairline.app.process import Application, current
from hairline.app.sweep import state
from hairline.app.sweep.state import Sweep, SweepError
from hairline.config import Config, ConfigError, commands
from hairline.system import redaction

log = logging.getLogger("hairline")

_ENVIRONMENT = ("HAIRLINE_CACHE", "KERAS_HOME")  # folders that jobs on other machines must use as well
_NAME = re.compile(r"\w[\w .-]*")


class Preparation(Callback):
    """Hydra's callback before a sweep.

    Hydra turns the exceptions of a callback into warnings, so an error ends the process here.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Prepare the sweep."""
        logs.redact()
        try:
            prepare(config, current())
        except Exception as error:
            sys.exit(logs.refuse(error))


def prepare(composed: DictConfig, application: Application) -> None:
    """Check the command, lock the sweep's folder, create its parent run in MLflow, and save its state.

    Args:
        composed: The sweep's configuration; its folder, and the study of a search, are set in `composed.hydra`.
        application: Its `sweep` and `lock` are set.

    Raises:
        ConfigError: If no job has a valid configuration, or a setting cannot be swept.
        SweepError: If the sweep is running, or its folder holds another one.
    """
    parameters = OmegaConf.select(composed, "hydra.sweeper.params") or {}
    overrides = _parse([*(f"{key}={value}" for key, value in parameters.items()), *composed.hydra.overrides.task])
    search = OmegaConf.select(composed, "hydra.sweeper.n_trials") is not None
    swept = {}
    for key, override in overrides.items():
        if override.is_interval_sweep() and not search:
            raise ConfigError(
                f"{override.input_line}: an interval has no list of values. Name them, {key}=<one>,<other>, or let a "
                "search draw from it: search=head"
            )
        if override.is_sweep_override():
            swept[key] = (override.input_line or "").partition("=")[2]
            if key.startswith(("sweep", "hydra", "search", "tracking")):
                raise ConfigError(f"{key} belongs to the sweep as a whole: give one value")
    config = _check_jobs(composed, list(overrides.values()))
    if config.resume:
        raise ConfigError("resume= continues one run: leave out -m, or resume a sweep with sweep.resume=<folder>")
    folder = _folder(composed, config)
    try:
        sweep, earlier = Sweep.read(folder), True
    except SweepError:
        sweep, earlier = Sweep(folder), False
    lock = sweep.lock("controller", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise SweepError(f"{folder}: this sweep is running; wait for its end or stop it") from None
    command = [
        entry
        for entry in [*composed.hydra.overrides.hydra, *composed.hydra.overrides.task]
        if not entry.startswith(("hydra.sweep.dir=", "hydra.mode=", "sweep.resume="))
    ]
    if earlier and config.sweep.resume is None:
        _refuse_another(sweep, command)
    sweep = dataclasses.replace(
        sweep,
        name=config.sweep.name or sweep.name or config.name or f"sweep {' x '.join(swept) or folder.name}"[:250],
        session=state.new_session(),
        command=command,
        swept=swept,
        count=0 if search else math.prod(len(_arguments(override)) for override in overrides.values()),
        stop_on_error=config.sweep.on_error == "stop",
        working_directory=os.getcwd(),
        place=str(folder),
        environment={key: os.path.abspath(os.environ[key]) for key in _ENVIRONMENT if os.environ.get(key)},
    )
    _set(composed, "hydra.sweep.dir", str(folder))
    if config.tracking.enabled:
        sweep.store = tracking.tracking_uri(config.tracking.uri)
        sweep.experiment_id = tracking.connect(sweep.store, config.tracking.experiment)
        sweep.run_id = tracking.open_parent(
            sweep.store,
            sweep.experiment_id,
            name=sweep.name,
            run_id=sweep.run_id,
            tags={**config.tags, "sweep": sweep.name},
            parameters=swept,
        )
    sweep.write()
    application.sweep, application.lock = sweep, lock
    if earlier:
        sweep.end_dead_jobs("interrupted")
    sweep.begin_summary()
    if search:
        _prepare_search(composed, sweep)
    resume = commands.command("train", commands.override("sweep.resume", str(folder)))
    log.info("Sweep           %s   (resume it after an interruption: %s)", sweep.name, resume)


# --- the command ------------------------------------------------------------------------------------------------------


def _parse(texts: Sequence[str]) -> dict[str, Override]:
    """Parse overrides by key; the last one of a key wins."""
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())  # glob(...) needs the loader
    return {override.get_key_element().lstrip("+"): override for override in parser.parse_overrides(list(texts))}


def _arguments(override: Override) -> list[str]:
    """Return one argument for each value of an override; an interval counts as one value."""
    if override.is_sweep_override() and not override.is_interval_sweep():
        return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    return [override.input_line or ""]


def _check_jobs(composed: DictConfig, overrides: Sequence[Override]) -> Config:
    """Compose the first job, then one job per other value; return the first valid configuration.

    An invalid configuration fails its own job alone, so an error is raised only if all combinations are invalid. Values
    of a wrong type raise at once: Hydra refuses the whole sweep for them, but only after it has begun.

    Raises:
        ConfigError: Naming the faults of the first job.
    """
    choices = []
    for override in overrides:
        value = override.value()
        if isinstance(value, IntervalSweep):
            choices.append([f"{override.get_key_element()}={value.start}"])
        else:
            choices.append(_arguments(override))
    if not all(choices):
        raise ConfigError("the sweep has no job: a list of values is empty")
    first = [values[0] for values in choices]
    others = [
        [*first[:place], value, *first[place + 1 :]] for place, values in enumerate(choices) for value in values[1:]
    ]
    results = [_load(composed, arguments) for arguments in (first, *others)]
    combinations = (_load(composed, arguments) for arguments in itertools.product(*choices))
    for result in itertools.chain(results, combinations):
        if isinstance(result, Config):
            return result
    raise next(result for result in results if isinstance(result, ConfigError))


def _load(composed: DictConfig, arguments: Sequence[str]) -> Config | ConfigError:
    """Return the configuration of the job with these arguments, or its faults."""
    job = GlobalHydra.instance().config_loader().load_sweep_config(composed, list(arguments))
    with open_dict(job):
        del job["hydra"]
    try:
        config: Config = settings.load(job, arguments)
    except ConfigError as error:
        return error
    return config


def _folder(composed: DictConfig, config: Config) -> Path:
    """Return the sweep's folder: hydra.sweep.dir if given, else by its name."""
    given = any(entry.startswith("hydra.sweep.dir=") for entry in composed.hydra.overrides.hydra)
    if config.sweep.name is None or given:
        return Path(composed.hydra.sweep.dir).expanduser().absolute()
    if not _NAME.fullmatch(config.sweep.name):
        raise ConfigError(
            f"sweep.name={config.sweep.name!r} becomes a folder name: use letters, digits, spaces, dots and dashes"
        )
    return Path("outputs", "sweeps", config.sweep.name).absolute()


def _refuse_another(sweep: Sweep, command: Sequence[str]) -> None:
    """Refuse a command that does not extend the sweep in its folder: its jobs could not be resumed.

    Raises:
        SweepError: If a setting or a value of the earlier command is missing, or a setting is new.
    """
    before, now = (
        {
            key: _arguments(override)
            for key, override in _parse(entries).items()
            if configuration.is_identity(key) and not key.startswith(("hydra.", "hydra/"))
        }
        for entries in (sweep.command, redaction.settings(list(command)))
    )
    missing = [entry for key, entries in before.items() for entry in entries if entry not in now.get(key, [])]
    new = [entry for key, entries in now.items() for entry in entries if key not in before]
    if missing or new:
        fault = f"lacks its {', '.join(missing)}" if missing else f"adds {', '.join(new)}, which it did not set"
        raise SweepError(
            f"{sweep.folder} holds another sweep, of {' '.join(sweep.command)!r}, and this command {fault}. Repeat its "
            "settings and add values to extend it, choose another sweep.name, or delete that folder"
        )


def _set(composed: DictConfig, key: str, value: Any) -> None:
    """Set one of Hydra's own keys for this process and for the jobs, which compose their configuration anew."""
    with read_write(composed.hydra), open_dict(composed.hydra):
        OmegaConf.update(composed, key, value)
        composed.hydra.overrides.hydra.append(f"{key}={commands.quoted(value) if isinstance(value, str) else value}")


# --- searches with Optuna ---------------------------------------------------------------------------------------------


def _prepare_search(composed: DictConfig, sweep: Sweep) -> None:
    """Store the study in the sweep's folder, and resume an earlier one."""
    sweeper = composed.hydra.sweeper
    if sweeper.storage is None:
        _set(composed, "hydra.sweeper.storage", tracking.sqlite_address(sweep.folder / "optuna.db"))
    if sweeper.study_name is None:
        _set(composed, "hydra.sweeper.study_name", "sweep")
    if sweep.stop_on_error:
        _set(composed, "hydra.sweeper.max_failure_rate", 0.0)
    if sweeper.n_jobs < 1:  # joblib's word for all cores; to Optuna's sweeper it is a number of jobs
        _set(composed, "hydra.sweeper.n_jobs", os.cpu_count() or 1)
    trials, known = resume_study(sweeper.storage, sweeper.study_name, sweeper.n_trials)
    _set(composed, "hydra.sweeper.n_trials", trials)
    seed = OmegaConf.select(sweeper, "sampler.seed")
    if known and seed is not None:  # the same seed would draw the first trials again
        _set(composed, "hydra.sweeper.sampler.seed", seed + known)


def resume_study(storage: str, study_name: str, n_trials: int) -> tuple[int, int]:
    """Queue the interrupted and failed trials of a study again, and count the complete ones.

    Hydra's sweeper counts `n_trials` anew at each start, and leaves the trials of a killed process running for ever.

    Args:
        storage: Address of Optuna's storage.
        study_name: Name of the study; it need not exist.
        n_trials: Trials in all, including those of earlier starts.

    Returns:
        Number of trials still to run, including the queued ones, and of trials that the study knows.
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
    queued = [trial.system_attrs.get("fixed_params") for trial in study.get_trials(states=(TrialState.WAITING,))]
    for trial in study.get_trials(states=(TrialState.FAIL,)):
        if trial.params and trial.params not in [*complete, *queued]:
            study.enqueue_trial(trial.params)
            queued.append(trial.params)
    return max(0, n_trials - len(complete)), len(study.get_trials())
