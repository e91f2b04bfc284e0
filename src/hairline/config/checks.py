"""Checks of a composed configuration: single values against the schema's metadata, and settings against each other.

Every check yields one message per fault, so that a user sees all faults at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hairline.config.schema import (
    Compare,
    Compute,
    Config,
    Decision,
    Evaluate,
    FeatureSettings,
    Predict,
    Register,
    Split,
    Sync,
    arguments,
)
from hairline.system import redaction
from hairline.system.errors import HairlineError

_LARGEST_INT = 2**32 - 1  # the largest seed of NumPy and Keras
_RUN_ID = re.compile(r"[0-9a-f]{32}")
# MLflow's limits.
_TAG_KEY, _TAG_CHARACTERS, _NAME_CHARACTERS = re.compile(r"[/\w.\- :]{1,250}"), 5000, 250


class ConfigError(HairlineError):
    """A configuration that cannot run; the message has a line per fault."""


def is_run_id(text: str) -> bool:
    """Return whether a text has the form of an MLflow run id."""
    return _RUN_ID.fullmatch(text) is not None


def unknown(key: str, value: str, known: Iterable[str]) -> str:
    """Return the message for an invalid choice, with the most similar valid one."""
    return f"{key}={value}: unknown.{did_you_mean(value, known)} Available: {', '.join(sorted(known))}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean '...'?` with the most similar known name; empty if no name is similar."""
    similar = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f" Did you mean {similar[0]!r}?" if similar else ""


# --- single values ----------------------------------------------------------------------------------------------------


def unusable_texts(config: Any) -> Iterator[str]:
    """Yield texts that are not valid as a path or name; other checks may open paths only if there are none."""
    for key, value, metadata in _settings(config):
        if isinstance(value, str) and "\0" in value:
            yield f"{key}={value!r}: contains a NUL character; remove it"
        elif (
            isinstance(value, str)
            and metadata.get("path")
            and value.startswith("~")
            and os.path.expanduser(value) == value
        ):
            yield f"{key}={value!r}: no such user has a home folder; write the full path"


def value_faults(config: Any) -> Iterator[str]:
    """Yield every empty text and every number outside the range in its field's metadata."""
    for key, value, metadata in _settings(config):
        if isinstance(value, str) and metadata and not value.strip():
            yield f"{key}: the text is empty; give a value ({metadata['help']})"
        elif isinstance(value, int | float) and not isinstance(value, bool) and not _is_in_range(value, metadata):
            text = f"{value:g}" if isinstance(value, float) else str(value)[:40]
            yield f"{key}={text}: expected {_describe_range(value, metadata)} ({metadata['help']})"


def _bounds(value: float, metadata: Mapping[str, Any]) -> dict[str, float]:
    """Return the bounds of a number; of a whole number without an upper one it is that of seeds, named if exceeded."""
    bounds = {key: metadata[key] for key in ("low", "above", "high", "below") if key in metadata}
    return {"high": _LARGEST_INT} | bounds if isinstance(value, int) and value > _LARGEST_INT else bounds


def _is_in_range(value: float, metadata: Mapping[str, Any]) -> bool:
    bounds = _bounds(value, metadata)
    above, below = bounds.get("above", -math.inf), bounds.get("below", math.inf)
    return bounds.get("low", -math.inf) <= value <= bounds.get("high", math.inf) and above < value < below


def _describe_range(value: float, metadata: Mapping[str, Any]) -> str:
    """Return a range in words, such as `a number above 0 and at most 100`."""
    bounds = _bounds(value, metadata)
    number = "a whole number" if isinstance(value, int) else "a number" if math.isfinite(value) else "a finite number"
    if "low" in bounds and "high" in bounds:
        return f"{number} from {bounds['low']:,} to {bounds['high']:,}"
    words = {"low": "of at least", "above": "above", "high": "at most", "below": "below"}
    limits = [f"{word} {bounds[key]:,}" for key, word in words.items() if key in bounds]
    return f"{number} {' and '.join(limits)}"


