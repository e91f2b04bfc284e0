"""Run the jobs of a sweep, each in whatever process its launcher chose, and finish the sweep."""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from hairline import config as configuration
from hairline import tracking
from hairline.app import commandline, settings
from hairline.app import log as logs
from hairline.app.process import Application, Call, current
from hairline.app.sweep.state import NO_IDENTITY, Job, Sweep, SweepError
from hairline.config import Config, ConfigError
from hairline.system import progress, redaction, signals
from hairline.training.checkpoint import Checkpoint

log = logging.getLogger("hairline")


# --- one job ----------------------------------------------------------------------------------------------------------


def perform(function: Callable[[Any, Call], Any], composed: DictConfig) -> Any:
    """Run one job of a sweep, or return the value of an earlier start.

    Args:
        function: The script's function.
        composed: The job's configuration, as Hydra composed it.

    Returns:
        The objective; None if the job failed, or was not started after another one failed.

    Raises:
        Exception: The job's own, in a launcher's worker with sweep.on_error=stop.
    """
    application, hydra = current(), HydraConfig.get()
    sweep = Sweep.read(Path(hydra.sweep.dir))
    redaction.clean(sweep.folder / "multirun.yaml")  # Hydra's own record of the command
    overrides = list(hydra.overrides.task)
    if sweep.store is not None:  # sweep.json holds it without its password
        sweep.store = settings.tracking_uri(composed.tracking.uri, overrides)
    if application.sweep is None:
        _enter(sweep)
    application.process.enter(sweep.session)
    output = Path(hydra.runtime.output_dir)
    pairs = (override.lstrip("+").partition("=")[::2] for override in commandline.shown(overrides))
    swept = {key: value for key, value in pairs if key in sweep.swept}
    if sweep.stopped:
        log.info("not started, because another job failed: %s", " ".join(swept.values()))
        logs.remove_if_empty(output)
        return None
    config: Config | ConfigError
    try:
        config = loaded = settings.load(composed, overrides)
        identity = configuration.identity(loaded)
    except ConfigError as error:
        config, identity = error, NO_IDENTITY
    with sweep.claim(int(hydra.job.num), identity, swept) as job:
        logs.move(output, sweep.directory(job), copy=False)
        if job.status == "finished":
            log.info("finished before: %s", job.name)
            return job.value
        with logs.brief(application.warnings):
            return _run(application, sweep, job, function, config, composed)


def _enter(sweep: Sweep) -> None:
    """Set in a launcher's worker the environment and the working directory of the process that started the sweep."""
    for key, value in sweep.environment.items():
        os.environ.setdefault(key, value)
    try:
        os.chdir(sweep.working_directory)
    except OSError as error:
        raise SweepError(
            f"{sweep.working_directory}, where the sweep was started, cannot be opened on this machine "
            f"({error.strerror}): all machines must share the disk that holds it"
        ) from error


def _run(
    application: Application,
    sweep: Sweep,
    job: Job,
    function: Callable[[Any, Call], Any],
    config: Config | ConfigError,
    composed: DictConfig,
) -> Any:
    """Run a claimed job and record its end in its folder and in MLflow."""
    directory = sweep.directory(job)
    tags = {tracking.PARENT: str(sweep.run_id), "sweep": sweep.name} if sweep.run_id is not None else {}
    begun, started = tracking.start_count(directory), time.perf_counter()
    try:
        if isinstance(config, ConfigError):
            raise config
        config = dataclasses.replace(_adapted(config, sweep), resume=str(directory), tags={**config.tags, **tags})
        value = float(function(config, Call(directory, job.overrides, True, application.process)))
        sweep.record(job, "finished", value=value)
        log.info(_line(sweep, job, time.perf_counter() - started), extra={"sweep": True})
        return value
    except KeyboardInterrupt as ending:
        log.error("stopped by %s", ending)
        sweep.record(job, "interrupted", error="interrupted")
        sys.exit(signals.exit_code(ending))
    except Exception as error:
        logs.report(error)
        sweep.record(job, "failed", error=str(error) or type(error).__name__)
        if sweep.run_id is not None:
            if tracking.start_count(directory) == begun:  # no MLflow run was started, such as after a ConfigError
                tracking.record_failure(
                    error,
                    enabled=True,
                    uri=sweep.store,
                    experiment=composed.tracking.experiment,
                    system_metrics=False,
                    name=job.name,
                    tags=tags,
                    directory=directory,
                )
            logged = [directory / name for name in tracking.LOGS if (directory / name).is_file()]
            tracking.update_run(sweep.store, tracking.run_id(directory), metrics={}, step=0, tags={}, files=logged)
        if not sweep.stop_on_error:
            return None
        if application.sweep is None:
            raise
        sys.exit(1)  # ends the launcher's loop
    finally:
        try:
            sweep.add(job)
        except Exception:  # the job's own results are safe, and the sweep's end summarises them again
            log.exception("WARNING: the sweep's summary could not be updated")
        gc.collect()  # Keras's models are reference cycles
        if not gc.get_freeze_count():
            gc.freeze()  # exempts the libraries: collecting among them takes half a second after each job


