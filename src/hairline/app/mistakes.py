"""Commands that cannot work: each fault is named in a sentence, with the corrected command."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import os  # its `exists` and `isfile` are False for a name that is too long, where those of a Path raise an error
import re
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hairline import config as configuration
from hairline.app import choices
from hairline.config import commands, reference

CONFIG_FLAGS = ("--config-dir", "-cd", "--config-path", "-cp")  # they name folders of the user's own choices
_FLAGS = {"--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m"}
_FLAGS |= {"--experimental-rerun", "--shell-completion", "-sc", "--info", "-i"}
_FLAGS_WITH_VALUE = {*CONFIG_FLAGS, "--cfg", "-c", "--package", "-p", "--config-name", "-cn"}
_RUNNING = ("-m", "--multirun", "-r", "--run", *CONFIG_FLAGS, "--config-name", "-cn")  # others only ask for something
_OPTIONAL_VALUE = ("--info", "-i", "--experimental-rerun", "--shell-completion", "-sc")
_GROUP = re.compile(r"^  - (?:override )?/?(\w[\w/]*):", re.MULTILINE)  # an item of a defaults list
_LAUNCHERS = {"joblib": "hydra_joblib_launcher", "slurm": "hydra_submitit_launcher", "ray": "hydra_ray_launcher"}
# Names that other tools use; the first key that the script has is meant.
_ALIASES = {
    "learning_rate": "lr rate eta",
    "batch_size": "bs batch batchsize batch_sz",
    "epochs": "epoch num_epochs n_epochs max_epochs nepochs",
    "image_size": "img_size imgsz img imgsize input_size size resolution",
    "seed": "random_seed random_state",
    "model": "backbone arch architecture network net encoder",
    "optimizer": "optim opt solver",
    "schedule": "scheduler lr_scheduler lr_schedule",
    "augment": "aug augmentation augmentations",
    "optimizer.weight_decay": "wd weightdecay",
    "schedule.patience": "early_stopping early_stop",
    "input": "photos photo image images source path folder dir data_dir data",
    "data.path": "data_dir datadir data_path dataset dataset_path path root folder dir images",
    "base": "pretrained checkpoint ckpt",
    "run": "model checkpoint ckpt weights",
    "output": "out output_dir outdir out_dir save_dir",
    "runtime.threads": "workers num_workers jobs n_jobs cpus",
    "tracking.experiment": "experiment_name",
    "name": "run_name",
    "hydra.run.dir": "output out output_dir outdir out_dir save_dir logdir log_dir",
}
_NAMES = ("format", "metric")  # texts that name one of a list
_WITHOUT_SETTINGS = ("resume", "sweep.resume", "experiment")  # they may set what the command seems to lack


@dataclass(frozen=True)
class Command:
    """A command line and what its script knows.

    Attributes:
        arguments: As typed, without the script.
        conf: The folder of the YAML files.
        script: Name of the script, such as `train`.
    """

    arguments: Sequence[str]
    conf: Path
    script: str = "train"

    @property
    def name(self) -> str:
        """The name of the script's schema and YAML file."""
        return "config" if self.script == "train" else self.script

    @functools.cached_property
    def settings(self) -> dict[str, reference.Setting]:
        """The settings by key; of groups that the command chooses, those of the choice only."""
        schema = configuration.SCRIPTS[self.name]
        return {entry.key: entry for entry in reference.settings(schema, self.values)}

    @functools.cached_property
    def groups(self) -> set[str]:
        """The groups of YAML files that the script composes."""
        return set(_GROUP.findall((self.conf / f"{self.name}.yaml").read_text(encoding="utf-8")))

    @functools.cached_property
    def values(self) -> dict[str, str]:
        """The values by key, without plus signs."""
        pairs = (argument.partition("=") for argument in self.arguments if not argument.startswith(("-", "~")))
        return {key.lstrip("+"): value for key, equals, value in pairs if equals}

    @property
    def multirun(self) -> bool:
        """Whether several jobs run."""
        sweeps = any(self.values.get(key, "null") != "null" for key in ("search", "sweep.resume"))
        return sweeps or bool({"-m", "--multirun"} & set(self.arguments))

    @property
    def only_asks(self) -> bool:
        """Whether Hydra only prints something: --help, --cfg, --info, shell completion."""
        return any(argument.startswith("-") and not argument.startswith(_RUNNING) for argument in self.arguments)

    @property
    def own_choices(self) -> bool:
        """Whether Hydra looks for YAML files elsewhere as well."""
        return any(argument.startswith((*CONFIG_FLAGS, "hydra.searchpath")) for argument in self.arguments)

    def replaced(self, place: int, *new: str, count: int = 1) -> list[str]:
        """Return the arguments with new ones instead of `count` of them from a place on."""
        return [*self.arguments[:place], *new, *self.arguments[place + count :]]

    def is_group(self, name: str) -> bool:
        """Return whether `name=<choice>` chooses a YAML file for this script."""
        return name in self.groups or (name.startswith("hydra/") and (self.conf / name).is_dir())

    def choices(self, group: str) -> set[str]:
        """Return the names of a group's YAML files."""
        return {path.stem for path in (self.conf / group).glob("*.yaml")}

    def is_known(self, key: str) -> bool:
        """Return whether a key is a setting, a group of settings, or one of Hydra's."""
        inside = any(key.startswith(f"{entry.key}.") for entry in self.settings.values() if entry.is_mapping)
        around = any(other.startswith(f"{key}.") for other in self.settings)
        return key in self.settings or inside or around or self.is_group(key) or key.startswith("hydra")

    def meant(self, name: str) -> str | None:
        """Return the key that a name of another tool, a part of a key or a misspelt key means; None if unclear."""
        name = name.strip("-+").replace("-", "_")
        if self.is_known(name):
            return name
        for key, aliases in _ALIASES.items():
            if name.lower() in aliases.split() and self.is_known(key):
                return key
        by_end = [key for key in self.settings if key.endswith(f".{name}")]
        if len(by_end) == 1:
            return by_end[0]
        similar = difflib.get_close_matches(name, self.settings, n=1, cutoff=0.75)
        return similar[0] if similar else None


