"""Synthetic concrete patches, drawn from a seed: data for a first run without a network, and for `data.mix`.

Small pure functions draw one thing each: a surface, a crack, a look-alike, a camera effect. They take a
`numpy.random.Generator` and an image (float32 [height, width, 3], RGB, 0 black, 1 white, not clipped before the camera)
and return a new image; defects also return their mask (bool [height, width]). Lengths are in pixels of a 227 px patch
and scale with the image, unless stated otherwise. The same arguments give the same bytes with the same machine, NumPy
and Pillow.
"""

from hairline.data.synthetic.composites import Scene, compose, invent
from hairline.data.synthetic.geometry import REFERENCE_SIZE
from hairline.data.synthetic.patches import CLASS_NAMES, GENERATOR_VERSION, MINIMUM_SIZE, draw, render

__all__ = [
    "CLASS_NAMES",
    "GENERATOR_VERSION",
    "MINIMUM_SIZE",
    "REFERENCE_SIZE",
    "Scene",
    "compose",
    "draw",
    "invent",
    "render",
]
