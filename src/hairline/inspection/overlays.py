"""Pictures of a photo's results: its regions outlined, and its heat map."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from hairline.data import images
from hairline.inspection.inspector import Inspection
from hairline.model.decision import CANNOT_TELL

_POSITIVE, _HALO, _CANNOT_TELL = (200, 16, 46), (255, 255, 255), (39, 93, 173)  # of outlines
_QUALITY = 82
_HEATMAP_PX = 512  # longest side of a heat map


def reduced(photo: Image.Image, *, longest_px: int) -> Image.Image:
    """Reduce a photo by a whole number until its longest side is at most `longest_px`."""
    return photo.reduce(-(-max(photo.size) // longest_px))  # four times as fast as resizing to an arbitrary size


def draw(photo: Image.Image, inspection: Inspection) -> Image.Image:
    """Outline what was found on a photo; the surface itself stays visible.

    Args:
        photo: RGB, of any size.
        inspection: Results of the photo.

    Returns:
        An RGB picture; regions of the positive class are outlined in red, "cannot tell" in dashed blue.
    """
    heat = inspection.heat
    # A cell that shrinks to nothing still has edges to outline.
    columns = np.round(heat.x_edges * (photo.width / heat.x_edges[-1])).astype(np.int64)
    rows = np.round(heat.y_edges * (photo.height / heat.y_edges[-1])).astype(np.int64)
    picture = photo.copy()
    pen = ImageDraw.Draw(picture)
    thickness = max(1, round(max(photo.size) / 800))
    _outline(pen, inspection.decided == CANNOT_TELL, rows, columns, thickness, _CANNOT_TELL, dashes=4)
    _outline(pen, inspection.decided == inspection.positive, rows, columns, thickness, _POSITIVE, dashes=0)
    return picture


def heat_png(inspection: Inspection) -> bytes:
    """Encode the heat map as an 8-bit grey PNG that covers the photo: 0 to 255 for 0 to 1."""
    heat = inspection.heat
    cells = max(1, int(np.diff(heat.x_edges).min()), -(-int(max(heat.x_edges[-1], heat.y_edges[-1])) // _HEATMAP_PX))
    x, y = (
        np.searchsorted(edges, np.linspace(0, edges[-1], max(1, edges[-1] // cells), endpoint=False), "right") - 1
        for edges in (heat.x_edges, heat.y_edges)
    )
    # Where a pixel stands for several cells, it shows the highest: a crack may be one cell wide.
    highest = np.maximum.reduceat(np.maximum.reduceat(inspection.probabilities, y, axis=0), x, axis=1)
    values = np.rint(highest * 255).astype(np.uint8)
    return images.encoded(Image.fromarray(values), "PNG")


def jpeg(picture: Image.Image, longest_px: int | None = None, quality: int = _QUALITY) -> bytes:
    """Encode a picture as JPEG without EXIF.

    Args:
        picture: RGB.
        longest_px: Longest side after resizing; None keeps the size.
        quality: 1 to 95.
    """
    if longest_px is not None and max(picture.size) > longest_px:
        picture = picture.copy()
        picture.thumbnail((longest_px, longest_px), Image.Resampling.BILINEAR)
    return images.encoded(picture, "JPEG", quality=quality)


def _outline(
    pen: ImageDraw.ImageDraw,
    chosen: NDArray[np.bool_],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    thickness: int,
    colour: tuple[int, int, int],
    *,
    dashes: int,
) -> None:
    """Draw the border between chosen cells and all others with a white halo; `dashes` per cell, 0 for a solid line."""
    padded = np.pad(chosen, 1)
    horizontal = np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])
    vertical = np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])
    lines = [(columns[column], rows[row], columns[column + 1], rows[row]) for row, column in horizontal]
    lines += [(columns[column], rows[row], columns[column], rows[row + 1]) for row, column in vertical]
    least = thickness // 2  # lines along the photo's border are drawn inside it
    most_x, most_y = columns[-1] - 1 - least, rows[-1] - 1 - least
    parts = [(part / dashes, (part + 0.5) / dashes) for part in range(dashes)] or [(0, 1)]
    for width, ink in ((thickness + 2, _HALO), (thickness, colour)):
        half = width // 2
        for line in lines:
            x0, x1 = (int(np.clip(x, least, most_x)) for x in line[::2])
            y0, y1 = (int(np.clip(y, least, most_y)) for y in line[1::2])
            across, down = x1 - x0, y1 - y0
            for start, end in parts:
                upper = x0 + across * start - half, y0 + down * start - half
                lower = x0 + across * end + half, y0 + down * end + half
                pen.rectangle([upper, lower], ink)
