"""What a schema cannot say: checks of values, and of keys against each other."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hairline.config.schema import Config, Data, Decision, Split, SyntheticData
from hairline.config.values import range_faults
from hairline.system.errors import HairlineError


class ConfigError(HairlineError):
    """A configuration that cannot run; the message says what was received, what was expected and how to mend it."""


def arguments(group: Any, *without: str) -> dict[str, Any]:
    """Give a configuration group as keyword arguments, less the keys named in `without`."""
    return {key: value for key, value in dataclasses.asdict(group).items() if key not in without}


def training_faults(config: Config) -> Iterator[str]:
    """Give every fault of a training's configuration, in words for its user."""
    split = config.split
    total = split.train + split.val + split.test
    if abs(total - 1) > 1e-6 or min(split.train, split.val, split.test) <= 0:
        yield (
            f"split.train={split.train:g}, split.val={split.val:g} and split.test={split.test:g} sum to {total:g}: "
            "give three positive shares that sum to 1, such as 0.7, 0.24 and 0.06"
        )
    yield from grouping_faults(split)
    yield from range_faults(config)
    yield from data_faults(config.data)
    yield from decision_faults(config.decision)
    if config.base is not None and not str(config.base).strip():
        yield "base: the text is empty; give a run directory, an MLflow run id, or models:/<name>@<alias>"
    yield from _conflicts(config)
    positive: dict[str, float | None] = {
        "batch_size": config.batch_size,
        "epochs": config.epochs,
        "learning_rate": config.learning_rate,
        "augment.views": config.augment.views,
        "finetune.epochs": config.finetune.epochs,
        "finetune.batch_size": config.finetune.batch_size,
        "finetune.learning_rate": config.finetune.learning_rate,
        "repeats": config.repeats,
        "data.limit": config.data.limit,
        "schedule.patience": config.schedule.patience,
        "features.max_gigabytes": config.features.max_gigabytes,
        "runtime.threads": config.runtime.threads,
        "optimizer.global_clipnorm": getattr(config.optimizer, "global_clipnorm", None),
    }
    yield from positive_faults(positive)
    shares = {
        "model.label_smoothing": config.model.label_smoothing,
        "model.dropout": config.model.dropout,
        **{f"augment.{key}": getattr(config.augment, key) for key in ("zoom", "brightness", "contrast", "saturation")},
    }
    for key, value in shares.items():
        if not 0 <= value < 1:
            yield f"{key}={value:g}: expected a number from 0 up to, not including, 1"
    for key, value in {"seed": config.seed, "augment.seed": config.augment.seed}.items():
        if value < 0:
            yield f"{key}={value}: expected a whole number from 0"
    varied = any(value for key, value in arguments(config.augment, "mode", "views", "seed").items())
    if not varied and (config.augment.mode == "fresh" or config.augment.views > 1):
        yield (
            f"augment.mode={config.augment.mode}, augment.views={config.augment.views}, but nothing varies between "
            "views: choose augment=light or augment=strong, or set what varies, such as augment.flip_horizontal=true"
        )


def data_faults(data: Data) -> Iterator[str]:
    """Give every fault of the group `data`."""
    path = getattr(data, "path", None)
    if path is not None and any("\ud800" <= char <= "\udfff" for char in path):
        yield f"data.path={path!r}: its bytes are no UTF-8, which settings are saved in; rename it or link to it"
    if isinstance(data, SyntheticData) and data.classes not in (2, 3):
        yield f"data.classes={data.classes}: the generator draws 2 or 3 classes"
    if not 0 <= data.mix <= 4:
        yield f"data.mix={data.mix:g}: expected a number from 0 (none) to 4 drawn images a training image"
    if not 0 <= data.crops <= 4:
        yield f"data.crops={data.crops:g}: expected a number from 0 (none) to 4 parts a training image"
    if not 0 < data.mix_weight <= 100:
        yield f"data.mix_weight={data.mix_weight:g}: expected a number above 0, up to 100; data.mix=0 draws no images"
    if data.mix_seed < 0:
        yield f"data.mix_seed={data.mix_seed}: expected a whole number from 0"
    if not 0 <= data.max_rejected < 1:
        yield f"data.max_rejected={data.max_rejected:g}: expected a number from 0 up to, not including, 1"


