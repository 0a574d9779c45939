"""Does a camera send the same picture again and again, although what it must show has moved?

A driver that hangs may go on sending its last buffer under new stamps. A scene at rest looks the same: pictures without
noise, as simulated ones are, then repeat by right. So the joints decide: what was measured between two pictures, by the
stamps of both. What was measured nearest to a picture may be of before it, when arms stood elsewhere. Joints that leap,
as no motor moves them, say nothing of motion: what is known begins anew.

Shapes: J joints in contract order; rad.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from starry_ros.timing import seconds
from starry_ros.types import F64, U8, CameraFrame

MOVED_RAD = 0.05
FASTEST_RAD_S, LEAP_RAD = 8.0, 0.1
"""No arm joint gets farther than this between two joint states."""
SAMPLE_PX = 16
JointGroups: TypeAlias = Sequence[Sequence[int]]
"""Joints by place in contract order. Pictures must change once a joint of every group has moved; no group: never."""


def moved(groups: JointGroups, from_J: F64, to_J: F64) -> bool:
    """Whether pictures must differ between two postures [J]."""
    far_J = np.abs(to_J - from_J) > MOVED_RAD
    return bool(groups) and all(far_J[list(group)].any() for group in groups)


class Postures:
    """Where the joints were in the last moments."""

    def __init__(self, keep: int = 64) -> None:
        self._known: deque[tuple[int, F64]] = deque(maxlen=keep)

    def add(self, stamp_ns: int, position_J: F64) -> bool:
        """Append what was measured, if finite; whether the joints have leapt there.

        Joints that leap, and states out of order, which mean that the clock jumped, make the rest forgotten.
        """
        if not np.isfinite(position_J).all():
            return False
        leapt = False
        if self._known:
            before_ns, before_J = self._known[-1]
            reach = FASTEST_RAD_S * seconds(stamp_ns - before_ns) + LEAP_RAD
            leapt = stamp_ns >= before_ns and bool((np.abs(position_J - before_J) > reach).any())
            if leapt or stamp_ns < before_ns:
                self._known.clear()
        self._known.append((stamp_ns, position_J))
        return leapt

    def between(self, after_ns: int, before_ns: int) -> list[F64]:
        """What was measured after one instant and before another, oldest first."""
        return [position_J for stamp_ns, position_J in self._known if after_ns < stamp_ns < before_ns]

    def forget(self) -> None:
        """Begin anew."""
        self._known.clear()


class Repeats:
    """The newest pictures of one camera, as long as they are byte-identical.

    `in_a_row` counts repetitions. `outdated`, until a pixel changes: for longer than `max_age_ns` they have been the
    same, and meanwhile what the camera must show has moved. Without joint states that is never said.
    """

    def __init__(self, groups: JointGroups, max_age_ns: int) -> None:
        self._groups, self._max_age_ns = groups, max_age_ns
        self._first: CameraFrame | None = None
        self._posture_J: F64 | None = None
        self.in_a_row, self._moved, self.outdated = 0, False, False

    def look(self, frame: CameraFrame, postures: Postures) -> None:
        """Take in the next frame."""
        if self._first is None or not _identical(frame.image_HWC, self._first.image_HWC):
            self._begin(frame)
            return
        self.in_a_row += 1
        measured = postures.between(self._first.stamp_ns, frame.stamp_ns)
        if self._posture_J is None and measured:
            self._posture_J = measured[0]
        if self._posture_J is not None and measured:
            self._moved = self._moved or moved(self._groups, self._posture_J, measured[-1])
        self.outdated |= self._moved and frame.stamp_ns - self._first.stamp_ns > self._max_age_ns

    def forget(self) -> None:
        """Begin anew."""
        self._begin(None)

    def _begin(self, first: CameraFrame | None) -> None:
        self._first, self._posture_J = first, None
        self.in_a_row, self._moved, self.outdated = 0, False, False


def _identical(a_HWC: U8, b_HWC: U8) -> bool:
    """Byte equality; a sparse sample settles nearly every case, and contiguous memory order the rest quickly."""
    sparse = np.s_[::SAMPLE_PX, ::SAMPLE_PX]
    if a_HWC.shape != b_HWC.shape or not np.array_equal(a_HWC[sparse], b_HWC[sparse]):
        return False
    if a_HWC.strides[-1] < 0 and b_HWC.strides[-1] < 0:
        a_HWC, b_HWC = a_HWC[..., ::-1], b_HWC[..., ::-1]
    return bool(np.array_equal(a_HWC, b_HWC))
