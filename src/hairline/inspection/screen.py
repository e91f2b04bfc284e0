"""What `predict.py` prints at the end: counts, and the photos that need a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hairline.data.manifest import printable
from hairline.inspection import triage

_MOST = 10  # lines of a group; the report lists all photos


def summary(
    rows: Sequence[dict[str, Any]],
    *,
    problems: Mapping[Path, str],
    remarks: Mapping[str, Sequence[str]],
    others: Sequence[Path],
    positive: str,
) -> str:
    """Return the text: counts of all groups, the photos that need a person, and each remark once.

    Args:
        rows: Rows of photos.csv of the inspected photos.
        problems: Photos that could not be inspected, with the reason.
        remarks: What a person should know of inspected photos, by path.
        others: Files that are not images.
        positive: The positive class.
    """
    blocks = [_counts(rows, len(problems), others, positive)]
    ordered = triage.sort(rows, positive)
    for group in triage.groups(positive):
        members = [row for row in ordered if triage.kind(row["verdict"], positive) == group.kind]
        if group.needs_person and members:
            lines = [f"{row['evidence']:7.2f}  {printable(row['path'])}" for row in members]
            blocks.append(_block(f"{group.name}: {group.meaning} Evidence and photo:", lines))
    by_problem = triage.by_reason({str(path): [reason] for path, reason in problems.items()})
    for reason, texts in by_problem.items():
        lines = [
            f"         {printable(path)}" + f": {printable(text)}" * (text != reason) for path, text in texts.items()
        ]
        blocks.append(_block(f"{triage.NOT_INSPECTED}: {printable(reason)}", lines))
    warnings = [_warning(texts) for texts in triage.by_reason(remarks).values()]
    if warnings:
        blocks.append("\n".join(["Remarks, each with one of its photos:", *warnings]))
    return "\n\n".join(blocks)


def _counts(rows: Sequence[dict[str, Any]], failed: int, others: Sequence[Path], positive: str) -> str:
    counts = triage.count(rows, failed, positive)
    lines = [
        f"{counts[group.kind]:>7,}  {group.name}"
        for group in triage.groups(positive)
        if counts[group.kind] or group.kind == "positive"
    ]
    if others:
        names = ", ".join(printable(path.name) for path in others[:3]) + ", ..." * (len(others) > 3)
        what = "file that is not an image" if len(others) == 1 else "files that are not images"
        lines.append(f"{len(others):>7,}  {what}, skipped: {names}")
    return "\n".join(lines)


def _block(title: str, lines: list[str]) -> str:
    if len(lines) > _MOST:
        lines = [*lines[: _MOST - 1], f"         and {len(lines) - _MOST + 1:,} more: see the report"]
    return "\n".join([title, *lines])


def _warning(texts: Mapping[str, str]) -> str:
    path, text = next(iter(texts.items()))
    return f"{len(texts):>7,}  {printable(path)}: {printable(text)}"
