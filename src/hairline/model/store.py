"""Kept features on disk: shards that are there as a whole or not at all, checked when opened, evicted by last use."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import zlib
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from hairline.system import cache, files
from hairline.system.errors import HairlineError

log = logging.getLogger(__name__)

_SHARD = re.compile(r"\d{6}-\d+\.json")
_SHARD_ARRAY = re.compile(r"\d{6}-\d+\.npy")
_TORN = re.compile(r"\.\d{6}-\d+\.(npy|json)")


class CacheError(HairlineError):
    """A cache that cannot be written to."""


class Store:
    """The kept features of one recipe: `<n>.npy` holds a shard's rows, `<n>.json` says whose they are.

    The JSON is written after the array and by renaming, so a shard is there as a whole or not at all.
    """

    def __init__(self, key: str) -> None:
        """Open what is kept under a recipe's key; nothing is read before it is asked for."""
        self.folder = cache.folder("features", key)
        self.lock = filelock.FileLock(self.folder.with_suffix(".lock"))
        self.shards: list[np.ndarray] = []
        self.places: dict[str, tuple[int, int]] = {}
        self._opened = False

    def __contains__(self, digest: str) -> bool:
        if not self._opened:
            self._open()
        return digest in self.places

    def add(self, digests: list[str], rows: np.ndarray) -> None:
        """Write one shard."""
        name = f"{len(list(self.folder.glob('*.json'))):06d}-{os.getpid()}"
        array, index = self.folder / f"{name}.npy", self.folder / f"{name}.json"
        about = {"digests": digests, "bytes": rows.nbytes, "crc32": zlib.crc32(np.ascontiguousarray(rows).data)}
        try:
            with files.atomic(array) as file:
                np.save(file, rows, allow_pickle=False)
            files.write_text(index, json.dumps(about))
        except OSError as error:
            array.unlink(missing_ok=True)
            raise CacheError(
                f"features cannot be kept in {self.folder}: {error.strerror or error}. Make room, point the "
                "environment variable HAIRLINE_CACHE to another disk, or go on without the cache: features.keep=false"
            ) from error
        self._admit(digests, np.load(array, mmap_mode="r", allow_pickle=False))

    def touch(self, recipe: dict[str, Any]) -> None:
        """Note the time of use, for eviction, and what the recipe is, for people."""
        about = self.folder / "recipe.json"
        try:
            about.write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
        except OSError:
            log.warning("WARNING: the cache %s cannot be written to", self.folder)

    def _open(self) -> None:
        """Read all shards, checking length and checksum; damaged ones are deleted, to be computed again."""
        self._opened = True
        self._tidy()
        for index in sorted(self.folder.glob("*.json")):
            if not _SHARD.fullmatch(index.name):  # the recipe, or somebody else's file
                continue
            try:
                about = json.loads(index.read_bytes())
                rows = np.load(index.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
                whole = len(rows) == len(about["digests"]) and rows.dtype == np.float32 and rows.ndim == 2
                if not whole or zlib.crc32(np.ascontiguousarray(rows).data) != about["crc32"]:
                    raise ValueError("length or checksum is wrong")
            except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
                log.warning("WARNING: a damaged part of the cache is computed again: %s (%s)", index, error)
                index.unlink(missing_ok=True)
                index.with_suffix(".npy").unlink(missing_ok=True)
                continue
            self._admit(about["digests"], rows)

    def _tidy(self) -> None:
        """Delete what processes left that were killed while they wrote: whoever holds the lock is alone here."""
        for path in self.folder.iterdir():
            torn = _TORN.match(path.name) is not None
            if torn or (_SHARD_ARRAY.fullmatch(path.name) and not path.with_suffix(".json").exists()):
                path.unlink(missing_ok=True)

    def _admit(self, digests: list[str], rows: np.ndarray) -> None:
        for row, digest in enumerate(digests):
            self.places[digest] = (len(self.shards), row)
        self.shards.append(rows)


def evict(max_gigabytes: float, spared: Path) -> None:
    """Delete the least recently used recipes until all take at most `max_gigabytes`."""
    folders = [path for path in spared.parent.iterdir() if path.is_dir()]
    sizes = {path: sum(file.stat().st_size for file in path.glob("*.npy")) for path in folders}
    used = {
        path: (path / "recipe.json").stat().st_mtime if (path / "recipe.json").exists() else 0.0 for path in folders
    }
    total = sum(sizes.values())
    for path in sorted(folders, key=lambda folder: used[folder]):
        if total <= max_gigabytes * 1e9:
            return
        if path == spared:
            continue
        try:
            with filelock.FileLock(path.with_suffix(".lock"), timeout=0):  # somebody computes there: leave it
                shutil.rmtree(path, ignore_errors=True)
        except filelock.Timeout:
            continue
        total -= sizes[path]
        log.info("features not used for longest deleted from the cache (%.1f GB): %s", sizes[path] / 1e9, path)
