"""From knots of a plan to a curve that starts at the last commanded motion and obeys every limit.

All joints share one time base: a plan that is too fast has its corners rounded and is then slowed as a whole, so that
the hands keep their path and a jaw closes where the plan meant it to close. The first of these that fits inside all
limits is taken:
1. blend gently: the spline through the knots, plus the difference to the commanded motion, which a three-piece
   constant-jerk offset lets fade; at the plan's own time, or at a point of the plan up to BACK_S earlier, so that arms
   that are behind stay on the path;
2. from rest: a spline that starts where the robot stands, with as much of the plan's past as BACK_S allows;
3. whichever strays least from the plan's path of reach, a jerk-limited motion (Ruckig) to a point of the plan with all
   joints arriving together, and a blend in whatever way fits, with a slower plan when that makes the room.

Shapes: K knots, I intervals between them, J joints, T fades, P points of a plan, B pieces of a curve, a motion is
[3, J].
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from starry_ros.control.fade import BREAKS_S, FADE_TIMES_S, fade_demand, fades
from starry_ros.control.limits import JerkLimiter, Limits, admits, admitted, demand
from starry_ros.control.schedule import Refusal
from starry_ros.control.slices import Slices
from starry_ros.control.trajectory import Curve, KnotSpline, merge_times
from starry_ros.types import F64

Bools = NDArray[np.bool_]

RETIME_ROUNDS = 6
EASE_MARGIN = 2.0
"""A plan that ends in motion gets this many times its shortest braking time to come to rest."""
GENTLE_FADE_S = 0.45
GENTLE_DEMAND = 0.75
"""Gentle fades are short, because a long fade of a velocity difference strays far, and use little: 0.42 of the jerk."""
BACK_S = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
SLOWER = (1.0, 1.15, 1.4, 2.0)
"""Factors by which a plan may be slowed to make room for a blend."""
MEETING_POINTS = 4
STRAY_TIMES_S = np.linspace(0.0, 1.0, 51)
"""When a splice is compared with the path that it joins."""
LEAST_MEETING_S = 0.1
CLIPPED = 0.005
"""A plan that leaves the range of a joint by more than this share of it exceeds a limit; less is a jaw shut tightly."""

_ALL = np.ones(len(FADE_TIMES_S), dtype=bool)
_SHORT = np.array(FADE_TIMES_S) <= GENTLE_FADE_S


class Method(StrEnum):
    """How a plan was joined to the commanded motion."""

    BLEND = "blend"
    REACH = "reach"
    FROM_REST = "from_rest"


@dataclass(frozen=True)
class Splice:
    """A plan as a curve. Times in s: the arms finish `delay_s` after the plan's own time.

    `jump_J` and `jump_velocity_J` are plan minus command at the moment of the splice (the command itself never jumps);
    `limited_J` marks joints whose limits the plan exceeded; `border` says where the curve stops short of the plan.
    """

    curve: Curve
    method: Method
    delay_s: float
    jump_J: F64
    jump_velocity_J: F64
    limited_J: Bools
    border: Refusal | None = None


@dataclass(frozen=True)
class _Path:
    """A plan inside the limits from BACK_S before now on. `start_s` is now on the curve's own time."""

    curve: Curve
    start_s: float
    limited_J: Bools

    def slowed(self, factor: float) -> _Path:
        """The same path, slower."""
        return _Path(self.curve.slowed(factor), self.start_s * factor, self.limited_J)

    def stray(self, splice: Splice) -> float:
        """How far a splice leaves the path at worst: greatest joint distance to the nearest point of the path ahead."""
        path_TJ = self.curve.cut(self.start_s).sample(STRAY_TIMES_S)[:, 0]
        taken_TJ = splice.curve.sample(STRAY_TIMES_S)[:, 0]
        apart_TT = np.abs(taken_TJ[:, None] - path_TJ[None]).max(axis=2)
        return float(apart_TT.min(axis=1).max())


