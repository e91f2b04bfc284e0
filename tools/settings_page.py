"""Write docs/settings.md from the schema: python tools/settings_page.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from hairline.config import GROUPS, SCRIPTS, reference

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
        rows = [entry for entry in reference.settings(schema) if not entry.choice]
        parts.append(f"\n## {script}.py\n\n{_table(rows)}")
        if script == "train":
            parts += _choices(schema)
    return "".join(parts)


def _choices(schema: type) -> Iterator[str]:
    """Yield a section for each choice of a group that has settings of its own."""
    yield "\n### Settings of one choice\n\nSources of images, optimizers and schedules have settings of their own.\n"
    for name in filter(lambda name: "/" in name, GROUPS):
        group, choice = name.split("/")
        title = f"{group}={choice}"
        if own := [entry for entry in reference.settings(schema, {group: choice}) if entry.choice == title]:
            yield f"\n#### {title}\n\n{_table(own)}"


def _default(value: Any) -> str:
    """Return a default as it is typed on the command line."""
    if value == MISSING:
        return "required"
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if isinstance(value, bool | None) else str(value)
    return f"`{text}`"


def _meaning(entry: reference.Setting) -> str:
    """Return the help text and the range of a setting."""
    signs = {"low": "at least", "above": "above", "high": "at most", "below": "below"}
    bounds = [f"{words} {entry.bounds[key]:,}" for key, words in signs.items() if key in entry.bounds]
    return "; ".join([entry.help, *([", ".join(bounds)] if bounds else [])]).replace("|", "\\|").replace("<", "&lt;")


def _table(entries: list[reference.Setting]) -> str:
    rows = [f"| `{entry.key}` | {_default(entry.default)} | {_meaning(entry)} |" for entry in entries]
    return "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
