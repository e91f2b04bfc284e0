"""The model as MLflow serves it: encoded images in, label and probabilities out. MLflow runs this file as it stands."""

from __future__ import annotations

import base64
import binascii
import io
import threading
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException
from PIL import Image

MOST_IMAGES = 64  # of one request
MOST_MEGAPIXELS = 50.0  # of one image: decoded, a pixel takes three bytes, and as many again while it is turned


class CrackClassifier(mlflow.pyfunc.PythonModel):
    """A saved model behind MLflow's interface."""

    def load_context(self, context: Any) -> None:
        """Load the saved model that was logged as an artifact."""
        from hairline.model.saved import Classifier
        from hairline.tracking import gateway

        gateway.guard()
        self.classifier = Classifier(Path(context.artifacts["model"]))
        # MLflow's server answers from many threads. One at a time: TensorFlow uses all cores for each by itself, and
        # no more than one request's images lie decoded in memory.
        self.turn = threading.Lock()

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Classify encoded images.

        Args:
            context: MLflow's; not used.
            model_input: A column `image` with the bytes of JPEG, PNG or other image files (base64 in JSON).
            params: Not used.

        Returns:
            `label` (the predicted class, or "cannot tell"), `probability` (of that class, or else the highest),
            `threshold` (on the positive class; empty where the most probable class wins), and `prob_<class>` for each
            class.

        Raises:
            MlflowException: If an image cannot be read or is too large; the server answers with status 400.
        """
        from hairline.data.images import ImageError

        try:
            contents = self._contents(model_input)
            with self.turn:
                found = self.classifier.predict(contents, batch_size=8)
        except ImageError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error
        bundle = self.classifier.bundle
        columns = [f"prob_{name}" for name in bundle.class_names]
        chosen = [row.get(f"prob_{row['predicted']}", row[columns].max()) for _, row in found.iterrows()]
        table = pd.DataFrame({"label": found["predicted"], "probability": chosen})
        table["threshold"] = bundle.threshold
        return table.join(found[columns].astype("float64"))

    def _contents(self, model_input: Any) -> list[bytes]:
        """Give the images' bytes, checked without decoding them."""
        from hairline.data import images

        if not isinstance(model_input, pd.DataFrame) or "image" not in model_input:
            raise images.ImageError("expected a table with the column 'image'")
        if not 0 < len(model_input) <= MOST_IMAGES:
            raise images.ImageError(f"received {len(model_input)} images: expected 1 to {MOST_IMAGES} a request")
        contents = []
        for number, value in enumerate(model_input["image"]):
            try:
                content = _decoded(value)
                width, height = _size(content)
            except images.ImageError as error:
                raise images.ImageError(f"image {number}: {error}") from error
            except (TypeError, ValueError) as error:
                raise images.ImageError(f"image {number} is no base64 text: {error}") from error
            if width * height > MOST_MEGAPIXELS * 1e6:
                raise images.ImageError(
                    f"image {number} has {width} x {height} pixels: expected at most {MOST_MEGAPIXELS:g} megapixels; "
                    "make it smaller, or cut it into parts"
                )
            contents.append(content)
        return contents


def _decoded(value: Any) -> bytes:
    """Give an image's bytes; the forms `inputs` and `instances` reach a model as base64, the others decoded."""
    if isinstance(value, str):
        return base64.b64decode(value, validate=True)
    content = bytes(value) if isinstance(value, bytes | bytearray) else bytes(memoryview(value))
    try:
        return base64.b64decode(content, validate=True)  # no image is made of base64's letters alone
    except binascii.Error:
        return content


def _size(content: bytes) -> tuple[int, int]:
    """Read an image's width and height in pixels from its header, without decoding it."""
    from hairline.data import images

    try:
        with Image.open(io.BytesIO(content), formats=images.FORMATS) as image:
            return image.size
    except Exception:  # Pillow's plug-ins raise anything
        images.decode(content)  # stops where this did, and says why in words for people
        raise


mlflow.models.set_model(CrackClassifier())
