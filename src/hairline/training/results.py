"""What follows from a trained head: metrics, saved model, figures, and what MLflow and the screen get.

The libraries that it imports take seconds, so the story of `train.py` imports this module while the network is built.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

from hairline import tracking
from hairline.config import Config, arguments
from hairline.data import manifest
from hairline.data.prepare import Dataset
from hairline.evaluation import galleries, intervals, leaks, thresholds
from hairline.evaluation.galleries import Shown
from hairline.evaluation.leaks import Leaks
from hairline.evaluation.metrics import as_json, measure_splits
from hairline.model import attribution, card
from hairline.model.decision import Decision
from hairline.model.predictions import Predictions, predictions_table, probabilities
from hairline.system import files, provenance
from hairline.system.process import Process
from hairline.system.worker import Local, Worker
from hairline.training import repeats, save, summary
from hairline.training.head import FitSettings, Frozen, Head
from hairline.training.networks import PARITY_IMAGES, Placed
from hairline.training.stages import Stages
from hairline.training.start import Start

if TYPE_CHECKING:
    from concurrent.futures import Future

    import pandas as pd

    from hairline.model.structure import Block

log = logging.getLogger(__name__)

_FILES = (
    *("history.csv", "predictions.csv", "metrics.json", "leaks.csv", "repeats.csv", "learning_curve.csv"),
    "model/summary.txt",
)


@dataclass(frozen=True)
class Trained:
    """A run whose head is trained.

    Attributes:
        config: Checked configuration.
        directory: The run directory.
        start: What the run started from.
        data: Its images.
        placed: Its networks.
        frozen: The features.
        head: The head and its logits.
    """

    config: Config
    directory: Path
    start: Start
    data: Dataset
    placed: Placed
    frozen: Frozen
    head: Head

    @property
    def full(self) -> bool:
        """Whether the model is saved and all figures are drawn."""
        return self.config.report.level == "full"

    @property
    def figures(self) -> Path:
        """Folder of the figures."""
        return self.directory / "figures"


def evaluate(
    trained: Trained, fit: FitSettings, run: tracking.Run, seconds: Stages, process: Process
) -> dict[str, float]:
    """Choose the decision, measure, save the model, draw the figures, and log the results to MLflow.

    Args:
        trained: The run.
        fit: How its head was trained.
        run: Its MLflow run.
        seconds: Measures the stages.
        process: State that lasts for the process.

    Returns:
        The flat metrics of `metrics.json`.
    """
    config, directory, data, full = trained.config, trained.directory, trained.data, trained.full
    resamples, threshold_resamples = (intervals.RESAMPLES, thresholds.RESAMPLES) if full else (0, 0)
    # With more threads the products of matrices would wait for the process of the networks, which saves the model.
    one_thread = threadpool_limits(1, "blas") if isinstance(trained.placed.place, Worker) else contextlib.nullcontext()
    with one_thread, seconds("evaluate"):
        predictions = trained.head.predictions(data)
        decision = trained.start.decide(predictions, config.decision, resamples=threshold_resamples, share=data.share)
        summary.log_decision(data, decision)
        if full:
            shown = shown_tests(trained, predictions, decision)
            saving = save_model(trained, shown)
        metrics = measure_splits(predictions, decision, resamples=resamples)
        manifest.write(test_table(data, predictions, decision), directory / "predictions.csv")
        if config.probe:
            depends = trained.frozen.recipe.key() + data.digest
            metrics |= process.once("probe", depends, lambda: repeats.probe_accuracy(data, trained.frozen))
    if config.repeats > 1:
        with seconds("repeats"):
            metrics |= repeats.repeat_heads(
                data,
                trained.frozen,
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
            samples = draw_images(trained, leak_report)
        curve = learning_curve(trained, fit, metrics)
        with seconds("figures"):
            draw_results(trained, shown, curve)
        with seconds("model"):
            metrics["parity_difference"] = saving.difference.result()
            draw_model(trained, saving.blocks.result())
            for drawn in (saving.heat, samples):
                drawn.result()
            write_card(trained, metrics)
    metrics |= seconds.measured()
    files.write_text(directory / "metrics.json", as_json(metrics))
    log_to_mlflow(trained, metrics, run)
    if full and config.tracking.log_model:
        # Last: MLflow ties whatever is logged after a model to that model.
        run.model(directory / "model", Path(data.manifest["path"].iloc[data.rows("test")[0]]))
    return metrics


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


def learning_curve(trained: Trained, fit: FitSettings, metrics: dict[str, float]) -> pd.DataFrame | None:
    """Return the learning curve where it was asked for and features are reused; `learning_curve.csv` holds it."""
    config = trained.config
    if not config.report.learning_curve or config.finetune.layers != "none" or config.augment.mode == "fresh":
        return None
    curve = repeats.learning_curve(trained.data, trained.frozen, fit, metrics)
    curve.to_csv(trained.directory / "learning_curve.csv", index=False)
    return curve


# --- the saved model --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Saving:
    """A model that is being saved where the networks live.

    Attributes:
        difference: Largest difference of a probability between the saved model and the trained head.
        blocks: The structure of the saved model.
        heat: Done when its heat maps are drawn.
    """

    difference: Future[float]
    blocks: Future[list[Block]]
    heat: Future[None]


def save_model(trained: Trained, shown: Shown) -> Saving:
    """Join backbone and head, check the result, save it, and draw where in test images it finds its answers."""
    config, data, head, decision = trained.config, trained.data, trained.head, shown.decision
    place, local, engine = trained.placed.place, trained.placed.local, trained.frozen.recipe.engine
    rows = data.rows("test")[:PARITY_IMAGES]
    difference = place.call(
        "join",
        head.linear,
        temperature=decision.temperature,
        paths=data.manifest["path"].iloc[rows].tolist(),
        probabilities=probabilities(head.logits[rows], decision.temperature),
        image_size=config.image_size,
        exact=config.runtime.precision == "float32",
    )
    bundle = save.describe(
        data, decision, trained.start.describe(), image_size=config.image_size, split=config.split.grouping()
    )
    statistics = trained.start.statistics(data, trained.frozen, head, lambda: local.model)
    blocks = place.call("save", trained.directory / "model", bundle, statistics, engine)
    model = (lambda: local.model) if isinstance(place, Local) else None
    heat_maps = functools.partial(attribution.class_maps, trained.directory / "model", engine=engine, model=model)
    return Saving(difference, blocks, place.run(galleries.draw_heat, trained.figures, shown, heat_maps))


def write_card(trained: Trained, metrics: dict[str, float]) -> None:
    """Write the model card into the saved model's folder."""
    data = trained.data
    card.write(
        trained.directory / "model",
        data=trained.config.data.name(),
        images={split: int(metrics[f"{split}_images"]) for split in manifest.SPLITS},
        drawn=len(data.rows("train")) - int(metrics["train_images"]),
        split_by=data.split_by,
        metrics=metrics,
    )


