"""Describe a trained model for `bundle.json`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hairline.data import images
from hairline.data.prepare import Dataset
from hairline.model.decision import Decision
from hairline.model.saved import Bundle
from hairline.system import provenance


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
