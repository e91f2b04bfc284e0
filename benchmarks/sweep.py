"""Seconds a job of a sweep of head-only jobs on a warm cache: one JSON line."""

from __future__ import annotations

import statistics

import measure
import numpy as np


def main() -> None:
    """Fill the cache, run the sweep, and print what its jobs took."""
    line = measure.parser(__doc__)
    line.add_argument("--jobs", type=int, default=10, help="jobs, each with a learning rate of its own; at least 2")
    line.add_argument("--epochs", type=int, default=10, help="epochs of a job")
    settings = line.parse_args()
    if settings.jobs < 2:
        line.error(f"--jobs {settings.jobs}: the first job is counted apart, so at least 2 are needed")
    # As light, but the best is not completed at the end: only the jobs are timed.
    common = ["report=none", "tracking=mlflow", f"epochs={settings.epochs}"]
    with measure.workplace() as place:
        cold = measure.train(settings.images, ["epochs=1", "report.level=light", "tracking=none"], place / "cold")
        rates = ",".join(f"{rate:.2g}" for rate in np.geomspace(1e-4, 1e-2, settings.jobs))
        sweep = place / "sweep"
        process = measure.train(settings.images, ["-m", f"learning_rate={rates}", *common], sweep)
        found = [measure.results(sweep / str(job)) for job in range(settings.jobs)]
        ends = [(sweep / str(job) / "metrics.json").stat().st_mtime for job in range(settings.jobs)]
    inside = [values["seconds_total"] for values in found]
    result = {
        "images": measure.images_of(found[0]),
        "jobs": settings.jobs,
        "epochs": settings.epochs,
        "cold_seconds": cold.seconds,
        "sweep_seconds": process.seconds,
        "seconds_per_job": (ends[-1] - ends[0]) / (settings.jobs - 1),
        "first_job_seconds": inside[0],
        "later_jobs_seconds_mean": statistics.mean(inside[1:]),
        "later_jobs_seconds_max": max(inside[1:]),
        "sweep_seconds_over_jobs": process.seconds / settings.jobs,
        "peak_mb": process.peak_mb,
    }
    measure.report(result | measure.machine())


if __name__ == "__main__":
    main()
