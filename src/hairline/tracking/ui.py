"""MLflow's server with the pages for model training first: `mlflow ui --app-name hairline`.

MLflow 3 shows its pages for language models until somebody clicks "Model training"; the browser remembers the choice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hairline.tracking.store import load_mlflow

# Runs before MLflow's own script, which is deferred. A choice that was made in this browser stays.
_SCRIPT = """<script>
const choice = "mlflow.workflowType_v1"
if (localStorage.getItem(choice) === null) localStorage.setItem(choice, '"machine_learning"')
</script>"""


def create_app() -> Any:
    """Return MLflow's ASGI application; its page opens the view for model training, unless the browser has a choice.

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
