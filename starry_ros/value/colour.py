"""Colour maps for values in 0..1: ramps computed in OKLab so that equal steps look equal.

`ember` (purple, red, orange, pale yellow), `tide` (indigo, blue, teal, pale green), `fern` (violet, teal, green,
yellow) and `slate` (cool greys). Lightness rises all the way, so each reads correctly with any colour vision and in
grey print; warm ember and cool tide stay apart for red-green blindness.
OKLab: Ottosson 2020, "A perceptual color space for image processing".
"""

from __future__ import annotations

from functools import cache
from typing import cast

import cv2
import numpy as np
from numpy.typing import ArrayLike

from starry_ros.errors import ConfigError
from starry_ros.types import F32, F64, U8

LEVELS = 256
RAMPS_LCH: dict[str, tuple[tuple[float, float, float], ...]] = {  # lightness, chroma, hue in degrees
    "ember": ((0.22, 0.09, 305), (0.42, 0.17, 355), (0.62, 0.20, 30), (0.79, 0.16, 68), (0.96, 0.10, 105)),
    "tide": ((0.22, 0.09, 285), (0.42, 0.16, 268), (0.62, 0.13, 235), (0.79, 0.12, 190), (0.95, 0.07, 160)),
    "fern": ((0.22, 0.09, 310), (0.40, 0.10, 270), (0.58, 0.09, 205), (0.76, 0.15, 145), (0.95, 0.14, 108)),
    "slate": ((0.18, 0.02, 265), (0.38, 0.03, 265), (0.58, 0.03, 260), (0.78, 0.02, 250), (0.97, 0.01, 240)),
}
_LMS_OF_LAB = np.array([
    [1.0, 0.3963377774, 0.2158037573], [1.0, -0.1055613458, -0.0638541728], [1.0, -0.0894841775, -1.2914855480],
])
_RGB_OF_LMS = np.array([
    [4.0767416621, -3.3077115913, 0.2309699292],
    [-1.2684380046, 2.6097574011, -0.3413193965],
    [-0.0041960863, -0.7034186147, 1.7076147010],
])


@cache
def table(name: str) -> U8:
    """RGB of 256 levels [256, 3], dark to bright, read-only."""
    if name not in RAMPS_LCH:
        raise ConfigError("colour map", "is unknown", got=repr(name), expected=sorted(RAMPS_LCH))
    lightness, chroma, hue = np.array(RAMPS_LCH[name]).T
    anchors = np.stack([lightness, chroma * np.cos(np.radians(hue)), chroma * np.sin(np.radians(hue))], axis=-1)
    rgb = np.round(255 * _srgb_of_oklab(_evenly(anchors))).astype(np.uint8)
    rgb.setflags(write=False)
    return rgb


def colourise(values_hw: F32, name: str = "ember", low: float = 0.0, high: float = 1.0) -> U8:
    """RGB image [h, w, 3] of values; `low` and below is the dark end, `high` and above the bright one."""
    return cast(U8, cv2.applyColorMap(levels(values_hw, low, high), np.ascontiguousarray(table(name))[:, None]))


def levels(values_hw: F32, low: float = 0.0, high: float = 1.0) -> U8:
    """Values to levels 0..255, rounded, clipped outside [low, high]."""
    if not low < high:
        raise ConfigError("colour range", "is empty", got=[low, high], expected="low < high")
    scale = (LEVELS - 1) / (high - low)
    return np.clip(np.round((values_hw - low) * scale), 0, LEVELS - 1).astype(np.uint8)


def robust_range(values: ArrayLike, percent: float = 99.5, least: float = 1e-3) -> tuple[float, float]:
    """(0, high) such that `percent` of the values lie below `high`, and `high` is never under `least`."""
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    return 0.0, max(least, float(np.percentile(finite, percent)) if finite.size else least)


def _evenly(anchors_NC: F64) -> F64:
    """`LEVELS` points along the smooth curve through the anchors, equal distances apart."""
    fine = np.linspace(0, len(anchors_NC) - 1, 20 * LEVELS)
    curve = np.stack([_smooth(fine, column) for column in anchors_NC.T], axis=-1)
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    at = np.linspace(0, length[-1], LEVELS)
    return np.stack([np.interp(at, length, column) for column in curve.T], axis=-1)


def _smooth(at: F64, knots: F64) -> F64:
    """Catmull-Rom curve through equally spaced knots, straight at the ends."""
    k = np.concatenate([[2 * knots[0] - knots[1]], knots, [2 * knots[-1] - knots[-2]]])
    i = np.minimum(at.astype(int), len(knots) - 2)
    t = at - i
    p0, p1, p2, p3 = (k[i + step] for step in range(4))
    curve: F64 = 2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * (p1 - p2) + p3 - p0) * t**3
    return curve / 2


def _srgb_of_oklab(lab_N3: F64) -> F64:
    """OKLab to sRGB in 0..1, clipped to the gamut."""
    linear = np.clip((lab_N3 @ _LMS_OF_LAB.T) ** 3 @ _RGB_OF_LMS.T, 0.0, 1.0)
    srgb: F64 = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return srgb
