"""From knots of a plan to a curve that starts at the last commanded motion and obeys every limit.

Joints move in groups: the arm joints of the whole robot share one time base, so that a plan that is too fast is slowed
as a whole and keeps its path; each gripper has its own, so that a jaw that closes slowly does not hold the arms up.

For each group, the first of these that fits inside all limits is taken:
1. blend: the spline through the knots, plus the difference to the commanded motion, which a three-piece constant-jerk
   offset lets fade; with a slower plan when the limits leave no room to catch up;
2. reach: a jerk-limited motion (Ruckig) to a point of the plan, all joints arriving together;
3. from rest only: a spline that starts where the robot stands.

Shapes: K knots, J joints of a group or of the robot, a motion is [3, J].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from starry_ros.control.limits import JerkLimiter, Limits, admits, admitted, demand
from starry_ros.control.trajectory import LEAST_PIECE_S, Curve, merge_times, stack, taylor, through_knots
from starry_ros.types import F64

BoolJ = NDArray[np.bool_]

RETIME_ROUNDS = 5
EASE_MARGIN = 2.0
"""A plan that ends in motion gets this many times its shortest braking time to come to rest."""
FADE_TIMES_S = (0.12, 0.2, 0.3, 0.45, 0.7, 1.1)
GENTLE_FADE_S = 0.3
GENTLE_DEMAND = 0.75
"""The shortest fade that fits is taken; one that is short (GENTLE_FADE_S) and gentle (0.75 is 0.42 of the jerk limit)
first. A long fade of a velocity difference strays far."""
SLOWER = (1.0, 1.15, 1.4, 2.0)
"""Factors by which a plan may be slowed to make room for a blend."""
MEETING_POINTS = 4
LEAST_MEETING_S = 0.1

_FADE_BREAKS_S = np.unique(np.outer(FADE_TIMES_S, (0.0, 1 / 3, 2 / 3, 1.0)))
_FADE_IS_SHORT = np.array(FADE_TIMES_S) <= GENTLE_FADE_S
_FADE_INVERSE_3x3 = np.linalg.inv(np.array(((19 / 6, 7 / 6, 1 / 6), (2.5, 1.5, 0.5), (1.0, 1.0, 1.0))))
"""Inverse of the effect of three unit-jerk pieces of unit length on position, velocity, acceleration at their end."""


class Method(StrEnum):
    """How a plan was joined to the commanded motion."""

    BLEND = "blend"
    REACH = "reach"
    FROM_REST = "from_rest"


@dataclass(frozen=True)
class Splice:
    """A plan as a curve. Times in s: the arms finish `delay_s` after the plan's own time.

    `jump_J` and `jump_velocity_J` are plan minus command at the moment of the splice (the command itself never jumps);
    `limited_J` marks joints whose limits the plan exceeded.
    """

    curve: Curve
    method: Method
    delay_s: float
    jump_J: F64
    jump_velocity_J: F64
    limited_J: BoolJ


@dataclass(frozen=True)
class _Path:
    """A group's plan: inside the limits from now on. `start_s` is now on the curve's own time."""

    curve: Curve
    start_s: float
    limited_J: BoolJ

    def slowed(self, factor: float) -> _Path:
        """The same path, slower."""
        return _Path(self.curve.slowed(factor), self.start_s * factor, self.limited_J)


class Splicer:
    """Builds curves for one robot."""

    def __init__(self, limits: Limits, grippers: Sequence[int]) -> None:
        arms = [j for j in range(len(limits.lower_J)) if j not in set(grippers)]
        self._columns = [group for group in (arms, *([j] for j in grippers)) if group]
        planning = limits.for_planning()
        self._groups = [_Group(planning.take(group)) for group in self._columns]
        self._whole = _Group(planning, patient=False)

    def splice(self, motion_3J: F64, time_s_K: F64, position_KJ: F64, slower: float = 1.0) -> Splice | None:
        """Join knots (times relative to now, ascending, the last in the future) to the commanded motion.

        `slower` stretches the plan's time. None when the plan cannot be reached inside the limits from this motion;
        from rest it always can.
        """
        whole = self._whole.splice(motion_3J, time_s_K, position_KJ, slower)
        if whole is not None:
            return replace(whole, curve=whole.curve.starting_from(motion_3J))
        found: list[Splice] = []
        for group, columns in zip(self._groups, self._columns, strict=True):
            part = group.splice(motion_3J[:, columns], time_s_K, position_KJ[:, columns], slower)
            if part is None:
                return None
            found.append(part)
        joints = motion_3J.shape[1]
        jump, velocity, limited = np.zeros(joints), np.zeros(joints), np.zeros(joints, dtype=bool)
        for part, columns in zip(found, self._columns, strict=True):
            jump[columns], velocity[columns], limited[columns] = part.jump_J, part.jump_velocity_J, part.limited_J
        curve = stack([part.curve for part in found], self._columns).starting_from(motion_3J)
        return Splice(curve, found[0].method, found[0].delay_s, jump, velocity, limited)


class _Group:
    """Joints that share one time base. An impatient group gives up where the plan would have to be slowed."""

    def __init__(self, limits: Limits, *, patient: bool = True) -> None:
        self._limits, self._patient = limits, patient
        self._limiter = JerkLimiter(limits)

    def splice(self, motion_3J: F64, time_s_K: F64, position_KJ: F64, slower: float) -> Splice | None:
        position_KJ = np.clip(position_KJ, self._limits.lower_J, self._limits.upper_J)
        at_rest = not motion_3J[1:].any()
        known = time_s_K[0] <= 0
        if known or not at_rest:
            path = self._path(time_s_K, position_KJ, slower)
            found = self._blend(motion_3J, path, time_s_K) if known and path else None
            if path and self._patient:
                found = found or self._reach(motion_3J, path, time_s_K)
            if found is not None:
                return found
        return self._from_rest(motion_3J, time_s_K, position_KJ, slower) if at_rest else None

    def _path(self, time_s_K: F64, position_KJ: F64, slower: float, from_rest: bool = False) -> _Path | None:
        """Spline through the knots; knot intervals are stretched until every limit is obeyed from now on."""
        interval_s = self._ease_out(np.diff(time_s_K) * slower, position_KJ)
        anchor = max(0, min(int(np.searchsorted(time_s_K, 0.0, side="right")) - 1, len(interval_s) - 1))
        fraction = max(0.0, -time_s_K[anchor]) / (time_s_K[anchor + 1] - time_s_K[anchor]) if len(interval_s) else 0.0
        limited = np.zeros(position_KJ.shape[1], dtype=bool)
        for attempt in range(RETIME_ROUNDS + 1):
            time = np.concatenate(([0.0], np.cumsum(interval_s)))
            curve = through_knots(time, position_KJ, self._limits.lower_J, self._limits.upper_J, from_rest=from_rest)
            start_s = time[anchor] + fraction * interval_s[anchor] if len(interval_s) else 0.0
            ahead = curve.time_s_B[1:] > start_s
            need = np.where(ahead[:, None], demand(curve.time_s_B, curve.pieces_B4J, self._limits), 0.0)
            limited |= need.max(axis=0) > 1
            if need.max() <= 1 or not len(interval_s):
                break
            if not self._patient:
                return None
            interval_s = interval_s * self._stretch(time, curve, need.max(axis=1), uniform=attempt == RETIME_ROUNDS - 1)
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
    def _stretch(time: F64, curve: Curve, need_B: F64, *, uniform: bool) -> F64:
        """Factor for every knot interval: its own need and half of its neighbours', at least 1."""
        if uniform:
            return np.full(len(time) - 1, need_B.max() * (1 + 1e-9))
        middle = (curve.time_s_B[:-1] + curve.time_s_B[1:]) / 2
        interval = np.clip(np.searchsorted(time, middle, side="right") - 1, 0, len(time) - 2)
        need = np.ones(len(time) - 1)
        np.maximum.at(need, interval, need_B)
        excess = np.concatenate(([0.0], need - 1, [0.0]))
        return 1 + np.maximum(excess[1:-1], np.maximum(excess[:-2], excess[2:]) / 2) * 1.05

    def _blend(self, motion_3J: F64, path: _Path, time_s_K: F64) -> Splice | None:
        for factor in SLOWER if self._patient else SLOWER[:1]:
            plan = path if factor == 1.0 else path.slowed(factor)
            ahead = plan.curve.cut(plan.start_s)
            gap_3J = motion_3J - ahead.pieces_B4J[0, :3]
            time_s_B = merge_times((ahead.time_s_B, _FADE_BREAKS_S))
            offset_TB4J = fades(gap_3J, time_s_B)
            blend_TB4J = ahead.resampled(time_s_B) + offset_TB4J
            fits_T = admitted(time_s_B, blend_TB4J, self._limits)
            gentle_T = demand(time_s_B, offset_TB4J, self._limits).max(axis=(1, 2)) <= GENTLE_DEMAND
            for chosen_T in (fits_T & gentle_T & _FADE_IS_SHORT, fits_T):
                if chosen_T.any():
                    curve = Curve(time_s_B, blend_TB4J[int(chosen_T.argmax())])
                    return self._splice(curve, Method.BLEND, gap_3J, plan, time_s_K)
        return None

    def _reach(self, motion_3J: F64, path: _Path, time_s_K: F64) -> Splice | None:
        ahead = path.curve.cut(path.start_s)
        lead_s = max(0.0, float(time_s_K[0]))
        meetings = ahead.time_s_B[ahead.time_s_B + lead_s >= LEAST_MEETING_S]
        late: Curve | None = None
        for meet_s in [*meetings[::3][:MEETING_POINTS].tolist(), ahead.duration_s]:
            move = self._limiter.reach(motion_3J, ahead.at(meet_s), meet_s + lead_s)
            if move is None:
                continue
            curve = move.then(move.duration_s, ahead.cut(meet_s))
            if not admits(curve, self._limits):
                continue
            if move.duration_s <= meet_s + lead_s + 1e-6:
                return self._splice(curve, Method.REACH, motion_3J - ahead.at(0.0), path, time_s_K)
            late = late or curve
        return self._splice(late, Method.REACH, motion_3J - ahead.at(0.0), path, time_s_K) if late else None

    def _from_rest(self, motion_3J: F64, time_s_K: F64, position_KJ: F64, slower: float) -> Splice | None:
        here = np.clip(motion_3J[0], self._limits.lower_J, self._limits.upper_J)
        least_s = 0.5 * float(np.diff(time_s_K).min()) if len(time_s_K) > 1 else 0.05
        later = time_s_K > least_s
        later[-1] = True
        time = np.concatenate(([0.0], np.maximum(time_s_K[later], least_s)))
        path = self._path(time, np.concatenate((here[None], position_KJ[later])), slower, from_rest=True)
        if path is None or not admits(path.curve, self._limits):
            return None
        gap_3J = np.stack((here - position_KJ[later][0], *np.zeros((2, len(here)))))
        return self._splice(path.curve, Method.FROM_REST, gap_3J, path, time_s_K)

    @staticmethod
    def _splice(curve: Curve, method: Method, gap_3J: F64, path: _Path, time_s_K: F64) -> Splice:
        delay_s = max(0.0, curve.duration_s - float(time_s_K[-1]))
        limited = path.limited_J | (method is Method.REACH)
        return Splice(curve, method, delay_s, -gap_3J[0], -gap_3J[1], limited)


