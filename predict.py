"""Inspect photos: python predict.py run=<run> input=<photo, folder, pattern> output=<folder>; --help says more."""

import sys
from pathlib import Path

import hydra

from hairline import cli, logs
from hairline.config import Predict


@hydra.main(config_path=cli.CONF, config_name="predict")
@cli.job
def main(config: Predict, directory: Path, overrides: list[str]) -> None:
    """Inspect and report; the exit status is 1 where a person has to see to a photo."""
    from hairline.inspection import photos

    to_see_to, output = photos.inspect_photos(config, directory)
    logs.keep_beside(directory, output)
    if to_see_to:
        sys.exit(1)


if __name__ == "__main__":
    cli.start(__file__, main)
