"""The settings of all scripts: each dataclass is a configuration group and the only place of its defaults.

The YAML files in `conf/` hold named choices of a group. `conf/config.yaml` (train.py) and `conf/<script>.yaml` compose
them; their first default is `/hydra/schema/<script>@_here_`.
"""

from __future__ import annotations

import copy
import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from omegaconf import MISSING

ClassFrom = Literal["auto", "top", "parent"]
GroupBy = Literal["none", "hash", "block", "regex", "column"]


def setting(default: Any, help: str, *, path: bool = False, **bounds: float) -> Any:
    """Return the dataclass field of a setting.

    Args:
        default: The default; lists and dictionaries are copied.
        help: One line for help pages: what the setting means, its unit, what null means.
        path: The text names a file or folder, so `~` is the user's home folder.
        bounds: Range of the number, or of each number in a list: `low`, `high` inclusive, `above`, `below` exclusive.
    """
    metadata = {"help": help, "path": path, **bounds}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy.copy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def arguments(group: Any, *without: str) -> dict[str, Any]:
    """Return a group as keyword arguments, except the settings named in `without`."""
    return {key: value for key, value in dataclasses.asdict(group).items() if key not in without}


# --- data -------------------------------------------------------------------------------------------------------------


@dataclass
class Data:
    """The images; settings that all sources share."""

    source: str = setting(MISSING, "kind of source; set by data=<choice>")
    limit: int | None = setting(None, "number of images to use, drawn evenly from the classes; null = all", low=1)
    positive_class: str | None = setting(None, "class to detect; null = guess it by its name, such as 'cracked'")
    max_rejected: float = setting(0.01, "largest share of unreadable files; with more, the run stops", low=0, below=1)
    class_map: dict[str, str] = setting({}, "rename classes: {Positive: cracked, Negative: uncracked}; * and ? match")
    mix: float = setting(0.0, "synthetic cracks and look-alikes per training image; 0 = none", low=0, high=4)
    crops: float = setting(0.0, "enlarged crops of training images per training image; 0 = none", low=0, high=4)
    mix_weight: float = setting(0.1, "weight of a synthetic image or crop in the loss; others: 1", above=0, high=100)
    mix_seed: int = setting(0, "seed of the synthetic images and crops; independent of the run's seed", low=0)

    def name(self) -> str:
        """Return the name of the images: their folder's or file's, or that of the source."""
        path = getattr(self, "path", None)
        return Path(os.path.abspath(os.path.expanduser(path))).name if path else self.source


@dataclass
class SyntheticData(Data):
    """Generated concrete-like patches; nothing to download."""

    count: int = setting(2000, "number of images", low=2, high=10_000_000)
    size: int = setting(227, "height and width in pixels", low=32, high=4096)
    classes: int = setting(2, "number of classes", low=2, high=3)
    generator_seed: int = setting(0, "seed of the images; independent of the run's seed", low=0)


@dataclass
class FolderData(Data):
    """A folder with one sub-folder per class, or with train/val/test folders of these."""

    path: str = setting(MISSING, "the folder", path=True)
    class_from: ClassFrom = setting(
        "auto", "top: the outermost folder is the class; parent: the one an image lies in; auto: top, if unambiguous"
    )
    images: str | None = setting(
        None, "with a labelling program's export: folder that is searched for its images; null = path", path=True
    )


@dataclass
class Columns:
    """Names of the columns of a CSV file."""

    path: str = setting("path", "column of the images' paths")
    label: str = setting("label", "column of their classes")
    group: str = setting("group", "column of their groups, if there is one")
    split: str = setting("split", "column of their splits, if there is one")


@dataclass
class ManifestData(Data):
    """A CSV file with the columns path,label[,group,split], or the export of a labelling program."""

    path: str = setting(MISSING, "the CSV, JSON or XML file", path=True)
    images: str | None = setting(
        None, "folder where the paths start, searched for the images; null = the file's", path=True
    )
    columns: Columns = field(default_factory=Columns)


