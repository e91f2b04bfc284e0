"""Hydra's side of a sweep: what is done once before its jobs, for each of them, and once they have ended."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import importlib.util
import itertools
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from hairline import config as configuration
from hairline import logs, search, sweeps, tracking
from hairline.config import Config, ConfigError
from hairline.sweeps import Job, Sweep

log = logging.getLogger("hairline")

_LAUNCHERS = {"joblib": "hydra_joblib_launcher", "slurm": "hydra_submitit_launcher", "ray": "hydra_ray_launcher"}
_CARRIED = ("HAIRLINE_CACHE", "KERAS_HOME")
_NAME = re.compile(r"[\w][\w .-]*")
# The sweep that this process directs, and the lock that keeps a second one out; jobs elsewhere have neither.
_directed: list[tuple[Sweep, filelock.BaseFileLock]] = []


# --- the command line, before Hydra reads it --------------------------------------------------------------------------


def expanded(arguments: list[str]) -> list[str]:
    """Complete a command line: `sweep.resume` brings the sweep's own settings, a search and a sweep need no `-m`.

    Args:
        arguments: The command line, without the script.

    Raises:
        SweepError: If there is no such sweep, or a launcher's package is missing.
    """
    given = dict(argument.partition("=")[::2] for argument in arguments if not argument.startswith("-"))
    launcher = given.get("hydra/launcher", "")
    if launcher in _LAUNCHERS and importlib.util.find_spec(f"hydra_plugins.{_LAUNCHERS[launcher]}") is None:
        raise sweeps.SweepError(f'hydra/launcher={launcher} needs a package: pip install -e ".[{launcher}]"')
    many = {"-m", "--multirun"}
    if given.get("sweep.resume", "null") != "null":
        folder = given["sweep.resume"].strip("'\"")
        sweep = Sweep.read(Path(folder))
        saved = [entry for entry in sweep.command if entry.lstrip("+~").partition("=")[0] not in given]
        rest = [argument for argument in arguments if not argument.startswith("sweep.resume=")]
        arguments = [*saved, *rest, f"hydra.sweep.dir={_quoted(sweep.folder)}", f"sweep.resume={_quoted(sweep.folder)}"]
    elif given.get("search", "null") == "null":
        return arguments
    return arguments if many & set(arguments) or _asks(arguments) else ["-m", *arguments]


def _asks(arguments: list[str]) -> bool:
    """Tell whether Hydra is only asked a question: --help, --cfg, --info, shell completion."""
    return any(argument.startswith("-") for argument in arguments)


def _quoted(value: object) -> str:
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


# --- once, before the jobs --------------------------------------------------------------------------------------------


class Preparation(Callback):
    """Makes the sweep's folder, store, experiment and parent run before any job starts.

    Hydra turns a callback's exceptions into warnings, so a fault ends the program here; a job whose sweep was not
    prepared refuses to run.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Prepare the sweep."""
        try:
            _prepare(config)
        except Exception as error:
            sys.exit(f"ERROR: {error}" if logs.is_users(error) or isinstance(error, ConfigError) else _raised(error))


def _raised(error: Exception) -> str:
    import traceback

    return "".join(traceback.format_exception(error))


def _prepare(composed: DictConfig) -> None:
    swept = _swept(composed)
    config = _first_sound(composed)
    if config.resume:
        raise ConfigError("resume= goes on with one run: leave out -m, or go on with a sweep by sweep.resume=<folder>")
    folder = _folder(composed, config)
    try:
        sweep, earlier = Sweep.read(folder), True
    except sweeps.SweepError:
        sweep, earlier = Sweep(folder, name=""), False
    lock = sweep.lock("controller", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise sweeps.SweepError(f"{folder}: this sweep is running; wait for its end or stop it") from None
    own = ("hydra.sweep.dir=", "hydra.mode=")
    command = [entry for entry in composed.hydra.overrides.hydra if not entry.startswith(own)]
    command += [entry for entry in composed.hydra.overrides.task if not entry.startswith("sweep.resume=")]
    sweep = dataclasses.replace(
        sweep,
        name=config.sweep.name or sweep.name or config.name or _title(swept, folder),
        session=sweeps.new_session(),
        command=command,
        swept=swept,
        stop_on_error=config.sweep.on_error == "stop",
        working_directory=os.getcwd(),
        environment={key: os.path.abspath(os.environ[key]) for key in _CARRIED if os.environ.get(key)},
    )
    _set(composed, "hydra.sweep.dir", str(folder))
    if config.tracking.enabled:
        sweep.store = config.tracking.uri
        sweep.experiment_id = tracking.connect(sweep.store, config.tracking.experiment)
        sweep.run_id = tracking.open_parent(
            sweep.store,
            sweep.experiment_id,
            name=sweep.name,
            run_id=sweep.run_id,
            tags={**config.tags, "sweep": sweep.name},
            values=swept,
        )
    sweep.write()
    _directed.append((sweep, lock))
    if earlier:
        sweep.bury("interrupted")
    if OmegaConf.select(composed, "hydra.sweeper.n_trials") is not None:
        _prepare_search(composed, sweep)
    log.info("Sweep           %s   (to go on after an interruption: sweep.resume=%s)", sweep.name, folder)


def _folder(composed: DictConfig, config: Config) -> Path:
    chosen = any(entry.startswith("hydra.sweep.dir=") for entry in composed.hydra.overrides.hydra)
    if config.sweep.name is None or chosen:
        return Path(composed.hydra.sweep.dir).expanduser().absolute()
    if not _NAME.fullmatch(config.sweep.name):
        raise ConfigError(
            f"sweep.name={config.sweep.name!r} names a folder: expected letters, digits, spaces, dots and dashes"
        )
    return Path("outputs", "sweeps", config.sweep.name).absolute()


def _prepare_search(composed: DictConfig, sweep: Sweep) -> None:
    """Keep the study on disk, and count the trials of earlier starts."""
    settings = composed.hydra.sweeper
    if settings.storage is None:
        _set(composed, "hydra.sweeper.storage", f"sqlite:///{(sweep.folder / 'optuna.db').as_posix()}")
    if settings.study_name is None:
        _set(composed, "hydra.sweeper.study_name", "sweep")
    if sweep.stop_on_error:
        _set(composed, "hydra.sweeper.max_failure_rate", 0.0)
    left, known = search.continued(settings.storage, settings.study_name, settings.n_trials)
    _set(composed, "hydra.sweeper.n_trials", left)
    seed = OmegaConf.select(settings, "sampler.seed")
    if known and seed is not None:  # the same seed would draw the first trials again
        _set(composed, "hydra.sweeper.sampler.seed", seed + known)


def _set(composed: DictConfig, key: str, value: Any) -> None:
    """Set a key of Hydra's own for this process and for the jobs, which compose their configuration anew."""
    with read_write(composed.hydra), open_dict(composed.hydra):
        OmegaConf.update(composed, key, value)
        composed.hydra.overrides.hydra.append(f"{key}={_quoted(value) if isinstance(value, str) else value}")


