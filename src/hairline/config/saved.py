"""From composed to checked configurations, and from saved ones back; what makes two of them the same."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from hairline.config.checks import ConfigError, did_you_mean, training_faults
from hairline.config.commands import COMMANDS
from hairline.config.schema import NOT_IDENTITY, SCHEMAS, Config
from hairline.config.values import value_faults
from hairline.system import files, redaction

# The key of a group that says which of its choices, each with a schema of its own, a saved configuration has.
CHOSEN_BY = {"data": "source", "optimizer": "name", "schedule": "name"}


def load(composed: DictConfig, faults: Callable[[Any], Iterable[str]] = lambda config: ()) -> Any:
    """Turn a composed configuration into the checked, read-only one a run is given.

    Args:
        composed: What Hydra composed from the schema, the YAML choices and the command line.
        faults: Yields further faults of the configuration, which only the room that it is for can tell.

    Returns:
        The configuration as plain dataclasses (of the script's schema), interpolations resolved.

    Raises:
        ConfigError: Naming every fault at once.
    """
    try:
        missing = sorted(OmegaConf.missing_keys(composed))
        if missing:
            raise ConfigError("\n".join(f"{key} is missing: add {key}=... to the command line" for key in missing))
        config: Any = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:  # an interpolation, ${...}, of a key that is not there
        raise ConfigError(f"the configuration cannot be resolved: {str(error).strip()}") from error
    checks = {Config: training_faults, **dict(COMMANDS.values())}
    found = list(_strays(composed, config)) or list(value_faults(config))
    found = found or [*checks[type(config)](config), *faults(config)]
    if found:
        raise ConfigError("\n".join(found))
    return config


def _strays(composed: DictConfig, config: Any) -> Iterator[str]:
    """Give the keys that no setting has: a plus sign before an override adds whatever it names."""
    known = leaves(config)
    for key in flatten(OmegaConf.to_container(composed, resolve=True)):  # type: ignore[arg-type]
        if key not in known:
            yield f"{key}: there is no such setting.{did_you_mean(key, known)} --help lists all"


def save(config: Config, path: Path) -> None:
    """Write the resolved configuration as YAML, without passwords and tokens of addresses."""
    told = redaction.settings(OmegaConf.to_container(OmegaConf.structured(config)))
    files.write_text(path, OmegaConf.to_yaml(OmegaConf.create(told)))


def read(path: Path) -> Config:
    """Read a configuration that `save` wrote, as data: checked against the schema like any other.

    Raises:
        ConfigError: If it does not fit the schema.
    """
    try:
        saved: Any = OmegaConf.load(path)
        schema = OmegaConf.structured(Config)
        for group, key in CHOSEN_BY.items():
            schema[group] = OmegaConf.structured(SCHEMAS[f"{group}/{saved[group][key]}"])
        return load(OmegaConf.merge(schema, saved))  # type: ignore[arg-type, no-any-return]
    except (OSError, KeyError, OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"{path} is no configuration of this version: {error}") from error


def plain(path: Path) -> dict[str, Any]:
    """Read a saved configuration of whatever version as plain nested values; empty where there is none.

    Raises:
        ConfigError: If it is no YAML.
    """
    if not path.is_file():
        return {}
    try:
        found: Any = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"{path} is no configuration: {error}") from error
    return dict(found)


def resumed(config: Config, overrides: list[str]) -> Config:
    """Give the settings of the run that `config.resume` names.

    Args:
        config: What the command line composed.
        overrides: What it changed explicitly; only these are compared with the saved settings. Those that change no
            number are taken over.

    Raises:
        ConfigError: If there is no run, or an override would change its numbers; all such keys are named.
    """
    saved = read(Path(str(config.resume)).expanduser() / "config.yaml")
    asked, before = leaves(config), leaves(saved)
    named = [override.lstrip("+~").partition("=")[0] for override in overrides]
    compared = [
        key for key in sorted(asked.keys() | before.keys()) if _below(key, named) and asked.get(key) != before.get(key)
    ]
    differing = [
        f"{key}: the run has {before.get(key)}, the command line says {asked.get(key)}"
        for key in compared
        if not _below(key, NOT_IDENTITY)
    ]
    if differing:
        raise ConfigError(
            "these settings would change the numbers of the run that is resumed:\n  "
            + "\n  ".join(differing)
            + "\nleave them out, or start a new run without resume="
        )
    saved = dataclasses.replace(saved, resume=config.resume)
    for key in compared:
        saved = _replaced(saved, key.split("."), asked.get(key))
    return saved


def _below(key: str, names: Iterable[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _replaced(node: Any, path: list[str], value: Any) -> Any:
    """Give a configuration, or a part of one, with the value at a dotted key replaced."""
    first, *rest = path
    known = node.get(first) if isinstance(node, dict) else getattr(node, first)
    inner = _replaced(known, rest, value) if rest else value
    return {**node, first: inner} if isinstance(node, dict) else dataclasses.replace(node, **{first: inner})


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dictionaries to dotted keys.

    >>> flatten({"seed": 0, "data": {"source": "folder"}})
    {'seed': 0, 'data.source': 'folder'}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def leaves(config: Config) -> dict[str, Any]:
    """Give every setting under its dotted key."""
    return flatten(dataclasses.asdict(config))


def identity(config: Config) -> str:
    """Digest all that changes the numbers: equal for two configurations exactly if they train the same model.

    Args:
        config: A checked configuration.

    Returns:
        Sixteen hexadecimal digits.
    """
    told = {key: value for key, value in leaves(config).items() if not _below(key, NOT_IDENTITY)}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
