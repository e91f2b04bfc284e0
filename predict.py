"""Inspect photos: python predict.py run=<run> input=<photo, folder, pattern> output=<folder>; --help says more."""

import sys

import hydra

from hairline.app import log, start
from hairline.app.process import Call
from hairline.config import Predict


@hydra.main(config_path=start.CONF, config_name="predict")
@start.job
def main(config: Predict, call: Call) -> None:
    """Inspect and report; the exit status is 1 where a person has to see to a photo."""
    from hairline.inspection import predict

    to_see_to, output = predict.inspect_photos(config, call.directory)
    log.keep_beside(call.directory, output)
    if to_see_to:
        sys.exit(1)


if __name__ == "__main__":
    start.start(__file__, main)
