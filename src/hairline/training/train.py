"""The story of `train.py`: from a source of images to a saved model and its report.

TensorFlow takes seconds to import, so whatever needs it is imported inside the functions: errors in settings and images
are reported first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

from hairline import config as configuration
from hairline import tracking
from hairline.config import Config, LabelsData, arguments, commands
from hairline.data import labels, manifest
from hairline.data.prepare import Dataset, prepare
from hairline.evaluation import intervals, leaks, thresholds
from hairline.evaluation.metrics import measure_splits
from hairline.model import backbones
from hairline.model.engine import choose_engine, converted_file
from hairline.model.predictions import Predictions, predictions_table, probabilities
from hairline.system import cache, files, memory, provenance
from hairline.system.process import Process
from hairline.system.signals import Signals
from hairline.system.worker import Local, Worker
from hairline.training import checkpoint, repeats, save, summary
from hairline.training.base import Base, BaseError
from hairline.training.checkpoint import Checkpoint
from hairline.training.finetune import finetune
from hairline.training.head import FitSettings, Frozen, Head, Hooks, PassSettings, frozen_features
from hairline.training.networks import PARITY_IMAGES, Networks
from hairline.training.start import Pretrained, Start

if TYPE_CHECKING:
    from concurrent.futures import Future

    import pandas as pd

    from hairline.evaluation.galleries import Shown
    from hairline.evaluation.leaks import Leaks
    from hairline.model.decision import Decision
    from hairline.model.structure import Block

log = logging.getLogger(__name__)

# Settings that are not logged as parameters: they do not describe what the run tried.
_NOT_PARAMETERS = ("tracking", "name", "tags", "resume")
# What conf/config.yaml chooses, and the settings without effect when base= is given.
_DEFAULTS = {"optimizer.name": "adam", "schedule.name": "constant"}
_UNUSED_WITH_BASE = (*_DEFAULTS, "model.dropout", "model.label_smoothing", "epochs", "batch_size", "learning_rate")
# What the process of the networks imports while it waits for them.
_NETWORK_MODULES = ("tensorflow", "keras", "hairline.training.networks")
_DIFF = "uncommitted.diff"  # may hold what is not meant for a server
_INPUTS = ("config.yaml", "environment.json", "manifest.csv", "rejected.csv")
_RESULTS = (
    *("history.csv", "predictions.csv", "metrics.json", "leaks.csv", "repeats.csv", "learning_curve.csv"),
    "model/summary.txt",
)


def train(config: Config, directory: Path, overrides: list[str], process: Process) -> dict[str, float]:
    """Train, evaluate and save one run, or resume the run in `directory` where `config.resume` is set.

    Args:
        config: Checked configuration.
        directory: The run directory; all results are written there and mirrored to MLflow.
        overrides: What the command line changed, for the run's name.
        process: State that lasts for the process.

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
        return run_stages(config, base, directory, overrides, state, process)


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
    config: Config, base: Base | None, directory: Path, overrides: list[str], state: Checkpoint, process: Process
) -> dict[str, float]:
    """Run the stages of a training in order; arguments and result as in `train`."""
    seconds = Stages(process.signals)
    full = config.report.level == "full"
    resamples, threshold_resamples = (intervals.RESAMPLES, thresholds.RESAMPLES) if full else (0, 0)
    solver = "refit" if config.base is not None else config.optimizer.name
    fit = fit_settings(config)
    not_curves = {"seconds"} | ({"learning_rate"} if config.schedule.name == "constant" else set())
    memory.limit_heaps()
    with networks_place(config) as place:
        with seconds("data"):
            # The network is built, and converted where necessary, while the images are checked; weights that need a
            # download wait until they were.
            start: Start | None = base or (None if needs_download(config) else pretrained(config))
            networks = None if start is None else begin_networks(place, start, config)
            data = prepare(config.data, config.split, seed=config.seed, process=process)
            start = start or pretrained(config)
            networks = networks or begin_networks(place, start, config)
            data = start.check(data)
            warn_of_large_batch(config, data)
            state.expect(data.digest, len(data.manifest))
        with tracking.start(
            **arguments(config.tracking, "log_model", "log_diff", "registered_model"),
            name=config.name or summary.run_name(overrides, config.model.backbone, solver),
            tags={**config.tags, "configuration": configuration.identity(config)},
            directory=directory,
        ) as run:

            def on_epoch(epoch: int, row: dict[str, float]) -> None:
                values = {f"epoch_{key}": value for key, value in row.items() if key not in not_curves}
                run.metrics(values, step=epoch)

            hooks = Hooks(on_epoch, state, process.signals)
            with seconds("setup"):
                record_inputs(config, data, start.origin, directory, run)
            with seconds("features"):
                check_first_layer(config, networks)
                frozen = features(config, data, start, networks, process)
                if full or process.sweep is None:  # the best job of a sweep does it for all
                    cache.evict(config.cache.max_gigabytes)
                run.parameters({"weights": start.origin, "taps": " ".join(frozen.recipe.taps) or "last layer"})
            with seconds("head"):
                head = start.head(data, frozen, fit, hooks)
                head.history.to_csv(directory / "history.csv", index=False)
            if config.finetune.layers != "none":
                with seconds("finetune"):
                    head = finetune(
                        networks.local.backbone, data, frozen, head, config.finetune, fit, pass_settings(config), hooks
                    )
                    head.history.to_csv(directory / "history.csv", index=False)
            # With more threads the products of matrices would wait for the process of the networks, which is busy now.
            alone = threadpool_limits(1, "blas") if isinstance(place, Worker) else contextlib.nullcontext()
            with seconds("evaluate"), alone:
                predictions = head.predictions(data)
                decision = start.decide(predictions, config.decision, resamples=threshold_resamples, share=data.share)
                summary.log_decision(data, decision)
                if full:
                    saving = save_model(config, start, networks, data, frozen, head, decision, directory)
                metrics = measure_splits(predictions, decision, resamples=resamples)
                manifest.write(test_table(data, predictions, decision), directory / "predictions.csv")
                if config.probe:
                    depends = frozen.recipe.key() + data.digest
                    metrics |= process.once("probe", depends, lambda: repeats.probe_accuracy(data, frozen))
            if config.repeats > 1:
                with seconds("repeats"):
                    metrics |= repeats.repeat_heads(
                        data,
                        frozen,
                        fit,
                        config.decision,
                        repeats=config.repeats,
                        first=metrics,
                        directory=directory,
                    )
            if full:
                with seconds("leaks"):
                    leak_report = find_leaks(data, directory)
                    metrics |= leak_report.counts
                    curve = learning_curve(config, data, frozen, fit, metrics, directory)
                with seconds("figures"):
                    shown = shown_tests(config, data, predictions, decision)
                    draw_training(config, data, head, shown, leak_report, curve, directory)
                with seconds("model"):
                    metrics["parity_difference"] = saving.difference.result()
                    draw_model(config, frozen, networks, shown, saving.blocks.result(), directory)
                    write_card(config, data, metrics, directory)
            metrics |= seconds.measured()
            files.write_text(directory / "metrics.json", json.dumps(metrics, indent=2) + "\n")
            log_to_mlflow(data, metrics, start.origin, directory, run)
            if full and config.tracking.log_model:
                # Last: MLflow ties whatever is logged after a model to that model.
                run.model(directory / "model", Path(data.manifest["path"].iloc[data.rows("test")[0]]))
    state.finish(keep=config.report.level == "light")  # keep the weights: a sweep saves the model of its best job later
    kept = summary.kept_epoch(head.history, config.schedule.keep, step=history_step(config))
    notes = [kept, summary.weights_note(start.origin)]
    log_results(config, data, metrics, notes, directory, run, in_sweep=process.sweep is not None)
    return metrics


