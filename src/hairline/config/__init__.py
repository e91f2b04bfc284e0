"""The configuration: schema, checks, saved form. Everything here answers before TensorFlow is imported."""

from hairline.config.checks import ConfigError, arguments, unknown
from hairline.config.commands import COMMANDS, Export, Register
from hairline.config.saved import flatten, identity, leaves, load, plain, read, resumed, save
from hairline.config.schema import (
    NOT_IDENTITY,
    SCHEMAS,
    Augment,
    Config,
    Data,
    Runtime,
    Schedule,
    Split,
    SyntheticData,
    Tracking,
)

__all__ = [
    "COMMANDS",
    "Augment",
    "Config",
    "ConfigError",
    "Data",
    "Export",
    "Register",
    "NOT_IDENTITY",
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
    "plain",
    "read",
    "resumed",
    "save",
    "unknown",
]
