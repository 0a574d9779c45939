"""Curves: joint position, velocity and acceleration as piecewise cubics of time, at rest at their end.

Shapes: N samples, B pieces, J joints, K knots. An axis of length 3 is position, velocity, acceleration; one of length 4
adds jerk, which is constant within a piece. A motion is one sample, [3, J].

Edge table of `Curve.at(t)`, with t in seconds after the curve's own start:

| t | result |
|---|---|
| before the start (t < 0) | the motion at the start: the curve says nothing about its past |
| on a knot | the knot's position (interpolating joints), C2 through it |
| between knots | the cubic of that piece: velocity and acceleration are its exact derivatives |
| at or after the end | the last position, velocity 0, acceleration 0: never an extrapolation |
| no knots | there is no curve: `through_knots` refuses; `Curve.hold` stands still where the robot is |
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import BSpline, make_interp_spline

from starry_ros.types import F64

LEAST_PIECE_S = 1e-9
"""Breakpoints closer than this are one: far below a control period, far above the rounding of a division."""


def taylor(step_s: float | F64) -> F64:
    """Matrix [..., 3, 4] that carries position, velocity, acceleration and jerk `step_s` seconds on."""
    step = np.asarray(step_s, dtype=np.float64)
    matrix = np.zeros((*step.shape, 3, 4))
    matrix[..., 0, 0] = matrix[..., 1, 1] = matrix[..., 2, 2] = 1.0
    matrix[..., 0, 1] = matrix[..., 1, 2] = matrix[..., 2, 3] = step
    matrix[..., 0, 2] = matrix[..., 1, 3] = step * step / 2
    matrix[..., 0, 3] = step * step * step / 6
    return matrix


@dataclass(frozen=True)
class Curve:
    """Piece b holds from `time_s_B[b]` to the next start; the last piece is rest and never ends."""

    time_s_B: F64
    pieces_B4J: F64
    _starts_s: list[float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_starts_s", self.time_s_B.tolist())

    @staticmethod
    def hold(position_J: F64) -> Curve:
        """Stand still."""
        pieces = np.zeros((1, 4, len(position_J)))
        pieces[0, 0] = position_J
        return Curve(np.zeros(1), pieces)

    @staticmethod
    def from_motions(time_s_B: F64, motion_B3J: F64) -> Curve:
        """Pieces between motions whose acceleration is linear in between; the last motion becomes rest."""
        pieces = np.zeros((len(time_s_B), 4, motion_B3J.shape[2]))
        pieces[:, :3] = motion_B3J
        pieces[-1, 1:] = 0.0
        pieces[:-1, 3] = (motion_B3J[1:, 2] - motion_B3J[:-1, 2]) / lengths(time_s_B)[:, None]
        return Curve(time_s_B, pieces)

    @property
    def duration_s(self) -> float:
        """When rest begins."""
        return self._starts_s[-1]

    def at(self, t_s: float) -> F64:
        """Motion [3, J] at one time; see the edge table."""
        t_s = max(0.0, t_s)
        piece = bisect_right(self._starts_s, t_s) - 1
        d = t_s - self._starts_s[piece]
        step = np.array(((1.0, d, d * d / 2, d * d * d / 6), (0.0, 1.0, d, d * d / 2), (0.0, 0.0, 1.0, d)))
        motion: F64 = step @ self.pieces_B4J[piece]
        return motion

    def sample(self, t_s_N: F64) -> F64:
        """Motions [N, 3, J] at many times."""
        t_s_N = np.maximum(t_s_N, 0.0)
        piece_N = np.searchsorted(self.time_s_B, t_s_N, side="right") - 1
        motion: F64 = taylor(t_s_N - self.time_s_B[piece_N]) @ self.pieces_B4J[piece_N]
        return motion

    def resampled(self, t_s_B: F64) -> F64:
        """Motion and jerk [B, 4, J] at piece starts that include this curve's own (none is lost by rounding)."""
        piece_B = np.searchsorted(self.time_s_B, t_s_B + LEAST_PIECE_S, side="right") - 1
        pieces = np.empty((len(t_s_B), 4, self.pieces_B4J.shape[2]))
        pieces[:, :3] = taylor(np.maximum(t_s_B - self.time_s_B[piece_B], 0.0)) @ self.pieces_B4J[piece_B]
        pieces[:, 3] = self.pieces_B4J[piece_B, 3]
        return pieces

    def cut(self, from_s: float) -> Curve:
        """The rest of the curve from `from_s` on, with that moment as its start."""
        from_s = max(from_s, 0.0)
        later = self.time_s_B[self.time_s_B > from_s + LEAST_PIECE_S]
        times = np.concatenate(([from_s], later))
        return Curve(times - from_s, self.resampled(times))

    def then(self, at_s: float, following: Curve) -> Curve:
        """This curve until `at_s`, then `following`, which must begin with this curve's motion there."""
        if at_s <= LEAST_PIECE_S:
            return following
        keep = self.time_s_B < at_s - LEAST_PIECE_S
        times = np.concatenate((self.time_s_B[keep], following.time_s_B + at_s))
        return Curve(times, np.concatenate((self.pieces_B4J[keep], following.pieces_B4J)))

    def slowed(self, factor: float) -> Curve:
        """The same path in `factor` times the time."""
        scale_41 = factor ** -np.arange(4.0)[:, None]
        return Curve(self.time_s_B * factor, self.pieces_B4J * scale_41)

    def with_joints(self, joints: slice, other: Curve) -> Curve:
        """This curve, but for some joints that move as in the other one."""
        times = merge_times((self.time_s_B, other.time_s_B))
        pieces = self.resampled(times)
        pieces[:, :, joints] = other.resampled(times)[:, :, joints]
        return Curve(times, pieces)

    def starting_from(self, motion_3J: F64) -> Curve:
        """The same curve with its first motion replaced by an equal one, so that rounding leaves no seam."""
        pieces = self.pieces_B4J.copy()
        pieces[0, :3] = motion_3J
        return Curve(self.time_s_B, pieces)

    def ending_at(self, position_J: F64) -> Curve:
        """The same curve with its end moved by what rounding left of the way, which grows with the cube of time."""
        share_B, whole_s = self.time_s_B / self.duration_s, self.duration_s
        rows = (share_B**3, 3 * share_B**2 / whole_s, 6 * share_B / whole_s**2, np.full_like(share_B, 6 / whole_s**3))
        shape_B4 = np.stack(rows, axis=1)
        shape_B4[-1, 1:] = 0.0
        return Curve(self.time_s_B, self.pieces_B4J + shape_B4[:, :, None] * (position_J - self.pieces_B4J[-1, 0]))


