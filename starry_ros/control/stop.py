"""Stop tails: from any point of a curve to rest, inside every limit.

The invariant that everything rests on: a running curve ends at rest and was checked as a whole, so a stop is always in
hand. The fastest stop is usually better. Next to a position limit or a border of the space it can swing past it (while
a joint reverses there); then the curve is followed until the fastest stop fits, at worst to the curve's own end.

Shapes: C candidates of the moment to turn from the curve into the stop, J joints, a motion is [3, J].
"""

from __future__ import annotations

import numpy as np

from starry_ros.control.limits import JerkLimiter, Limits, admits
from starry_ros.control.slices import Slices
from starry_ros.control.space import Space
from starry_ros.control.trajectory import Curve
from starry_ros.types import F64

RETRY_STEP_S, RETRY_FINE_S, RETRY_COARSE_STEP_S = 0.02, 0.3, 0.1
TURN_STEP_S = 0.01
BORDER_STEP_S, LEAST_FOLLOW_S = 0.05, 0.04


def stop_time_s(motion_C3J: F64, limits: Limits) -> F64:
    """Least time to rest of every joint [..., J], by itself and position aside.

    With a the acceleration towards the velocity that is left once it has faded: a / jerk for it to fade (negative where
    it already brakes), then a trapezoid or triangle of acceleration from that velocity to 0.
    """
    velocity, acceleration = motion_C3J[..., 1, :], motion_C3J[..., 2, :]
    fade = acceleration * np.abs(acceleration) / (2 * limits.jerk_J)
    towards = np.where(velocity + fade < 0, -1.0, 1.0)
    speed = towards * velocity + acceleration**2 / (2 * limits.jerk_J)
    ramp = limits.acceleration_J / limits.jerk_J
    trapezoid, triangle = speed / limits.acceleration_J + ramp, 2 * np.sqrt(np.maximum(speed, 0.0) / limits.jerk_J)
    brake: F64 = np.where(speed > ramp * limits.acceleration_J, trapezoid, triangle)
    return brake + towards * acceleration / limits.jerk_J


class StopPlanner:
    """Plans stops of all joints."""

    def __init__(self, limits: Limits, space: Space | None = None) -> None:
        self._limits, self._space = limits, space
        self._limiter = JerkLimiter(limits)

    def stop(self, curve: Curve, at_s: float) -> Curve:
        """Stop as soon as possible: a curve that starts with `curve`'s motion at `at_s` and obeys every limit."""
        return self.follow_then_stop(curve, at_s, 0.0, 0.0)[0]

    def turn_s(self, curve: Curve, from_s: float, least_s: float, rest_s: float) -> float:
        """How long to follow `curve` from `from_s`: as long as rest is reached within `rest_s`, at least `least_s`.

        Where braking takes longer than that allows, the turn that leads to rest soonest; inf where the curve itself is
        at rest in time.
        """
        if curve.duration_s - from_s <= rest_s:
            return float(np.inf)
        candidates_C = np.arange(least_s, max(rest_s, least_s) + TURN_STEP_S, TURN_STEP_S)
        needed_C = stop_time_s(curve.sample(from_s + candidates_C), self._limits).max(axis=1)
        rest_C = candidates_C + needed_C
        in_time = rest_C <= rest_s
        chosen = np.flatnonzero(in_time)[-1] if in_time.any() else rest_C.argmin()
        return float(candidates_C[chosen])

    def follow_then_stop(self, curve: Curve, from_s: float, least_s: float, follow_s: float) -> tuple[Curve, float]:
        """Follow `curve` from `from_s` for `follow_s`, then stop: a curve whose time 0 is `from_s`, and when it turns.

        Where that stop does not fit, the turn comes sooner, down to `least_s`, else as soon after as one fits; inf when
        the curve is followed to its own end. A stop into the margin of the space is better than one RETRY_FINE_S later;
        a curve that leaves the space itself is left at once.
        """
        rest = curve.cut(from_s)
        soon, later = _turns(least_s, follow_s, rest.duration_s)
        for turns, to_the_border in ((soon, False), (soon, True), (later, False), (later, True)):
            for turn_s in turns:
                stopped = self._turn(rest, turn_s, to_the_border)
                if stopped is not None:
                    return stopped, turn_s
        if self._inside(rest, 0.0, to_the_border=True):
            return rest, float(np.inf)
        at_once = self._limiter.stop(rest.at(0.0))
        if at_once is not None and admits(at_once, self._limits):
            return at_once, 0.0
        return rest, float(np.inf)

    def stopping_before(self, curve: Curve, border_s: float) -> Slices[Curve | None]:
        """As much of a curve as leaves room for a stop inside the space, which it leaves at `border_s`, or None."""
        for turn_s in np.arange(border_s - BORDER_STEP_S, LEAST_FOLLOW_S, -BORDER_STEP_S).tolist():
            stopped = self._turn(curve, turn_s)
            if stopped is not None:
                return stopped
            yield
        return None

    def _turn(self, curve: Curve, turn_s: float, to_the_border: bool = False) -> Curve | None:
        """The curve until `turn_s` and then the fastest stop, if that obeys every limit."""
        tail = self._limiter.stop(curve.at(turn_s))
        if tail is None or not admits(tail, self._limits):
            return None
        stopped = curve.then(turn_s, tail)
        return stopped if self._inside(stopped, turn_s, to_the_border) else None

    def _inside(self, curve: Curve, from_s: float, to_the_border: bool) -> bool:
        space = self._space
        return space is None or space.first_breach(curve, from_s, to_the_border=to_the_border) is None


def _turns(least_s: float, follow_s: float, end_s: float) -> tuple[list[float], list[float]]:
    """Moments to try soon, the wanted one first, and later; none where the curve has ended by then."""
    if follow_s >= end_s:
        return [], []
    sooner = np.arange(follow_s, least_s - 1e-9, -RETRY_STEP_S)
    after = np.arange(follow_s + RETRY_STEP_S, follow_s + RETRY_FINE_S, RETRY_STEP_S)
    later = np.arange(follow_s + RETRY_FINE_S, end_s, RETRY_COARSE_STEP_S)
    return [turn_s for turn_s in (*sooner.tolist(), *after.tolist()) if turn_s < end_s], later.tolist()