def _line(sweep: Sweep, job: Job, seconds: float) -> str:
    """Return a finished job on one line, with the time that is left if the others take as long."""
    metrics, number = sweep.metrics(job), int(HydraConfig.get().job.num) + 1
    figures = "  ".join(f"{key} {metrics[key]:.4f}" for key in ("val_loss", "val_accuracy", "test_accuracy"))
    place = f"{number:>3} of {sweep.count}" if sweep.count else f"{number:>3}"
    line = f"{place}  {job.name:32}  {figures}  {seconds:.0f} s"
    left = seconds * max(0, sweep.count - number)
    return line + (f", {progress.Bar.format_interval(left)} left" if left else "")


def _adapted(config: Config, sweep: Sweep) -> Config:
    """Return a job's configuration with a light report and its share of the cores, unless the command sets them."""
    hydra = HydraConfig.get()
    report, runtime = config.report, config.runtime
    given = any(entry.lstrip("+").startswith("report") for entry in hydra.overrides.task)
    # The best job is completed at the end, which is cheap only for a head on cached features.
    cheap = config.finetune.layers == "none" and config.augment.mode == "views" and config.features.keep
    if report.level == "full" and cheap and not given:
        report = dataclasses.replace(report, level="light")
    if runtime.threads is None:
        runtime = dataclasses.replace(runtime, threads=threads(hydra.launcher))
    name = config.name if "name" in sweep.swept else None  # otherwise all jobs would have the sweep's name
    return dataclasses.replace(config, report=report, runtime=runtime, name=name)


def threads(launcher: DictConfig) -> int | None:
    """Return the CPU threads per job if the launcher runs jobs in parallel; None for all cores."""
    cores = OmegaConf.select(launcher, "ray.remote.num_cpus") or OmegaConf.select(launcher, "cpus_per_task")
    if cores:
        return max(1, int(cores))
    jobs = OmegaConf.select(launcher, "n_jobs")
    available = os.cpu_count() or 1
    return max(1, available // (jobs if jobs > 0 else available)) if jobs else None


# --- the end of the sweep ---------------------------------------------------------------------------------------------


def finish(application: Application, code: int) -> int:
    """Complete the best run of the process's sweep, end the parent run, and print the summary.

    Args:
        application: Without a sweep, nothing is done.
        code: Exit status so far; 130 or 143 after an interrupt.

    Returns:
        The exit status.
    """
    sweep, lock = application.sweep, application.lock
    if sweep is None or lock is None:
        return code
    logs.plain()
    sweep.end_dead_jobs("interrupted" if code in signals.CODES else "failed", timeout_seconds=5.0)
    try:
        code = code or _complete_best(sweep, application)
    except KeyboardInterrupt as ending:
        code = signals.exit_code(ending)
    table = sweep.update()
    status = "finished" if code == 0 or (len(table) > 0 and not sweep.stop_on_error) else "failed"
    tracking.end_run(sweep.store, sweep.run_id, "interrupted" if code in signals.CODES else status)
    code = code or int((table["status"] != "finished").any())
    print(sweep.describe(table, shown=application.process.shown), file=sys.stderr if code else sys.stdout)
    lock.release()
    return code


def _complete_best(sweep: Sweep, application: Application) -> int:
    """Save the model and the figures of the best job, which would take most of a minute for every job.

    Returns:
        The exit status.
    """
    best = sweep.best()
    if best is None:
        return 0
    directory = sweep.directory(best)
    try:
        config = configuration.read(directory / "config.yaml")
        checkpoint = Checkpoint.read(directory)
        complete = checkpoint is not None and checkpoint.finished and (directory / "model").exists()
        if config.report.level == "none" or complete:
            return 0
        from hairline.training import train
        from hairline.training.place import place

        config = dataclasses.replace(
            config,
            resume=str(directory),  # continues from its weights
            report=dataclasses.replace(config.report, level="full"),
            tracking=dataclasses.replace(config.tracking, uri=sweep.store),
            runtime=dataclasses.replace(config.runtime, threads=_own_threads(config, sweep)),
        )
        log.info("Completing the best run: %s", best.name)
        quiet = logs.brief(application.warnings)
        with (
            quiet,
            logs.also_to(directory / "train.log"),
            tracking.keep_end_time(sweep.store, tracking.run_id(directory)),
            place(config.features, config.runtime, config.report, config.finetune) as networks,
        ):
            train.train(config, directory, best.overrides, application.process, networks)
    except Exception as error:
        logs.report(error)
        print(f"the best run {directory} could not be completed: {error}", file=sys.stderr)
        return 1
    return 0


def _own_threads(config: Config, sweep: Sweep) -> int | None:
    """Return the threads that the user set for the jobs; None if they were a job's share of the cores."""
    keys = {entry.lstrip("+").partition("=")[0] for entry in sweep.command}
    return None if "hydra/launcher" in keys and "runtime.threads" not in keys else config.runtime.threads
