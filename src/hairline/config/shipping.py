"""The schemas of `export.py`, `register.py` and `sync.py`, and the checks of what a schema cannot say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING

from hairline.config.schema import Threads, Tracking


@dataclass
class ExportData:
    """The images an export is tried on."""

    path: str | None = None  # labelled images, or where the run's lie now; null = those of the run's manifest


@dataclass
class Export:
    """One export."""

    run: str = MISSING  # a run directory, an MLflow run id, or models:/<name>@<alias>
    format: str = MISSING  # litert, litert_int8, onnx, saved_model, keras
    output: str | None = None  # the export's folder; with -m <output>/<format>; null = below outputs/<date>
    data: ExportData = field(default_factory=ExportData)
    images: int | None = 1000  # validation images the export is tried on, drawn evenly from the classes; null = all
    runtime: Threads = field(default_factory=Threads)
    tracking: Tracking = field(default_factory=Tracking)


def export_faults(config: Export) -> Iterator[str]:
    """Give every fault of an export's configuration, in words for its user."""
    for key, value in {"images": config.images, "runtime.threads": config.runtime.threads}.items():
        if value is not None and value <= 0:
            yield f"{key}={value}: expected a whole number from 1"
    for key, text in {"run": config.run, "output": config.output, "data.path": config.data.path}.items():
        if text is not None and not text.strip():
            yield f"{key}: the text is empty"


@dataclass
class Register:
    """One registration."""

    run: str = MISSING  # a run directory, an MLflow run id, or models:/<name>@<alias>
    tracking: Tracking = field(default_factory=Tracking)


def register_faults(config: Register) -> Iterator[str]:
    """Give every fault of a registration's configuration, in words for its user."""
    if not config.run.strip():
        yield "run: the text is empty"
    if not config.tracking.enabled:
        yield "tracking=none: the registry is MLflow's; leave it out"
    name = config.tracking.registered_model
    if not name.strip() or any(character in name for character in "/:@"):
        yield f"tracking.registered_model={name!r}: expected a name without /, : and @"


@dataclass
class Sync:
    """What is sent to MLflow later."""

    run: str = MISSING  # a run directory, or that of a sweep
    tracking: Tracking = field(default_factory=Tracking)


def sync_faults(config: Sync) -> Iterator[str]:
    """Give every fault of a synchronisation's configuration, in words for its user."""
    if not Path(config.run).expanduser().is_dir():
        yield f"run={config.run}: no folder there; expected a run directory, such as outputs/<date>/<time>"
    if not config.tracking.enabled:
        yield "tracking=none: it is MLflow that is brought up to date; leave it out"