def begin(config: Config, directory: Path) -> Checkpoint:
    """Save the settings before anything that takes time, and return the run's state: new, or where it stopped.

    Raises:
        CheckpointError: If the directory holds another run.
    """
    identity = configuration.identity(config)
    if config.resume is None and (directory / "metrics.json").is_file():
        resume = commands.command("train", commands.override("resume", str(directory)))
        raise checkpoint.CheckpointError(
            f"{directory} holds a finished run, whose model and figures would be mixed with this run's: choose another "
            f"hydra.run.dir, delete that folder, or resume that run: {resume}"
        )
    state = Checkpoint.read(directory) if config.resume else None
    if config.resume is None:
        tracking.forget(directory)  # journal of an earlier run in the same folder
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
    """Return the settings with backbone and image size replaced by the base's.

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


class Stages:
    """Seconds spent in each named stage of a run."""

    def __init__(self, signals: Signals) -> None:
        """Start the clock; `signals` are checked before each stage."""
        self._signals = signals
        self._seconds: dict[str, float] = {}
        self._started = time.perf_counter()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure the block's time as stage `name`."""
        self._signals.check()
        started = time.perf_counter()
        yield
        self._seconds[name] = time.perf_counter() - started

    def measured(self) -> dict[str, float]:
        """Return `seconds_<stage>` of each stage so far, and `seconds_total` since the start."""
        stages = {f"seconds_{name}": value for name, value in self._seconds.items()}
        return stages | {"seconds_total": time.perf_counter() - self._started}


