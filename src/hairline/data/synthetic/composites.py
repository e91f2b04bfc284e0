"""Composites: cracks and look-alikes drawn over a photo of a sound surface, or over a drawn one, the mask known.

A network that has seen only one kind of wall takes whatever is dark and long for a crack. Here patches
with and without one show planking, joints, stains and so on equally often, so a crack is the one thing that tells.
Cut-and-paste composition follows Dwibedi et al. (2017), Cut, Paste and Learn, doi 10.1109/ICCV.2017.146; it needs no
blending here, as a crack darkens what lies below it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from hairline.data.synthetic.camera import exposed, lighting, noisy
from hairline.data.synthetic.cracks import crack, spall
from hairline.data.synthetic.geometry import noise, softened
from hairline.data.synthetic.lookalikes import WALL_LOOK_ALIKES
from hairline.data.synthetic.surfaces import asphalt, gritty, roughened, surface

SMALLEST_PX = 48  # a tile of a photo taken from afar
_CUT_OUT = 0.2  # share of the patches that are a part of a larger picture
_LARGER = 1.5  # its side, to that of the patch
_LEAST_CRACK = 0.002  # share of such a patch that a crack covers at least


@dataclass(frozen=True)
class Scene:
    """A patch and what is known of it.

    Attributes:
        image: Uint8 [height, width, 3] RGB.
        mask: Bool [height, width], True on a crack; all False where there is none.
        width_px: Width of the crack in pixels of the image, 0 without one.
        surface: Kind of ground: `photo`, `concrete` or `asphalt`.
        shown: Names of the look-alikes on it.
        blur_px: Radius of the blur.
    """

    image: np.ndarray
    mask: np.ndarray
    width_px: float
    surface: str
    shown: tuple[str, ...]
    blur_px: float


def compose(photo: Image.Image, *, seed: Sequence[int], cracked: bool) -> Scene:
    """Draw on a photo of a sound surface: a part of it, at another scale, with look-alikes and perhaps a crack.

    Args:
        photo: RGB, without any crack.
        seed: Numbers from 0 that the drawing depends on.
        cracked: Whether a crack is drawn.
    """
    rng = np.random.default_rng(list(seed))
    side = min(photo.size)
    part = side * rng.uniform(0.35, 1)
    left, top = rng.uniform(0, photo.width - part), rng.uniform(0, photo.height - part)
    size = max(SMALLEST_PX, round(math.exp(rng.uniform(math.log(SMALLEST_PX), math.log(227)))))
    box = (left, top, left + part, top + part)
    cut = rng.random() < _CUT_OUT
    drawn = round(_LARGER * size) if cut else size
    ground = photo.resize((drawn, drawn), Image.Resampling.BILINEAR, box=box)
    if rng.random() < 0.5:
        ground = ground.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.5:
        ground = ground.transpose(Image.Transpose.ROTATE_90)
    image = np.moveaxis(np.ascontiguousarray(np.moveaxis(np.asarray(ground, np.float32) / 255, -1, 0)), 0, -1)
    if rng.random() < 0.4:  # its own texture, stronger
        smooth = softened(image, rng.uniform(1.6, 6))
        image = smooth + rng.uniform(1, 3.5) * (image - smooth)
    scene = _finished(rng, image, "photo", cracked)
    return _cut_out(rng, scene, size) if cut else scene


def _cut_out(rng: np.random.Generator, scene: Scene, size: int) -> Scene:
    """Cut a patch of `size` pixels a side out of a larger one, as the tiles of a photo are cut: wherever they come.

    Of places that show enough of a crack that with the least of it is taken: its end, a corner of it, or what runs
    along the border. Look-alikes are cut as they come.
    """
    places = rng.integers(0, len(scene.mask) - size + 1, (24, 2))
    windows = [(slice(top, top + size), slice(left, left + size)) for top, left in places]
    window = windows[0]
    if scene.mask.any():
        shown = np.array([np.count_nonzero(scene.mask[part]) for part in windows])
        enough = np.flatnonzero(shown >= max(12, _LEAST_CRACK * size**2))
        window = windows[enough[shown[enough].argmin()] if len(enough) else shown.argmax()]
    return replace(scene, image=np.ascontiguousarray(scene.image[window]), mask=scene.mask[window])


def invent(*, seed: Sequence[int], size: int, cracked: bool) -> Scene:
    """Draw a patch on a drawn surface, `size` pixels a side: nothing in it comes from a photo.

    Args:
        seed: Numbers from 0 that the drawing depends on.
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
    return _finished(rng, ground(rng, (size, size)), kind, cracked)


def _finished(rng: np.random.Generator, image: np.ndarray, kind: str, cracked: bool) -> Scene:
    """Weather the ground, put on look-alikes and the crack, and take the picture."""
    if rng.random() < 0.3:
        image = roughened(rng, image)
    if rng.random() < 0.25:
        image = gritty(rng, image)
    chosen = [part for part, often in WALL_LOOK_ALIKES.items() if rng.random() < often]
    for number in rng.permutation(len(chosen)):
        image = chosen[number](rng, image)
    broken = rng.random() < 0.06
    if broken:
        image, _ = spall(rng, image)
    mask, width_px = np.zeros(image.shape[:2], bool), 0.0
    if cracked:
        image, mask, width_px = _cracked(rng, image)
    blur_px = rng.uniform(0, 0.6) if rng.random() < 0.75 else rng.uniform(0.6, 1.5)
    image = softened(image, blur_px)
    for effect in (lighting, exposed, noisy):
        image = effect(rng, image)
    shown = tuple(part.__name__ for part in chosen) + ("spall",) * broken
    pixels = np.ascontiguousarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8))
    return Scene(pixels, mask, width_px, kind, shown, blur_px)


def _cracked(rng: np.random.Generator, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """A hairline crack, an open one, or a wide one with broken edges; gives image, mask and width in pixels."""
    side = min(image.shape[:2])
    kind = rng.random()
    if kind < 0.55:  # hairline: thin, at times hardly darker than the ground
        width_px = math.exp(rng.uniform(math.log(0.6), math.log(2.4)))
        image, mask = crack(rng, image, width_px=width_px, depth=rng.uniform(0.15, 0.8))
    elif kind < 0.85:
        width_px = math.exp(rng.uniform(math.log(1.5), math.log(0.06 * side)))
        image, mask = crack(rng, image, width_px=width_px, depth=rng.uniform(0.4, 0.95))
    else:
        width_px = math.exp(rng.uniform(math.log(0.05 * side), math.log(0.12 * side)))
        image, mask = crack(rng, image, width_px=width_px, depth=rng.uniform(0.65, 0.97))
        crumbled = softened(mask.astype(np.float32), 0.4 * width_px) * (1 - mask)
        rough = noise(rng, mask.shape, max(1.0, 0.3 * width_px), max(1.0, 0.1 * width_px))
        image = image * (1 + rng.uniform(0, 0.4) * crumbled * rough)[..., None]
    return image, mask, width_px
