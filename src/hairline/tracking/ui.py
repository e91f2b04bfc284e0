"""MLflow's server with the pages for model training first: `mlflow ui --app-name hairline`.

MLflow 3 shows its pages for language models, with a chat beside them, until somebody clicks "Model training" and closes
the chat; the browser's storage remembers that.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hairline.tracking.store import load_mlflow

# Names and values in the browser's storage, as MLflow 3.17 reads them; it has no setting on the server.
_CHOICES = {"mlflow.workflowType_v1": "machine_learning", "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": True}
# Runs before MLflow's own script, which is deferred. What was chosen in this browser stays.
_SCRIPT = f"""<script>
for (const [name, value] of Object.entries({json.dumps(_CHOICES)}))
  if (localStorage.getItem(name) === null) localStorage.setItem(name, JSON.stringify(value))
</script>"""


def create_app() -> Any:
    """Return MLflow's ASGI application; its page opens for model training, unless the browser has another choice.

    The entry point of the group `mlflow.app` in pyproject.toml names this function.
    """
    load_mlflow()
    from mlflow.server import app as pages
    from mlflow.server.fastapi_app import app

    html = (Path(str(pages.static_folder)) / "index.html").read_text(encoding="utf-8")
    html = html.replace("<head>", f"<head>{_SCRIPT}", 1)
    # Without an ETag: browsers would keep the page that MLflow itself served at the same address.
    pages.view_functions["serve"] = lambda: pages.response_class(html, mimetype="text/html")
    return app
