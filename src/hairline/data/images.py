"""Decode image files: the only decoder, shared by training, evaluation, inspection, exports and serving."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import io
import os
import re
import stat
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from hairline.system.errors import HairlineError

_JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp")
_HEIF_SUFFIXES = (".heic", ".heif", ".hif")
SUFFIXES = frozenset({*_JPEG_SUFFIXES, ".png", ".bmp", ".webp", ".tif", ".tiff", *_HEIF_SUFFIXES})
# Pillow tries only these readers, whatever the file is called: its EPS reader starts Ghostscript.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
MAX_MEGAPIXELS = 178.0  # Pillow opens nothing larger
MAX_BYTES = 2**31  # twice the size of the largest image that Pillow opens, with 16 bits per channel
_LARGE_PIXELS = 50_000_000  # larger images are decoded one at a time, to bound the memory

# Pillow refuses an image for one long text; the limit for all of its texts, 64 MB, remains.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY

VERSION = 2  # raise it when the same file gives other pixels
RECIPE = f"pillow:exif-transpose,white-background,rgb,bilinear:{VERSION}"  # part of every saved model and cache key

_WHITE_16 = 65535  # the value of white with 16 bits
_SENSOR_BITS = (8, 10, 12, 14)  # of images whose values use only a part of 16 bits
_BACKGROUND = (255, 255, 255)  # behind transparent pixels
_STILL_FORMATS = ("JPEG", "MPO", "HEIF")  # phones append a preview or a second view to the photo itself
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_PNG = b"\x89PNG\r\n\x1a\n"
_DEPTH = "bits per channel"  # key in `Image.info`
# Tags of TIFF.
_SUBFILE_TYPE, _OLD_SUBFILE_TYPE, _BITS_PER_SAMPLE, _PHOTOMETRIC, _MAX_SAMPLE_VALUE, _PLANAR = (
    254,
    255,
    258,
    262,
    281,
    284,
)

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
SIDEWAYS = (5, 6, 7, 8)  # orientations that exchange width and height
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
    picture = upright(source, narrow=True)
    return np.asarray(picture if image_size is None else _resized(picture, image_size))


def decode_file(path: str, digest: str | None, image_size: int) -> np.ndarray:
    """Return the pixels of a file, uint8 [image_size, image_size, 3]; an error names it.

    Raises:
        ImageError: If it cannot be decoded, or has another SHA-256 than `digest`, if one is given.
    """
    return np.asarray(_resized(upright_file(path, digest), image_size))


def upright_file(path: str, digest: str | None) -> Image.Image:
    """Open the image of a file upright, at its own size; an error names it.

    Raises:
        ImageError: If it cannot be decoded, or has another SHA-256 than `digest`, if one is given.
    """
    try:
        return upright(read(path, digest), narrow=True)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def upright(source: str | os.PathLike[str] | bytes | np.ndarray, *, narrow: bool = False) -> Image.Image:
    """Open an image upright, at its own size.

    Args:
        source: A path, the bytes of a file, or pixels, uint8 [height, width, 3], RGB.
        narrow: Accept an image with 16 bits per channel whose values need 14 at most: among others that use the full
            range it is only dark.

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
    with opened(content) as image:
        image.load()
        if not narrow and (fault := narrow_range(peak(image))) is not None:
            raise ImageError(fault)
        return _transposed(_to_rgb(image), _orientation(image))


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
        content = b""
        if regular and small:
            with open(path, "rb") as file:
                content = file.read()
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


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """Return a picture as the content of a file.

    Args:
        picture: Any picture.
        kind: Pillow's name of the format, such as `PNG`.
        options: Of the format.
    """
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return content.getvalue()


def inspect(content: bytes, minimum: int = 1) -> tuple[int, int, Image.Image, int]:
    """Check that an image is complete and return it small and grey: several times faster than `decode`.

    Args:
        content: The file's bytes.
        minimum: Width and height that the small image keeps at least, in pixels; only JPEGs are reduced.

    Returns:
        Width and height in pixels, and an image of mode L, all upright; and the largest value of an image with 16 bits
        per channel, 0 for others.

    Raises:
        ImageError: If the bytes are not a complete image.
    """
    with opened(content) as image:
        width, height = image.size
        image.draft("L", (minimum, minimum))  # a JPEG is still read to its end
        image.load()
        orientation = _orientation(image)
        is_grey = image.mode == "L" and "transparency" not in image.info
        small = _transposed(image if is_grey else _to_rgb(image).convert("L"), orientation)
        width, height = (height, width) if orientation in SIDEWAYS else (width, height)
        return width, height, small, peak(image)


