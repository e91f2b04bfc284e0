"""Concrete-like patches drawn from a seed: the data of a first run that needs no network, and of `data.mix`.

Small pure functions draw one thing each: a surface, a crack, a look-alike, a camera effect. They take a
`numpy.random.Generator` and an image (float32 [height, width, 3], RGB, 0 black, 1 white, unclipped before the
camera) and return a new one; defects return their mask (bool [height, width]) too. Lengths are in pixels of a 227 px
patch and grow with the image, unless said otherwise. The same arguments give the same bytes on one machine with one
numpy and one Pillow.
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