@dataclass(frozen=True)
class Fault:
    """What is wrong with a command.

    Attributes:
        text: The fault: what was received, and what is expected.
        corrected: The arguments that the user meant; None if unknown.
    """

    text: str
    corrected: list[str] | None = None


def find(command: Command) -> str | None:
    """Return the fault of a command and the corrected command; None if nothing is wrong."""
    texts: list[str] = []
    corrected: list[str] | None = None
    for _ in range(10):  # one correction may show the next fault
        fault = next((fault for check in CHECKS if (fault := check(command)) is not None), None)
        if fault is None:
            break
        if fault.text not in texts:
            texts.append(fault.text)
        corrected = fault.corrected
        if corrected is None:
            break
        command = Command(corrected, command.conf, command.script)
    if corrected is not None:
        texts.append(f"  {commands.command(command.script, *map(commands.word, corrected))}")
    return "\n".join(texts) or None


# --- checks -----------------------------------------------------------------------------------------------------------


def spaces_around_equals(command: Command) -> Fault | None:
    """Return the fault of `batch_size = 512`."""
    arguments = command.arguments
    for place, argument in enumerate(arguments):
        before = arguments[place - 1] if place else ""
        after = arguments[place + 1] if place + 1 < len(arguments) else ""
        if argument.startswith("=") and re.fullmatch(r"[+~]*\w[\w./]*", before):
            start, words = place - 1, [before, argument, after if argument == "=" else ""]
        elif re.fullmatch(r"[+]*\w[\w./]*=", argument) and after and "=" not in after and not after.startswith("-"):
            start, words = place, [argument, after]
        else:
            continue
        count = sum(1 for word in words if word)
        text = " ".join(word for word in words if word)
        corrected = command.replaced(start, "".join(words), count=count)
        return Fault(f"{text}: a setting is written without spaces around the =", corrected)
    return None


