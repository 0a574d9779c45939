"""How plans come in: judged, joined to the motion of the arms, and made the plan of record or refused.

A slow computer takes longer than a control period to join a plan. Done a slice a tick, that makes no tick late: the
plan is joined at a command that is still to come, some periods on, with the motion that the arms will have there unless
something else happens. If it does, or if the time did not suffice, the work begins anew.

Shapes: a motion is [3, J].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from starry_ros.control.joining import Joiner
from starry_ros.control.schedule import Knots, Merge, Refusal, Schedule
from starry_ros.control.slices import Slices, at_once
from starry_ros.control.splice import Splice
from starry_ros.control.track import Track
from starry_ros.types import F64, ActionChunk

LEAST_AHEAD, MOST_AHEAD = 2, 40
"""How many periods on a plan is joined, at least and at most."""
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
    """A plan that is being joined to `motion_3J`, the motion commanded for `at_ns`. `found` once it is done."""

    chunk: ActionChunk
    knots: Knots
    at_ns: int
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
        self._ahead = LEAST_AHEAD
        self.joining: Joining | None = None

    def submit(self, chunk: ActionChunk, here: Here) -> Merge:
        """Join a chunk at once."""
        joining = self._begin(chunk, here, 0)
        if isinstance(joining, Refusal):
            return self._schedule.refuse(joining)
        return self._end(joining, at_once(joining.work))

    def offer(self, chunk: ActionChunk, here: Here) -> Merge | None:
        """Begin to join a chunk by calls of `go_on`, one a tick: None, or why it was refused right away."""
        joining = self._begin(chunk, here, self._ahead)
        if isinstance(joining, Refusal):
            self.joining = None
            return self._schedule.refuse(joining)
        self.joining = joining
        return None

    def go_on(self, here: Here, more: Callable[[], bool]) -> Merge | None:
        """Go on with the chunk that is being joined; what came of it, or None while that is open."""
        joining = self.joining
        if joining is None:
            return None
        joining.go_on(more)
        if here.moving_allowed and here.at_ns < joining.at_ns:
            return None
        self.joining = None
        if reason := self._judge(joining.chunk, here, here.at_ns):
            return self._schedule.refuse(reason)
        if joining.found is not None and self._as_foreseen(joining, here):
            self._ahead = min(MOST_AHEAD, max(LEAST_AHEAD, joining.ticks + 1, self._ahead - 1))
            return self._end(joining, joining.found)
        return self._again(joining, here)

    def _as_foreseen(self, joining: Joining, here: Here) -> bool:
        """Whether the arms are where the work took them to be."""
        same = here.at_ns == joining.at_ns and here.slower == joining.slower
        return same and np.array_equal(self._track.motion_3J, joining.motion_3J)

    def _again(self, joining: Joining, here: Here) -> Merge | None:
        if joining.found is None:
            self._ahead = min(MOST_AHEAD, 2 * self._ahead)
        if joining.tries == TRIES:
            return self.submit(joining.chunk, here)
        merge = self.offer(joining.chunk, here)
        if self.joining is not None:
            self.joining.tries = joining.tries + 1
        return merge

    def _judge(self, chunk: ActionChunk, here: Here, at_ns: int) -> Refusal | None:
        return self._schedule.judge(chunk, at_ns) if here.moving_allowed else Refusal.NOT_RUNNING

    def _begin(self, chunk: ActionChunk, here: Here, periods: int) -> Joining | Refusal:
        at_ns = here.at_ns + periods * self._period_ns
        if (reason := self._judge(chunk, here, at_ns)) is not None:
            return reason
        motion_3J = self._track.after(periods)
        knots = self._schedule.merged(chunk, at_ns, standing=not motion_3J[1:].any())
        work = self._joiner.joining(motion_3J, knots, at_ns, here.slower)
        return Joining(chunk, knots, at_ns, here.slower, motion_3J, work)

    def _end(self, joining: Joining, found: Splice | Refusal) -> Merge:
        self._take(joining.chunk, found)
        if isinstance(found, Refusal):
            return self._schedule.refuse(found)
        return self._schedule.commit(joining.chunk, joining.knots, joining.at_ns, found.border)
