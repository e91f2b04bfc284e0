"""hairline: train, compare and ship classifiers of concrete surfaces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hairline.inference import Classifier

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


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
    from hairline.inference import load as load_model

    return load_model(run)


def __dir__() -> list[Any]:
    return sorted(__all__)
