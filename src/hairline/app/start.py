"""What the scripts in the project's root share: the schema's registration and the handling of errors."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import gc
import io
import logging
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from hairline import config as configuration
from hairline.app import log as logs
from hairline.app import settings as checked
from hairline.app.process import Call, current
from hairline.app.sweep import command
from hairline.app.sweep import job as multirun
from hairline.system import errors, files, redaction, signals
from hairline.training import checkpoint
from hairline.training.checkpoint import Checkpoint

log = logging.getLogger("hairline")

CONF = "conf"
# What a configuration may name for Hydra to call, in the scripts that make sweeps.
TARGETS = ["hairline.app.sweep.command.Preparation"]
_failures: list[tuple[str, str]] = []

Job = Callable[[Any, Call], Any]


def start(script: str, main: Callable[[], None]) -> None:
    """Register the schema, check the choices, and hand over to Hydra.

    Args:
        script: The calling script's `__file__`.
        main: Its function decorated with `hydra.main`.
    """
    sys.excepthook = _excepthook
    atexit.register(gc.freeze)  # else Python, about to end, looks for garbage among all that TensorFlow holds: 2 s
    for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a letter shows its number instead
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.raiseExceptions = False  # a log file on a full disk is no reason for a traceback a line
    warnings.filterwarnings("ignore", module="PIL")  # a damaged image is named with its reason, once
    register(ConfigStore.instance())
    conf = Path(script).with_name(CONF)
    try:
        given = [_without_plus(argument, conf) for argument in sys.argv[1:]]
        sys.argv[1:] = command.readable(command.expanded(given))
    except ValueError as error:
        _refuse(f"ERROR: {error}")
    fault = unknown_choice(conf, sys.argv[1:])
    if fault:
        _refuse(fault)
    current().signals.listen()
    code = 1
    try:
        code = _ended(main)
    finally:  # whatever ended the sweep, its state is told
        code = multirun.finish(code)
    if _failures:
        print(f"\n{len(_failures)} job{'s' * (len(_failures) > 1)} failed:", file=sys.stderr)
        for place, message in _failures:
            print(redaction.redacted(f"  {place}: {message}".splitlines()[0]), file=sys.stderr)
    if code or _failures:
        sys.exit(code or 1)


def _refuse(fault: str) -> NoReturn:
    print(redaction.redacted(fault), file=sys.stderr)
    sys.exit(2)


def _ended(main: Callable[[], None]) -> int:
    """Call Hydra's entry and give the exit status."""
    try:
        _run(main)
    except SystemExit as ending:
        if isinstance(ending.code, str):
            print(redaction.redacted(ending.code), file=sys.stderr)
            return 2
        return ending.code or 0
    except KeyboardInterrupt as ending:
        return signals.exit_code(ending)
    return 0


def _run(main: Callable[[], None]) -> None:
    """Call Hydra's entry; what goes wrong before or after a job is told in its own words, without a traceback."""
    if "HYDRA_FULL_ERROR" in os.environ:
        main()
        return
    # Makes Hydra raise what it would otherwise print with a traceback, such as an output folder it cannot make.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        main()
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (CompactHydraException, ValueError) as error:  # jobs deal with their own: these are Hydra's
        sys.exit(command.told(error))
    except OSError as error:
        sys.exit(
            f"ERROR: the output folder cannot be written: {error}\n"
            "Make room or mend its permissions, or choose another one: hydra.run.dir=<folder> (hydra.sweep.dir with -m)"
        )
    finally:
        del os.environ["HYDRA_FULL_ERROR"]


def register(store: ConfigStore) -> None:
    """Make the schema known to Hydra."""
    scripts = {name: schema for name, (schema, _) in configuration.COMMANDS.items()}
    for name, schema in {**configuration.SCHEMAS, **scripts}.items():
        group, _, leaf = name.rpartition("/")
        node = OmegaConf.structured(schema)
        for own in {"tags", "class_map"} & set(node):
            OmegaConf.set_struct(node[own], False)  # the user's own names: tags.site=bridge needs no plus sign
        # Below `hydra/`, so that --help does not list the schema beside the choices a user has.
        store.store(group=f"hydra/schema/{group}".rstrip("/"), name=leaf, node=node, replace=True)


