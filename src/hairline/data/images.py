"""Decode image files: the only decoder, shared by training, evaluation, inspection, exports and serving."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from hairline.system.errors import HairlineError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
# Pillow tries only these readers, whatever the file is called: its EPS reader starts Ghostscript.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
MAX_BYTES = 2**31  # twice the size of the largest image that Pillow opens, with 16 bits per channel
_LARGE_PIXELS = 50_000_000  # larger images are decoded one at a time, to bound the memory

# Part of every saved model and cache key: raise the number when the same file gives other pixels.
RECIPE = "pillow:exif-transpose,rgb,bilinear:1"

_EXIF_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_one_large = threading.Lock()


class ImageError(HairlineError):
    """A file that is not a readable image."""


def decode(source: str | os.PathLike[str] | bytes, image_size: int | None = None) -> np.ndarray:
    """Return the upright pixels of an image file.

    Args:
        source: A path, or the file's bytes.
        image_size: Width and height of the result in pixels; None keeps the size.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        ImageError: If the file is missing, empty, damaged or not an image.
    """
    picture = upright(source)
    return np.asarray(picture if image_size is None else _resized(picture, image_size))


def upright(source: str | os.PathLike[str] | bytes | np.ndarray) -> Image.Image:
    """Open an image upright, at its own size.

    Args:
        source: A path, the bytes of a file, or pixels, uint8 [height, width, 3], RGB.

    Returns:
        An RGB picture, loaded.

    Raises:
        ImageError: If the file is missing, empty, damaged or not an image, or the array has another dtype or shape.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
            raise ImageError(
                f"received an array of {source.dtype} {list(source.shape)}: expected uint8 [height, width, 3], RGB"
            )
        return Image.fromarray(source)
    content = source if isinstance(source, bytes) else read(source)
    with _opened(content) as image:
        image.load()
        return _to_rgb(_transposed(image))


def read(path: str | os.PathLike[str], digest: str | None = None) -> bytes:
    """Return the bytes of an image file.

    Args:
        path: The file; a pipe or device is refused before it blocks.
        digest: Expected SHA-256; None accepts any.

    Raises:
        ImageError: If it cannot be read, is not a regular file, is larger than any image, or has another digest.
    """
    try:
        status = os.stat(path)
        regular, small = stat.S_ISREG(status.st_mode), status.st_size <= MAX_BYTES
        content = Path(path).read_bytes() if regular and small else b""
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ImageError(f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    if not regular:
        raise ImageError("cannot be opened: a folder, pipe or device, not a file")
    if not small:
        raise ImageError(f"larger than any image hairline reads ({status.st_size / 1e9:.1f} GB)")
    if digest is not None and hashlib.sha256(content).hexdigest() != digest:
        raise ImageError("changed since it was checked: start again when the file is complete")
    return content


def resize(
    pixels: np.ndarray | Image.Image, image_size: int, box: tuple[int, int, int, int] | None = None
) -> np.ndarray:
    """Resize an image, or a part of it, to a square, exactly as `decode` does.

    Args:
        pixels: uint8 [height, width, 3], or a picture from `upright`.
        image_size: Width and height of the result, in pixels.
        box: Left, upper, right and lower edge of the part; None for the whole image.
    """
    picture = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    return np.asarray(_resized(picture if box is None else picture.crop(box), image_size))


def inspect(content: bytes, minimum: int = 1) -> tuple[int, int, Image.Image]:
    """Check that an image is complete and return it small and grey: several times faster than `decode`.

    Args:
        content: The file's bytes.
        minimum: Width and height that the small image keeps at least, in pixels; only JPEGs are reduced.

    Returns:
        Width and height in pixels, and an image of mode L, all upright.

    Raises:
        ImageError: If the bytes are not a complete image.
    """
    with _opened(content) as image:
        width, height = image.size
        image.draft("L", (minimum, minimum))  # a JPEG is still read to its end
        image.load()
        small = _transposed(image)
        small = small if small.mode == "L" else _to_rgb(small).convert("L")
        return (height, width, small) if _orientation(image) in _SIDEWAYS else (width, height, small)


@contextlib.contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    """Open an image; exceptions of Pillow within the block become `ImageError`."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            large = image.width * image.height > _LARGE_PIXELS
            with _one_large if large else contextlib.nullcontext():
                yield image
    except Exception as error:  # Pillow's readers raise anything, from struct.error to MemoryError
        raise ImageError(explain(content, error)) from error


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a loaded image (a PNG may store it after its pixels)."""
    orientation = image.getexif().get(_EXIF_ORIENTATION)
    return orientation if isinstance(orientation, int) else 1


def _transposed(image: Image.Image) -> Image.Image:
    """Return a loaded image upright.

    Pillow's own `exif_transpose` also rewrites the other metadata, which fails if they are damaged.
    """
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _resized(image: Image.Image, image_size: int) -> Image.Image:
    if image.size == (image_size, image_size):
        return image
    return image.resize((image_size, image_size), Image.Resampling.BILINEAR)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow clips at 255 instead of scaling
        grey = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.clip(np.rint(grey / 257.0), 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ImageError("floating-point pixels have no standard range: save the image with 8 or 16 bits per channel")
    if image.mode in ("P", "PA"):  # a palette with transparency warns unless converted to RGBA first
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def explain(content: bytes, error: Exception) -> str:
    """Return why Pillow could not read the bytes, as a message for the user."""
    if isinstance(error, ImageError):
        return str(error)
    if not content:
        return "empty file (0 bytes)"
    if isinstance(error, Image.DecompressionBombError):
        return f"more pixels than are safe to open: {error}"
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or of a format that hairline does not read"
    return f"damaged image: {error or type(error).__name__}"