def unnamed_value(command: Command) -> Fault | None:
    """Return the fault of a value without a key, which crashes Hydra's parser."""
    for argument in command.arguments:
        key, equals, _ = argument.partition("=")
        if equals and not key.strip("+~ "):
            return Fault(f"{argument[:80]!r}: there is no name before the =. Expected key=value, such as epochs=20")
    return None


def flag_for_setting(command: Command) -> Fault | None:
    """Return the fault of `--model x`: settings are written key=value."""
    arguments = command.arguments
    known = _FLAGS | _FLAGS_WITH_VALUE
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        after = arguments[place + 1] if place + 1 < len(arguments) else "-"
        has_word = not equals and "=" not in after and not after.startswith("-")
        setting = name == "--run" and "run" in command.settings and (has_word or bool(equals))
        if not re.match(r"--?[A-Za-z]", name) or (_is_flag(name, known) and not setting):
            continue
        negated = command.meant(name.removeprefix("--no-")) if name.startswith("--no-") else None
        key = negated or command.meant(name)
        if negated is not None:
            equals, value = "=", "false"
        if key is None:
            return Fault(f"{name}: no such flag; settings are written key=value, and --help lists them")
        words = [argument, after] if has_word and not equals else [argument]
        value = value if equals else after if has_word else "true"
        corrected = command.replaced(place, f"{key}={value}", count=len(words))
        return Fault(f"{' '.join(words)}: settings are written key=value, without dashes", corrected)
    return None


def _is_flag(name: str, known: set[str]) -> bool:
    """Return whether Hydra knows a flag; it accepts abbreviations of long ones."""
    return name in known or (name.startswith("--") and sum(flag.startswith(name) for flag in known) == 1)


def stray_words(command: Command) -> Fault | None:
    """Return the fault of words without a key: the rest of a value with spaces, or a path."""
    arguments = command.arguments
    for place, argument in enumerate(arguments):
        before = arguments[place - 1] if place else ""
        if "=" in argument or argument.startswith(("-", "~")) or not argument or before in _FLAGS_WITH_VALUE:
            continue
        if before in _OPTIONAL_VALUE:
            continue
        end = next(
            (other for other in range(place, len(arguments)) if "=" in arguments[other] or arguments[other][:1] == "-"),
            len(arguments),
        )
        words = arguments[place:end]
        alone = (
            len(words) == 1
            and os.path.exists(argument)
            and not os.path.exists(f"{before.partition('=')[2]} {argument}")
        )
        key, equals, value = before.partition("=")
        entry = command.settings.get(key.lstrip("+")) if equals and not before.startswith("-") else None
        if entry is not None and entry.is_texts and not value.startswith("["):
            joined = f"{key}={_list([value, *words])}"
            text = f"{' '.join([before, *words])}: a list is written in brackets, with commas"
        elif entry is not None and (entry.is_text or entry.is_texts or entry.is_mapping) and not alone:
            joined = " ".join([before, *words])
            text = f"{joined}: a value with spaces is written in quotes"
        else:
            return _path_without_key(command, place, words)
        return Fault(text, command.replaced(place - 1, joined, count=1 + len(words)))
    return None


def _path_without_key(command: Command, place: int, words: Sequence[str]) -> Fault:
    """Return the fault of words before which no text setting stands."""
    text = f"{' '.join(words)}: expected key=value"
    key = next((key for key in ("input", "runs", "run", "data.path") if key in command.settings), None)
    if key == "run" and "data.path" in command.settings and "run" in command.values:
        key = "data.path"
    if key is None or key in command.values or not all(map(_looks_like_path, words)):
        return Fault(text + ", such as epochs=20" * (command.script == "train"))
    value = _list(words) if key == "runs" else " ".join(words)
    return Fault(text, command.replaced(place, f"{key}={value}", count=len(words)))


def _list(items: Sequence[str]) -> str:
    return f"[{','.join(item.strip(',') for item in items)}]"


def list_without_brackets(command: Command) -> Fault | None:
    """Return the fault of `runs=a,b`."""
    for place, argument in enumerate(command.arguments):
        key, _, value = argument.partition("=")
        entry = command.settings.get(key.lstrip("+"))
        if (
            entry is not None
            and entry.is_texts
            and value
            and value[0] not in "['\""
            and not commands.is_function(value)
        ):
            return Fault(f"{argument}: a list is written in brackets", command.replaced(place, f"{key}=[{value}]"))
    return None


