"""The configuration: its schema, its defaults, and the checks that need more than one key.

Each dataclass is a configuration group; it is the only home of the group's defaults. The YAML files under `conf/`
hold named choices. Everything here answers before TensorFlow is imported.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError


class ConfigError(ValueError):
    """A configuration that cannot run; the message says what was received, what was expected and how to mend it."""


# --- data -------------------------------------------------------------------------------------------------------------


@dataclass
class Data:
    """What every source of images has in common."""

    source: str = MISSING
    limit: int | None = None  # images in all, drawn evenly from the classes; null = all
    positive_class: str | None = None  # null = guessed from well-known names such as "cracked"
    max_rejected: float = 0.01  # share of unreadable files above which the run stops


@dataclass
class SyntheticData(Data):
    """Generated concrete-like patches: runs anywhere, needs no download."""

    count: int = 2000
    size: int = 227
    classes: int = 2
    generator_seed: int = 0  # apart from the run's seed, so that seeds share one data set


@dataclass
class FolderData(Data):
    """One sub-folder a class, or train/val/test folders of those."""

    path: str = MISSING


@dataclass
class ManifestData(Data):
    """A CSV file with the columns path,label[,group,split]."""

    path: str = MISSING


@dataclass
class ConcreteCracksData(Data):
    """Concrete Crack Images for Classification (METU); null path = download."""

    path: str | None = None  # a folder, zip or RAR that is already there


@dataclass
class Split:
    """How images are divided; images of one group never fall on two sides."""

    train: float = 0.70
    val: float = 0.24
    test: float = 0.06
    group_by: Literal["none", "hash", "block", "regex", "column"] = "hash"
    block_size: int = 87  # group_by=block: neighbours in file order that count as one photo
    pattern: str | None = None  # group_by=regex: its first group (or the whole match) on the path names the photo


@dataclass
class Augment:
    """Random variations of the training images. Rotation in degrees, the others as fractions of the full range."""

    mode: Literal["views", "fresh"] = "views"  # fixed views, kept in the cache; or a new view of each image every epoch
    views: int = 1  # mode=views: views an image, the image itself included: 1 = no augmentation
    seed: int = 0  # apart from the run's seed, so that runs with other seeds share the views
    flip_horizontal: bool = False
    flip_vertical: bool = False
    rotation_degrees: float = 0.0
    zoom: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0


# --- model and training -----------------------------------------------------------------------------------------------


@dataclass
class Model:
    """The frozen backbone and the head on top of it."""

    backbone: str = MISSING
    weights: str = "auto"  # auto, imagenet, random, or a weights file
    taps: list[str] = field(
        default_factory=list
    )  # layer:max or layer:average, joined; empty = the last layer's average
    dropout: float = 0.0
    label_smoothing: float = 0.0
    class_weights: Literal["none", "balanced"] = "none"


@dataclass
class Optimizer:
    """What every optimizer has in common; the rest are keyword arguments of `keras.optimizers`."""

    name: str = MISSING
    global_clipnorm: float | None = None  # gradients are scaled down to this norm; null = never


@dataclass
class Adam(Optimizer):
    """Adam (Kingma & Ba 2015)."""

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7


@dataclass
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    weight_decay: float = 0.004


@dataclass
class SGD(Optimizer):
    """Stochastic gradient descent with momentum."""

    momentum: float = 0.9
    nesterov: bool = False


@dataclass
class RMSprop(Optimizer):
    """RMSprop (Hinton 2012)."""

    rho: float = 0.9
    momentum: float = 0.0
    epsilon: float = 1e-7


@dataclass
class Lion(Optimizer):
    """Lion (Chen et al. 2023); wants a learning rate 3 to 10 times lower than Adam's."""

    beta_1: float = 0.9
    beta_2: float = 0.99
    weight_decay: float | None = None


@dataclass
class Schedule:
    """What every learning-rate schedule has in common, and when training stops."""

    name: str = MISSING
    patience: int | None = None  # epochs without a better validation loss before training stops; null = never
    keep: Literal["best", "last"] = "best"  # which epoch's weights become the model: lowest validation loss, or last


@dataclass
class Constant(Schedule):
    """One rate throughout."""


@dataclass
class Cosine(Schedule):
    """Linear warm-up, then half a cosine (Loshchilov & Hutter 2017)."""

    warmup: float = 0.1  # share of all steps
    final: float = 0.0  # last rate as a fraction of `learning_rate`


@dataclass
class Piecewise(Schedule):
    """The rate is multiplied by `factor` at each boundary."""

    boundaries: list[float] = field(default_factory=lambda: [0.5, 0.75])  # shares of all steps
    factor: float = 0.1


@dataclass
class Finetune:
    """Training on part of the backbone, after the head."""

    layers: Literal["none", "top", "all"] = "none"
    from_layer: str | None = None  # layers=top: first layer trained, or how its name begins; null = upper third
    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 1e-5