def merge_times(times: Sequence[ArrayLike]) -> F64:
    """Sorted union of breakpoints; those closer together than LEAST_PIECE_S become one."""
    merged = np.unique(np.concatenate(times))
    return merged[np.concatenate(([True], lengths(merged) > LEAST_PIECE_S))]


def through_knots(
    time_s_K: F64, position_KJ: F64, lower_J: F64, upper_J: F64, *, from_rest: bool = False,
    rounded_K: F64 | None = None,
) -> Curve:
    """The curve of a `KnotSpline`."""
    return KnotSpline(time_s_K, position_KJ, lower_J, upper_J, from_rest=from_rest).curve(rounded_K)


class KnotSpline:
    """C2 cubic splines of the same knots, at rest at the last one; time 0 of a curve is the first knot.

    A free breakpoint inside the last interval lets velocity and acceleration both be 0 at the end; with
    `from_rest` the first interval has one too, otherwise the start is not-a-knot. A joint whose interpolating spline
    would leave [lower, upper] gets the Schoenberg spline of the same knots: C2, never outside the knots' own range,
    off a knot by about a sixth of the second difference there.
    """

    def __init__(
        self, time_s_K: F64, position_KJ: F64, lower_J: F64, upper_J: F64, *, from_rest: bool = False
    ) -> None:
        if len(time_s_K) == 0:
            raise ValueError("a curve needs at least one knot")
        time_s_K, position_KJ = _enough(time_s_K, position_KJ, 2 if from_rest else 3)
        first, last = time_s_K[0], time_s_K[-1]
        begin = [time_s_K[0] + (time_s_K[1] - time_s_K[0]) / 3] if from_rest else []
        end = [time_s_K[-1] - (time_s_K[-1] - time_s_K[-2]) / 3]
        knots = np.concatenate(([first] * 4, begin, time_s_K[1 if from_rest else 2 : -1], end, [last] * 4))
        zero = np.zeros(position_KJ.shape[1])
        rest = [(1, zero), (2, zero)]
        spline = make_interp_spline(time_s_K, position_KJ, 3, t=knots, bc_type=(rest if from_rest else None, rest))
        self._time_s_K, self._knots, self._through = time_s_K, knots, spline.c
        self._interpolating = _from_spline(spline)
        low, high = position_range(self._interpolating.time_s_B, self._interpolating.pieces_B4J)
        self._outside_J = (low < lower_J - _TOUCH) | (high > upper_J + _TOUCH)
        self._position_KJ, self._from_rest = position_KJ, from_rest

    def curve(self, rounded_K: F64 | None = None) -> Curve:
        """Through the knots; `rounded_K` in 0..1 mixes the Schoenberg spline in near each of those that were given."""
        rounded = rounded_K is not None and bool(rounded_K.any())
        if not rounded and not self._outside_J.any():
            return self._interpolating
        greville, near = self._schoenberg
        share = np.broadcast_to(self._outside_J, near.shape).astype(np.float64)
        if rounded_K is not None and rounded:
            padded_K = np.pad(rounded_K, (0, len(self._time_s_K) - len(rounded_K)))
            share = np.maximum(np.interp(greville, self._time_s_K, padded_K)[:, None], share)
        return _from_spline(BSpline(self._knots, self._through + share * (near - self._through), 3))

    @cached_property
    def _schoenberg(self) -> tuple[F64, F64]:
        """Abscissae and coefficients of the variation-diminishing spline: the polygon of the knots at Greville's.

        Three equal coefficients at an end make velocity and acceleration 0 there (de Boor, A Practical Guide to
        Splines).
        """
        knots, position_KJ = self._knots, self._position_KJ
        greville = (knots[1:-3] + knots[2:-2] + knots[3:-1]) / 3
        coefficients = np.stack([np.interp(greville, self._time_s_K, column) for column in position_KJ.T], axis=1)
        coefficients[-3:] = position_KJ[-1]
        if self._from_rest:
            coefficients[:3] = position_KJ[0]
        return greville, coefficients


