"""Where results that can always be made again are kept."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def folder(*parts: str) -> Path:
    """Give a folder below the cache, made on the first call.

    `HAIRLINE_CACHE` names the cache; without it the user's cache folder of the operating system is taken. Deleting
    the cache is always safe.

    Args:
        parts: Names of nested folders.

    Raises:
        ValueError: If the folder cannot be made or written to.
    """
    root = os.environ.get("HAIRLINE_CACHE")
    path = Path(root).expanduser() if root else Path(platformdirs.user_cache_dir("hairline", appauthor=False))
    path = path.absolute().joinpath(*parts)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"the cache folder {path} cannot be made ({error.strerror}): "
            "set the environment variable HAIRLINE_CACHE to a folder that you can write to"
        ) from error
    return path
