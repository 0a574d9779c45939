"""Augmentation: some episodes seen in another light and on another table, by a gain of each colour channel.

An episode keeps its gains from the first frame to the last, as light does. Which episodes, and which gains, follows
from the first picture alone, so that the same data always look the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starry_ros.errors import ConfigError
from starry_ros.training.scenes import PLAIN, View
from starry_ros.types import U8

LIGHT = (0.75, 1.2)
CHANNEL = (0.82, 1.18)


def tinted(view: View, share: float) -> View:
    """`view`, with this share of the episodes tinted. Raises ConfigError on a view that holds more than colours."""
    if not 0.0 <= share <= 1.0:
        raise ConfigError("--tint", "is no share", got=share, expected="0 to 1")
    if share == 0.0:
        return view
    if view.name != PLAIN.name:
        raise ConfigError("--tint", "is for canvases of colour alone", got=view.name, expected=PLAIN.name)

    def compose(arrays: Mapping[str, NDArray[Any]]) -> U8:
        canvas_THWC = view.compose(arrays)
        rng = np.random.default_rng(zlib.crc32(canvas_THWC[0].tobytes()))
        return tint(canvas_THWC, gains(rng)) if rng.random() < share else canvas_THWC

    return View(f"{view.name}, {share:g} tinted", view.needs, compose)


def gains(rng: np.random.Generator) -> NDArray[np.float64]:
    """Gains [3] of red, green and blue."""
    return rng.uniform(*LIGHT) * rng.uniform(*CHANNEL, 3)


def tint(canvas_THWC: U8, gain_C: NDArray[np.float64]) -> U8:
    """Canvases with each channel multiplied, rounded and held to 0..255."""
    levels_LC = np.clip(np.round(np.arange(256)[:, None] * gain_C), 0, 255).astype(np.uint8)
    return np.stack([levels_LC[canvas_THWC[..., i], i] for i in range(3)], axis=-1)
