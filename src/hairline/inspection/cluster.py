"""Many photos on many processes or machines: the examiner, mapped over Ray Data."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hairline.inspection.examiner import Examiner, Task, record_file

_PHOTOS_A_BLOCK, _MOST_BLOCKS = 8, 20_000  # a block is what Ray hands out, and does again where a worker is lost
# Ray gives a lost worker's photos to another one without end; a photo that takes down one after the other must stop.
_MOST_TRIES = 3


class ClusterError(ValueError):
    """A cluster that cannot be used."""


class Worker:
    """What each of Ray's processes keeps: the model, opened once."""

    def __init__(self, task: Task) -> None:
        """Open the model."""
        self._examiner, self._output = Examiner(task), task.output

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Examine the photo that a row names, unless a worker that was lost had done it already."""
        path = Path(os.fsdecode(row["path"]))
        problem = None if self._examiner.is_done(path) else self._examine(path)
        return {"path": row["path"], "problem": problem or ""}

    def _examine(self, path: Path) -> str | None:
        tries = record_file(self._output, path).with_suffix(".tries")
        tries.parent.mkdir(parents=True, exist_ok=True)
        before = int(tries.read_text() or 0) if tries.exists() else 0
        if before < _MOST_TRIES:
            tries.write_text(str(before + 1))
            problem = self._examiner.examine(path)
        else:
            problem = f"the worker was lost {before} times while examining it: examine it alone, with compute=local"
        tries.unlink()
        return problem


def examine(
    task: Task, paths: list[Path], *, address: str | None, workers: int | None
) -> Iterator[tuple[Path, str | None]]:
    """Examine photos on a Ray cluster; results come as they are ready.

    Args:
        task: What is to be done; model, photos and output have to lie where every machine sees them.
        paths: The photos.
        address: Of a running cluster; None starts one on this machine, for this call.
        workers: Processes, each with the threads that the task names (1 where it names none); None for as many as the
            cluster has cores for.

    Raises:
        ClusterError: If Ray is not installed, or the cluster does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ClusterError('compute=ray: Ray is not installed; install it with pip install -e ".[ray]"') from error
    cluster: Any = ray
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it tells its plan and its progress; ours is shown
    threads = task.inspector.get("threads") or 1
    task = dataclasses.replace(task, inspector={**task.inspector, "threads": threads})
    try:
        cluster.init(address=address, include_dashboard=None if address else False, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(f"ray.address={address}: the cluster cannot be used: {error}") from error
    try:
        context = cluster.data.DataContext.get_current()
        context.enable_progress_bars = False
        size = workers or max(1, int(cluster.cluster_resources().get("CPU", 1)) // threads)
        size = min(size, len(paths))
        blocks = min(len(paths), max(4 * size, len(paths) // _PHOTOS_A_BLOCK), _MOST_BLOCKS)
        rows = [{"path": os.fsencode(path.absolute())} for path in paths]
        given = {os.fsencode(path.absolute()): path for path in paths}
        results = cluster.data.from_items(rows, override_num_blocks=blocks).map(
            Worker,
            fn_constructor_args=(task,),
            compute=cluster.data.ActorPoolStrategy(size=size),
            num_cpus=threads,
        )
        for row in results.iter_rows():
            yield given[row["path"]], row["problem"] or None
    except cluster.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error.__cause__
        raise (cause if isinstance(cause, OSError | ValueError) else error) from None
    finally:
        with contextlib.suppress(Exception):
            cluster.shutdown()