@dataclass
class LabelsData(Data):
    """Labelled windows of photos, written by label.py or exported by the report."""

    path: str = setting(MISSING, "the CSV file, or the folder with labels.csv", path=True)


@dataclass
class ConcreteCracksData(Data):
    """Concrete Crack Images for Classification (METU)."""

    path: str | None = setting(None, "folder, zip or RAR that you already have; null = download", path=True)


@dataclass
class Split:
    """How images are divided into training, validation and test; groups of images stay together."""

    train: float = setting(0.70, "share of the training images", above=0, below=1)
    val: float = setting(0.24, "share of the validation images", above=0, below=1)
    test: float = setting(0.06, "share of the test images", above=0, below=1)
    group_by: GroupBy = setting(
        "hash", "what makes a group: near-identical images, blocks of file order, `pattern`, the manifest's column"
    )
    block_size: int = setting(87, "group_by=block: images per block", low=1)
    pattern: str | None = setting(None, "group_by=regex: its first group, or match, on the path names the group")
    given: Literal["keep", "ignore"] = setting("keep", "a split that folders or the CSV file give; ignore: divide anew")

    def grouping(self) -> dict[str, str | int | None]:
        """Return the settings that say which images form a group."""
        return {"group_by": self.group_by, "block_size": self.block_size, "pattern": self.pattern}


@dataclass
class Augment:
    """Random variations of the training images."""

    mode: Literal["views", "fresh"] = setting("views", "views: fixed, cached; fresh: a new view in every epoch")
    views: int = setting(1, "mode=views: views per image, the original included", low=1, high=10_000)
    seed: int = setting(0, "seed of the views; independent of the run's seed", low=0)
    flip_horizontal: bool = setting(False, "flip at random")
    flip_vertical: bool = setting(False, "flip at random")
    rotation_degrees: float = setting(0.0, "largest rotation", low=0, high=360)
    zoom: float = setting(0.0, "largest zoom, as a fraction", low=0, below=1)
    brightness: float = setting(0.0, "largest change, as a fraction of the range", low=0, below=1)
    contrast: float = setting(0.0, "largest change, as a fraction", low=0, below=1)
    saturation: float = setting(0.0, "largest change, as a fraction", low=0, below=1)


# --- model and training -----------------------------------------------------------------------------------------------


@dataclass
class Model:
    """The backbone and the head on its features."""

    backbone: str = setting(MISSING, "network; set by model=<choice>")
    weights: str = setting("auto", "auto, imagenet, synthetic, random, or a weights file", path=True)
    taps: list[str] = setting([], "layers to take features from, <layer>:max or <layer>:average; [] = last, average")
    dropout: float = setting(0.0, "dropout rate of the features", low=0, below=1)
    label_smoothing: float = setting(0.0, "share of each label spread over all classes", low=0, below=1)
    class_weights: Literal["none", "balanced"] = setting("none", "balanced: rare classes count more in the loss")


@dataclass
class Optimizer:
    """Optimizer of the head; settings that all optimizers share."""

    name: str = setting(MISSING, "optimizer; set by optimizer=<choice>")


@dataclass
class LBFGS(Optimizer):
    """L-BFGS (Liu & Nocedal 1989): fits the head on frozen features to convergence, as logistic regression.

    An epoch is one iteration over all images. `epochs`, `batch_size`, `learning_rate`, the schedule and the seed have
    no effect, except `schedule.keep`.
    """

    l2: float = setting(0.01, "penalty: l2 / 2 * sum of squares of the weights", low=0, high=1_000_000)
    iterations: int = setting(1000, "largest number of iterations", low=1, high=1_000_000)


@dataclass
class GradientDescent(Optimizer):
    """Settings of all mini-batch optimizers; fields of the subclasses are those of `keras.optimizers`."""

    global_clipnorm: float | None = setting(None, "largest norm of all gradients together; null = no clipping", above=0)


