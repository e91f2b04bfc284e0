"""Decoded pixels on disk, for runs that need the same images every epoch."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from hairline.system import cache

log = logging.getLogger(__name__)


class Decoded:
    """Images of one size in an anonymous temporary file, which disappears with the process.

    A file instead of memory: an image of 160 pixels takes 77 kB. The operating system keeps in memory what fits.
    """

    def __init__(self, count: int, image_size: int, *, max_gigabytes: float) -> None:
        """Reserve space for images 0 to `count` - 1; for none if together they exceed `max_gigabytes`."""
        self._shape = (image_size, image_size, 3)
        self._bytes = int(np.prod(self._shape))
        self._stored = bytearray(count)
        self._lock = threading.Lock()
        self._file: Any = None
        if count * self._bytes <= max_gigabytes * 1e9:
            try:
                # Unbuffered: a buffer would be written again on closing, even on a full disk.
                self._file = tempfile.TemporaryFile(buffering=0, dir=cache.folder())
            except OSError as error:
                self._give_up(error)
            else:
                weakref.finalize(self, self._file.close)

    def get(self, number: int, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the pixels of an image, uint8 [image_size, image_size, 3]; safe for several threads.

        Args:
            number: Of the image.
            decode: Returns the pixels the first time.
        """
        with self._lock:
            if self._file is not None and self._stored[number]:
                self._file.seek(number * self._bytes)
                return np.frombuffer(self._file.read(self._bytes), np.uint8).reshape(self._shape)
        pixels = decode()
        with self._lock:
            self._store(number, pixels)
        return pixels

    def _store(self, number: int, pixels: np.ndarray) -> None:
        if self._file is None:
            return
        try:
            self._file.seek(number * self._bytes)
            if self._file.write(np.ascontiguousarray(pixels).data) != self._bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._file.close()
            self._file, self._stored = None, bytearray(len(self._stored))
            self._give_up(error)
        else:
            self._stored[number] = 1

    def _give_up(self, error: OSError) -> None:
        log.warning("WARNING: no space for decoded images (%s): they are decoded again every epoch", error.strerror)
