"""The command line: checked and completed before Hydra reads it, and Hydra's errors in words for the user."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import CompactHydraException
from omegaconf.errors import OmegaConfBaseException

from hairline import config as configuration
from hairline.app.sweep.state import Sweep
from hairline.config import ConfigError
from hairline.system import files
from hairline.training.checkpoint import Checkpoint

_CONFIG_FLAGS = ("--config-dir", "-cd", "--config-path", "-cp")  # they name folders of the user's own choices
_LAUNCHERS = {"joblib": "hydra_joblib_launcher", "slurm": "hydra_submitit_launcher", "ray": "hydra_ray_launcher"}
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
        directory: Where the run or sweep that is resumed was started; its relative paths and its store lie there.
    """

    typed: Sequence[str] = ()
    completed: Sequence[str] = ()
    directory: str | None = None

    @property
    def overrides(self) -> list[str]:
        """The settings that the user typed or deleted (`~key`), without `resume=`."""
        settings = (entry for entry in self.typed if "=" in entry or entry.startswith("~"))
        return [entry for entry in settings if not entry.startswith(("-", "resume="))]

    def repeated(self, script: str, words: Sequence[str]) -> str:
        """Return the command as it was typed, with further settings instead of those for the same keys.

        Args:
            script: The script, as it was typed.
            words: The further settings, quoted for a shell.
        """
        new = {shlex.split(word)[0].partition("=")[0] for word in words}
        old = [shlex.quote(entry) for entry in self.typed if entry.lstrip("+").partition("=")[0] not in new]
        return " ".join(("python", shlex.quote(script), *old, *words))


def parse(arguments: Sequence[str], conf: Path) -> CommandLine:
    """Check a command line and complete it for Hydra.

    Args:
        arguments: The arguments, without the script.
        conf: The folder of the YAML files.

    Raises:
        ConfigError: If a check fails, or there is no run to resume.
        SweepError: If there is no sweep to resume.
    """
    typed = [_without_plus(argument, conf) for argument in arguments]
    for check in CHECKS:
        fault = check(typed, conf)
        if fault is not None:
            raise ConfigError(fault)
    settings = {key: value for key, value in _settings(typed).items() if value != "null"}
    single = _only_asks(typed)
    multirun = bool({"-m", "--multirun"} & set(typed))
    arguments, directory = typed, None
    if "sweep.resume" in settings:
        arguments, directory = _resumed_sweep(typed, settings)
        if single:
            arguments = [_first_value(argument) for argument in arguments]
    elif "resume" in settings and not multirun and not single:
        arguments, directory = _resumed_run(typed, settings)
    if not multirun and not single and {"sweep.resume", "search"} & set(settings):
        arguments = ["-m", *arguments]
    return CommandLine(typed, _readable(arguments), directory)


def quoted(value: object) -> str:
    """Return a value quoted for Hydra's override grammar."""
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


# --- checks -----------------------------------------------------------------------------------------------------------


def unnamed_value(arguments: Sequence[str], conf: Path) -> str | None:
    """Return the fault of a value without a key, which crashes Hydra's parser."""
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        if equals and not key.strip("+~ "):
            return f"{argument[:80]!r}: there is no name before the =. Expected key=value, such as epochs=20"
    return None


def unknown_choice(arguments: Sequence[str], conf: Path) -> str | None:
    """Return the fault of a group=choice without a file in `conf`, with the nearest name."""
    if any(argument.startswith((*_CONFIG_FLAGS, "hydra.searchpath")) for argument in arguments):
        return None  # Hydra looks for choices elsewhere as well
    for argument in arguments:
        group, equals, value = argument.partition("=")
        group = group.lstrip("+~")
        names = {path.stem for path in (conf / group).glob("*.yaml")} if equals else set()
        if not names or group.startswith("hydra") or "(" in value:  # choice(adam,sgd) and the like are Hydra's
            continue
        if value.startswith(("[", "{")):
            return f"{group}={value[:80]}: expected one of {', '.join(sorted(names))}"
        for choice in value.split(","):
            if choice and choice[0].isalnum() and choice not in names | {"null"}:
                return configuration.unknown(group, choice, names)
    return None


