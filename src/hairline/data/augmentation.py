"""Views of an image: orientations, and seeded variations. Equal arguments give equal pixels, in any order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

# Part of the cache keys: raise the number when the same draw gives other pixels.
RECIPE = "views:2"

_GREY = np.array([0.299, 0.587, 0.114])  # luma of ITU-R BT.601


def view(
    image: np.ndarray,
    *,
    seed: tuple[int, ...],
    flip_horizontal: bool,
    flip_vertical: bool,
    rotation_degrees: float,
    zoom: float,
    brightness: float,
    contrast: float,
    saturation: float,
) -> np.ndarray:
    """Draw one random variation of an image.

    Args:
        image: uint8 [height, width, 3], RGB.
        seed: Run seed, view and image.
        flip_horizontal: Mirror left to right in half of the draws.
        flip_vertical: Mirror top to bottom in half of the draws.
        rotation_degrees: Rotate by up to this angle in either direction.
        zoom: Enlarge or shrink by up to this fraction.
        brightness: Add up to this fraction of 255 in either direction.
        contrast: Scale the distance from the mean by up to this fraction in either direction.
        saturation: Scale the distance from grey by up to this fraction in either direction.

    Returns:
        uint8 of the same shape; uncovered corners show the mirrored image.
    """
    # All numbers are drawn, used or not, so that one setting does not change the draws of the others.
    mirror_x, mirror_y, *amounts = np.random.default_rng(seed).uniform(-1.0, 1.0, 7)
    turn, scale, light, spread, colour = amounts
    if flip_horizontal and mirror_x > 0:
        image = image[:, ::-1]
    if flip_vertical and mirror_y > 0:
        image = image[::-1]
    if rotation_degrees or zoom:
        image = _turned(image, np.deg2rad(turn * rotation_degrees), 1.0 + scale * zoom)
    if brightness or contrast or saturation:
        image = _recoloured(image, 1.0 + colour * saturation, 1.0 + spread * contrast, light * brightness * 255.0)
    return np.ascontiguousarray(image)


def orientation(image: np.ndarray, number: int) -> np.ndarray:
    """Return one of the eight orientations of a square image: 0 to 3 keep the axes, 4 to 7 exchange them.

    Args:
        image: [side, side, channels].
        number: 0 for the image itself. Bit 0 mirrors left to right, bit 1 top to bottom, bit 2 swaps the axes first.
    """
    if number & 4:
        image = image.swapaxes(0, 1)
    if number & 2:
        image = image[::-1]
    if number & 1:
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def orientations(classes: int, positive: int | None) -> range:
    """Return the numbers, from 1 on, of the orientations that leave an image's class as it is.

    All of them where one class is looked for and the other is its absence. Other classes may be directions, such as
    cracks along and across a road: only those that keep the axes then.
    """
    return range(1, 8 if classes == 2 and positive is not None else 4)


def draw(image: np.ndarray, digest: str, number: int, settings: Mapping[str, Any]) -> np.ndarray:
    """Draw a numbered view of an image; view 0 is the image itself.

    Args:
        image: uint8 [height, width, 3], RGB.
        digest: SHA-256 of its file.
        number: Of the view.
        settings: Keyword arguments of `view`, with an integer `seed`; empty: the view is an orientation.
    """
    if not settings:
        return orientation(image, number)
    if not number:
        return image
    return view(image, **{**settings, "seed": (settings["seed"], number, int(digest[:16], 16))})


def _recoloured(image: np.ndarray, saturation: float, contrast: float, offset: float) -> np.ndarray:
    """Apply saturation, contrast and brightness as one affine map of the colours."""
    mixing = saturation * np.eye(3) + (1.0 - saturation) * _GREY
    # Row by row: NumPy is ten times slower over both axes at once.
    mean = (mixing @ image.sum(axis=0, dtype=np.uint32).mean(axis=0) / len(image)).mean()
    matrix = np.column_stack([contrast * mixing, np.full(3, (1.0 - contrast) * mean + offset)])
    # Pillow, in C: NumPy took half of the time of an augmented image here.
    return np.asarray(Image.fromarray(image).convert("RGB", tuple(matrix.ravel().tolist())))


def _turned(image: np.ndarray, angle_radians: float, scale: float) -> np.ndarray:
    height, width = image.shape[:2]
    cosine, sine = np.cos(angle_radians) / scale, np.sin(angle_radians) / scale
    x, y = width / 2, height / 2
    # The corners of the rotated image, and one pixel to interpolate.
    reach = max((abs(cosine) - 1) * x + abs(sine) * y, (abs(cosine) - 1) * y + abs(sine) * x)
    margin = int(np.clip(np.ceil(reach) + 1, 0, min(height, width) - 1))  # the limit of `reflect`
    padded = Image.fromarray(np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="reflect"))
    # Pillow maps output to input coordinates: rotate about the centre, then shift into the padded image.
    matrix = (
        cosine, -sine, x - cosine * x + sine * y + margin,
        sine, cosine, y - sine * x - cosine * y + margin,
    )  # fmt: skip
    turned = padded.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.asarray(turned)
