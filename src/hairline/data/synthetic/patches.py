"""Whole patches and folders of them: `draw` composes the parts, `render` writes JPEGs."""

import contextlib
import os
import shutil
import time
import uuid
from pathlib import Path

import numpy as np
from PIL import Image

from hairline.data.synthetic.camera import blurred, exposed, lighting, noisy
from hairline.data.synthetic.cracks import crack, spall
from hairline.data.synthetic.geometry import REFERENCE_SIZE
from hairline.data.synthetic.lookalikes import LOOK_ALIKES, SHARE_BESIDE_DEFECT
from hairline.data.synthetic.surfaces import surface
from hairline.system import progress

CLASS_NAMES: tuple[str, ...] = ("cracked", "uncracked", "spalled")
GENERATOR_VERSION: int = 1
MINIMUM_SIZE = 32
_LEFT_SECONDS = 24 * 3600
JPEG_STREAM = len(CLASS_NAMES)  # the random stream after those of the classes


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
