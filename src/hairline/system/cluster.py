"""Map work over the processes of a Ray cluster. The only importer of Ray."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hairline.system.errors import HairlineError

# A block is the unit that Ray schedules, and repeats if its worker is lost.
_FILES_PER_BLOCK, _MAX_BLOCKS = 8, 20_000


class ClusterError(HairlineError):
    """The cluster cannot be used."""


def map_files(
    worker: type,
    settings: dict[str, Any],
    paths: list[Path],
    *,
    address: str | None,
    workers: int | None,
    threads: int,
) -> Iterator[tuple[Path, str | None]]:
    """Process files on a Ray cluster; yield each path with its problem, or None, as it is done.

    Args:
        worker: Class whose instances map a row `{"path": bytes}` to `{"path": bytes, "problem": str}`. All files that
            it reads and writes must be visible to every machine.
        settings: Keyword arguments of its constructor, pickled.
        paths: The files, at least one.
        address: Address of a running cluster; None starts one on this machine for this call.
        workers: Number of worker processes; None for as many as the cluster has cores for.
        threads: CPU threads per worker.

    Raises:
        ClusterError: If Ray is not installed, or the cluster does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ClusterError(
            'runtime.compute=ray: Ray is not installed; install it with pip install -e ".[ray]"'
        ) from error
    cluster: Any = ray
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # its plan and progress; the caller shows progress itself
    try:
        cluster.init(address=address, include_dashboard=None if address else False, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(f"runtime.ray.address={address}: the cluster cannot be used: {error}") from error
    try:
        cluster.data.DataContext.get_current().enable_progress_bars = False
        size = workers or max(1, int(cluster.cluster_resources().get("CPU", 1)) // threads)
        size = min(size, len(paths))
        by_name = {os.fsencode(path.absolute()): path for path in paths}
        results = cluster.data.from_items(
            [{"path": name} for name in by_name],
            override_num_blocks=min(len(paths), max(4 * size, len(paths) // _FILES_PER_BLOCK), _MAX_BLOCKS),
        ).map(
            worker,
            fn_constructor_kwargs=settings,
            compute=cluster.data.ActorPoolStrategy(size=size),
            num_cpus=threads,
        )
        for row in results.iter_rows():
            yield by_name[row["path"]], row["problem"] or None
    except cluster.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error.__cause__
        raise (cause if isinstance(cause, OSError | ValueError) else error) from None
    finally:
        with contextlib.suppress(Exception):
            cluster.shutdown()
