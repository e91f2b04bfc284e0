"""A sweep: many jobs of one command, their state on disk, and the parent run that sums them up.

The sweep's folder is all the state there is: `sweep.json` says what was asked, `<n>/job.status` how each job stands.
Any process that sees the folder can go on from it, so it does not matter which launcher runs a job, or on which
machine.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from hairline import tracking
from hairline.system import files as atomic
from hairline.system import redaction
from hairline.system.errors import HairlineError

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

STATE, JOB, TABLE, FIGURE = "sweep.json", "job.status", "sweep.csv", "comparison.png"
NO_IDENTITY = ""  # of a job whose configuration is at fault: its swept settings stand for it
_METRICS = ("val_loss", "val_accuracy", "test_accuracy")
_SPEAKING = ("model", "optimizer", "schedule", "data", "augment", "finetune")  # their choices need no group's name
_WAIT_SECONDS = 3600.0  # for a job of a killed sweep that still runs in a process of its own
_DIED = "its process ended without a word: it was killed, or the machine ran out of memory"


class SweepError(HairlineError):
    """A sweep that cannot be started or gone on with."""


@dataclass
class Job:
    """How one job of a sweep stands.

    Attributes:
        number: Name of its directory in the sweep's folder.
        identity: Of its configuration; what resuming goes by.
        settings: What tells it from the others: the swept settings.
        session: The start of the sweep that it last ran in.
        status: running, finished, failed or interrupted.
        value: The objective, once it has finished.
        error: First line of what went wrong.
    """

    number: int
    identity: str
    settings: dict[str, str]
    session: str
    status: str = "running"
    value: float | None = None
    error: str = ""

    @property
    def name(self) -> str:
        """What tells it from the others, on one line."""
        pairs = ((key, short(value)) for key, value in self.settings.items())
        told = (value if key in _SPEAKING else f"{key}={value}" for key, value in pairs)
        return " ".join(told) or f"job {self.number}"


@dataclass
class Sweep:
    """A sweep's folder.

    Attributes:
        folder: Absolute.
        name: Of the parent run.
        session: Changes at each start.
        command: The overrides the sweep was started with.
        swept: Settings that differ between jobs, with their values as given.
        stop_on_error: Whether a failed job keeps those back that have not begun.
        working_directory: Where it was started; jobs in other processes go there.
        environment: Variables that jobs on other machines need.
        store: Tracking address; None where tracking is off.
        experiment_id: Of MLflow.
        run_id: Of the parent run.
    """

    folder: Path
    name: str
    session: str = ""
    command: list[str] = field(default_factory=list)
    swept: dict[str, str] = field(default_factory=dict)
    stop_on_error: bool = False
    working_directory: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    store: str | None = None
    experiment_id: str = ""
    run_id: str | None = None

    # --- on disk ------------------------------------------------------------------------------------------------------

    @classmethod
    def read(cls, folder: Path) -> Sweep:
        """Read a sweep's state.

        Raises:
            SweepError: If the folder holds none.
        """
        path = Path(folder).expanduser().absolute() / STATE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(folder=path.parent, **values)
        except (OSError, ValueError, TypeError) as error:
            raise SweepError(
                f"{path.parent} holds no sweep: {path.name} cannot be read ({error}); expected the directory of a "
                "sweep, such as outputs/<date>/<time>-sweep or outputs/sweeps/<name>"
            ) from error

    def write(self) -> None:
        """Write the sweep's state, without passwords and tokens of addresses."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {key: value for key, value in asdict(self).items() if key != "folder"}
        _write(self.folder / STATE, redaction.settings(state))

    def lock(self, name: str = "sweep", timeout: float = _WAIT_SECONDS) -> filelock.BaseFileLock:
        """Give a lock that all processes of the sweep share."""
        (self.folder / ".locks").mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(self.folder / ".locks" / f"{name}.lock", timeout=timeout)

    def jobs(self) -> list[Job]:
        """Give all jobs that ever began, by number."""
        found = []
        for path in self.folder.glob(f"*/{JOB}"):
            with contextlib.suppress(OSError, ValueError, TypeError):
                found.append(Job(**json.loads(path.read_text(encoding="utf-8"))))
        return sorted(found, key=lambda job: job.number)

    def directory(self, job: Job) -> Path:
        """Give the run directory of a job."""
        return self.folder / str(job.number)

    def record(self, job: Job, status: str, *, value: float | None = None, error: str = "") -> None:
        """Write down how a job stands."""
        job.status, job.value, job.error = status, value, (error.strip().splitlines() or [""])[0]
        self.directory(job).mkdir(parents=True, exist_ok=True)
        _write(self.directory(job) / JOB, asdict(job))

    # --- jobs ---------------------------------------------------------------------------------------------------------

    @property
    def stopped(self) -> bool:
        """Whether a failure keeps further jobs back."""
        failed = (job.status == "failed" and job.session == self.session for job in self.jobs())
        return self.stop_on_error and any(failed)

    @contextlib.contextmanager
    def claim(self, number: int, identity: str, settings: dict[str, str]) -> Iterator[tuple[Job, bool]]:
        """Take a job: the one that an earlier start left with this configuration, or a new one.

        Args:
            number: Its number in this start; a new job gets it if no other has.
            identity: Of its configuration.
            settings: What tells it from the others.

        Yields:
            The job, and whether it had finished before. The block is the only one that runs it.
        """
        with self.lock():
            known = self.jobs()
            earlier = [
                job
                for job in known
                if job.session != self.session
                and (
                    job.identity == identity != NO_IDENTITY
                    or (job.settings == settings and NO_IDENTITY in (job.identity, identity))
                )
            ]
            taken = {job.number for job in known}
            free = number if number not in taken else max(taken) + 1
            job = min(earlier, key=lambda job: job.status != "finished", default=Job(free, identity, settings, ""))
            job.session = self.session
            job.identity = identity or job.identity
            if job.status != "finished":
                self.record(job, "running")
            else:
                _write(self.directory(job) / JOB, asdict(job))
        with self.lock(f"job-{job.number}"):
            # Read again: a process of a killed sweep may have finished the job while this one waited for it.
            job = next(entry for entry in self.jobs() if entry.number == job.number)
            yield job, job.status == "finished"

    def orphans(self, patience_seconds: float = 0.0) -> Iterator[Job]:
        """Give the jobs that are said to run while no process does."""
        for job in self.jobs():
            if job.status == "running":
                with contextlib.suppress(filelock.Timeout), self.lock(f"job-{job.number}", timeout=patience_seconds):
                    yield job

    def bury(self, status: str, patience_seconds: float = 0.0) -> None:
        """Note the end of jobs whose process died: failed, or interrupted where the sweep will go on.

        Args:
            status: failed or interrupted.
            patience_seconds: How long to wait for a process that is about to end.
        """
        for job in list(self.orphans(patience_seconds)):
            self.record(job, status, error=_DIED)
            tracking.end_run(self.store, tracking.run_id(self.directory(job)), status)
        kept = {tracking.run_id(self.directory(job)) for job in self.jobs()}
        tracking.delete_unfinished_children(self.store, self.experiment_id, self.run_id, kept)

    def best(self) -> Job | None:
        """Give the finished job with the lowest validation loss."""
        finished = [job for job in self.jobs() if job.status == "finished" and job.value is not None]
        return min(finished, key=lambda job: (not math.isfinite(job.value or 0.0), job.value), default=None)

    # --- summary ------------------------------------------------------------------------------------------------------

    def table(self) -> pd.DataFrame:
        """Give one row a job: job, status, the swept settings, metrics, seconds, MLflow run id, error."""
        import pandas as pd  # half a second, which a misspelt key need not wait for

        jobs = self.jobs()
        keys = list(dict.fromkeys([*self.swept, *(key for job in jobs for key in job.settings)]))
        rows = []
        for job in jobs:
            found = self.measured(job)
            row: dict[str, Any] = {"job": job.number, "status": job.status}
            row |= {key: job.settings.get(key, "") for key in keys}
            row |= {key: found.get(key) for key in _METRICS} | {"seconds": found.get("seconds_total")}
            rows.append(row | {"run_id": tracking.run_id(self.directory(job)) or "", "error": job.error})
        return pd.DataFrame(rows, columns=["job", "status", *keys, *_METRICS, "seconds", "run_id", "error"])

    def measured(self, job: Job) -> dict[str, float]:
        """Give a finished job's `metrics.json`."""
        if job.status != "finished":
            return {}
        found: dict[str, float] = json.loads((self.directory(job) / "metrics.json").read_text(encoding="utf-8"))
        return found

    def update(self) -> pd.DataFrame:
        """Write table and figure, and bring the parent run up to date; called after every job.

        Returns:
            The table.
        """
        with self.lock():
            table = self.table()
            with atomic.atomic(self.folder / TABLE) as file:
                table.to_csv(file, index=False)
            files = [self.folder / TABLE]
            finished = [job for job in self.jobs() if job.status == "finished" and job.value is not None]
            if finished:
                self._draw(finished)
                files.append(self.folder / FIGURE)
            if self.run_id is not None:
                self._mirror(table, files)
        return table

    def _draw(self, finished: list[Job]) -> None:
        import pandas as pd

        from hairline.evaluation import figures, sweep_figure

        histories = [pd.read_csv(self.directory(job) / "history.csv") for job in finished]
        figure = sweep_figure.comparison(
            [job.name for job in finished],
            [job.value if job.value is not None else math.nan for job in finished],
            sweep_figure.histories(histories),
        )
        figures.save(figure, self.folder / FIGURE)

    def _mirror(self, table: pd.DataFrame, files: list[Path]) -> None:
        counts = table["status"].value_counts()
        metrics = {f"jobs_{status}": float(counts.get(status, 0)) for status in ("finished", "failed")}
        tags = {"mlflow.note.content": self.note(table)}
        best = self.best()
        if best is not None:
            found = self.measured(best)
            metrics |= {(f"best_{key}" if key.startswith("val_") else key): found[key] for key in _METRICS}
            tags |= {"best_run_id": tracking.run_id(self.directory(best)) or "", "best_run": best.name}
        tracking.update_run(self.store, self.run_id, metrics=metrics, step=len(table), tags=tags, files=files)

    def note(self, table: pd.DataFrame) -> str:
        """Describe the sweep for whoever opens the parent run (Markdown)."""
        counts = ", ".join(f"{count} {status}" for status, count in table["status"].value_counts().items())
        lines = [f"**{len(table)} jobs**: {counts}. Folder `{self.folder}`"]
        best = self.best()
        if best is not None:
            address = f"#/experiments/{self.experiment_id}/runs/{tracking.run_id(self.directory(best))}"
            found = self.measured(best)
            lines += [
                f"Best by validation loss: [{best.name}]({address}), val_loss **{found['val_loss']:.4f}**, "
                f"val_accuracy {found['val_accuracy']:.4f}, test_accuracy {found['test_accuracy']:.4f}",
                f"[Curves of all jobs]({tracking.curves_page(self.experiment_id, self.run_id)}). Artifacts hold "
                "`sweep.csv`, every job in a row, and `comparison.png`.",
            ]
        lines += [f"Failed: `{row.name}`: {row.error}" for row in self.jobs() if row.status == "failed"]
        return "\n\n".join(lines)


