"""Drawn training images: cracks and look-alikes drawn on sound training images, and enlarged crops of all of them.

Each is a file in the cache, named after the digest of its parent and what is drawn. So it has a digest and cached
features like any photo, and other splits and runs reuse it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from hairline.data import images, synthetic
from hairline.system import cache, files, progress
from hairline.system.errors import HairlineError

ORIGIN = "origin"  # column of a manifest with drawn images; empty for images of the source
COMPOSITE, CROP = "composite", "crop"  # its other values
VERSION = 2  # raise it when the same parent and number give other pixels
_JPEG_QUALITY = (45, 95)

_CROP_SIDES = (0.21, 0.62)  # side of a crop relative to the shorter side of the image, log-uniform
_CROP_CANDIDATES = 4
_CROP_COMPARE_PX = 64
_CROP_CONTRAST = 0.4
_CROP_LOG_GAMMA = 0.4


class MixError(HairlineError):
    """The classes do not allow composites."""


def add_drawn(manifest: pd.DataFrame, *, share: float, crops: float, positive: str | None, seed: int) -> pd.DataFrame:
    """Append composites and crops to a divided manifest, all of them to its training split.

    Args:
        manifest: With groups and splits.
        share: Composites per training image of the source, from 0.
        crops: Enlarged crops per training image of the source, from 0.
        positive: Name of the class that a crack makes.
        seed: Non-negative integer.

    Returns:
        The manifest with the column `origin`; unchanged if nothing is added. Drawn images get their parent's group.

    Raises:
        MixError: If composites are requested and there are not two classes, one of them known to be positive.
    """
    train = manifest[manifest["split"] == "train"]
    added = []
    if share:
        added.append(_composites(train, share, positive, seed))
    if crops:
        added.append(_crops(train, crops, seed))
    if not added:
        return manifest
    joined = pd.concat([manifest.assign(**{ORIGIN: ""}), *added], ignore_index=True)
    return joined.astype({"width": np.int64, "height": np.int64})


def is_real(manifest: pd.DataFrame) -> np.ndarray:
    """Return which rows are images of the source, bool [n]."""
    if ORIGIN not in manifest:
        return np.ones(len(manifest), bool)
    return (manifest[ORIGIN] == "").to_numpy()


def _composites(train: pd.DataFrame, share: float, positive: str | None, seed: int) -> pd.DataFrame:
    """Draw on the sound training images in turn: a crack on every other one, look-alikes alone on the rest."""
    names = sorted(train["label"].unique())
    if positive is None or len(names) != 2:
        raise MixError(
            f"data.mix={share:g}: the classes are {', '.join(names)}; expected two classes, one of them cracked. Name "
            "it with data.positive_class, or set data.mix=0"
        )
    rows, rounds, positions = _in_turn(train[train["label"] != positive], round(share * len(train)))
    cracked = (positions + rounds) % 2 == 0
    kinds = np.where(cracked, "cracked", "sound").tolist()

    def draw(parent: Image.Image, numbers: tuple[int, ...], kind: str) -> bytes:
        scene = synthetic.compose(parent, seed=numbers, cracked=kind == "cracked")
        rng = np.random.default_rng([*numbers, int(kind == "cracked")])
        quality = int(rng.integers(_JPEG_QUALITY[0], _JPEG_QUALITY[1] + 1))
        return images.encoded(Image.fromarray(scene.image), "JPEG", quality=quality)

    folder = cache.folder("composites", f"v{VERSION}-{synthetic.GENERATOR_VERSION}-{images.VERSION}-{seed}")
    drawn = _draw_files(rows, rounds, kinds, folder, ".jpg", seed, draw, "draw look-alikes and cracks")
    return drawn.assign(label=np.where(cracked, positive, rows["label"]), **{ORIGIN: COMPOSITE})


def _crops(train: pd.DataFrame, share: float, seed: int) -> pd.DataFrame:
    """Crop the training images in turn; each crop has the class of its parent."""
    rows, rounds, _ = _in_turn(train, round(share * len(train)))

    def draw(parent: Image.Image, numbers: tuple[int, ...], kind: str) -> bytes:
        return images.encoded(crop(parent, seed=numbers), "PNG", compress_level=3)

    folder = cache.folder("composites", f"v{VERSION}-crops-{images.VERSION}-{seed}")
    drawn = _draw_files(rows, rounds, [CROP] * len(rows), folder, ".png", seed, draw, "crop images")
    return drawn.assign(**{ORIGIN: CROP})


def _in_turn(parents: pd.DataFrame, count: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Choose parents, each equally often; return their rows, the round of each, and its position in the round."""
    parents = parents.drop_duplicates("sha256")
    rounds, positions = np.divmod(np.arange(count), len(parents))
    return parents.iloc[positions], rounds, positions


