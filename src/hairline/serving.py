"""The model as MLflow serves it: encoded images in, label and probabilities out. MLflow runs this file as it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd


class CrackClassifier(mlflow.pyfunc.PythonModel):
    """A saved model behind MLflow's interface."""

    def load_context(self, context: Any) -> None:
        """Load the saved model that was logged as an artifact."""
        from hairline.inference import Classifier

        self.classifier = Classifier(Path(context.artifacts["model"]))

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
        """
        bundle = self.classifier.bundle
        found = self.classifier.predict([bytes(content) for content in model_input["image"]])
        columns = [f"prob_{name}" for name in bundle.class_names]
        chosen = [row.get(f"prob_{row['predicted']}", row[columns].max()) for _, row in found.iterrows()]
        table = pd.DataFrame({"label": found["predicted"], "probability": chosen})
        table["threshold"] = bundle.threshold
        return table.join(found[columns].astype("float64"))


mlflow.models.set_model(CrackClassifier())
