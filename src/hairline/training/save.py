"""Build the saved model from a trained head: description, joined network, parity check.

TensorFlow takes seconds to import, so whatever needs it is imported inside the functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from hairline.data import images
from hairline.data.prepare import Dataset
from hairline.model.decision import Decision
from hairline.model.saved import Bundle
from hairline.system import provenance
from hairline.training.head import Frozen, Head

if TYPE_CHECKING:
    import keras

PARITY_LIMIT = 1e-4  # largest allowed difference of probabilities between the joined model and the feature path
_PARITY_BATCH = 2
_PARITY_IMAGES = 16


def describe(
    data: Dataset, decision: Decision, network: dict[str, str], *, image_size: int, split: Mapping[str, object]
) -> Bundle:
    """Return the content of `bundle.json`.

    Args:
        data: The images of the run.
        decision: How probabilities become answers.
        network: Description of the backbone.
        image_size: Side of the input, pixels.
        split: How images were grouped.
    """
    return Bundle(
        class_names=data.class_names,
        positive_class=None if data.positive is None else data.class_names[data.positive],
        image_size=image_size,
        decode=images.RECIPE,
        decision=decision,
        data_digest=data.digest,
        backbone=network,
        versions=provenance.versions(),
        extra={
            "split": split,
            # Side of the patches before they are resized: the right size for the tiles of a photo.
            "patch_px": int(np.median(data.manifest[["width", "height"]].to_numpy()[data.real])),
        },
    )


def join(data: Dataset, frozen: Frozen, head: Head, *, temperature: float, exact: bool) -> tuple[keras.Model, float]:
    """Join backbone and head, and compare the result with the feature path on test images.

    Args:
        data: The images of the run.
        frozen: The backbone and its features.
        head: The trained head.
        temperature: Folded into the last layer.
        exact: Raise where they differ; False for half precision.

    Returns:
        The joined model, and the largest difference of a probability.

    Raises:
        RuntimeError: If a probability differs by more than `PARITY_LIMIT`.
    """
    from hairline.model import predictions
    from hairline.model.head import join_model

    model = join_model(frozen.network(), head.linear, temperature)
    rows = data.rows("test")[:_PARITY_IMAGES]
    pixels = np.stack([images.decode(path, frozen.recipe.image_size) for path in data.manifest["path"].iloc[rows]])
    # Eager calls, as tracing the model takes longer, in small batches: one on all would double the run's peak memory.
    batches = np.array_split(pixels, -(-len(pixels) // _PARITY_BATCH))
    computed = np.concatenate([np.asarray(model(batch, training=False)) for batch in batches])
    difference = float(np.abs(computed - predictions.probabilities(head.logits[rows], temperature)).max())
    if exact and not difference <= PARITY_LIMIT:
        raise RuntimeError(
            f"the joined model's probabilities differ from the trained head's by {difference:.2g} on test images; "
            f"expected at most {PARITY_LIMIT:g}: the model was not saved"
        )
    return model, difference
