"""What the scripts do, in this process: settings composed from `conf/`, and small runs trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore

from hairline import cli, config, experiment

CONF = Path(__file__).parents[1] / "conf"
SMALL = (
    "features.engine=tensorflow",  # converting takes longer than all the rest; test_features.py covers LiteRT
    "model=mobilenetv3small",
    "model.weights=random",
    "image_size=32",
    "batch_size=16",
    "epochs=4",
    "learning_rate=0.01",
    "report.learning_curve=false",  # four more heads; test_numbers.py has one
)


def composed(script: str, *overrides: str) -> Any:
    """Give a script's checked settings, as the command line would compose them."""
    cli.register(ConfigStore.instance())
    with initialize_config_dir(str(CONF)):
        return config.load(compose(script, list(overrides)))


def train(place: Path, data: Path, *overrides: str) -> dict[str, float]:
    """Train a small run on a folder of images, into a new run directory."""
    chosen = [*SMALL, "data=folder", f"data.path={data}", *overrides]
    settings = composed("config", *chosen)
    place.mkdir(parents=True)
    return experiment.train(settings, place, chosen)
