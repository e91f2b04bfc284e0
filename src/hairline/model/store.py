"""Cached features on disk: shards are written atomically and verified when opened."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from hairline.system import cache, files
from hairline.system.errors import HairlineError

log = logging.getLogger(__name__)

SHARD_IMAGES = 512
_SHARD = re.compile(r"[0-9a-f]{24}")
_TEMPORARY = re.compile(r"\.[0-9a-f]{24}\.(npy|json)")


class CacheError(HairlineError):
    """The cache cannot be written."""


class Store:
    """The cached features of one recipe, in shards: see `write_shard`."""

    def __init__(self, key: str) -> None:
        """Open the store of a recipe's key; shards are read on first use."""
        self.use = cache.use(cache.root() / "features" / key)  # before it is created: unused parts may be deleted
        self.folder = cache.folder("features", key)
        self.lock = filelock.FileLock(self.folder.with_suffix(".lock"))
        self.shards: list[np.ndarray] = []
        self.places: dict[str, tuple[int, int]] = {}
        self._opened = False

    def __contains__(self, digest: str) -> bool:
        if not self._opened:
            self._open()
        return digest in self.places

    def fill(self, digests: Sequence[str], blocks: Iterable[np.ndarray]) -> None:
        """Write rows as they are computed, shard by shard: a stopped pass resumes from the last one.

        Args:
            digests: Of the images, in the order of the rows.
            blocks: The rows in order, float32 [rows, width] each.

        Raises:
            CacheError: If a shard cannot be written.
        """
        shard: list[np.ndarray] = []
        done = waiting = 0
        for block in blocks:
            shard.append(block)
            waiting += len(block)
            if waiting >= SHARD_IMAGES or done + waiting == len(digests):
                self.add(list(digests[done : done + waiting]), np.concatenate(shard))
                done, waiting, shard = done + waiting, 0, []

    def add(self, digests: list[str], rows: np.ndarray) -> None:
        """Write one shard: `rows`, float32 [n, width], of the images with these digests.

        Raises:
            CacheError: If it cannot be written.
        """
        write_shard(self.folder, digests, rows)
        self.admit(digests)

    def admit(self, digests: list[str]) -> None:
        """Add the shard of the images with these digests, which is complete on the disk."""
        self._admit(digests, np.load(_array(self.folder, digests), mmap_mode="r", allow_pickle=False))

    def describe(self, recipe: dict[str, Any]) -> None:
        """Write the recipe for human readers."""
        try:
            (self.folder / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
        except OSError:
            log.warning("WARNING: the cache %s cannot be written to", self.folder)

    def _open(self) -> None:
        """Read all shards and verify length and checksum; delete damaged ones, which are then computed again."""
        self._opened = True
        files.allow_many_open()  # each shard holds one
        self._tidy()
        for index in sorted(self.folder.glob("*.json")):
            if not _SHARD.fullmatch(index.stem):  # recipe.json, or a foreign file
                continue
            array = index.with_suffix(".npy")
            try:
                entry = json.loads(index.read_bytes())
                rows = np.load(array, mmap_mode="r", allow_pickle=False)
                complete = len(rows) == len(entry["digests"]) and rows.dtype == np.float32 and rows.ndim == 2
                if not complete or _checksum(rows) != entry["crc32"]:
                    raise ValueError("wrong length or checksum")
            except (FileNotFoundError, ValueError, KeyError, TypeError, EOFError) as error:
                log.warning("WARNING: a damaged part of the cache is computed again: %s (%s)", index, error)
                index.unlink(missing_ok=True)
                array.unlink(missing_ok=True)
                continue
            self._admit(entry["digests"], rows)

    def _tidy(self) -> None:
        """Delete incomplete files of killed processes; the lock guarantees that no other process is writing."""
        for path in self.folder.iterdir():
            orphan = path.suffix == ".npy" and _SHARD.fullmatch(path.stem) and not path.with_suffix(".json").exists()
            if orphan or _TEMPORARY.match(path.name):
                path.unlink(missing_ok=True)

    def _admit(self, digests: list[str], rows: np.ndarray) -> None:
        for row, digest in enumerate(digests):
            self.places[digest] = (len(self.shards), row)
        self.shards.append(rows)


def write_shard(folder: Path, digests: list[str], rows: np.ndarray) -> None:
    """Write one shard: `<name>.npy` with the rows, then `<name>.json` with the digests of its images.

    So a shard with a JSON file is complete. The name follows from the digests: processes of several machines need not
    agree on names, and a repeated write changes nothing.

    Args:
        folder: Of the store.
        digests: Of the images, in the order of the rows.
        rows: float32 [n, width].

    Raises:
        CacheError: If it cannot be written.
    """
    array = _array(folder, digests)
    entry = {"digests": digests, "bytes": rows.nbytes, "crc32": _checksum(rows)}
    try:
        with files.atomic(array) as file:
            np.save(file, rows, allow_pickle=False)
        files.write_text(array.with_suffix(".json"), json.dumps(entry))
    except OSError as error:
        array.unlink(missing_ok=True)
        raise CacheError(
            f"features cannot be cached in {folder}: {error.strerror or error}. Free some space, set the environment "
            "variable HAIRLINE_CACHE to a folder on another disk, or disable the cache with features.keep=false"
        ) from error


def has_shard(folder: Path, digests: list[str]) -> bool:
    """Return whether a store's folder holds the shard of the images with these digests."""
    return _array(folder, digests).with_suffix(".json").exists()


def _array(folder: Path, digests: list[str]) -> Path:
    return folder / f"{hashlib.sha256(' '.join(digests).encode()).hexdigest()[:24]}.npy"


def _checksum(rows: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(rows).data)
