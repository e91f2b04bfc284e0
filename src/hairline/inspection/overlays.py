"""The picture of an inspection: the heat map over the photo, regions outlined, a scale below."""

from __future__ import annotations

import functools
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from hairline.inspection.inspector import Inspection
from hairline.model.decision import CANNOT_TELL

# Colour and opacity over the probability: nothing where nothing was found, so that the surface stays visible; from
# yellow to dark red otherwise, readable on grey concrete and in print.
_STOPS = np.array([0.0, 0.1, 0.35, 0.6, 0.85, 1.0])
_COLOURS = np.array([(255, 221, 87), (255, 221, 87), (255, 196, 61), (250, 136, 35), (226, 62, 44), (180, 18, 52)])
_OPACITY = np.array([0.0, 0.0, 0.30, 0.40, 0.46, 0.50])
_OUTLINE, _HALO, _DOUBT = (200, 16, 46), (255, 255, 255), (39, 93, 173)
_INK, _PAPER, _FAINT = (38, 43, 51), (255, 255, 255), (120, 128, 138)
_QUALITY = 82


def draw(photo: Image.Image, found: Inspection, *, longest_px: int) -> Image.Image:
    """Draw the heat map over the photo.

    Args:
        photo: RGB.
        found: What was found in it.
        longest_px: Most pixels of the picture's longer side; a larger photo is reduced by a whole number.

    Returns:
        An RGB picture; regions of the positive class are outlined in red, cells that could not be told in dashed blue.
    """
    # By a whole number: four times as quick as any other size, and enough for the eye.
    shown = photo.reduce(-(-max(photo.size) // longest_px))
    # Cells' edges on the picture; a cell keeps at least its place where it shrinks to nothing.
    columns = np.round(found.heat.x_edges * (shown.width / photo.width)).astype(np.int64)
    rows = np.round(found.heat.y_edges * (shown.height / photo.height)).astype(np.int64)
    colour, opacity = _tint(found.probabilities)
    mask = _spread(np.rint(opacity * 255).astype(np.uint8), rows, columns)
    tint = _spread(np.rint(colour).astype(np.uint8), rows, columns)
    picture = Image.composite(Image.fromarray(tint), shown, Image.fromarray(mask))
    pen = ImageDraw.Draw(picture)
    thickness = max(2, round(max(shown.size) / 500))
    _outline(pen, found.decided == CANNOT_TELL, rows, columns, thickness, _DOUBT, dashed=True)
    _outline(pen, found.decided == found.positive, rows, columns, thickness, _OUTLINE, dashed=False)
    return picture


def with_scale(picture: Image.Image, positive: str, threshold: float | None) -> Image.Image:
    """Put a strip below the picture that says what its colours mean.

    Args:
        picture: From `draw`.
        positive: Name of the positive class.
        threshold: Marked on the scale; None where the most probable class wins.
    """
    unit = int(np.clip(picture.width / 60, 9, 22))  # height of the letters, in pixels
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
    """Encode a picture, without any EXIF.

    Args:
        picture: RGB.
        longest_px: Longest side that it is reduced to; None keeps its size.
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
    """Give colour [..., 3] and opacity [...] of probabilities."""
    colour = np.stack([np.interp(probabilities, _STOPS, _COLOURS[:, channel]) for channel in range(3)], axis=-1)
    return colour, np.interp(probabilities, _STOPS, _OPACITY)


def _spread(cells: NDArray[np.uint8], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.uint8]:
    return np.repeat(np.repeat(cells, np.diff(rows), axis=0), np.diff(columns), axis=1)


def _outline(
    pen: ImageDraw.ImageDraw,
    chosen: NDArray[np.bool_],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    thickness: int,
    colour: tuple[int, int, int],
    *,
    dashed: bool,
) -> None:
    """Draw the border between chosen cells and all others, with a light halo."""
    if not chosen.any():
        return
    padded = np.pad(chosen, 1)
    lines = []
    for row, column in zip(*np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1]), strict=True):
        lines.append((columns[column], rows[row], columns[column + 1], rows[row]))
    for row, column in zip(*np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1]), strict=True):
        lines.append((columns[column], rows[row], columns[column], rows[row + 1]))
    inner = columns[-1] - 1 - thickness // 2, rows[-1] - 1 - thickness // 2  # the photo's own border stays in sight
    for width, ink in ((thickness + 2, _HALO), (thickness, colour)):
        half = width // 2
        for x0, y0, x1, y1 in lines:
            x0, x1 = (int(np.clip(x, thickness // 2, inner[0])) for x in (x0, x1))
            y0, y1 = (int(np.clip(y, thickness // 2, inner[1])) for y in (y0, y1))
            if not dashed:
                pen.rectangle([x0 - half, y0 - half, x1 + half, y1 + half], ink)
            else:
                for part in range(0, 4):
                    at = [x0 + (x1 - x0) * part / 4, y0 + (y1 - y0) * part / 4]
                    to = [x0 + (x1 - x0) * (part + 0.5) / 4, y0 + (y1 - y0) * (part + 0.5) / 4]
                    pen.rectangle([at[0] - half, at[1] - half, to[0] + half, to[1] + half], ink)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
