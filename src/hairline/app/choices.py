"""The user's own YAML files, such as conf/experiment/own.yaml: their faults are named with file and line."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from hairline.config import reference

_HEADER = "# @package _global_"
_GLOBAL = ("experiment", "search")  # their files set settings of all groups


def fault(path: Path, group: str, groups: set[str], settings: Mapping[str, reference.Setting]) -> str | None:
    """Return the first fault of a YAML file that Hydra would answer with a traceback, or not at all.

    Args:
        path: The file.
        group: The group that it is a choice of.
        groups: All groups of the script.
        settings: All settings of the script.
    """
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return f"{path}, line 1: begins with a byte order mark (BOM); save the file as UTF-8 without BOM"
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        return f"{path}, line {line}: not UTF-8; save the file as UTF-8"
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        return _syntax(path, text, error)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return f"{path}, line {line}: contains {text[error.position]!r}, which YAML does not allow; remove it"
    if group in _GLOBAL and _HEADER.replace(" ", "") not in [line.replace(" ", "") for line in _comments(text)]:
        return f"{path}, line 1: expected {_HEADER!r} as the first line, so that the settings belong to all groups"
    if group not in _GLOBAL or not isinstance(root, yaml.MappingNode):
        return None
    return next(_faults(path, root, groups, settings), None)


def _comments(text: str) -> Iterator[str]:
    """Yield the comments before the first setting."""
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            return
        yield line.strip()


def _syntax(path: Path, text: str, error: yaml.MarkedYAMLError) -> str:
    """Return the message for a file that is not YAML."""
    mark = error.problem_mark or error.context_mark
    number = 1 if mark is None else mark.line + 1
    lines = [*text.splitlines(), ""]
    near = range(min(number, len(lines)), 0, -1)
    tabbed = next((line for line in near if line > number - 2 and "\t" in lines[line - 1]), None)
    if tabbed is not None:
        return f"{path}, line {tabbed}: contains a tab; YAML is indented with spaces"
    return f"{path}, line {number}: not YAML ({error.problem or error.context})"


def _faults(
    path: Path, root: yaml.MappingNode, groups: set[str], settings: Mapping[str, reference.Setting]
) -> Iterator[str]:
    for key, node in root.value:
        place = f"{path}, line {key.start_mark.line + 1}"
        if key.value == "defaults" and isinstance(node, yaml.SequenceNode):
            yield from _default_faults(path, node, groups)
        elif key.value in groups and isinstance(node, yaml.ScalarNode) and key.value not in settings:
            yield (
                f"{place}: {key.value}: {node.value} chooses a file, which belongs in the defaults list:\n"
                f"defaults:\n  - override /{key.value}: {node.value}"
            )
    for keys, node in _scalars(root, ()):
        entry = settings.get(".".join(keys))
        if entry is not None and entry.is_text and node.style is None:
            yield from _text_faults(path, ".".join(keys), node)


def _default_faults(path: Path, node: yaml.SequenceNode, groups: set[str]) -> Iterator[str]:
    for item in node.value:
        if not isinstance(item, yaml.MappingNode):
            continue
        for key, value in item.value:
            match = re.fullmatch(r"(override\s+)?(/?)(\w+)", key.value)
            if match is not None and match[3] in groups and not (match[1] and match[2]):
                yield (
                    f"{path}, line {key.start_mark.line + 1}: - {key.value}: {value.value} replaces nothing; "
                    f"write - override /{match[3]}: {value.value}"
                )


def _scalars(node: yaml.MappingNode, keys: Sequence[str]) -> Iterator[tuple[Sequence[str], yaml.ScalarNode]]:
    for key, value in node.value:
        if isinstance(value, yaml.ScalarNode):
            yield (*keys, str(key.value)), value
        elif isinstance(value, yaml.MappingNode):
            yield from _scalars(value, (*keys, str(key.value)))


def _text_faults(path: Path, key: str, node: yaml.ScalarNode) -> Iterator[str]:
    """Yield the fault of a text that YAML reads as a number or truth value with another spelling."""
    value: Any = OmegaConf.to_container(OmegaConf.create(f"x: {node.value}"))["x"]  # type: ignore[call-overload, index]
    if value is not None and not isinstance(value, str) and str(value) != node.value:
        name = key.rpartition(".")[2]
        yield (
            f"{path}, line {node.start_mark.line + 1}: {key}: {node.value} is read as {value}; write the text in "
            f"quotes: {name}: '{node.value}'"
        )
