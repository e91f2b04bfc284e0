"""Train a classifier: python train.py [group=choice] [key=value] ...; --help lists them all."""

from pathlib import Path

import hydra

from hairline import cli
from hairline.config import Config


@hydra.main(config_path=cli.CONF, config_name="config", execution_whitelist=cli.TARGETS)
@cli.job
def main(config: Config, directory: Path, overrides: list[str]) -> float:
    """Train and report; the validation loss is what a search minimises."""
    from hairline import experiment

    return experiment.train(config, directory, overrides)["val_loss"]


if __name__ == "__main__":
    cli.start(__file__, main)
