"""Stop tails: from any point of a curve to rest, inside every limit.

The invariant that everything rests on: a running curve ends at rest and was checked as a whole, so a stop is always in
hand. The fastest stop is usually better. Next to a position limit it can swing past the limit (while a joint reverses
there); then the curve is followed a little longer until the fastest stop fits, at worst to the curve's own end.
"""

from __future__ import annotations

from starry_ros.control.limits import JerkLimiter, Limits, admits
from starry_ros.control.trajectory import Curve

RETRY_STEP_S = 0.02
RETRIES = 5


class StopPlanner:
    """Plans stops of all joints."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._limiter = JerkLimiter(limits)

    def stop(self, curve: Curve, at_s: float) -> Curve:
        """Stop as soon as possible: a curve that starts with `curve`'s motion at `at_s` and obeys every limit."""
        return self.follow_then_stop(curve, at_s, 0.0)

    def follow_then_stop(self, curve: Curve, from_s: float, follow_s: float) -> Curve:
        """Follow `curve` from `from_s` for `follow_s`, then stop; time 0 of the result is `from_s`."""
        rest = curve.cut(from_s)
        for attempt in range(RETRIES):
            turn_s = follow_s + attempt * RETRY_STEP_S
            if turn_s >= rest.duration_s:
                break
            tail = self._limiter.stop(rest.at(turn_s))
            if tail is not None and admits(tail, self._limits):
                return rest.then(turn_s, tail)
        return rest
