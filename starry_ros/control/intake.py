"""How plans come in: judged, joined to the motion of the arms, and made the plan of record or refused.

A slow computer takes longer than a control period to join a plan. Done a slice a tick, that makes no tick late: the
plan is joined at a command that is still to come, some periods on, with the motion that the arms will have there unless
something else happens. If it does, or if the time did not suffice, the work begins anew.

Shapes: a motion is [3, J].
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from starry_ros.control.joining import Joiner
from starry_ros.control.schedule import Knots, Merge, Refusal, Schedule
from starry_ros.control.slices import Slices, at_once
from starry_ros.control.splice import Splice
from starry_ros.control.track import Track
from starry_ros.timing import nanoseconds
from starry_ros.types import F64, ActionChunk

LEAST_AHEAD, MOST_AHEAD_S = 2, 0.4
"""How far on a plan is joined: at least so many periods, and at most so long."""
FURTHER = 4
"""So many times as far, where the time did not suffice."""
REMEMBERED = 8
"""A plan is joined as far on as the slowest of so many before it took, and a period more."""
TRIES = 3
"""How often it is tried to join a plan a slice at a time, before it is done at once."""


@dataclass(frozen=True)
class Here:
    """Where the arms are: the time that the last command stands for, by how much plans are slowed, if they may move."""

    at_ns: int
    slower: float
    moving_allowed: bool


@dataclass
class Joining:
    """A plan that is being joined to `motion_3J`, the motion commanded for `at_ns`, `periods` after it was begun.

    `known` is the plan of record that it goes on from; `found` what came of the work, once it is done.
    """

    chunk: ActionChunk
    known: Knots | None
    knots: Knots
    at_ns: int
    periods: int
    slower: float
    motion_3J: F64
    work: Slices[Splice | Refusal]
    tries: int = 1
    ticks: int = 0
    found: Splice | Refusal | None = None

    def go_on(self, more: Callable[[], bool]) -> None:
        """Do a slice, and further ones while there is time for `more`."""
        self.ticks += self.found is None
        while self.found is None:
            try:
                next(self.work)
            except StopIteration as end:
                self.found = end.value
            if not more():
                return


class Intake:
    """Takes plans for one robot. `take` is told of every one that was joined, and of what came of it."""

    def __init__(
        self, schedule: Schedule, joiner: Joiner, track: Track, period_ns: int,
        take: Callable[[ActionChunk, Splice | Refusal], None],
    ) -> None:
        self._schedule, self._joiner, self._track, self._period_ns = schedule, joiner, track, period_ns
        self._take = take
        self._most = max(LEAST_AHEAD, round(nanoseconds(MOST_AHEAD_S) / period_ns))
        self._took = deque([LEAST_AHEAD - 1], maxlen=REMEMBERED)
        self.current: Joining | None = None

    def submit(self, chunk: ActionChunk, here: Here) -> Merge:
        """Join a chunk at once, also one that is being joined already."""
        if self.current is not None and self.current.chunk is chunk:
            self.current = None
        if (reason := self._judge(chunk, here)) is not None:
            return self._schedule.refuse(reason)
        joining = self._begin(chunk, here, 0)
        return self._end(joining, at_once(joining.work))

    def offer(self, chunk: ActionChunk, here: Here) -> Merge | None:
        """Begin to join a chunk by calls of `go_on`, one a tick: None, or the answer where there is one right away.

        RuntimeError while another one is being joined.
        """
        if self.current is not None:
            raise RuntimeError("one plan is joined at a time")
        if (reason := self._judge(chunk, here)) is not None:
            return self._schedule.refuse(reason)
        return self._try(chunk, here, min(self._most, max(self._took) + 1), 1)

    def go_on(self, here: Here, more: Callable[[], bool]) -> Merge | None:
        """Go on with the chunk that is being joined; what came of it, or None while that is open."""
        joining, self.current = self.current, None
        if joining is None:
            return None
        if (reason := self._judge(joining.chunk, here)) is not None:
            return self._schedule.refuse(reason)
        if not self._as_foreseen(joining, here):
            return self._again(joining, here, joining.periods)
        joining.go_on(more)
        if here.at_ns < joining.at_ns:
            self.current = joining
            return None
        if joining.found is None:
            return self._again(joining, here, FURTHER * joining.periods)
        self._took.append(max(LEAST_AHEAD - 1, joining.ticks))
        return self._end(joining, joining.found)

    def _as_foreseen(self, joining: Joining, here: Here) -> bool:
        """Whether the arms are on the way that the work began with, and the plan of record is the one it knew."""
        left, off_ns = divmod(joining.at_ns - here.at_ns, self._period_ns)
        same = left >= 0 and not off_ns and here.slower == joining.slower and self._schedule.knots is joining.known
        return same and np.array_equal(self._track.after(left), joining.motion_3J)

    def _again(self, joining: Joining, here: Here, periods: int) -> Merge | None:
        if joining.tries == TRIES:
            return self.submit(joining.chunk, here)
        return self._try(joining.chunk, here, min(self._most, periods), joining.tries + 1)

    def _try(self, chunk: ActionChunk, here: Here, periods: int, tries: int) -> Merge | None:
        if chunk.end_ns <= here.at_ns + periods * self._period_ns:  # it would be over by then
            return self.submit(chunk, here)
        self.current = self._begin(chunk, here, periods)
        self.current.tries = tries
        return None

    def _judge(self, chunk: ActionChunk, here: Here) -> Refusal | None:
        return self._schedule.judge(chunk, here.at_ns) if here.moving_allowed else Refusal.NOT_RUNNING

    def _begin(self, chunk: ActionChunk, here: Here, periods: int) -> Joining:
        at_ns, motion_3J = here.at_ns + periods * self._period_ns, self._track.after(periods)
        knots = self._schedule.merged(chunk, at_ns, standing=not motion_3J[1:].any())
        work = self._joiner.work(motion_3J, knots, at_ns, here.slower)
        return Joining(chunk, self._schedule.knots, knots, at_ns, periods, here.slower, motion_3J, work)

    def _end(self, joining: Joining, found: Splice | Refusal) -> Merge:
        self._take(joining.chunk, found)
        if isinstance(found, Refusal):
            return self._schedule.refuse(found)
        return self._schedule.commit(joining.chunk, joining.knots, joining.at_ns, found.border)
