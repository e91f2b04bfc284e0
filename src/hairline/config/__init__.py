"""The configuration: schema, checks, saved form. Everything here answers before TensorFlow is imported."""

from hairline.config.assessment import Compare, Evaluate
from hairline.config.checks import ConfigError, arguments, unknown
from hairline.config.commands import COMMANDS
from hairline.config.inspection import Predict
from hairline.config.saved import CHOSEN_BY, flatten, identity, leaves, load, plain, read, resumed, save
from hairline.config.schema import (
    NOT_IDENTITY,
    SCHEMAS,
    Augment,
    Config,
    Data,
    Decision,
    FeatureSettings,
    Finetune,
    Model,
    Optimizer,
    Runtime,
    Schedule,
    Split,
    SyntheticData,
    Threads,
    Tracking,
)
from hairline.config.shipping import Export, ExportData, Register, Sync

__all__ = [
    "Optimizer",
    "Model",
    "Finetune",
    "FeatureSettings",
    "Decision",
    "Augment",
    "CHOSEN_BY",
    "COMMANDS",
    "Compare",
    "Config",
    "ConfigError",
    "Data",
    "Evaluate",
    "Export",
    "ExportData",
    "NOT_IDENTITY",
    "Predict",
    "Register",
    "Runtime",
    "SCHEMAS",
    "Schedule",
    "Split",
    "Sync",
    "SyntheticData",
    "Threads",
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
