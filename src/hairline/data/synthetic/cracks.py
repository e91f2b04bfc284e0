"""Defects: each function returns the image with the defect, and the mask of the defect, bool [height, width]."""

import math

import numpy as np

from hairline.data.synthetic import geometry


def crack(
    rng: np.random.Generator, image: np.ndarray, *, width_px: float | None = None, depth: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a crack: a jagged random walk with branches, sometimes faint or interrupted.

    Args:
        rng: Random generator.
        image: float32 [height, width, 3].
        width_px: Mean width of the trunk in pixels of this image, whatever its size; None draws 1 to 6 px of a 227 px
            patch.
        depth: Share of the light that the crack absorbs; None draws 0.35 to 0.9.

    Returns:
        The image and the mask of the crack, bool [height, width], never empty.
    """
    shape, scale = image.shape[:2], geometry.scale_of(image)
    height, width = shape
    limits_px, step_px, level = (0.5 * scale, 3.4 * scale), 4 * scale, 0.4
    if width_px is None:
        width_px = geometry.log_uniform(rng, 1.4, 6) * scale
    else:
        limits_px, step_px = (min(0.45, 0.5 * width_px), 1.2 * width_px), max(3.0, step_px)
    heading = rng.uniform(0, 2 * math.pi)
    middle = geometry.anchor(rng, image, 0.2)
    length_px = math.hypot(height, width) * 1.5
    if rng.random() < 0.1:  # across one corner only
        corner = rng.integers(0, 2, 2)
        inwards = 1 - 2 * corner
        middle = (corner + inwards * rng.uniform(0.12, 0.28, 2)) * (width, height)
        heading = math.atan2(inwards[0], -inwards[1]) + rng.normal(0, 0.25)
    elif rng.random() < 0.2:  # ends inside the image
        length_px *= rng.uniform(0.3, 0.5)
    bend = rng.uniform(0.25, 0.7)
    trunk = geometry.walk(rng, heading, length_px, step_px, bend)
    trunk += middle - trunk[len(trunk) // 2]
    strokes = [_crack_outline(rng, trunk, width_px, limits_px)]
    for _ in range(rng.choice(4, p=[0.5, 0.28, 0.15, 0.07])):
        start = trunk[int(len(trunk) * rng.uniform(0.25, 0.75))]
        side = heading + rng.choice([-1, 1]) * rng.uniform(0.4, 1.2)
        branch = start + geometry.walk(rng, side, length_px * rng.uniform(0.15, 0.5), step_px, bend)
        strokes.append(_crack_outline(rng, branch, max(2 * limits_px[0], width_px * rng.uniform(0.3, 0.7)), limits_px))
    whole = geometry.coverage(shape, strokes)
    level *= min(1.0, float(whole.max()))  # a hairline covers no pixel completely
    cover = whole
    if rng.random() < 0.35:  # interrupted
        cover = whole * geometry.patchy(rng, shape, 22 * scale, rng.uniform(0.5, 1.5))
    if np.count_nonzero(cover > level) < 0.6 * np.count_nonzero(whole > level):
        cover = whole  # the interruptions left too little of the crack
    mask = cover > level
    if depth is None:
        depth = rng.uniform(0.5, 0.9) if rng.random() < 0.85 else rng.uniform(0.35, 0.5)
    if rng.random() < 0.5:  # dirt along its banks
        cover = np.maximum(cover, rng.uniform(0.1, 0.5) * geometry.softened(cover, 3.5 * scale))
    chips = rng.uniform(0, 0.9) * geometry.patchy(rng, shape, 12 * scale, 0.3)
    return geometry.carved(rng, image, cover, depth, chips), mask


def _crack_outline(
    rng: np.random.Generator, points: np.ndarray, width_px: float, limits_px: tuple[float, float]
) -> np.ndarray:
    """Return the outline of a stroke whose two ragged banks are independent and close towards both ends."""
    count = len(points)
    knots = rng.normal(0, 0.45, count // 8 + 2)
    swell = np.exp(np.interp(np.arange(count) / 8, np.arange(len(knots)), knots))
    taper = np.clip(4 * np.sin(np.linspace(0.02, math.pi - 0.02, count)), 0, 1)
    banks = 0.5 * width_px * swell * taper * np.exp(0.3 * rng.standard_normal((2, count)))
    banks = np.clip(banks, *limits_px)
    return geometry.ribbon(points, *banks)


def spall(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Break a piece off: rough, with bare aggregate, its edge in shadow on one side.

    Returns:
        The image and the mask of the broken area, bool [height, width], never empty.
    """
    shape, scale = image.shape[:2], geometry.scale_of(image)
    across, down = geometry.distances(shape, geometry.anchor(rng, image, 0.2))
    turn = rng.uniform(0, math.pi)
    along = across * math.cos(turn) + down * math.sin(turn)
    aside = down * math.cos(turn) - across * math.sin(turn)
    reach = rng.uniform(28, 75) * scale
    ragged = 0.26 * geometry.noise(rng, shape, 35 * scale) + 0.06 * geometry.noise(rng, shape, 12 * scale, 5 * scale)
    inside = 1 - np.hypot(along, aside * rng.uniform(1, 1.8)) / reach + ragged
    inside = np.maximum(inside, 0.5 - np.hypot(along, aside) / (8 * scale))  # keeps a core that noise cannot empty
    cover = np.clip(inside * reach / (2 * scale) + 0.5, 0, 1)
    light = rng.uniform(0, 2 * math.pi)
    relief = geometry.noise(rng, shape, 3 * scale) + 2 * geometry.noise(rng, shape, 14 * scale, 7 * scale)
    stones = geometry.grains(rng, shape, int(rng.integers(20, 140)), rng.uniform(2.5, 6) * scale)
    stone = geometry.coverage(shape, stones, rng.random(len(stones)))
    tone = rng.uniform(0.65, 0.9) if rng.random() < 0.5 else rng.uniform(1.02, 1.2)
    warm = rng.uniform(-0.01, 0.06)
    bare = tone * (1 + rng.uniform(0.12, 0.3) * geometry.shaded(relief, light) + rng.uniform(-0.3, 0.35) * stone)
    broken = geometry.softened(image, 4 * scale) * geometry.tinted(bare, (1 + warm, 1, 1 - warm))
    edge = geometry.shaded(geometry.softened(cover, 2.5 * scale), light) * scale
    image = image + (broken - image) * cover[..., None]
    image = image * (1 + np.clip(rng.uniform(2, 6) * edge, -0.8, 0.4))[..., None]
    return image, cover > 0.5