def peak(image: Image.Image) -> int:
    """Return the largest value of a loaded image with 16 bits per channel, on a scale to 65535; 0 for other images."""
    if image.mode.startswith("I"):
        return int(np.asarray(image).max()) * _WHITE_16 // _white(image)
    bits = image.tag_v2.get(_BITS_PER_SAMPLE, (8,)) if isinstance(image, TiffImagePlugin.TiffImageFile) else (8,)
    if max(bits) == 16 or image.info.get(_DEPTH) == 16:
        bands = [band for band in image.getbands() if band != "A"]
        return max(int(image.getchannel(band).getextrema()[1]) for band in bands) * 257  # type: ignore[arg-type]
    return 0


def narrow_limit(peaks: np.ndarray) -> int:
    """Return the value up to which images are too dark to be what their camera saw, judged by the whole set.

    Args:
        peaks: int64 [n], largest values from `peak`; those of other images are 0.

    Returns:
        Of 12 bits, if half of the images need no more; of 14 bits, if all do; else 0. A set that uses all 16 bits may
        hold dark images.
    """
    peaks = peaks[peaks > 0]
    if not len(peaks):
        return 0
    return 2**12 - 1 if np.median(peaks) < 2**12 else 2**14 - 1 if peaks.max() < 2**14 else 0


def narrow_range(value: int) -> str | None:
    """Return the fault of an image with 16 bits per channel whose values need 14 at most.

    Args:
        value: Its largest value, from `peak`; 0 for other images.
    """
    bits = next((bits for bits in _SENSOR_BITS if 0 < value < 2**bits), None)
    if bits is None:
        return None
    return (
        f"16-bit image, as of a {bits}-bit camera: its values end at {value:,} of {_WHITE_16:,}, so it would be read "
        f"as nearly black. Save it with 8 bits, or multiply its values by {2 ** (16 - bits)}"
    )


@contextlib.contextmanager
def opened(content: bytes) -> Iterator[Image.Image]:
    """Open an image at the frame that holds the photo, without decoding it.

    Raises:
        ImageError: If the bytes are not one still image; replaces every exception within the block.
    """
    try:
        if content[4:8] == b"ftyp" and content[8:12] in _HEIF_BRANDS:
            formats = _heif()
        else:
            formats = FORMATS
        with Image.open(io.BytesIO(content), formats=formats) as image:
            if content.startswith(_PNG):
                image.info[_DEPTH] = content[24]
            frame = _photo_frame(image)
            if frame:
                image.seek(frame)
            _check_layout(image)
            large = image.width * image.height > _LARGE_PIXELS
            with _one_large if large else contextlib.nullcontext():
                yield image
    except Exception as error:  # Pillow's readers raise anything, from struct.error to MemoryError
        raise ImageError(explain(content, error)) from error


def _heif() -> tuple[str, ...]:
    """Return Pillow's name of the HEIC reader, registered by another package.

    Raises:
        ImageError: If that package is not installed.
    """
    if importlib.util.find_spec("pillow_heif") is None:
        raise ImageError("HEIC photo: install its reader with pip install pillow-heif, or save the photo as JPEG")
    importlib.import_module("pillow_heif").register_heif_opener()
    return ("HEIF",)


def _photo_frame(image: Image.Image) -> int:
    """Return the number of the frame that holds the photo: others may be reduced copies of it, or masks.

    Raises:
        ImageError: For an animation or several pages.
    """
    count = getattr(image, "n_frames", 1)
    if count == 1 or image.format in _STILL_FORMATS:
        return 0
    sizes = {}
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        for number in range(count):
            with contextlib.suppress(SyntaxError):  # a mask that Pillow cannot read; its tags are read
                image.seek(number)
            if not (image.tag_v2.get(_SUBFILE_TYPE, 0) & 0b101 or image.tag_v2.get(_OLD_SUBFILE_TYPE) == 2):
                sizes[number] = image.size
        image.seek(0)
    largest = max(sizes, key=lambda number: sizes[number], default=0)
    pages = [number for number, size in sizes.items() if number == largest or not _is_reduced(size, sizes[largest])]
    if len(pages) != 1:
        raise ImageError(f"animated or of several pages ({count}): expected one still photo")
    return largest


