"""joint_trajectory_controller of ros2_control (Jazzy, topic interface) without ROS: what it accepts and interpolates.

Modelled: complete joint names in any order, strictly increasing times, full-length fields, rest at the end, no
trajectory that is already over; a new trajectory replaces the old one at once and is joined from the current *desired*
state (`interpolate_from_desired_state: true`); linear, cubic or quintic interpolation by what the points carry; hold at
the end.

Shapes: J joints of the controller in its own order. Times are integer nanoseconds on the caller's clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise

import numpy as np

from starry_ros.timing import seconds
from starry_ros.types import F64

REST_VELOCITY = float(np.finfo(np.float32).eps)
"""Largest speed that still counts as rest at the end of a trajectory (rad/s or m/s)."""

LARGEST = 1e6
"""Numbers beyond this count as not finite: no joint goes there, and interpolation could overflow."""


class Rejection(StrEnum):
    """Why a trajectory was not accepted."""

    NO_JOINTS = "no_joints"
    DUPLICATE_JOINTS = "duplicate_joints"
    UNKNOWN_JOINTS = "unknown_joints"
    INCOMPLETE_JOINTS = "incomplete_joints"
    NO_POINTS = "no_points"
    TIMES_NOT_INCREASING = "times_not_increasing"
    POSITIONS_MISSING = "positions_missing"
    WRONG_LENGTH = "wrong_length"
    EFFORT_GIVEN = "effort_given"
    NOT_FINITE = "not_finite"
    MOVING_AT_END = "moving_at_end"
    IN_THE_PAST = "in_the_past"


@dataclass(frozen=True)
class TrajectoryPoint:
    """One point of a message; empty tuples mean that the field was not given."""

    time_from_start_ns: int
    positions: tuple[float, ...]
    velocities: tuple[float, ...] = ()
    accelerations: tuple[float, ...] = ()
    effort: tuple[float, ...] = ()


@dataclass(frozen=True)
class Trajectory:
    """A message as it came: `start_ns` None means start now."""

    joint_names: tuple[str, ...]
    start_ns: int | None
    points: tuple[TrajectoryPoint, ...]


@dataclass(frozen=True)
class JointPoint:
    """Desired state at one time. Velocity or acceleration is None where the trajectory does not carry it."""

    time_ns: int
    position_J: F64
    velocity_J: F64 | None
    acceleration_J: F64 | None


class TrajectoryController:
    """One controller: `accept` messages, `sample` the desired state every control period."""

    def __init__(self, joint_names: tuple[str, ...], position_J: F64, now_ns: int) -> None:
        self.joint_names = joint_names
        zeros = np.zeros(len(joint_names))
        self._desired = JointPoint(now_ns, np.array(position_J, dtype=np.float64), zeros, zeros)
        self._points: list[JointPoint] = []

    @property
    def end_ns(self) -> int | None:
        """Time of the last point, or None while no trajectory is active."""
        return self._points[-1].time_ns if self._points else None

    def reset(self, position_J: F64, now_ns: int) -> None:
        """Forget any trajectory and hold `position_J`."""
        zeros = np.zeros(len(self.joint_names))
        self._desired = JointPoint(now_ns, np.array(position_J, dtype=np.float64), zeros, zeros)
        self._points = []

    def accept(self, trajectory: Trajectory, now_ns: int) -> Rejection | None:
        """Replace the active trajectory, or say why not; a refused message changes nothing."""
        rejection = self.check(trajectory, now_ns)
        if rejection is not None:
            return rejection
        start_ns = now_ns if trajectory.start_ns is None else trajectory.start_ns
        order = [trajectory.joint_names.index(name) for name in self.joint_names]
        before = replace(self.sample(now_ns), time_ns=now_ns)
        self._points = [before, *(_ordered(point, order, start_ns) for point in trajectory.points)]
        return None

    def check(self, trajectory: Trajectory, now_ns: int) -> Rejection | None:
        """The acceptance rules alone; the first broken one is returned."""
        return self._check_names(trajectory) or _check_points(trajectory) or _check_times(trajectory, now_ns)

    def sample(self, now_ns: int) -> JointPoint:
        """Desired state at `now_ns`; holds the last point after the end. Call with non-decreasing times."""
        if self._points:
            self._desired = _sample(self._points, now_ns)
        return self._desired

    def _check_names(self, trajectory: Trajectory) -> Rejection | None:
        names = trajectory.joint_names
        if not names:
            return Rejection.NO_JOINTS
        if len(set(names)) != len(names):
            return Rejection.DUPLICATE_JOINTS
        if set(names) - set(self.joint_names):
            return Rejection.UNKNOWN_JOINTS
        return Rejection.INCOMPLETE_JOINTS if len(names) < len(self.joint_names) else None


def _check_points(trajectory: Trajectory) -> Rejection | None:
    count = len(trajectory.joint_names)
    if not trajectory.points:
        return Rejection.NO_POINTS
    for point in trajectory.points:
        if not point.positions:
            return Rejection.POSITIONS_MISSING
        if point.effort:
            return Rejection.EFFORT_GIVEN
        fields = (point.positions, point.velocities, point.accelerations)
        if any(field and len(field) != count for field in fields):
            return Rejection.WRONG_LENGTH
        if not all(abs(value) <= LARGEST for field in fields for value in field):
            return Rejection.NOT_FINITE
    last = trajectory.points[-1].velocities
    return Rejection.MOVING_AT_END if any(abs(value) > REST_VELOCITY for value in last) else None


def _check_times(trajectory: Trajectory, now_ns: int) -> Rejection | None:
    times_ns = [point.time_from_start_ns for point in trajectory.points]
    if times_ns[0] < 0 or any(late <= early for early, late in pairwise(times_ns)):
        return Rejection.TIMES_NOT_INCREASING
    over = trajectory.start_ns is not None and trajectory.start_ns + times_ns[-1] < now_ns
    return Rejection.IN_THE_PAST if over else None


def _ordered(point: TrajectoryPoint, order: list[int], start_ns: int) -> JointPoint:
    def pick(field: tuple[float, ...]) -> F64 | None:
        return np.array(field, dtype=np.float64)[order] if field else None

    position_J = np.array(point.positions, dtype=np.float64)[order]
    time_ns = start_ns + point.time_from_start_ns
    return JointPoint(time_ns, position_J, pick(point.velocities), pick(point.accelerations))


def _sample(points: list[JointPoint], now_ns: int) -> JointPoint:
    """Points[0] is the desired state when the message came; it only matters before the first point of the message."""
    last = points[-1]
    if now_ns >= last.time_ns:
        zeros = np.zeros_like(last.position_J)
        return JointPoint(now_ns, last.position_J, zeros, zeros)
    if now_ns < points[1].time_ns:
        return interpolate(points[0], points[1], now_ns)
    after = next(i for i, point in enumerate(points[1:], start=1) if point.time_ns > now_ns)
    return interpolate(points[after - 1], points[after], now_ns)


def interpolate(begin: JointPoint, end: JointPoint, now_ns: int) -> JointPoint:
    """Polynomial through both states: quintic with accelerations, cubic with velocities, else linear."""
    span_s, elapsed_s = seconds(end.time_ns - begin.time_ns), seconds(max(0, now_ns - begin.time_ns))
    step_J = end.position_J - begin.position_J
    if begin.velocity_J is None or end.velocity_J is None:
        coefficients = [begin.position_J, step_J / span_s]
    elif begin.acceleration_J is None or end.acceleration_J is None:
        coefficients = _cubic(begin.position_J, begin.velocity_J, step_J, end.velocity_J, span_s)
    else:
        coefficients = _quintic(
            begin.position_J, begin.velocity_J, begin.acceleration_J, step_J, end.velocity_J, end.acceleration_J, span_s
        )
    return JointPoint(now_ns, *(_derivative(coefficients, order, elapsed_s) for order in range(3)))


def _cubic(p0_J: F64, v0_J: F64, step_J: F64, v1_J: F64, span_s: float) -> list[F64]:
    return [
        p0_J,
        v0_J,
        (3 * step_J - (2 * v0_J + v1_J) * span_s) / span_s**2,
        (-2 * step_J + (v0_J + v1_J) * span_s) / span_s**3,
    ]


def _quintic(p0_J: F64, v0_J: F64, a0_J: F64, step_J: F64, v1_J: F64, a1_J: F64, span_s: float) -> list[F64]:
    velocity_J, change_J = span_s * v0_J, span_s**2 * a0_J
    end_velocity_J, end_change_J = span_s * v1_J, span_s**2 * a1_J
    return [
        p0_J,
        v0_J,
        a0_J / 2,
        (20 * step_J - 12 * velocity_J - 8 * end_velocity_J - 3 * change_J + end_change_J) / (2 * span_s**3),
        (-30 * step_J + 16 * velocity_J + 14 * end_velocity_J + 3 * change_J - 2 * end_change_J) / (2 * span_s**4),
        (12 * step_J - 6 * velocity_J - 6 * end_velocity_J - change_J + end_change_J) / (2 * span_s**5),
    ]


_FACTORS = tuple(tuple(math.perm(power, order) for power in range(6)) for order in range(3))
"""Factor of each power of t in the derivatives of orders 0, 1, 2."""


def _derivative(coefficients: list[F64], order: int, at_s: float) -> F64:
    """Value of the `order`-th derivative of sum c_k t^k at `at_s`, by Horner's rule."""
    value = np.zeros_like(coefficients[0])
    for power in range(len(coefficients) - 1, order - 1, -1):
        value = value * at_s + _FACTORS[order][power] * coefficients[power]
    return value
