"""The story of one training run, from a source of images to a saved model and its report.

TensorFlow takes seconds to import, so whatever needs it is imported inside the functions: faults of configuration
and data answer first.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hairline import config as configuration
from hairline import tracking
from hairline.config import Config, arguments
from hairline.data import manifest
from hairline.data.prepare import Dataset, prepare
from hairline.evaluation import measures
from hairline.system import files, provenance, tensorflow
from hairline.system.process import Process
from hairline.system.signals import Signals
from hairline.training import base as few_labels
from hairline.training import checkpoint, repeats, save
from hairline.training.checkpoint import Checkpoint
from hairline.training.finetune import finetune
from hairline.training.head import Frozen, Head
from hairline.training.start import Pretrained

if TYPE_CHECKING:
    import keras

    from hairline.evaluation.decisions import Decision
    from hairline.evaluation.leaks import Leaks
    from hairline.model.saved import Bundle

log = logging.getLogger(__name__)

# What a run starts from; both have the same methods.
Start = Pretrained | few_labels.Base

# Settings that are no part of what a run tried; config.yaml holds them.
_UNTOLD = ("tracking", "name", "tags", "resume")
# Figures that metrics.json alone holds.
_ASIDE = re.compile(r"_interval_(low|high)$|_uncalibrated$|_images$|^seconds_(?!total$)|^leak_(?!\w+_across$)")


def train(config: Config, directory: Path, overrides: list[str], process: Process) -> dict[str, float]:
    """Run one experiment, or go on with the one of `config.resume`, which is then the run directory.

    Args:
        config: Checked configuration.
        directory: The run directory; all results are written there, and mirrored to MLflow.
        overrides: What the command line changed, for the run's name.
        process: What lasts for the process.

    Returns:
        The flat metrics that `metrics.json` holds.

    Raises:
        CheckpointError: If another process works on the run, or what it began with is no longer there.
    """
    base = None if config.base is None else few_labels.Base.of(config.base)
    if base is not None:
        config = base.settings(config)
    with files.locked(directory):
        state = begin(config, directory)
        return _train(config, directory, overrides, process, state, base or Pretrained.find(config))


def begin(config: Config, directory: Path) -> Checkpoint:
    """Write down what is needed to go on with the run, before anything that takes time; or read where it stood."""
    identity = configuration.identity(config)
    if config.resume is None and (directory / "metrics.json").is_file():
        raise checkpoint.CheckpointError(
            f"{directory} holds a finished run, whose model and figures would stand beside this run's numbers: choose "
            f"another hydra.run.dir, delete that folder, or go on with that run: resume={shlex.quote(str(directory))}"
        )
    state = Checkpoint.read(directory) if config.resume else None
    if config.resume is None:
        tracking.forget(directory)  # a folder that another run was in
    elif state is not None and state.identity != identity:
        raise checkpoint.CheckpointError(
            f"{directory / checkpoint.FILE} is of other settings than config.yaml beside it, or of another version of "
            "this program: delete it, and resume= trains anew with the run's settings"
        )
    configuration.save(dataclasses.replace(config, resume=None), directory / "config.yaml")
    if state is None:
        return Checkpoint.begin(directory, identity)
    state.reopen()
    return state


def _train(
    config: Config, directory: Path, overrides: list[str], process: Process, state: Checkpoint, start: Start
) -> dict[str, float]:
    seconds = Stages(process.signals)
    from hairline.model import saved

    with seconds("data"):
        data = start.checked(prepare(config.data, config.split, seed=config.seed, process=process))
        warn_of_large_batch(config, data)
        state.expect(manifest.digest(data.manifest), len(data.manifest))
    with tracking.start(
        **arguments(config.tracking, "log_model", "registered_model"),
        name=config.name or run_name(config, overrides),
        tags={**config.tags, "configuration": configuration.identity(config)},
        directory=directory,
    ) as run:
        with seconds("setup"):
            record_inputs(config, data, directory, run)
            tensorflow.prepare(**arguments(config.runtime, "devices"), seed=config.seed)
        with seconds("features"):
            frozen = start.features(config, data)
            run.parameters({"weights": start.origin, "taps": " ".join(frozen.recipe.taps) or "last layer"})
        with seconds("head"):
            head = start.head(config, data, frozen, run, state)
            head.history.to_csv(directory / "history.csv", index=False)
        if config.finetune.layers != "none":
            with seconds("finetune"):
                head = finetune(config, data, frozen, head, run, state)
                head.history.to_csv(directory / "history.csv", index=False)
        with seconds("evaluate"):
            decision = start.decide(config, data, head.scores)
            repeats.say_decision(config, data, decision)
            results = repeats.measure(config, data, head.scores, decision)
            bundle = save.describe_model(config, data, decision, start.network(config, frozen))
            probabilities = repeats.probabilities(head.scores, decision.temperature)
            write_predictions(data, probabilities, bundle, directory)
            if config.probe:
                results |= repeats.measure_probe(data, frozen)
        if config.repeats > 1:
            with seconds("repeats"):
                results |= repeats.repeat(config, data, frozen, results, directory)
        if config.report.level == "full":
            with seconds("leaks"):
                leaks = repeats.find_leaks(data, directory)
                results |= leaks.counts
            with seconds("model"):
                model, results["parity_difference"] = save.join_model(
                    config, data, frozen, head, probabilities, bundle.temperature
                )
                statistics = start.statistics(config, data, frozen, head, model)
                saved.save_model(directory / "model", model, bundle, statistics)
            with seconds("figures"):
                draw(config, data, frozen, model, head, decision, bundle, leaks, results, directory)
        results |= seconds.measured()
        files.write_text(directory / "metrics.json", json.dumps(results, indent=2) + "\n")
        mirror(config, data, results, directory, run)
        if config.report.level == "full" and config.tracking.log_model:
            # Last: MLflow ties whatever is logged after a model to that model.
            run.model(directory / "model", Path(data.manifest["path"].iloc[data.rows("test")[0]]))
    state.finish(keep=config.report.level == "light")  # the best of a sweep is completed from its weights
    say_results(config, data, results, directory, run, alone=process.sweep is None)
    return results


def warn_of_large_batch(config: Config, data: Dataset) -> None:
    """Log a warning when one batch holds all training images of a head that is trained in epochs."""
    train_images = len(data.rows("train"))
    if config.base is None and config.optimizer.name != "lbfgs" and config.batch_size > train_images:
        log.warning(
            "WARNING: batch_size=%d is larger than the training split (%d images): each epoch is one step",
            config.batch_size,
            train_images,
        )


class Stages:
    """Seconds spent in each named stage of a run."""

    def __init__(self, signals: Signals) -> None:
        """Start the clock of the whole run."""
        self._signals = signals
        self._seconds: dict[str, float] = {}
        self._started = time.perf_counter()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the block's time under `name`."""
        self._signals.check()
        started = time.perf_counter()
        yield
        self._seconds[name] = time.perf_counter() - started

    def measured(self) -> dict[str, float]:
        """Give `seconds_<stage>` for each stage so far, and `seconds_total` since the start."""
        found = {f"seconds_{name}": value for name, value in self._seconds.items()}
        return found | {"seconds_total": time.perf_counter() - self._started}