def job(function: Job) -> Callable[[DictConfig], Any]:
    """Turn a function of a checked configuration into what `hydra.main` decorates.

    A fault of the user's is printed without a traceback; any other is printed with one, as it is ours. A failed job
    of a sweep does not stop the others.

    Args:
        function: Given the checked configuration, an instance of the script's schema, and the rest of its call.
    """

    @functools.wraps(function)
    def wrapped(composed: DictConfig) -> Any:
        # By name: a launcher copies this function into other processes, but not what it calls.
        from hairline.app import start as cli

        return cli.perform(function, composed)

    return wrapped


def perform(function: Job, composed: DictConfig) -> Any:
    """Run what `hydra.main` was asked for: a single run, or one job of a sweep."""
    logs.redact()
    settings = HydraConfig.get()
    if settings.mode == RunMode.MULTIRUN and "sweep" in composed:
        return multirun.perform(function, composed)
    directory = Path(settings.runtime.output_dir)
    overrides = list(settings.overrides.task)
    resumed = composed.get("resume") is not None
    try:
        config = checked.load(composed)
        if resumed:
            overrides = [entry for entry in overrides if entry not in command.added]
            saved, config = configuration.read(directory / "config.yaml"), configuration.resumed(config, overrides)
            if dataclasses.replace(config, resume=None) == saved and _finished(directory):
                log.info("Nothing to do: this run has finished. Its results lie in %s", directory)
                return None
        return function(config, Call(directory, overrides))
    except KeyboardInterrupt as ending:
        log.error("stopped by %s%s", ending, _way_on(directory))
        sys.exit(signals.exit_code(ending))
    except Exception as error:
        logs.tell(error)
        if settings.mode == RunMode.MULTIRUN:
            _failures.append((f"{directory} ({' '.join(overrides)})", str(error)))
            return None
        logging.shutdown()
        if not resumed:
            logs.remove_if_empty(directory)
        sys.exit(2 if errors.is_user_error(error) else 1)


def _finished(directory: Path) -> bool:
    state = Checkpoint.read(directory)
    return state is not None and state.finished and (directory / "metrics.json").is_file()


def _way_on(directory: Path) -> str:
    """Say how to go on with what lies in a directory, where it is a training."""
    if not (directory / checkpoint.FILE).is_file():
        return ""
    return f". To go on: python train.py resume={shlex.quote(files.relative(directory))}"


def _without_plus(argument: str, folder: Path) -> str:
    """Take the plus off a choice such as +experiment=recipe: each group has its place, as Hydra wants."""
    group = argument.partition("=")[0]
    known = group.startswith("+") and "=" in argument and (folder / group.lstrip("+")).is_dir()
    return argument.lstrip("+") if known and group != "+" else argument


def unknown_choice(folder: Path, arguments: list[str]) -> str | None:
    """Say which group=choice names a file that is not there, with the nearest one that is; or which names nothing."""
    # The user's own choices: Hydra finds them.
    elsewhere = any(argument.startswith((*command.PLACES, "hydra.searchpath")) for argument in arguments)
    for argument in arguments:
        group, equals, choices = argument.partition("=")
        group = group.lstrip("+~")
        if equals and not group.strip():  # Hydra stumbles over some of them
            return f"{argument[:80]!r}: nothing is named before the =; expected key=value, such as epochs=20"
        known = equals and not group.startswith("hydra") and not elsewhere
        names = {path.stem for path in (folder / group).glob("*.yaml")} if known else set()
        if names and choices.startswith(("[", "{")):  # Hydra stumbles over what is in some of them
            return f"{group}={choices[:80]}: expected one of {', '.join(sorted(names))}"
        for choice in choices.split(",") if "(" not in choices else []:  # choice(adam,sgd) and the like are Hydra's
            if names and choice and choice[0].isalnum() and choice not in names | {"null"}:
                return configuration.unknown(group, choice, names)
    return None


def _excepthook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Print what nobody caught, without secrets."""
    print(redaction.redacted("".join(traceback.format_exception(kind, error, trace))), file=sys.stderr)
