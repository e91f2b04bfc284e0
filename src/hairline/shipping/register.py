"""The story of `register.py`: register a version, compare it with the champion, decide, and record the reason."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from hairline.config import Register
from hairline.data import manifest
from hairline.data.images import ImageError, decode_file
from hairline.evaluation import paired
from hairline.evaluation.paired import Difference
from hairline.model import card, saved
from hairline.model.decision import describe_groups
from hairline.system.errors import HairlineError
from hairline.tracking import FinishedRun, registry
from hairline.tracking.registry import RegistryError

log = logging.getLogger(__name__)

# The share of right answers that an inspector sees: at each model's own threshold, with equal weight for each class.
METRIC = "balanced_accuracy_at_threshold"
_BATCH = 32  # images predicted at once


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate becomes the champion, and why.

    Attributes:
        promoted: Whether it does.
        reason: The reason in one sentence.
        figures: Numbers behind the verdict, stored as tags.
    """

    promoted: bool
    reason: str
    figures: dict[str, Any] = field(default_factory=dict)


def register(config: Register) -> Verdict:
    """Register the model of a finished run; it becomes the champion if it is better than the current one beyond chance.

    With `promote=not_worse` it also does if it is not worse by more than `margin`.

    Raises:
        RegistryError: If the run was not tracked, or logged no model.
    """
    uri, name = config.tracking.uri, config.tracking.registered_model
    margin = config.margin if config.promote == "not_worse" else None
    candidate = FinishedRun.find(config.run, uri)
    if candidate.run_id is None:
        raise RegistryError(
            f"run={config.run} was not tracked, and the registry is MLflow's: train it with tracking=mlflow"
        )
    champion = registry.champion(name, uri)
    version = registry.add_version(name, candidate.run_id, uri)
    if champion == version:
        log.info("Nothing to do: version %d of %s is the champion already", version, name)
        return Verdict(True, f"version {version} of {name} is the champion already")
    if champion is None:
        verdict = Verdict(True, f"the first version of {name}: there was no champion to compare it with")
    else:
        try:
            current = FinishedRun.find(f"models:/{name}/{champion}", uri)
            verdict = compare(candidate, current, champion, margin=margin)
        except HairlineError as error:
            verdict = Verdict(False, f"not compared: {error}")
    promoted, reason = verdict.promoted, verdict.reason
    registry.decide(
        name,
        version,
        uri,
        champion=champion,
        promoted=promoted,
        reason=reason,
        tags=verdict.figures,
        card=card.read(candidate.model),
    )
    aliases = " and ".join([registry.CANDIDATE, *([registry.CHAMPION] if promoted else [])])
    log.info("Registered      %s, version %d: %s\nWhy             %s", name, version, aliases, reason)
    return verdict


def compare(candidate: FinishedRun, champion: FinishedRun, version: int, *, margin: float | None) -> Verdict:
    """Compare a candidate with the champion on test images that neither was trained or tuned on.

    Args:
        candidate: Run of the candidate.
        champion: Run of the champion.
        version: Number of the champion's version.
        margin: Balanced accuracy that may be lost; None: the candidate has to be better beyond chance.

    Raises:
        HairlineError: If they cannot be compared.
    """
    manifests = [candidate.manifest(), champion.manifest()]
    if manifests[0] is None or manifests[1] is None:
        role = "candidate" if manifests[0] is None else "champion"
        raise RegistryError(f"the manifest of the {role}, which lists its training images, is missing")
    classes = [sorted(saved.read_bundle(run.model).class_names) for run in (candidate, champion)]
    if classes[0] != classes[1]:
        raise RegistryError(f"its classes are {', '.join(classes[0])}, those of the champion {', '.join(classes[1])}")
    images = held_out(manifests[0], manifests[1])
    for run in (candidate, champion):  # a run from base= has seen the base's images too, which no manifest lists
        splits = pd.Series(saved.seen_splits(run.model, images["sha256"]), dtype=object)
        images = images[~splits.isin(["train", "val"])].reset_index(drop=True)
    if images.empty:
        raise RegistryError("there is no test image that neither of the two was trained or tuned on")
    tables = [predict(run, images) for run in (candidate, champion)]
    groups = dict(zip(images["sha256"], images["group"].where(images["group"] != "", images["sha256"]), strict=True))
    differences: list[Difference] = []
    for metric in (METRIC, "loss"):
        (difference,) = paired.compare(tables[0], tables[1:], metric, groups=groups)
        if isinstance(difference, HairlineError):
            raise difference
        differences.append(difference)
    return judge(differences[0], differences[1], version, margin=margin)


