"""Which messages belong together, and whether they are fit to plan on. No ROS types: plain values and local times."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from starry_ros.types import Canvas, RobotState

First = TypeVar("First")
Second = TypeVar("Second")


class StampPairs(Generic[First, Second]):
    """Joins two streams by equal stamp; keeps a few unmatched messages of each."""

    def __init__(self, keep: int = 4) -> None:
        self._keep = keep
        self._first: dict[Hashable, First] = {}
        self._second: dict[Hashable, Second] = {}

    def first(self, stamp: Hashable, item: First) -> tuple[First, Second] | None:
        """Add to the first stream; the pair, if it is complete now."""
        self._first[stamp] = item
        return self._match(stamp)

    def second(self, stamp: Hashable, item: Second) -> tuple[First, Second] | None:
        """Add to the second stream; the pair, if it is complete now."""
        self._second[stamp] = item
        return self._match(stamp)

    def _match(self, stamp: Hashable) -> tuple[First, Second] | None:
        if stamp in self._first and stamp in self._second:
            return self._first.pop(stamp), self._second.pop(stamp)
        if len(self._first) > self._keep:
            self._first.pop(next(iter(self._first)))
        if len(self._second) > self._keep:
            self._second.pop(next(iter(self._second)))
        return None


class Film(Generic[First]):
    """Frames that came while a plan was made, oldest first; the oldest go when there are too many. Thread-safe."""

    def __init__(self, size: int = 64) -> None:
        self._frames: deque[First] = deque(maxlen=size)

    def add(self, frame: First) -> None:
        """Append a frame."""
        self._frames.append(frame)

    def before(self, newest: First) -> Iterator[First]:
        """Take out the frames that came before `newest`, and `newest` itself, which is not handed out."""
        while self._frames and (frame := self._frames.popleft()) is not newest:
            yield frame


class StateHistory:
    """The joint states of the last moments, to find the one measured nearest to an image."""

    def __init__(self, size: int = 200) -> None:
        self._states: deque[RobotState] = deque(maxlen=size)

    def add(self, state: RobotState) -> None:
        """Append a measured state. One out of order means that the clock jumped: what was before it is forgotten."""
        if self._states and state.stamp_ns < self._states[-1].stamp_ns:
            self._states.clear()
        self._states.append(state)

    @property
    def newest(self) -> RobotState | None:
        """The last state added."""
        return self._states[-1] if self._states else None

    def nearest(self, stamp_ns: int) -> RobotState | None:
        """The state whose stamp is nearest; None before the first."""
        return min(self._states.copy(), key=lambda state: abs(state.stamp_ns - stamp_ns), default=None)


class Refusal(StrEnum):
    """Why an observation was not planned on."""

    CANVAS_INCOMPLETE = "canvas_incomplete"
    CANVAS_STALE = "canvas_stale"
    CANVAS_FROM_FUTURE = "canvas_from_future"
    LAYOUT_MISMATCH = "layout_mismatch"
    NO_JOINT_STATE = "no_joint_state"
    JOINT_STATE_STALE = "joint_state_stale"


@dataclass(frozen=True)
class ObservationGate:
    """Refuses what is too old to plan on. `pair_ns` bounds the time between the images and the joint state."""

    layout_hash: str
    age_ns: int
    pair_ns: int

    def refusal(self, canvas: Canvas, state: RobotState | None, now_ns: int) -> Refusal | None:
        """The first broken rule, or None for an observation that is fit to plan on."""
        if canvas.layout_hash != self.layout_hash:
            return Refusal.LAYOUT_MISMATCH
        if not canvas.tiles or not canvas.complete:
            return Refusal.CANVAS_INCOMPLETE
        oldest_ns = min(tile.stamp_ns for tile in canvas.tiles)
        if now_ns - oldest_ns > self.age_ns:
            return Refusal.CANVAS_STALE
        if oldest_ns - now_ns > self.pair_ns:
            return Refusal.CANVAS_FROM_FUTURE
        if state is None:
            return Refusal.NO_JOINT_STATE
        return Refusal.JOINT_STATE_STALE if abs(state.stamp_ns - canvas.stamp_ns) > self.pair_ns else None