def _settings(node: Any, prefix: str = "") -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Yield key, value and field metadata of every setting, and of every item of a list or dictionary."""
    for field in dataclasses.fields(node):
        key, value = f"{prefix}{field.name}", getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            yield from _settings(value, f"{key}.")
        elif isinstance(value, dict):  # the user's own names; their values may be empty
            yield from ((f"{key}.{name}", item, {}) for name, item in value.items())
        else:
            yield from ((key, item, field.metadata) for item in (value if isinstance(value, list) else [value]))


# --- settings against each other --------------------------------------------------------------------------------------


def conflicts(config: Any) -> Iterator[str]:
    """Yield every fault that needs more than one field's metadata, for the configuration of any script."""
    if isinstance(config, Config | Evaluate):
        path = getattr(config.data, "path", None) or ""
        if any("\ud800" <= char <= "\udfff" for char in path):
            yield f"data.path={path!r}: is not valid UTF-8, so it cannot be saved; rename the folder or link to it"
        yield from _split_faults(config.split)
        yield from _cluster_faults(config.runtime, config.features)
    uri = getattr(getattr(config, "tracking", None), "uri", None) or ""
    if uri[:1] in ("'", '"'):
        yield f"tracking.uri={redaction.setting(uri)}: the quote is never closed"
    if isinstance(config, Config):
        yield from _training_faults(config)
    elif isinstance(config, Compare):
        yield from _compare_faults(config)
    elif isinstance(config, Predict):
        yield from _predict_faults(config)
    elif isinstance(config, Register | Sync) and not config.tracking.enabled:
        yield "tracking=none: this script needs MLflow; remove tracking=none"
    if isinstance(config, Register) and any(char in config.tracking.registered_model for char in "/:@"):
        yield f"tracking.registered_model={config.tracking.registered_model!r}: expected a name without / : and @"
    if isinstance(config, Sync) and not Path(config.run).expanduser().is_dir():
        yield f"run={config.run}: no folder there; expected a run directory, such as outputs/<date>/<time>"


def _cluster_faults(runtime: Compute, features: FeatureSettings) -> Iterator[str]:
    if runtime.compute == "ray" and not features.keep:
        yield "features.keep=false: the processes of runtime.compute=ray write features to the cache; remove it"
    if runtime.compute == "ray" and features.engine == "tensorflow":
        yield "features.engine=tensorflow: the processes of runtime.compute=ray run LiteRT; set features.engine=litert"


def _split_faults(split: Split) -> Iterator[str]:
    total = split.train + split.val + split.test
    if abs(total - 1) > 1e-6:
        yield (
            f"split.train={split.train:g}, split.val={split.val:g} and split.test={split.test:g} sum to {total:g}: "
            "expected three shares that sum to 1, such as 0.7, 0.24 and 0.06"
        )
    if split.group_by == "regex" and split.pattern is None:
        yield "split.group_by=regex needs split.pattern: a regular expression whose first group names the photo"
    if split.pattern is not None:
        try:
            re.compile(split.pattern)
        except (re.error, OverflowError, RecursionError) as error:
            yield f"split.pattern={split.pattern!r}: not a regular expression ({error})"


def _training_faults(config: Config) -> Iterator[str]:
    yield from _decision_faults(config.decision)
    yield from _incompatible(config)
    if config.name is not None and len(config.name) > _NAME_CHARACTERS:
        yield f"name: expected at most {_NAME_CHARACTERS} characters, received {len(config.name)}"
    for key, value in config.tags.items():
        if not _TAG_KEY.fullmatch(str(key)):
            yield f"tags: {str(key)[:80]!r} is not a tag name: use letters, digits, spaces and _ - . / :"
        elif len(value) > _TAG_CHARACTERS:
            yield f"tags.{key}: expected at most {_TAG_CHARACTERS} characters, received {len(value)}"
    augment = config.augment
    varies = any(arguments(augment, "mode", "views", "seed").values())
    if not varies and (augment.mode == "fresh" or augment.views > 1):
        yield (
            f"augment.mode={augment.mode}, augment.views={augment.views}, but all views are equal: choose "
            "augment=light or augment=strong, or set a variation, such as augment.flip_horizontal=true"
        )