# --- the other rooms --------------------------------------------------------------------------------------------------


@dataclass
class FeatureSettings:
    """How frozen features are computed and kept."""

    engine: Literal["auto", "litert", "tensorflow"] = "auto"  # auto: TensorFlow where a GPU is present, else LiteRT
    keep: bool = True  # in the cache, for the next run
    max_gigabytes: float = 20.0  # of all kept features; above, those not used for longest are deleted


@dataclass
class Runtime:
    """The machine: nothing here is meant to change what is learnt."""

    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    threads: int | None = None  # null = all cores
    devices: Literal["one", "all"] = "one"  # all = every visible GPU (MirroredStrategy)
    deterministic: bool = True


@dataclass
class Report:
    """What a run draws and saves: full; light = numbers, no pictures and no joined model."""

    level: Literal["full", "light"] = "full"


@dataclass
class Tracking:
    """MLflow. `MLFLOW_TRACKING_URI` wins over `uri`; null = sqlite:///mlflow.db in the working directory."""

    enabled: bool = True
    uri: str | None = None
    experiment: str = "hairline"
    log_model: bool = True
    system_metrics: bool = True


@dataclass
class Config:
    """One training run."""

    data: Data = MISSING
    split: Split = field(default_factory=Split)
    augment: Augment = field(default_factory=Augment)
    model: Model = field(default_factory=Model)
    optimizer: Optimizer = MISSING
    schedule: Schedule = MISSING
    finetune: Finetune = field(default_factory=Finetune)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    runtime: Runtime = field(default_factory=Runtime)
    report: Report = field(default_factory=Report)
    tracking: Tracking = field(default_factory=Tracking)

    seed: int = 0
    batch_size: int = 64
    image_size: int = 160
    epochs: int = 10
    learning_rate: float = 1e-3
    resume: str | None = None  # a run directory: that run is continued, with its own settings
    name: str | None = None  # of the MLflow run; null = made from what was overridden
    tags: dict[str, str] = field(default_factory=dict)


# Keys that never change a number: they don't tell two configurations apart.
NOT_IDENTITY = (
    "resume",
    "name",
    "tags",
    "tracking",
    "report",
    "runtime.threads",
    "features.keep",
    "features.max_gigabytes",
)

SCHEMAS: dict[str, type] = {
    "config": Config,
    "data/synthetic": SyntheticData,
    "data/folder": FolderData,
    "data/manifest": ManifestData,
    "data/concrete_cracks": ConcreteCracksData,
    "augment": Augment,
    "model": Model,
    "finetune": Finetune,
    "tracking": Tracking,
    "optimizer/adam": Adam,
    "optimizer/adamw": AdamW,
    "optimizer/sgd": SGD,
    "optimizer/rmsprop": RMSprop,
    "optimizer/lion": Lion,
    "schedule/constant": Constant,
    "schedule/cosine": Cosine,
    "schedule/piecewise": Piecewise,
}


def load(composed: DictConfig) -> Config:
    """Turn a composed configuration into the checked, read-only one a run is given.

    Args:
        composed: What Hydra composed from the schema, the YAML choices and the command line.

    Returns:
        The configuration as plain dataclasses, interpolations resolved.

    Raises:
        ConfigError: Naming every fault at once.
    """
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise ConfigError("\n".join(f"{key} is missing: add {key}=... to the command line" for key in missing))
    config = OmegaConf.to_object(composed)
    if not isinstance(config, Config):
        raise TypeError(f"expected a composed {Config.__name__}, received {type(config).__name__}")
    faults = list(_faults(config))
    if faults:
        raise ConfigError("\n".join(faults))
    return config