def _parsed(composed: DictConfig) -> list[Override]:
    params = OmegaConf.select(composed, "hydra.sweeper.params") or {}
    texts = [f"{key}={value}" for key, value in params.items()] + list(composed.hydra.overrides.task)
    parsed = OverridesParser.create().parse_overrides(texts)
    return list({override.get_key_element(): override for override in parsed}.values())  # the later one wins


def _swept(composed: DictConfig) -> dict[str, str]:
    found = {
        override.get_key_element().lstrip("+"): (override.input_line or "").partition("=")[2]
        for override in _parsed(composed)
        if override.is_sweep_override()
    }
    for key in found:
        if key.startswith(("sweep", "hydra", "search", "tracking")):
            raise ConfigError(f"{key} belongs to the sweep as a whole: give one value")
    return found


def _first_sound(composed: DictConfig) -> Config:
    """Give the configuration of the first job that has a valid one.

    A fault of single jobs fails these alone; one that all share is told before anything is made.

    Raises:
        ConfigError: If no job has a valid configuration; it names the first one's faults.
    """
    first: ConfigError | None = None
    for overrides in _combinations(_parsed(composed)):
        job = GlobalHydra.instance().config_loader().load_sweep_config(composed, overrides)
        with open_dict(job):
            del job["hydra"]
        try:
            config: Config = configuration.load(job)
            return config
        except ConfigError as error:
            first = first or error
    raise first if first is not None else ConfigError("the sweep has no job: a list of values is empty")


