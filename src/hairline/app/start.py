"""The entry point of all scripts: parse the command line, compose and check the settings, run, report errors."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import errno
import functools
import gc
import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from hairline import config as configuration
from hairline.app import commandline, help, settings
from hairline.app import log as logs
from hairline.app.process import Application, Call, current
from hairline.app.sweep import job as sweep_job
from hairline.config import commands
from hairline.system import cache, errors, redaction, signals
from hairline.system.errors import HairlineError
from hairline.system.process import Process
from hairline.training import checkpoint
from hairline.training.checkpoint import Checkpoint

log = logging.getLogger("hairline")

CONF = "conf"
_BAD_PATH = (errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG)
TARGETS = ["hairline.app.sweep.command.Preparation"]  # the callables that a configuration of train.py may name


# --- the process ------------------------------------------------------------------------------------------------------


def start(script: str, main: Callable[[], None]) -> None:
    """Run a script and end the process with its exit status.

    Args:
        script: The calling script's `__file__`.
        main: Its function decorated with `hydra.main`.
    """
    application = current()
    code = 1
    try:
        code = _run(application, Path(script).with_name(CONF), Path(script).stem, main)
    finally:  # also after a bug, so that the sweep's state is complete
        code = sweep_job.finish(application, code)
    if application.failures:
        print(f"\n{len(application.failures)} job{'s' * (len(application.failures) > 1)} failed:", file=sys.stderr)
        for place, text in application.failures:
            print(redaction.redacted(f"  {place}: {text}".splitlines()[0]), file=sys.stderr)
    code = code or int(bool(application.failures) or application.process.needs_person)
    if code:
        sys.exit(code)


def _set_up() -> None:
    """Configure the interpreter and make the schema known to Hydra."""
    sys.excepthook = _print_traceback
    atexit.register(gc.freeze)  # otherwise Python spends 2 s at its end on garbage among TensorFlow's objects
    for stream in (sys.stdout, sys.stderr):  # a character that the terminal lacks is shown as its number
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.raiseExceptions = False  # no traceback for every line if the log file's disk is full
    warnings.filterwarnings("ignore", module="PIL")  # damaged images are reported once, with the reason
    register(ConfigStore.instance())


def register(store: ConfigStore) -> None:
    """Make the schema known to Hydra."""
    for name, schema in {**configuration.SCRIPTS, **configuration.GROUPS}.items():
        group, _, leaf = name.rpartition("/")
        node = OmegaConf.structured(schema)
        for owner in (node, node.data) if schema is configuration.Export else (node,):
            for key in {"tags", "class_map"} & set(owner):
                OmegaConf.set_struct(owner[key], False)  # any keys: tags.site=bridge needs no plus sign
        # Below `hydra/`, so that --help does not list the schema beside the choices.
        store.store(group=f"hydra/schema/{group}".rstrip("/"), name=leaf, node=node, replace=True)


def _run(application: Application, conf: Path, script: str, main: Callable[[], None]) -> int:
    """Parse the command line and call Hydra; return the exit status. Jobs report their own errors.

    With the environment variable HYDRA_FULL_ERROR, Hydra's errors show their tracebacks.
    """
    full = "HYDRA_FULL_ERROR" in os.environ
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # otherwise Hydra prints its errors itself
    try:
        application.process.signals.listen()
        _set_up()
        application.command = command = commandline.parse(sys.argv[1:], conf, script)
        for note in command.notes:
            print(note)
        if command.directory is not None and os.path.isdir(command.directory):
            typed_in = os.getcwd()
            os.chdir(command.directory)
            application.process.moved = os.getcwd() != typed_in
        sys.argv[1:] = command.completed  # Hydra reads it from there
        if {"--help", "-h"} & set(command.typed):
            with contextlib.redirect_stdout(io.StringIO()) as page, contextlib.suppress(SystemExit):
                main()
            print(help.explained(page.getvalue(), script), end="")
        else:
            cache.require_home()
            main()
    except SystemExit as ending:
        if isinstance(ending.code, str):
            print(redaction.redacted(ending.code), file=sys.stderr)
            return 2
        return ending.code or 0
    except KeyboardInterrupt as ending:
        print(f"stopped by {ending}", file=sys.stderr)
        return signals.exit_code(ending)
    except BrokenPipeError:  # the reader of the output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except HairlineError as error:
        return logs.refuse(error)
    except (CompactHydraException, ValueError, OSError) as error:
        if full:
            raise
        return _refuse(error)
    finally:
        if not full:  # the user's own setting stays
            os.environ.pop("HYDRA_FULL_ERROR", None)
    return 0


def _refuse(error: Exception) -> int:
    """Print an error that Hydra raised outside a job, and return the exit status."""
    if isinstance(error, CompactHydraException):
        return logs.refuse(error)
    if isinstance(error, ValueError):  # about its flags
        print(redaction.redacted(f"ERROR: {error}"), file=sys.stderr)
    elif getattr(error, "errno", None) in _BAD_PATH and (message := errors.explained(error)):
        print(redaction.redacted(f"ERROR: {message}"), file=sys.stderr)
    else:
        advice = (
            "Free space or correct its permissions, or choose another: hydra.run.dir=<folder> (hydra.sweep.dir with -m)"
        )
        print(redaction.redacted(f"ERROR: the output folder cannot be written: {error}\n{advice}"), file=sys.stderr)
    return 2


def _print_traceback(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Print an uncaught exception, without secrets."""
    print(redaction.redacted("".join(traceback.format_exception(kind, error, trace))), file=sys.stderr)


