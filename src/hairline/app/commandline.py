"""The command line: checked and completed before Hydra reads it, and Hydra's errors in words for the user."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import CompactHydraException
from omegaconf.errors import OmegaConfBaseException

from hairline import config as configuration
from hairline.app import mistakes
from hairline.app.mistakes import Command
from hairline.app.sweep.state import STATE, Sweep
from hairline.config import ConfigError, commands
from hairline.system import files
from hairline.training.checkpoint import Checkpoint

# Texts of Hydra's own, which may refer to other settings: ${now:%Y}.
_HYDRA_FOLDERS = ("hydra.run.dir", "hydra.sweep.dir")
_HYDRA_TEXTS = (*_HYDRA_FOLDERS, "hydra.sweep.subdir", "hydra.job.name")
_RUN_KEYS = ("run", "base")
_MODELS = [f"{folders}model/bundle.json" for folders in ("*/", "*/*/", "*/*/*/")]  # below outputs/; also sweeps' jobs
# Lines of Hydra's messages that explain Hydra, or advise to append unknown keys with a plus sign.
_HYDRA_ADVICE = re.compile(
    r"To append to your (?:config|default list)|To override a value use|See https://hydra"
    r"|\s+(full_key|reference_type|object_type)\b"
)
_UNKNOWN_KEY = re.compile(r"not in '\w+'[\s\S]*full_key: (\S+)")


@dataclass(frozen=True)
class CommandLine:
    """A command line, without the script.

    Attributes:
        typed: The arguments of the user.
        completed: The arguments for Hydra, with everything that `resume=`, `sweep.resume=` and `search=` imply.
        script: Name of the script.
        directory: Where the run or sweep that is resumed was started; its relative paths and its store lie there.
        notes: What `latest` and sweeps' folders stand for.
    """

    typed: Sequence[str] = ()
    completed: Sequence[str] = ()
    script: str = "train"
    directory: str | None = None
    notes: Sequence[str] = ()

    @property
    def overrides(self) -> list[str]:
        """The settings that the user typed or deleted (`~key`), without `resume=`."""
        settings = (entry for entry in self.typed if "=" in entry or entry.startswith("~"))
        return [entry for entry in settings if not entry.startswith(("-", "resume="))]

    def repeated(self, words: Sequence[str]) -> str:
        """Return the command as it was typed, with further settings instead of those for the same keys.

        Args:
            words: The further settings, quoted for a shell.
        """
        new = {shlex.split(word)[0].partition("=")[0] for word in words}
        old = [commands.word(entry) for entry in self.typed if entry.lstrip("+").partition("=")[0] not in new]
        return commands.command(self.script, *old, *words)


def parse(arguments: Sequence[str], conf: Path, script: str = "train") -> CommandLine:
    """Check a command line and complete it for Hydra.

    Args:
        arguments: The arguments, without the script.
        conf: The folder of the YAML files.
        script: Name of the script.

    Raises:
        ConfigError: If a check fails, or there is no run to resume.
        SweepError: If there is no sweep to resume.
    """
    command = Command([_without_plus(argument, conf) for argument in arguments], conf, script)
    fault = mistakes.find(command)
    if fault is not None:
        raise ConfigError(fault)
    typed, notes = (command.arguments, []) if command.only_asks else _named_runs(command)
    settings = {key: value for key, value in command.values.items() if value != "null"}
    several = bool({"-m", "--multirun"} & set(typed))
    completed, directory = typed, None
    if "sweep.resume" in settings:
        completed, directory = _resumed_sweep(typed, settings)
        if command.only_asks:
            completed = [_first_value(argument) for argument in completed]
    elif "resume" in settings and not several and not command.only_asks:
        completed, directory = _resumed_run(typed, settings)
    if command.multirun and not several and not command.only_asks:
        completed = ["-m", *completed]
    literal = _literal(Command(completed, conf, script))
    return CommandLine(command.arguments, _readable(literal), script, directory, notes)


def shown(overrides: Iterable[str]) -> list[str]:
    """Return overrides as a reader wants them: texts without the quotes that Hydra needs."""
    pairs = (entry.partition("=") for entry in overrides)
    return [f"{key}{equals}{commands.unquoted(value)}" for key, equals, value in pairs]


# --- completion -------------------------------------------------------------------------------------------------------


def _without_plus(argument: str, conf: Path) -> str:
    """Remove the plus sign of a choice such as +experiment=recipe: conf/config.yaml lists every group already."""
    group, equals, _ = argument.partition("=")
    name = group.lstrip("+")
    return argument.lstrip("+") if name and equals and (conf / name).is_dir() else argument


def _named_runs(command: Command) -> tuple[list[str], list[str]]:
    """Replace `run=latest` and `base=latest` by the newest run, and a sweep's folder by its best job; note which it is.

    Raises:
        ConfigError: If there is no such run.
    """
    arguments, notes = [], []
    for argument in command.arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in _RUN_KEYS or key not in command.settings or command.script == "sync":
            arguments.append(argument)
            continue
        runs = commands.split(value) if command.multirun else [value]
        found = [_named_run(key, commands.unquoted(run)) for run in runs]
        notes += [f"{key}={run} is {path}" for run, path in zip(runs, found, strict=True) if path is not None]
        named = [run if path is None else commands.quoted(path) for run, path in zip(runs, found, strict=True)]
        arguments.append(f"{key}={','.join(named)}")
    return arguments, notes


def _named_run(key: str, text: str) -> str | None:
    """Return the run directory that `latest` or a sweep's folder stands for; None for any other text."""
    folder = Path(os.path.expanduser(text))
    if (folder / STATE).is_file():
        sweep = Sweep.read(folder)
        best = sweep.best()
        if best is None:
            raise ConfigError(f"{key}={text}: no job of this sweep has finished; expected a sweep with a best job")
        return files.relative(sweep.directory(best))
    if text != "latest" or folder.exists():
        return None
    models = [path for pattern in _MODELS for path in Path("outputs").glob(pattern)]
    if not models:
        raise ConfigError(f"{key}=latest: outputs/ holds no finished run with a model; expected a run directory")
    return str(max(models, key=lambda path: path.stat().st_mtime_ns).parents[1])


