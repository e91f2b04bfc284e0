"""Generated images among the training images: drawn on the user's own sound patches, and enlarged parts of all of them.

The former show cracks and look-alikes. Each is a file in the cache, named by its parent's digest and what was drawn, so
that it has a digest and kept features like any photo, and so that another split or run finds it there.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from hairline.data import cropping, images, synthetic
from hairline.system import cache, files, progress
from hairline.system.errors import HairlineError

ORIGIN = "origin"  # column of a mixed manifest: empty for an image of the source
COMPOSITE, CROP = "composite", "crop"  # what else it says
VERSION = 2  # raise it when the same parent and number would give another picture
_QUALITY = (45, 95)
_CHUNK = 32


class MixError(HairlineError):
    """Images that nothing can be drawn on."""


def add_drawn(manifest: pd.DataFrame, *, share: float, crops: float, positive: str | None, seed: int) -> pd.DataFrame:
    """Put composites and crops behind the images of a divided manifest, all of them into its training part.

    Args:
        manifest: With groups and splits.
        share: Composites per training image of the source, from 0.
        crops: Parts of training images, enlarged, per training image of the source, from 0.
        positive: Name of the class that a crack makes.
        seed: From 0; others draw other pictures.

    Returns:
        The manifest with the column `origin`, or as it is where nothing is added; rows that were there are untouched,
        an added one has its parent's group.

    Raises:
        MixError: If there are composites to draw, and not two classes of which one is known to be positive.
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
    """Say which rows are images of the source, bool [n]."""
    if ORIGIN not in manifest:
        return np.ones(len(manifest), bool)
    return (manifest[ORIGIN] == "").to_numpy()


def _composites(train: pd.DataFrame, share: float, positive: str | None, seed: int) -> pd.DataFrame:
    """Draw on the sound training images, in turn: a crack on every other one, look-alikes alone on the rest."""
    names = sorted(train["label"].unique())
    if positive is None or len(names) != 2:
        raise MixError(
            f"data.mix={share:g}: the classes are {', '.join(names)}; expected two, of which one means cracked: name "
            "it by data.positive_class, or leave data.mix at 0"
        )
    rows, rounds, places = _in_turn(train[train["label"] != positive], round(share * len(train)))
    cracked = (places + rounds) % 2 == 0
    kinds = np.where(cracked, "cracked", "sound").tolist()

    def draw(parent: str, numbers: tuple[int, ...], kind: str) -> bytes:
        scene = synthetic.compose(images.upright(parent), seed=numbers, cracked=kind == "cracked")
        quality = int(np.random.default_rng([*numbers, int(kind == "cracked")]).integers(_QUALITY[0], _QUALITY[1] + 1))
        return _encoded(Image.fromarray(scene.image), format="JPEG", quality=quality)

    folder = cache.folder("composites", f"v{VERSION}-{synthetic.GENERATOR_VERSION}-{seed}")
    drawn = _drawn(rows, rounds, kinds, folder, ".jpg", seed, draw, "draw look-alikes and cracks")
    return drawn.assign(label=np.where(cracked, positive, rows["label"]), **{ORIGIN: COMPOSITE})


def _crops(train: pd.DataFrame, share: float, seed: int) -> pd.DataFrame:
    """Cut parts from the training images, in turn; each is of its parent's class."""
    rows, rounds, _ = _in_turn(train, round(share * len(train)))

    def draw(parent: str, numbers: tuple[int, ...], kind: str) -> bytes:
        return _encoded(cropping.crop(images.upright(parent), seed=numbers), format="PNG", compress_level=3)

    folder = cache.folder("composites", f"v{VERSION}-crops-{seed}")
    drawn = _drawn(rows, rounds, [CROP] * len(rows), folder, ".png", seed, draw, "cut parts")
    return drawn.assign(**{ORIGIN: CROP})


def _in_turn(parents: pd.DataFrame, count: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Choose parents, each as often as any other; gives their rows, the round of each, and its place."""
    parents = parents.drop_duplicates("sha256")
    rounds, places = np.divmod(np.arange(count), len(parents))
    return parents.iloc[places], rounds, places


def _encoded(picture: Image.Image, **options: Any) -> bytes:
    content = io.BytesIO()
    picture.save(content, **options)
    return content.getvalue()


def _drawn(
    parents: pd.DataFrame,
    rounds: np.ndarray,
    kinds: Sequence[str],
    folder: Path,
    suffix: str,
    seed: int,
    draw: Callable[[str, tuple[int, ...], str], bytes],
    told: str,
) -> pd.DataFrame:
    """Make the pictures that are not in the cache yet; gives their parents' rows with each picture's own file.

    Args:
        parents: Rows of the manifest.
        rounds: Tells the pictures of one parent apart.
        kinds: What is drawn; a part of the files' names.
        folder: Where the pictures are kept.
        suffix: Of their files.
        seed: From 0.
        draw: Makes a picture's file from the parent's path, numbers that belong to the picture alone, and its kind.
        told: What the progress bar says.
    """
    paths, digests = parents["path"].tolist(), parents["sha256"].tolist()

    def one(at: int) -> tuple[str, int, int, str]:
        number, digest = int(rounds[at]), digests[at]
        file = folder / digest[:2] / f"{digest[:32]}-{number}-{kinds[at]}{suffix}"
        if not file.exists():
            numbers = (seed, number, *(int(digest[start : start + 8], 16) for start in range(0, 32, 8)))
            content = draw(paths[at], numbers, kinds[at])
            file.parent.mkdir(exist_ok=True)
            with files.atomic(file) as opened:
                opened.write(content)
        content = file.read_bytes()
        width, height, _ = images.inspect(content)
        return str(file), width, height, hashlib.sha256(content).hexdigest()

    chunks = [range(start, min(start + _CHUNK, len(paths))) for start in range(0, len(paths), _CHUNK)]
    found: list[tuple[str, int, int, str]] = []
    with ThreadPoolExecutor() as pool, progress.bar(len(paths), told, "img") as shown:
        for rows in pool.map(lambda places: [one(at) for at in places], chunks):
            found += rows
            shown.update(len(rows))
    columns = ["path", "width", "height", "sha256"]
    return parents.assign(**pd.DataFrame(found, columns=columns, index=parents.index, dtype=object))
