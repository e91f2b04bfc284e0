"""Every kind of file becomes the same right-side-up RGB pixels, or a named reason."""

from __future__ import annotations

import importlib.util
import struct
import sys
import zlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngInfo

from hairline.data import images
from hairline.data.images import encoded
from hairline.inspection import exif
from hairline.model import saved

GENERATOR = np.random.default_rng(0)
PIXELS = np.kron(GENERATOR.integers(0, 256, (6, 8, 3)), np.ones((5, 5, 1))).astype(np.uint8)  # 30 x 40, blocky


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_give_the_pixels_back(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(Image.fromarray(PIXELS), kind, **options)
    np.testing.assert_array_equal(images.decode(content), PIXELS)
    assert images.inspect(content)[:2] == (40, 30)


def test_jpeg_is_close() -> None:
    content = encoded(Image.fromarray(PIXELS), "JPEG", quality=98, subsampling=0)
    assert np.abs(images.decode(content).astype(int) - PIXELS).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:
    undo = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.transpose(1, 0, 2),
            6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: np.rot90}  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(PIXELS), "PNG", exif=exif)
    expected = undo[orientation](PIXELS)
    np.testing.assert_array_equal(images.decode(content), expected)
    width, height, small, _ = images.inspect(content)
    assert (width, height) == small.size == (expected.shape[1], expected.shape[0])
    np.testing.assert_array_equal(small, Image.fromarray(expected).convert("L"))


def test_other_modes_become_rgb() -> None:
    image = Image.fromarray(PIXELS)
    grey = np.asarray(image.convert("L"))
    np.testing.assert_array_equal(images.decode(encoded(image.convert("L"), "PNG")), np.stack([grey] * 3, -1))
    np.testing.assert_array_equal(images.decode(encoded(image.convert("RGBA"), "PNG")), PIXELS)  # opaque
    cmyk = images.decode(encoded(image.convert("CMYK"), "TIFF"))
    np.testing.assert_array_equal(cmyk, np.asarray(image.convert("CMYK").convert("RGB")))
    assert images.decode(encoded(image.convert("1"), "PNG")).shape == (30, 40, 3)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    for kind in ("PNG", "TIFF"):
        found = images.decode(encoded(Image.fromarray(ramp), kind))
        np.testing.assert_allclose(found[..., 0], ramp / 257.0, atol=0.51)


def test_palette_with_transparency_does_not_warn() -> None:
    image = Image.fromarray(PIXELS).convert("P")
    content = encoded(image, "PNG", transparency=bytes(range(256)))
    assert images.decode(content).shape == PIXELS.shape


def test_resizing_is_pillows_bilinear_and_the_same_everywhere(tmp_path: Path) -> None:
    content = encoded(Image.fromarray(PIXELS), "PNG")
    (tmp_path / "a.png").write_bytes(content)
    expected = np.asarray(Image.fromarray(PIXELS).resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(images.decode(tmp_path / "a.png", 16), expected)
    np.testing.assert_array_equal(images.resize(images.decode(content), 16), expected)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"empty file"),
        (b"hello, I am a text", r"not an image"),
        (encoded(Image.fromarray(PIXELS), "JPEG")[:-200], r"truncated"),
        (encoded(Image.fromarray(PIXELS), "PNG")[:80], r"truncated|damaged"),
        (encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), r"floating-point"),
    ],
    ids=["empty", "text", "cut jpeg", "cut png", "float tiff"],
)
def test_unreadable_files_are_named_with_a_reason(content: bytes, reason: str) -> None:
    for read in (images.decode, images.inspect):
        with pytest.raises(images.ImageError, match=reason):
            read(content)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(images.ImageError, match="cannot be opened: No such file"):
        images.decode(tmp_path / "none.jpg")


# --- transparency -----------------------------------------------------------------------------------------------------


