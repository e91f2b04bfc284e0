"""Short names of runs: what differs, in as few characters as MLflow's list shows."""

from __future__ import annotations

from collections.abc import Mapping

# Choices and values that are clear without their key, unless the value is `none`.
_CLEAR = ("optimizer", "learning_rate", "schedule", "experiment", "model")
_SHORT_KEYS = {
    "batch_size": "batch",
    "image_size": "px",
    "model.dropout": "drop",
    "model.label_smoothing": "smooth",
    "model.class_weights": "weights",
    "split.group_by": "split",
}
# Short values that are often varied come first: MLflow shows about 20 characters of a name.
_FIRST, _LAST = ("optimizer", "learning_rate"), ("schedule", "experiment", "model")


def short_name(settings: Mapping[str, str]) -> str:
    """Return settings on one line, short and often varied ones first.

    >>> short_name({"model": "mobilenetv2", "model.dropout": "0.2", "learning_rate": "0.001", "optimizer": "adam"})
    'adam 0.001 drop 0.2 mobilenetv2'
    >>> short_name({"augment": "light", "data.mix_weight": "0.00123456789"})
    'augment light mix_weight 0.001235'
    """
    rank = {key: -len(_FIRST) + place for place, key in enumerate(_FIRST)} | {
        key: 1 + place for place, key in enumerate(_LAST)
    }
    ordered = sorted(settings.items(), key=lambda setting: rank.get(setting[0], 0))
    return " ".join(_word(key, short_value(value)) for key, value in ordered)


def _word(key: str, value: str) -> str:
    if key in _CLEAR and value != "none":
        return value
    return f"{_SHORT_KEYS.get(key, key.rpartition('.')[2])} {value}"


def short_value(value: object) -> str:
    """Return a long fraction, such as a search draws, with four digits; any other value unchanged.

    >>> short_value("0.0012345678901"), short_value("123456789"), short_value("sgd")
    ('0.001235', '123456789', 'sgd')
    """
    text = str(value)
    try:
        return f"{float(text):.4g}" if len(text) > 8 and "." in text else text
    except ValueError:
        return text
