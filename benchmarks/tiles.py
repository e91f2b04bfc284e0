"""Cut photos with pixel masks into labelled tiles, one folder per class, to test models on other surfaces."""

from __future__ import annotations

import argparse
from pathlib import Path

import measure
import numpy as np
from PIL import Image

# A tile's name is that of its photo plus its position. Use: split.group_by=regex split.pattern=<this>.
PHOTO_PATTERN = r"([^/\\]+)_x\d+_y\d+\.png$"
_CRACK = 230  # grey value from which a mask pixel is a crack; data sets mark other things in darker greys


def pairs(photos: Path, masks: Path) -> list[tuple[Path, Path]]:
    """Return pairs of photo and mask with the same name, apart from the suffix.

    Raises:
        SystemExit: If a folder is missing or there is no pair.
    """
    for folder in (photos, masks):
        if not folder.is_dir():
            raise SystemExit(f"{folder}: no such folder; expected folders of photos and of masks with the same names")
    named = {path.stem: path for path in masks.iterdir()}
    found = [(path, named[path.stem]) for path in sorted(photos.iterdir()) if path.stem in named]
    if not found:
        raise SystemExit(f"no photo in {photos} has a mask of the same name in {masks}")
    return found


def cracks(mask: Path) -> np.ndarray:
    """Read a mask: bool [height, width], True for cracks."""
    with Image.open(mask) as image:
        return np.asarray(image.convert("L")) >= _CRACK


def cracked(crack: np.ndarray, boxes: np.ndarray, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Label tiles by their number of crack pixels.

    Args:
        crack: The photo's mask, bool [height, width].
        boxes: x, y, width and height of each tile, int64 [tiles, 4].
        pixels: Least number of crack pixels of a cracked tile.

    Returns:
        Whether each tile is cracked, bool [tiles]; and whether its label is clear, bool [tiles]: tiles with fewer than
        `pixels` crack pixels, but more than 0, are ambiguous.
    """
    counts = np.array([int(crack[y : y + height, x : x + width].sum()) for x, y, width, height in boxes], np.int64)
    return counts >= pixels, (counts >= pixels) | (counts == 0)


def cut(photos: Path, masks: Path, target: Path, size: int, pixels: int) -> dict[str, int]:
    """Write adjacent tiles as PNG files named after photo and position.

    Args:
        photos: Folder of photos.
        masks: Folder of masks with the same names, apart from the suffix.
        target: Parent of the new folders `cracked` and `uncracked`.
        size: Side of a tile in pixels.
        pixels: Least number of crack pixels of a cracked tile; ambiguous tiles are left out.

    Returns:
        Number of tiles of each class.
    """
    counts = {"cracked": 0, "uncracked": 0}
    for name in counts:
        (target / name).mkdir(parents=True)
    for photo, mask in pairs(photos, masks):
        image = np.asarray(Image.open(photo).convert("RGB"))
        rows, columns = (range(0, side - size + 1, size) for side in image.shape[:2])
        boxes = np.array([(x, y, size, size) for y in rows for x in columns], np.int64).reshape(-1, 4)
        for (x, y, _, _), positive, clear in zip(boxes.tolist(), *cracked(cracks(mask), boxes, pixels), strict=True):
            if clear:
                label = "cracked" if positive else "uncracked"
                tile = Image.fromarray(image[y : y + size, x : x + size])
                tile.save(target / label / f"{photo.stem}_x{x:04}_y{y:04}.png")
                counts[label] += 1
    return counts


def main() -> None:
    """Cut, and print the number of tiles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of photos")
    parser.add_argument("--masks", type=Path, required=True, help="folder of masks with the photos' names")
    parser.add_argument("--tiles", type=Path, required=True, help="new folder for the tiles")
    parser.add_argument("--size", type=int, default=128, help="side of a tile in pixels")
    parser.add_argument("--pixels", type=int, default=1, help="least number of crack pixels of a cracked tile")
    settings = parser.parse_args()
    measure.report(cut(settings.images, settings.masks, settings.tiles, settings.size, settings.pixels))


if __name__ == "__main__":
    main()
