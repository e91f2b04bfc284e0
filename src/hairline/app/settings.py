"""Check the composed settings of a script."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig

from hairline import config as configuration
from hairline.config import Config, Evaluate, Export


def load(composed: DictConfig) -> Any:
    """Return the checked configuration, an instance of the script's schema.

    Raises:
        ConfigError: Naming every fault at once.
    """
    return configuration.load(composed, faults)


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
