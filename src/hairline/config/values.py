"""Checks of single values that hold for every script: numbers that are none, beyond all meaning or out of range."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Iterator
from typing import Any

from hairline.config.schema import Config

_RUN_ID = re.compile(r"[0-9a-f]{32}")
_LEAST, _MOST = -(2**31), 2**32 - 1  # the largest seed; every other whole number means less
_TAG = re.compile(r"[/\w.\- :]{1,250}")  # what MLflow takes for the name of a tag
_TAG_CHARACTERS, _NAME_CHARACTERS = 5000, 250

# Lowest and highest value, both allowed.
_RANGES: dict[str, tuple[float, float]] = {
    "data.count": (2, 10_000_000),
    "data.size": (16, 4096),
    "data.generator_seed": (0, _MOST),
    "image_size": (1, 4096),
    "augment.rotation_degrees": (0, 360),
    "augment.views": (1, 10_000),
    "runtime.threads": (1, 4096),
    "schedule.warmup": (0, 1),
    "schedule.final": (0, 1),
    "schedule.boundaries": (0, 1),
    "schedule.factor": (1e-9, 1),
    "optimizer.beta_1": (0, 0.999999),
    "optimizer.beta_2": (0, 0.99999999),
    "optimizer.rho": (0, 1),
    "optimizer.momentum": (0, 1),
    "optimizer.epsilon": (1e-30, 1),
    "optimizer.weight_decay": (0, 1),
    "optimizer.l2": (0, 1e6),
    "optimizer.iterations": (1, 1_000_000),
}


def names_run(text: str) -> bool:
    """Say whether a text has the form of an MLflow run id."""
    return _RUN_ID.fullmatch(text) is not None


def value_faults(config: Any) -> Iterator[str]:
    """Give every value that no script can use, in words for its user; other checks may then rely on the rest."""
    for key, value in _values(dataclasses.asdict(config)):
        if isinstance(value, str):
            yield from _text_faults(key, value)
        elif isinstance(value, int) and not _LEAST <= value <= _MOST:
            yield f"{key}: expected a whole number from {_LEAST:,} to {_MOST:,}"
        elif isinstance(value, float) and not math.isfinite(value):
            yield f"{key}={value}: expected a finite number"


def range_faults(config: Config) -> Iterator[str]:
    """Give every value of a training's configuration that lies outside its range."""
    for key, value in _values(dataclasses.asdict(config)):
        low, high = _RANGES.get(key, (None, None))
        if low is not None and high is not None and value is not None and not low <= value <= high:
            yield f"{key}={value:g}: expected a number from {low:g} to {high:,g}"
    if config.split.pattern is not None:
        try:
            re.compile(config.split.pattern)
        except (re.error, OverflowError, RecursionError) as error:
            yield f"split.pattern={config.split.pattern!r}: no regular expression ({error})"
    if config.name is not None and not 0 < len(config.name) <= _NAME_CHARACTERS:
        yield f"name: expected 1 to {_NAME_CHARACTERS} characters, received {len(config.name)}"
    if not config.tracking.experiment.strip():
        yield "tracking.experiment: the text is empty; give the experiment a name"
    for key, value in config.tags.items():
        if not _TAG.fullmatch(str(key)):
            yield f"tags: {str(key)[:80]!r} is no name of a tag: letters, digits, spaces and _ - . / : only"
        elif len(value) > _TAG_CHARACTERS:
            yield f"tags.{key}: expected at most {_TAG_CHARACTERS} characters, received {len(value)}"


def _text_faults(key: str, text: str) -> Iterator[str]:
    if "\0" in text:
        yield f"{key}={text!r}: holds a NUL, which no name can"
    elif text.startswith("~") and os.path.expanduser(text) == text:
        yield f"{key}={text!r}: there is no such user's folder"


def _values(found: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(found, dict):
        for name, value in found.items():
            yield from _values(value, f"{key}.{name}" if key else str(name))
    elif isinstance(found, list):
        for value in found:
            yield from _values(value, key)
    elif not isinstance(found, bool):
        yield key, found
