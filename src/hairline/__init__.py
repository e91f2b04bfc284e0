"""hairline: train, compare and ship classifiers of concrete surfaces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os

    import numpy as np

    from hairline.inspection.inspector import Inspection
    from hairline.model.saved import Classifier

__version__ = "0.1.0"
__all__ = ["__version__", "inspect", "load"]


def load(run: str) -> Classifier:
    """Open the model of a finished run for prediction.

    Args:
        run: A run directory, its `model/` folder, an MLflow run id, or a `models:/` URI.

    Returns:
        A classifier; `load(run).predict(paths)` gives one row of probabilities an image.

    Raises:
        ValueError: If `run` names nothing that holds a saved model.
    """
    # TensorFlow takes seconds to import; `import hairline` stays instant.
    from hairline import tracking
    from hairline.model.saved import Classifier

    return Classifier(tracking.find(run))


def inspect(
    photo: str | os.PathLike[str] | bytes | np.ndarray, *, run: str | os.PathLike[str], **settings: Any
) -> Inspection:
    """Return where a photo is cracked; `hairline.inspection.inspector.Inspector` is quicker for several photos.

    Args:
        photo: A path, the bytes of an image file, or uint8 RGB [height, width, 3].
        run: A run directory, its `model/` folder, an MLflow run id, or a `models:/` URI.
        settings: Any of `size_px` (side of a tile in pixels of the photo), `stride_px`, `overlap`, `engine`, `threads`,
            `threshold` and `positive_class`.

    Returns:
        `verdict` is the answer for the photo and `evidence` how strongly it suggests the positive class; `heat_map`,
        float32 [height, width], says how strongly each pixel does, 0 to 1; `table` has one row a tile (`path x y width
        height label predicted prob_<class>... distance`); `regions`, `highest` and `share(decision)` say more.

    Raises:
        ValueError: If the photo cannot be read, `run` names no saved model, or the settings do not fit it.
    """
    from hairline.inspection.inspector import Inspector

    return Inspector(run, **settings).inspect(photo)


def __dir__() -> list[Any]:
    return sorted(__all__)
