"""Seeded views of an image: the same image, seed and view number give the same pixels, in whatever order."""

from __future__ import annotations

import numpy as np
from PIL import Image

# Part of the cache's keys: raise the number when the same draw would give other pixels.
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
        seed: What makes the draw: run seed, image, view.
        flip_horizontal: Mirror left to right, in half of the draws.
        flip_vertical: Mirror top to bottom, in half of the draws.
        rotation_degrees: Turn by up to this much either way.
        zoom: Enlarge or shrink by up to this fraction.
        brightness: Add up to this fraction of 255 either way.
        contrast: Scale the distance from the mean by up to this fraction either way.
        saturation: Scale the distance from grey by up to this fraction either way.

    Returns:
        uint8 of the same shape; what the turn uncovers is filled with the mirrored image.
    """
    # Every draw is made whether it is used or not: changing one setting leaves the others' draws alone.
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


def _recoloured(image: np.ndarray, saturation: float, contrast: float, offset: float) -> np.ndarray:
    """Scale the distance from grey, then that from the mean, and add an offset: one affine map of the colours."""
    mixing = saturation * np.eye(3) + (1.0 - saturation) * _GREY
    # Row by row first: over both axes at once NumPy takes ten times as long.
    mean = (mixing @ image.sum(axis=0, dtype=np.uint32).mean(axis=0) / len(image)).mean()
    matrix = np.column_stack([contrast * mixing, np.full(3, (1.0 - contrast) * mean + offset)])
    # By Pillow in C: with NumPy's floats this was half of the time an augmented image took.
    return np.asarray(Image.fromarray(image).convert("RGB", tuple(matrix.ravel().tolist())))


def _turned(image: np.ndarray, angle_radians: float, scale: float) -> np.ndarray:
    height, width = image.shape[:2]
    cosine, sine = np.cos(angle_radians) / scale, np.sin(angle_radians) / scale
    x, y = width / 2, height / 2
    # As far as the turned picture's corners reach, and one pixel more to interpolate.
    reach = max((abs(cosine) - 1) * x + abs(sine) * y, (abs(cosine) - 1) * y + abs(sine) * x)
    margin = int(np.clip(np.ceil(reach) + 1, 0, min(height, width) - 1))  # `reflect` cannot reach further
    padded = Image.fromarray(np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="reflect"))
    # Pillow maps output to input coordinates: turn about the middle, then shift into the padded picture.
    matrix = (
        cosine, -sine, x - cosine * x + sine * y + margin,
        sine, cosine, y - sine * x - cosine * y + margin,
    )  # fmt: skip
    turned = padded.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.asarray(turned)
