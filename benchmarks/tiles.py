"""Cut photos with pixel masks into labelled tiles, a folder a class: a test on surfaces a model never saw."""

from __future__ import annotations

import argparse
from pathlib import Path

import measure
import numpy as np
from PIL import Image

_CRACK = 230  # from this grey value on a mask's pixel is a crack: sets mark other things in darker greys


def cut(photos: Path, masks: Path, target: Path, size: int, pixels: int) -> dict[str, int]:
    """Write whole tiles, side by side, as PNG files named by photo and place.

    Args:
        photos: Folder of photos.
        masks: Folder of masks of the same names, but for the suffix.
        target: Gets the folders `cracked` and `uncracked`.
        size: Pixels a side of a tile.
        pixels: Crack pixels from which on a tile is cracked; those with fewer, but some, are left out.

    Returns:
        Number of tiles of each class.
    """
    named = {path.stem: path for path in masks.iterdir()}
    counts = {"cracked": 0, "uncracked": 0}
    for name in counts:
        (target / name).mkdir(parents=True)
    for photo in sorted(photos.iterdir()):
        image = np.asarray(Image.open(photo).convert("RGB"))
        crack = np.asarray(Image.open(named[photo.stem]).convert("L")) >= _CRACK
        for y in range(0, image.shape[0] - size + 1, size):
            for x in range(0, image.shape[1] - size + 1, size):
                found = int(crack[y : y + size, x : x + size].sum())
                if 0 < found < pixels:
                    continue
                label = "cracked" if found else "uncracked"
                tile = Image.fromarray(image[y : y + size, x : x + size])
                tile.save(target / label / f"{photo.stem}_x{x:04}_y{y:04}.png")
                counts[label] += 1
    return counts


def main() -> None:
    """Cut, and print how many tiles there are."""
    line = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    line.add_argument("--images", type=Path, required=True, help="folder of photos")
    line.add_argument("--masks", type=Path, required=True, help="folder of masks with the photos' names")
    line.add_argument("--tiles", type=Path, required=True, help="new folder for the tiles")
    line.add_argument("--size", type=int, default=128, help="pixels a side of a tile")
    line.add_argument("--pixels", type=int, default=1, help="crack pixels from which on a tile is cracked")
    chosen = line.parse_args()
    measure.report(cut(chosen.images, chosen.masks, chosen.tiles, chosen.size, chosen.pixels))


if __name__ == "__main__":
    main()