def half_transparent() -> tuple[Image.Image, np.ndarray]:
    """Return an RGBA picture whose left half is transparent, and what it looks like on white."""
    alpha = np.full(PIXELS.shape[:2], 255, np.uint8)
    alpha[:, :20], alpha[:, 20:25] = 0, 51
    expected = PIXELS.copy()
    expected[:, :20] = 255
    expected[:, 20:25] = np.rint(255 * 0.8 + PIXELS[:, 20:25] * 0.2)
    return Image.fromarray(np.dstack([PIXELS, alpha])), expected


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})])
def test_transparent_pixels_lie_on_white(kind: str, options: dict[str, bool]) -> None:
    image, expected = half_transparent()
    content = encoded(image, kind, **options)
    assert np.abs(images.decode(content).astype(int) - expected).max() <= 1
    assert np.abs(np.asarray(images.inspect(content)[2])[:, :20].astype(int) - 255).max() == 0


def test_other_kinds_of_transparency_lie_on_white() -> None:
    image = Image.fromarray(PIXELS)
    colour = tuple(int(value) for value in PIXELS[0, 0])
    same = (PIXELS == PIXELS[0, 0]).all(-1)
    assert (images.decode(encoded(image, "PNG", transparency=colour))[same] == 255).all()
    grey = image.convert("L")
    level = int(np.asarray(grey)[0, 0])
    assert (images.decode(encoded(grey, "PNG", transparency=level))[np.asarray(grey) == level] == 255).all()
    palette = image.quantize(16)
    number = palette.getpixel((0, 0))
    assert (images.decode(encoded(palette, "PNG", transparency=number))[np.asarray(palette) == number] == 255).all()
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    found = images.decode(encoded(wide, "PNG", transparency=level * 257))
    assert (found[np.asarray(grey) == level] == 255).all()
    assert (images.decode(encoded(half_transparent()[0].convert("LA"), "PNG"))[:, :20] == 255).all()
    with pytest.raises(images.ImageError, match="every pixel is transparent"):
        images.decode(encoded(Image.fromarray(np.dstack([PIXELS, PIXELS[..., 0] * 0])), "PNG"))


# --- more than 8 bits -------------------------------------------------------------------------------------------------

GREY = PIXELS[..., 0]


