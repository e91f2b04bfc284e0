"""The model that MLflow serves: encoded images in, label and probabilities out. MLflow runs this file on its own."""

from __future__ import annotations

import base64
import binascii
import os
import sys
import threading
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow import exceptions

MAX_IMAGES = 64  # per request
MAX_MEGAPIXELS = 50.0  # per image: decoding takes three bytes per pixel, and rotation as many again

_SERVER = "mlflow.pyfunc.scoring_server.app"  # module of MLflow that holds its server
_MODEL_PATH = "__pyfunc_model_path__"  # environment variable in which the server finds the model


class CrackClassifier(mlflow.pyfunc.PythonModel):  # type: ignore[name-defined]
    """A saved model as a pyfunc."""

    def load_context(self, context: Any) -> None:
        """Load the saved model that was logged as an artifact."""
        from hairline.model.saved import Classifier

        # Only where MLflow's server is about to start: reading a model needs no FastAPI.
        server = sys.modules.get(_SERVER)
        if server is not None or _MODEL_PATH in os.environ:
            from hairline.tracking import gateway

            gateway.guard(server)
        self.classifier = Classifier(Path(context.artifacts["model"]))
        # MLflow's server uses many threads. One predicts at a time: TensorFlow uses all cores, and only one request's
        # images are in memory.
        self.lock = threading.Lock()

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Classify encoded images.

        Args:
            context: Not used.
            model_input: Column `image` with the bytes of JPEG, PNG or other image files (base64 in JSON).
            params: Not used.

        Returns:
            `label` (the predicted class, or "cannot tell"), `probability` (of that class, or else the highest),
            `threshold` (on the positive class; empty if the most probable class is predicted), and `prob_<class>` for
            each class.

        Raises:
            MlflowException: If an image cannot be read or is too large; the server answers with status 400.
        """
        from hairline.data.images import ImageError

        try:
            contents = self._contents(model_input)
            with self.lock:
                predictions = self.classifier.predict(contents, batch_size=8)
        except ImageError as error:
            code = exceptions.INVALID_PARAMETER_VALUE  # type: ignore[attr-defined]
            raise exceptions.MlflowException(str(error), error_code=code) from error
        bundle = self.classifier.bundle
        columns = [f"prob_{name}" for name in bundle.class_names]
        probabilities = [row.get(f"prob_{row['predicted']}", row[columns].max()) for _, row in predictions.iterrows()]
        table = pd.DataFrame({"label": predictions["predicted"], "probability": probabilities})
        table["threshold"] = bundle.threshold
        return table.join(predictions[columns].astype("float64"))

    def _contents(self, model_input: Any) -> list[bytes]:
        """Return the bytes of the image files, checked without decoding the pixels."""
        from hairline.data import images

        if not isinstance(model_input, pd.DataFrame) or "image" not in model_input:
            raise images.ImageError("expected a table with the column 'image'")
        if not 0 < len(model_input) <= MAX_IMAGES:
            raise images.ImageError(f"received {len(model_input)} images: expected 1 to {MAX_IMAGES} per request")
        contents = []
        for number, value in enumerate(model_input["image"]):
            try:
                content = _decoded(value)
                width, height = _size(content)
            except images.ImageError as error:
                raise images.ImageError(f"image {number}: {error}") from error
            except (TypeError, ValueError) as error:
                raise images.ImageError(f"image {number} is not base64 text: {error}") from error
            if width * height > MAX_MEGAPIXELS * 1e6:
                raise images.ImageError(
                    f"image {number} has {width} x {height} pixels: expected at most {MAX_MEGAPIXELS:g} megapixels; "
                    "resize it, or cut it into parts"
                )
            contents.append(content)
        return contents


def _decoded(value: Any) -> bytes:
    """Return an image file's bytes; MLflow passes `inputs` and `instances` on as base64, other formats decoded."""
    if isinstance(value, str):
        return base64.b64decode(value, validate=True)
    content = bytes(value) if isinstance(value, bytes | bytearray) else bytes(memoryview(value))
    try:
        return base64.b64decode(content, validate=True)  # no image file consists of base64 letters only
    except binascii.Error:
        return content


def _size(content: bytes) -> tuple[int, int]:
    """Return an image's width and height in pixels from its header, without decoding the pixels."""
    from hairline.data import images

    with images.opened(content) as image:
        return image.size


mlflow.models.set_model(CrackClassifier())
