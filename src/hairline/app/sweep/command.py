"""Hydra's side of a sweep: its command line, and what is done once before its jobs."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import logging
import os
import re
import sys
import traceback
from dataclasses import fields
from pathlib import Path
from typing import Any

import filelock
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import CompactHydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from hairline import config as configuration
from hairline import tracking
from hairline.app import log as logs
from hairline.app import settings as checked
from hairline.app.sweep import job as multirun
from hairline.app.sweep import search
from hairline.app.sweep import state as sweeps
from hairline.app.sweep.state import Sweep
from hairline.config import Config, ConfigError
from hairline.system import errors, redaction
from hairline.training.checkpoint import Checkpoint

log = logging.getLogger("hairline")

_LAUNCHERS = {"joblib": "hydra_joblib_launcher", "slurm": "hydra_submitit_launcher", "ray": "hydra_ray_launcher"}
_CARRIED = ("HAIRLINE_CACHE", "KERAS_HOME")  # what jobs on other machines need to know
# What `expanded` put before the overrides that the user gave: it says nothing of the user's wishes.
added: list[str] = []
PLACES = ("--config-dir", "-cd", "--config-path", "-cp")  # flags that say where settings lie
_NAME = re.compile(r"[\w][\w .-]*")
# Lines of an error that say how Hydra works, and the one that says which key there is none of.
_HYDRAS_OWN = re.compile(
    r"To append to your (?:config|default list)|To override a value use|See https://hydra|\s+(full_key|reference_type|object_type)\b"
)
_FULL_KEY = re.compile(r"not in '\w+'[\s\S]*full_key: (\S+)")


# --- the command line, before Hydra reads it --------------------------------------------------------------------------


def expanded(arguments: list[str]) -> list[str]:
    """Complete a command line: `resume` and `sweep.resume` bring settings of their own, a search needs no `-m`.

    Args:
        arguments: The command line, without the script.

    Raises:
        SweepError: If there is no such sweep, or a launcher's package is missing.
        ConfigError: If there is no such run.
    """
    given = dict(argument.partition("=")[::2] for argument in arguments if not argument.startswith("-"))
    launcher = given.get("hydra/launcher", "")
    if launcher in _LAUNCHERS and importlib.util.find_spec(f"hydra_plugins.{_LAUNCHERS[launcher]}") is None:
        raise sweeps.SweepError(f'hydra/launcher={launcher} needs a package: pip install -e ".[{launcher}]"')
    many = {"-m", "--multirun"}
    if given.get("resume", "null") != "null" and not many & set(arguments) and not _asks(arguments):
        return _resuming(arguments, given)
    if given.get("sweep.resume", "null") != "null":
        folder = given["sweep.resume"].strip("'\"")
        sweep = Sweep.read(Path(folder))
        if os.path.isdir(sweep.working_directory):
            os.chdir(sweep.working_directory)  # what the command names by relative paths, and the store, lie there
        saved = [entry for entry in sweep.command if entry.lstrip("+~").partition("=")[0] not in given]
        rest = [argument for argument in arguments if not argument.startswith("sweep.resume=")]
        arguments = [*saved, *rest, f"hydra.sweep.dir={_quoted(sweep.folder)}", f"sweep.resume={_quoted(sweep.folder)}"]
    elif given.get("search", "null") == "null":
        return arguments
    return arguments if many & set(arguments) or _asks(arguments) else ["-m", *arguments]


def readable(arguments: list[str]) -> list[str]:
    """Quote the values that Hydra's grammar has no reading for, such as paths with umlauts or brackets.

    Args:
        arguments: The command line, without the script.
    """
    parser = OverridesParser.create()

    def read(argument: str) -> bool:
        try:
            parser.parse_overrides([argument])
        except CompactHydraException:
            return False
        return True

    found = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        other = f"{key}={_quoted(value)}"
        # What begins so was meant to be a text, a list or a mapping: its fault is for the user to see.
        takes_none = not value or argument.startswith("-") or value[0] in "'\"[{"
        found.append(argument if takes_none or read(argument) or not read(other) else other)
    return found


def _resuming(arguments: list[str], given: dict[str, str]) -> list[str]:
    """Go where a run was started, and make its folder and its kind of data those of this call.

    The choices let settings that belong to one of them, such as data.path, be repeated; what they hold by default is
    not compared.
    """
    folder = Path(given["resume"].strip("'\"")).expanduser().absolute()
    saved = configuration.plain(folder / "config.yaml")
    if not saved:
        raise ConfigError(
            f"resume={given['resume']}: no run there; expected a run directory with its config.yaml, such as "
            "outputs/<date>/<time>"
        )
    packed = sorted({"experiment", "search"} & set(given))
    if packed:
        raise ConfigError(f"{packed[0]}= sets many settings at once; a run that is resumed has its own: leave it out")
    state = Checkpoint.read(folder)
    if state is not None and os.path.isdir(state.working_directory):
        os.chdir(state.working_directory)  # what the settings name by relative paths, and the store, lie there
    own = [f"resume={_quoted(folder)}", f"hydra.run.dir={_quoted(folder)}"]
    for group, key in configuration.CHOSEN_BY.items():
        if group not in given:
            own.append(f"{group}={saved[group][key]}")
    path = saved["data"].get("path")
    if path is not None and not {"data", "data.path"} & set(given):
        own.append(f"data.path={_quoted(path)}")
    added[:] = own
    return [*own, *(argument for argument in arguments if not argument.startswith("resume="))]


def told(error: Exception) -> str:
    """Put a fault that Hydra found into words for the user: without its advice to add what no setting is."""
    cause = f"\n{error.__cause__}" if isinstance(error.__cause__, OmegaConfBaseException) else ""
    text = f"{error}{cause}"
    lines = [line for line in text.splitlines() if line.strip() and not _HYDRAS_OWN.match(line)]
    if "is not a ListConfig" in text:
        lines.append("A list is written in brackets: 'key=[one,other]'")
    missing = _FULL_KEY.search(text)
    if missing:
        group, _, name = missing[1].rpartition(".")
        choices = [kind for kind, schema in configuration.SCHEMAS.items() if kind.startswith(f"{group}/")]
        fitting = [kind for kind in choices if name in {entry.name for entry in fields(configuration.SCHEMAS[kind])}]
        if fitting:
            lines.append(f"Only {', '.join(kind.replace('/', '=') for kind in fitting)} has it: add that as well")
    return "\n".join(lines)


def _asks(arguments: list[str]) -> bool:
    """Tell whether Hydra is only asked a question: --help, --cfg, --info, shell completion."""
    return any(
        argument.startswith("-") and not argument.startswith((*PLACES, "--config-name", "-cn"))
        for argument in arguments
    )


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
        logs.redact()
        try:
            _prepare(config)
        except CompactHydraException as error:
            sys.exit(told(error))
        except Exception as error:
            sys.exit(f"ERROR: {error}" if errors.is_user_error(error) else "".join(traceback.format_exception(error)))


def _prepare(composed: DictConfig) -> None:
    swept = _swept(composed)
    parsed = _parsed(composed)
    if str(composed.hydra.sweeper.get("_target_")).endswith("BasicSweeper"):
        for override in parsed:
            if override.is_interval_sweep():
                raise ConfigError(
                    f"{override.input_line}: an interval has no list of values; name them, "
                    f"{override.get_key_element()}=<one>,<other>, or let a search draw from it: search=head"
                )
    choices = _choices(parsed)
    config = _first_sound(composed, choices)
    _compose_each(composed, choices)
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
    if earlier and config.sweep.resume is None:
        _refuse_another(sweep, command)
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
            parameters=swept,
        )
    sweep.write()
    multirun.directed.append((sweep, lock))
    if earlier:
        sweep.bury("interrupted")
    if OmegaConf.select(composed, "hydra.sweeper.n_trials") is not None:
        _prepare_search(composed, sweep)
    log.info("Sweep           %s   (to go on after an interruption: sweep.resume=%s)", sweep.name, folder)


def _refuse_another(sweep: Sweep, command: list[str]) -> None:
    """Refuse a command that does not extend what lies in its folder: jobs could not be told apart, nor gone on with.

    Raises:
        SweepError: If a setting or a value of the earlier command is missing, or a setting is new.
    """
    before, now = _values(sweep.command), _values(redaction.settings(command))
    lost = [f"{key}={value}" for key, values in before.items() for value in values if value not in now.get(key, [])]
    new = [f"{key}={','.join(values)}" for key, values in now.items() if key not in before]
    if lost or new:
        fault = f"lacks its {', '.join(lost)}" if lost else f"brings {', '.join(new)}, which it did not set"
        raise sweeps.SweepError(
            f"{sweep.folder} holds another sweep, of {' '.join(sweep.command)!r}, and this command {fault}. Repeat its "
            "settings and add values to extend it, give another sweep.name, or delete that folder"
        )


def _values(command: list[str]) -> dict[str, list[str]]:
    """Give the values of each setting of a sweep that may change its numbers."""
    free = (*configuration.NOT_IDENTITY, "hydra.", "hydra/")
    found = {}
    for override in OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(command):
        key = override.get_key_element().lstrip("+")
        if not key.startswith(free):
            listed = override.is_sweep_override() and not override.is_interval_sweep()
            values = override.sweep_string_iterator() if listed else [(override.input_line or "").partition("=")[2]]
            found[key] = [str(value) for value in values]
    return found


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
    parsed = OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(texts)  # for glob(...)
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


def _first_sound(composed: DictConfig, choices: list[list[str]]) -> Config:
    """Give the configuration of the first job that has a valid one.

    A fault of single jobs fails these alone; one that all share is told before anything is made.

    Raises:
        ConfigError: If no job has a valid configuration; it names the first one's faults.
    """
    first: ConfigError | None = None
    for overrides in itertools.product(*choices):
        job = GlobalHydra.instance().config_loader().load_sweep_config(composed, list(overrides))
        with open_dict(job):
            del job["hydra"]
        try:
            config: Config = checked.load(job)
            return config
        except ConfigError as error:
            first = first or error
    raise first if first is not None else ConfigError("the sweep has no job: a list of values is empty")


def _compose_each(composed: DictConfig, choices: list[list[str]]) -> None:
    """Compose a job with each of the values: Hydra refuses a whole sweep for one of another type, but late."""
    first = [values[0] for values in choices]
    for place, values in enumerate(choices):
        for value in values[1:]:
            overrides = [*first[:place], value, *first[place + 1 :]]
            GlobalHydra.instance().config_loader().load_sweep_config(composed, overrides)


def _choices(parsed: list[Override]) -> list[list[str]]:
    """Give the values of each override; an interval, which has no list of values, is represented by its start."""
    choices = []
    for override in parsed:
        key, value = override.get_key_element(), override.value()
        if isinstance(value, IntervalSweep):
            choices.append([f"{key}={value.start}"])
        elif override.is_sweep_override():
            choices.append([f"{key}={text}" for text in override.sweep_string_iterator()])
        else:
            choices.append([override.input_line or ""])
    return choices


def _title(swept: dict[str, str], folder: Path) -> str:
    return f"sweep {' x '.join(swept) or folder.name}"[:250]
