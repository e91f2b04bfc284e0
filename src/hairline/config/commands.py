"""The scripts beside `train.py`: each one's schema, and what gives the faults that a schema cannot say.

A script `<verb>.py` composes `conf/<verb>.yaml`, whose first default is `/hydra/schema/<verb>@_here_`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from hairline.config.assessment import Compare, Evaluate, compare_faults, evaluate_faults
from hairline.config.inspection import Predict, predict_faults
from hairline.config.shipping import Export, Register, Sync, export_faults, register_faults, sync_faults

COMMANDS: dict[str, tuple[type, Callable[[Any], Iterator[str]]]] = {
    "compare": (Compare, compare_faults),
    "evaluate": (Evaluate, evaluate_faults),
    "export": (Export, export_faults),
    "predict": (Predict, predict_faults),
    "register": (Register, register_faults),
    "sync": (Sync, sync_faults),
}