_TOUCH = 1e-9
"""A spline that touches a limit within rounding does not leave it."""


def _enough(time_s_K: F64, position_KJ: F64, needed: int) -> tuple[F64, F64]:
    """Repeat the last knot until a cubic is determined: standing still is what is known after the end."""
    missing = needed - len(time_s_K)
    if missing <= 0:
        return time_s_K, position_KJ
    step = time_s_K[-1] - time_s_K[-2] if len(time_s_K) > 1 else 0.1
    extra = time_s_K[-1] + step * np.arange(1, missing + 1)
    still = np.repeat(position_KJ[-1:], missing, axis=0)
    return np.concatenate((time_s_K, extra)), np.concatenate((position_KJ, still))


def _from_spline(spline: BSpline) -> Curve:
    breaks = spline.t[3:-3]
    motions = np.stack([spline(breaks, order) for order in range(3)], axis=1)
    return Curve.from_motions(breaks - breaks[0], motions)


def lengths(time_s_B: F64) -> F64:
    """How long every piece [..., B - 1] lasts."""
    return np.asarray(time_s_B[..., 1:] - time_s_B[..., :-1])


def position_range(time_s_B: F64, pieces_B4J: F64) -> tuple[F64, F64]:
    """Exact least and greatest position [..., J] of curves [..., B, 4, J] that share their piece starts.

    Looked at where a piece starts and where the velocity is 0 inside a piece.
    """
    position, velocity, acceleration, jerk = (pieces_B4J[..., :-1, row, :] for row in range(4))
    starts = pieces_B4J[..., 0, :]
    low, high = np.minimum.reduce(starts, axis=-2), np.maximum.reduce(starts, axis=-2)
    if time_s_B.shape[-1] == 1:
        return low, high
    root = np.sqrt(np.maximum(acceleration**2 - 2 * jerk * velocity, 0.0))
    half = -(acceleration + np.copysign(root, acceleration))
    t = _inside(np.array((half, 2 * velocity)), np.array((jerk, half)), lengths(time_s_B)[..., None])
    turning = position + t * (velocity + t * (acceleration / 2 + t * jerk / 6))
    low = np.minimum(low, np.minimum.reduce(turning, axis=(0, -2)))
    return low, np.maximum(high, np.maximum.reduce(turning, axis=(0, -2)))


def peak_velocity(time_s_B: F64, pieces_B4J: F64) -> F64:
    """Exact greatest speed of every piece [..., B - 1, J]: at its ends and where the acceleration is 0."""
    velocity, acceleration, jerk = (pieces_B4J[..., :-1, row, :] for row in range(1, 4))
    t = _inside(-acceleration, jerk, lengths(time_s_B)[..., None])
    inside = np.abs(velocity + t * (acceleration + t * jerk / 2))
    ends = np.abs(pieces_B4J[..., 1, :])
    return np.maximum(inside, np.maximum(ends[..., :-1, :], ends[..., 1:, :]))


def _inside(top: F64, bottom: F64, length: F64) -> F64:
    """top / bottom where that lies in [0, length], else 0."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        t = top / bottom
    return np.where((t > 0) & (t < length), t, 0.0)
