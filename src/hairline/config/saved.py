"""Load a composed configuration, save and read it; the identity of two configurations that train the same model."""

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

from hairline.config import checks, commands
from hairline.config.checks import ConfigError
from hairline.config.schema import GROUPS, Config
from hairline.system import files, redaction

# Settings and groups that do not change the numbers of a run.
NOT_IDENTITY = (
    "resume",
    "name",
    "tags",
    "tracking",
    "report",
    "sweep",
    "probe",
    "runtime.threads",
    "runtime.compute",
    "runtime.ray",
    "features.keep",
    "cache",
)
# Groups whose choices have different schemas, and the setting that names the choice.
CHOSEN_BY = {"data": "source", "optimizer": "name", "schedule": "name"}


def load(composed: DictConfig, faults: Callable[[Any], Iterable[str]] = lambda config: ()) -> Any:
    """Return a composed configuration as checked dataclasses of the script's schema, interpolations resolved.

    Args:
        composed: What Hydra composed from the schema, the YAML choices and the command line.
        faults: Yields the faults that need the tables of other rooms, such as the backbones.

    Raises:
        ConfigError: Listing all faults.
    """
    try:
        missing = sorted(OmegaConf.missing_keys(composed))
        if missing:
            raise ConfigError("\n".join(f"{key} is missing: add {key}=... to the command line" for key in missing))
        config: Any = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:  # an interpolation, ${...}, of an unknown key
        raise ConfigError(f"the configuration cannot be resolved: {str(error).strip()}") from error
    found = list(_unknown_keys(composed, config))
    _decode_names(config)
    found += checks.unusable_texts(config)
    found = found or [*checks.value_faults(config), *checks.conflicts(config), *faults(config)]
    if found:
        raise ConfigError("\n".join(found))
    return config


def _decode_names(node: Any) -> None:
    """Decode the names in mappings that the command line encoded for Hydra's grammar."""
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            _decode_names(value)
        elif isinstance(value, dict):
            setattr(node, field.name, {commands.decoded(name): item for name, item in value.items()})


def _unknown_keys(composed: DictConfig, config: Any) -> Iterator[str]:
    """Yield a message for every key outside the schema; `+key=value` adds any key."""
    known = leaves(config)
    for key in flatten(OmegaConf.to_container(composed, resolve=True)):  # type: ignore[arg-type]
        if key not in known:
            yield f"{key}: unknown setting.{checks.did_you_mean(key, known)} --help lists all settings"


def save(config: Config, path: Path) -> None:
    """Save a configuration as YAML, without passwords and tokens."""
    redacted = redaction.settings(dataclasses.asdict(config))
    files.write_text(path, OmegaConf.to_yaml(OmegaConf.create(_escaped(redacted))))


def _escaped(value: Any) -> Any:
    """Return settings in which OmegaConf finds no interpolation: they are resolved already."""
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return commands.escaped(value) if isinstance(value, str) else value


def read(path: Path) -> Config:
    """Return a configuration saved by `save`, checked against the schema.

    Raises:
        ConfigError: If it does not fit the schema.
    """
    try:
        saved: Any = OmegaConf.load(path)
        schema = OmegaConf.structured(Config)
        for group, key in CHOSEN_BY.items():
            schema[group] = OmegaConf.structured(GROUPS[f"{group}/{saved[group][key]}"])
        return load(OmegaConf.merge(schema, saved))  # type: ignore[arg-type, no-any-return]
    except (OSError, KeyError, OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"{path} is not a configuration of this version: {error}") from error


def plain(path: Path) -> dict[str, Any]:
    """Return a configuration saved by any version as nested dictionaries; empty if there is none.

    Raises:
        ConfigError: If it is not YAML.
    """
    if not path.is_file():
        return {}
    try:
        values: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OSError, OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"{path} is not a configuration: {error}") from error
    return values if isinstance(values, dict) else {}


def resumed(config: Config, overrides: list[str]) -> Config:
    """Return the settings of the run that `config.resume` names.

    Args:
        config: The composed configuration.
        overrides: Overrides on the command line. Those in `NOT_IDENTITY` replace the saved values; all others must
            equal them.

    Raises:
        ConfigError: If there is no run, or an override would change its numbers; lists all such settings.
    """
    saved = read(Path(str(config.resume)).expanduser() / "config.yaml")
    wanted, before = leaves(config), leaves(saved)
    overridden = [override.lstrip("+~").partition("=")[0] for override in overrides]
    changed = [
        key
        for key in sorted(wanted.keys() | before.keys())
        if _is_below(key, overridden) and wanted.get(key) != before.get(key)
    ]
    refused = [
        f"{key}: the run has {before.get(key)}, the command line says {wanted.get(key)}"
        for key in changed
        if is_identity(key)
    ]
    if refused:
        raise ConfigError(
            "these settings would change the numbers of the resumed run:\n  "
            + "\n  ".join(refused)
            + "\nleave them out, or start a new run without resume="
        )
    for key in changed:
        if not _is_below(key, ["tags"]):
            saved = _replace(saved, key.split("."), wanted[key])
    return dataclasses.replace(saved, resume=config.resume, tags={**saved.tags, **config.tags})


def is_identity(key: str) -> bool:
    """Return whether a setting can change the numbers of a run."""
    return not _is_below(key, NOT_IDENTITY)


def _is_below(key: str, names: Iterable[str]) -> bool:
    """Return whether a dotted key is one of the names, or inside one of these groups."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _replace(node: Any, path: list[str], value: Any) -> Any:
    """Return a copy of a configuration or group with another value at a path of keys."""
    first, *rest = path
    return dataclasses.replace(node, **{first: _replace(getattr(node, first), rest, value) if rest else value})


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


def leaves(config: Any) -> dict[str, Any]:
    """Return every setting by its dotted key."""
    return flatten(dataclasses.asdict(config))


def identity(config: Config) -> str:
    """Return a digest, 16 hexadecimal digits: equal for two configurations exactly if they train the same model."""
    relevant = {key: value for key, value in leaves(config).items() if is_identity(key)}
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:16]
