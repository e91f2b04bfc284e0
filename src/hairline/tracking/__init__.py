"""MLflow as the mirror of run directories; the only room that imports it.

`run.start` writes what a run logs to its `journal`; `delivery` sends the journal to the `mirror`, the MLflow run, in a
thread beside the training.
"""

from hairline.tracking.journal import begun_name, forget, has_metrics, run_id, start_count
from hairline.tracking.models import FinishedRun, fetch_runs, find, logged_model
from hairline.tracking.run import (
    LOGS,
    Run,
    delete_unfinished_children,
    end_run,
    keep_end_time,
    metric_names,
    open_parent,
    record_failure,
    start,
    update_run,
)
from hairline.tracking.store import (
    PARENT,
    TrackingError,
    connect,
    curves_page,
    default_uri,
    followed,
    sqlite_address,
    tracking_uri,
    ui_hints,
)

__all__ = [
    "LOGS",
    "PARENT",
    "FinishedRun",
    "Run",
    "TrackingError",
    "begun_name",
    "connect",
    "curves_page",
    "default_uri",
    "delete_unfinished_children",
    "end_run",
    "fetch_runs",
    "find",
    "followed",
    "forget",
    "has_metrics",
    "keep_end_time",
    "logged_model",
    "metric_names",
    "open_parent",
    "record_failure",
    "run_id",
    "sqlite_address",
    "start",
    "start_count",
    "tracking_uri",
    "ui_hints",
    "update_run",
]
