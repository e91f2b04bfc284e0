"""A sweep's state: one folder, from which any process can resume it, with any launcher and on any machine.

`sweep.json` holds the command, `<n>/job.status` the status of each job. `sweep.csv`, `comparison.png` and the parent
run in MLflow summarise them; `.summary.json` holds what a job needs to add itself to the summary.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from hairline import tracking
from hairline.config import commands
from hairline.config.names import short_name, short_value
from hairline.system import files, redaction
from hairline.system.errors import HairlineError

if TYPE_CHECKING:
    import pandas as pd

STATE, JOB, TABLE, FIGURE, SUMMARY = "sweep.json", "job.status", "sweep.csv", "comparison.png", ".summary.json"
NO_IDENTITY = ""  # of a job with an invalid configuration: it is recognised by its swept settings
_METRICS = ("val_loss", "val_accuracy", "test_accuracy")
_MOST_DRAWN = 30  # jobs in the figure while the sweep runs; at its end it shows all
_MOST_FAILED = 20  # failed jobs named in MLflow
_FIGURE_SECONDS = 60.0  # between two figures of a running sweep
_TIMEOUT_SECONDS = 3600.0  # for a job that a killed sweep left running in a process of its own


class SweepError(HairlineError):
    """The sweep cannot be started or resumed."""


@dataclass
class Job:
    """State of one job of a sweep.

    Attributes:
        number: Name of its directory in the sweep's folder.
        identity: Of its configuration, from `config.identity`; a resumed sweep finds the job by it.
        settings: The swept settings with the job's values.
        session: The start of the sweep that ran it last.
        status: running, finished, failed or interrupted.
        value: The objective (validation loss) of a finished job.
        error: First line of the error of a failed job.
    """

    number: int
    identity: str
    settings: dict[str, str]
    session: str
    status: str = "running"
    value: float | None = None
    error: str = ""

    @property
    def overrides(self) -> list[str]:
        """The swept settings as key=value, long fractions with four digits."""
        return [f"{key}={short_value(value)}" for key, value in self.settings.items()]

    @property
    def name(self) -> str:
        """The swept settings on one line."""
        return short_name(self.settings) or f"job {self.number}"

    def matches(self, identity: str, settings: dict[str, str]) -> bool:
        """Return whether this is the job of a configuration; an invalid one is compared by its swept settings."""
        if NO_IDENTITY in (self.identity, identity):
            return self.settings == settings
        return self.identity == identity


@dataclass
class Summary:
    """The jobs that have ended, in as much detail as the summary of a running sweep needs.

    Attributes:
        columns: Of the table.
        counts: Number of jobs by status.
        best: Jobs with the lowest validation loss, the best first.
        failed: Some failed jobs.
    """

    columns: list[str]
    counts: dict[str, int] = field(default_factory=dict)
    best: list[Job] = field(default_factory=list)
    failed: list[Job] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Summary:
        """Load a summary."""
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(**values | {key: [Job(**job) for job in values[key]] for key in ("best", "failed")})

    def add(self, job: Job) -> None:
        """Add a job."""
        self.counts[job.status] = self.counts.get(job.status, 0) + 1
        if job.value is not None:
            self.best = sorted([*self.best, job], key=_rank)[:_MOST_DRAWN]
        if job.status == "failed":
            self.failed = [*self.failed, job][-_MOST_FAILED:]

    def __str__(self) -> str:
        return ", ".join(
            f"{count} {status}" for status, count in sorted(self.counts.items(), key=lambda item: -item[1])
        )


@dataclass
class Sweep:
    """A sweep and its folder.

    Attributes:
        folder: Absolute path.
        name: Name of the parent run.
        session: Identifies one start of the sweep; a resumed sweep has a new one.
        command: Overrides of the sweep's command.
        swept: Settings that differ between jobs, with all their values as typed.
        count: Number of jobs of the last start; 0 for a search, which ends when it has tried enough.
        stop_on_error: A failed job prevents further jobs from starting.
        working_directory: Where the sweep was started; jobs in other processes change to it.
        place: The folder's absolute path at that time.
        environment: Environment variables for jobs on other machines.
        store: Tracking address; None if tracking is off.
        experiment_id: MLflow's id of the experiment.
        run_id: MLflow's id of the parent run.
    """

    folder: Path
    name: str = ""
    session: str = ""
    command: list[str] = field(default_factory=list)
    swept: dict[str, str] = field(default_factory=dict)
    count: int = 0
    stop_on_error: bool = False
    working_directory: str = ""
    place: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    store: str | None = None
    experiment_id: str = ""
    run_id: str | None = None

    # --- on disk ------------------------------------------------------------------------------------------------------

    @classmethod
    def read(cls, folder: Path) -> Sweep:
        """Load a sweep's state.

        Raises:
            SweepError: If the folder holds none.
        """
        path = folder.expanduser().absolute() / STATE
        try:
            return cls(folder=path.parent, **json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise SweepError(
                f"{path.parent} holds no sweep: {STATE} cannot be read ({error}). Expected the directory of a sweep, "
                "such as outputs/<date>/<time>-sweep or outputs/sweeps/<name>"
            ) from error

    def write(self) -> None:
        """Save the sweep's state, without passwords and tokens in addresses."""
        self.folder.mkdir(parents=True, exist_ok=True)
        values = {key: value for key, value in asdict(self).items() if key != "folder"}
        _write(self.folder / STATE, redaction.settings(values))

    def lock(self, name: str, timeout: float = _TIMEOUT_SECONDS) -> filelock.BaseFileLock:
        """Return a lock that all processes of the sweep share."""
        (self.folder / ".locks").mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(self.folder / ".locks" / f"{name}.lock", timeout=timeout)

    def _lock(self) -> contextlib.AbstractContextManager[None]:
        """Lock the sweep during a block, which must not wait for anything."""
        return files.waiting(self.lock("sweep"), "changes this sweep", timeout=_TIMEOUT_SECONDS)

    def jobs(self) -> list[Job]:
        """Load all jobs that ever started, by number."""
        jobs = []
        for path in self.folder.glob(f"*/{JOB}"):
            with contextlib.suppress(OSError, ValueError, TypeError):
                jobs.append(self._read(path))
        return sorted(jobs, key=lambda job: job.number)

    @staticmethod
    def _read(path: Path) -> Job:
        return Job(**json.loads(path.read_text(encoding="utf-8")))

    def directory(self, job: Job) -> Path:
        """Return the run directory of a job."""
        return self.folder / str(job.number)

    def record(self, job: Job, status: str, *, value: float | None = None, error: str = "") -> None:
        """Save a job's new status."""
        job.status, job.value, job.error = status, value, (error.strip().splitlines() or [""])[0]
        self.directory(job).mkdir(parents=True, exist_ok=True)
        _write(self.directory(job) / JOB, asdict(job))

    def metrics(self, job: Job) -> dict[str, Any]:
        """Load the metrics of a finished job, None where one is undefined; empty for any other job."""
        if job.status != "finished":
            return {}
        metrics: dict[str, Any] = json.loads((self.directory(job) / "metrics.json").read_text(encoding="utf-8"))
        return metrics

    def _weights(self, job: Job) -> str:
        """Return where the backbone's weights of a job come from; empty text if it did not get that far."""
        try:
            text = (self.directory(job) / "environment.json").read_text(encoding="utf-8")
        except OSError:
            return ""
        return str(json.loads(text).get("backbone_weights", ""))

    # --- jobs ---------------------------------------------------------------------------------------------------------

    @property
    def stopped(self) -> bool:
        """Whether a failed job prevents further jobs from starting."""
        return self.stop_on_error and any(job.status == "failed" and job.session == self.session for job in self.jobs())

    @contextlib.contextmanager
    def claim(self, number: int, identity: str, settings: dict[str, str]) -> Iterator[Job]:
        """Claim a job: the one that an earlier start made for this configuration, or a new one.

        Args:
            number: The job's number in this start; a new job gets it unless it is taken.
            identity: Identity of the configuration, or `NO_IDENTITY`.
            settings: The swept settings with the job's values.

        Yields:
            The job, with status finished if an earlier start finished it. No other process runs it during the block.
        """
        with self._lock():
            jobs = self.jobs()
            taken = {job.number for job in jobs}
            new = Job(number if number not in taken else max(taken) + 1, identity, settings, self.session)
            earlier = [job for job in jobs if job.session != self.session and job.matches(identity, settings)]
            job = min(earlier, key=lambda job: job.status != "finished", default=new)
            job.session, job.identity = self.session, identity or job.identity
            self.record(job, "finished" if job.status == "finished" else "running", value=job.value)
        lock = self.lock(f"job-{job.number}")
        with files.waiting(lock, "still runs this job of an earlier start", timeout=_TIMEOUT_SECONDS):
            # Read again: a process of a killed sweep may have finished the job in the meantime.
            yield self._read(self.directory(job) / JOB)

    def end_dead_jobs(self, status: str, timeout_seconds: float = 0.0) -> None:
        """End the jobs whose process died while they were running, on disk and in MLflow.

        Args:
            status: failed or interrupted.
            timeout_seconds: How long to wait for a process that is about to end.
        """
        jobs = self.jobs()
        for job in jobs:
            if job.status == "running":
                with contextlib.suppress(filelock.Timeout), self.lock(f"job-{job.number}", timeout_seconds):
                    self.record(job, status, error="its process was killed, or the machine ran out of memory")
                    tracking.end_run(self.store, tracking.run_id(self.directory(job)), status)
        known = {tracking.run_id(self.directory(job)) for job in jobs}
        tracking.delete_unfinished_children(self.store, self.experiment_id, self.run_id, known)

    def best(self) -> Job | None:
        """Return the finished job with the lowest validation loss."""
        return min((job for job in self.jobs() if job.value is not None), key=_rank, default=None)

    # --- summary ------------------------------------------------------------------------------------------------------

    def table(self, jobs: list[Job]) -> pd.DataFrame:
        """Return one row per job: job, status, settings, metrics, seconds, backbone weights, MLflow id, error."""
        import pandas as pd  # takes half a second, too long for the answer to a misspelt key

        keys = list(dict.fromkeys([*self.swept, *(key for job in jobs for key in job.settings)]))
        rows = []
        for job in jobs:
            metrics = self.metrics(job)
            row: dict[str, Any] = {"job": job.number, "status": job.status}
            row |= {key: job.settings.get(key, "") for key in keys}
            row |= {key: metrics.get(key) for key in _METRICS} | {"seconds": metrics.get("seconds_total")}
            row["weights"] = self._weights(job)
            rows.append(row | {"run_id": tracking.run_id(self.directory(job)) or "", "error": job.error})
        return pd.DataFrame(rows, columns=["job", "status", *keys, *_METRICS, "seconds", "weights", "run_id", "error"])

    def begin_summary(self) -> None:
        """Start the summary with the jobs that an earlier start finished; called before the jobs of a start."""
        with self._lock():
            self._summarise([job for job in self.jobs() if job.status == "finished"])

    def add(self, job: Job) -> None:
        """Add a job that has ended to the table, the figure and the parent run.

        It costs the same after any number of jobs, and the sweep is not locked while MLflow is waited for.
        """
        with self._lock():
            summary = Summary.read(self.folder / SUMMARY)
            summary.add(job)
            with (self.folder / TABLE).open("a", encoding="utf-8", newline="") as file:
                self.table([job]).reindex(columns=summary.columns).to_csv(file, header=False, index=False)
            _write(self.folder / SUMMARY, asdict(summary))
        figure = self.folder / FIGURE
        due = not figure.exists() or figure.stat().st_mtime < time.time() - _FIGURE_SECONDS
        self._publish(summary, summary.best if due else [])

    def update(self) -> pd.DataFrame:
        """Write the table and the figure of all jobs, update the parent run, and return the table."""
        with self._lock():
            jobs = self.jobs()
            table, summary = self._summarise(jobs)
        self._publish(summary, [job for job in jobs if job.value is not None])
        return table

    def _summarise(self, jobs: list[Job]) -> tuple[pd.DataFrame, Summary]:
        """Write the table and the summary of jobs anew."""
        table = self.table(jobs)
        summary = Summary([str(name) for name in table.columns])
        for job in jobs:
            summary.add(job)
        with files.atomic(self.folder / TABLE) as file:
            table.to_csv(file, index=False)
        _write(self.folder / SUMMARY, asdict(summary))
        return table, summary

    def _publish(self, summary: Summary, drawn: list[Job]) -> None:
        """Draw jobs, if any, and update the parent run in MLflow; with a new figure also its files."""
        if drawn:
            self._draw(drawn)
        if self.run_id is not None:
            self._mirror(summary, [self.folder / name for name in (TABLE, FIGURE)] if drawn else [])

    def _draw(self, jobs: list[Job]) -> None:
        import pandas as pd

        from hairline.evaluation import figures

        histories = [pd.read_csv(self.directory(job) / "history.csv") for job in jobs]
        figure = figures.sweep([job.name for job in jobs], [job.value or 0.0 for job in jobs], histories)
        figures.save(figure, self.folder / FIGURE)

    def _mirror(self, summary: Summary, paths: list[Path]) -> None:
        """Update the parent run in MLflow: counts, the best job's metrics, a description in Markdown, the files."""
        count = sum(summary.counts.values())
        metrics = {f"jobs_{status}": float(summary.counts.get(status, 0)) for status in ("finished", "failed")}
        lines = [f"**{count} jobs**: {summary}. Folder `{self.folder}`"]
        tags = {}
        if summary.best:
            best = summary.best[0]
            values = self.metrics(best)
            metrics |= {f"best_job_{key}": values[key] for key in _METRICS}  # not the names of the children's metrics
            best_id = tracking.run_id(self.directory(best)) or ""
            tags = {"best_run_id": best_id, "best_run": best.name}
            lines += [
                f"Best by validation loss: [{best.name}](#/experiments/{self.experiment_id}/runs/{best_id}), val_loss "
                f"**{values['val_loss']:.4f}**, val_accuracy {values['val_accuracy']:.4f}, "
                f"test_accuracy {values['test_accuracy']:.4f}",
                f"[Curves of all jobs]({tracking.curves_page(self.experiment_id, self.run_id)}). The artifacts hold "
                f"`{TABLE}` with one row per job, and `{FIGURE}`.",
            ]
        lines += [f"Failed: `{job.name}`: {job.error}" for job in summary.failed]
        if (more := summary.counts.get("failed", 0) - len(summary.failed)) > 0:
            lines.append(f"and {more} more failed jobs")
        tags["mlflow.note.content"] = "\n\n".join(lines)
        tracking.update_run(self.store, self.run_id, metrics=metrics, step=count, tags=tags, files=paths)

    def describe(self, table: pd.DataFrame, limit: int = 10, shown: Callable[[Path], str] = files.relative) -> str:
        """Return the best `limit` jobs and all failed ones as text for the screen, with paths as `shown` gives them."""
        summary = ", ".join(f"{count} {status}" for status, count in table["status"].value_counts().items())
        stopped = len(table) < self.count
        jobs = f"{len(table)} of {self.count} jobs" if stopped else f"{len(table)} job{'s' * (len(table) != 1)}"
        lines = ["", f"Sweep           {shown(self.folder)}   {jobs}: {summary or 'none'}"]
        ranked = table[table["status"] == "finished"].sort_values("val_loss").head(limit)
        if len(ranked):
            formats: dict[str, Callable[..., str]] = {key: short_value for key in self.swept if key in ranked}
            formats["seconds"] = "{:.1f}".format
            # Weights that are not from photographs are worth a column.
            pretrained = ranked["weights"].isin(["", "imagenet"]).all()
            columns = ranked.drop(columns=["run_id", "error", "status", *(["weights"] if pretrained else [])])
            lines += ["", columns.to_string(index=False, float_format="{:.4f}".format, formatters=formats)]
        best = self.best()
        if best is not None:
            lines += ["", f"Best            {shown(self.directory(best))}   {best.name}"]
        if self.run_id is not None:
            page = tracking.curves_page(self.experiment_id, self.run_id)
            lines.append("Compare jobs    " + "\n                then open ".join(tracking.ui_hints(self.store, page)))
        failed = [job for job in self.jobs() if job.status == "failed"]
        if failed:
            lines += ["", f"{len(failed)} job{'s' * (len(failed) > 1)} failed:"]
            lines += [f"  {shown(self.directory(job))} ({job.name}): {job.error}" for job in failed]
        if stopped or (table["status"] != "finished").any():
            resume = commands.override("sweep.resume", shown(self.folder))
            lines.append(f"{'Go on' if stopped else 'Try again':<16}{commands.command('train', resume)}")
        return "\n".join(lines)


