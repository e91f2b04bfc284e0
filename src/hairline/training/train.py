"""The story of `train.py`: from a source of images to a saved model and its report.

TensorFlow takes seconds to import, so whatever needs it is imported inside the functions: errors in settings and images
are reported first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
from pathlib import Path

from hairline import config as configuration
from hairline import tracking
from hairline.config import Config, LabelsData, arguments, commands
from hairline.data import labels, manifest
from hairline.data.prepare import Dataset, prepare
from hairline.model import backbones
from hairline.system import cache, files, memory, provenance
from hairline.system.process import Process
from hairline.system.worker import Local, Worker
from hairline.training import checkpoint, networks, summary
from hairline.training.base import Base, BaseError
from hairline.training.checkpoint import Checkpoint
from hairline.training.finetune import finetune
from hairline.training.head import FitSettings, Frozen, Hooks, PassSettings, frozen_features
from hairline.training.networks import Placed
from hairline.training.stages import Stages
from hairline.training.start import Pretrained, Start

log = logging.getLogger(__name__)

# Settings that are not logged as parameters: they do not describe what the run tried.
_NOT_PARAMETERS = ("tracking", "name", "tags", "resume")
# What conf/config.yaml chooses, and the settings without effect when base= is given.
_DEFAULTS = {"model.backbone": "mobilenetv2", "optimizer.name": "adam", "schedule.name": "constant"}
_UNUSED_WITH_BASE = (
    "optimizer.name",
    "schedule.name",
    "model.dropout",
    "model.label_smoothing",
    "epochs",
    "batch_size",
    "learning_rate",
)
_DIFF = "uncommitted.diff"  # may hold what is not meant for a server
_INPUTS = ("config.yaml", "environment.json", "manifest.csv", "rejected.csv")


def train(
    config: Config, directory: Path, overrides: list[str], process: Process, place: Worker | Local
) -> dict[str, float]:
    """Train, evaluate and save one run, or resume the run in `directory` where `config.resume` is set.

    Args:
        config: Checked configuration.
        directory: The run directory; all results are written there and mirrored to MLflow.
        overrides: What the command line changed, for the run's name.
        process: State that lasts for the process.
        place: Where the networks live, from `place.place`; holds nothing yet.

    Returns:
        The flat metrics of `metrics.json`.

    Raises:
        HairlineError: If another process works on the run, or its images or settings do not fit.
    """
    base = None
    if config.base is not None:
        base = Base.of(config.base, config.tracking.uri, engine=config.features.engine, seed=config.seed)
        config = with_base(config, base)
    with files.locked(directory):
        state = begin(config, directory)
        return run_stages(config, base, directory, overrides, state, process, place)


def pretrained(config: Config) -> Pretrained:
    """Return the pretrained backbone; its weights are downloaded where needed."""
    return Pretrained.find(
        config.model,
        image_size=config.image_size,
        seed=config.seed,
        engine=config.features.engine,
        runtime=config.runtime,
        finetune=config.finetune,
    )


def run_stages(
    config: Config,
    base: Base | None,
    directory: Path,
    overrides: list[str],
    state: Checkpoint,
    process: Process,
    place: Worker | Local,
) -> dict[str, float]:
    """Run the stages of a training in order; arguments and result as in `train`."""
    seconds = Stages(process.signals)
    solver = "refit" if config.base is not None else config.optimizer.name
    fit = fit_settings(config)
    not_curves = {"seconds"} | ({"learning_rate"} if config.schedule.name == "constant" else set())
    memory.limit_heaps()
    with seconds("data"):
        # The network is built, and converted where necessary, while the images are checked; weights that need a
        # download wait until they were.
        start: Start | None = base or (None if needs_download(config) else pretrained(config))
        placed = None if start is None else networks.begin(place, start, config.runtime, config.seed)
        data = prepare(
            config.data,
            config.split,
            seed=config.seed,
            process=process,
            threads=readers(config, place),
            positive=None if base is None else base.bundle.positive_class,
        )
        start = start or pretrained(config)
        placed = placed or networks.begin(place, start, config.runtime, config.seed)
        data = start.check(data)
        warn_of_large_batch(config, data)
        state.expect(data.digest, len(data.manifest), start.recipe.model_key(), start.origin)
    with contextlib.ExitStack() as stack:
        with seconds("tracking"):  # MLflow takes seconds to import
            tracked = tracking.start(
                **arguments(config.tracking, "log_model", "log_diff", "registered_model"),
                # A resumed run keeps its name: what was typed beside resume= does not describe it.
                name=config.name
                or tracking.begun_name(directory)
                or summary.run_name(overrides, config.model.backbone, solver),
                tags={**config.tags, "configuration": configuration.identity(config)},
                directory=directory,
            )
            run = stack.enter_context(tracked)

        def on_epoch(epoch: int, row: dict[str, float]) -> None:
            values = {f"epoch_{key}": value for key, value in row.items() if key not in not_curves}
            run.metrics(values, step=epoch)

        hooks = Hooks(on_epoch, state, process.signals)
        with seconds("setup"):
            from hairline.training import results  # its libraries take seconds to import, while the network is built

            record_inputs(config, data, start.origin, directory, run)
        with seconds("features"):
            check_first_layer(config, placed)
            frozen = features(config, data, start, placed, process)
            if config.report.level == "full" or process.sweep is None:  # the best job of a sweep does it for all
                cache.evict(config.cache.max_gigabytes)
            run.parameters({"weights": start.origin, "taps": " ".join(frozen.recipe.taps) or "last layer"})
        with seconds("head"):
            head = start.head(data, frozen, fit, hooks)
            head.history.to_csv(directory / "history.csv", index=False)
        if config.finetune.layers != "none":
            with seconds("finetune"):
                head = finetune(
                    placed.local.backbone, data, frozen, head, config.finetune, fit, pass_settings(config), hooks
                )
                head.history.to_csv(directory / "history.csv", index=False)
        trained = results.Trained(config, directory, start, data, placed, frozen, head)
        metrics = results.evaluate(trained, fit, run, seconds, process)
    state.finish(keep=config.report.level == "light")  # keep the weights: a sweep saves the model of its best job later
    results.log_results(trained, metrics, run, process=process)
    return metrics


def begin(config: Config, directory: Path) -> Checkpoint:
    """Save the settings before anything that takes time, and return the run's state: new, or where it stopped.

    Raises:
        CheckpointError: If the directory holds another run.
    """
    identity = configuration.identity(config)
    results = ("metrics.json", "model/bundle.json")  # a model alone: the run was killed after it was saved
    if config.resume is None and any((directory / file).is_file() for file in results):
        resume = commands.command("train", commands.override("resume", str(directory)))
        raise checkpoint.CheckpointError(
            f"{directory} holds a run with results, which would be mixed with this run's: choose another "
            f"hydra.run.dir, delete that folder, or resume that run: {resume}"
        )
    state = Checkpoint.read(directory) if config.resume else None
    if config.resume is None or (state is None and tracking.has_metrics(directory)):
        tracking.forget(directory)  # journal of an earlier training in the same folder
    elif state is not None and state.identity != identity:
        raise checkpoint.CheckpointError(
            f"{directory / checkpoint.FILE} was written with other settings or by another version of this "
            "program: delete it, and resume= restarts the training with the settings in config.yaml"
        )
    configuration.save(dataclasses.replace(config, resume=None), directory / "config.yaml")
    if state is None:  # a new run, or a resumed one without a state file: train from the start
        return Checkpoint.begin(directory, identity)
    state.reopen()
    return state


def with_base(config: Config, base: Base) -> Config:
    """Return the settings with those that the base brings: backbone, taps, image size, precision; without a probe.

    Raises:
        BaseError: If they name another backbone, or set how a head is trained by epochs.
    """
    backbone, image_size = base.bundle.backbone, base.bundle.image_size
    taps = backbone["taps"].split()
    given = {"model.backbone": backbone["name"], "model.taps": taps, "image_size": image_size}
    chosen, default = configuration.leaves(config), configuration.leaves(Config()) | _DEFAULTS
    # Settings that differ from the default and from what the base brings.
    unused = [
        key
        for key in (*given, *_UNUSED_WITH_BASE)
        if chosen[key] != default[key] and chosen[key] != given.get(key, default[key])
    ]
    if unused:
        raise BaseError(
            "base= brings its own backbone and image size, and fits its head to convergence: remove "
            f"{', '.join(f'{key}={chosen[key]}' for key in unused)}, which would have no effect"
        )
    positive = base.bundle.positive_class
    if config.data.positive_class not in (None, positive):
        raise BaseError(
            f"data.positive_class={config.data.positive_class}: the base's positive class is {positive or 'none'}, and "
            "its scores belong to that; leave data.positive_class out"
        )
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, backbone=backbone["name"], taps=taps, weights="auto"),
        image_size=image_size,
        runtime=dataclasses.replace(config.runtime, precision=base.bundle.precision),  # type: ignore[arg-type]
        probe=False,
    )


def fit_settings(config: Config) -> FitSettings:
    """Return how the head is trained."""
    return FitSettings(
        optimizer=config.optimizer,
        schedule=config.schedule,
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        dropout=config.model.dropout,
        label_smoothing=config.model.label_smoothing,
        balanced=config.model.class_weights == "balanced",
        drawn_weight=config.data.mix_weight,
        seed=config.seed,
    )


def warn_of_large_batch(config: Config, data: Dataset) -> None:
    """Log a warning where one batch holds all training images of a head that is trained by epochs."""
    views = config.augment.views if config.augment.mode == "views" else 1
    train_images = len(data.rows("train")) * views
    if config.by_epochs() and config.batch_size > train_images:
        log.warning(
            "WARNING: batch_size=%d is larger than the training split (%d images%s): each epoch is one step",
            config.batch_size,
            train_images,
            " with their views" if views > 1 else "",
        )


def record_inputs(config: Config, data: Dataset, weights: str, directory: Path, run: tracking.Run) -> None:
    """Write and log what the run starts from: images, environment, settings."""
    for name in ("rejected.csv", _DIFF):  # of a run that was killed in this folder
        (directory / name).unlink(missing_ok=True)
    manifest.write(data.manifest, directory / "manifest.csv")
    if len(data.rejected):
        manifest.write(data.rejected, directory / "rejected.csv")
    positive = None if data.positive is None else data.class_names[data.positive]
    about = provenance.describe() | {"backbone_weights": weights, "positive_class": positive}
    environment = json.dumps(about, indent=2, ensure_ascii=False)
    files.write_text(directory / "environment.json", environment + "\n")
    if changes := provenance.uncommitted():
        files.write_text(directory / _DIFF, changes + "\n")
    for name in (*_INPUTS, *([_DIFF] if config.tracking.log_diff else [])):
        if (directory / name).is_file():
            run.artifacts(directory / name)
    leaves = configuration.leaves(config)
    run.parameters({key: value for key, value in leaves.items() if not key.startswith(_NOT_PARAMETERS)})
    if isinstance(config.data, LabelsData):
        run.parameters(labels.describe(config.data.path))
    run.dataset(data.manifest, data.digest, config.data.name())


def readers(config: Config, place: Worker | Local) -> int | None:
    """Return the number of threads that read files; a core is left to the process that builds the networks."""
    beside = max(1, (os.cpu_count() or 1) - 1) if isinstance(place, Worker) else None
    return config.runtime.threads or beside


def needs_download(config: Config) -> bool:
    """Return whether the weights of the backbone are still to be downloaded."""
    return backbones.needs_download(config.model.backbone, config.model.weights, config.image_size)


def pass_settings(config: Config) -> PassSettings:
    """Return how images are passed through the frozen network."""
    return PassSettings(
        config.augment,
        config.features,
        config.runtime.threads,
        config.epochs,
        config.cache.max_gigabytes,
        config.runtime.cluster(),
    )


def features(config: Config, data: Dataset, start: Start, placed: Placed, process: Process) -> Frozen:
    """Return the features of all images, computed or from the cache; the jobs of a sweep share them in memory."""
    views = start.views(data, config.augment)

    def compute() -> Frozen:
        return frozen_features(
            data,
            lambda: placed.local.backbone,
            start.recipe,
            pass_settings(config),
            views=views,
            converted=None if placed.converted is None else placed.converted.result,
        )

    if views.fresh:
        return compute()
    order = hashlib.sha256("".join(data.manifest["sha256"]).encode()).hexdigest()
    key = f"{start.recipe.key()} {data.digest} {order} {len(views.rows)} {views.settings} {config.features.keep}"
    return process.once("features", key, compute)


def check_first_layer(config: Config, placed: Placed) -> None:
    """Refuse a wrong name of the first layer to fine-tune before all the work."""
    if config.finetune.layers == "top" and config.finetune.from_layer is not None:
        from hairline.model import cut

        cut.first_layer(placed.local.backbone, config.finetune.from_layer)