def _is_reduced(size: tuple[int, int], full: tuple[int, int]) -> bool:
    """Return whether an image of one size may be a reduced copy of one of another size."""
    (width, height), (full_width, full_height) = size, full
    return width < full_width and abs(width * full_height - height * full_width) <= max(full)


def _check_layout(image: Image.Image) -> None:
    """Raise for pixels that Pillow would read wrongly."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return
    bits = image.tag_v2.get(_BITS_PER_SAMPLE, (1,))
    if image.tag_v2.get(_PLANAR, 1) == 2 and len(bits) > 1 and max(bits) > 8:
        raise ImageError(
            f"TIFF with {max(bits)} bits per channel in separate planes, which is not read: save it with 8 bits, or "
            "interleaved (PlanarConfiguration 1)"
        )


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a loaded image (a PNG may store it after its pixels)."""
    orientation = image.getexif().get(_EXIF_ORIENTATION)
    return orientation if isinstance(orientation, int) else 1


def _transposed(image: Image.Image, orientation: int) -> Image.Image:
    """Return an image upright.

    Pillow's own `exif_transpose` also rewrites the other metadata, which fails if they are damaged.
    """
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _resized(image: Image.Image, image_size: int) -> Image.Image:
    if image.size == (image_size, image_size):
        return image
    return image.resize((image_size, image_size), Image.Resampling.BILINEAR)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return a loaded image in RGB, on a white background where it is transparent."""
    if image.mode.startswith("I"):  # 16-bit grey: Pillow clips at 255 instead of scaling
        return _grey(image).convert("RGB")
    if image.mode == "F":
        raise ImageError("floating-point pixels have no standard range: save the image with 8 or 16 bits per channel")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
        low, high = image.getchannel("A").getextrema()
        if high == 0:
            raise ImageError("every pixel is transparent: save the image without transparency")
        if low != 255:
            image = Image.alpha_composite(Image.new("RGBA", image.size, (*_BACKGROUND, 255)), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey(image: Image.Image) -> Image.Image:
    """Return an image of one channel with more than 8 bits as one with 8."""
    values = np.asarray(image)
    white = _white(image)
    if values.max(initial=0) > _WHITE_16:
        raise ImageError("pixels with 32 bits have no standard range: save the image with 8 or 16 bits per channel")
    grey = np.clip(np.rint(values.astype(np.float64) * 255.0 / white), 0, 255).astype(np.uint8)
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == 0:  # 0 is white
        grey = 255 - grey
    if isinstance(transparent := image.info.get("transparency"), int):
        grey[values == transparent] = _BACKGROUND[0]
    return Image.fromarray(grey)


def _white(image: Image.Image) -> int:
    """Return the value of white in an image of one channel with more than 8 bits: 65535, or what its tags say."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return _WHITE_16
    bits, highest = image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0], image.tag_v2.get(_MAX_SAMPLE_VALUE, (0,))
    highest = highest[0] if isinstance(highest, tuple) else highest
    if highest in [2**bits - 1 for bits in _SENSOR_BITS[1:]] and np.asarray(image).max() <= highest:
        return int(highest)
    return 2**bits - 1 if 8 < bits < 16 else _WHITE_16


def explain(content: bytes, error: Exception) -> str:
    """Return why Pillow could not read the bytes, as a message for the user."""
    if isinstance(error, ImageError):
        return str(error)
    if not content:
        return "empty file (0 bytes)"
    if isinstance(error, Image.DecompressionBombError):
        pixels = max((int(number) for number in re.findall(r"\d+", str(error))), default=0)
        return too_large(pixels / 1e6, MAX_MEGAPIXELS)
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or of a format that hairline does not read"
    return f"damaged image: {error or type(error).__name__}"


def too_large(megapixels: float, limit: float) -> str:
    """Return the message for an image with too many pixels."""
    return f"{megapixels:,.0f} megapixels, more than {limit:,.0f}: divide it into several images"
