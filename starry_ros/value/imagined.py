"""What the model imagined, beside what came, and how far apart they are.

Shapes: H rows, W columns of the canvas, C = 3 channels, uint8 RGB.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from starry_ros.canvas.layout import CanvasLayout
from starry_ros.errors import InputError
from starry_ros.types import U8
from starry_ros.value.colour import colourise

SCALE, GAP_PX, BAR_PX = 2, 6, 26
INK_RGB, PAPER_RGB = (12, 14, 18), (245, 246, 248)
LARGEST_DIFFERENCE = 96.0
FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True)
class Imagined:
    """A canvas that was imagined at `made_ns` for `made_ns` plus the horizon."""

    made_ns: int
    image_HWC: U8


class ImaginedPairs:
    """Holds imagined canvases until the time comes that they were about."""

    def __init__(self, horizon_ns: int, tolerance_ns: int, keep: int = 16) -> None:
        self.horizon_ns, self._tolerance_ns = horizon_ns, tolerance_ns
        self._waiting: deque[Imagined] = deque(maxlen=keep)

    def imagined(self, made_ns: int, image_HWC: U8) -> None:
        """Add what was imagined."""
        self._waiting.append(Imagined(made_ns, image_HWC))

    def real(self, stamp_ns: int) -> Imagined | None:
        """What was imagined for this time, once; None when nothing was. Older ones are forgotten."""
        found = None
        while self._waiting and self._waiting[0].made_ns + self.horizon_ns <= stamp_ns + self._tolerance_ns:
            candidate = self._waiting.popleft()
            if abs(candidate.made_ns + self.horizon_ns - stamp_ns) <= self._tolerance_ns:
                found = candidate
        return found


def whole(layout: CanvasLayout, canvas_HWC: U8) -> bool:
    """Whether every camera is on a canvas: the tile of one that is missing or late is black."""
    return all(canvas_HWC[tile.rect.slices].any() for tile in layout.tiles)


def beside(pictures: Sequence[tuple[str, U8]]) -> U8:
    """Pictures of one size side by side, twice as large, each with its title."""
    columns = []
    for title, picture_HWC in pictures:
        large = np.repeat(np.repeat(picture_HWC, SCALE, axis=0), SCALE, axis=1)
        bar = np.full((BAR_PX, large.shape[1], 3), INK_RGB, np.uint8)
        cv2.putText(bar, title, (8, 18), FONT, 0.42, PAPER_RGB, 1, cv2.LINE_AA)
        gap = np.full((BAR_PX + large.shape[0], GAP_PX, 3), INK_RGB, np.uint8)
        columns += [np.concatenate([bar, large]), gap]
    return np.ascontiguousarray(np.concatenate(columns[:-1], axis=1))


def compare(imagined_HWC: U8, real_HWC: U8) -> tuple[U8, float]:
    """Imagined, real and their difference as one picture, and the mean absolute difference in grey levels (0..255)."""
    if imagined_HWC.shape != real_HWC.shape:
        raise InputError("imagined canvas", "has another size than the real one", got=imagined_HWC.shape,
                         expected=real_HWC.shape)
    difference_HW = np.abs(imagined_HWC.astype(np.float32) - real_HWC.astype(np.float32)).mean(axis=2)
    shown = colourise(difference_HW.astype(np.float32), "slate", 0.0, LARGEST_DIFFERENCE)
    mean = float(difference_HW.mean())
    picture = beside([("imagined", imagined_HWC), ("what came", real_HWC), (f"apart: {mean:.1f} of 255", shown)])
    return picture, mean