def _resumed_run(typed: Sequence[str], settings: dict[str, str]) -> tuple[list[str], str | None]:
    """Return the arguments that resume a run, with its folder, choices and data path, and where it was started.

    The choices make settings valid that belong to one of them, such as data.path; their defaults are not compared
    with the saved settings.
    """
    folder = _folder(settings["resume"])
    saved = configuration.plain(folder / "config.yaml")
    if not all(
        isinstance(saved.get(group), dict) and key in saved[group] for group, key in configuration.CHOSEN_BY.items()
    ):
        raise ConfigError(
            f"resume={settings['resume']}: no run there. Expected a run directory with its config.yaml, such as "
            "outputs/<date>/<time>"
        )
    for group in ("experiment", "search"):
        if group in settings:
            raise ConfigError(f"{group}= sets many settings at once, but a resumed run has its own: leave it out")
    if "hydra.run.dir" in settings and _folder(settings["hydra.run.dir"]) != folder:
        raise ConfigError(f"hydra.run.dir={settings['hydra.run.dir']}: a resumed run stays in its folder: leave it out")
    implied = [f"resume={commands.quoted(str(folder))}", f"hydra.run.dir={commands.quoted(str(folder))}"]
    for group, key in configuration.CHOSEN_BY.items():
        if group not in settings:
            implied.append(f"{group}={saved[group][key]}")
    path = saved["data"].get("path")
    if path is not None and not {"data", "data.path"} & set(settings):
        implied.append(f"data.path={commands.quoted(path)}")
    state = Checkpoint.read(folder)
    rest = [argument for argument in typed if not argument.startswith("resume=")]
    return [*implied, *rest], None if state is None else state.working_directory


def _resumed_sweep(typed: Sequence[str], settings: dict[str, str]) -> tuple[list[str], str | None]:
    """Return the saved arguments of a sweep, replaced and extended by the typed ones, and where it was started."""
    sweep = Sweep.read(_folder(settings["sweep.resume"]))
    saved = [entry for entry in sweep.command if entry.lstrip("+~").partition("=")[0] not in settings]
    rest = [argument for argument in typed if not argument.startswith("sweep.resume=")]
    folder = commands.quoted(str(sweep.folder))
    places = [f"hydra.sweep.dir={folder}", f"sweep.resume={folder}"]
    return [*saved, *rest, *places], files.followed(sweep.working_directory, sweep.place, sweep.folder)


def _first_value(argument: str) -> str:
    """Return a swept setting with its first value: `--cfg job` prints one configuration, here that of the first job."""
    if argument.startswith("-") or "," not in argument and "(" not in argument:
        return argument
    (override,) = OverridesParser.create().parse_overrides(_readable([argument]))
    if override.is_discrete_sweep():
        return f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"
    return argument


def _folder(text: str) -> Path:
    return Path(os.path.expanduser(commands.unquoted(text))).absolute()


def _without_tilde(value: str) -> str:
    """Return a folder with the user's home folder instead of `~`; quotes and `${now:...}` stay."""
    quote = value[:1] if value[:1] in ("'", '"') else ""
    return quote + os.path.expanduser(value.removeprefix(quote))


