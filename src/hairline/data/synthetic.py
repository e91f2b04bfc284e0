"""Concrete-like patches drawn from a seed: the data of a first run that needs no network.

Small pure functions draw one thing each: a surface, a crack, a look-alike, a camera effect. They take a
`numpy.random.Generator` and an image (float32 [height, width, 3], RGB, 0 black, 1 white, unclipped before the
camera) and return a new one; `crack` and `spall` return their mask (bool [height, width]) too. Lengths are in
pixels of a 227 px patch and grow with the image. `draw` composes the parts, `render` writes JPEGs.

Images drawn here lie in memory channel by channel (see `tinted`), as an operation of [height, width, 3] with
[height, width, 1] is then seven times quicker (0.034 for 0.237 ms at 227 px, 2-core AMD EPYC, numpy 2.4); any
layout works. The same arguments give the same bytes on one machine with one numpy and one Pillow.
"""

import contextlib
import math
import os
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from hairline import progress

CLASS_NAMES: tuple[str, ...] = ("cracked", "uncracked", "spalled")
GENERATOR_VERSION: int = 1
REFERENCE_SIZE = 227
MINIMUM_SIZE = 32
SUPERSAMPLING = 2
_LEFT_SECONDS = 24 * 3600
JPEG_STREAM = len(CLASS_NAMES)  # the random stream after those of the classes


# Geometry: noise and anti-aliased coverage, float32 [height, width].


def noise(rng: np.random.Generator, shape: tuple[int, int], *cells_px: float) -> np.ndarray:
    """Smooth noise, float32 [height, width], mean about 0, deviation below 1 for each of its cell sizes.

    A small random grid is enlarged, which is quicker than filtering. With several `cells_px`, from coarse to
    fine, each grid is enlarged to the next and joined by it at equal strength: all octaves cost about one.
    """
    height, width = shape
    field, extent = np.zeros((2, 2), np.float32), (1.0, 1.0)
    for cell_px in (max(1.0, cell) for cell in cells_px):
        extent = (width / cell_px, height / cell_px)
        columns, rows = math.ceil(extent[0]) + 2, math.ceil(extent[1]) + 2
        coarser = Image.fromarray(field).resize((columns, rows), Image.Resampling.BICUBIC)
        field = np.asarray(coarser) + rng.standard_normal((rows, columns), dtype=np.float32)
    left, top = rng.random(2)
    box = (left, top, left + extent[0], top + extent[1])
    return np.asarray(Image.fromarray(field).resize((width, height), Image.Resampling.BICUBIC, box=box))


def brushed(rng: np.random.Generator, shape: tuple[int, int], cell_px: float, stretch: float) -> np.ndarray:
    """Noise as from `noise`, its features `stretch` times as long as wide, along a random direction."""
    height, width = shape
    reach = math.hypot(height, width) / cell_px
    rows, columns = math.ceil(reach) + 4, math.ceil(reach / stretch) + 4
    grid = Image.fromarray(rng.standard_normal((rows, columns), dtype=np.float32))
    angle = rng.uniform(0, math.pi)
    cosine, sine = math.cos(angle) / cell_px, math.sin(angle) / cell_px
    along, across = (cosine / stretch, sine / stretch), (-sine, cosine)
    # The centre of the picture shows the centre of the grid, so no corner leaves it.
    offset_along = columns / 2 - (along[0] * width + along[1] * height) / 2
    offset_across = rows / 2 - (across[0] * width + across[1] * height) / 2
    matrix = (*along, offset_along, *across, offset_across)
    return np.asarray(grid.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))


def shaded(relief: np.ndarray, light: float) -> np.ndarray:
    """Slope of `relief` towards the light at angle `light` (radians): positive where a wall is lit."""
    slope = np.zeros_like(relief)
    slope[:, 1:-1] = (relief[:, 2:] - relief[:, :-2]) * (0.5 * math.cos(light))
    slope[1:-1] += (relief[2:] - relief[:-2]) * (0.5 * math.sin(light))
    return slope


