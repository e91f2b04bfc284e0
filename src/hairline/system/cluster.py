"""Map work over the processes of a Ray cluster. The only importer of Ray."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

from hairline.system.errors import HairlineError

# A block is the unit that Ray schedules, and repeats if its worker is lost.
_ITEMS_PER_BLOCK, _MAX_BLOCKS = 8, 20_000


class ClusterError(HairlineError):
    """The cluster cannot be used."""


def map_items(
    worker: type,
    settings: dict[str, Any],
    items: Sequence[Any],
    *,
    address: str | None,
    workers: int | None,
    threads: int,
) -> Iterator[Any]:
    """Process items on a Ray cluster; yield the results as they are done, in any order.

    Args:
        worker: Class whose instances map an item to a result. All files that it reads and writes must be visible to
            every machine. If a process is lost, another one repeats its last items.
        settings: Keyword arguments of its constructor; pickled, like items and results.
        items: The items, at least one.
        address: Address of a running cluster; None starts one on this machine for this call.
        workers: Number of worker processes; None for as many as the cluster has cores for.
        threads: CPU threads per worker.

    Raises:
        ClusterError: If Ray is not installed, or the cluster does not answer.
        OSError, ValueError: From a worker.
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
        # Without an address, Ray would join whatever cluster it last knew of on this machine, alive or not.
        cluster.init(
            address=address or "local", include_dashboard=None if address else False, logging_level=logging.WARNING
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(f"runtime.ray.address={address}: the cluster cannot be used: {error}") from error
    try:
        cluster.data.DataContext.get_current().enable_progress_bars = False
        size = workers or max(1, int(cluster.cluster_resources().get("CPU", 1)) // threads)
        size = min(size, len(items))
        results = cluster.data.from_items(
            [{"item": pickle.dumps(item)} for item in items],
            override_num_blocks=min(len(items), max(4 * size, len(items) // _ITEMS_PER_BLOCK), _MAX_BLOCKS),
        ).map(
            _Process,
            fn_constructor_kwargs={"worker": worker, "settings": settings},
            compute=cluster.data.ActorPoolStrategy(size=size),
            num_cpus=threads,
        )
        for row in results.iter_rows():
            result = pickle.loads(row["result"])
            if isinstance(result, Exception):
                raise result
            yield result
    finally:
        with contextlib.suppress(Exception):
            cluster.shutdown()


class _Process:
    """A worker in a process of Ray. Its errors are results: Ray would wrap them in text of its own."""

    def __init__(self, worker: type, settings: dict[str, Any]) -> None:
        self._worker = worker(**settings)

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        try:
            return {"result": pickle.dumps(self._worker(pickle.loads(row["item"])))}
        except (OSError, ValueError) as error:
            return {"result": pickle.dumps(error)}
