"""Check the composed settings of a script."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig

from hairline import config as configuration
from hairline import tracking
from hairline.config import Config, Evaluate, Export, Tracking


def load(composed: DictConfig, overrides: Sequence[str] = ()) -> Any:
    """Return the checked configuration, an instance of the script's schema.

    Args:
        composed: What Hydra composed.
        overrides: The settings on the command line, which win over MLflow's environment variables; files do not.

    Raises:
        ConfigError: Naming every fault at once.
    """
    config = configuration.load(composed, faults)
    place = {"uri": tracking_uri(config.tracking.uri, overrides)}
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME")
    if experiment and isinstance(config.tracking, Tracking) and not _is_typed("tracking.experiment", overrides):
        place["experiment"] = experiment
    return dataclasses.replace(config, tracking=dataclasses.replace(config.tracking, **place))


def tracking_uri(composed: str | None, overrides: Sequence[str]) -> str | None:
    """Return the tracking store of the command line; None for that of `MLFLOW_TRACKING_URI`; else that of a file.

    Args:
        composed: Value of `tracking.uri` as Hydra composed it, from the command line or a file.
        overrides: The settings on the command line.
    """
    if _is_typed("tracking.uri", overrides):
        return composed or tracking.default_uri()  # null: the store in the working directory
    return None if os.environ.get("MLFLOW_TRACKING_URI") else composed


def _is_typed(key: str, overrides: Sequence[str]) -> bool:
    return any(override.lstrip("+").partition("=")[0] == key for override in overrides)


def check(config: Any) -> None:
    """Check settings that were read from a saved run against the tables of the other rooms.

    Raises:
        ConfigError: Naming every fault at once.
    """
    if found := list(faults(config)):
        raise configuration.ConfigError("\n".join(found))


def faults(config: Any) -> Iterator[str]:
    """Yield the faults that need the tables of higher rooms: sources, backbones, export formats."""
    # Imported here, as pandas takes half a second: --help and a misspelt key answer without it.
    if isinstance(config, Config | Evaluate):
        from hairline.data import sources

        yield from sources.faults(config.data.source, getattr(config.data, "path", None))
    if isinstance(config, Config):
        from hairline.model import backbones

        model = config.model
        yield from backbones.faults(
            model.backbone, weights=model.weights, taps=model.taps, image_size=config.image_size
        )
    if isinstance(config, Export):
        from hairline.shipping import formats

        yield from formats.faults(config.format)