def run_directories(folder: Path) -> list[Path]:
    """Return the run directories of a sweep's jobs that began to log; of any other folder the folder itself."""
    folder = folder.expanduser().absolute()
    if not (folder / STATE).is_file():
        return [folder]
    sweep = Sweep.read(folder)
    return [folder for folder in map(sweep.directory, sweep.jobs()) if tracking.start_count(folder)]


def refresh(folder: Path, uri: str | None) -> None:
    """Update the summary if the folder holds a sweep.

    Args:
        folder: Any folder.
        uri: Tracking server or store; None for the one that the sweep was started with.
    """
    if (folder.expanduser() / STATE).is_file():
        sweep = Sweep.read(folder)
        if sweep.store is not None:
            sweep.store = uri or tracking.followed(sweep.store, sweep.place, sweep.folder)
        sweep.update()


def new_session() -> str:
    """Return an identifier for one start of a sweep."""
    return f"{time.strftime('%Y-%m-%dT%H-%M-%S')}-{uuid.uuid4().hex[:8]}"


def _rank(job: Job) -> tuple[bool, float]:
    """Return the key by which jobs are ordered: a loss that is not a number comes last."""
    value = math.inf if job.value is None else job.value
    return not math.isfinite(value), value


def _write(path: Path, values: dict[str, Any]) -> None:
    files.write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