@dataclass
class Adam(GradientDescent):
    """Adam (Kingma & Ba 2015)."""

    beta_1: float = setting(0.9, "decay rate of the first moment", low=0, high=0.999999)
    beta_2: float = setting(0.999, "decay rate of the second moment", low=0, high=0.99999999)
    epsilon: float = setting(1e-7, "numerical stability", low=1e-30, high=1)


@dataclass
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    weight_decay: float = setting(0.004, "weight decay", low=0, high=1)


@dataclass
class SGD(GradientDescent):
    """Stochastic gradient descent with momentum."""

    momentum: float = setting(0.9, "momentum", low=0, high=1)
    nesterov: bool = setting(False, "Nesterov momentum")


@dataclass
class RMSprop(GradientDescent):
    """RMSprop (Hinton 2012)."""

    rho: float = setting(0.9, "decay rate of the squared gradients", low=0, high=1)
    momentum: float = setting(0.0, "momentum", low=0, high=1)
    epsilon: float = setting(1e-7, "numerical stability", low=1e-30, high=1)


@dataclass
class Lion(GradientDescent):
    """Lion (Chen et al. 2023); use a learning rate 3 to 10 times lower than Adam's."""

    beta_1: float = setting(0.9, "interpolation of the update", above=0, high=0.999999)
    beta_2: float = setting(0.99, "decay rate of the momentum", low=0, high=0.99999999)
    weight_decay: float | None = setting(None, "weight decay; null = none", low=0, high=1)


@dataclass
class Schedule:
    """Learning-rate schedule and early stopping; settings that all schedules share."""

    name: str = setting(MISSING, "schedule; set by schedule=<choice>")
    patience: int | None = setting(None, "early stopping after epochs without lower val_loss; null = never", low=1)
    keep: Literal["best", "last"] = setting("best", "weights to keep: epoch of the lowest validation loss, or the last")


@dataclass
class Constant(Schedule):
    """Constant learning rate."""


@dataclass
class Cosine(Schedule):
    """Linear warm-up, then half a cosine (Loshchilov & Hutter 2017)."""

    warmup: float = setting(0.1, "share of all steps", low=0, high=1)
    final: float = setting(0.0, "last learning rate, as a fraction of `learning_rate`", low=0, high=1)


@dataclass
class Piecewise(Schedule):
    """The learning rate is multiplied by `factor` at each boundary."""

    boundaries: list[float] = setting([0.5, 0.75], "shares of all steps", low=0, high=1)
    factor: float = setting(0.1, "factor at each boundary", low=1e-9, high=1)


@dataclass
class Finetune:
    """Training of backbone layers after the head."""

    layers: Literal["none", "top", "all"] = setting("none", "which layers of the backbone are trained")
    from_layer: str | None = setting(None, "layers=top: first trained layer, or a prefix; null = the upper third")
    epochs: int = setting(5, "number of epochs", low=1)
    batch_size: int = setting(32, "images per batch", low=1)
    learning_rate: float = setting(1e-5, "learning rate", above=0)


@dataclass
class Decision:
    """How probabilities become classes: chosen on validation images, stored with the model."""

    threshold: float | str = setting(
        "recall", "recall, f1, or the smallest probability that counts as positive", above=0, below=1
    )
    target_recall: float = setting(0.99, "threshold=recall: recall to reach on validation images", above=0, below=1)
    standard_errors: float = setting(1.0, "threshold=recall: balanced accuracy may lie this far below its best", low=0)
    calibration: Literal["temperature", "none"] = setting("temperature", "calibration of the probabilities")
    abstain: list[float] | None = setting(None, "[low, high]: 'cannot tell' between; null = never", low=0, high=1)
    sound_photos_flagged: float = setting(0.05, "share of sound photos that may be called positive", above=0, below=1)


# --- machine, report, MLflow, sweeps ----------------------------------------------------------------------------------


@dataclass
class Engine:
    """What computes features."""

    engine: Literal["auto", "litert", "tensorflow"] = setting("auto", "auto: tensorflow with a GPU, else litert")


@dataclass
class FeatureSettings(Engine):
    """How the backbone's features are computed and cached."""

    keep: bool = setting(True, "cache features for later runs")