def grouping_faults(split: Split) -> Iterator[str]:
    """Give every fault of how the group `split` tells which images belong together."""
    if split.group_by == "regex" and not split.pattern:
        yield "split.group_by=regex needs split.pattern: a regular expression whose first group names the photo"
    yield from positive_faults({"split.block_size": split.block_size})


def positive_faults(values: Mapping[str, float | None]) -> Iterator[str]:
    """Say which of the given settings are no number above zero."""
    for key, value in values.items():
        if value is not None and not 0 < value < math.inf:
            yield f"{key}={value:g}: expected a number above 0"


def threshold_faults(threshold: float | None) -> Iterator[str]:
    """Say whether a threshold that replaces a model's own is no probability."""
    if threshold is not None and not 0 < threshold < 1:
        yield f"threshold={threshold:g}: expected a probability between 0 and 1, or null for the model's own"


def decision_faults(decision: Decision) -> Iterator[str]:
    """Give every fault of the group `decision`."""
    threshold = decision.threshold
    if isinstance(threshold, str) and threshold not in ("recall", "f1"):
        yield f"decision.threshold={threshold}: expected recall, f1, or a probability such as 0.3"
    elif not isinstance(threshold, str) and not 0 < threshold < 1:
        yield f"decision.threshold={threshold:g}: expected recall, f1, or a probability between 0 and 1"
    if not 0 < decision.target_recall < 1:
        yield f"decision.target_recall={decision.target_recall:g}: expected a share between 0 and 1, such as 0.99"
    if not 0 <= decision.standard_errors < math.inf:
        yield f"decision.standard_errors={decision.standard_errors:g}: expected a number from 0"
    band = decision.abstain
    if band is not None and not (len(band) == 2 and 0 <= band[0] < band[1] <= 1):
        yield f"decision.abstain={band}: expected two rising probabilities, such as [0.3,0.7], or null for none"


def _conflicts(config: Config) -> Iterator[str]:
    """Say which settings don't go together."""
    fresh = config.augment.mode == "fresh"
    missed = {
        "augment=none": fresh or config.augment.views > 1,
        "augment.mode=views": fresh,
        "data.crops=0": config.data.crops > 0,
        "data.mix=0": config.data.mix > 0,
        "finetune=none": config.finetune.layers != "none",
        "model.dropout=0": config.model.dropout > 0,
        "repeats=1": config.repeats > 1,
    }
    if config.features.engine == "litert" and config.runtime.precision != "float32":
        precision = config.runtime.precision
        yield f"features.engine=litert computes in 32 bits: it does not go with runtime.precision={precision}"
    based, solved = config.base is not None, config.optimizer.name == "lbfgs"
    needed = [
        (config.repeats > 1, "finetune=none", "repeats measures heads on frozen features"),
        (based, "finetune=none", "base adapts the head alone"),
        (based, "data.mix=0", "base fits the images as they are"),
        (based, "data.crops=0", "base fits the images as they are"),
        (based, "repeats=1", "base fits one head, by cross-validation"),
        (based, "augment=none", "base fits the images as they are"),
        (solved, "finetune=none", "optimizer=lbfgs solves a head on frozen features"),
        (solved, "augment.mode=views", "optimizer=lbfgs goes over the same views again and again"),
        (solved, "model.dropout=0", "optimizer=lbfgs needs a loss that is no draw"),
        (solved, "repeats=1", "optimizer=lbfgs gives the same head for every seed"),
    ]
    for asked, setting, why in needed:
        if asked and missed[setting]:
            yield f"{why}: it goes with {setting} only"


def unknown(key: str, value: str, known: Any) -> str:
    """Say that `value` is no valid choice for `key`, with the nearest valid name."""
    return f"{key}={value}: unknown.{did_you_mean(value, known)} Available: {', '.join(sorted(known))}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Ask, after a space, for the nearest known name; empty where none is near."""
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""
