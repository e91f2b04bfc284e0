"""Parts of an image, enlarged: what it shows at another scale, as the tiles of another camera or distance would."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

# Side of a part, as a share of the image's shorter side; both ends as likely on a logarithmic scale.
_SHARES = (0.21, 0.62)
_TRIES = 4
_LOOK = 64  # side at which parts are compared
_CONTRAST = 0.4
_GAMMA = 0.4  # of its natural logarithm


def crop(image: Image.Image, *, seed: tuple[int, ...]) -> Image.Image:
    """Draw a square part of an image, turned, mirrored and exposed at random.

    Of several parts the one is taken whose darkest pixels stand out most: on an image that a crack crosses it nearly
    always shows the crack, and on a sound one what looks most like it.

    Args:
        image: RGB.
        seed: The same image and seed give the same pixels.
    """
    rng = np.random.default_rng(seed)
    parts = [_part(image, rng) for _ in range(_TRIES)]
    best = max(parts, key=_darkness)
    if rng.random() < 0.5:
        best = best.transpose(Image.Transpose.ROTATE_90)
    if rng.random() < 0.5:
        best = best.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.5:
        best = best.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    contrast, gamma = 1 + rng.uniform(-_CONTRAST, _CONTRAST), math.exp(rng.uniform(-_GAMMA, _GAMMA))
    pixels = np.asarray(best, np.float32) / 255
    mean = float(pixels.mean())
    exposed = np.clip((pixels - mean) * contrast + mean, 0, 1) ** gamma
    return Image.fromarray((exposed * 255).round().astype(np.uint8))


def _part(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    share = math.exp(rng.uniform(*np.log(_SHARES)))
    side = max(round(share * min(image.size)), 1)
    left, top = (int(rng.integers(0, length - side + 1)) for length in image.size)
    return image.crop((left, top, left + side, top + side))


def _darkness(part: Image.Image) -> float:
    """Give how far the darkest pixels, 3 in 100, lie below the middle one, in grey levels."""
    grey = np.asarray(part.convert("L").resize((_LOOK, _LOOK), Image.Resampling.BILINEAR))
    return float(np.median(grey) - np.percentile(grey, 3))
