"""Classes: their names, which one is positive, renaming them, and rows drawn evenly from them."""

from __future__ import annotations

import fnmatch
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from hairline.config import commands
from hairline.data.folders import nfc
from hairline.system.errors import HairlineError

# Names of the positive class, most specific first, as `_plain` spells them.
_POSITIVE_NAMES = (
    "cracked", "crack", "cracks", "positive", "pos", "with_crack", "defect", "defects", "defective", "damage",
    "damaged",
)  # fmt: skip
_NEGATION = r"(?:un|non|no|not|without|with)"
_KNOWN_NAME = re.compile(
    rf"(?:{_NEGATION}_?)?(?:a_)?(?:crack(?:ed|s)?|defect(?:s|ive)?|damaged?)"
    r"|negative|neg|positive|pos|good|ok|ko|nok|ng|normal|sound|intact|clean|healthy|background|bad|anomal(?:y|ous)|abnormal"
)


class ClassError(HairlineError):
    """Classes that are missing, unknown or ambiguous."""


def is_known_name(name: str) -> bool:
    """Return whether a name is known as that of a class, such as `Non-cracked`, `Positive` or `good`."""
    return _KNOWN_NAME.fullmatch(_plain(name)) is not None


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip().lower())


def subsample(rows: pd.DataFrame, limit: int | None, seed: int) -> pd.DataFrame:
    """Draw `limit` rows evenly from the classes, in their original order; None keeps all rows."""
    if limit is None or limit >= len(rows):
        return rows
    generator = np.random.default_rng([seed, 0x11317])
    shuffled = rows.iloc[generator.permutation(len(rows))]
    rank = shuffled.groupby("label").cumcount()  # 0 for the first row of each class, 1 for the second, ...
    return shuffled.iloc[np.argsort(rank.to_numpy(), kind="stable")[:limit]].sort_index()


def rename_classes(rows: pd.DataFrame, class_map: Mapping[str, str]) -> pd.DataFrame:
    """Rename classes.

    Args:
        rows: With the column label.
        class_map: Old to new names; two classes may become one. In an old name that is no class, `*` stands for any
            characters and `?` for one; the first such pattern that matches counts.

    Raises:
        ClassError: If neither the old nor the new name of a class occurs. (One map serves several datasets, of which
            some may have the new names already.)
    """
    if not class_map:
        return rows
    new_names = {nfc(old): nfc(new) for old, new in class_map.items()}
    present = sorted(set(rows["label"]))
    new = {name: renamed(name, new_names) for name in present}
    absent = sorted(old for old, to in new_names.items() if to not in present and not _matches(old, present))
    if absent:
        raise ClassError(
            f"data.class_map names {', '.join(absent)}: no such class; the classes are {', '.join(present)}"
        )
    names = [new[name] for name in rows["label"]]
    return rows.assign(label=pd.Series(names, index=rows.index, dtype=object))


def renamed(name: str, class_map: Mapping[str, str]) -> str:
    """Return the new name of a class.

    >>> renamed("CD", {"C*": "cracked", "U*": "uncracked"})
    'cracked'
    >>> renamed("good", {"*": "defect", "good": "good"})
    'good'
    """
    if name in class_map:
        return class_map[name]
    return next((new for old, new in class_map.items() if _matches(old, [name])), name)


def _matches(pattern: str, names: Iterable[str]) -> bool:
    """Return whether an old name in a class map is one of the names, or a pattern for one of them."""
    literal = fnmatch.translate(pattern.replace("[", "[[]"))  # brackets stand for themselves
    return any(name == pattern or re.fullmatch(literal, name) for name in names)


def case_variants(labels: Iterable[str]) -> list[list[str]]:
    """Return groups of classes whose names differ only in case, spaces or the form of characters.

    >>> case_variants(["Cracked", "sound", "cracked", "no crack", "no  crack"])
    [['Cracked', 'cracked'], ['no  crack', 'no crack']]
    """
    variants: dict[str, list[str]] = {}
    for name in sorted(set(labels)):
        key = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        variants.setdefault(key, []).append(name)
    return [names for names in variants.values() if len(names) > 1]


def require_two_classes(names: set[str], path: str | None, *, from_table: bool, excluded_by: str = "") -> None:
    """Raise if there are fewer than two classes, which a classifier cannot be trained on (but evaluated on).

    Args:
        names: All classes.
        path: Of the source; None if it has none.
        from_table: Whether the classes come from a CSV file instead of folders.
        excluded_by: Settings that may have excluded classes; empty if none.

    Raises:
        ClassError: With the expected layout.
    """
    if len(names) > 1:
        return
    place = Path(path or "data").expanduser().absolute()
    received = "no images" if from_table else "no class folders"
    if names:
        received = f"only the class {next(iter(names))!r}"
    expected = "at least two classes in the column label"
    if names and excluded_by:
        expected = f"at least two classes; {excluded_by} excludes the others"
    elif not from_table:
        expected = (
            f"one subfolder for each of at least two classes (for example {place.name}/cracked and "
            f"{place.name}/uncracked), or train, val and test folders of those"
        )
    raise ClassError(f"{place if path else 'the data'} holds {received}: expected {expected}")


def class_map_hint(found: Sequence[str], expected: Sequence[str]) -> str:
    """Return the setting that renames the classes of a dataset to those of a model, guessed where names are clear.

    >>> class_map_hint(["cracked", "uncracked"], ["Negative", "Positive"])
    "'data.class_map={cracked: Positive, uncracked: Negative}'"
    >>> class_map_hint(["intact", "Positive"], ["Negative", "Positive"])
    "'data.class_map={intact: Negative}'"
    >>> class_map_hint(["a", "b"], ["Negative", "Positive"])
    "'data.class_map={a: <Negative or Positive>, b: <Negative or Positive>}'"
    """
    other = [name for name in found if name not in expected]
    free = [name for name in expected if name not in found]
    cracked = positive_class(list(found), None), positive_class(list(expected), None)
    if len(other) == len(free) == 2 and None not in cracked:
        other, free = (sorted(names, key=lambda name: name in cracked) for names in (other, free))
    elif len(other) != 1 or len(free) != 1:
        free = [f"<{' or '.join(expected)}>"] * len(other)
    return commands.override("data.class_map", dict(sorted(zip(other, free, strict=True))))


def positive_class(class_names: list[str], named: str | None) -> str | None:
    """Return the class that precision, recall and thresholds refer to.

    Args:
        class_names: All classes.
        named: The user's choice; None guesses from well-known names.

    Returns:
        The name; None with more than two classes or without a well-known name: metrics are then macro averages.

    Raises:
        ClassError: If `named` is not a class.
    """
    named = None if named is None else nfc(named)
    if named is not None and named not in class_names:
        raise ClassError(f"data.positive_class={named}: no such class; the classes are {', '.join(class_names)}")
    if len(class_names) != 2 or named is not None:
        return named if len(class_names) == 2 else None
    return guess_positive(class_names)


def guess_positive(class_names: Sequence[str]) -> str | None:
    """Return the class with a well-known name of a positive one, such as `cracked`; None if there is none.

    >>> guess_positive(["sound", "With-Crack", "stained"])
    'With-Crack'
    """
    by_name = {_plain(name): name for name in class_names}
    return next((by_name[name] for name in _POSITIVE_NAMES if name in by_name), None)
