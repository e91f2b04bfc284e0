"""Offer a model to the registry: python register.py run=<run>; champion where it is not worse than today's."""

import hydra

from hairline.app import start
from hairline.app.process import Call
from hairline.config import Register


@hydra.main(config_path=start.CONF, config_name="register")
@start.job
def main(config: Register, call: Call) -> None:
    """Register a version, compare it with the champion, and record what was decided and why."""
    from hairline.shipping import register

    register.register(config)


if __name__ == "__main__":
    start.start(__file__, main)
