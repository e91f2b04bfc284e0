"""Map work over the processes or machines of a Ray cluster. The only importer of Ray."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hairline.system.errors import HairlineError

_PHOTOS_A_BLOCK, _MOST_BLOCKS = 8, 20_000  # a block is what Ray hands out, and does again where a worker is lost


class ClusterError(HairlineError):
    """A cluster that cannot be used."""


def map_files(
    worker: type,
    arguments: tuple[Any, ...],
    paths: list[Path],
    *,
    address: str | None,
    workers: int | None,
    threads: int,
) -> Iterator[tuple[Path, str | None]]:
    """Hand files to workers on a Ray cluster; yield each path with its problem (or None) as it is done.

    Args:
        worker: Class whose instances map a row `{"path": bytes}` to `{"path": bytes, "problem": str}`. All it reads
            and writes must lie where every machine sees it.
        arguments: Arguments of its constructor, pickled.
        paths: The files.
        address: Address of a running cluster; None starts one on this machine for this call.
        workers: Number of worker processes; None for as many as the cluster has cores for.
        threads: CPU threads of each worker.

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
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it tells its plan and its progress; ours is shown
    try:
        cluster.init(address=address, include_dashboard=None if address else False, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(f"runtime.ray.address={address}: the cluster cannot be used: {error}") from error
    try:
        context = cluster.data.DataContext.get_current()
        context.enable_progress_bars = False
        size = workers or max(1, int(cluster.cluster_resources().get("CPU", 1)) // threads)
        size = min(size, len(paths))
        blocks = min(len(paths), max(4 * size, len(paths) // _PHOTOS_A_BLOCK), _MOST_BLOCKS)
        rows = [{"path": os.fsencode(path.absolute())} for path in paths]
        given = {os.fsencode(path.absolute()): path for path in paths}
        results = cluster.data.from_items(rows, override_num_blocks=blocks).map(
            worker,
            fn_constructor_args=arguments,
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
