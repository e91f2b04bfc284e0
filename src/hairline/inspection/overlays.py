"""Overlays: the heat map drawn over the photo, with outlined regions and a colour scale."""

from __future__ import annotations

import functools
import io
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from hairline.inspection.inspector import Inspection
from hairline.model.decision import CANNOT_TELL

# Colour and opacity by probability: transparent where it is low, so that the surface stays visible; else from yellow to
# dark red, readable on grey concrete and in print.
_STOPS = np.array([0.0, 0.1, 0.35, 0.6, 0.85, 1.0])
_COLOURS = np.array([(255, 221, 87), (255, 221, 87), (255, 196, 61), (250, 136, 35), (226, 62, 44), (180, 18, 52)])
_OPACITY = np.array([0.0, 0.0, 0.30, 0.40, 0.46, 0.50])
_POSITIVE, _HALO, _CANNOT_TELL = (200, 16, 46), (255, 255, 255), (39, 93, 173)  # of outlines
_INK, _PAPER, _FAINT = (38, 43, 51), (255, 255, 255), (120, 128, 138)
_QUALITY = 82


def draw(photo: Image.Image, inspection: Inspection, *, longest_px: int) -> Image.Image:
    """Draw the heat map over a photo.

    Args:
        photo: RGB.
        inspection: Results of the photo.
        longest_px: Longest side of the overlay in pixels; a larger photo is reduced by a whole number.

    Returns:
        An RGB picture; regions of the positive class are outlined in red, "cannot tell" in dashed blue.
    """
    # Four times as fast as resizing to an arbitrary size.
    reduced = photo.reduce(-(-max(photo.size) // longest_px))
    # A cell that shrinks to nothing still has edges to outline.
    columns = np.round(inspection.heat.x_edges * (reduced.width / photo.width)).astype(np.int64)
    rows = np.round(inspection.heat.y_edges * (reduced.height / photo.height)).astype(np.int64)
    heat = replace(inspection.heat, x_edges=columns, y_edges=rows)
    colour, opacity = _tint(inspection.probabilities)
    mask = Image.fromarray(heat.pixels(np.rint(opacity * 255).astype(np.uint8)))
    tint = Image.fromarray(heat.pixels(np.rint(colour).astype(np.uint8)))
    picture = Image.composite(tint, reduced, mask)
    pen = ImageDraw.Draw(picture)
    thickness = max(2, round(max(reduced.size) / 500))
    _outline(pen, inspection.decided == CANNOT_TELL, rows, columns, thickness, _CANNOT_TELL, dashes=4)
    _outline(pen, inspection.decided == inspection.positive, rows, columns, thickness, _POSITIVE, dashes=0)
    return picture


def with_scale(picture: Image.Image, positive: str, threshold: float | None) -> Image.Image:
    """Add a colour scale below an overlay; one too narrow for text is returned unchanged.

    Args:
        picture: Overlay from `draw`.
        positive: Name of the positive class.
        threshold: Marked on the scale; None if the most probable class is predicted.
    """
    unit = int(np.clip(picture.width / 60, 9, 22))  # text height in pixels
    if picture.width < 22 * unit:
        return picture
    strip = int(2.6 * unit)
    whole = Image.new("RGB", (picture.width, picture.height + strip), _PAPER)
    whole.paste(picture, (0, 0))
    pen, font = ImageDraw.Draw(whole), _font(unit)
    middle, left, length = picture.height + strip // 2, unit, min(14 * unit, picture.width // 3)
    colour, opacity = _tint(np.linspace(0, 1, length, dtype=np.float32)[None])
    concrete = np.array([168.0, 168.0, 165.0])
    band = concrete + (colour - concrete) * np.minimum(1, 1.6 * opacity)[..., None]
    bar = Image.fromarray(np.repeat(band.astype(np.uint8), unit, axis=0))
    pen.text((left, middle), "0", _FAINT, font, anchor="lm")
    left += unit
    whole.paste(bar, (left, middle - unit // 2))
    pen.text((left + length + unit // 2, middle), "1", _FAINT, font, anchor="lm")
    if threshold is not None:
        mark = left + round(threshold * (length - 1))
        pen.line([(mark, middle - unit), (mark, middle + unit - 1)], _INK, max(2, unit // 7))
    name = positive if positive.isascii() and len(positive) <= 24 else "positive class"
    text = f"probability of {name}"
    if threshold is not None:
        text += f"; mark: threshold {threshold:.3g}"
    place = left + length + 2 * unit
    while text and pen.textlength(text, font) > picture.width - place - unit // 2:
        text = text.rpartition(";" if ";" in text else " ")[0]
    pen.text((place, middle), text, _INK, font, anchor="lm")
    return whole


def jpeg(picture: Image.Image, longest_px: int | None = None, quality: int = _QUALITY) -> bytes:
    """Encode a picture as JPEG without EXIF.

    Args:
        picture: RGB.
        longest_px: Longest side after resizing; None keeps the size.
        quality: 1 to 95.
    """
    if longest_px is not None and max(picture.size) > longest_px:
        factor = longest_px / max(picture.size)
        size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
        picture = picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _tint(probabilities: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return colour [..., 3] and opacity [...] of probabilities."""
    colour = np.stack([np.interp(probabilities, _STOPS, _COLOURS[:, channel]) for channel in range(3)], axis=-1)
    return colour, np.interp(probabilities, _STOPS, _OPACITY)


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


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