def _combinations(parsed: list[Override]) -> Iterator[list[str]]:
    """Give every job's overrides; an interval, which has no list of values, is represented by its start."""
    choices = []
    for override in parsed:
        key, value = override.get_key_element(), override.value()
        if isinstance(value, IntervalSweep):
            choices.append([f"{key}={value.start}"])
        elif override.is_sweep_override():
            choices.append([f"{key}={text}" for text in override.sweep_string_iterator()])
        else:
            choices.append([override.input_line or ""])
    for combination in itertools.product(*choices):
        yield list(combination)


def _title(swept: dict[str, str], folder: Path) -> str:
    return f"sweep {' x '.join(swept) or folder.name}"[:250]


# --- each job, in whatever process ------------------------------------------------------------------------------------


def perform(function: Callable[[Any, Path, list[str]], Any], composed: DictConfig) -> Any:
    """Run one job of a sweep, or give the result it had before.

    Args:
        function: Given the checked configuration, the run directory and what tells the job from the others.
        composed: What Hydra composed.

    Returns:
        The objective; None if the job failed or was kept back.

    Raises:
        Exception: The job's own, in a process of a launcher with sweep.on_error=stop.
    """
    hydra = HydraConfig.get()
    sweep = Sweep.read(Path(hydra.sweep.dir))
    fresh = Path(hydra.runtime.output_dir)
    if not _directed:
        _enter(sweep)
    settings = _settings(sweep, list(hydra.overrides.task))
    if sweep.stopped:
        log.info("not begun, as another job failed: %s", " ".join(settings.values()))
        logs.remove_if_empty(fresh)
        return None
    fault, config = None, None
    try:
        config = configuration.load(composed)
        identity = configuration.identity(config)
    except ConfigError as error:
        fault = error
        identity = hashlib.sha256(repr(sorted(hydra.overrides.task)).encode()).hexdigest()[:16]
    with sweep.claim(int(hydra.job.num), identity, settings) as (job, finished):
        if sweep.directory(job) != fresh:
            logs.move(fresh, sweep.directory(job))
        if finished:
            log.info("finished before: %s", job.name)
            return job.value
        return _run(sweep, job, function, config, fault, composed)


def _run(
    sweep: Sweep,
    job: Job,
    function: Callable[[Any, Path, list[str]], Any],
    config: Config | None,
    fault: ConfigError | None,
    composed: DictConfig,
) -> Any:
    directory = sweep.directory(job)
    begun = tracking.begun(directory)
    try:
        if config is None:
            raise fault or ConfigError("no configuration")
        value = float(function(_adapted(config, sweep), directory, _told(job)))
        sweep.record(job, "finished", value=value)
        return value
    except KeyboardInterrupt:
        log.error("interrupted")
        sweep.record(job, "interrupted", error="interrupted")
        sys.exit(130)
    except Exception as error:
        logs.tell(error)
        sweep.record(job, "failed", error=str(error) or type(error).__name__)
        if sweep.run_id is not None:
            if tracking.begun(directory) == begun:
                _record_failure(sweep, job, error, composed)
            logged = list(directory.glob("*.log"))
            tracking.update(sweep.store, tracking.run_id(directory), metrics={}, step=0, tags={}, files=logged)
        if sweep.stop_on_error and _directed:
            sys.exit(1)  # ends the launcher's loop
        if sweep.stop_on_error:
            raise
        return None
    finally:
        sweep.update()
        gc.collect()  # Keras's models hold themselves in circles


def _record_failure(sweep: Sweep, job: Job, error: Exception, composed: DictConfig) -> None:
    """Leave an MLflow run for a job that failed before it began one, such as for a fault of its configuration."""
    tracking.record_failure(
        error,
        enabled=True,
        uri=sweep.store,
        experiment=composed.tracking.experiment,
        system_metrics=False,
        name=job.name,
        tags=_tags(sweep),
        directory=sweep.directory(job),
    )