@dataclass
class Cache:
    """The cache folder: features, drawn and downloaded images, converted models."""

    max_gigabytes: float = setting(20.0, "size of the cache; least recently used parts are deleted", above=0)


@dataclass
class Threads:
    """The machine."""

    threads: int | None = setting(None, "CPU threads; null = all cores", low=1, high=4096)


@dataclass
class Ray:
    """The cluster of runtime.compute=ray."""

    address: str | None = setting(None, "address of a running cluster, or auto; null = start one on this machine")
    workers: int | None = setting(None, "number of processes; null = one per core", low=1)


@dataclass
class Compute(Threads):
    """The machine or cluster that computes; with compute=ray, `threads` is per process and 1 by default."""

    compute: Literal["local", "ray"] = setting("local", "this process, or processes of a Ray cluster")
    ray: Ray = field(default_factory=Ray)

    def cluster(self) -> dict[str, Any] | None:
        """Return address and number of workers of the Ray cluster; None for this process."""
        return arguments(self.ray) if self.compute == "ray" else None


@dataclass
class Runtime(Compute):
    """The machine that trains, or the cluster that computes the features it trains on."""

    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = setting("float32", "Keras's dtype policy")
    devices: Literal["one", "all"] = setting("one", "all: every visible GPU (MirroredStrategy)")
    deterministic: bool = setting(True, "the same bits every time, on a GPU too")


@dataclass
class Level:
    """What a script draws and saves."""

    level: Literal["full", "light", "none"] = setting(
        "full", "full: all; light: no pictures and no model, but for a sweep's best run; none: not even for that one"
    )


@dataclass
class Report(Level):
    """What a run draws and saves."""

    learning_curve: bool = setting(False, "level=full: train the head on parts of the training images as well")


@dataclass
class Store:
    """MLflow's tracking store."""

    uri: str | None = setting(None, "server or database; null = MLFLOW_TRACKING_URI, else ./mlflow.db")


@dataclass
class Tracking(Store):
    """What is sent to MLflow, and where."""

    enabled: bool = setting(True, "send runs to MLflow")
    required: bool = setting(False, "stop the run if the server fails; otherwise sync.py sends the rest later")
    experiment: str = setting("hairline", "MLflow experiment")
    registered_model: str = setting("hairline", "name in the model registry, for register.py")
    log_model: bool = setting(True, "log the saved model")
    log_diff: bool = setting(False, "log uncommitted.diff, the changes to the code that are in no commit")
    system_metrics: bool = setting(True, "log CPU, memory and GPU usage")


@dataclass
class Sweep:
    """Many runs of one command (-m)."""

    name: str | None = setting(None, "a sweep of this name is resumed; null = a new sweep each time")
    resume: str | None = setting(None, "a sweep's directory: run its missing jobs, with its own command", path=True)
    on_error: Literal["continue", "stop"] = setting("continue", "stop: no new jobs after one has failed")


# --- the scripts ------------------------------------------------------------------------------------------------------


@dataclass
class Config:
    """Settings of train.py."""

    data: Data = MISSING
    split: Split = field(default_factory=Split)
    augment: Augment = field(default_factory=Augment)
    model: Model = field(default_factory=Model)
    optimizer: Optimizer = MISSING
    schedule: Schedule = MISSING
    finetune: Finetune = field(default_factory=Finetune)
    decision: Decision = field(default_factory=Decision)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    cache: Cache = field(default_factory=Cache)
    runtime: Runtime = field(default_factory=Runtime)
    report: Report = field(default_factory=Report)
    tracking: Tracking = field(default_factory=Tracking)
    sweep: Sweep = field(default_factory=Sweep)

    seed: int = setting(0, "seed of the split, of dropout, of the order of batches and of random weights", low=0)
    probe: bool = setting(True, "fit a linear probe in closed form as a baseline")
    repeats: int = setting(1, "trainings of the head with different seeds, to measure the spread", low=1)
    batch_size: int = setting(64, "images per batch", low=1)
    image_size: int = setting(160, "height and width of the network's input in pixels", low=1, high=4096)
    epochs: int = setting(10, "number of epochs", low=1)
    learning_rate: float = setting(1e-3, "learning rate of the head", above=0)
    base: str | None = setting(
        None, "a finished run, as run= of other scripts: adapt its head to these images; null = train anew", path=True
    )
    resume: str | None = setting(None, "a run directory: continue that run, with its own settings", path=True)
    name: str | None = setting(None, "name of the MLflow run; null = made from the overrides")
    tags: dict[str, str] = setting({}, "tags of the MLflow run: {site: bridge}")

    def by_epochs(self) -> bool:
        """Return whether the head is trained by epochs, instead of being solved for."""
        return self.base is None and self.optimizer.name != "lbfgs"


