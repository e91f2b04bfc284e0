"""Every setting of a script with its type and meaning, read from the schema."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hairline.config.schema import GROUPS


@dataclass(frozen=True)
class Setting:
    """A setting of a script.

    Attributes:
        key: Its dotted key.
        kind: Its type.
        help: One line: what it means.
        default: Its default; `MISSING` if it has none.
        is_path: It names a file or folder.
        bounds: Its range: any of `low`, `above`, `high` and `below`.
        choice: The choice of a group that has it, such as `data=folder`; "" if all have it.
    """

    key: str
    kind: Any
    help: str
    default: Any
    is_path: bool
    bounds: Mapping[str, float]
    choice: str = ""

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of a setting with fixed ones."""
        return typing.get_args(self.kind) if typing.get_origin(self.kind) is typing.Literal else ()

    @property
    def is_text(self) -> bool:
        """Whether it takes a text."""
        return self.kind is str or self.is_optional_text

    @property
    def is_optional_text(self) -> bool:
        """Whether it takes a text or null."""
        return set(typing.get_args(self.kind)) == {str, type(None)}

    @property
    def is_texts(self) -> bool:
        """Whether it takes a list of texts."""
        return bool(self.kind == list[str])

    @property
    def is_mapping(self) -> bool:
        """Whether it takes a mapping of texts."""
        return bool(self.kind == dict[str, str])


def settings(schema: type, chosen: Mapping[str, str] | None = None) -> list[Setting]:
    """Return the settings of a script, group by group.

    Args:
        schema: The script's dataclass.
        chosen: Choices of groups, by group; of other groups all choices' settings are returned.
    """
    found: dict[str, Setting] = {}
    for entry in _settings(schema, "", chosen or {}):
        found.setdefault(entry.key, entry)
    return list(found.values())


@functools.cache
def _kinds(schema: type) -> dict[str, Any]:
    return typing.get_type_hints(schema)


def _settings(schema: type, prefix: str, chosen: Mapping[str, str]) -> Iterator[Setting]:
    kinds = _kinds(schema)
    groups = []
    for field in dataclasses.fields(schema):
        key, kind = f"{prefix}{field.name}", kinds[field.name]
        if dataclasses.is_dataclass(kind):
            groups.append((key, typing.cast(type, kind)))
            continue
        default = field.default_factory() if callable(field.default_factory) else field.default
        about = field.metadata
        bounds = {name: about[name] for name in ("low", "above", "high", "below") if name in about}
        yield Setting(key, kind, about["help"], default, bool(about.get("path")), bounds)
    for key, kind in groups:
        shared = list(_settings(kind, f"{key}.", chosen))
        yield from shared
        known = {entry.key for entry in shared}
        variants = {name.partition("/")[2]: other for name, other in GROUPS.items() if name.startswith(f"{key}/")}
        names = [chosen[key]] if chosen.get(key) in variants else list(variants)
        for name in names:
            if issubclass(variants[name], kind):
                own = (entry for entry in _settings(variants[name], f"{key}.", chosen) if entry.key not in known)
                yield from (dataclasses.replace(entry, choice=f"{key}={name}") for entry in own)
