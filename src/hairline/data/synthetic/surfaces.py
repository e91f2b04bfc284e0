"""Surfaces without defects, and the camera that photographs them: float32 [height, width, 3], RGB, 0 to 1."""

import math

import numpy as np

from hairline.data.synthetic import geometry


def surface(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Draw bare concrete of `shape` (height, width): mottling, lit relief, sand, grain, pores, a colour cast."""
    scale = min(shape) / geometry.REFERENCE_SIZE
    light = rng.uniform(0, 2 * math.pi)
    mottle = geometry.noise(rng, shape, 110 * scale, 45 * scale, 18 * scale, rng.uniform(6, 9) * scale)
    relief = geometry.noise(rng, shape, rng.uniform(4, 8) * scale, rng.uniform(1.5, 3) * scale)
    sand = np.maximum(relief - rng.uniform(1.2, 2.2), 0)  # the highest grains show through the paste
    if rng.random() < 0.3:  # the strokes of a trowel or a broom
        relief = relief + rng.uniform(0.5, 1.6) * geometry.brushed(
            rng, shape, rng.uniform(2, 4) * scale, rng.uniform(4, 14)
        )
    grey = 1 + rng.uniform(0.01, 0.05) * mottle
    grey += rng.uniform(0.01, 0.06) * geometry.shaded(relief, light)
    grey += rng.uniform(-0.25, 0.25) * sand
    grey += rng.uniform(0.02, 0.12) * (rng.random(shape, dtype=np.float32) - 0.5)
    grey *= rng.uniform(0.4, 0.75)
    warm = rng.uniform(-0.035, 0.1)
    image = geometry.tinted(mottle, tuple(rng.normal(0, 0.004, 3)))
    image += np.array((1 + warm, 1 + rng.normal(0, 0.01), 1 - 1.2 * warm), np.float32)
    image *= grey[..., None]
    return pores(rng, image) if rng.random() < 0.85 else image


def pores(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Add bug holes: open air bubbles at the formwork, dark with one lit wall."""
    count = min(90, int(rng.lognormal(2.3, 0.8)))
    outlines = geometry.grains(rng, image.shape[:2], count, rng.uniform(1.3, 2.6) * geometry.scale_of(image))
    cover = geometry.coverage(image.shape[:2], outlines, rng.uniform(0.45, 1, count))
    return geometry.carved(rng, image, cover, rng.uniform(0.55, 0.97), rng.uniform(0.1, 0.5))


def asphalt(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Draw asphalt or washed concrete of `shape`: lit stones of many tones in a dark or sandy bed."""
    bed = rng.uniform(0.25, 0.65)
    warm = rng.uniform(-0.03, 0.12)
    grey = np.full(shape, bed, np.float32)
    image = roughened(rng, geometry.tinted(grey, (1 + warm, 1, 1 - warm)), strength=rng.uniform(0.5, 1))
    return gritty(rng, image)


def roughened(rng: np.random.Generator, image: np.ndarray, strength: float | None = None) -> np.ndarray:
    """Add a coarse relief in slanting light: render, exposed aggregate, worn asphalt.

    Args:
        rng: Random generator.
        image: float32 [height, width, 3].
        strength: Contrast of the relief, 0 to 1; None draws it, mostly low.
    """
    shape = image.shape[:2]
    cell_px = geometry.log_uniform(rng, 1.5, max(2.5, 0.06 * min(shape)))
    relief = geometry.noise(rng, shape, 3 * cell_px, cell_px)
    strength = rng.uniform(0.1, 1) ** 2 if strength is None else strength
    lit = geometry.shaded(relief, rng.uniform(0, 2 * math.pi)) * (0.25 * strength * min(cell_px, 4))
    lit += rng.uniform(0, 0.12) * strength * relief
    rough: np.ndarray = image * np.clip(1 + lit, 0.15, 2)[..., None]
    return rough


def gritty(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Speckle with grains of all tones and a few colours, 1 to 4 px wide in this image."""
    shape = image.shape[:2]
    amplitude = rng.uniform(0.03, 0.25)
    grit = geometry.noise(rng, shape, rng.uniform(1, 4))
    if rng.random() < 0.5:  # few dark or few light grains instead of all tones
        grit = np.maximum(grit - rng.uniform(0.3, 1.2), 0) * float(rng.choice([-2, 2]))
    cast = (1 + rng.uniform(-0.15, 0.15), 1.0, 1 + rng.uniform(-0.15, 0.15))
    return image * np.clip(1 + amplitude * geometry.tinted(grit, cast), 0.2, 2)


def lighting(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Apply light that falls off across the image and towards its corners."""
    height, width = image.shape[:2]
    across, down = geometry.distances((height, width), np.array([width / 2, height / 2]))
    across, down = across * (2 / width), down * (2 / height)
    angle = rng.uniform(0, 2 * math.pi)
    gradient = rng.uniform(0, 0.14) * (across * math.cos(angle) + down * math.sin(angle))
    vignette = max(0.0, rng.uniform(-0.1, 0.12)) * (across**2 + down**2)
    lit: np.ndarray = image * (1 + gradient - vignette)[..., None]
    return lit


def exposed(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Vary exposure and contrast like different cameras and times of day; clip to [0, 1]."""
    gain, contrast = math.exp(rng.normal(0, 0.11)), rng.uniform(0.75, 1.15)
    veil = rng.uniform(0, 0.06)  # stray light lifts the darkest tones
    factor, middle = contrast * gain * (1 - veil), float(image.mean())
    return np.clip(image * factor + (middle * gain * (1 - veil) - middle * factor + veil), 0, 1)


def blurred(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Blur like a lens slightly, sometimes clearly, out of focus."""
    radius_px = rng.uniform(0.2, 0.8) if rng.random() < 0.8 else rng.uniform(0.8, 1.6)
    return geometry.softened(image, radius_px * geometry.scale_of(image))


def noisy(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Add sensor noise, one value per pixel: most cameras filter chroma noise away."""
    amplitude = rng.uniform(0, 0.08)
    grain = amplitude * (rng.random(image.shape[:2], dtype=np.float32) - 0.5)
    grainy: np.ndarray = image + grain[..., None]
    return grainy
