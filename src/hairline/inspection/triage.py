"""The order in which a person looks at the photos: groups by verdict, the highest evidence first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hairline.data import folders
from hairline.inspection.inspector import UNFAMILIAR
from hairline.inspection.records import Record
from hairline.model.decision import CANNOT_TELL

NOT_INSPECTED = "not inspected"


@dataclass(frozen=True)
class Group:
    """Photos with the same verdict.

    Attributes:
        name: The verdict, as `photos.csv` has it, or "not inspected".
        kind: Its role, whatever the classes are called: positive, doubt, unfamiliar, negative or failed.
        meaning: What it means and what to do, in one line.
        needs_person: Whether a person must look at each of its photos.
    """

    name: str
    kind: str
    meaning: str
    needs_person: bool


def groups(positive: str) -> list[Group]:
    """Return all groups, in the order in which they are looked at.

    Args:
        positive: The positive class.
    """
    return [
        Group(positive, "positive", "Found. Confirm by eye.", True),
        Group(CANNOT_TELL, "doubt", "Too close to the limit. Decide by eye.", True),
        Group(UNFAMILIAR, "unfamiliar", "Unlike the training images. Look at it.", True),
        Group(f"not {positive}", "negative", "Nothing found. Check a few at random.", False),
        Group(NOT_INSPECTED, "failed", "No result. The reason is given.", True),
    ]


def kind(verdict: str, positive: str) -> str:
    """Return the kind of a verdict's group; of several other classes, each is negative."""
    kinds = {group.name: group.kind for group in groups(positive)}
    return kinds.get(verdict, "negative")


def sort(rows: Iterable[dict[str, Any]], positive: str) -> list[dict[str, Any]]:
    """Sort rows of photos.csv by group, then the highest evidence first, then by name."""
    order = {group.kind: place for place, group in enumerate(groups(positive))}

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return order[kind(row["verdict"], positive)], -row["evidence"], folders.natural_key(str(row["path"]))

    return sorted(rows, key=key)


def count(rows: Iterable[dict[str, Any]], failed: int, positive: str) -> dict[str, int]:
    """Count photos by kind of group.

    Args:
        rows: Rows of photos.csv of the inspected photos.
        failed: Number of photos that could not be inspected.
        positive: The positive class.
    """
    kinds = [kind(row["verdict"], positive) for row in rows]
    return {group.kind: kinds.count(group.kind) for group in groups(positive)} | {"failed": failed}


def remarks(record: Record) -> list[str]:
    """Return what a person should know of a photo besides its verdict; "unfamiliar" says what its notes say."""
    notes = [] if record.verdict == UNFAMILIAR else record.notes
    return record.faults + record.header.doubts + notes


def by_reason(remarks: Mapping[str, Iterable[str]]) -> dict[str, dict[str, str]]:
    """Group remarks that differ only in what is particular to a photo.

    Args:
        remarks: Texts by photo. A text begins with the reason; its details follow in parentheses or after a colon.

    Returns:
        For each reason, the most frequent first, the whole text by photo.

    Examples:
        >>> by_reason({"a.jpg": ["small (9 x 9)"], "b.jpg": ["no time: left out", "small (8 x 9)"]})
        {'small': {'a.jpg': 'small (9 x 9)', 'b.jpg': 'small (8 x 9)'}, 'no time': {'b.jpg': 'no time: left out'}}
    """
    reasons: dict[str, dict[str, str]] = {}
    for photo, texts in remarks.items():
        for text in texts:
            reason = re.split(r" \(|: ", text, maxsplit=1)[0]
            reasons.setdefault(reason, {})[photo] = text
    return dict(sorted(reasons.items(), key=lambda item: -len(item[1])))
