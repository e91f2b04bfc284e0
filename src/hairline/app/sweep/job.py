"""Hydra's side of a sweep: what is done for each job, in whatever process, and once all have ended."""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from hairline import config as configuration
from hairline import tracking
from hairline.app import log as logs
from hairline.app import settings as checked
from hairline.app.process import Call, current
from hairline.app.sweep import state as sweeps
from hairline.app.sweep.state import Job, Sweep
from hairline.config import Config, ConfigError
from hairline.system import redaction, signals
from hairline.training.checkpoint import Checkpoint

log = logging.getLogger("hairline")

# The sweep that this process directs, and the lock that keeps a second one out; jobs elsewhere have neither.
directed: list[tuple[Sweep, filelock.BaseFileLock]] = []


# --- each job, in whatever process ------------------------------------------------------------------------------------


def perform(function: Callable[[Any, Call], Any], composed: DictConfig) -> Any:
    """Run one job of a sweep, or give the result it had before.

    Args:
        function: Given the checked configuration, and the rest of its call.
        composed: What Hydra composed.

    Returns:
        The objective; None if the job failed or was kept back.

    Raises:
        Exception: The job's own, in a process of a launcher with sweep.on_error=stop.
    """
    hydra = HydraConfig.get()
    sweep = Sweep.read(Path(hydra.sweep.dir))
    fresh = Path(hydra.runtime.output_dir)
    redaction.clean(sweep.folder / "multirun.yaml")  # Hydra's own record of the command
    if sweep.store is not None:
        sweep.store = composed.tracking.uri  # the state on disk has it without its password
    if not directed:
        _enter(sweep)
    current().enter(sweep.session)
    settings = _settings(sweep, list(hydra.overrides.task))
    if sweep.stopped:
        log.info("not begun, as another job failed: %s", " ".join(settings.values()))
        logs.remove_if_empty(fresh)
        return None
    fault, config = None, None
    try:
        config = checked.load(composed)
        identity = configuration.identity(config)
    except ConfigError as error:
        fault = error
        identity = sweeps.NO_IDENTITY
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
    function: Callable[[Any, Call], Any],
    config: Config | None,
    fault: ConfigError | None,
    composed: DictConfig,
) -> Any:
    directory = sweep.directory(job)
    begun = tracking.start_count(directory)
    try:
        if config is None:
            raise fault or ConfigError("no configuration")
        adapted = dataclasses.replace(_adapted(config, sweep), resume=str(directory))  # where an earlier start left it
        value = float(function(adapted, Call(directory, _told(job))))
        sweep.record(job, "finished", value=value)
        return value
    except KeyboardInterrupt as ending:
        log.error("stopped by %s", ending)
        sweep.record(job, "interrupted", error="interrupted")
        sys.exit(signals.exit_code(ending))
    except Exception as error:
        logs.tell(error)
        sweep.record(job, "failed", error=str(error) or type(error).__name__)
        if sweep.run_id is not None:
            if tracking.start_count(directory) == begun:
                _record_failure(sweep, job, error, composed)
            logged = list(directory.glob("*.log"))
            tracking.update_run(sweep.store, tracking.run_id(directory), metrics={}, step=0, tags={}, files=logged)
        if sweep.stop_on_error and directed:
            sys.exit(1)  # ends the launcher's loop
        if sweep.stop_on_error:
            raise
        return None
    finally:
        try:
            sweep.update()
        except Exception:  # the store is busy, say; the job's own results are safe, and the next job updates again
            log.exception("WARNING: the sweep's summary could not be updated")
        gc.collect()  # Keras's models hold themselves in circles
        if not gc.get_freeze_count():
            gc.freeze()  # the libraries stay: searching them for circles would take half a second after each job


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
    # The best is trained once more when it is completed, which only a head on kept features makes cheap.
    cheap = config.finetune.layers == "none" and config.augment.mode == "views" and config.features.keep
    if report.level == "full" and cheap and not asked:
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
    """Give what the run is named after."""
    return [f"{key}={sweeps.short(value)}" for key, value in job.settings.items()]


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
        code: Exit status so far; 130 or 143 for an interrupt.

    Returns:
        The exit status.
    """
    while directed:
        sweep, lock = directed.pop()
        logs.plain()
        stopped = code in signals.CODES
        sweep.bury("interrupted" if stopped else "failed", patience_seconds=5.0)
        try:
            code = code or _complete(sweep)
        except KeyboardInterrupt as ending:
            code, stopped = signals.exit_code(ending), True
        table = sweep.update()
        through = code == 0 or (len(table) > 0 and not sweep.stop_on_error)  # else something else than a job failed
        status = "interrupted" if stopped else "finished" if through else "failed"
        tracking.end_run(sweep.store, sweep.run_id, status)
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
    state = Checkpoint.read(directory)
    done = state is not None and state.finished and (directory / "model").exists()
    if config.report.level == "none" or done:
        return 0
    from hairline.training import train

    full = dataclasses.replace(config, report=dataclasses.replace(config.report, level="full"))
    full = dataclasses.replace(full, tracking=dataclasses.replace(full.tracking, uri=sweep.store))
    # Its weights are still there: it is not trained again.
    full = dataclasses.replace(full, resume=str(directory), runtime=dataclasses.replace(full.runtime, threads=None))
    log.info("The best run is completed: %s", best.name)
    try:
        with logs.kept(directory / "train.log"), tracking.keep_end_time(sweep.store, tracking.run_id(directory)):
            train.train(full, directory, _told(best), current())
    except Exception as error:
        logs.tell(error)
        print(f"the best run {directory} could not be completed: {error}", file=sys.stderr)
        return 1
    return 0
