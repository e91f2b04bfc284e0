"""The model card of a saved model: `README.md`, for people who decide whether they can rely on it.

What a card says is in `card.json`; an evaluation on other images adds a row and writes the card again (Mitchell et al.
2019, Model Cards for Model Reporting).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock
import jinja2

from hairline.model.decision import describe_groups
from hairline.model.saved import Bundle, read_bundle
from hairline.system import files

README, FACTS = "README.md", "card.json"
# Metrics of the card, with the words for each.
_METRICS = {
    "accuracy": "accuracy (most probable class)",
    "recall_at_threshold": "recall at the threshold",
    "specificity_at_threshold": "specificity at the threshold",
    "balanced_accuracy_at_threshold": "balanced accuracy at the threshold",
    "auroc": "AUROC",
    "ece": "calibration error",
}


def write(
    folder: Path,
    *,
    data: str,
    images: Mapping[str, int],
    drawn: int,
    split_by: str,
    metrics: Mapping[str, float],
) -> None:
    """Write the card of a model that was just trained.

    Args:
        folder: The saved model.
        data: Name of the images.
        images: Number of images of each split, without drawn ones.
        drawn: Number of training images that were drawn on others or cropped from them.
        split_by: How images were grouped before they were divided.
        metrics: Flat metrics of the run; those of the test split are shown.
    """
    facts: dict[str, Any] = {
        "data": data,
        "images": dict(images),
        "drawn": drawn,
        "split_by": split_by,
        "test": _chosen(metrics),
    }
    earlier = json.loads((folder / FACTS).read_text(encoding="utf-8")) if (folder / FACTS).is_file() else {}
    evaluations = earlier.pop("evaluations", [])
    # A finished run that is resumed for more figures saves the same model again.
    _save(folder, facts | {"evaluations": evaluations if earlier == facts else []})


def add_evaluation(folder: Path, data: str, source: str, images: int, metrics: Mapping[str, float]) -> None:
    """Add the figures of a model on other images, or replace those of the same source; without a card do nothing.

    Args:
        folder: The saved model.
        data: Name of the images.
        source: Identifies where the images come from, such as a digest of their path.
        images: Number of images that the model had not seen.
        metrics: Flat metrics of `evaluate.py`; those with the prefix `test_` are shown.
    """
    if not (folder / FACTS).is_file():
        return
    with files.waiting(filelock.FileLock(folder / f".{FACTS}.lock"), "writes the model card"):
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        others = [row for row in facts["evaluations"] if row["source"] != source]
        row = {"data": data, "source": source, "images": images, "test": _chosen(metrics)}
        facts["evaluations"] = [*others, row]
        _save(folder, facts)


def read(folder: Path) -> str:
    """Return the card of a saved model; empty text if it has none."""
    return (folder / README).read_text(encoding="utf-8") if (folder / README).is_file() else ""


def _chosen(metrics: Mapping[str, float]) -> dict[str, list[float]]:
    """Return value, interval and number of groups of each metric of the card that was measured, or the value alone."""
    chosen = {}
    for name in _METRICS:
        keys = [f"test_{name}", *(f"test_{name}_interval_{part}" for part in ("low", "high", "groups"))]
        values = [float(metrics.get(key, math.nan)) for key in keys]
        if math.isfinite(values[0]):
            chosen[name] = values if all(map(math.isfinite, values)) else values[:1]
    return chosen


def _save(folder: Path, facts: dict[str, Any]) -> None:
    files.write_text(folder / FACTS, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    files.write_text(folder / README, render(read_bundle(folder), facts))


def render(bundle: Bundle, facts: Mapping[str, Any]) -> str:
    """Return the card in Markdown.

    Args:
        bundle: Description of the model.
        facts: Content of `card.json`.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hairline", "model"),
        autoescape=False,  # Markdown
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["figure"] = _figure
    return environment.get_template("card.md.j2").render(bundle=bundle, metrics=_METRICS, **facts)


def _figure(values: list[float] | None) -> str:
    """Return a value with its interval.

    >>> _figure([0.99, 0.98, 1.0, 40]), _figure([0.5]), _figure(None)
    ('0.9900 (0.9800 to 1.0000, 40 groups)', '0.5000', '-')
    """
    if not values:
        return "-"
    text = f"{values[0]:.4f}"
    if len(values) == 1:
        return text
    return f"{text} ({values[1]:.4f} to {values[2]:.4f}, {describe_groups(int(values[3]))})"