# --- one run ----------------------------------------------------------------------------------------------------------


def job(function: Callable[[Any, Call], Any]) -> Callable[[DictConfig], Any]:
    """Decorate a script's function for `hydra.main`: compose, check, run, report errors.

    Args:
        function: Takes the checked configuration (an instance of the script's schema) and the call.
    """

    @functools.wraps(function)
    def wrapped(composed: DictConfig) -> Any:
        return perform(function, composed)

    return wrapped


def perform(function: Callable[[Any, Call], Any], composed: DictConfig) -> Any:
    """Run a script's function once: as the only run, or as one job of a multirun, whose errors do not stop the others.

    Args:
        function: As for `job`.
        composed: The configuration that Hydra composed.

    Returns:
        The function's value; None if a job of a multirun failed.
    """
    logs.redact()
    hydra = HydraConfig.get()
    directory = Path(hydra.runtime.output_dir)
    logs.begin(directory)
    multirun = hydra.mode == RunMode.MULTIRUN
    if multirun and "sweep" in composed:
        return sweep_job.perform(function, composed)
    application = current()
    resumed = composed.get("resume") is not None
    overrides = application.command.overrides if resumed else commandline.shown(hydra.overrides.task)
    try:
        config = settings.load(composed, overrides)
        if resumed:
            config = configuration.resumed(config, overrides)
            if _is_complete(directory, config):
                log.info("Nothing to do: this run has finished. Its results lie in %s", directory)
                return None
            settings.check(config)  # what was found when the run began may be gone
        return function(config, Call(directory, overrides, multirun, application.process))
    except KeyboardInterrupt as ending:
        resume = _resume_command(directory, application.process)
        log.error("stopped by %s%s", ending, f". Resume with: {resume}" if resume else "")
        sys.exit(signals.exit_code(ending))
    except Exception as error:
        logs.report(error)
        resume = None if errors.explained(error) is None else _resume_command(directory, application.process)
        if resume:
            log.error("then resume with: %s", resume)
        if multirun:
            application.failures.append((f"{application.process.shown(directory)} ({' '.join(overrides)})", str(error)))
            return None
        logging.shutdown()
        if not resumed and not resume:
            logs.remove_if_empty(directory)
        sys.exit(logs.exit_code(error))


def _resume_command(directory: Path, process: Process) -> str | None:
    """Return the command that resumes the run in a folder; None if there is nothing to resume."""
    if not (directory / checkpoint.FILE).is_file():
        return None
    return commands.command("train", commands.override("resume", process.shown(directory)))


def _is_complete(directory: Path, config: configuration.Config) -> bool:
    """Return whether a run has finished with the settings that it is resumed with."""
    state = Checkpoint.read(directory)
    finished = state is not None and state.finished and (directory / "metrics.json").is_file()
    return finished and dataclasses.replace(config, resume=None) == configuration.read(directory / "config.yaml")
