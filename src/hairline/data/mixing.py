"""Generated images among the training images: cracks and look-alikes drawn on the user's own sound patches.

Each composite is a file in the cache, named by its parent's digest and what was drawn, so that it has a digest and kept
features like any photo, and so that another split or run finds it there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from hairline import atomic, cache, progress
from hairline.data import images, synthetic

ORIGIN = "origin"  # column of a mixed manifest: empty for an image of the source, `COMPOSITE` for a drawn one
COMPOSITE = "composite"
VERSION = 1  # raise it when the same parent and number would give another picture
_QUALITY = (45, 95)
_CHUNK = 32


class MixError(ValueError):
    """Images that nothing can be drawn on."""


def mixed(manifest: pd.DataFrame, *, share: float, positive: str | None, seed: int) -> pd.DataFrame:
    """Put composites behind the images of a divided manifest, all of them into its training part.

    Half of them, by turns, show a crack and carry the positive class; the others show look-alikes alone. Parents are
    the training images of the other class, in turn, so none of what validation and test hold gets into training.

    Args:
        manifest: With groups and splits.
        share: Composites per training image of the source; 0 returns the manifest as it is.
        positive: Name of the class that a crack makes.
        seed: From 0; others draw other pictures.

    Returns:
        The manifest with the column `origin`; rows that were there are untouched, a composite has its parent's group.

    Raises:
        MixError: If there are not two classes of which one is known to be positive.
    """
    if share == 0:
        return manifest
    names = sorted(manifest["label"].unique())
    if positive is None or len(names) != 2:
        raise MixError(
            f"data.mix={share:g}: the classes are {', '.join(names)}; expected two, of which one means cracked: "
            "name it by data.positive_class, or leave data.mix at 0"
        )
    train = manifest[manifest["split"] == "train"]
    parents = train[train["label"] != positive].drop_duplicates("sha256")
    count = round(share * len(train))
    rounds, places = np.divmod(np.arange(count), len(parents))
    rows = parents.iloc[places]
    cracked = (places + rounds) % 2 == 0
    drawn = render(rows["path"].tolist(), rows["sha256"].tolist(), rounds.tolist(), cracked.tolist(), seed)
    added = rows.assign(label=np.where(cracked, positive, rows["label"]), **{ORIGIN: COMPOSITE})
    added[["path", "width", "height", "sha256"]] = drawn.to_numpy()
    joined = pd.concat([manifest.assign(**{ORIGIN: ""}), added], ignore_index=True)
    return joined.astype({"width": np.int64, "height": np.int64})


def real(manifest: pd.DataFrame) -> np.ndarray:
    """Say which rows are images of the source, bool [n]."""
    if ORIGIN not in manifest:
        return np.ones(len(manifest), bool)
    return (manifest[ORIGIN] == "").to_numpy()


def render(
    paths: Sequence[str], digests: Sequence[str], rounds: Sequence[int], cracked: Sequence[bool], seed: int
) -> pd.DataFrame:
    """Draw composites that are not in the cache yet; gives path, width, height and sha256 of each.

    Args:
        paths: Parents.
        digests: sha256 of the parents' bytes.
        rounds: Tells the composites of one parent apart.
        cracked: Whether a crack is drawn.
        seed: From 0.
    """
    folder = cache.folder("composites", f"v{VERSION}-{synthetic.GENERATOR_VERSION}-{seed}")
    files = [
        folder / digest[:2] / f"{digest[:32]}-{number}-{'cracked' if crack else 'sound'}.jpg"
        for digest, number, crack in zip(digests, rounds, cracked, strict=True)
    ]

    def work(places: Sequence[int]) -> list[tuple[str, int, int, str]]:
        return [_one(files[at], paths[at], digests[at], rounds[at], cracked[at], seed) for at in places]

    chunks = [range(start, min(start + _CHUNK, len(files))) for start in range(0, len(files), _CHUNK)]
    rows: list[tuple[str, int, int, str]] = []
    with ThreadPoolExecutor() as pool, progress.bar(len(files), "draw look-alikes and cracks", "img") as shown:
        for found in pool.map(work, chunks):
            rows += found
            shown.update(len(found))
    return pd.DataFrame(rows, columns=["path", "width", "height", "sha256"], dtype=object)


def _one(file: Path, parent: str, digest: str, number: int, cracked: bool, seed: int) -> tuple[str, int, int, str]:
    if not file.exists():
        numbers = (seed, number, *(int(digest[at : at + 8], 16) for at in range(0, 32, 8)))
        scene = synthetic.compose(images.upright(parent), seed=numbers, cracked=cracked)
        quality = int(np.random.default_rng([*numbers, int(cracked)]).integers(_QUALITY[0], _QUALITY[1] + 1))
        file.parent.mkdir(exist_ok=True)
        picture = Image.fromarray(scene.image)
        atomic.write(file, lambda target: picture.save(target, format="JPEG", quality=quality))
    content = file.read_bytes()
    width, height = images.inspect(content)
    return str(file), width, height, hashlib.sha256(content).hexdigest()