def warn_of_large_batch(config: Config, data: Dataset) -> None:
    """Log a warning where one batch holds all training images of a head that is trained by epochs."""
    train_images = len(data.rows("train"))
    if trains_by_epochs(config) and config.batch_size > train_images:
        log.warning(
            "WARNING: batch_size=%d is larger than the training split (%d images): each epoch is one step",
            config.batch_size,
            train_images,
        )


def record_inputs(config: Config, data: Dataset, weights: str, directory: Path, run: tracking.Run) -> None:
    """Write and log what the run starts from: images, environment, settings."""
    manifest.write(data.manifest, directory / "manifest.csv")
    if len(data.rejected):
        manifest.write(data.rejected, directory / "rejected.csv")
    environment = json.dumps(provenance.describe() | {"backbone_weights": weights}, indent=2, ensure_ascii=False)
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
    run.dataset(data.manifest, data.digest, data_name(config))


def data_name(config: Config) -> str:
    """Return the name of the images: their folder's or file's, or that of the source."""
    return Path(getattr(config.data, "path", None) or config.data.source).name


def test_table(data: Dataset, predictions: Predictions, decision: Decision) -> pd.DataFrame:
    """Return the predictions table of the test images."""
    test = predictions.select("test")
    return predictions_table(
        data.manifest.iloc[data.rows("test")],
        test.decided(decision),
        test.probabilities(decision.temperature),
        test.class_names,
    )


def find_leaks(data: Dataset, directory: Path) -> Leaks:
    """Report near-identical images across the split; `leaks.csv` gets the closest pairs."""
    # Real images only: an image that was drawn on a training image is not a leak of another one.
    report = leaks.find(data.manifest.iloc[data.real], data.hashes)
    manifest.write(report.pairs, directory / "leaks.csv")
    counts = report.counts
    log.info(
        "leaks: %s groups, the largest of %s images; %s validation and test images have a near-identical image in "
        "another split, %s an identical one",
        *(f"{counts[f'leak_{key}']:,}" for key in ("groups", "largest_group", "near_across", "identical_across")),
    )
    return report


def networks_place(config: Config) -> Worker | Local:
    """Return where the networks live: in another process, beside this one, or here where this one needs them, too."""
    engine = choose_engine(config.features.engine, config.runtime.precision)
    beside = config.report.level == "full" and engine == "litert" and config.finetune.layers == "none"
    return Worker(*_NETWORK_MODULES) if beside else Local()


def needs_download(config: Config) -> bool:
    """Return whether the weights of the backbone are still to be downloaded."""
    return backbones.needs_download(config.model.backbone, config.model.weights, config.image_size)


