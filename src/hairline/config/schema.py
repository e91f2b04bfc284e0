"""The schema of `train.py`: each dataclass is a configuration group, and the only home of the group's defaults.

The YAML files under `conf/` hold named choices.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from omegaconf import MISSING

# --- data -------------------------------------------------------------------------------------------------------------


@dataclass
class Data:
    """What every source of images has in common."""

    source: str = MISSING
    limit: int | None = None  # images in all, drawn evenly from the classes; null = all
    positive_class: str | None = None  # null = guessed from well-known names such as "cracked"
    max_rejected: float = 0.01  # share of unreadable files above which the run stops
    class_map: dict[str, str] = field(default_factory=dict)  # other names for the classes: {Positive: cracked}
    mix: float = 0.0  # images drawn on sound training images, per training image: 0 = none
    crops: float = 0.0  # parts of training images, enlarged, per training image: 0 = none
    mix_weight: float = 0.1  # what one of either counts in the loss; an image of the source counts 1
    mix_seed: int = 0  # apart from the run's seed, so that seeds share what is drawn


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

    def grouping(self) -> dict[str, str | int | None]:
        """Give the keys that say which images belong together."""
        return {"group_by": self.group_by, "block_size": self.block_size, "pattern": self.pattern}


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
    weights: str = "auto"  # auto, imagenet, synthetic, random, or a weights file
    taps: list[str] = field(
        default_factory=list
    )  # layer:max or layer:average, joined; empty = the last layer's average
    dropout: float = 0.0
    label_smoothing: float = 0.0
    class_weights: Literal["none", "balanced"] = "none"


@dataclass
class Optimizer:
    """What every optimizer has in common."""

    name: str = MISSING


@dataclass
class LBFGS(Optimizer):
    """L-BFGS (Liu & Nocedal 1989) solves a head on frozen features to its minimum: logistic regression, in a second.

    Every epoch is an iteration over all images. `epochs`, `batch_size`, `learning_rate`, the schedule's rate and the
    seed have no part in it; `schedule.keep` has.
    """

    l2: float = 0.01  # half of it times the weights' squares, on standardised features, is added to the loss
    iterations: int = 1000  # at most


@dataclass
class GradientDescent(Optimizer):
    """What those that go batch by batch have in common; the rest are keyword arguments of `keras.optimizers`."""

    global_clipnorm: float | None = None  # gradients are scaled down to this norm; null = never


@dataclass
class Adam(GradientDescent):
    """Adam (Kingma & Ba 2015)."""

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7


@dataclass
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    weight_decay: float = 0.004


@dataclass
class SGD(GradientDescent):
    """Stochastic gradient descent with momentum."""

    momentum: float = 0.9
    nesterov: bool = False


@dataclass
class RMSprop(GradientDescent):
    """RMSprop (Hinton 2012)."""

    rho: float = 0.9
    momentum: float = 0.0
    epsilon: float = 1e-7


@dataclass
class Lion(GradientDescent):
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


# --- from probabilities to answers ----------------------------------------------------------------------------------


@dataclass
class Decision:
    """How probabilities become answers; chosen on validation images, stored with the model."""

    threshold: float | str = "recall"  # recall, f1, or the probability from which on the positive class is answered
    target_recall: float = 0.99  # threshold=recall: the recall to be sure of
    standard_errors: float = 1.0  # threshold=recall: how far below its best the balanced accuracy may lie
    calibration: Literal["temperature", "none"] = "temperature"
    abstain: list[float] | None = None  # [low, high]: between these the answer is "cannot tell"


# --- the other rooms --------------------------------------------------------------------------------------------------


@dataclass
class Engine:
    """What computes features."""

    engine: Literal["auto", "litert", "tensorflow"] = "auto"  # auto: TensorFlow where a GPU is present, else LiteRT


@dataclass
class FeatureSettings(Engine):
    """How frozen features are computed and kept."""

    keep: bool = True  # in the cache, for the next run
    max_gigabytes: float = 20.0  # of all kept features; above, those not used for longest are deleted


@dataclass
class Threads:
    """The machine."""

    threads: int | None = None  # CPU threads; null = all cores


@dataclass
class Runtime(Threads):
    """The machine: nothing here is meant to change what is learnt."""

    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    devices: Literal["one", "all"] = "one"  # all = every visible GPU (MirroredStrategy)
    deterministic: bool = True


@dataclass
class Report:
    """What a run draws and saves.

    full = all; light = numbers and tables, no pictures and no joined model; none = the same, and the best run of a
    sweep stays as light as the others.
    """

    level: Literal["full", "light", "none"] = "full"
    learning_curve: bool = False  # level=full: the head trained on parts of the training images as well


@dataclass
class Store:
    """MLflow's store. `MLFLOW_TRACKING_URI` wins over `uri`; null = sqlite:///mlflow.db in the working directory."""

    uri: str | None = None


@dataclass
class Tracking(Store):
    """What MLflow is sent, and where."""

    enabled: bool = True
    required: bool = (
        False  # whether a run ends where the server fails while it goes on; else what it tells is sent later
    )
    experiment: str = "hairline"
    registered_model: str = "hairline"  # the name under which register.py keeps versions
    log_model: bool = True
    system_metrics: bool = True


@dataclass
class Sweep:
    """Many runs of one command (-m)."""

    name: str | None = None  # the same name again goes on with that sweep; null = a new sweep each time
    resume: str | None = None  # a sweep's directory: what is missing there is run, with the command it was started by
    on_error: Literal["continue", "stop"] = "continue"  # whether a failed job stops those that have not begun


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
    decision: Decision = field(default_factory=Decision)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    runtime: Runtime = field(default_factory=Runtime)
    report: Report = field(default_factory=Report)
    tracking: Tracking = field(default_factory=Tracking)
    sweep: Sweep = field(default_factory=Sweep)

    seed: int = 0
    probe: bool = True  # a linear probe in closed form beside the head: a second's baseline
    repeats: int = 1  # how often the head is trained, with seeds of its own, to measure the spread
    batch_size: int = 64
    image_size: int = 160
    epochs: int = 10
    learning_rate: float = 1e-3
    base: str | None = None  # a finished run: its network stays, its head and threshold are adapted to the images
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
    "sweep",
    "probe",
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
    "decision": Decision,
    "report": Report,
    "tracking": Tracking,
    "optimizer/adam": Adam,
    "optimizer/adamw": AdamW,
    "optimizer/sgd": SGD,
    "optimizer/rmsprop": RMSprop,
    "optimizer/lion": Lion,
    "optimizer/lbfgs": LBFGS,
    "schedule/constant": Constant,
    "schedule/cosine": Cosine,
    "schedule/piecewise": Piecewise,
}