def fades(gap_3J: F64, time_s_B: F64) -> F64:
    """Offsets that start as `gap_3J` and are 0, with their derivatives, after each of FADE_TIMES_S.

    Three constant-jerk pieces of equal length each. Returned as pieces [T, B, 4, J] at the piece starts `time_s_B`,
    which include _FADE_BREAKS_S.
    """
    whole_T = np.array(FADE_TIMES_S)
    piece_T1 = whole_T[:, None] / 3
    scale_T31 = np.stack((piece_T1**3, piece_T1**2, piece_T1), axis=1)
    jerk_T3J = _FADE_INVERSE_3x3 @ (-(taylor(whole_T)[:, :, :3] @ gap_3J) / scale_T31)
    pieces_T44J = np.zeros((len(whole_T), 4, 4, gap_3J.shape[1]))
    pieces_T44J[:, 0, :3] = gap_3J
    pieces_T44J[:, :3, 3] = jerk_T3J
    for piece in range(2):
        pieces_T44J[:, piece + 1, :3] = taylor(piece_T1[:, 0]) @ pieces_T44J[:, piece]
    index_TB = np.minimum((time_s_B + LEAST_PIECE_S) / piece_T1, 3.0).astype(np.intp)
    chosen_TB4J = np.take_along_axis(pieces_T44J, index_TB[:, :, None, None], axis=1)
    since_TB = np.maximum(time_s_B - index_TB * piece_T1, 0.0)
    return np.concatenate((taylor(since_TB) @ chosen_TB4J, chosen_TB4J[:, :, 3:]), axis=2)
