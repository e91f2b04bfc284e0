"""Evaluate a finished run's model on any images: python evaluate.py run=... data=...; --help lists all settings."""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from hairline import cli
from hairline.config.commands import Evaluate


@hydra.main(config_path=cli.CONF, config_name="evaluate")
@cli.job
def main(config: Evaluate, directory: Path, overrides: list[str]) -> None:
    """Evaluate; with -m the evaluations so far become one table after each."""
    from hairline import assessment

    several = HydraConfig.get().mode == RunMode.MULTIRUN
    assessment.evaluate(config, directory, directory.parent if several else None)


if __name__ == "__main__":
    cli.start(__file__, main)