def record_inputs(config: Config, data: Dataset, directory: Path, run: tracking.Run) -> None:
    """Write down and mirror what the run starts from."""
    manifest.write(data.manifest, directory / "manifest.csv")
    if len(data.rejected):
        manifest.write(data.rejected, directory / "rejected.csv")
    about = json.dumps(provenance.describe(), indent=2, ensure_ascii=False)
    (directory / "environment.json").write_text(about + "\n", encoding="utf-8")
    for path in sorted(directory.glob("*.[cjy]*")):
        run.artifacts(path)
    told = {key: value for key, value in configuration.leaves(config).items() if not key.startswith(_UNTOLD)}
    run.parameters(told)
    name = Path(getattr(config.data, "path", None) or config.data.source).name
    run.dataset(data.manifest, manifest.digest(data.manifest), name)


def write_predictions(data: Dataset, probabilities: np.ndarray, bundle: Bundle, directory: Path) -> None:
    """Write the test predictions."""
    from hairline.model.saved import whole_images

    test = data.rows("test")
    table = whole_images(data.manifest.iloc[test], probabilities[test], bundle)
    manifest.write(table, directory / "predictions.csv")


def draw(
    config: Config,
    data: Dataset,
    frozen: Frozen,
    model: keras.Model,
    head: Head,
    decision: Decision,
    bundle: Bundle,
    leaks: Leaks,
    results: dict[str, float],
    directory: Path,
) -> None:
    """Draw the figures of the training, of the split and of the test predictions."""
    from hairline.evaluation import galleries

    folder = directory / "figures"
    test = data.rows("test")
    curve = None
    if config.report.learning_curve and config.finetune.layers == "none" and config.augment.mode == "views":
        curve = repeats.learning_curve(config, data, frozen, results)
        curve.to_csv(directory / "learning_curve.csv", index=False)
    galleries.draw_training(
        folder,
        manifest=data.manifest,
        history=head.history,
        image_size=config.image_size,
        augment=arguments(config.augment),
        seed=config.seed,
        leaks=leaks,
        split_by=data.split_by,
        curve=curve,
    )
    galleries.draw_predictions(
        folder,
        rows=data.manifest.iloc[test],
        labels=data.labels[test],
        probabilities=repeats.probabilities(head.scores[test], decision.temperature),
        uncalibrated=repeats.probabilities(head.scores[test], 1.0),
        bundle=bundle,
        title="Test images",
        seed=config.seed,
        model=lambda: model,
    )


