"""Cut photos with pixel masks into labelled tiles, a folder a class: a test on surfaces a model never saw."""

from __future__ import annotations

import argparse
from pathlib import Path

import measure
import numpy as np
from PIL import Image

# A tile's name ends in its place; what comes before is the photo: split.group_by=regex split.pattern=<this>.
PHOTO_PATTERN = r"([^/\\]+)_x\d+_y\d+\.png$"
_CRACK = 230  # from this grey value on a mask's pixel is a crack: sets mark other things in darker greys


def paired(photos: Path, masks: Path) -> list[tuple[Path, Path]]:
    """Give the photos of a folder, each with the mask of the same name, but for the suffix, in another folder.

    Raises:
        SystemExit: If there is no such folder or pair.
    """
    for folder in (photos, masks):
        if not folder.is_dir():
            raise SystemExit(f"{folder}: no such folder; expected folders of photos and of masks with the same names")
    named = {path.stem: path for path in masks.iterdir()}
    pairs = [(path, named[path.stem]) for path in sorted(photos.iterdir()) if path.stem in named]
    if not pairs:
        raise SystemExit(f"no photo in {photos} has a mask of the same name in {masks}")
    return pairs


def cracks(mask: Path) -> np.ndarray:
    """Read a mask: bool [height, width], where a crack is."""
    with Image.open(mask) as image:
        return np.asarray(image.convert("L")) >= _CRACK


def cracked(crack: np.ndarray, boxes: np.ndarray, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Label tiles by the crack pixels in them.

    Args:
        crack: bool [height, width], of the photo.
        boxes: int64 [tiles, 4]: x, y, width and height of each.
        pixels: Crack pixels from which on a tile is cracked.

    Returns:
        bool [tiles], whether it is cracked; and bool [tiles], whether that is clear: tiles with some crack pixels, but
        fewer, are neither.
    """
    counts = np.array([int(crack[y : y + height, x : x + width].sum()) for x, y, width, height in boxes], np.int64)
    return counts >= pixels, (counts >= pixels) | (counts == 0)


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
    counts = {"cracked": 0, "uncracked": 0}
    for name in counts:
        (target / name).mkdir(parents=True)
    for photo, mask in paired(photos, masks):
        image = np.asarray(Image.open(photo).convert("RGB"))
        rows, columns = (range(0, side - size + 1, size) for side in image.shape[:2])
        boxes = np.array([(x, y, size, size) for y in rows for x in columns], np.int64).reshape(-1, 4)
        for (x, y, _, _), found, clear in zip(boxes.tolist(), *cracked(cracks(mask), boxes, pixels), strict=True):
            if clear:
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
