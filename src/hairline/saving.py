"""From a trained head to the saved model: described, joined, checked and measured.

TensorFlow takes seconds to import, so whatever needs it is imported inside the functions.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hairline import environment
from hairline.config import Config
from hairline.data import images, manifest
from hairline.model import backbones
from hairline.phases import Frozen
from hairline.preparation import Data

if TYPE_CHECKING:
    import keras

    from hairline.evaluation.decisions import Decision
    from hairline.few_labels import Base
    from hairline.model.bundle import Bundle
    from hairline.model.classifier import Standardisation
    from hairline.model.features import Features

PARITY_LIMIT = 1e-4  # between the joined model's probabilities and the feature path's
_PARITY_IMAGES = 32
_MEASURED_IMAGES = 500  # of training and of validation, whose features are computed anew after fine-tuning


def describe_model(
    config: Config, data: Data, frozen: Frozen, origin: str, decision: Decision, base: Base | None
) -> Bundle:
    """Describe the model for whoever uses it."""
    from hairline.model.bundle import Bundle

    row = backbones.BACKBONES[config.model.backbone]
    point = decision.point
    network = {
        "name": config.model.backbone,
        "weights": origin,
        "weights_digest": frozen.recipe.weights,
        "taps": " ".join(frozen.recipe.taps),
        "finetuned": config.finetune.layers,
        "precision": config.runtime.precision,
        "licence": {"imagenet": row.licence, "synthetic": "Apache-2.0"}.get(origin, ""),
    }
    return Bundle(
        class_names=data.class_names,
        positive_class=None if data.positive is None else data.class_names[data.positive],
        image_size=config.image_size,
        decode=images.RECIPE,
        threshold=None if point is None else point.threshold,
        threshold_chosen="default" if point is None else point.describe(),
        operating_point={} if point is None else point.values(),
        abstain=decision.abstain,
        temperature=decision.temperature,
        data_digest=manifest.digest(data.manifest),
        backbone=network if base is None else dict(base.parts.bundle.backbone),
        versions=environment.versions(),
        extra={
            "split": config.split.grouping(),
            # The side of the patches before they are squeezed: what a tile of a photo should be as well.
            "patch_px": int(np.median(data.manifest[["width", "height"]].to_numpy()[data.real])),
        },
    )


def save_model(
    config: Config,
    data: Data,
    frozen: Frozen,
    head: keras.Model,
    standardisation: Standardisation,
    probabilities: np.ndarray,
    bundle: Bundle,
    directory: Path,
    base: Base | None,
) -> tuple[keras.Model, float]:
    """Join backbone and head, check the whole against the feature path on real test images, and save it.

    Returns:
        The joined model, and the largest difference of its probabilities.
    """
    from hairline.model import bundle as bundles
    from hairline.model import classifier

    model = classifier.join(frozen.model(), head, standardisation, bundle.temperature)
    rows = data.rows("test")[:_PARITY_IMAGES]
    pixels = np.stack([images.decode(path, config.image_size) for path in data.manifest["path"].iloc[rows]])
    # In small batches: an eager call on all of them would more than double the run's peak memory.
    found = model.predict(pixels, batch_size=8, verbose=0)
    difference = float(np.abs(found - probabilities[rows]).max())
    if not difference <= PARITY_LIMIT and config.runtime.precision == "float32":
        raise RuntimeError(
            f"the joined model's probabilities differ from the trained head's by {difference:.2g} on test images; "
            f"expected at most {PARITY_LIMIT:g}: the model was not saved"
        )
    # Which images the model has seen, so that an evaluation elsewhere can leave them out.
    statistics = bundles.seen_images(data.manifest["sha256"], data.manifest["split"])
    if base is None:
        statistics |= measure_features(config, data, frozen, model, standardisation)
    else:
        statistics = extend(base.statistics, statistics, frozen.images)
    bundles.save(directory / "model", model, bundle, statistics)
    return model, difference


def measure_features(
    config: Config, data: Data, frozen: Frozen, model: keras.Model, standardisation: Standardisation
) -> dict[str, np.ndarray]:
    """Give the arrays by which new images are told from those of the training.

    They belong to the model's own features, which fine-tuning has moved away from the frozen ones.
    """
    from hairline.model.classifier import Standardisation
    from hairline.model.distance import Distance

    rows = {split: data.rows(split) for split in ("train", "val")}
    if config.finetune.layers == "none":
        found = {split: frozen.images.rows(numbers) for split, numbers in rows.items()}
        mean, deviation = standardisation.mean, standardisation.deviation
        return Distance.of(found["train"], data.labels[rows["train"]], found["val"], mean, deviation).arrays()
    some = {split: evenly(numbers, _MEASURED_IMAGES) for split, numbers in rows.items()}
    found = {split: tuned_features(config, data, frozen, model, numbers) for split, numbers in some.items()}
    tuned = Standardisation.of(found["train"])
    labels = data.labels[some["train"]]
    return Distance.of(found["train"], labels, found["val"], tuned.mean, tuned.deviation).arrays()


def tuned_features(config: Config, data: Data, frozen: Frozen, model: keras.Model, rows: np.ndarray) -> Features:
    """Give what the joined model's layer `features` says of some images; nothing is kept."""
    import keras

    from hairline.model.features import compute

    table = data.manifest.iloc[rows]
    return compute(
        table["path"].tolist(),
        table["sha256"].tolist(),
        # By TensorFlow: the model is in memory, and converting it would take longer than a thousand images do.
        replace(frozen.recipe, weights="fine-tuned", engine="tensorflow"),
        lambda: keras.Model(model.input, model.get_layer("features").output),
        keep=False,
        threads=config.runtime.threads,
        label="features of the fine-tuned model",
    )


def evenly(rows: np.ndarray, most: int) -> np.ndarray:
    """Draw at most `most` of some numbers, evenly over their order."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(np.int64))]


def extend(base: dict[str, np.ndarray], seen: dict[str, np.ndarray], features: Features) -> dict[str, np.ndarray]:
    """Give the arrays of an adapted model: its base's, with the new images among what it knows."""
    from hairline.model import bundle as bundles
    from hairline.model.distance import Distance

    found = base | bundles.seen_both(base, seen)
    distance = Distance.read(base)
    return found if distance is None else found | distance.widened(features).arrays()
