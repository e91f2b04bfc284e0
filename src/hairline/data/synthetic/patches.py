"""Whole patches and folders of them: `draw` composes one patch, `render` writes JPEG files."""

from pathlib import Path

import numpy as np
from PIL import Image

from hairline.data.synthetic.cracks import crack, spall
from hairline.data.synthetic.geometry import REFERENCE_SIZE
from hairline.data.synthetic.lookalikes import LOOK_ALIKES, SHARE_BESIDE_DEFECT
from hairline.data.synthetic.surfaces import blurred, exposed, lighting, noisy, surface
from hairline.system import files, progress

CLASS_NAMES: tuple[str, ...] = ("cracked", "uncracked", "spalled")
GENERATOR_VERSION: int = 1
MINIMUM_SIZE = 32
_JPEG_STREAM = len(CLASS_NAMES)  # the random stream after those of the classes
_JPEG_QUALITY = (60, 95)  # each patch draws its own


def draw(seed: int, index: int, *, label: str, size: int = REFERENCE_SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Draw one patch, which depends only on the arguments.

    Args:
        seed: Non-negative integer.
        index: Number of the patch, from 0.
        label: One of `CLASS_NAMES`.
        size: Height and width in pixels, at least `MINIMUM_SIZE`.

    Returns:
        The patch, uint8 [size, size, 3] RGB, and the mask of its crack or spalled area, bool [size, size].

    Example:
        >>> patch, mask = draw(0, 7, label="cracked", size=64)
        >>> patch.shape, patch.dtype.name, bool(mask.any())
        ((64, 64, 3), 'uint8', True)
    """
    rng = np.random.default_rng([seed, index, CLASS_NAMES.index(label)])
    image = surface(rng, (size, size))
    mask = np.zeros((size, size), bool)
    share = 1.0 if label == "uncracked" else SHARE_BESIDE_DEFECT
    chosen = [look_alike for look_alike, probability in LOOK_ALIKES.items() if rng.random() < share * probability]
    for number in rng.permutation(len(chosen)):
        image = chosen[number](rng, image)
    if label == "cracked":
        image, mask = crack(rng, image)
    elif label == "spalled":
        image, mask = spall(rng, image)
    for effect in (lighting, blurred, exposed, noisy):
        image = effect(rng, image)
    return np.ascontiguousarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)), mask


def render(folder: Path, *, count: int, size: int, seed: int, classes: int) -> None:
    """Write `folder`/<class>/<index>.jpg for the first `classes` of `CLASS_NAMES`, unless `folder` exists.

    Patch i is `draw(seed, i, label=CLASS_NAMES[i % classes])`.

    Args:
        folder: Appears complete or not at all; several processes render it once.
        count: Number of patches.
        size: Height and width in pixels.
        seed: Non-negative integer.
        classes: 2 or 3.
    """

    def fill(partial: Path) -> Path:
        for name in CLASS_NAMES[:classes]:
            (partial / "content" / name).mkdir(parents=True)
        # glibc keeps freed memory up to twice the largest block it has released; without this block every image faults
        # its pages in anew: 25 instead of 16 ms per patch (2-core AMD EPYC virtual machine).
        np.empty(1 << 24, np.uint8)
        for index in progress.over(range(count), count, "draw patches", "img"):
            name = CLASS_NAMES[index % classes]
            patch, _ = draw(seed, index, label=name, size=size)
            rng = np.random.default_rng([seed, index, _JPEG_STREAM])
            quality = int(rng.integers(_JPEG_QUALITY[0], _JPEG_QUALITY[1] + 1))
            Image.fromarray(patch).save(partial / "content" / name / f"{index:05d}.jpg", quality=quality)
        return partial / "content"

    files.create_folder(folder, fill)