def _run() -> Any:
    """Declare the run whose model a script uses."""
    text = "a run directory, latest, a sweep (its best job), an MLflow run id, or models:/<name>@<alias>"
    return setting(MISSING, text, path=True)


@dataclass
class Evaluate:
    """Settings of evaluate.py."""

    run: str = _run()
    data: Data = MISSING
    part: Literal["all", "train", "val", "test"] = setting("all", "the part of the images, by their folders or the run")
    adapt: Literal["none", "surface"] = setting("none", "surface: adapt to the images, without labels")
    threshold: float | None = setting(
        None, "smallest probability that counts as positive; null = the model's", above=0, below=1
    )
    split: Split = field(default_factory=Split)  # group_by, block_size, pattern: groups of the bootstrap
    features: FeatureSettings = field(default_factory=FeatureSettings)
    cache: Cache = field(default_factory=Cache)
    runtime: Compute = field(default_factory=Compute)
    report: Level = field(default_factory=Level)
    tracking: Tracking = field(default_factory=Tracking)
    seed: int = setting(0, "seed of the bootstrap and of data.limit", low=0)
    name: str | None = setting(None, "name of the data set in tables; null = that of its folder or file")


@dataclass
class Compare:
    """Settings of compare.py."""

    runs: list[str] = setting([], "run directories, folders of them (a sweep), or MLflow run ids", path=True)
    mlflow_experiment: str | None = setting(None, "compare all finished runs of this MLflow experiment")
    metric: str = setting("test_accuracy", "metric that orders the table, and in which runs are compared")
    reference: str | None = setting(None, "run to compare with each other one; null = the best")
    resamples: int = setting(2000, "resamples of the test images", low=100)
    tracking: Store = field(default_factory=Store)


@dataclass
class Tiles:
    """How photos larger than a patch are divided; in pixels of the photo."""

    size_px: int | None = setting(None, "side of a tile; null = that of the training patches", low=1)
    stride_px: int | None = setting(None, "distance between tiles; null = set by overlap", low=1)
    overlap: float = setting(0.0, "share covered by the next tile too; 0.5 takes 4 times as long", low=0, below=1)


@dataclass
class Overlay:
    """The copy of each photo with its heat map."""

    longest_px: int = setting(1600, "longest side; larger photos are reduced by a whole factor", low=64, high=20_000)


@dataclass
class Privacy:
    """What results leave out."""

    strip_location: bool = setting(
        False, "leave out positions: no latitude and longitude, no photos.geojson and photos.kml"
    )


@dataclass
class Scale:
    """Size on the surface."""

    mm_per_pixel: float | None = setting(None, "millimetres per pixel; null = no lengths and areas in mm", above=0)


@dataclass
class ReportPage:
    """The content of report.html; photos.csv always lists all photos."""

    photos: int = setting(2000, "number of photos, by verdict and evidence", low=1)
    embed_megabytes: float = setting(20.0, "pictures embedded in the page; others are linked", low=0)


