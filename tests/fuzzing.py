"""Hostile input made from good: the one place where images, archives, manifests and configurations are mutated.

Everything follows from a seed, so that whatever a test finds can be made again.
"""

from __future__ import annotations

import dataclasses
import os
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from hairline import config
from hairline.data import images
from tests.test_archives import make_rar, make_zip

SEED = int(os.environ.get("HAIRLINE_FUZZ_SEED", "0"))
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutated(content: bytes, generator: random.Random, other: bytes = b"") -> bytes:
    """Change bytes the way that damage and malice do: flips, extremes, cuts, gaps, repeats, splices."""
    raw = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 4, 16))):
        if not raw:
            break
        place = generator.randrange(min(len(raw), 200) if generator.random() < 0.5 else len(raw))  # headers matter
        length = generator.choice((1, 2, 4, 16, 256, len(raw) // 4))
        match generator.randrange(8):
            case 0:
                raw[place] ^= 1 << generator.randrange(8)
            case 1:
                raw[place] = generator.randrange(256)
            case 2:
                size = generator.choice("BHI")
                value = generator.choice(_EXTREMES) % 256 ** struct.calcsize(size)
                raw[place : place + struct.calcsize(size)] = struct.pack(generator.choice("<>") + size, value)
            case 3:
                del raw[place : place + length]
            case 4:
                raw[place:place] = raw[place : place + length]
            case 5:
                raw[place : place + length] = bytes(min(length, len(raw) - place))
            case 6:
                raw[place:place] = generator.randbytes(min(length, 64))
            case _:
                raw[place:] = other[place:] if other and generator.random() < 0.5 else b""
    return bytes(raw)


# --- images -----------------------------------------------------------------------------------------------------------


def sample_images(photos: list[Path]) -> list[tuple[str, bytes]]:
    """Give good files of every format and kind of pixels, made of photos: suffix and bytes."""
    found = []
    for number, path in enumerate(photos):
        found.append((".jpg", path.read_bytes()))
        with Image.open(path) as opened:
            picture = opened.convert("RGB").resize((60 + 7 * number, 48))
        exif = Image.Exif()
        exif[0x0112], exif[0x010E], exif[0x9286] = 1 + number % 8, "wall", "noted"
        grey = picture.convert("L")
        deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
        kinds = [
            (".jpg", picture, "JPEG", {"exif": exif}),
            (".jpg", picture, "JPEG", {"progressive": True}),
            (".jpg", picture.convert("CMYK"), "JPEG", {}),
            (".jpeg", grey, "JPEG", {"exif": exif}),
            (".png", picture, "PNG", {"exif": exif}),
            (".png", picture.convert("P"), "PNG", {"transparency": bytes(range(256))}),
            (".png", deep, "PNG", {}),
            (".png", picture.convert("1"), "PNG", {}),
            (".bmp", picture, "BMP", {}),
            (".bmp", picture.convert("P"), "BMP", {}),
            (".tif", picture, "TIFF", {"compression": "tiff_lzw", "exif": exif}),
            (".tiff", deep, "TIFF", {"compression": "tiff_deflate"}),
            (".tif", picture.convert("YCbCr"), "TIFF", {}),
            (".tif", picture.convert("LAB"), "TIFF", {}),
            (".webp", picture, "WEBP", {"exif": exif}),
            (".webp", picture.convert("RGBA"), "WEBP", {"lossless": True}),
        ]
        found += [(suffix, images.encoded(image, kind, **options)) for suffix, image, kind, options in kinds]
    return found


def mutated_images(samples: list[tuple[str, bytes]], count: int) -> Iterator[tuple[str, bytes]]:
    """Give damaged images: suffix (now and then a wrong one) and bytes; PNGs often with their checksums set right."""
    generator = random.Random(f"images {SEED}")
    for _ in range(count):
        suffix, content = generator.choice(samples)
        raw = mutated(content, generator, generator.choice(samples)[1])
        if raw.startswith(b"\x89PNG") and generator.random() < 0.7:
            raw = _with_png_checksums(raw)
        yield (suffix if generator.random() < 0.9 else generator.choice(samples)[0]), raw


def _with_png_checksums(raw: bytes) -> bytes:
    out, place = bytearray(raw), 8
    while place + 12 <= len(out):
        (length,) = struct.unpack_from(">I", out, place)
        end = place + 8 + length
        if end + 4 > len(out):
            break
        struct.pack_into(">I", out, end, zlib.crc32(out[place + 4 : end]))
        place = end + 4
    return bytes(out)


# --- archives ---------------------------------------------------------------------------------------------------------


def mutated_archives(files: dict[str, bytes], place: Path, count: int) -> Iterator[bytes]:
    """Give damaged zips and RARs, stored and compressed, some with their checksums set right again."""
    generator = random.Random(f"archives {SEED}")
    whole = [
        ("zip", make_zip(place / "whole", files).read_bytes()),
        ("zip", make_zip(place / "whole", files, 0).read_bytes()),
        ("rar", make_rar(place / "whole", files).read_bytes()),
    ]
    inner = {"inner.rar": whole[2][1]}
    whole.append(("zip", make_zip(place / "whole", inner).read_bytes()))
    for _ in range(count):
        kind, content = generator.choice(whole)
        raw = mutated(content, generator, generator.choice(whole)[1])
        if generator.random() < 0.5:  # little enough that some come through
            headers = [content.find(name.encode()) for name in files if name.encode() in content] or [0]
            near = generator.choice(headers) + generator.randrange(-30, 20)
            place = generator.choice((generator.randrange(len(content)), max(0, near)))
            raw = content[:place] + bytes([content[place] ^ 1 << generator.randrange(8)]) + content[place + 1 :]
        if generator.random() < 0.5:
            raw = _with_rar_checksums(raw) if kind == "rar" else _renamed(raw, files, generator)
        yield raw


def _renamed(raw: bytes, files: dict[str, bytes], generator: random.Random) -> bytes:
    """Put a hostile name of the same length in the place of a good one, in a zip's both headers."""
    name = generator.choice(list(files)).encode()
    evil = generator.choice(
        (b"../../../../etc/", b"/etc/passwd/", b"C:/Windows/", b"\\\\host\\share\\", b"a\0b", b"\xff")
    )
    return raw.replace(name, (evil + name)[: len(name)])


def _with_rar_checksums(raw: bytes) -> bytes:
    """Set the checksums of a RAR5's headers right, so that what they say is looked at."""
    out, place = bytearray(raw), 8
    while place + 7 <= len(out):
        size, start = _number(out, place + 4)
        end = start + size
        if size <= 0 or end > len(out):
            break
        struct.pack_into("<I", out, place, zlib.crc32(out[place + 4 : end]))
        kind, at = _number(out, start)
        flags, at = _number(out, at)
        if flags & 1:
            _, at = _number(out, at)
        data = _number(out, at)[0] if flags & 2 else 0
        place = end + data
    return bytes(out)


def _number(raw: bytearray, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(raw) and shift < 63:
        value |= (raw[place] & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if not raw[place - 1] & 0x80:
            break
    return value, place


# --- manifests --------------------------------------------------------------------------------------------------------

_PIECES = (
    b",", b"\n", b"\r", b"\r\n", b'"', b'""', b"\0", b";", b"\t", b"\xef\xbb\xbf", b"\xff\xfe", b"'", b" ", b"../",
    b"\xf0\x9f\xa7\xb1", b"x" * 200_000, b"path,label\n", b"train", b"=cmd|' /C calc'!A0", b"<script>",
)  # fmt: skip


def mutated_manifests(content: bytes, count: int) -> Iterator[bytes]:
    """Give damaged CSV files: bytes, fields, quotes, lines and encodings."""
    generator = random.Random(f"manifests {SEED}")
    for _ in range(count):
        raw = content
        for _ in range(generator.choice((1, 1, 2, 5))):
            place = generator.randrange(len(raw) + 1)
            match generator.randrange(8):
                case 0:
                    raw = mutated(raw, generator)
                case 1 | 2:
                    raw = raw[:place] + generator.choice(_PIECES) + raw[place:]
                case 3:
                    lines = raw.split(b"\n")
                    lines.insert(generator.randrange(len(lines) + 1), generator.choice(lines))
                    raw = b"\n".join(lines)
                case 4:
                    lines = raw.split(b"\n")
                    lines[generator.randrange(len(lines))] += generator.choice((b",", b",x", b",,,", b'"'))
                    raw = b"\n".join(lines)
                case 5:
                    raw = raw.replace(generator.choice((b",", b"\n", b"jpg")), generator.choice(_PIECES[:12]))
                case 6:
                    raw = raw.decode("utf-8", "replace").encode(
                        generator.choice(("utf-16", "utf-32", "cp037")), "replace"
                    )
                case _:
                    raw = raw[:place]
        yield raw


# --- configurations ---------------------------------------------------------------------------------------------------

VALUES = (
    "", "0", "-1", "1", "2", "0.5", "1e999", "-1e999", "nan", "inf", "-inf", "null", "[]", "{}", "''", "' '", "true",
    "no", "???", "${seed}", "${nothing}", "${oc.env:HOME}", "${oc.env:NOWHERE}", "9" * 30, "-" + "9" * 400, "9" * 5000,
    "1e-400", "5000000000", "4294967296", "2147483647", "[1,[2,[3]]]", "{a: {b: c}}", "[0.7,0.3]", "[nan]", "0x10",
    "~", "~nobody-of-that-name/x", "../../etc/passwd", "/dev/zero", "/", ".", "'a b'", "\u00e9\U0001f9f1",
    "'line\\nbreak'", "(", "[", "'('", "'[a-'", "<b>", "%s%n", "x" * 3000, "'\\x00'", "\ud800", "top", "all", "regex",
    "fresh", "imagenet", "a=b", ",",
)  # fmt: skip


def _keys(schema: type, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(schema):
        yield prefix + field.name
    for name, group in config.GROUPS.items():
        if not prefix:
            yield from _keys(group, name.partition("/")[0] + ".")


KEYS = sorted({*_keys(config.Config), "hydra.run.dir", "hydra.job.name", "tags.a", "tags.'a:b'", "data.class_map.a"})


@st.composite
def overrides(draw: st.DrawFn) -> list[str]:
    """Draw what somebody might type behind train.py: few settings, with values good, bad and senseless."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        key = draw(st.sampled_from(KEYS) | st.sampled_from(["data", "optimizer", "schedule", "augment", "finetune"]))
        if draw(st.integers(0, 19)) == 0:
            key = draw(st.text(max_size=8))
        value = draw(
            st.sampled_from(VALUES)
            | st.floats().map(str)
            | st.integers().map(str)
            | st.text(st.characters(exclude_characters="\0"), max_size=6)
            | st.sampled_from(["cosine", "piecewise", "adamw", "sgd", "lion", "light", "synthetic", "folder", "top"])
        )
        found.append(draw(st.sampled_from(["", "", "", "", "+", "++", "~"])) + f"{key}={value}")
    return found