def _decision_faults(decision: Decision) -> Iterator[str]:
    if isinstance(decision.threshold, str) and decision.threshold not in ("recall", "f1"):
        yield f"decision.threshold={decision.threshold}: expected recall, f1, or a probability such as 0.3"
    band = decision.abstain
    if band is not None and not (len(band) == 2 and band[0] < band[1]):
        yield f"decision.abstain={band}: expected two rising probabilities, such as [0.3,0.7], or null for none"


def _incompatible(config: Config) -> Iterator[str]:
    """Yield a message for every setting that another one excludes."""
    if config.features.engine == "litert" and config.runtime.precision != "float32":
        precision = config.runtime.precision
        yield f"runtime.precision={precision}: LiteRT computes in float32; set features.engine=tensorflow"
    fresh = config.augment.mode == "fresh"
    violated = {
        "augment=none": fresh or config.augment.views > 1,
        "augment.mode=views": fresh,
        "data.crops=0": config.data.crops > 0,
        "data.mix=0": config.data.mix > 0,
        "finetune=none": config.finetune.layers != "none",
        "model.class_weights=none": config.model.class_weights != "none",
        "model.dropout=0": config.model.dropout > 0,
        "report.learning_curve=false": config.report.learning_curve,
        "repeats=1": config.repeats > 1,
    }
    base, lbfgs = config.base is not None, config.optimizer.name == "lbfgs"
    requirements = [
        (config.repeats > 1, "finetune=none", "repeats measures heads on frozen features"),
        (base, "finetune=none", "base= adapts only the head"),
        (base, "data.mix=0", "base= fits no drawn images"),
        (base, "data.crops=0", "base= fits no crops"),
        (base, "repeats=1", "base= fits one head, by cross-validation"),
        (base, "model.class_weights=none", "base= balances the classes itself"),
        (base, "augment=none", "base= has views of its own: each image mirrored and turned"),
        (base, "report.learning_curve=false", "base= refits a head, and a learning curve trains new ones"),
        (lbfgs, "finetune=none", "optimizer=lbfgs fits a head on frozen features"),
        (lbfgs, "augment.mode=views", "optimizer=lbfgs needs the same images in every iteration"),
        (lbfgs, "model.dropout=0", "optimizer=lbfgs needs a deterministic loss"),
        (lbfgs, "repeats=1", "optimizer=lbfgs fits the same head for every seed"),
    ]
    for applies, setting, reason in requirements:
        if applies and violated[setting]:
            yield f"{reason}: set {setting}"


def _compare_faults(config: Compare) -> Iterator[str]:
    if not config.runs and config.mlflow_experiment is None:
        yield (
            "nothing to compare: set runs=[outputs/<date>/<time>,outputs/<date>/<time>], or an MLflow experiment, "
            "mlflow_experiment=<name>"
        )
    for text in config.runs:
        if not is_run_id(text) and not Path(text).expanduser().is_dir():
            yield f"runs: {text} is neither a folder nor an MLflow run id"


def _predict_faults(config: Predict) -> Iterator[str]:
    tiles = config.tiles
    if tiles.stride_px is not None and tiles.overlap:
        yield f"tiles.stride_px={tiles.stride_px} and tiles.overlap={tiles.overlap:g}: set only one of them"
    if tiles.size_px and tiles.stride_px and tiles.stride_px > tiles.size_px:
        yield (
            f"tiles.stride_px={tiles.stride_px} is larger than tiles.size_px={tiles.size_px}, which leaves gaps: "
            "set a stride up to the size"
        )