@dataclasses.dataclass(frozen=True)
class Placed:
    """The networks of a run and where they live.

    Attributes:
        place: Calls their methods.
        local: The networks of this process; built on first use.
        converted: Returns the converted backbone, where this process need not convert it.
    """

    place: Worker | Local
    local: Networks
    converted: Callable[[], Path] | None


def begin_networks(place: Worker | Local, start: Start, config: Config) -> Placed:
    """Send the networks of a run to where they live; a second process builds and converts them at once."""
    settings = arguments(config.runtime, "devices", "compute", "ray")
    networks = Networks(start.builder, config.runtime.devices, settings | {"seed": config.seed})
    place.hold(networks)
    if (known := start.converted) is not None:
        return Placed(place, networks, lambda: known)
    if isinstance(place, Local):
        return Placed(place, networks, None)
    key = start.recipe.model_key()
    if converted_file(key).is_file():
        place.call("load")
        return Placed(place, networks, None)
    return Placed(place, networks, place.call("convert", key).result)


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


def features(config: Config, data: Dataset, start: Start, networks: Placed, process: Process) -> Frozen:
    """Return the features of all images, computed or from the cache; the jobs of a sweep share them in memory."""

    def compute() -> Frozen:
        return frozen_features(
            data,
            lambda: networks.local.backbone,
            start.recipe,
            pass_settings(config),
            converted=networks.converted,
        )

    if config.augment.mode == "fresh":
        return compute()
    order = hashlib.sha256("".join(data.manifest["sha256"]).encode()).hexdigest()
    key = f"{start.recipe.key()} {data.digest} {order} {arguments(config.augment)} {config.features.keep}"
    return process.once("features", key, compute)


def check_first_layer(config: Config, networks: Placed) -> None:
    """Refuse a wrong name of the first layer to fine-tune before all the work."""
    if config.finetune.layers == "top" and config.finetune.from_layer is not None:
        from hairline.model import cut

        cut.first_layer(networks.local.backbone, config.finetune.from_layer)


@dataclasses.dataclass(frozen=True)
class Saving:
    """A model that is being saved.

    Attributes:
        difference: Largest difference of a probability between the saved model and the trained head.
        blocks: The structure of the saved model.
    """

    difference: Future[float]
    blocks: Future[list[Block]]


def save_model(
    config: Config,
    start: Start,
    networks: Placed,
    data: Dataset,
    frozen: Frozen,
    head: Head,
    decision: Decision,
    directory: Path,
) -> Saving:
    """Join backbone and head, check the result, and save it, where the networks live."""
    rows = data.rows("test")[:PARITY_IMAGES]
    difference = networks.place.call(
        "join",
        head.linear,
        temperature=decision.temperature,
        paths=data.manifest["path"].iloc[rows].tolist(),
        probabilities=probabilities(head.logits[rows], decision.temperature),
        image_size=config.image_size,
        exact=config.runtime.precision == "float32",
    )
    bundle = save.describe(
        data, decision, start.describe(), image_size=config.image_size, split=config.split.grouping()
    )
    statistics = start.statistics(data, frozen, head, lambda: networks.local.model)
    blocks = networks.place.call("save", directory / "model", bundle, statistics, frozen.recipe.engine)
    return Saving(difference, blocks)


def write_card(config: Config, data: Dataset, metrics: dict[str, float], directory: Path) -> None:
    """Write the model card into the saved model's folder."""
    from hairline.model import card

    card.write(
        directory / "model",
        data=data_name(config),
        images={split: int(metrics[f"{split}_images"]) for split in manifest.SPLITS},
        drawn=len(data.rows("train")) - int(metrics["train_images"]),
        split_by=data.split_by,
        metrics=metrics,
    )


def learning_curve(
    config: Config, data: Dataset, frozen: Frozen, fit: FitSettings, metrics: dict[str, float], directory: Path
) -> pd.DataFrame | None:
    """Return the learning curve where it was asked for and features are reused; `learning_curve.csv` holds it."""
    if not config.report.learning_curve or config.finetune.layers != "none" or config.augment.mode == "fresh":
        return None
    curve = repeats.learning_curve(data, frozen, fit, metrics)
    curve.to_csv(directory / "learning_curve.csv", index=False)
    return curve