def _literal(command: Command) -> list[str]:
    """Quote the values of text settings that Hydra's grammar would read as something else, such as 2024_05_12."""
    mappings = [entry.key for entry in command.settings.values() if entry.is_mapping]
    result = []
    for argument in command.arguments:
        key, equals, value = argument.partition("=")
        name = key.lstrip("+")
        entry = command.settings.get(name)
        owner = next((owner for owner in mappings if name.startswith(f"{owner}.")), None)
        if not equals or not value or argument.startswith(("-", "~")):
            result.append(argument)
        elif owner is not None:
            text, item = _text(value, multirun=command.multirun), name.removeprefix(f"{owner}.")
            single = {item: commands.unquoted(value)}
            plain = commands.is_plain_name(item)
            result.append(f"{key}={text}" if plain else f"{owner}={commands.hydra_mapping(single)}")
        elif entry is None and (name in _HYDRA_TEXTS or command.is_group(name)):
            if name in _HYDRA_FOLDERS:
                argument = f"{key}={_without_tilde(value)}"
            is_number = isinstance(_parsed(value), int | float)  # a name such as 2024_05_12
            result.append(f"{key}={commands.quoted(value)}" if is_number else argument)
        elif entry is not None and entry.is_text:
            result.append(f"{key}={_text(value, multirun=command.multirun, optional=entry.is_optional_text)}")
        elif entry is not None and (entry.is_texts or entry.is_mapping):
            parts = commands.split(value, "[{") if command.multirun else [value]
            result.append(f"{key}={','.join(map(_texts if entry.is_texts else _mapping, parts))}")
        else:
            result.append(argument)
    return result


def _text(value: str, *, multirun: bool, optional: bool = False) -> str:
    """Return the value of a text setting for Hydra: quotes, functions such as choice(), and null keep their meaning."""
    if multirun and value.startswith("choice(") and value.endswith(")"):
        return f"choice({_text(value[7:-1], multirun=True, optional=optional)})"
    if commands.is_quoted(value) or commands.is_function(value) or (optional and value == "null"):
        return value
    parts = commands.split(value) if multirun else [value]
    if len(parts) > 1:
        return ",".join(_text(part.strip(), multirun=False, optional=optional) for part in parts)
    return value if _is_same(value, value) else commands.quoted(value)


def _texts(value: str) -> str:
    items = commands.parse_list(value)
    return value if items is None or _is_same(value, items) else commands.hydra_list(items)


def _mapping(value: str) -> str:
    items = commands.parse_mapping(value)
    return value if items is None or _is_same(value, items) else commands.hydra_mapping(items)


def _is_same(value: str, meaning: object) -> bool:
    """Return whether Hydra's grammar reads in a value what the user means."""
    return "${" not in value and "%@" not in value and _parsed(value) == meaning


def _parsed(value: str) -> Any:
    """Return what Hydra's grammar reads in a value; `NotImplemented` if it cannot read it."""
    try:
        (override,) = OverridesParser.create().parse_overrides([f"x={value}"])
    except CompactHydraException:
        return NotImplemented
    return override.value()


def _readable(arguments: Iterable[str]) -> list[str]:
    """Quote other values that Hydra's grammar cannot read, such as output folders with umlauts or brackets."""
    result = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        # A value that starts like a quoted text, a list or a mapping stays as it is: Hydra names its fault.
        keep = (
            not value or argument.startswith(("-", "~")) or value[0] in "'\"[{" or _parsed(value) is not NotImplemented
        )
        result.append(argument if keep else f"{key}={commands.quoted(value)}")
    return result


# --- Hydra's errors ---------------------------------------------------------------------------------------------------


def explain(error: Exception) -> str:
    """Return the message of one of Hydra's errors, without its hint to append unknown keys with a plus sign."""
    cause = f"\n{error.__cause__}" if isinstance(error.__cause__, OmegaConfBaseException) else ""
    text = f"{error}{cause}"
    lines = [line for line in text.splitlines() if line.strip() and not _HYDRA_ADVICE.match(line)]
    if "is not a ListConfig" in text:
        lines.append("A list is written in brackets: 'key=[one,other]'")
    unknown = _UNKNOWN_KEY.search(text)
    if unknown:
        group, _, name = unknown[1].rpartition(".")
        choices = [
            kind.replace("/", "=")
            for kind, schema in configuration.GROUPS.items()
            if kind.startswith(f"{group}/") and name in {entry.name for entry in dataclasses.fields(schema)}
        ]
        if choices:
            lines.append(f"Only {', '.join(choices)} has it: add that as well")
        else:
            return f"{unknown[1]}: unknown setting; --help lists all"
    return "\n".join(lines)
