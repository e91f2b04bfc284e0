"""The schemas of the scripts beside `train.py`: one dataclass a script, and the check of what a schema cannot say.

A script `<verb>.py` composes `conf/<verb>.yaml`, whose first default is `/hydra/schema/<verb>@_here_`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

# Each script's schema, and what gives its faults.
COMMANDS: dict[str, tuple[type, Callable[[Any], Iterator[str]]]] = {}
