"""Decoded pixels, kept beside the cache while a run needs the same images every epoch."""

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
    """Images of one size in a file without a name: when the process ends, however it ends, the file is gone.

    A file, as in memory they take 77 kB an image of 160 pixels; the operating system keeps in memory what fits.
    """

    def __init__(self, count: int, image_size: int, *, max_gigabytes: float) -> None:
        """Make room for images number 0 to `count` - 1; for none if all together took more than `max_gigabytes`."""
        self._shape = (image_size, image_size, 3)
        self._bytes = int(np.prod(self._shape))
        self._kept = bytearray(count)
        self._lock = threading.Lock()
        self._file: Any = None
        if count * self._bytes <= max_gigabytes * 1e9:
            try:
                # Without a buffer, which would be written once more when the file is closed, full disk or not.
                self._file = tempfile.TemporaryFile(buffering=0, dir=cache.folder())
            except OSError as error:
                self._give_up(error)
            else:
                weakref.finalize(self, self._file.close)

    def get(self, number: int, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """Give an image's pixels, uint8 [image_size, image_size, 3]; from several threads at once.

        Args:
            number: Of the image.
            decode: Gives them the first time.
        """
        with self._lock:
            if self._file is not None and self._kept[number]:
                self._file.seek(number * self._bytes)
                return np.frombuffer(self._file.read(self._bytes), np.uint8).reshape(self._shape)
        pixels = decode()
        with self._lock:
            self._keep(number, pixels)
        return pixels

    def _keep(self, number: int, pixels: np.ndarray) -> None:
        if self._file is None:
            return
        try:
            self._file.seek(number * self._bytes)
            if self._file.write(np.ascontiguousarray(pixels).data) != self._bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._file.close()
            self._file, self._kept = None, bytearray(len(self._kept))
            self._give_up(error)
        else:
            self._kept[number] = 1

    def _give_up(self, error: OSError) -> None:
        log.warning("WARNING: no room for decoded images (%s): they are decoded every epoch", error.strerror)
