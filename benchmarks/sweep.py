"""Seconds per head-only job of a sweep with a warm cache: one JSON line."""

from __future__ import annotations

import statistics

import measure
import numpy as np


def main() -> None:
    """Fill the cache, run the sweep, and print the time of its jobs."""
    parser = measure.parser(__doc__)
    parser.add_argument("--jobs", type=int, default=10, help="jobs, each with its own learning rate; at least 2")
    parser.add_argument("--epochs", type=int, default=10, help="epochs per job")
    settings = parser.parse_args()
    if settings.jobs < 2:
        parser.error(f"--jobs {settings.jobs}: expected at least 2, because the first job is timed separately")
    # report=none: a light report would complete the best job at the end, which is not to be timed.
    common = ["report=none", "tracking=mlflow", f"epochs={settings.epochs}"]
    with measure.workplace() as place:
        cold = measure.train(settings.images, ["epochs=1", "report.level=light", "tracking=none"], place / "cold")
        rates = ",".join(f"{rate:.2g}" for rate in np.geomspace(1e-4, 1e-2, settings.jobs))
        sweep = place / "sweep"
        process = measure.train(settings.images, ["-m", f"learning_rate={rates}", *common], sweep)
        metrics = [measure.results(sweep / str(job)) for job in range(settings.jobs)]
        ends = [(sweep / str(job) / "metrics.json").stat().st_mtime for job in range(settings.jobs)]
    seconds = [values["seconds_total"] for values in metrics]
    result = {
        "images": measure.images_of(metrics[0]),
        "jobs": settings.jobs,
        "epochs": settings.epochs,
        "cold_seconds": cold.seconds,
        "sweep_seconds": process.seconds,
        "seconds_per_job": (ends[-1] - ends[0]) / (settings.jobs - 1),
        "first_job_seconds": seconds[0],
        "later_jobs_seconds_mean": statistics.mean(seconds[1:]),
        "later_jobs_seconds_max": max(seconds[1:]),
        "sweep_seconds_over_jobs": process.seconds / settings.jobs,
        "peak_mb": process.peak_mb,
    }
    measure.report(result | measure.machine())


if __name__ == "__main__":
    main()