def missing_launcher(arguments: Sequence[str], conf: Path) -> str | None:
    """Return the fault of a launcher whose package is not installed."""
    launcher = _settings(arguments).get("hydra/launcher", "")
    if launcher in _LAUNCHERS and importlib.util.find_spec(f"hydra_plugins.{_LAUNCHERS[launcher]}") is None:
        return f'hydra/launcher={launcher} needs a package: pip install -e ".[{launcher}]"'
    return None


# Checks of the arguments as typed, in this order; the first fault is reported.
CHECKS: tuple[Callable[[Sequence[str], Path], str | None], ...] = (unnamed_value, unknown_choice, missing_launcher)


# --- completion -------------------------------------------------------------------------------------------------------


def _settings(arguments: Iterable[str]) -> dict[str, str]:
    return dict(argument.partition("=")[::2] for argument in arguments if not argument.startswith("-"))


def _only_asks(arguments: Iterable[str]) -> bool:
    """Return whether Hydra only prints something: --help, --cfg, --info, shell completion."""
    runs = ("-m", "--multirun", *_CONFIG_FLAGS, "--config-name", "-cn")
    return any(argument.startswith("-") and not argument.startswith(runs) for argument in arguments)


def _without_plus(argument: str, conf: Path) -> str:
    """Remove the plus sign of a choice such as +experiment=recipe: conf/config.yaml lists every group already."""
    group, equals, _ = argument.partition("=")
    name = group.lstrip("+")
    return argument.lstrip("+") if name and equals and (conf / name).is_dir() else argument


def _resumed_run(typed: Sequence[str], settings: dict[str, str]) -> tuple[list[str], str | None]:
    """Return the arguments that resume a run, with its folder, choices and data path, and where it was started.

    The choices make settings valid that belong to one of them, such as data.path; their defaults are not compared
    with the saved settings.
    """
    folder = _folder(settings["resume"])
    saved = configuration.plain(folder / "config.yaml")
    if not saved:
        raise ConfigError(
            f"resume={settings['resume']}: no run there. Expected a run directory with its config.yaml, such as "
            "outputs/<date>/<time>"
        )
    for group in ("experiment", "search"):
        if group in settings:
            raise ConfigError(f"{group}= sets many settings at once, but a resumed run has its own: leave it out")
    implied = [f"resume={quoted(folder)}", f"hydra.run.dir={quoted(folder)}"]
    for group, key in configuration.CHOSEN_BY.items():
        if group not in settings:
            implied.append(f"{group}={saved[group][key]}")
    path = saved["data"].get("path")
    if path is not None and not {"data", "data.path"} & set(settings):
        implied.append(f"data.path={quoted(path)}")
    state = Checkpoint.read(folder)
    rest = [argument for argument in typed if not argument.startswith("resume=")]
    return [*implied, *rest], None if state is None else state.working_directory


def _resumed_sweep(typed: Sequence[str], settings: dict[str, str]) -> tuple[list[str], str | None]:
    """Return the saved arguments of a sweep, replaced and extended by the typed ones, and where it was started."""
    sweep = Sweep.read(_folder(settings["sweep.resume"]))
    saved = [entry for entry in sweep.command if entry.lstrip("+~").partition("=")[0] not in settings]
    rest = [argument for argument in typed if not argument.startswith("sweep.resume=")]
    places = [f"hydra.sweep.dir={quoted(sweep.folder)}", f"sweep.resume={quoted(sweep.folder)}"]
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
    return Path(text.strip("'\"")).expanduser().absolute()


def _readable(arguments: Iterable[str]) -> list[str]:
    """Quote the values that Hydra's grammar cannot read, such as paths with umlauts or brackets."""
    parser = OverridesParser.create()

    def parses(argument: str) -> bool:
        try:
            parser.parse_overrides([argument])
        except CompactHydraException:
            return False
        return True

    result = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        other = f"{key}={quoted(value)}"
        # A value that starts like a quoted text, a list or a mapping stays as it is: Hydra names its fault.
        keep = not value or argument.startswith("-") or value[0] in "'\"[{" or parses(argument) or not parses(other)
        result.append(argument if keep else other)
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
    return "\n".join(lines)