@dataclass
class Predict:
    """Settings of predict.py."""

    run: str = _run()
    input: str = setting(MISSING, "a photo, a folder, or a pattern such as 'site/**/*.jpg'", path=True)
    output: str | None = setting(None, "folder of the results; null = outputs/<date>/<time>-predict", path=True)
    tiles: Tiles = field(default_factory=Tiles)
    overlay: Overlay = field(default_factory=Overlay)
    privacy: Privacy = field(default_factory=Privacy)
    scale: Scale = field(default_factory=Scale)
    report: ReportPage = field(default_factory=ReportPage)
    features: Engine = field(default_factory=Engine)
    runtime: Compute = field(default_factory=Compute)
    tracking: Store = field(default_factory=Store)
    adapt: Literal["none", "surface"] = setting("none", "surface: adapt to the photos, without labels")
    threshold: float | None = setting(
        None, "smallest probability that counts as positive; null = the model's", above=0, below=1
    )
    positive_class: str | None = setting(None, "class to detect; needed only if the model stores none")
    labels: Literal["none", "folder"] = setting("none", "folder: a photo's folder is its true class")
    max_megapixels: float = setting(80.0, "skip and report larger photos; Pillow's limit is 178", above=0, high=178)


@dataclass
class LabelTiles:
    """How photos are divided; in pixels of the photo."""

    size_px: int | None = setting(None, "side of a tile; null = that of the training patches", low=1)


@dataclass
class Label:
    """Settings of label.py."""

    run: str = _run()
    input: str = setting(
        MISSING, "a photo, a folder, a pattern such as 'site/**/*.jpg', or an inspection's folder", path=True
    )
    output: str | None = setting(None, "folder of labels.csv; null = outputs/<date>/<time>-label", path=True)
    by: str | None = setting(None, "name of the person, for the column by; null = the user's name on this machine")
    open: bool = setting(True, "open the page in the browser; false: only print its address")
    port: int = setting(0, "port on 127.0.0.1; 0 = a free one", low=0, high=65535)
    tiles: LabelTiles = field(default_factory=LabelTiles)
    features: Engine = field(default_factory=Engine)
    cache: Cache = field(default_factory=Cache)
    runtime: Threads = field(default_factory=Threads)
    tracking: Store = field(default_factory=Store)
    seed: int = setting(0, "seed of the random tiles", low=0)


@dataclass
class ExportData:
    """The images an export is tested on."""

    path: str | None = setting(
        None, "labelled images, or the run's images after a move; null = those of its manifest", path=True
    )
    class_from: ClassFrom = setting("auto", "what the class of an image in a folder is named after, as in training")
    class_map: dict[str, str] = setting({}, "rename classes, as in training: {Positive: cracked}; * and ? match")


@dataclass
class Export:
    """Settings of export.py."""

    run: str = _run()
    format: str = setting(MISSING, "litert, litert_int8, onnx, saved_model or keras")
    output: str | None = setting(
        None, "the export's folder; with -m <output>/<format>; null = inside outputs/<date>", path=True
    )
    data: ExportData = field(default_factory=ExportData)
    images: int | None = setting(1000, "number of validation images to test the export on; null = all", low=1)
    runtime: Threads = field(default_factory=Threads)
    tracking: Tracking = field(default_factory=Tracking)


@dataclass
class Register:
    """Settings of register.py."""

    run: str = _run()
    promote: Literal["better", "not_worse"] = setting("better", "not_worse: also if not worse by more than margin")
    margin: float = setting(0.005, "promote=not_worse: balanced accuracy that may be lost", low=0, below=1)
    tracking: Tracking = field(default_factory=Tracking)


@dataclass
class Sync:
    """Settings of sync.py."""

    run: str = setting(MISSING, "a run directory, or a sweep's directory", path=True)
    tracking: Tracking = field(default_factory=Tracking)


# The schema of each script, named after its file in conf/.
SCRIPTS: dict[str, type] = {
    "config": Config,
    "evaluate": Evaluate,
    "compare": Compare,
    "predict": Predict,
    "label": Label,
    "export": Export,
    "register": Register,
    "sync": Sync,
}
# The schema of each group, or of each choice of a group.
GROUPS: dict[str, type] = {
    "data/synthetic": SyntheticData,
    "data/folder": FolderData,
    "data/manifest": ManifestData,
    "data/labels": LabelsData,
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