def path_for_choice(command: Command) -> Fault | None:
    """Return the fault of `data=<path>`: data= chooses the kind of source."""
    value = command.values.get("data", "")
    if command.own_choices or "data.path" not in command.settings or value in command.choices("data"):
        return None
    if not _looks_like_path(value) or not command.is_group("data"):
        return None
    typed = next(argument for argument in command.arguments if argument.lstrip("+").startswith("data="))
    place = list(command.arguments).index(typed)
    path = [] if "data.path" in command.values else [f"data.path={value}"]
    corrected = command.replaced(place, f"data={_kind(value)}", *path)
    return Fault(f"{typed}: data= names the kind of source, data.path= the place", corrected)


def path_without_choice(command: Command) -> Fault | None:
    """Return the fault of data.path= without data=."""
    value = command.values.get("data.path")
    if value is None or "data" in command.values or command.own_choices or not command.is_group("data"):
        return None
    if set(_WITHOUT_SETTINGS) & set(command.values):
        return None
    place = next(place for place, text in enumerate(command.arguments) if text.lstrip("+").startswith("data.path="))
    kind = _kind(commands.unquoted(value))
    return Fault(f"data.path={value}: the kind of source is missing", command.replaced(place, f"data={kind}", count=0))


def _kind(path: str) -> str:
    return "manifest" if path.lower().endswith(".csv") else "folder"


def _looks_like_path(text: str) -> bool:
    return bool(text) and (any(char in text for char in "/\\~. ") or os.path.exists(text))


def null_for_choice(command: Command) -> Fault | None:
    """Return the fault of `experiment=null`: Hydra takes the name of a choice only."""
    for place, argument in enumerate(command.arguments):
        group, _, value = argument.partition("=")
        group = group.lstrip("+")
        if command.is_group(group) and "null" in value.split(","):
            text = f"{argument}: null is no choice; without a choice, leave {group}= out"
            return Fault(text, command.replaced(place) if value == "null" else None)
    return None


def unknown_choice(command: Command) -> Fault | None:
    """Return the fault of a group=choice without a file in `conf`, with the nearest name."""
    if command.own_choices:
        return None
    for argument in command.arguments:
        group, equals, value = argument.partition("=")
        group = group.lstrip("+~")
        names = command.choices(group) if equals and (command.conf / group).is_dir() else set()
        if not names or group.startswith("hydra") or "(" in value:  # choice(adam,sgd) and the like are Hydra's
            continue
        if value.startswith(("[", "{")):
            return Fault(f"{group}={value[:80]}: expected one of {', '.join(sorted(names))}")
        for choice in value.split(","):
            choice = commands.unquoted(choice)
            if choice and choice[0].isalnum() and choice not in names:
                return Fault(configuration.unknown(group, choice, names))
    return None


def unknown_key(command: Command) -> Fault | None:
    """Return the fault of a key that this script lacks, if it is clear which one is meant."""
    if command.own_choices:
        return None
    for place, argument in enumerate(command.arguments):
        key, equals, value = argument.partition("=")
        name = key.lstrip("+")
        inside = [other for other in command.settings if other.startswith(f"{name}.")]
        if inside and name not in command.settings and not command.is_group(name) and not value.startswith("{"):
            return Fault(f"{argument}: expected one of its settings, such as {inside[0]}; {name} has no choices here")
        if not equals or argument.startswith(("-", "~")) or "@" in name or command.is_known(name):
            continue
        meant = command.meant(name)
        elsewhere = any(name == entry.key for entry in reference.settings(configuration.SCRIPTS[command.name]))
        if meant is None or elsewhere:  # Hydra's message says which choice has the setting
            continue
        corrected = command.replaced(place, f"{meant}={value}")
        return Fault(f"{name}: unknown setting. Did you mean {meant!r}?", corrected)
    return None