def tiff(*frames: tuple[np.ndarray, dict[int, int]], order: str = "<") -> bytes:
    """Return an uncompressed TIFF.

    Args:
        frames: Pixels [height, width], [height, width, 3] or, with tag 284 = 2, [3, height, width]; and further tags.
        order: Byte order.
    """
    content = bytearray({"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8))
    for number, (pixels, more) in enumerate(frames):
        planes = pixels if more.get(284) == 2 else pixels[None]
        height, width = planes.shape[1:3]
        samples, size = pixels.size // (height * width), planes[0].nbytes
        tags = {256: width, 257: height, 258: 8 * pixels.itemsize, 259: 1, 262: 2 if samples > 1 else 1, 273: 0}
        tags = dict(sorted((tags | {277: samples, 278: height, 279: size} | more).items()))
        end = len(content) + 2 + 12 * len(tags) + 4
        lists = {258: [tags[258]] * samples, 273: [end + 64 + size * plane for plane in range(len(planes))]}
        lists[279] = [size] * len(planes)
        content += struct.pack(f"{order}H", len(tags))
        extra = b""
        for tag, value in tags.items():
            values = lists.get(tag, [value])
            packed = struct.pack(f"{order}{len(values)}I", *values)
            if len(values) > 1:
                packed, extra = struct.pack(f"{order}I", end + len(extra)), extra + packed
            content += struct.pack(f"{order}HHI", tag, 4, len(values)) + packed
        following = end + 64 + planes.nbytes
        content += struct.pack(f"{order}I", following if number + 1 < len(frames) else 0) + extra.ljust(64, b"\0")
        content += planes.astype(planes.dtype.newbyteorder(order)).tobytes()
    return bytes(content)


@pytest.mark.parametrize("order", "<>")
def test_colour_with_sixteen_bits_is_read_or_refused(order: str) -> None:
    wide = PIXELS.astype(np.uint16) * 257
    np.testing.assert_array_equal(images.decode(tiff((wide, {}), order=order)), PIXELS)
    with pytest.raises(images.ImageError, match="separate planes"):
        images.decode(tiff((wide.transpose(2, 0, 1), {284: 2}), order=order))
    np.testing.assert_array_equal(images.decode(tiff((PIXELS.transpose(2, 0, 1), {284: 2}), order=order)), PIXELS)


def test_inverted_and_larger_ranges() -> None:
    inverted = tiff((GREY.astype(np.uint16) * 257, {262: 0}))
    np.testing.assert_array_equal(images.decode(inverted)[..., 0], 255 - GREY)
    with pytest.raises(images.ImageError, match="32 bits have no standard range"):
        images.decode(tiff((GREY.astype(np.uint32) * 2**20, {})))


def test_a_tag_says_that_sixteen_bits_hold_twelve() -> None:
    twelve = GREY.astype(np.uint16) * 16 + GREY // 16
    tagged = tiff((twelve, {281: 4095}))
    np.testing.assert_array_equal(images.decode(tagged)[..., 0], GREY)
    assert images.inspect(tagged)[3] == int(twelve.max()) * 65535 // 4095


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_an_image_that_would_be_black_is_recognised(kind: str, bits: int) -> None:
    narrow = encoded(Image.fromarray(GREY.astype(np.uint16) << (bits - 8)), kind)
    peak = images.inspect(narrow)[3]
    assert peak == int(GREY.max()) << (bits - 8)
    assert images.narrow_range(peak)
    message = f"a {bits}-bit camera.*its values by {2 ** (16 - bits)}$"
    for read in (images.upright, saved.open_image):  # inspection; the Python interface and servers
        with pytest.raises(images.ImageError, match=message):
            read(narrow)
    assert images.decode(narrow).max() == round((int(GREY.max()) << (bits - 8)) / 257)  # of a set that was checked
    assert images.narrow_range(images.inspect(encoded(Image.fromarray(GREY.astype(np.uint16) * 257), kind))[3]) is None
    assert images.inspect(encoded(Image.fromarray(GREY), kind))[3] == 0


def test_colour_that_would_be_black_is_recognised() -> None:
    assert images.narrow_range(images.inspect(tiff((PIXELS.astype(np.uint16) * 16, {})))[3])
    assert images.narrow_range(images.inspect(tiff((PIXELS.astype(np.uint16) * 257, {})))[3]) is None


@pytest.mark.parametrize(
    ("peaks", "limit"),
    [
        ([4000, 3000, 60_000], 4095),  # one of another camera
        ([4000, 60_000, 50_000], 0),  # a dark one
        ([16_000, 5_000, 0], 16_383),
        ([17_000, 5_000, 5_000], 0),
        ([0, 0], 0),  # 8 bits
        ([], 0),
    ],
)
def test_a_set_tells_narrow_images_from_dark_ones(peaks: list[int], limit: int) -> None:
    assert images.narrow_limit(np.array(peaks, np.int64)) == limit


# --- frames, texts, names ---------------------------------------------------------------------------------------------


def frames(*pictures: tuple[np.ndarray, int]) -> bytes:
    """Return a TIFF of several frames, each with its NewSubfileType."""
    return tiff(*((pixels, {254: kind} if kind else {}) for pixels, kind in pictures))


@pytest.mark.parametrize(
    "content",
    [
        frames((PIXELS, 0), (PIXELS[::2, ::2], 1)),
        frames((PIXELS, 0), (PIXELS[::2, ::2], 1), (PIXELS[::4, ::4], 1)),
        frames((PIXELS[::2, ::2], 1), (PIXELS, 0)),
        frames((PIXELS, 0), (PIXELS[::3, ::3], 0)),
        frames((PIXELS[::2, ::2], 0), (PIXELS, 0)),
        frames((PIXELS, 0), (GREY, 4)),
    ],
    ids=["overview", "two overviews", "preview first", "untagged thumbnail", "untagged preview first", "mask"],
)
def test_reduced_copies_are_not_pages(content: bytes) -> None:
    np.testing.assert_array_equal(images.decode(content), PIXELS)
    assert images.inspect(content)[:2] == (40, 30)


@pytest.mark.parametrize(
    "content",
    [
        frames((PIXELS, 0), (PIXELS, 0)),
        frames((PIXELS, 0), (PIXELS[:20, :20], 0)),
        encoded(Image.fromarray(PIXELS), "PNG", save_all=True, append_images=[Image.fromarray(PIXELS[::-1])]),
        encoded(Image.fromarray(PIXELS), "WEBP", save_all=True, append_images=[Image.fromarray(PIXELS[::-1])]),
    ],
    ids=["pages", "pages of other shape", "png", "webp"],
)
def test_pages_and_animations_are_refused_by_training_as_by_inspection(content: bytes) -> None:
    for read in (images.decode, images.inspect, exif.read):
        with pytest.raises(images.ImageError, match=r"animated or of several pages \(2\)"):
            read(content)


@pytest.mark.parametrize("keyword", ["Comment", "parameters", "XML:com.adobe.xmp", "Raw profile type exif"])
def test_long_texts_and_profiles_of_a_png_do_not_matter(keyword: str) -> None:
    for compressed in (False, True):
        texts = PngInfo()
        texts.add_text(keyword, "x" * 1_100_000, zip=compressed)
        texts.add_itxt(keyword, "x" * 1_100_000, zip=compressed)
        content = encoded(Image.fromarray(PIXELS), "PNG", pnginfo=texts, icc_profile=bytes(1_100_000))
        np.testing.assert_array_equal(images.decode(content), PIXELS)


def test_more_names_of_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {".jfif", ".jpe", ".heic", ".heif"} <= images.SUFFIXES
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(images.ImageError, match="pip install pillow-heif"):
        images.decode(b"\0\0\0\x18ftypheic" + bytes(100))


def test_a_package_reads_heic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos of a camera, where pillow-heif is installed; elsewhere a stand-in registers a reader of the same name."""
    if importlib.util.find_spec("pillow_heif") is None:
        package = ModuleType("pillow_heif")

        class Reader(ImageFile.ImageFile):
            format = "HEIF"

            def _open(self) -> None:
                self._size, self._mode = (40, 30), "RGB"

            def load(self) -> None:
                self.im = Image.fromarray(PIXELS).im

        package.register_heif_opener = lambda: Image.register_open("HEIF", Reader)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "pillow_heif", package)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "pillow_heif")
        content = b"\0\0\0\x18ftypheic" + bytes(100)
    else:
        importlib.import_module("pillow_heif").register_heif_opener()
        photo = Image.fromarray(PIXELS)
        content = encoded(photo, "HEIF", quality=-1, chroma=444, save_all=True, append_images=[photo.rotate(180)])
        with pytest.raises(images.ImageError, match="damaged image|not an image"):
            images.decode(content[:200])
    assert np.abs(images.decode(content).astype(int) - PIXELS).mean() < 2  # colours are rounded
    assert images.inspect(content)[:2] == (40, 30)
    assert exif.read(content).width == 40


def test_too_many_pixels_are_answered_alike() -> None:
    content = bytearray(encoded(Image.new("L", (8, 8)), "PNG"))
    content[16:24] = struct.pack(">II", 20_000, 20_000)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    for read in (images.decode, images.inspect, exif.read):
        with pytest.raises(images.ImageError, match="400 megapixels, more than 178: divide it into several images"):
            read(bytes(content))
