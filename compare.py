"""Compare finished runs: python compare.py runs=[...] or mlflow_experiment=...; --help lists all settings."""

from pathlib import Path

import hydra

from hairline import cli
from hairline.config.commands import Compare


@hydra.main(config_path=cli.CONF, config_name="compare")
@cli.job
def main(config: Compare, directory: Path, overrides: list[str]) -> None:
    """Compare and report."""
    from hairline import standings

    standings.compare(config, directory)


if __name__ == "__main__":
    cli.start(__file__, main)
