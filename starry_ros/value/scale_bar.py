"""A scale bar: which colour means which value. Drawn once a style and kept.

Shapes: H rows, W columns, 3 channels, uint8 RGB.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from starry_ros.types import U8
from starry_ros.value.colour import LEVELS, table

NAMES = ("next", "after")
INK_RGB, PAPER_RGB = (12, 14, 18), (245, 246, 248)
FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_scale_bar(canvas_HWC: U8, colour_maps: tuple[str, ...], span: tuple[float, float]) -> None:
    """Draw a bar a contact event into the upper right corner: its colours from dark to bright, and the span's ends."""
    low, high = (float(f"{value:.2g}") for value in span)
    plate = _plate(max(120, canvas_HWC.shape[0]), colour_maps, low, high)
    margin = canvas_HWC.shape[0] // 60
    height, width = min(plate.shape[0], canvas_HWC.shape[0]), min(plate.shape[1], canvas_HWC.shape[1] - margin)
    corner = canvas_HWC[margin : margin + height, canvas_HWC.shape[1] - margin - width : canvas_HWC.shape[1] - margin]
    corner[:] = plate[: corner.shape[0], :width]


@lru_cache(maxsize=64)
def _plate(height_px: int, colour_maps: tuple[str, ...], low: float, high: float) -> U8:
    """The plate for images of that height [h, w, 3]: one row an event, one row of figures."""
    row = max(10, round(height_px / 34))
    scale, pad = row / 30.0, row // 3
    text = max(_width(name, scale) for name in NAMES) + 2 * pad
    bar, rows = 6 * row, len(colour_maps)
    plate = np.full(((rows + 1) * row + 2 * pad, text + bar + pad, 3), INK_RGB, np.uint8)
    for index, name in enumerate(colour_maps):
        top = pad + index * row
        ramp = table(name)[np.linspace(0, LEVELS - 1, bar).round().astype(int)]
        plate[top + row // 6 : top + row - row // 6, text : text + bar] = ramp
        _write(plate, NAMES[index], pad, top, row, scale)
    figures = pad + rows * row
    _write(plate, f"{low:g}", text, figures, row, scale)
    _write(plate, f"{high:g}", text + bar - _width(f"{high:g}", scale), figures, row, scale)
    return plate


def _width(text: str, scale: float) -> int:
    return int(cv2.getTextSize(text, FONT, scale, 1)[0][0])


def _write(plate: U8, text: str, left: int, top: int, row: int, scale: float) -> None:
    ascent = int(cv2.getTextSize("H", FONT, scale, 1)[0][1])
    cv2.putText(plate, text, (left, top + (row + ascent) // 2), FONT, scale, PAPER_RGB, 1, cv2.LINE_AA)
