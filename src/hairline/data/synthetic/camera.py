"""The camera: each takes an image and returns one."""

import math

import numpy as np

from hairline.data.synthetic.geometry import distances, scale_of, softened


def lighting(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Light that falls off across the picture and towards its corners."""
    height, width = image.shape[:2]
    across, down = distances((height, width), np.array([width / 2, height / 2]))
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
    return softened(image, radius_px * scale_of(image))


def noisy(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Sensor noise: one value a pixel, as chroma noise is filtered away in most cameras."""
    amplitude = rng.uniform(0, 0.08)
    grain = amplitude * (rng.random(image.shape[:2], dtype=np.float32) - 0.5)
    grainy: np.ndarray = image + grain[..., None]
    return grainy
