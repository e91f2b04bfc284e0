"""MLflow: the run directory's mirror. The only room, with `registry` and the served model, that imports it.

A run tells its `journal`; `delivery` hands that to its `mirror`, the MLflow run, beside the training.
"""

from hairline.tracking.journal import begun, forget, run_id
from hairline.tracking.models import download_model, fetch_runs, find, logged_model, passing_folder, requirements
from hairline.tracking.parents import discard_children, open_parent, same_end, terminate, update
from hairline.tracking.run import Run, metric_name, record_failure, start, synchronise
from hairline.tracking.store import (
    PARENT,
    TrackingError,
    address,
    connect,
    curves_page,
    how_to_see,
    opened,
    redacted,
    redacted_text,
    runs_page,
)

__all__ = [
    "PARENT",
    "Run",
    "TrackingError",
    "address",
    "begun",
    "connect",
    "curves_page",
    "discard_children",
    "download_model",
    "fetch_runs",
    "find",
    "forget",
    "how_to_see",
    "logged_model",
    "metric_name",
    "open_parent",
    "opened",
    "passing_folder",
    "record_failure",
    "redacted",
    "redacted_text",
    "requirements",
    "run_id",
    "runs_page",
    "same_end",
    "start",
    "synchronise",
    "terminate",
    "update",
]
