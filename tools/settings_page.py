"""Write docs/settings.md from the schema: python tools/settings_page.py."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from hairline.config import GROUPS, SCRIPTS

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
_HEAD = """\
# Settings

Every setting of every script, with its default. Write `key=value` on the command line; `python <script>.py --help`
shows the same lists. This page is made from the schema by `python tools/settings_page.py`.
"""


def page() -> str:
    """Return the page in Markdown."""
    parts = [_HEAD]
    for name, schema in SCRIPTS.items():
        script = "train" if name == "config" else name
        parts.append(f"\n## {script}.py\n\n{_table(_settings(schema, ''))}")
        if script == "train":
            parts += _choices()
    return "".join(parts)


def _choices() -> Iterator[str]:
    """Yield a section for each group of which every choice has settings of its own."""
    yield "\n### Settings of one choice\n\nSources of images, optimizers and schedules have settings of their own.\n"
    for name, schema in GROUPS.items():
        group, slash, choice = name.partition("/")
        if not slash:
            continue
        parents = {
            field.name
            for base in schema.__bases__
            if dataclasses.is_dataclass(base)
            for field in dataclasses.fields(base)
        }
        own = [row for row in _settings(schema, f"{group}.") if row[0].partition(".")[2] not in parents]
        if own:
            yield f"\n#### {group}={choice}\n\n{_table(own)}"


def _settings(schema: type, prefix: str) -> list[tuple[str, str, str]]:
    """Return key, default and meaning of each setting below a dataclass."""
    kinds = typing.get_type_hints(schema)
    rows: list[tuple[str, str, str]] = []
    for field in dataclasses.fields(schema):
        if dataclasses.is_dataclass(kinds[field.name]):
            rows += _settings(typing.cast(type, kinds[field.name]), f"{prefix}{field.name}.")
        else:
            rows.append((prefix + field.name, _default(field), _meaning(field)))
    return rows


def _default(field: dataclasses.Field[Any]) -> str:
    """Return a default as it is typed on the command line."""
    value = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    if value == MISSING:
        return "required"
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if isinstance(value, bool | None) else str(value)
    return f"`{text}`"


def _meaning(field: dataclasses.Field[Any]) -> str:
    """Return the help text and the range of a setting."""
    signs = {"low": "at least", "above": "above", "high": "at most", "below": "below"}
    bounds = [f"{words} {field.metadata[key]:,}" for key, words in signs.items() if key in field.metadata]
    return (
        "; ".join([field.metadata.get("help", ""), *([", ".join(bounds)] if bounds else [])])
        .replace("|", "\\|")
        .replace("<", "&lt;")
    )


def _table(rows: list[tuple[str, str, str]]) -> str:
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| `{key}` | {default} | {meaning} |" for key, default, meaning in rows)]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