# --- figures ----------------------------------------------------------------------------------------------------------


def shown_tests(trained: Trained, predictions: Predictions, decision: Decision) -> Shown:
    """Return the test images as the figures show them."""
    rows = trained.data.manifest.iloc[trained.data.rows("test")]
    return Shown(rows, predictions.select("test"), decision, trained.config.image_size, trained.config.seed)


def draw_images(trained: Trained, report: Leaks) -> Future[None]:
    """Draw training images and the closest pairs across the split, where the networks live."""
    config, data = trained.config, trained.data
    return trained.placed.place.run(
        galleries.draw_images,
        trained.figures,
        manifest=data.manifest,
        image_size=config.image_size,
        augment=arguments(config.augment),
        seed=config.seed,
        leaks=report,
        split_by=data.split_by,
    )


def draw_results(trained: Trained, shown: Shown, curve: pd.DataFrame | None) -> None:
    """Draw the figures of training and test predictions."""
    galleries.draw_training(trained.figures, trained.head.history, history_step(trained.config), curve)
    galleries.draw_predictions(trained.figures, shown, "Test images")


def draw_model(trained: Trained, blocks: list[Block]) -> None:
    """Draw the structure of the saved model."""
    galleries.draw_model(trained.figures, blocks, trained.config.model.backbone)


# --- MLflow and the screen --------------------------------------------------------------------------------------------


def log_to_mlflow(trained: Trained, metrics: dict[str, float], run: tracking.Run) -> None:
    """Log the final metrics, files and description to MLflow."""
    data, directory = trained.data, trained.directory
    headlines = summary.headlines(metrics)
    names = tracking.metric_names(headlines)
    run.metrics({names[key]: value for key, value in headlines.items()})
    lines = "\n".join(summary.test_lines(data, metrics))
    run.note(
        f"Test accuracy **{metrics['test_accuracy']:.4f}** on {len(data.rows('test')):,} images "
        f"({', '.join(data.class_names)}); split by `{data.split_by}`. {summary.weights_note(trained.start.origin)}"
        f"\n\n```\n{lines}\n```\n\n`{shlex.join(provenance.command())}`"
    )
    for name in _FILES:
        if (directory / name).is_file():
            run.artifacts(directory / name)
    if trained.figures.is_dir():
        run.figures(trained.figures)


def log_results(trained: Trained, metrics: dict[str, float], run: tracking.Run, *, process: Process) -> None:
    """Log what came out, where it lies, and what to try next."""
    config, place = trained.config, process.shown(trained.directory)
    kept = summary.kept_epoch(trained.head.history, config.schedule.keep, step=history_step(config))
    notes = [kept, summary.weights_note(trained.start.origin), summary.chance_note(trained.data, metrics)]
    lines = ["", *summary.split_lines(metrics), "", *summary.test_lines(trained.data, metrics), *filter(None, notes)]
    lines += ["", summary.seconds_line(metrics), "", f"Run directory   {place}"]
    if process.sweep is None:  # a sweep prints the rest at its end
        if run.id is not None:
            lines.append("Compare runs    " + "\n                then open ".join(run.ui_hints()))
        lines += summary.next_steps(
            place,
            full=trained.full,
            synthetic=config.data.source == "synthetic",
            by_epochs=config.by_epochs(),
            positive=trained.data.positive is not None,
        )
    log.info("\n".join(lines))


def history_step(config: Config) -> str:
    """Return what a row of the history is."""
    return "epoch" if config.by_epochs() else "iteration"
