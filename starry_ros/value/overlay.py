"""Camera images with the value map lit up in them, landing marks, and a caption bar.

Shapes: H = h rows and W = w columns of a camera's image, C = 3 channels, uint8 RGB; values_hw in 0..1. Where the value
is low the image stays as it is; opacity and brightness of the colour rise with the value. Event 0 (next contact) is
warm with a ringed cross, event 1 (the one after) cool with a diamond: they differ in shape as well as in colour.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import cv2
import numpy as np

from starry_ros.canvas.layout import CanvasLayout
from starry_ros.errors import InputError
from starry_ros.types import F32, U8, LandingPoint, ValueMap
from starry_ros.value.colour import LEVELS, levels, robust_range, table
from starry_ros.value.project import ValueProjector, landing_in_camera
from starry_ros.value.scale_bar import draw_scale_bar

EVENT_MAPS = ("ember", "tide")
EVENT_MARK_RGB = ((255, 214, 92), (222, 252, 244))
FADE_IN = (0.06, 0.60)  # opacity is zero below the first value and full above the second
DIRECTIONS = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
ARMS = [np.array([0.5 * direction, 1.6 * direction]) for direction in DIRECTIONS]
DIAMOND = np.vstack([DIRECTIONS, DIRECTIONS[:1]])
RING = np.stack([np.cos(np.linspace(0, 2 * np.pi, 33)), np.sin(np.linspace(0, 2 * np.pi, 33))], axis=-1)
INK_RGB, PAPER_RGB, DIM_RGB = (12, 14, 18), (245, 246, 248), (168, 176, 188)
NO_EXECUTOR, SILENT_S = "NO EXECUTOR", 2.5
"""Shown in place of the mode once the executor, which says it every second or more often, has been silent so long."""
MODE_RGB = {"RUN": (90, 220, 130), "SLOW": (240, 200, 80), "HOLD": (120, 170, 250), "STOP": (240, 140, 60),
            "FAULT": (250, 80, 80), NO_EXECUTOR: (250, 80, 80)}
PLAIN_RGB = DIM_RGB
SUBPIXEL_BITS = 4
FONT = cv2.FONT_HERSHEY_SIMPLEX


def blend(
    image_HWC: U8, values_hw: F32, alpha: float = 0.8, colour_map: str = "ember", low: float = 0.0, high: float = 1.0,
    out: U8 | None = None,
) -> U8:
    """Image [h, w, 3] with the values in colour on top; `alpha` is the opacity of the highest value.

    `out` may be the image itself. Raises InputError if the sizes differ.
    """
    size = image_HWC.shape[:2]
    if values_hw.shape != size:
        raise InputError("overlay", "image and values differ in size", got=values_hw.shape, expected=size)
    keep, light = _blend_tables(colour_map, alpha)
    level_hw = levels(values_hw, low, high)
    kept = cv2.multiply(image_HWC, cv2.applyColorMap(level_hw, keep), scale=1 / 255)
    return cast(U8, cv2.add(kept, cv2.applyColorMap(level_hw, light), dst=out))


@lru_cache(maxsize=16)
def _blend_tables(colour_map: str, alpha: float) -> tuple[U8, U8]:
    """By level, [256, 1, 3]: what is kept of the image (0..255 for 0..1), and the light added to it."""
    value = np.arange(LEVELS) / (LEVELS - 1)
    t = np.clip((value - FADE_IN[0]) / (FADE_IN[1] - FADE_IN[0]), 0.0, 1.0)
    opacity = (alpha * t * t * (3.0 - 2.0 * t))[:, None]
    keep = np.repeat(np.round(255 * (1.0 - opacity)), 3, axis=1)
    light = np.round(opacity * table(colour_map))
    return keep.astype(np.uint8)[:, None], light.astype(np.uint8)[:, None]


@dataclass(frozen=True)
class Caption:
    """Text of the bar: the sentence on the left, the mode in a pill of colour `mode_rgb` on the right."""

    sentence: str
    mode: str = ""
    mode_rgb: tuple[int, int, int] = DIM_RGB


@dataclass(frozen=True)
class Style:
    """How values look. `alpha` is the opacity of the highest value, `colour_maps` one a contact event.

    The colours span `low` to `high`, or, with `robust_percent`, from 0 to that percentile of the map in hand.
    """

    alpha: float = 0.8
    colour_maps: tuple[str, str] = EVENT_MAPS
    low: float = 0.0
    high: float = 1.0
    robust_percent: float | None = None
    scale_bar: bool = False
    min_confidence: float = 0.15

    def span(self, value_map: ValueMap) -> tuple[float, float]:
        """Values at the dark and at the bright end for this map."""
        if self.robust_percent is None:
            return self.low, self.high
        return robust_range(value_map.values_EHW, self.robust_percent)


class OverlayPainter:
    """Paints overlays for the cameras of one layout. Weights, tables and caption bars are computed once and kept.

    `style` may be replaced between two pictures.
    """

    def __init__(
        self, layout: CanvasLayout, stride_px: int, *, alpha: float = 0.8, min_confidence: float = 0.15,
        style: Style | None = None,
    ) -> None:
        self.layout = layout
        self.style = style or Style(alpha=alpha, min_confidence=min_confidence)
        self.projector = ValueProjector(layout, stride_px)

    def paint(
        self, camera: str, image_HWC: U8, value_map: ValueMap | None, caption: Caption | None = None,
        out: U8 | None = None,
    ) -> U8:
        """Overlay [h, w, 3] on a camera's image, in `out` if given; without a map only the caption is drawn.

        Raises InputError if the image is not of the camera's size or the map is not of this layout.
        """
        canvas = self._copy(camera, image_HWC, out)
        if value_map is not None:
            span = self.style.span(value_map)
            for event in reversed(range(min(len(value_map.values_EHW), len(EVENT_MAPS)))):
                self._light(canvas, value_map, camera, event, span)
            self._mark(canvas, camera, value_map.landing)
            if self.style.scale_bar:
                draw_scale_bar(canvas, self.style.colour_maps, span)
        if caption is not None and (caption.sentence or caption.mode):
            _draw_caption(canvas, caption)
        return canvas

    def _copy(self, camera: str, image_HWC: U8, out: U8 | None) -> U8:
        tile = self.layout.tile(camera)
        shape = (tile.camera_height_px, tile.camera_width_px, 3)
        if image_HWC.shape != shape or image_HWC.dtype != np.uint8:
            got = f"{image_HWC.dtype} {image_HWC.shape}"
            raise InputError(f"camera {camera}", "image has the wrong size or type", got=got, expected=f"uint8 {shape}")
        canvas: U8 = np.empty(shape, dtype=np.uint8) if out is None else out
        np.copyto(canvas, image_HWC)
        return canvas

    def _light(self, canvas: U8, value_map: ValueMap, camera: str, event: int, span: tuple[float, float]) -> None:
        low, high = span
        region = self.projector.region(value_map, camera, event, floor=low + FADE_IN[0] / 2 * (high - low))
        if region is not None:
            part = canvas[region.rect.slices]
            part[:] = blend(part, region.values_hw, self.style.alpha, self.style.colour_maps[event], low, high)

    def _mark(self, canvas: U8, camera: str, landing: Sequence[LandingPoint]) -> None:
        least = self.style.min_confidence
        for point in sorted(landing, key=lambda p: -p.event):
            if point.camera != camera or point.event >= len(EVENT_MAPS) or not point.confidence >= least:
                continue
            u_px, v_px = landing_in_camera(self.layout, point)
            if -0.5 <= u_px < canvas.shape[1] - 0.5 and -0.5 <= v_px < canvas.shape[0] - 0.5:
                _draw_mark(canvas, float(u_px), float(v_px), point.event)


def _draw_mark(canvas: U8, u_px: float, v_px: float, event: int) -> None:
    """A ringed cross (event 0) or a diamond (event 1), dark outline under a bright line."""
    radius = max(6.5, canvas.shape[0] / 40)
    line = max(1, round(canvas.shape[0] / 260))
    shapes = [radius * RING, *(radius * arm for arm in ARMS)] if event == 0 else [radius * DIAMOND]
    fixed = [np.round((np.array([u_px, v_px]) + shape) * (1 << SUBPIXEL_BITS)).astype(np.int32) for shape in shapes]
    for colour, width in ((INK_RGB, line + 2), (EVENT_MARK_RGB[event], line)):
        cv2.polylines(canvas, fixed, False, colour, width, cv2.LINE_AA, SUBPIXEL_BITS)


def _draw_caption(canvas: U8, caption: Caption) -> None:
    """Darken the bottom strip and write on it."""
    ink, opacity = _caption_bar(canvas.shape[1], _bar_height(canvas.shape[0]), caption)
    strip = canvas[-ink.shape[0]:]
    kept = cv2.multiply(strip, opacity, scale=1 / 255)
    cv2.add(kept, ink, dst=strip)


def _bar_height(height_px: int) -> int:
    return max(18, round(height_px * 0.08))


@lru_cache(maxsize=32)
def _caption_bar(width: int, height: int, caption: Caption) -> tuple[U8, U8]:
    """Premultiplied ink [height, width, 3], and how much of the image stays visible under it (0..255)."""
    bar = np.full((height, width, 3), INK_RGB, dtype=np.uint8)
    margin, right = height // 3, width - height // 3
    if caption.mode:
        right = _draw_pill(bar, caption.mode, caption.mode_rgb, right) - margin
    text = _shorten(caption.sentence, right - margin, 0.5 * height)
    _write(bar, text, margin, 0.5 * height, PAPER_RGB)
    cover = np.full((height, width, 1), 0.72)
    cover = np.maximum(cover, bar.max(axis=2, keepdims=True) / 255.0)
    ink = np.round(bar * cover).astype(np.uint8)
    return ink, np.repeat(np.round(255 * (1.0 - cover)), 3, axis=2).astype(np.uint8)


def _draw_pill(bar: U8, text: str, colour_rgb: tuple[int, int, int], right: int) -> int:
    """Text in a rounded frame that ends at column `right`; returns the column where it begins."""
    height = bar.shape[0]
    size, pad, radius = 0.42 * height, height // 3, round(0.36 * height)
    left = int(right - _text_width(text, size) - 2 * pad)
    middle = height // 2
    for colour, inset in ((colour_rgb, 0), (INK_RGB, max(1, height // 20))):
        r = radius - inset
        cv2.rectangle(bar, (left + radius, middle - r), (right - radius, middle + r), colour, -1)
        for x in (left + radius, right - radius):
            cv2.circle(bar, (x, middle), r, colour, -1, cv2.LINE_AA)
    _write(bar, text, left + pad, size, colour_rgb)
    return left


def _write(bar: U8, text: str, left: int, size: float, colour_rgb: tuple[int, int, int]) -> None:
    (_, ascent), _ = cv2.getTextSize("H", FONT, _scale(size), 1)
    base = (left, (bar.shape[0] + ascent) // 2)
    cv2.putText(bar, text, base, FONT, _scale(size), colour_rgb, 1, cv2.LINE_AA)


def _scale(size: float) -> float:
    """Hershey scale of letters that need `size` pixels from top to bottom."""
    return size / 30.0


def _text_width(text: str, size: float) -> int:
    (width, _), _ = cv2.getTextSize(text, FONT, _scale(size), 1)
    return int(width)


def _shorten(text: str, width: int, size: float) -> str:
    """The text on one line, cut with dots where it does not fit."""
    text = " ".join(text.split())
    most = max(1, width)  # a letter is at least a pixel wide
    if len(text) <= most and _text_width(text, size) <= width:
        return text
    fitting = bisect_right(range(most + 1), width, key=lambda count: _text_width(text[:count] + "...", size))
    return text[: max(0, fitting - 1)].rstrip() + "..."