def held_out(candidate: pd.DataFrame, champion: pd.DataFrame) -> pd.DataFrame:
    """Return the test images of either run that are neither training nor validation images of the other.

    Validation images chose the epoch and the threshold.

    Args:
        candidate: Manifest of the candidate.
        champion: Manifest of the champion.

    Returns:
        Rows of the manifests, each image once.
    """
    tables = (candidate, champion)
    tests = pd.concat([table[table["split"] == "test"] for table in tables])
    seen = {digest for table in tables for digest in table.loc[table["split"] != "test", "sha256"]}
    return tests[~tests["sha256"].isin(seen)].drop_duplicates("sha256").reset_index(drop=True)


def predict(run: FinishedRun, images: pd.DataFrame) -> pd.DataFrame:
    """Return the predictions of a run on images: those it saved, or new ones if any is missing.

    Args:
        run: The run.
        images: Rows of a manifest.

    Returns:
        A table of predictions, one row per image; `path` is the image's digest, as paths may differ between runs.

    Raises:
        RegistryError: If predictions are missing, and so is an image file.
    """
    table = _saved_predictions(run, images)
    if table is None:
        table = _new_predictions(run, images)
    return table.assign(path=images["sha256"].to_numpy(), label=images["label"].to_numpy(), x=0, y=0, width=0, height=0)


def _saved_predictions(run: FinishedRun, images: pd.DataFrame) -> pd.DataFrame | None:
    """Return the run's test predictions in the order of `images`; None if one is missing."""
    known, path = run.manifest(), run.file("predictions.csv")
    if known is None or path is None:
        return None
    table = manifest.read(path, required=("path", "label", "predicted"))
    digests = dict(zip(known["path"], known["sha256"], strict=True))
    table = table.assign(sha256=table["path"].map(digests)).drop_duplicates("sha256").set_index("sha256")
    if not images["sha256"].isin(table.index).all():
        return None
    table = table.loc[images["sha256"]].reset_index(drop=True)
    return table.astype({name: float for name in table.columns if str(name).startswith("prob_")})


def _new_predictions(run: FinishedRun, rows: pd.DataFrame) -> pd.DataFrame:
    """Return predictions of images, which must still have the digests of their rows."""
    classifier = saved.Classifier(run.model)

    def decode(row: Any) -> np.ndarray:
        return decode_file(row.path, row.sha256, classifier.bundle.image_size)

    try:
        parts = [rows.iloc[start : start + _BATCH].itertuples() for start in range(0, len(rows), _BATCH)]
        return pd.concat([classifier.predict([*map(decode, part)]) for part in parts], ignore_index=True)
    except ImageError as error:
        raise RegistryError(f"a test image is missing or has changed: {error}") from error


def judge(difference: Difference, loss: Difference, champion: int, *, margin: float | None) -> Verdict:
    """Promote a candidate that is better beyond chance; with a margin, also one that is surely not worse by more.

    Test images are used again and again. If any lead were enough, equal models would replace each other by luck, and if
    a lag that may be chance were excused, a series of slightly worse candidates would wear the champion down by up to
    the margin each.

    Args:
        difference: Difference in `METRIC`, candidate minus champion.
        loss: Difference in log loss, candidate minus champion.
        champion: Number of the champion's version.
        margin: Balanced accuracy that may be lost; None: the candidate has to be better beyond chance.
    """
    figures: dict[str, Any] = {
        "promote": "better" if margin is None else "not_worse",
        "compared_with": champion,
        "compared_images": difference.images,
        "compared_groups": difference.groups,
        "difference": f"{difference.value:.6f}",
        "difference_low": f"{difference.low:.6f}",
        "difference_high": f"{difference.high:.6f}",
        "loss_difference": f"{loss.value:.6f}",
    }
    evidence = (
        f"balanced accuracy {difference.value * 100:+.2f} points against version {champion} (95 % interval "
        f"{difference.low * 100:+.2f} to {difference.high * 100:+.2f}) on {difference.images:,} test images "
        f"({describe_groups(difference.groups)}) that neither was trained on"
    )
    limit = ""
    if margin is not None:
        figures["margin"] = margin
        limit = f"worse by more than the margin of {margin * 100:.2f} points"
    promoted = False
    if not np.isfinite(difference.low):
        outcome = "cannot be compared"
    elif difference.low > 0:
        promoted, outcome = True, "better, beyond chance"
    elif difference.high < 0 and (margin is None or difference.low < -margin):
        outcome = "worse, beyond chance"
    elif margin is None:
        outcome = "not better beyond chance (promote=not_worse promotes a model that is not worse by more than margin)"
    elif difference.low < -margin:
        outcome = f"may be {limit}"
    elif loss.decided and loss.value > 0:
        outcome = f"not {limit}, but surer of its wrong answers (log loss {loss.value:+.4f})"
    else:
        promoted, outcome = True, f"not {limit}"
    return Verdict(promoted, f"{outcome}: {evidence}", figures)