def trains_by_epochs(config: Config) -> bool:
    """Return whether the head is trained by epochs, instead of being solved for."""
    return config.base is None and config.optimizer.name != "lbfgs"


def history_step(config: Config) -> str:
    """Return what a row of the history is."""
    return "epoch" if trains_by_epochs(config) else "iteration"


def draw_training(
    config: Config,
    data: Dataset,
    head: Head,
    shown: Shown,
    leak_report: Leaks,
    curve: pd.DataFrame | None,
    directory: Path,
) -> None:
    """Draw the figures of training, split and test predictions."""
    from hairline.evaluation import galleries

    galleries.draw_predictions(directory / "figures", shown, "Test images")
    galleries.draw_training(
        directory / "figures",
        manifest=data.manifest,
        history=head.history,
        step=history_step(config),
        image_size=config.image_size,
        augment=arguments(config.augment),
        seed=config.seed,
        leaks=leak_report,
        split_by=data.split_by,
        curve=curve,
    )


def draw_model(
    config: Config, frozen: Frozen, networks: Placed, shown: Shown, blocks: list[Block], directory: Path
) -> None:
    """Draw the figures of the saved model: its structure, and where in test images it finds its answers."""
    from hairline.evaluation import galleries
    from hairline.model import attribution

    galleries.draw_model(directory / "figures", blocks, config.model.backbone)
    heat_maps = functools.partial(
        attribution.class_maps,
        directory / "model",
        engine=frozen.recipe.engine,
        model=(lambda: networks.local.model) if isinstance(networks.place, Local) else None,
    )
    galleries.draw_heat(directory / "figures", shown, heat_maps)


def shown_tests(config: Config, data: Dataset, predictions: Predictions, decision: Decision) -> Shown:
    """Return the test images as the figures show them."""
    from hairline.evaluation.galleries import Shown

    rows = data.manifest.iloc[data.rows("test")]
    return Shown(rows, predictions.select("test"), decision, config.image_size, config.seed)


def log_to_mlflow(data: Dataset, metrics: dict[str, float], weights: str, directory: Path, run: tracking.Run) -> None:
    """Log the final metrics, files and description to MLflow."""
    headlines = summary.headlines(metrics)
    names = tracking.metric_names(headlines)
    run.metrics({names[key]: value for key, value in headlines.items()})
    lines = "\n".join(summary.test_lines(data, metrics))
    run.note(
        f"Test accuracy **{metrics['test_accuracy']:.4f}** on {len(data.rows('test')):,} images "
        f"({', '.join(data.class_names)}); split by `{data.split_by}`. {summary.weights_note(weights)}"
        f"\n\n```\n{lines}\n```\n\n`{shlex.join(provenance.command())}`"
    )
    for name in _RESULTS:
        if (directory / name).is_file():
            run.artifacts(directory / name)
    if (directory / "figures").is_dir():
        run.figures(directory / "figures")


def log_results(
    config: Config,
    data: Dataset,
    metrics: dict[str, float],
    notes: list[str],
    directory: Path,
    run: tracking.Run,
    *,
    in_sweep: bool,
) -> None:
    """Log what came out, where it lies, and what to try next; `notes` are lines about weights, or empty."""
    place = files.relative(directory)
    lines = ["", *summary.split_lines(metrics), "", *summary.test_lines(data, metrics), *filter(None, notes)]
    lines += ["", summary.seconds_line(metrics), "", f"Run directory   {place}"]
    if not in_sweep:  # a sweep prints the rest at its end
        if run.id is not None:
            lines.append("Compare runs    " + "\n                then open ".join(run.ui_hints(config.tracking.uri)))
        lines += summary.next_steps(
            place,
            full=config.report.level == "full",
            synthetic=config.data.source == "synthetic",
            by_epochs=trains_by_epochs(config),
        )
    log.info("\n".join(lines))