def _adapted(config: Config, sweep: Sweep) -> Config:
    """Give a job's configuration as it runs: a child of the sweep, light unless asked otherwise, with its threads."""
    hydra = HydraConfig.get()
    report, runtime = config.report, config.runtime
    asked = any(entry.lstrip("+").startswith("report") for entry in hydra.overrides.task)
    if report.level == "full" and not asked:
        report = dataclasses.replace(report, level="light")
    if runtime.threads is None:
        runtime = dataclasses.replace(runtime, threads=_threads(hydra.launcher))
    name = config.name if "name" in sweep.swept else None  # else all would carry the same
    tags = {**config.tags, **(_tags(sweep) if sweep.run_id is not None else {})}
    return dataclasses.replace(config, report=report, runtime=runtime, name=name, tags=tags)


def _tags(sweep: Sweep) -> dict[str, str]:
    return {tracking.PARENT: str(sweep.run_id), "sweep": sweep.name}


def _threads(launcher: DictConfig) -> int | None:
    """Give a job's share of the cores, where several run at once."""
    cores = OmegaConf.select(launcher, "ray.remote.num_cpus") or OmegaConf.select(launcher, "cpus_per_task")
    if cores:
        return max(1, int(cores))
    jobs = OmegaConf.select(launcher, "n_jobs")
    available = os.cpu_count() or 1
    if not jobs:
        return None
    return max(1, available // (jobs if jobs > 0 else available))


def _settings(sweep: Sweep, overrides: list[str]) -> dict[str, str]:
    """Give the swept settings of one job."""
    pairs = (override.lstrip("+").partition("=")[::2] for override in overrides)
    return {key: value for key, value in pairs if key in sweep.swept}


def _told(job: Job) -> list[str]:
    """Give what the run is named after; sampled numbers are shortened."""
    shown = []
    for key, value in job.settings.items():
        with contextlib.suppress(ValueError):
            value = f"{float(value):.4g}" if len(value) > 8 else value
        shown.append(f"{key}={value}")
    return shown


def _enter(sweep: Sweep) -> None:
    """Make a process that a launcher started like the one that the user started."""
    for key, value in sweep.environment.items():
        os.environ.setdefault(key, value)
    try:
        os.chdir(sweep.working_directory)
    except OSError as error:
        raise sweeps.SweepError(
            f"{sweep.working_directory}, where the sweep was started, cannot be entered on this machine "
            f"({error.strerror}): it must lie on a disk that all machines share"
        ) from error


# --- once, after the jobs ---------------------------------------------------------------------------------------------


def finish(code: int) -> int:
    """Sum up the sweep that this process directed, if any: complete the best run, end the parent, list the failures.

    Args:
        code: Exit status so far; 130 for an interrupt.

    Returns:
        The exit status.
    """
    while _directed:
        sweep, lock = _directed.pop()
        logs.plain()
        sweep.bury("interrupted" if code == 130 else "failed")
        try:
            code = code or _complete(sweep)
        except KeyboardInterrupt:
            code = 130
        table = sweep.update()
        status = "interrupted" if code == 130 else "finished" if code == 0 or not sweep.stop_on_error else "failed"
        tracking.terminate(sweep.store, sweep.run_id, status)
        code = code or int((table["status"] != "finished").any())
        print(sweeps.describe(sweep, table), file=sys.stderr if code else sys.stdout)
        lock.release()
    return code


def _complete(sweep: Sweep) -> int:
    """Join, check, draw and log the best run: the others are left light, as each would take most of a minute."""
    best = sweep.best()
    if best is None:
        return 0
    directory = sweep.directory(best)
    config = configuration.read(directory / "config.yaml")
    if config.report.level != "light" or (directory / "model").exists():
        return 0
    from hairline import experiment

    full = dataclasses.replace(config, report=dataclasses.replace(config.report, level="full"))
    full = dataclasses.replace(full, runtime=dataclasses.replace(full.runtime, threads=None))
    log.info("The best run is completed: %s", best.name)
    try:
        with logs.kept(directory / "train.log"), tracking.same_end(sweep.store, tracking.run_id(directory)):
            experiment.train(full, directory, _told(best))
    except Exception as error:
        logs.tell(error)
        print(f"the best run {directory} could not be completed: {error}", file=sys.stderr)
        return 1
    return 0