def values_without_multirun(command: Command) -> Fault | None:
    """Return the fault of several values of a setting without -m."""
    if command.multirun or command.only_asks:
        return None
    for place, argument in enumerate(command.arguments):
        key, equals, value = argument.partition("=")
        name = key.lstrip("+")
        entry = command.settings.get(name)
        takes_one = command.is_group(name) or (entry is not None and not (entry.is_text or entry.is_texts))
        takes_one |= name in _NAMES or (entry is not None and entry.is_path and _are_paths(value))
        several = len(commands.split(value)) > 1 or value.startswith(("choice(", "range(", "glob(", "interval("))
        if not equals or argument.startswith(("-", "~")) or not takes_one or not several or value[0] in "'\"[{":
            continue
        text = f"{argument}: several values need -m, for one run per combination"
        decimal = entry is not None and float in (entry.kind, *typing.get_args(entry.kind))
        if decimal and re.fullmatch(r"[+-]?\d+,\d+", value):
            point = command.replaced(place, argument.replace(",", "."))
            fixed = commands.command(command.script, *map(commands.word, point))
            text = f"{argument}: decimals are written with a point:\n  {fixed}\nSeveral values need -m:"
        return Fault(text, ["-m", *command.arguments])
    return None


def _are_paths(value: str) -> bool:
    """Return whether a value names several paths, not one with a comma."""
    whole, *parts = map(os.path.expanduser, (value, *value.split(",")))
    return len(parts) > 1 and not os.path.exists(whole) and all(map(os.path.exists, parts))


def path_with_comma(command: Command) -> Fault | None:
    """Return the fault of a path with a comma under -m, where commas separate values."""
    if not command.multirun:
        return None
    for place, argument in enumerate(command.arguments):
        key, _, value = argument.partition("=")
        entry = command.settings.get(key.lstrip("+"))
        if entry is None or not (entry.is_path and entry.is_text) or commands.is_quoted(value) or "," not in value:
            continue
        whole, *parts = map(os.path.expanduser, (value, *value.split(",")))
        if os.path.exists(whole) and not all(map(os.path.exists, parts)):
            corrected = command.replaced(place, f"{key}={commands.quoted(value)}")
            return Fault(f"{argument}: with -m a comma separates values, so a path with one is quoted twice", corrected)
    return None


def removed_choice(command: Command) -> Fault | None:
    """Return the fault of `~schedule`: a choice can be replaced, but not removed."""
    for place, argument in enumerate(command.arguments):
        group = argument[1:].partition("=")[0]
        if argument.startswith("~") and group in command.groups:
            text = f"{argument}: {group} can be replaced, but not removed; choose another, or leave it out"
            return Fault(text, command.replaced(place))
    return None


def own_files(command: Command) -> Fault | None:
    """Return the fault of a YAML file that the command chooses."""
    folders = [command.conf]
    for place, argument in enumerate(command.arguments):
        flag, equals, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            folders.append(Path(value if equals else next(iter(command.arguments[place + 1 :]), "")))
    for group in command.groups:
        value = commands.unquoted(command.values.get(group, ""))
        for path in (folder / group / f"{name}.yaml" for folder in folders for name in value.split(",") if name):
            fault = choices.fault(path, group, command.groups, command.settings) if os.path.isfile(path) else None
            if fault is not None:
                return Fault(fault)
    return None


def missing_launcher(command: Command) -> Fault | None:
    """Return the fault of a launcher whose package is not installed."""
    launcher = command.values.get("hydra/launcher", "")
    if launcher in _LAUNCHERS and importlib.util.find_spec(f"hydra_plugins.{_LAUNCHERS[launcher]}") is None:
        return Fault(f'hydra/launcher={launcher} needs a package: pip install -e ".[{launcher}]"')
    return None


# Checks of the arguments as typed, in this order.
CHECKS: tuple[Callable[[Command], Fault | None], ...] = (
    spaces_around_equals,
    unnamed_value,
    flag_for_setting,
    stray_words,
    list_without_brackets,
    path_for_choice,
    unknown_key,
    path_without_choice,
    null_for_choice,
    unknown_choice,
    values_without_multirun,
    path_with_comma,
    removed_choice,
    own_files,
    missing_launcher,
)
