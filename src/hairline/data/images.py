"""The one way an image file becomes pixels, shared by training, evaluation, photos and exports."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import threading
from collections.abc import Iterator

import numpy as np
from PIL import Image, UnidentifiedImageError

from hairline.system.errors import HairlineError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
# Whatever a file is called, Pillow is to try no other reader: that of EPS starts Ghostscript on the file.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
MAX_BYTES = 2**31  # twice what the most pixels that Pillow opens take with 16 bits a channel
_LARGE_PIXELS = 50_000_000  # from here on one image at a time: a folder of huge ones must not fill the memory

# Part of every saved model and cache key: raise the number when the same file would give other pixels.
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
    """A file that is not an image this project can read."""


def decode(source: str | os.PathLike[str] | bytes, image_size: int | None = None) -> np.ndarray:
    """Read an image file right side up.

    Args:
        source: A path, or the file's bytes.
        image_size: Width and height to squeeze the image to, in pixels; None keeps its own.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        ImageError: If the file is missing, empty, damaged, or no image.
    """
    picture = upright(source)
    return np.asarray(picture if image_size is None else _resized(picture, image_size))


def upright(source: str | os.PathLike[str] | bytes | np.ndarray) -> Image.Image:
    """Open an image right side up, at its own size, whatever it is given as.

    Args:
        source: A path, the file's bytes, or its pixels, uint8 [height, width, 3], RGB.

    Returns:
        An RGB picture, loaded.

    Raises:
        ImageError: If the file is missing, empty, damaged or no image, or the array is of another type or shape.
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
        return _to_rgb(_turned(image))


def read(path: str | os.PathLike[str], digest: str | None = None) -> bytes:
    """Read an image file that may be anything, or may have changed.

    Args:
        path: The file.
        digest: sha256 that its bytes are to have; None: any.

    Raises:
        ImageError: If it cannot be read, is no file (a pipe would be waited for, a device read for ever), is larger
            than any image, or changed since its digest was taken.
    """
    try:
        about = os.stat(path)
        if not stat.S_ISREG(about.st_mode):
            raise ImageError("cannot be opened: a folder, pipe or device, not a file")
        if about.st_size > MAX_BYTES:
            raise ImageError(f"larger than any image this project reads ({about.st_size / 1e9:.1f} GB)")
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise ImageError(f"cannot be opened: {error.strerror or error}") from error
    except ImageError:
        raise
    except ValueError as error:  # a NUL in the name
        raise ImageError(f"cannot be opened: {error}") from error
    if digest is not None and hashlib.sha256(content).hexdigest() != digest:
        raise ImageError("changed since it was checked: start again when it is whole")
    return content


def resize(
    pixels: np.ndarray | Image.Image, image_size: int, box: tuple[int, int, int, int] | None = None
) -> np.ndarray:
    """Squeeze an image, or a part of it, to a square, exactly as `decode` does.

    Args:
        pixels: uint8 [height, width, 3], or a picture from `upright`.
        image_size: Width and height of the result, in pixels.
        box: Left, upper, right and lower edge of the part; None for the whole.
    """
    picture = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    return np.asarray(_resized(picture if box is None else picture.crop(box), image_size))


def inspect(content: bytes, least: int = 1) -> tuple[int, int, Image.Image]:
    """Check that an image can be read to its end, and give it small and in grey: several times faster than `decode`.

    Args:
        content: The file's bytes.
        least: Pixels that width and height of the small one keep at least; only a JPEG is reduced at all.

    Returns:
        Width and height in pixels, and a picture of mode L, all as seen right side up.

    Raises:
        ImageError: If the bytes are no image, or end too early.
    """
    with _opened(content) as image:
        width, height = image.size
        image.draft("L", (least, least))  # a JPEG is read to its end all the same
        image.load()
        small = _turned(image)
        small = small if small.mode == "L" else _to_rgb(small).convert("L")
        return (height, width, small) if _orientation(image) in _SIDEWAYS else (width, height, small)


@contextlib.contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    """Open an image for a block, in which whatever Pillow raises becomes an `ImageError`."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            large = image.width * image.height > _LARGE_PIXELS
            with _one_large if large else contextlib.nullcontext():
                yield image
    except Exception as error:  # Pillow's plug-ins raise anything, from struct.error to MemoryError
        raise ImageError(explain(content, error)) from error


def _orientation(image: Image.Image) -> int:
    """Give the EXIF orientation of a loaded image: a PNG may say it behind its pixels."""
    found = image.getexif().get(_EXIF_ORIENTATION)
    return found if isinstance(found, int) else 1


def _turned(image: Image.Image) -> Image.Image:
    """Turn a loaded image upright; one that stands so is not copied.

    Pillow's own `exif_transpose` also writes the other metadata anew, which fails where they are damaged.
    """
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _resized(image: Image.Image, image_size: int) -> Image.Image:
    if image.size == (image_size, image_size):
        return image
    return image.resize((image_size, image_size), Image.Resampling.BILINEAR)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips at 255 instead of scaling
        grey = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.clip(np.rint(grey / 257.0), 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ImageError("floating-point pixels have no agreed range: save it with 8 or 16 bits a channel")
    if image.mode in ("P", "PA"):  # a palette with transparency warns unless it goes by way of RGBA
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def explain(content: bytes, error: Exception) -> str:
    """Say in words for the user why bytes that Pillow refused are no image to this project."""
    if isinstance(error, ImageError):
        return str(error)
    if not content:
        return "empty file (0 bytes)"
    if isinstance(error, Image.DecompressionBombError):
        return f"more pixels than are safe to open: {error}"
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or of a format this project does not read"
    return f"damaged image: {error or type(error).__name__}"