def mirror(config: Config, data: Dataset, results: dict[str, float], directory: Path, run: tracking.Run) -> None:
    """Log the final metrics and files."""
    shown = headlines(results, data.class_names)
    run.metrics({tracking.metric_name(key): value for key, value in shown.items()})
    told = "\n".join(told_test(config, data, results))
    run.note(
        f"Test accuracy **{results['test_accuracy']:.4f}** on {len(data.rows('test')):,} images "
        f"({', '.join(data.class_names)}); split by `{data.split_by}`."
        f"\n\n```\n{told}\n```\n\n`{shlex.join(provenance.command())}`"
    )
    for name in ("history.csv", "predictions.csv", "metrics.json", "leaks.csv", "repeats.csv", "learning_curve.csv"):
        if (directory / name).is_file():
            run.artifacts(directory / name)
    if (directory / "figures").is_dir():
        run.figures(directory / "figures")


def headlines(results: dict[str, float], class_names: Sequence[str]) -> dict[str, float]:
    """Choose the figures that MLflow gets: it draws a chart of each, and among all of them the curves would be lost.

    Without a slash in their names: sections are drawn above all that has none, the curves included.
    """
    # The epochs' own val_loss and val_accuracy are curves; the kept weights' values get names of their own.
    found = {f"best_{key}" if key.startswith("val_") else key: value for key, value in results.items()}
    told_twice = class_names if len(class_names) == 2 else ()  # of two classes each tells what the other does
    aside = {f"test_{metric}_{name}" for metric in measures.OF_A_CLASS for name in told_twice}
    return {key: value for key, value in found.items() if not _ASIDE.search(key) and key not in aside}


