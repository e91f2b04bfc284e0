"""The story of one registration: a version, a comparison with the champion, a decision with its reason."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hairline.config import Register
from hairline.data import manifest
from hairline.data.manifest import ManifestError
from hairline.evaluation import comparison
from hairline.evaluation.comparison import ComparisonError
from hairline.model import saved
from hairline.model.saved import BundleError
from hairline.shipping import record
from hairline.shipping.record import Record
from hairline.tracking import TrackingError, registry
from hairline.tracking.registry import RegistryError

log = logging.getLogger(__name__)

# What an inspector meets: right answers at each model's own threshold, each class counting alike.
METRIC = "balanced_accuracy_at_threshold"


@dataclass(frozen=True)
class Decision:
    """Whether a candidate becomes champion, and why.

    Attributes:
        promoted: Whether it does.
        reason: In a sentence.
        figures: What it rests on, kept as tags.
    """

    promoted: bool
    reason: str
    figures: dict[str, Any] = field(default_factory=dict)


def register(config: Register) -> Decision:
    """Offer a finished run's model to the registry.

    Raises:
        RegistryError: If the run was not tracked, or logged no model.
    """
    uri, name = config.tracking.uri, config.tracking.registered_model
    offered = record.read(config.run, uri)
    if offered.run_id is None:
        raise RegistryError(
            f"run={config.run} is in no MLflow store, and the registry is MLflow's: train it with tracking=mlflow"
        )
    former = registry.champion(name, uri)
    version = registry.add_version(name, offered.run_id, uri)
    if former is None:
        decision = Decision(True, f"the first champion of {name}: there was none to compare it with")
    elif former == version:
        log.info("Nothing to do: version %d of %s is the champion already", version.number, name)
        return Decision(True, f"version {version.number} of {name} is the champion already")
    else:
        try:
            decision = compared(offered, record.read(former.address, uri), former)
        except (BundleError, TrackingError, ComparisonError, RegistryError, ManifestError) as error:
            decision = Decision(False, f"not compared: {error}")
    registry.decide(version, uri, promoted=decision.promoted, reason=decision.reason, figures=decision.figures)
    if decision.promoted and former is not None:
        registry.note_successor(former, version, uri)
    aliases = " and ".join([registry.CANDIDATE, *([registry.CHAMPION] if decision.promoted else [])])
    log.info("Registered      %s, version %d: %s\nWhy             %s", name, version.number, aliases, decision.reason)
    return decision


def compared(offered: Record, reigning: Record, former: registry.Version) -> Decision:
    """Compare a candidate with today's champion on test images that neither was trained or tuned on."""
    both = [offered, reigning]
    known = [entry.manifest() for entry in both]
    if known[0] is None or known[1] is None:
        lacking = "the candidate's" if known[0] is None else "the champion's"
        return Decision(False, f"not compared: {lacking} manifest is not at hand, which says what it was trained on")
    classes = [sorted(saved.read_bundle(entry.model).class_names) for entry in both]
    if classes[0] != classes[1]:
        return Decision(
            False, f"not compared: it tells {', '.join(classes[0])} apart, the champion {', '.join(classes[1])}"
        )
    images = held_out(known[0], known[1])
    if images.empty:
        return Decision(False, "not compared: there is no test image that neither of the two was trained or tuned on")
    tables = [predictions(entry, images) for entry in both]
    groups = dict(zip(images["sha256"], images["group"].where(images["group"] != "", images["sha256"]), strict=True))
    found = comparison.paired_bootstrap(tables[0], tables[1], groups=groups)
    return judge(found[METRIC], found["loss"], former.number)


def held_out(candidate: pd.DataFrame, champion: pd.DataFrame) -> pd.DataFrame:
    """List the test images of either run that the other has not seen in training or validation.

    Validation images are left out as well: they chose the epoch and the threshold.

    Args:
        candidate: A manifest.
        champion: The other.

    Returns:
        Rows of the manifests, each image once.
    """
    tables = (candidate, champion)
    tests = pd.concat([table[table["split"] == "test"] for table in tables])
    seen = {digest for table in tables for digest in table.loc[table["split"] != "test", "sha256"]}
    return tests[~tests["sha256"].isin(seen)].drop_duplicates("sha256").reset_index(drop=True)