def _draw_files(
    parents: pd.DataFrame,
    rounds: np.ndarray,
    kinds: Sequence[str],
    folder: Path,
    suffix: str,
    seed: int,
    draw: Callable[[Image.Image, tuple[int, ...], str], bytes],
    description: str,
) -> pd.DataFrame:
    """Draw the images that are not in the cache yet; return the parents' rows with the file of each drawn image.

    Args:
        parents: Rows of the manifest.
        rounds: Number of each image among those of its parent.
        kinds: What is drawn; part of the file names.
        folder: Cache folder of the files.
        suffix: Of the files.
        seed: Non-negative integer.
        draw: Returns the content of a file, given the parent, numbers unique to the image, and its kind.
        description: Text of the progress bar.
    """
    cache.hold(folder)
    paths, digests = parents["path"].tolist(), parents["sha256"].tolist()

    def draw_one(row: int) -> tuple[str, int, int, str]:
        number, digest = int(rounds[row]), digests[row]
        file = folder / digest[:2] / f"{digest[:32]}-{number}-{kinds[row]}{suffix}"
        if not file.exists():
            numbers = (seed, number, *(int(digest[start : start + 8], 16) for start in range(0, 32, 8)))
            content = draw(images.upright_file(paths[row], digests[row]), numbers, kinds[row])
            file.parent.mkdir(exist_ok=True)
            files.write_bytes(file, content)
        content = file.read_bytes()
        width, height, *_ = images.inspect(content)
        return str(file), width, height, hashlib.sha256(content).hexdigest()

    results = progress.in_threads(lambda rows: [*map(draw_one, rows)], range(len(paths)), description, "img")
    columns = ["path", "width", "height", "sha256"]
    return parents.assign(**pd.DataFrame(results, columns=columns, index=parents.index, dtype=object))


def crop(image: Image.Image, *, seed: tuple[int, ...]) -> Image.Image:
    """Draw a square part of an image, randomly turned, mirrored and exposed.

    Of several candidates the one whose darkest pixels stand out most is taken: on an image with a crack it nearly
    always shows the crack, and on a sound one what resembles a crack most.

    Args:
        image: RGB.
        seed: The same image and seed give the same pixels.
    """
    rng = np.random.default_rng(seed)
    best = max([_part(image, rng) for _ in range(_CROP_CANDIDATES)], key=_darkness)
    for turn in (Image.Transpose.ROTATE_90, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM):
        if rng.random() < 0.5:
            best = best.transpose(turn)
    contrast = 1 + rng.uniform(-_CROP_CONTRAST, _CROP_CONTRAST)
    gamma = math.exp(rng.uniform(-_CROP_LOG_GAMMA, _CROP_LOG_GAMMA))
    pixels = np.asarray(best, np.float32) / 255
    mean = float(pixels.mean())
    exposed = np.clip((pixels - mean) * contrast + mean, 0, 1) ** gamma
    return Image.fromarray((exposed * 255).round().astype(np.uint8))


def _part(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    share = math.exp(rng.uniform(*np.log(_CROP_SIDES)))
    side = max(round(share * min(image.size)), 1)
    left, top = (int(rng.integers(0, length - side + 1)) for length in image.size)
    return image.crop((left, top, left + side, top + side))


def _darkness(part: Image.Image) -> float:
    """Return how far the 3rd percentile lies below the median, in grey levels."""
    grey = np.asarray(part.convert("L").resize((_CROP_COMPARE_PX, _CROP_COMPARE_PX), Image.Resampling.BILINEAR))
    return float(np.median(grey) - np.percentile(grey, 3))
