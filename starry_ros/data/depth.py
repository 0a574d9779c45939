"""Depth of one camera over an episode, small enough to be kept whole until the contacts are labelled.

Shapes: T frames, H x W depth image at the contract's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from starry_ros.types import F32

Millimetres = NDArray[np.uint16]
NONE = -1
MM_PER_M, FARTHEST_MM = 1000, 65535


def millimetres(depth_HW: F32) -> Millimetres:
    """A depth image in m as whole mm; 0 where it has no depth. What is farther than 65 m counts as that far."""
    mm_HW = MM_PER_M * np.where(np.isfinite(depth_HW), depth_HW, 0.0)
    rounded: Millimetres = np.clip(np.rint(mm_HW), 0, FARTHEST_MM).astype(np.uint16)
    return rounded


@dataclass(frozen=True)
class DepthTrack:
    """Depth images in mm, and which of them belongs to each frame: `image_T`, NONE where none is near enough."""

    images: Sequence[Millimetres]
    image_T: NDArray[np.int64]

    def at(self, frame: int) -> F32 | None:
        """Depth [H, W] in m of a frame, 0 where there is none; None for a frame without an image."""
        image = int(self.image_T[frame])
        if image == NONE:
            return None
        metres: F32 = self.images[image].astype(np.float32) / np.float32(MM_PER_M)
        return metres

    def taken(self, rows: NDArray[np.int64]) -> DepthTrack:
        """The same with some of its frames."""
        return replace(self, image_T=self.image_T[rows])