def predictions(entry: Record, images: pd.DataFrame) -> pd.DataFrame:
    """Predict images with a run's model, or take what it predicted when it was evaluated.

    Args:
        entry: The run.
        images: Rows of a manifest.

    Returns:
        A table of predictions, one row an image, in which `path` is the image's digest: the two runs may have found
        the same image in different places.

    Raises:
        RegistryError: If an image is neither among the run's predictions nor where it was.
    """
    table = _kept(entry, images)
    if table is None:
        _refuse_changed(images)
        table = saved.Classifier(entry.model).predict(images["path"].tolist())
    return table.assign(path=images["sha256"].to_numpy(), label=images["label"].to_numpy(), x=0, y=0, width=0, height=0)


def _kept(entry: Record, images: pd.DataFrame) -> pd.DataFrame | None:
    """Give the run's own test predictions in the order of `images`; None where one is missing."""
    known, path = entry.manifest(), entry.file("predictions.csv")
    if known is None or path is None:
        return None
    table = manifest.read(path, required=("path", "label", "predicted"))
    digests = dict(zip(known["path"], known["sha256"], strict=True))
    table = table.assign(sha256=table["path"].map(digests)).drop_duplicates("sha256").set_index("sha256")
    if not images["sha256"].isin(table.index).all():
        return None
    table = table.loc[images["sha256"]].reset_index(drop=True)
    columns = [name for name in table.columns if str(name).startswith("prob_")]
    return table.astype(dict.fromkeys(columns, float))


def _refuse_changed(images: pd.DataFrame) -> None:
    for path, digest in zip(images["path"], images["sha256"], strict=True):
        try:
            same = hashlib.sha256(Path(path).read_bytes()).hexdigest() == digest
        except OSError:
            same = False
        if not same:
            raise RegistryError(f"the test image {manifest.printable(path)} is gone or changed")


def judge(difference: comparison.Difference, loss: comparison.Difference, champion: int) -> Decision:
    """Decide: a candidate with fewer right answers stays one; at a tie, one whose probabilities are decidedly worse.

    A lead need not be decided (its interval may hold zero), but a lag is never waved through as chance: otherwise a
    row of candidates, each a little worse, would wear the champion down.

    Args:
        difference: Of `METRIC`, candidate less champion.
        loss: Of the log loss, candidate less champion.
        champion: Number of today's champion.
    """
    points = f"{difference.value * 100:+.2f} points"
    interval = f"95 % interval {difference.low * 100:+.2f} to {difference.high * 100:+.2f}"
    figures = {
        "compared_with": champion,
        "compared_images": difference.images,
        "difference": f"{difference.value:.6f}",
        "difference_low": f"{difference.low:.6f}",
        "difference_high": f"{difference.high:.6f}",
        "loss_difference": f"{loss.value:.6f}",
    }
    about = (
        f"balanced accuracy {points} against version {champion} ({interval}) on {difference.images:,} test images that "
        "neither was trained on"
    )
    if not np.isfinite(difference.value):
        return Decision(False, f"cannot be compared: {about}", figures)
    if difference.value < 0:
        how = "worse, beyond chance" if difference.decided else "worse, though it may be chance"
        return Decision(False, f"{how}: {about}", figures)
    if difference.value == 0 and loss.decided and loss.value > 0:
        return Decision(
            False, f"as many right answers, but surer of the wrong ones: log loss {loss.value:+.4f}; {about}", figures
        )
    if difference.value > 0:
        how = "better, beyond chance" if difference.decided else "not worse: better, though it may be chance"
    else:
        how = "not worse: no difference"
    return Decision(True, f"{how}: {about}", figures)
