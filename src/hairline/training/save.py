"""From a trained head to the saved model: described, joined and checked.

TensorFlow takes seconds to import, so whatever needs it is imported inside the functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hairline.config import Config
from hairline.data import images, manifest
from hairline.data.prepare import Dataset
from hairline.system import provenance
from hairline.training.head import Frozen, Head

if TYPE_CHECKING:
    import keras

    from hairline.evaluation.decisions import Decision
    from hairline.model.saved import Bundle

PARITY_LIMIT = 1e-4  # between the joined model's probabilities and the feature path's
_PARITY_IMAGES = 32


def describe_model(config: Config, data: Dataset, decision: Decision, network: dict[str, Any]) -> Bundle:
    """Describe the model, `network` its backbone, for whoever uses it."""
    from hairline.model.saved import Bundle

    point = decision.point
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
        backbone=network,
        versions=provenance.versions(),
        extra={
            "split": config.split.grouping(),
            # The side of the patches before they are squeezed: what a tile of a photo should be as well.
            "patch_px": int(np.median(data.manifest[["width", "height"]].to_numpy()[data.real])),
        },
    )


def join_model(
    config: Config, data: Dataset, frozen: Frozen, head: Head, probabilities: np.ndarray, temperature: float
) -> tuple[keras.Model, float]:
    """Join backbone and head, and check the whole against the feature path on real test images.

    Returns:
        The joined model, and the largest difference of its probabilities.

    Raises:
        RuntimeError: If they differ by more than `PARITY_LIMIT`.
    """
    from hairline.model.head import join

    model = join(frozen.model(), head.model, head.standardisation, temperature)
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
    return model, difference
