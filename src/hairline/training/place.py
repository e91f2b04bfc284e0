"""Where the networks of a run live: in a second process, which imports TensorFlow while this one prepares the images.

It is started first of all, so this module imports little.
"""

from __future__ import annotations

from hairline.config import FeatureSettings, Finetune, Report, Runtime
from hairline.model.engine import choose_engine
from hairline.system.worker import Local, Worker

# What the second process imports while it waits for the networks, under `tensorflow.without_plots`.
_MODULES = ("tensorflow", "keras", "hairline.training.networks")


def place(features: FeatureSettings, runtime: Runtime, report: Report, finetune: Finetune) -> Worker | Local:
    """Return where the networks live: in another process, beside this one, or here where this one needs them, too."""
    engine = choose_engine(features.engine, runtime.precision)
    beside = report.level == "full" and engine == "litert" and finetune.layers == "none"
    return Worker(*_MODULES) if beside else Local()