class Splicer:
    """Builds curves for one robot."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits.for_planning()
        self._limiter = JerkLimiter(self._limits)

    def splicing(
        self, motion_3J: F64, time_s_K: F64, position_KJ: F64, slower: float = 1.0
    ) -> Slices[Splice | None]:
        """Join knots (times relative to now, ascending, the last in the future) to the commanded motion.

        `slower` stretches the plan's time. None when the plan cannot be reached inside the limits from this motion;
        from rest it always can.
        """
        asked_KJ, position_KJ = position_KJ, np.clip(position_KJ, self._limits.lower_J, self._limits.upper_J)
        range_J = self._limits.upper_J - self._limits.lower_J
        clipped_J = (np.abs(asked_KJ - position_KJ) > CLIPPED * range_J).any(axis=0)
        at_rest = not motion_3J[1:].any()
        known = bool(time_s_K[0] <= 0)
        found = None
        if known or not at_rest:
            path = yield from self._path(time_s_K, position_KJ, slower)
            found = (yield from self._blend_gently(motion_3J, path, time_s_K)) if known else None
            if found is None and not at_rest:
                ways = [(yield from self._reach(motion_3J, path, time_s_K))]
                ways += [(yield from self._blend(motion_3J, path, time_s_K))] if known else []
                found = min((way for way in ways if way is not None), key=path.stray, default=None)
        if found is None and at_rest:
            found = yield from self._from_rest(motion_3J, time_s_K, position_KJ, slower)
        if found is None:
            return None
        return replace(found, curve=found.curve.starting_from(motion_3J), limited_J=found.limited_J | clipped_J)

    def _path(self, time_s_K: F64, position_KJ: F64, slower: float, from_rest: bool = False) -> Slices[_Path]:
        """Spline through the knots. Corners near which it would exceed a limit from now on are rounded, and where that
        is not enough knot intervals are stretched until every limit is obeyed.
        """
        interval_s = self._ease_out(np.diff(time_s_K) * slower, position_KJ)
        anchor = max(0, min(int(np.searchsorted(time_s_K, 0.0, side="right")) - 1, len(interval_s) - 1))
        fraction = max(0.0, -time_s_K[anchor]) / (time_s_K[anchor + 1] - time_s_K[anchor]) if len(interval_s) else 0.0
        limited = np.zeros(position_KJ.shape[1], dtype=bool)
        rounded_K, spline = np.zeros(len(time_s_K)), None
        for attempt in range(RETIME_ROUNDS + 1):
            if spline is None:
                time = np.concatenate(([0.0], np.cumsum(interval_s)))
                spline = KnotSpline(
                    time, position_KJ, self._limits.lower_J, self._limits.upper_J, from_rest=from_rest
                )
                yield
            curve = spline.curve(rounded_K)
            start_s = time[anchor] + fraction * interval_s[anchor] if len(interval_s) else 0.0
            ahead = curve.time_s_B[1:] > start_s - BACK_S[-1]
            need = np.where(ahead[:, None], demand(curve.time_s_B, curve.pieces_B4J, self._limits), 0.0)
            limited |= need.max(axis=0) > 1
            if need.max() <= 1 or not len(interval_s):
                break
            sharp_I = _by_interval(time, curve, need.max(axis=1))
            wider_K = np.maximum(rounded_K, _around(sharp_I > 1))
            if (wider_K > rounded_K).any() and attempt < RETIME_ROUNDS - 2:
                rounded_K = wider_K
            else:
                uniform = attempt == RETIME_ROUNDS - 1
                interval_s, spline = interval_s * self._stretch(sharp_I, uniform=uniform), None
            yield
        return _Path(curve, start_s, limited)

    def _ease_out(self, interval_s: F64, position_KJ: F64) -> F64:
        """Stretch the last intervals so that a plan that ends in motion slows down along its own path.

        Uniform deceleration of the plan's clock to rest over the last L seconds of it takes 2 L: clock time u of those
        L is reached at 2 L (1 - sqrt(1 - u / L)).
        """
        if len(interval_s) < 2:
            return interval_s
        speed_J = np.abs(position_KJ[-1] - position_KJ[-2]) / interval_s[-1]
        limits = self._limits
        ramp = np.minimum(limits.acceleration_J / limits.jerk_J, np.sqrt(speed_J / limits.jerk_J))
        brake_s = EASE_MARGIN * float((speed_J / limits.acceleration_J + ramp).max())
        eased_s = min(brake_s / 2, float(interval_s.sum()))
        left_s = np.concatenate(([interval_s.sum()], interval_s.sum() - np.cumsum(interval_s)))
        u = np.clip(eased_s - left_s, 0.0, eased_s)
        extra = 2 * (eased_s - np.sqrt(eased_s * np.maximum(eased_s - u, 0.0))) - u
        return interval_s + np.diff(extra)

    @staticmethod
    def _stretch(need_I: F64, *, uniform: bool) -> F64:
        """Factor for every knot interval: its own need and half of its neighbours', at least 1."""
        if uniform:
            return np.full(len(need_I), need_I.max() * (1 + 1e-9))
        excess = np.concatenate(([0.0], need_I - 1, [0.0]))
        return 1 + np.maximum(excess[1:-1], np.maximum(excess[:-2], excess[2:]) / 2) * 1.05

    def _blend_gently(self, motion_3J: F64, path: _Path, time_s_K: F64) -> Slices[Splice | None]:
        from_s_P = path.start_s - np.array([back_s for back_s in BACK_S if back_s <= path.start_s])
        gap_P3J = motion_3J - path.curve.sample(from_s_P)
        gentle_PT = _SHORT & (fade_demand(gap_P3J, self._limits) <= GENTLE_DEMAND)
        for point in np.flatnonzero(gentle_PT.any(axis=1)):
            found = self._fade_in(motion_3J, path, float(from_s_P[point]), time_s_K, gentle_PT[point])
            yield
            if found is not None:
                return found
        return None

    def _blend(self, motion_3J: F64, path: _Path, time_s_K: F64) -> Slices[Splice | None]:
        for factor in SLOWER:
            plan = path if factor == 1.0 else path.slowed(factor)
            found = self._fade_in(motion_3J, plan, plan.start_s, time_s_K, _ALL)
            yield
            if found is not None:
                return found
        return None

    def _fade_in(
        self, motion_3J: F64, path: _Path, from_s: float, time_s_K: F64, wanted_T: Bools
    ) -> Splice | None:
        """The path from `from_s` on, with the shortest wanted fade that fits; None when none does."""
        ahead = path.curve.cut(from_s)
        gap_3J = motion_3J - ahead.pieces_B4J[0, :3]
        time_s_B = merge_times((ahead.time_s_B, BREAKS_S))
        blend_TB4J = ahead.resampled(time_s_B) + fades(gap_3J, time_s_B, wanted_T)
        fits_T = admitted(time_s_B, blend_TB4J, self._limits)
        if not fits_T.any():
            return None
        curve = Curve(time_s_B, blend_TB4J[int(fits_T.argmax())])
        return self._splice(curve, Method.BLEND, motion_3J - path.curve.at(path.start_s), path, time_s_K)

    def _reach(self, motion_3J: F64, path: _Path, time_s_K: F64) -> Slices[Splice | None]:
        ahead = path.curve.cut(path.start_s)
        lead_s = max(0.0, float(time_s_K[0]))
        meetings = ahead.time_s_B[ahead.time_s_B + lead_s >= LEAST_MEETING_S]
        late: Curve | None = None
        for meet_s in [*meetings[::3][:MEETING_POINTS].tolist(), ahead.duration_s]:
            yield
            in_time_s = meet_s + lead_s + 1e-6
            most_s = in_time_s if late is not None else np.inf  # one that comes late is enough
            move = self._limiter.reach(motion_3J, ahead.at(meet_s), meet_s + lead_s, most_s)
            yield
            if move is None:
                continue
            curve = move.ending_at(ahead.at(meet_s)[0]).then(move.duration_s, ahead.cut(meet_s))
            if not admits(curve, self._limits):
                continue
            if move.duration_s <= in_time_s:
                return self._splice(curve, Method.REACH, motion_3J - ahead.at(0.0), path, time_s_K)
            late = curve
        return self._splice(late, Method.REACH, motion_3J - ahead.at(0.0), path, time_s_K) if late else None

    def _from_rest(
        self, motion_3J: F64, time_s_K: F64, position_KJ: F64, slower: float
    ) -> Slices[Splice | None]:
        here = np.clip(motion_3J[0], self._limits.lower_J, self._limits.upper_J)
        later = time_s_K > -BACK_S[-1]
        later[-1] = True
        time = time_s_K[later]
        first_s = 0.5 * float(np.diff(time_s_K).min()) if len(time_s_K) > 1 else 0.05
        time = np.concatenate(([0.0], time + max(0.0, first_s - time[0])))
        path = yield from self._path(time, np.concatenate((here[None], position_KJ[later])), slower, from_rest=True)
        yield
        if not admits(path.curve, self._limits):
            return None
        gap_3J = np.stack((here - position_KJ[later][0], *np.zeros((2, len(here)))))
        return self._splice(path.curve, Method.FROM_REST, gap_3J, path, time_s_K)

    @staticmethod
    def _splice(curve: Curve, method: Method, gap_3J: F64, path: _Path, time_s_K: F64) -> Splice:
        delay_s = max(0.0, curve.duration_s - float(time_s_K[-1]))
        limited = path.limited_J | (method is Method.REACH)
        return Splice(curve, method, delay_s, -gap_3J[0], -gap_3J[1], limited)


def _by_interval(time: F64, curve: Curve, need_B: F64) -> F64:
    """Greatest need of the pieces in every knot interval [I], at least 1."""
    middle = (curve.time_s_B[:-1] + curve.time_s_B[1:]) / 2
    interval = np.clip(np.searchsorted(time, middle, side="right") - 1, 0, len(time) - 2)
    need_I = np.ones(len(time) - 1)
    np.maximum.at(need_I, interval, need_B)
    return need_I


def _around(sharp_I: Bools) -> F64:
    """Weight of every knot [I + 1]: 1 at the ends of a sharp interval and one knot further."""
    knots = np.zeros(len(sharp_I) + 1)
    for shift in (-1, 0, 1, 2):
        near = sharp_I.nonzero()[0] + shift
        knots[near[(near >= 0) & (near < len(knots))]] = 1.0
    return knots