def describe(sweep: Sweep, table: pd.DataFrame, most: int = 10) -> str:
    """Give the best jobs and all failed ones, for the screen."""
    hidden = ["run_id", "error"]
    ranked = table[table["status"] == "finished"].sort_values("val_loss").head(most).drop(columns=[*hidden, "status"])
    counts = ", ".join(f"{count} {status}" for status, count in table["status"].value_counts().items())
    lines = ["", f"Sweep           {atomic.relative(sweep.folder)}   {len(table)} jobs: {counts or 'none'}"]
    if len(ranked):
        formats: dict[str, Callable[..., str]] = {key: short for key in sweep.swept if key in ranked}
        formats["seconds"] = "{:.1f}".format
        shown = ranked.to_string(index=False, float_format="{:.4f}".format, formatters=formats)
        lines += ["", shown]
    best = sweep.best()
    if best is not None:
        lines += ["", f"Best            {atomic.relative(sweep.directory(best))}   {best.name}"]
    if sweep.run_id is not None:
        page = tracking.curves_page(sweep.experiment_id, sweep.run_id)
        lines.append(f"Compare jobs    {'   then open '.join(tracking.ui_hints(sweep.store, page))}")
    failed = [job for job in sweep.jobs() if job.status == "failed"]
    if failed:
        lines += ["", f"{len(failed)} job{'s' * (len(failed) > 1)} failed:"]
        lines += [f"  {atomic.relative(sweep.directory(job))} ({job.name}): {job.error}" for job in failed]
    if set(table["status"]) - {"finished"}:
        lines.append(f"Try again       python train.py sweep.resume={atomic.relative(sweep.folder)}")
    return "\n".join(lines)


def run_directories(folder: Path) -> list[Path]:
    """Return the run directories of a sweep's jobs; of any other folder the folder itself."""
    folder = folder.expanduser().absolute()
    if not (folder / STATE).is_file():
        return [folder]
    sweep = Sweep.read(folder)
    return [sweep.directory(job) for job in sweep.jobs()]


def refresh(folder: Path) -> None:
    """Write the summary of a sweep anew, where the folder holds one."""
    if (folder.expanduser() / STATE).is_file():
        Sweep.read(folder).update()


def new_session() -> str:
    """Name a start of a sweep."""
    return f"{time.strftime('%Y-%m-%dT%H-%M-%S')}-{uuid.uuid4().hex[:8]}"


def short(value: object) -> str:
    """Write a fraction that a search drew with four digits; any other value as it is.

    >>> short("0.0012345678901"), short("123456789"), short("sgd")
    ('0.001235', '123456789', 'sgd')
    """
    text = str(value)
    try:
        return f"{float(text):.4g}" if len(text) > 8 and "." in text else text
    except ValueError:
        return text


def _write(path: Path, values: dict[str, Any]) -> None:
    atomic.write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