def _faults(config: Config) -> Iterator[str]:
    from hairline.data import sources  # pandas takes half a second: --help and misspelt keys answer without it

    split = config.split
    total = split.train + split.val + split.test
    if abs(total - 1) > 1e-6 or min(split.train, split.val, split.test) <= 0:
        yield (
            f"split.train={split.train:g}, split.val={split.val:g} and split.test={split.test:g} sum to {total:g}: "
            "give three positive shares that sum to 1, such as 0.7, 0.24 and 0.06"
        )
    if split.group_by == "regex" and not split.pattern:
        yield "split.group_by=regex needs split.pattern: a regular expression whose first group names the photo"
    if config.data.source not in sources.SOURCES:
        yield unknown("data.source", config.data.source, sources.SOURCES)
    path = getattr(config.data, "path", None)
    if path is not None:
        yield from (f"data.path={path!r}: {fault}" for fault in sources.path_faults(config.data.source, path))
    if isinstance(config.data, SyntheticData) and config.data.classes not in (2, 3):
        yield f"data.classes={config.data.classes}: the generator draws 2 or 3 classes"
    yield from _model_faults(config)
    positive: dict[str, float | None] = {
        "batch_size": config.batch_size,
        "epochs": config.epochs,
        "learning_rate": config.learning_rate,
        "augment.views": config.augment.views,
        "finetune.epochs": config.finetune.epochs,
        "finetune.batch_size": config.finetune.batch_size,
        "finetune.learning_rate": config.finetune.learning_rate,
        "split.block_size": split.block_size,
        "data.limit": config.data.limit,
        "schedule.patience": config.schedule.patience,
        "features.max_gigabytes": config.features.max_gigabytes,
        "runtime.threads": config.runtime.threads,
        "optimizer.global_clipnorm": config.optimizer.global_clipnorm,
    }
    for key, value in positive.items():
        if value is not None and not value > 0:
            yield f"{key}={value:g}: expected a number above 0"
    shares = {
        "data.max_rejected": config.data.max_rejected,
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


def _model_faults(config: Config) -> Iterator[str]:
    from hairline.model import backbones

    row = backbones.BACKBONES.get(config.model.backbone)
    if row is None:
        yield unknown("model.backbone", config.model.backbone, backbones.BACKBONES)
    elif config.image_size < row.minimum_size:
        yield (
            f"image_size={config.image_size}: {config.model.backbone} takes images of at least "
            f"{row.minimum_size} pixels; its weights were made at {row.native_size}"
        )
    weights = config.model.weights
    if weights not in backbones.NAMED_WEIGHTS and not Path(weights).expanduser().is_file():
        yield (
            f"model.weights={weights!r}: neither {', '.join(backbones.NAMED_WEIGHTS)} nor a file that exists; "
            "give the path of a Keras weights file (.h5 or .weights.h5)"
        )


def unknown(key: str, value: str, known: Any) -> str:
    """Say that `value` is no valid choice for `key`, with the nearest valid name."""
    near = difflib.get_close_matches(value, list(known), n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{key}={value}: unknown.{hint} Available: {', '.join(sorted(known))}"


def arguments(group: Any, *without: str) -> dict[str, Any]:
    """Give a configuration group as keyword arguments, less the keys named in `without`."""
    return {key: value for key, value in dataclasses.asdict(group).items() if key not in without}


def save(config: Config, path: Path) -> None:
    """Write the resolved configuration as YAML."""
    path.write_text(OmegaConf.to_yaml(OmegaConf.structured(config)), encoding="utf-8")


def read(path: Path) -> Config:
    """Read a configuration that `save` wrote, as data: checked against the schema like any other.

    Raises:
        ConfigError: If it does not fit the schema.
    """
    try:
        saved: Any = OmegaConf.load(path)
        schema = OmegaConf.structured(Config)
        for group in ("data", "optimizer", "schedule"):
            kind = saved[group]["source" if group == "data" else "name"]
            schema[group] = OmegaConf.structured(SCHEMAS[f"{group}/{kind}"])
        return load(OmegaConf.merge(schema, saved))  # type: ignore[arg-type]
    except (OSError, KeyError, OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"{path} is no configuration of this version: {error}") from error


def resumed(config: Config, overrides: list[str]) -> Config:
    """Give the settings of the run that `config.resume` names.

    Args:
        config: What the command line composed.
        overrides: What it changed explicitly; only these are compared with the saved settings.

    Raises:
        ConfigError: If there is no run, or an override would change its numbers; all such keys are named.
    """
    saved = read(Path(str(config.resume)).expanduser() / "config.yaml")
    asked, before = leaves(config), leaves(saved)
    named = [override.lstrip("+~").partition("=")[0] for override in overrides]
    differing = [
        f"{key}: the run has {before.get(key)}, the command line says {asked.get(key)}"
        for key in sorted(asked.keys() | before.keys())
        if any(key == name or key.startswith(f"{name}.") for name in named)
        and not any(key == name or key.startswith(f"{name}.") for name in NOT_IDENTITY)
        and asked.get(key) != before.get(key)
    ]
    if differing:
        raise ConfigError(
            "these settings would change the numbers of the run that is resumed:\n  "
            + "\n  ".join(differing)
            + "\nleave them out, or start a new run without resume="
        )
    return saved


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dictionaries to dotted keys.

    >>> flatten({"seed": 0, "data": {"source": "folder"}})
    {'seed': 0, 'data.source': 'folder'}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def leaves(config: Config) -> dict[str, Any]:
    """Give every setting under its dotted key."""
    return flatten(dataclasses.asdict(config))


def identity(config: Config) -> str:
    """Digest all that changes the numbers: equal for two configurations exactly if they train the same model.

    Args:
        config: A checked configuration.

    Returns:
        Sixteen hexadecimal digits.
    """
    told = {
        key: value
        for key, value in leaves(config).items()
        if not any(key == name or key.startswith(f"{name}.") for name in NOT_IDENTITY)
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
