"""Composites: cracks and look-alikes drawn on a photo of a sound surface or on a synthetic one, with a known mask.

A network trained on one kind of wall takes everything dark and long for a crack. Here patches with and without a crack
show planking, joints and stains equally often, so only the crack separates the classes. The composition follows Dwibedi
et al. (2017), Cut, Paste and Learn, doi 10.1109/ICCV.2017.146, without blending: a crack darkens the ground below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from hairline.data.synthetic.cracks import crack, spall
from hairline.data.synthetic.geometry import REFERENCE_SIZE, log_uniform, noise, softened
from hairline.data.synthetic.lookalikes import WALL_LOOK_ALIKES
from hairline.data.synthetic.surfaces import asphalt, exposed, gritty, lighting, noisy, roughened, surface

MINIMUM_PX = 48  # a tile of a photo taken from a distance
_CUT_OUT_SHARE = 0.2  # share of the patches that are cut out of a larger scene
_CUT_OUT_SCALE = 1.5  # side of that scene relative to the patch
_CUT_OUT_CRACK = 0.002  # minimum share of such a patch that a crack covers


@dataclass(frozen=True)
class Scene:
    """A patch and its description.

    Attributes:
        image: uint8 [height, width, 3] RGB.
        mask: bool [height, width], True on a crack.
        width_px: Width of the crack in pixels of the image, 0 without one.
        surface: Kind of ground: `photo`, `concrete` or `asphalt`.
        look_alikes: Names of the look-alikes on it.
        blur_px: Radius of the blur.
    """

    image: np.ndarray
    mask: np.ndarray
    width_px: float
    surface: str
    look_alikes: tuple[str, ...]
    blur_px: float


def compose(photo: Image.Image, *, seed: Sequence[int], cracked: bool) -> Scene:
    """Draw on a part of a photo of a sound surface: another scale, look-alikes, and optionally a crack.

    Args:
        photo: RGB, without a crack.
        seed: Non-negative integers; the same photo and seed give the same pixels.
        cracked: Whether a crack is drawn.
    """
    rng = np.random.default_rng(list(seed))
    side = min(photo.size)
    part = side * rng.uniform(0.35, 1)
    left, top = rng.uniform(0, photo.width - part), rng.uniform(0, photo.height - part)
    size = max(MINIMUM_PX, round(log_uniform(rng, MINIMUM_PX, REFERENCE_SIZE)))
    box = (left, top, left + part, top + part)
    cut = rng.random() < _CUT_OUT_SHARE
    drawn = round(_CUT_OUT_SCALE * size) if cut else size
    ground = photo.resize((drawn, drawn), Image.Resampling.BILINEAR, box=box)
    if rng.random() < 0.5:
        ground = ground.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.5:
        ground = ground.transpose(Image.Transpose.ROTATE_90)
    image = np.moveaxis(np.ascontiguousarray(np.moveaxis(np.asarray(ground, np.float32) / 255, -1, 0)), 0, -1)
    if rng.random() < 0.4:  # amplify the texture of the photo
        smooth = softened(image, rng.uniform(1.6, 6))
        image = smooth + rng.uniform(1, 3.5) * (image - smooth)
    scene = _render(rng, image, "photo", cracked)
    return _cut_out(rng, scene, size) if cut else scene


def _cut_out(rng: np.random.Generator, scene: Scene, size: int) -> Scene:
    """Cut a patch of `size` pixels per side out of a larger scene, like a tile of a photo.

    Take the position with the smallest sufficient part of the crack: its end, a corner, or a piece along the border.
    """
    places = rng.integers(0, len(scene.mask) - size + 1, (24, 2))
    windows = [(slice(top, top + size), slice(left, left + size)) for top, left in places]
    window = windows[0]
    if scene.mask.any():
        crack_px = np.array([np.count_nonzero(scene.mask[part]) for part in windows])
        enough = np.flatnonzero(crack_px >= max(12, _CUT_OUT_CRACK * size**2))
        window = windows[enough[crack_px[enough].argmin()] if len(enough) else crack_px.argmax()]
    return replace(scene, image=np.ascontiguousarray(scene.image[window]), mask=scene.mask[window])


def invent(*, seed: Sequence[int], size: int, cracked: bool) -> Scene:
    """Draw a patch on a synthetic surface, without any photo.

    Args:
        seed: Non-negative integers; the same seed gives the same pixels.
        size: Height and width in pixels.
        cracked: Whether a crack is drawn.

    Example:
        >>> scene = invent(seed=(0, 1), size=64, cracked=True)
        >>> scene.image.shape, scene.image.dtype.name, bool(scene.mask.any())
        ((64, 64, 3), 'uint8', True)
    """
    rng = np.random.default_rng(list(seed))
    kind = "concrete" if rng.random() < 0.7 else "asphalt"
    ground = surface if kind == "concrete" else asphalt
    return _render(rng, ground(rng, (size, size)), kind, cracked)


def _render(rng: np.random.Generator, image: np.ndarray, kind: str, cracked: bool) -> Scene:
    """Weather the ground, add look-alikes and the crack, and apply the camera."""
    if rng.random() < 0.3:
        image = roughened(rng, image)
    if rng.random() < 0.25:
        image = gritty(rng, image)
    chosen = [look_alike for look_alike, probability in WALL_LOOK_ALIKES.items() if rng.random() < probability]
    for number in rng.permutation(len(chosen)):
        image = chosen[number](rng, image)
    spalled = rng.random() < 0.06
    if spalled:
        image, _ = spall(rng, image)
    mask, width_px = np.zeros(image.shape[:2], bool), 0.0
    if cracked:
        image, mask, width_px = _add_crack(rng, image)
    blur_px = rng.uniform(0, 0.6) if rng.random() < 0.75 else rng.uniform(0.6, 1.5)
    image = softened(image, blur_px)
    for effect in (lighting, exposed, noisy):
        image = effect(rng, image)
    names = tuple(look_alike.__name__ for look_alike in chosen) + ("spall",) * spalled
    pixels = np.ascontiguousarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8))
    return Scene(pixels, mask, width_px, kind, names, blur_px)


def _add_crack(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Draw a hairline crack, an open one, or a wide one with broken edges; return image, mask and width in pixels."""
    side = min(image.shape[:2])
    kind = rng.random()
    if kind < 0.55:  # hairline: thin, sometimes hardly darker than the ground
        width_px = log_uniform(rng, 0.6, 2.4)
        image, mask = crack(rng, image, width_px=width_px, depth=rng.uniform(0.15, 0.8))
    elif kind < 0.85:
        width_px = log_uniform(rng, 1.5, 0.06 * side)
        image, mask = crack(rng, image, width_px=width_px, depth=rng.uniform(0.4, 0.95))
    else:
        width_px = log_uniform(rng, 0.05 * side, 0.12 * side)
        image, mask = crack(rng, image, width_px=width_px, depth=rng.uniform(0.65, 0.97))
        crumbled = softened(mask.astype(np.float32), 0.4 * width_px) * (1 - mask)
        rough = noise(rng, mask.shape, max(1.0, 0.3 * width_px), max(1.0, 0.1 * width_px))
        image = image * (1 + rng.uniform(0, 0.4) * crumbled * rough)[..., None]
    return image, mask, width_px
