"""Every kind of file becomes the same right-side-up RGB pixels, or a named reason."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hairline.data import images

GENERATOR = np.random.default_rng(0)
PIXELS = np.kron(GENERATOR.integers(0, 256, (6, 8, 3)), np.ones((5, 5, 1))).astype(np.uint8)  # 30 x 40, blocky


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


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
    width, height, small = images.inspect(content)
    assert (width, height) == small.size == (expected.shape[1], expected.shape[0])
    np.testing.assert_array_equal(small, Image.fromarray(expected).convert("L"))


def test_other_modes_become_rgb() -> None:
    image = Image.fromarray(PIXELS)
    grey = np.asarray(image.convert("L"))
    np.testing.assert_array_equal(images.decode(encoded(image.convert("L"), "PNG")), np.stack([grey] * 3, -1))
    np.testing.assert_array_equal(images.decode(encoded(image.convert("RGBA"), "PNG")), PIXELS)
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
    np.testing.assert_array_equal(images.decode(content), np.asarray(image.convert("RGB")))


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
