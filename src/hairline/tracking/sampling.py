"""CPU, memory, disk, network and GPU while a run goes on, by MLflow's monitors, into the journal."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from hairline.tracking import store
from hairline.tracking.journal import Journal

_SECONDS = 10.0
_PREFIX = "system/"  # by which MLflow knows them


class Sampling:
    """Samples every ten seconds, in a thread of its own, for as long as the block lasts."""

    def __init__(self, journal: Journal, enabled: bool, on_sample: Callable[[], None]) -> None:
        """Take the journal of the run; nothing is sampled unless enabled."""
        self._journal, self._on_sample = journal, on_sample
        self._enabled = enabled and importlib.util.find_spec("psutil") is not None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampling", daemon=True)

    def __enter__(self) -> None:
        if self._enabled:
            self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._enabled:
            self._thread.join(timeout=2)

    def _run(self) -> None:
        monitors = _monitors()
        while True:
            for monitor in monitors:
                monitor.collect_metrics()
            if self._ended.wait(_SECONDS):
                return
            found: dict[str, float] = {}
            for monitor in monitors:
                found |= monitor.aggregate_metrics()
                monitor.clear_metrics()
            told = {_PREFIX + key: float(value) for key, value in found.items() if value == value}
            self._journal.tell("metrics", values=told, step=self._journal.next_step(_PREFIX))
            self._on_sample()


def _monitors() -> list[Any]:
    store.mlflow()
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    found: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    try:
        found.append(GPUMonitor())
    except Exception:  # no GPU, or no library that knows it
        pass
    return found
