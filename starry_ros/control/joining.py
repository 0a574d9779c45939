"""From known knots to a splice that stays in the space of the arms and is not too late. Shapes: a motion is [3, J]."""

from __future__ import annotations

from dataclasses import replace

from starry_ros.control.limits import Limits
from starry_ros.control.schedule import Knots, Refusal
from starry_ros.control.slices import Slices
from starry_ros.control.space import Space
from starry_ros.control.splice import Splice, Splicer
from starry_ros.control.stop import StopPlanner
from starry_ros.types import F64


class Joiner:
    """Joins plans to the motion of one robot."""

    def __init__(self, limits: Limits, space: Space | None, stopper: StopPlanner, max_delay_s: float) -> None:
        self._splicer, self._space, self._stopper, self._max_delay_s = Splicer(limits), space, stopper, max_delay_s

    def work(self, motion_3J: F64, knots: Knots, at_ns: int, slower: float) -> Slices[Splice | Refusal]:
        """What makes a splice of knots to the motion commanded for `at_ns`, or finds why there is none.

        `slower` stretches the time of the plan.
        """
        splice = yield from self._splicer.splicing(motion_3J, knots.relative_s(at_ns), knots.position_KJ, slower)
        yield
        if splice is None:
            return Refusal.UNREACHABLE
        if splice.delay_s > self._max_delay_s * slower:
            return Refusal.TOO_FAST
        breach = (yield from self._space.looking(splice.curve)) if self._space is not None else None
        if breach is None:
            return splice
        stopped = yield from self._stopper.stopping_before(splice.curve, breach[0])
        return breach[1] if stopped is None else replace(splice, curve=stopped, border=breach[1])