def coverage(shape: tuple[int, int], outlines: list[np.ndarray], levels: np.ndarray | None = None) -> np.ndarray:
    """Share of each pixel inside any of the polygons, float32 [height, width] in [0, 1].

    `outlines` are float [points, 2] arrays of x, y; `levels` in [0, 1] replace the 1 inside each polygon.
    """
    height, width = shape
    canvas = Image.new("L", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    pen = ImageDraw.Draw(canvas)
    for number, outline in enumerate(outlines):
        level = 255 if levels is None else round(255 * float(levels[number]))
        pen.polygon((outline * SUPERSAMPLING).ravel().tolist(), fill=level)
    return np.asarray(canvas.reduce(SUPERSAMPLING), np.float32) / 255


def softened(field: np.ndarray, radius_px: float) -> np.ndarray:
    """`field` ([height, width] or [height, width, 3]) blurred by about `radius_px`, of the same shape."""
    if radius_px > 1.5:  # shrinking and enlarging is the quickest wide blur
        if field.ndim == 3:
            planes = [softened(field[..., channel], radius_px) for channel in range(3)]
            return np.moveaxis(np.stack(planes), 0, -1)
        height, width = field.shape
        small = (max(2, round(width / radius_px / 1.5)), max(2, round(height / radius_px / 1.5)))
        shrunk = Image.fromarray(field).resize(small, Image.Resampling.BOX)
        return np.asarray(shrunk.resize((width, height), Image.Resampling.BICUBIC))
    share = min(1.0, radius_px) / 4  # 1/4 gives the kernel 1 2 1
    for _ in range(1 if radius_px <= 1 else 2):
        field = field.copy(order="K")
        field[1:-1] += share * (field[2:] + field[:-2] - 2 * field[1:-1])
        field[:, 1:-1] += share * (field[:, 2:] + field[:, :-2] - 2 * field[:, 1:-1])
    return field


def tinted(field: np.ndarray, colour: tuple[float, float, float]) -> np.ndarray:
    """`field` [height, width] times each of the three values of `colour`: float32 [height, width, 3]."""
    return np.moveaxis(np.multiply.outer(np.array(colour, np.float32), field), 0, -1)


def ribbon(points: np.ndarray, left_px: np.ndarray, right_px: np.ndarray) -> np.ndarray:
    """Outline of a line of varying width: `points` [n, 2], moved aside by `left_px` and `right_px` [n]."""
    tangent = np.gradient(points, axis=0)
    tangent /= np.maximum(np.hypot(tangent[:, :1], tangent[:, 1:]), 1e-6)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    return np.concatenate([points + normal * left_px[:, None], (points - normal * right_px[:, None])[::-1]])


def grains(
    rng: np.random.Generator, shape: tuple[int, int], count: int, radius_px: float, spread: float = 0.5
) -> list[np.ndarray]:
    """Outlines of `count` irregular, slightly elongated grains with log-normal radii about `radius_px`."""
    height, width = shape
    centres = rng.random((count, 1, 2)) * (width, height)
    angles = np.linspace(0, 2 * math.pi, 9, endpoint=False) + rng.uniform(0, math.pi, (count, 1))
    radii = radius_px * np.exp(spread * rng.standard_normal((count, 1)) + 0.25 * rng.standard_normal((count, 9)))
    elongation = rng.uniform(0.5, 1.0, (count, 1))
    turn = rng.uniform(0, math.pi, (count, 1))
    along, across = radii * np.cos(angles), radii * np.sin(angles) * elongation
    x = along * np.cos(turn) - across * np.sin(turn)
    y = along * np.sin(turn) + across * np.cos(turn)
    return list(centres + np.stack([x, y], axis=2))


def walk(rng: np.random.Generator, heading: float, length_px: float, step_px: float, bend: float) -> np.ndarray:
    """A jagged random walk from the origin, float [n, 2] x, y, with kinks of about `bend` radians."""
    steps = max(4, round(length_px / step_px))
    turns = np.cumsum(rng.integers(2, 9, steps))
    kinks = rng.normal(0, bend, steps)[np.searchsorted(turns, np.arange(steps))]
    headings = heading + kinks + rng.normal(0, 0.3, steps)
    return np.cumsum(step_px * np.stack([np.cos(headings), np.sin(headings)], axis=1), axis=0)


def _scale(image: np.ndarray) -> float:
    height, width = image.shape[:2]
    return float(min(height, width)) / REFERENCE_SIZE


def _anchor(rng: np.random.Generator, image: np.ndarray, margin: float = 0.12) -> np.ndarray:
    """A point in the picture, x and y in pixels, at least the share `margin` of its sides from the border."""
    height, width = image.shape[:2]
    return rng.uniform(margin, 1 - margin, 2) * (width, height)


def carved(
    rng: np.random.Generator, image: np.ndarray, cover: np.ndarray, depth: float, rim: float | np.ndarray
) -> np.ndarray:
    """`image` with the covered part sunk: darkened by the share `depth`, its rim lit on one side."""
    warmth = rng.uniform(-0.02, 0.08)
    lit = shaded(softened(cover, 1.0), rng.uniform(0, 2 * math.pi)) * (1 - cover) * (2 * rim)
    result = tinted(cover, (-depth * (1 - warmth), -depth, -depth * (1 + warmth)))
    result += 1
    result *= image
    result += lit[..., None]
    return result


def patchy(rng: np.random.Generator, shape: tuple[int, int], cell_px: float, bias: float) -> np.ndarray:
    """A gate for interrupted lines, float32 [height, width] in [0, 1], the more open the larger `bias`."""
    return np.clip(bias + 1.3 * noise(rng, shape, cell_px), 0, 1)


# Surfaces


def surface(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Bare concrete, float32 [height, width, 3]: mottling, lit relief, sand, grain, pores, a colour cast."""
    scale = min(shape) / REFERENCE_SIZE
    light = rng.uniform(0, 2 * math.pi)
    mottle = noise(rng, shape, 110 * scale, 45 * scale, 18 * scale, rng.uniform(6, 9) * scale)
    relief = noise(rng, shape, rng.uniform(4, 8) * scale, rng.uniform(1.5, 3) * scale)
    sand = np.maximum(relief - rng.uniform(1.2, 2.2), 0)  # the highest grains show through the paste
    if rng.random() < 0.3:  # the strokes of a trowel or a broom
        relief = relief + rng.uniform(0.5, 1.6) * brushed(rng, shape, rng.uniform(2, 4) * scale, rng.uniform(4, 14))
    grey = 1 + rng.uniform(0.01, 0.05) * mottle
    grey += rng.uniform(0.01, 0.06) * shaded(relief, light)
    grey += rng.uniform(-0.25, 0.25) * sand
    grey += rng.uniform(0.02, 0.12) * (rng.random(shape, dtype=np.float32) - 0.5)
    grey *= rng.uniform(0.4, 0.75)
    warm = rng.uniform(-0.035, 0.1)
    image = tinted(mottle, tuple(rng.normal(0, 0.004, 3)))
    image += np.array((1 + warm, 1 + rng.normal(0, 0.01), 1 - 1.2 * warm), np.float32)
    image *= grey[..., None]
    return pores(rng, image) if rng.random() < 0.85 else image


def pores(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Bug holes: air bubbles that the formwork left open, dark with one lit wall."""
    count = min(90, int(rng.lognormal(2.3, 0.8)))
    outlines = grains(rng, image.shape[:2], count, rng.uniform(1.3, 2.6) * _scale(image))
    cover = coverage(image.shape[:2], outlines, rng.uniform(0.45, 1, count))
    return carved(rng, image, cover, rng.uniform(0.55, 0.97), rng.uniform(0.1, 0.5))


# Defects


def crack(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`image` with a crack: a jagged walk with branches, 1 to 6 px wide, at times faint or interrupted.

    Returns:
        The image and the mask of the crack, bool [height, width], never empty.
    """
    shape, scale = image.shape[:2], _scale(image)
    height, width = shape
    width_px = math.exp(rng.uniform(math.log(1.4), math.log(6))) * scale
    heading = rng.uniform(0, 2 * math.pi)
    anchor = _anchor(rng, image, 0.2)
    length_px = math.hypot(height, width) * 1.5
    if rng.random() < 0.1:  # only at a corner, across its diagonal
        corner = rng.integers(0, 2, 2)
        inwards = 1 - 2 * corner
        anchor = (corner + inwards * rng.uniform(0.12, 0.28, 2)) * (width, height)
        heading = math.atan2(inwards[0], -inwards[1]) + rng.normal(0, 0.25)
    elif rng.random() < 0.2:  # one that ends inside the picture
        length_px *= rng.uniform(0.3, 0.5)
    bend = rng.uniform(0.25, 0.7)
    trunk = walk(rng, heading, length_px, 4 * scale, bend)
    trunk += anchor - trunk[len(trunk) // 2]
    strokes = [_crack_outline(rng, trunk, width_px, scale)]
    for _ in range(rng.choice(4, p=[0.5, 0.28, 0.15, 0.07])):
        start = trunk[int(len(trunk) * rng.uniform(0.25, 0.75))]
        side = heading + rng.choice([-1, 1]) * rng.uniform(0.4, 1.2)
        branch = start + walk(rng, side, length_px * rng.uniform(0.15, 0.5), 4 * scale, bend)
        strokes.append(_crack_outline(rng, branch, max(scale, width_px * rng.uniform(0.3, 0.7)), scale))
    whole = coverage(shape, strokes)
    cover = whole
    if rng.random() < 0.35:  # interrupted
        cover = whole * patchy(rng, shape, 22 * scale, rng.uniform(0.5, 1.5))
    if np.count_nonzero(cover > 0.4) < 0.6 * np.count_nonzero(whole > 0.4):
        cover = whole  # the interruptions left too little of it
    mask = cover > 0.4
    depth = rng.uniform(0.5, 0.9) if rng.random() < 0.85 else rng.uniform(0.35, 0.5)
    if rng.random() < 0.5:  # dirt along its banks
        cover = np.maximum(cover, rng.uniform(0.1, 0.5) * softened(cover, 3.5 * scale))
    chips = rng.uniform(0, 0.9) * patchy(rng, shape, 12 * scale, 0.3)
    return carved(rng, image, cover, depth, chips), mask


def _crack_outline(rng: np.random.Generator, points: np.ndarray, width_px: float, scale: float) -> np.ndarray:
    """Two ragged banks, independent of each other, that close towards both ends."""
    count = len(points)
    knots = rng.normal(0, 0.45, count // 8 + 2)
    swell = np.exp(np.interp(np.arange(count) / 8, np.arange(len(knots)), knots))
    taper = np.clip(4 * np.sin(np.linspace(0.02, math.pi - 0.02, count)), 0, 1)
    banks = 0.5 * width_px * swell * taper * np.exp(0.3 * rng.standard_normal((2, count)))
    banks = np.clip(banks, 0.5 * scale, 3.4 * scale)
    return ribbon(points, *banks)


def spall(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`image` with a piece broken off: rough, its aggregate bare, its edge in shadow on one side.

    Returns:
        The image and the mask of the broken area, bool [height, width], never empty.
    """
    shape, scale = image.shape[:2], _scale(image)
    across, down = _distances(shape, _anchor(rng, image, 0.2))
    turn = rng.uniform(0, math.pi)
    along = across * math.cos(turn) + down * math.sin(turn)
    aside = down * math.cos(turn) - across * math.sin(turn)
    reach = rng.uniform(28, 75) * scale
    ragged = 0.26 * noise(rng, shape, 35 * scale) + 0.06 * noise(rng, shape, 12 * scale, 5 * scale)
    inside = 1 - np.hypot(along, aside * rng.uniform(1, 1.8)) / reach + ragged
    inside = np.maximum(inside, 0.5 - np.hypot(along, aside) / (8 * scale))  # so that noise can't empty it
    cover = np.clip(inside * reach / (2 * scale) + 0.5, 0, 1)
    light = rng.uniform(0, 2 * math.pi)
    relief = noise(rng, shape, 3 * scale) + 2 * noise(rng, shape, 14 * scale, 7 * scale)
    stones = grains(rng, shape, int(rng.integers(20, 140)), rng.uniform(2.5, 6) * scale)
    stone = coverage(shape, stones, rng.random(len(stones)))
    tone = rng.uniform(0.65, 0.9) if rng.random() < 0.5 else rng.uniform(1.02, 1.2)
    warm = rng.uniform(-0.01, 0.06)
    bare = tone * (1 + rng.uniform(0.12, 0.3) * shaded(relief, light) + rng.uniform(-0.3, 0.35) * stone)
    broken = softened(image, 4 * scale) * tinted(bare, (1 + warm, 1, 1 - warm))
    edge = shaded(softened(cover, 2.5 * scale), light) * scale
    image = image + (broken - image) * cover[..., None]
    image = image * (1 + np.clip(rng.uniform(2, 6) * edge, -0.8, 0.4))[..., None]
    return image, cover > 0.5


# Look-alikes: each takes and returns an image, none is a defect


def joint(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """A straight joint or the line between two formwork boards: dark or light, of even width."""
    shape, scale = image.shape[:2], _scale(image)
    points = _straight(rng, image, wobble_px=rng.choice([0.0, 0.4]) * scale)
    half = np.full(len(points), 0.5 * math.exp(rng.uniform(math.log(1.2), math.log(8))) * scale)
    lines = [ribbon(points, half, half)]
    if rng.random() < 0.2:
        lines.append(ribbon(points + rng.uniform(6, 14) * scale, 0.5 * half, 0.5 * half))
    cover = coverage(shape, lines)
    if rng.random() < 0.2:  # partly filled
        cover = cover * patchy(rng, shape, 22 * scale, rng.uniform(0.5, 1.5))
    if rng.random() < 0.25:  # a ridge of cement paste
        return carved(rng, image, cover, -rng.uniform(0.08, 0.3), rng.uniform(0.1, 0.5))
    return carved(rng, image, cover, rng.uniform(0.4, 0.95), rng.uniform(0, 0.6))


def scratch(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """One to four thin, gently curved scratches, light or dark, roughly parallel."""
    shape, scale = image.shape[:2], _scale(image)
    heading, lines = rng.uniform(0, 2 * math.pi), []
    for _ in range(rng.integers(1, 5)):
        points = _arc(rng, image, heading + rng.normal(0, 0.12), rng.uniform(40, 260) * scale, bend=0.25)
        half = 0.5 * rng.uniform(0.6, 1.6) * scale * np.sin(np.linspace(0.1, math.pi - 0.1, len(points)))
        lines.append(ribbon(points, half, half))
    depth = rng.uniform(0.35, 0.95) if rng.random() < 0.6 else -rng.uniform(0.15, 0.5)
    return carved(rng, image, coverage(shape, lines), depth, rng.uniform(0, 0.2))


def cable(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """A cable, wire or stalk on the surface: smoothly bent, even in width, with a highlight and a shadow."""
    shape, scale = image.shape[:2], _scale(image)
    points = _arc(rng, image, rng.uniform(0, 2 * math.pi), 1.7 * max(shape), bend=rng.uniform(0.2, 1.4))
    half = np.full(len(points), 0.5 * rng.uniform(1.5, 7) * scale)
    body = coverage(shape, [ribbon(points, half, half)])[..., None]
    shift = rng.uniform(-5, 5, 2) * scale
    shadow = softened(coverage(shape, [ribbon(points + shift, half, half)]), rng.uniform(0.8, 3) * scale)
    highlight = coverage(shape, [ribbon(points, half * 0.3, half * 0.1)])[..., None]
    paint = (rng.uniform(0.04, 0.3) + rng.uniform(0, 0.06, 3)).astype(np.float32)
    image = image * (1 - rng.uniform(0.1, 0.6) * shadow[..., None])
    covered: np.ndarray = image + (paint + rng.uniform(0, 0.25) * highlight - image) * body
    return covered


def stain(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """A damp, oily, rusty or limy patch with a soft, irregular edge."""
    shape, scale = image.shape[:2], _scale(image)
    across, down = _distances(shape, _anchor(rng, image, 0.0))
    reach = rng.uniform(15, 110) * scale
    field = 1 - np.hypot(across, down) / reach + 0.3 * noise(rng, shape, 40 * scale, 15 * scale, 6 * scale)
    cover = np.clip(field / rng.uniform(0.3, 1.5), 0, 1)
    tone = rng.uniform(0.55, 0.92) if rng.random() < 0.8 else rng.uniform(1.05, 1.2)
    rust = rng.uniform(0, 0.1) if rng.random() < 0.5 else 0.0
    paint = tinted(cover, (tone * (1 + rust) - 1, tone - 1, tone * (1 - rust) - 1))
    stained: np.ndarray = image * (1 + paint)
    return stained


def streaks(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Traces of running water: narrow, parallel, fading along their way, dark or limy."""
    shape, scale = image.shape[:2], _scale(image)
    flow = brushed(rng, shape, rng.uniform(4, 12) * scale, rng.uniform(10, 30))
    cover = np.clip(flow - rng.uniform(0.2, 1.0), 0, 1) * np.clip(0.6 + noise(rng, shape, 80 * scale), 0, 1)
    depth = rng.uniform(0.2, 0.7) if rng.random() < 0.7 else -rng.uniform(0.1, 0.3)
    return image * (1 - depth * cover[..., None])


def aggregate(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Stones flush with the surface, each of its own tone."""
    shape, scale = image.shape[:2], _scale(image)
    stones = grains(rng, shape, int(rng.integers(4, 45)), rng.uniform(2, 6) * scale)
    cover = coverage(shape, stones, rng.uniform(0.2, 1, len(stones)))
    depth = rng.uniform(0.2, 0.7) if rng.random() < 0.6 else -rng.uniform(0.1, 0.4)
    return carved(rng, image, cover, depth, rng.uniform(0, 0.3))


def shadow(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """The edge of a shadow across the picture, sharp or soft, straight or wavy."""
    shape, scale = image.shape[:2], _scale(image)
    across, down = _distances(shape, _anchor(rng, image))
    angle = rng.uniform(0, 2 * math.pi)
    distance = across * math.cos(angle) + down * math.sin(angle)
    distance = distance + float(rng.choice([0, 6, 15])) * scale * noise(rng, shape, 50 * scale)
    cover = np.clip(distance / (rng.uniform(1, 25) * scale) + 0.5, 0, 1)
    if rng.random() < 0.4:  # of something narrow: a mast, a rail
        far_px = rng.uniform(5, 40) * scale - distance
        cover = cover * np.clip(far_px / (rng.uniform(1, 8) * scale) + 0.5, 0, 1)
    return image * (1 - rng.uniform(0.2, 0.65) * cover[..., None])


# How often a clean patch shows each. A defect darkens a patch by itself, so fewer look-alikes beside it keep
# the brightness of the classes alike.
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


def _distances(shape: tuple[int, int], point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels to the right of and below `point` (x, y), float32, broadcastable to [height, width]."""
    height, width = shape
    across = np.arange(width, dtype=np.float32)[None, :] - np.float32(point[0])
    return across, np.arange(height, dtype=np.float32)[:, None] - np.float32(point[1])


def _straight(rng: np.random.Generator, image: np.ndarray, wobble_px: float) -> np.ndarray:
    """A straight line through the whole picture, float [n, 2] x, y, often along an axis as joints are."""
    angle = rng.uniform(0, math.pi) if rng.random() < 0.6 else rng.choice([0, math.pi / 2]) + rng.normal(0, 0.06)
    reach = np.linspace(-1, 1, 60)[:, None] * math.hypot(*image.shape[:2])
    points = _anchor(rng, image) + reach * (math.cos(angle), math.sin(angle))
    return points + wobble_px * rng.standard_normal(points.shape)


def _arc(rng: np.random.Generator, image: np.ndarray, heading: float, length_px: float, bend: float) -> np.ndarray:
    """A smooth curve about a point of the picture, float [n, 2] x, y, turning by about `bend` radians."""
    headings = heading + np.interp(np.linspace(0, 3, 40), np.arange(4), np.cumsum(rng.normal(0, 0.6 * bend, 4)))
    points = np.cumsum(length_px / 40 * np.stack([np.cos(headings), np.sin(headings)], axis=1), axis=0)
    placed: np.ndarray = points + (_anchor(rng, image) - points[20])
    return placed


# The camera


def lighting(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Light that falls off across the picture and towards its corners."""
    height, width = image.shape[:2]
    across, down = _distances((height, width), np.array([width / 2, height / 2]))
    across, down = across * (2 / width), down * (2 / height)
    angle = rng.uniform(0, 2 * math.pi)
    gradient = rng.uniform(0, 0.14) * (across * math.cos(angle) + down * math.sin(angle))
    vignette = max(0.0, rng.uniform(-0.1, 0.12)) * (across**2 + down**2)
    lit: np.ndarray = image * (1 + gradient - vignette)[..., None]
    return lit


def exposed(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Exposure and contrast as different cameras and hours give them, clipped to [0, 1]."""
    gain, contrast = math.exp(rng.normal(0, 0.11)), rng.uniform(0.75, 1.15)
    veil = rng.uniform(0, 0.06)  # stray light lifts the darkest tones
    factor, middle = contrast * gain * (1 - veil), float(image.mean())
    return np.clip(image * factor + (middle * gain * (1 - veil) - middle * factor + veil), 0, 1)


def blurred(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """A lens slightly, now and then clearly, out of focus."""
    radius_px = rng.uniform(0.2, 0.8) if rng.random() < 0.8 else rng.uniform(0.8, 1.6)
    return softened(image, radius_px * _scale(image))


def noisy(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Sensor noise: one value a pixel, as chroma noise is filtered away in most cameras."""
    amplitude = rng.uniform(0, 0.08)
    grain = amplitude * (rng.random(image.shape[:2], dtype=np.float32) - 0.5)
    grainy: np.ndarray = image + grain[..., None]
    return grainy


# Patches and folders


def draw(seed: int, index: int, *, label: str, size: int = REFERENCE_SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Draw one patch; it depends on the arguments and on nothing drawn before.

    Args:
        seed: Any integer from 0.
        index: Number of the patch, from 0.
        label: One of `CLASS_NAMES`.
        size: Height and width in pixels.

    Returns:
        The patch, uint8 [size, size, 3] RGB, and the mask of its crack or spalled area, bool [size, size]:
        all False for `uncracked`.

    Raises:
        ValueError: If an argument is out of range or `label` is unknown.

    Example:
        >>> patch, mask = draw(0, 7, label="cracked", size=64)
        >>> patch.shape, patch.dtype.name, bool(mask.any())
        ((64, 64, 3), 'uint8', True)
    """
    if label not in CLASS_NAMES:
        raise ValueError(f"label={label!r}: expected one of {', '.join(CLASS_NAMES)}. Choose one of these names.")
    _check(seed=(seed, 0), index=(index, 0), size=(size, MINIMUM_SIZE))
    rng = np.random.default_rng([seed, index, CLASS_NAMES.index(label)])
    image = surface(rng, (size, size))
    mask = np.zeros((size, size), bool)
    share = 1.0 if label == "uncracked" else SHARE_BESIDE_DEFECT
    chosen = [part for part, often in LOOK_ALIKES.items() if rng.random() < share * often]
    for number in rng.permutation(len(chosen)):
        image = chosen[number](rng, image)
    if label == "cracked":
        image, mask = crack(rng, image)
    elif label == "spalled":
        image, mask = spall(rng, image)
    for effect in (lighting, blurred, exposed, noisy):
        image = effect(rng, image)
    return np.ascontiguousarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)), mask


def render(
    folder: Path,
    *,
    count: int = 2000,
    size: int = REFERENCE_SIZE,
    seed: int = 0,
    classes: int = 2,
    quality: tuple[int, int] = (60, 95),
) -> None:
    """Write `folder`/<class>/<index>.jpg for the first `classes` of `CLASS_NAMES`, unless `folder` exists.

    Patch i is `draw(seed, i, label=CLASS_NAMES[i % classes])`. All go into a hidden sibling folder that is
    renamed when complete: `folder` is never half full, and of two processes the first to end wins.

    Args:
        folder: Where the class folders go; its parents are made.
        count: Patches in all.
        size: Height and width in pixels.
        seed: Any integer from 0.
        classes: 2 or 3.
        quality: Lowest and highest JPEG quality; each patch draws its own.

    Raises:
        ValueError: If an argument is out of range.
    """
    if not 2 <= classes <= len(CLASS_NAMES):
        raise ValueError(
            f"classes={classes}: expected 2 to {len(CLASS_NAMES)} ({', '.join(CLASS_NAMES)}). Choose 2 or 3."
        )
    _check(seed=(seed, 0), count=(count, classes), size=(size, MINIMUM_SIZE))
    if not 1 <= quality[0] <= quality[1] <= 95:
        raise ValueError(f"quality={quality}: expected lowest <= highest, both in 1 to 95. Try (60, 95).")
    folder = Path(folder)
    if folder.exists():
        return
    for left in folder.parent.glob(f".{folder.name}.*"):  # by a process that was killed
        with contextlib.suppress(OSError):  # another process is quicker
            if time.time() - left.stat().st_mtime > _LEFT_SECONDS:
                shutil.rmtree(left)
    unfinished = folder.parent / f".{folder.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}"
    # glibc keeps freed memory up to twice the largest block it has released; without this one every image
    # faults its pages in anew: 25 instead of 16 ms a patch (first version, 2-core AMD EPYC virtual machine).
    np.empty(1 << 24, np.uint8)
    try:
        for name in CLASS_NAMES[:classes]:
            (unfinished / name).mkdir(parents=True)
        for index in progress.over(range(count), count, "draw patches", "img"):
            name = CLASS_NAMES[index % classes]
            patch, _ = draw(seed, index, label=name, size=size)
            rng = np.random.default_rng([seed, index, JPEG_STREAM])
            path = unfinished / name / f"{index:05d}.jpg"
            Image.fromarray(patch).save(path, quality=int(rng.integers(quality[0], quality[1] + 1)))
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process ended first, with the same bytes
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _check(**bounds: tuple[int, int]) -> None:
    """Raise for each argument, given as its value and its least value, that lies below."""
    for name, (value, least) in bounds.items():
        if value < least:
            raise ValueError(f"{name}={value}: expected an integer of at least {least}. Raise {name}.")
