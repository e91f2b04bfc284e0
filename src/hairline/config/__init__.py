"""The configuration: schema, checks, saved form. Everything here answers before TensorFlow is imported."""

from hairline.config.checks import ConfigError, arguments, unknown
from hairline.config.commands import COMMANDS, Predict
from hairline.config.saved import flatten, identity, leaves, load, read, resumed, save
from hairline.config.schema import SCHEMAS, Augment, Config, Data, Runtime, Schedule, Split, SyntheticData, Tracking

__all__ = [
    "COMMANDS",
    "Augment",
    "Config",
    "ConfigError",
    "Data",
    "Predict",
    "Runtime",
    "SCHEMAS",
    "Schedule",
    "Split",
    "SyntheticData",
    "Tracking",
    "arguments",
    "flatten",
    "identity",
    "leaves",
    "load",
    "read",
    "resumed",
    "save",
    "unknown",
]