def run_name(config: Config, overrides: list[str]) -> str:
    """Name a run so that it can be told from its neighbours, what differs first: MLflow cuts long names."""
    hidden = ("model=", "optimizer=", "data=folder", "data.path=", "name=", "tags", "tracking", "report", "runtime")
    told = [entry.lstrip("+") for entry in overrides]
    told = [entry.removeprefix("experiment=") for entry in told if not entry.startswith((*hidden, "hydra"))]
    solver = "refit" if config.base is not None else config.optimizer.name
    return " ".join([*reversed(told), config.model.backbone, solver])[:250]


def told_test(config: Config, data: Dataset, results: dict[str, float]) -> list[str]:
    """Say the test's figures with their 95 % intervals, how the split was made, and the spread over repeats."""
    names = ["accuracy"]
    if data.positive is not None:
        names += ["recall_at_threshold", "specificity_at_threshold", "balanced_accuracy_at_threshold", "auroc"]
    lines = []
    for name in [*names, "ece"]:
        line = f"test {name.replace('_', ' '):32} {results[f'test_{name}']:.4f}"
        if f"test_{name}_interval_low" in results:
            low, high = (results[f"test_{name}_interval_{end}"] for end in ("low", "high"))
            line += f"  ({low:.4f} to {high:.4f})"
        lines.append(line)
    if "probe_test_accuracy" in results:
        baseline = "linear probe, closed form"
        lines.append(f"{baseline:37} {results['probe_test_accuracy']:.4f}  (test accuracy; the baseline of a second)")
    if "repeats" in results:
        values = [results[f"repeats_test_accuracy_{key}"] for key in ("mean", "deviation", "lowest", "highest")]
        told = "test accuracy of {:.0f} heads: mean {:.4f}, deviation {:.4f}, from {:.4f} to {:.4f}"
        lines.append(told.format(results["repeats"], *values))
    if "test_abstained" in results:
        lines.append(f"{'test images without an answer':37} {results['test_abstained']:.4f}  (inside decision.abstain)")
    warning = (
        ": images of one scene may stand on both sides, and figures be too good" if data.split_by == "none" else ""
    )
    return [*lines, f"split by {data.split_by}{warning}"]


def say_results(
    config: Config, data: Dataset, results: dict[str, float], directory: Path, run: tracking.Run, *, alone: bool
) -> None:
    """Print what came out, where it lies, and what to try next."""
    lines = ["", f"{'':7}{'images':>9}{'accuracy':>11}{'loss':>9}"]
    for split in manifest.SPLITS:
        accuracy = results[f"{split}_accuracy"]
        # Before the temperature, as the curves are: after it, the test's loss would not compare with the others.
        loss = results.get(f"{split}_loss_uncalibrated", results[f"{split}_loss"])
        lines.append(f"{split:7}{len(data.rows(split)):>9,}{accuracy:>11.4f}{loss:>9.4f}")
    lines += ["", *told_test(config, data, results)]
    stages = {key.removeprefix("seconds_"): value for key, value in results.items() if key.startswith("seconds_")}
    lines += ["", "seconds  " + "  ".join(f"{name} {value:.1f}" for name, value in stages.items()), ""]
    place = files.relative(directory)
    lines.append(f"Run directory   {place}")
    # The jobs of a sweep leave the rest to its end.
    if alone and run.id is not None:
        lines.append("Compare runs    " + "   then open ".join(run.ui_hints(config.tracking.uri)))
    if alone:
        lines += _next_steps(config, shlex.quote(place))
    log.info("\n".join(lines))


def _next_steps(config: Config, place: str) -> list[str]:
    if config.report.level != "full":
        return [f"No model saved  for model and figures: python train.py resume={place} report=full"]
    if config.data.source == "synthetic":
        return ["Try next        python train.py data=folder data.path=<folder with one sub-folder a class>"]
    steps = [f"Try next        python predict.py run={place} input=<photos>"]
    if config.base is None and config.optimizer.name != "lbfgs":
        steps.append("                or add -m optimizer=adam,sgd learning_rate=1e-2,1e-3: a run for each combination")
    return steps
