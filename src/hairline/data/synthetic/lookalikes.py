"""Look-alikes: things on a wall that resemble cracks but are no defects. Each function adds one to an image."""

import math
from collections.abc import Callable

import numpy as np

from hairline.data.synthetic import geometry


def joint(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Add a straight joint, or the line between two formwork boards: dark or light, of even width."""
    shape, scale = image.shape[:2], geometry.scale_of(image)
    points = geometry.straight(rng, image, wobble_px=rng.choice([0.0, 0.4]) * scale)
    half = 0.5 * geometry.log_uniform(rng, 1.2, 8) * scale
    lines = [geometry.ribbon(points, half, half)]
    if rng.random() < 0.2:
        lines.append(geometry.ribbon(points + rng.uniform(6, 14) * scale, 0.5 * half, 0.5 * half))
    cover = geometry.coverage(shape, lines)
    if rng.random() < 0.2:  # partly filled
        cover = cover * geometry.patchy(rng, shape, 22 * scale, rng.uniform(0.5, 1.5))
    if rng.random() < 0.25:  # a ridge of cement paste
        return geometry.carved(rng, image, cover, -rng.uniform(0.08, 0.3), rng.uniform(0.1, 0.5))
    return geometry.carved(rng, image, cover, rng.uniform(0.4, 0.95), rng.uniform(0, 0.6))


def scratch(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Add one to four thin, gently curved scratches, light or dark, roughly parallel."""
    shape, scale = image.shape[:2], geometry.scale_of(image)
    heading, lines = rng.uniform(0, 2 * math.pi), []
    for _ in range(rng.integers(1, 5)):
        points = geometry.arc(rng, image, heading + rng.normal(0, 0.12), rng.uniform(40, 260) * scale, bend=0.25)
        half = 0.5 * rng.uniform(0.6, 1.6) * scale * np.sin(np.linspace(0.1, math.pi - 0.1, len(points)))
        lines.append(geometry.ribbon(points, half, half))
    depth = rng.uniform(0.35, 0.95) if rng.random() < 0.6 else -rng.uniform(0.15, 0.5)
    return geometry.carved(rng, image, geometry.coverage(shape, lines), depth, rng.uniform(0, 0.2))


def cable(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Add a cable, wire or stalk: smoothly bent, of even width, with a highlight and a shadow."""
    shape, scale = image.shape[:2], geometry.scale_of(image)
    points = geometry.arc(rng, image, rng.uniform(0, 2 * math.pi), 1.7 * max(shape), bend=rng.uniform(0.2, 1.4))
    half = 0.5 * rng.uniform(1.5, 7) * scale
    body = geometry.coverage(shape, [geometry.ribbon(points, half, half)])[..., None]
    shift = rng.uniform(-5, 5, 2) * scale
    shadow = geometry.coverage(shape, [geometry.ribbon(points + shift, half, half)])
    shadow = geometry.softened(shadow, rng.uniform(0.8, 3) * scale)
    highlight = geometry.coverage(shape, [geometry.ribbon(points, half * 0.3, half * 0.1)])[..., None]
    paint = (rng.uniform(0.04, 0.3) + rng.uniform(0, 0.06, 3)).astype(np.float32)
    image = image * (1 - rng.uniform(0.1, 0.6) * shadow[..., None])
    covered: np.ndarray = image + (paint + rng.uniform(0, 0.25) * highlight - image) * body
    return covered


def stain(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Add a damp, oily, rusty or limy patch with a soft, irregular edge."""
    shape, scale = image.shape[:2], geometry.scale_of(image)
    across, down = geometry.distances(shape, geometry.anchor(rng, image, 0.0))
    reach = rng.uniform(15, 110) * scale
    field = 1 - np.hypot(across, down) / reach + 0.3 * geometry.noise(rng, shape, 40 * scale, 15 * scale, 6 * scale)
    cover = np.clip(field / rng.uniform(0.3, 1.5), 0, 1)
    tone = rng.uniform(0.55, 0.92) if rng.random() < 0.8 else rng.uniform(1.05, 1.2)
    rust = rng.uniform(0, 0.1) if rng.random() < 0.5 else 0.0
    paint = geometry.tinted(cover, (tone * (1 + rust) - 1, tone - 1, tone * (1 - rust) - 1))
    stained: np.ndarray = image * (1 + paint)
    return stained


def streaks(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Add traces of running water: narrow, parallel, fading, dark or limy."""
    shape, scale = image.shape[:2], geometry.scale_of(image)
    flow = geometry.brushed(rng, shape, rng.uniform(4, 12) * scale, rng.uniform(10, 30))
    cover = np.clip(flow - rng.uniform(0.2, 1.0), 0, 1) * np.clip(0.6 + geometry.noise(rng, shape, 80 * scale), 0, 1)
    depth = rng.uniform(0.2, 0.7) if rng.random() < 0.7 else -rng.uniform(0.1, 0.3)
    return image * (1 - depth * cover[..., None])


def aggregate(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Add stones flush with the surface, each of its own tone."""
    shape, scale = image.shape[:2], geometry.scale_of(image)
    stones = geometry.grains(rng, shape, int(rng.integers(4, 45)), rng.uniform(2, 6) * scale)
    cover = geometry.coverage(shape, stones, rng.uniform(0.2, 1, len(stones)))
    depth = rng.uniform(0.2, 0.7) if rng.random() < 0.6 else -rng.uniform(0.1, 0.4)
    return geometry.carved(rng, image, cover, depth, rng.uniform(0, 0.3))


def shadow(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Add the edge of a shadow across the image, sharp or soft, straight or wavy."""
    shape, scale = image.shape[:2], geometry.scale_of(image)
    across, down = geometry.distances(shape, geometry.anchor(rng, image))
    angle = rng.uniform(0, 2 * math.pi)
    distance = across * math.cos(angle) + down * math.sin(angle)
    distance = distance + float(rng.choice([0, 6, 15])) * scale * geometry.noise(rng, shape, 50 * scale)
    cover = np.clip(distance / (rng.uniform(1, 25) * scale) + 0.5, 0, 1)
    if rng.random() < 0.4:  # of something narrow: a mast, a rail
        far_px = rng.uniform(5, 40) * scale - distance
        cover = cover * np.clip(far_px / (rng.uniform(1, 8) * scale) + 0.5, 0, 1)
    return image * (1 - rng.uniform(0.2, 0.65) * cover[..., None])


def planking(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Add the print of formwork boards: bands of different tone with wood grain, and seams between them.

    Seams are straight overall, but fray, widen, break off and hold paste or rust: they resemble cracks most of all
    look-alikes. Widths are in pixels of this image.
    """
    shape = image.shape[:2]
    height, width = shape
    upright = rng.random() < 0.7
    span, length = (width, height) if upright else (height, width)
    seams = _seams(rng, span)
    slope = rng.normal(0, 0.03)
    lean = slope * (np.arange(length, dtype=np.float32) - length / 2)
    tones = np.repeat(
        1 + rng.normal(0, rng.uniform(0, 0.08), len(seams) + 1), np.diff([-1, *seams, span]).astype(int) + 1
    )
    across = np.interp(np.arange(span), np.arange(len(tones)) * (span / len(tones)), tones).astype(np.float32)
    grain = geometry.noise(rng, (8, span), 2 + rng.random() * 4)[:1] * rng.uniform(0, 0.04)
    bands = np.broadcast_to(across + grain[0], (length, span))
    bands = bands if upright else bands.T
    image = image * bands[..., None]
    for seam in seams:
        image = _seam(rng, image, seam + lean, upright)
    return image


def _seams(rng: np.random.Generator, span: int) -> np.ndarray:
    """Draw the positions of one to five seams across `span` pixels, left by boards of even width."""
    pitch = span * rng.uniform(0.3, 1.2)
    first = rng.uniform(0.02, min(0.98 * span, pitch)) if pitch < span else rng.uniform(0.05, 0.95) * span
    places = np.arange(first, span, pitch)[:5]
    return np.clip(places + rng.normal(0, 0.02 * pitch, len(places)), 0, span - 1)


def _seam(rng: np.random.Generator, image: np.ndarray, places: np.ndarray, upright: bool) -> np.ndarray:
    """Add one seam at the distances `places`, float [n], from the left (`upright`) or upper border."""
    shape = image.shape[:2]
    count = len(places)
    knots = np.linspace(0, count - 1, max(6, count // 4))
    wobble = rng.uniform(0, 0.5) * np.interp(np.arange(count), knots, rng.standard_normal(len(knots)))
    width_px = geometry.log_uniform(rng, 0.8, max(1.6, 0.05 * min(shape)))
    fray = np.exp(rng.uniform(0, 0.6) * np.interp(np.arange(count), knots, rng.standard_normal(len(knots))))
    along = np.arange(count, dtype=np.float32)
    points = np.stack([places + wobble, along] if upright else [along, places + wobble], axis=1)
    cover = geometry.coverage(shape, [geometry.ribbon(points, 0.5 * width_px * fray, 0.5 * width_px * fray[::-1])])
    if rng.random() < 0.4:  # a line of dirt, rust or paste instead of a gap
        cover = geometry.softened(cover, rng.uniform(0.6, 2.5))
        rust, dark = rng.uniform(0, 0.3), rng.uniform(0.1, 0.6)
        image = image * (1 + geometry.tinted(cover, (0.5 * rust - dark, -dark, -rust - dark)))
        cover = cover * rng.uniform(0, 0.4)
    if rng.random() < 0.5:  # interrupted, or faint in places
        cover = cover * geometry.patchy(rng, shape, rng.uniform(0.1, 0.5) * min(shape), rng.uniform(0.2, 1.2))
    if rng.random() < 0.4:  # paste or rust that seeped out beside it
        halo = geometry.softened(cover, rng.uniform(2, 6)) * rng.uniform(0.1, 0.5)
        rust = rng.uniform(0, 0.35)
        image = image * (1 + geometry.tinted(halo, (rust - 0.3, -0.3, -rust - 0.3)))
    if rng.random() < 0.15:  # a protruding fin of paste
        return geometry.carved(rng, image, cover, -rng.uniform(0.05, 0.3), rng.uniform(0.1, 0.5))
    return geometry.carved(rng, image, cover, rng.uniform(0.15, 0.95), rng.uniform(0, 0.6))


def banding(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Add soft stripes along one direction: wood grain of the formwork, strokes of a float, stripes of damp."""
    shape = image.shape[:2]
    strokes = geometry.brushed(rng, shape, rng.uniform(0.015, 0.12) * min(shape), rng.uniform(8, 30))
    return image * (1 + rng.uniform(0.02, 0.12) * strokes)[..., None]


def courses(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Add masonry: courses of bricks or blocks, each of its own tone, with sunken or raised mortar joints."""
    shape = image.shape[:2]
    height, width = shape
    rise = rng.uniform(0.12, 0.6) * height
    brick = rise * rng.uniform(1.4, 3.6)
    half = 0.5 * rise * rng.uniform(0.05, 0.18)
    turn = rng.normal(0, 0.04) + (math.pi / 2 if rng.random() < 0.15 else 0.0)
    reach = math.hypot(height, width)
    rows = np.arange(-reach / 2, reach / 2, rise) + rng.uniform(0, rise)
    lines, bodies = [], []
    for number, level in enumerate(rows):
        steps = np.linspace(-reach, reach, 40)
        ragged = level + rng.normal(0, 0.15 * half, 40)
        lines.append(np.stack([steps, ragged], axis=1))
        for start in np.arange(-reach / 2, reach / 2, brick) + brick * (0.5 * (number % 2) + rng.normal(0, 0.02)):
            lines.append(np.array([[start, level + rise * share] for share in (0, 0.25, 0.5, 0.75, 1)]))
            box = [(0, 0), (brick, 0), (brick, rise), (0, rise)]
            bodies.append(np.array([(start + x, level + y) for x, y in box]))
    spun = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    middle = (width / 2, height / 2)
    outlines = [geometry.ribbon(line @ spun + middle, half, half) for line in lines]
    tone = geometry.coverage(shape, [body @ spun + middle for body in bodies], rng.random(len(bodies)))
    mortar = geometry.coverage(shape, outlines)
    red = rng.uniform(0, 0.35) if rng.random() < 0.6 else 0.0
    dark = rng.uniform(0.1, 0.5)
    paint = geometry.tinted(
        (1 - dark * tone * rng.uniform(0.3, 1)) * (1 - 0.3 * red), (1 + red, 1 - 0.35 * red, 1 - 0.6 * red)
    )
    image = image * (paint + (1 - paint) * mortar[..., None])
    depth = rng.uniform(0.05, 0.7) if rng.random() < 0.6 else -rng.uniform(0, 0.4)
    return geometry.carved(
        rng, image, mortar * geometry.patchy(rng, shape, 0.1 * min(shape), 1.2), depth, rng.uniform(0, 0.5)
    )


def marking(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Add a painted or taped stripe, chalk mark or band of another coat: light or coloured, worn, with clear edges."""
    shape, scale = image.shape[:2], geometry.scale_of(image)
    half = 0.5 * geometry.log_uniform(rng, 3, 90) * scale
    points = geometry.straight(rng, image, wobble_px=0.5 * scale)
    worn = geometry.patchy(rng, shape, rng.uniform(3, 25) * scale, rng.uniform(0.5, 1.5))
    cover = geometry.coverage(shape, [geometry.ribbon(points, half, half)]) * worn * rng.uniform(0.3, 1)
    colour = rng.uniform(0.5, 0.95) * (1 - rng.uniform(0, 0.35) * rng.random(3))
    painted: np.ndarray = image + cover[..., None] * (colour.astype(np.float32) - image)
    return painted


def pits(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Add one to twelve larger irregular holes with a dark ground: blowholes, tie holes, chipped spots."""
    shape, scale = image.shape[:2], geometry.scale_of(image)
    stones = geometry.grains(rng, shape, int(rng.integers(1, 13)), rng.uniform(2.5, 10) * scale)
    cover = geometry.softened(geometry.coverage(shape, stones), 0.6)
    return geometry.carved(rng, image, cover, rng.uniform(0.2, 0.95), rng.uniform(0.1, 0.8))


# Probability of each look-alike on a sound patch. A defect darkens its patch, so defective patches get fewer of them
# (`SHARE_BESIDE_DEFECT`) to keep the brightness of the classes equal.
LOOK_ALIKES: dict[Callable[[np.random.Generator, np.ndarray], np.ndarray], float] = {
    joint: 0.45,
    scratch: 0.3,
    cable: 0.2,
    stain: 0.3,
    streaks: 0.2,
    aggregate: 0.3,
    shadow: 0.15,
}
SHARE_BESIDE_DEFECT = 0.4

# Probability of each look-alike on composites: equal in both classes, so that only the crack separates them.
WALL_LOOK_ALIKES: dict[Callable[[np.random.Generator, np.ndarray], np.ndarray], float] = {
    planking: 0.35,
    banding: 0.2,
    joint: 0.15,
    courses: 0.08,
    scratch: 0.12,
    cable: 0.05,
    stain: 0.2,
    streaks: 0.1,
    aggregate: 0.2,
    shadow: 0.12,
    marking: 0.06,
    pits: 0.25,
}
