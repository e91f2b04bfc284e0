"""The page of --help: one line for each setting, with its value and its meaning from the schema."""

from __future__ import annotations

import dataclasses
import re
import textwrap
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from hairline import config as configuration
from hairline.config import commands, reference

_BEGIN, _END = "== Settings", "== Flags =="
_VALUE_WIDTH, _WIDTH = 34, 118


def explained(page: str, script: str) -> str:
    """Return Hydra's help page with its settings explained.

    Args:
        page: As Hydra printed it: the settings are YAML between two headings.
        script: Name of the script.
    """
    page = re.sub(r"python (\w+)\.py(.*?)(  +|$)", _example, page, flags=re.MULTILINE)
    before, begin, rest = page.partition(_BEGIN)
    heading, _, rest = rest.partition("\n")
    settings, end, after = rest.partition(_END)
    if not end:  # another page of Hydra, such as --hydra-help
        return page
    schema = configuration.SCRIPTS["config" if script == "train" else script]
    values = configuration.flatten(yaml.safe_load(settings) or {})
    return "\n".join([f"{before}{begin}{heading}", *_lines(schema, values), "", f"{end}{after}"])


def _example(found: re.Match[str]) -> str:
    """Return a command of the help page as the user starts it; what stands beside it stays in its column."""
    program = commands.command(found[1])
    padding = " " * (len(f"python {found[1]}.py") - len(program)) if found[3] else ""
    return f"{program}{found[2]}{padding}{found[3]}"


def _lines(schema: type, values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the settings that have no group, then group by group."""
    helps = {entry.key: entry for entry in reference.settings(schema)}
    group = ""
    for key in sorted(values, key=lambda key: "." in key):  # stable: the order of the schema
        name = key.rpartition(".")[0]
        if name != group:
            yield from ("", f"{name}: {_describe(schema, name)}")
            group = name
        entry = helps.get(key) or next((helps[other] for other in helps if key.startswith(f"{other}.")), None)
        yield from _line(f"  {key}={_shown(values[key])}", "" if entry is None else _meaning(entry))


def _line(setting: str, meaning: str) -> list[str]:
    """Return the lines of one setting: its meaning beside it, wrapped."""
    width = _WIDTH - _VALUE_WIDTH - 2
    first, *rest = textwrap.wrap(meaning, width) or [""]
    beside = [f"{setting:{_VALUE_WIDTH}}  {first}".rstrip()]
    if len(setting) > _VALUE_WIDTH:
        beside = [f"{setting}  {meaning}"] if len(setting) + len(meaning) + 2 <= _WIDTH else [setting]
        rest = [] if len(beside[0]) > len(setting) else [first, *rest]
    return [*beside, *(" " * (_VALUE_WIDTH + 2) + line for line in rest)]


def _meaning(entry: reference.Setting) -> str:
    """Return what a setting means, and the values it may have if the text does not name them."""
    choices = [str(choice) for choice in entry.choices]
    named = all(choice in entry.help for choice in choices)
    return entry.help if named or not choices else f"{entry.help} ({', '.join(choices)})"


def _describe(schema: type, group: str) -> str:
    """Return the first sentence of a group's docstring."""
    for name in group.split("."):
        schema = typing.get_type_hints(schema)[name]
        if not dataclasses.is_dataclass(schema):
            return ""
    first = (schema.__doc__ or "").strip().splitlines()[0].rstrip(".")
    return first.partition("; settings that all")[0]


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if value == "???":
        return "<required>"
    return str(value).replace(" ", "") if isinstance(value, list | dict) else str(value)
