"""MLflow: the run directory's mirror. The only room, with `registry` and the served model, that imports it.

A run tells its `journal`; `delivery` hands that to its `mirror`, the MLflow run, beside the training.
"""

from hairline.tracking.journal import forget, run_id, start_count
from hairline.tracking.models import download_model, fetch_runs, find, logged_model, passing_folder, requirements
from hairline.tracking.parents import delete_unfinished_children, end_run, keep_end_time, open_parent, update_run
from hairline.tracking.run import Run, metric_name, record_failure, start, synchronise
from hairline.tracking.store import (
    PARENT,
    TrackingError,
    address,
    connect,
    curves_page,
    opened,
    redacted,
    redacted_text,
    runs_page,
    ui_hints,
)

__all__ = [
    "PARENT",
    "Run",
    "TrackingError",
    "address",
    "start_count",
    "connect",
    "curves_page",
    "delete_unfinished_children",
    "download_model",
    "fetch_runs",
    "find",
    "forget",
    "ui_hints",
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
    "keep_end_time",
    "start",
    "synchronise",
    "end_run",
    "update_run",
]
