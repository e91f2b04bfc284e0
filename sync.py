"""Send what MLflow missed of a run: python sync.py run=<run directory>; --help lists all settings."""

from pathlib import Path

import hydra

from hairline import cli
from hairline.config import Sync


@hydra.main(config_path=cli.CONF, config_name="sync")
@cli.job
def main(config: Sync, directory: Path, overrides: list[str]) -> None:
    """Send the rest of the run's journal."""
    from hairline import synchronisation

    synchronisation.synchronise(config, directory)


if __name__ == "__main__":
    cli.start(__file__, main)
