"""Limits of every joint, exact checks of curves against them, and jerk-limited motion between states (Ruckig).

Shapes: J joints, B pieces of a curve, a motion is [3, J]: position, velocity, acceleration. Grippers are joints in m.

Ruckig (Berscheid and Kröger, Jerk-limited Real-time Trajectory Generation with Arbitrary Target States, 2021) is what
MoveIt and ros2_control use. PyPI has wheels for x86-64 Linux; on a Jetson `pip install ruckig` builds it from its
source package and needs only a C++17 compiler and CMake (`sudo apt install build-essential
cmake`).
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starry_ros.control.trajectory import Curve, merge_times, peak_velocity, position_range
from starry_ros.errors import RuntimeUnavailable
from starry_ros.robot_spec import RobotSpec
from starry_ros.types import F64

PLANNING_SHARE = 0.999
"""Share of velocity and acceleration that plans use; the rest absorbs rounding when commands are differentiated."""

PLANNING_JERK_SHARE = 0.7
"""Share of the jerk that plans use. A controller that interpolates quintically between points of a look-ahead exceeds
the jerk of the curve by up to two fifths where it changes between two points."""

POSITION_ROUNDING = 1e-9
"""Positions this far outside a limit are rounding; commands are clipped to the limit itself."""

_RATE_ROUNDING = 1e-6


@dataclass(frozen=True)
class Limits:
    """Per joint: position range, greatest speed, acceleration and jerk."""

    lower_J: F64
    upper_J: F64
    velocity_J: F64
    acceleration_J: F64
    jerk_J: F64

    @staticmethod
    def of(spec: RobotSpec) -> Limits:
        """The limits of a robot contract, in contract order."""
        return Limits(*(spec.limit(name) for name in ("lower", "upper", "velocity", "acceleration", "jerk")))

    def for_planning(self) -> Limits:
        """What plans may use of these limits."""
        velocity_J, acceleration_J = self.velocity_J * PLANNING_SHARE, self.acceleration_J * PLANNING_SHARE
        return Limits(self.lower_J, self.upper_J, velocity_J, acceleration_J, self.jerk_J * PLANNING_JERK_SHARE)


def demand(time_s_B: F64, pieces_B4J: F64, limits: Limits) -> F64:
    """How many times too fast every piece is [..., B - 1, J]: the time stretch that would bring it to its limits.

    Takes curves [..., B, 4, J] and their piece starts [B] or [..., B]. Stretching time by s divides velocity by s,
    acceleration by s^2 and jerk by s^3.
    """
    acceleration = np.abs(pieces_B4J[..., 2, :])
    highest = np.maximum(acceleration[..., :-1, :], acceleration[..., 1:, :])
    by_velocity = peak_velocity(time_s_B, pieces_B4J) / limits.velocity_J
    by_acceleration = np.sqrt(highest / limits.acceleration_J)
    by_jerk = np.cbrt(np.abs(pieces_B4J[..., :-1, 3, :]) / limits.jerk_J)
    return np.maximum(by_velocity, np.maximum(by_acceleration, by_jerk))


def admitted(time_s_B: F64, pieces_B4J: F64, limits: Limits) -> NDArray[np.bool_]:
    """Which of the curves [..., B, 4, J] obey every limit all along: exact, not sampled. NaN is not admitted."""
    slow_enough = np.asarray((demand(time_s_B, pieces_B4J, limits) <= 1 + _RATE_ROUNDING).all(axis=(-2, -1)))
    if not slow_enough.any():
        return slow_enough
    low, high = position_range(time_s_B, pieces_B4J)
    inside = (low >= limits.lower_J - POSITION_ROUNDING) & (high <= limits.upper_J + POSITION_ROUNDING)
    return np.asarray(inside.all(axis=-1) & slow_enough)


def admits(curve: Curve, limits: Limits) -> bool:
    """Whether the whole curve obeys every limit."""
    return bool(admitted(curve.time_s_B, curve.pieces_B4J, limits))


class Gate:
    """The last check before a command leaves: one step of motion, measured from the two motions themselves."""

    def __init__(self, limits: Limits, period_s: float) -> None:
        zero = np.zeros_like(limits.lower_J)
        self._low_3J = np.stack((limits.lower_J - POSITION_ROUNDING, -limits.velocity_J, -limits.acceleration_J))
        self._high_3J = np.stack((limits.upper_J + POSITION_ROUNDING, limits.velocity_J, limits.acceleration_J))
        self._step_3J = np.stack((limits.velocity_J, limits.acceleration_J, limits.jerk_J)) * period_s
        self._step_3J += np.stack((zero + POSITION_ROUNDING, zero, zero))

    def violations(self, before_3J: F64, after_3J: F64) -> NDArray[np.bool_] | None:
        """Which joints [J] the step would take out of their limits (NaN counts), or None when none."""
        fine_3J = (after_3J >= self._low_3J) & (after_3J <= self._high_3J)
        fine_3J &= np.abs(after_3J - before_3J) <= self._step_3J
        if fine_3J.all():
            return None
        return np.asarray(~fine_3J.all(axis=0))


def load_ruckig() -> Any:
    """The ruckig module. Raises RuntimeUnavailable with the way to get it."""
    try:
        return importlib.import_module("ruckig")
    except ImportError as error:
        raise RuntimeUnavailable(
            "control.limits", "the trajectory generator Ruckig is not installed", got=str(error),
            fix="pip install ruckig (aarch64 builds it from source: apt install build-essential cmake first)",
        ) from error


class JerkLimiter:
    """Time-optimal motion of some joints inside their velocity, acceleration and jerk limits.

    Positions along the way are not limited by Ruckig: callers check the returned curve with `admits`.
    """

    def __init__(self, limits: Limits) -> None:
        self._ruckig = load_ruckig()
        self._joints = len(limits.lower_J)
        self._generator = self._ruckig.Ruckig(self._joints)
        self._trajectory = self._ruckig.Trajectory(self._joints)
        self._reach_input, self._stop_input = (self._ruckig.InputParameter(self._joints) for _ in range(2))
        for settings in (self._reach_input, self._stop_input):
            settings.max_velocity = limits.velocity_J.tolist()
            settings.max_acceleration = limits.acceleration_J.tolist()
            settings.max_jerk = limits.jerk_J.tolist()
        self._stop_input.control_interface = self._ruckig.ControlInterface.Velocity
        self._stop_input.synchronization = self._ruckig.Synchronization.No

    def stop(self, motion_3J: F64) -> Curve | None:
        """The fastest stop, every joint by itself; None where the generator finds none."""
        return self._calculate(self._stop_input, motion_3J, np.inf)

    def reach(self, motion_3J: F64, target_3J: F64, least_s: float, most_s: float = np.inf) -> Curve | None:
        """From one motion to another with all joints arriving together, in `least_s` seconds or later.

        None where that takes longer than `most_s`.
        The returned curve's last motion is the target itself and not rest: join it to what follows with `then`.
        """
        settings = self._reach_input
        settings.target_position, settings.target_velocity, settings.target_acceleration = target_3J.tolist()
        settings.minimum_duration = least_s
        return self._calculate(settings, motion_3J, most_s)

    def _calculate(self, settings: Any, motion_3J: F64, most_s: float) -> Curve | None:
        if not np.isfinite(motion_3J).all():
            return None
        settings.current_position, settings.current_velocity, settings.current_acceleration = motion_3J.tolist()
        try:
            result = self._generator.calculate(settings, self._trajectory)
        except self._ruckig.RuckigError:
            return None
        if int(result) < 0 or self._trajectory.duration > most_s:
            return None
        return self._curve(motion_3J)

    def _curve(self, motion_3J: F64) -> Curve:
        profiles = self._trajectory.profiles[0]
        lengths = np.array([[*profile.brake.t, *profile.t] for profile in profiles])
        ends = np.maximum(lengths, 0.0).cumsum(axis=1)
        breaks = merge_times(((0.0, self._trajectory.duration), ends.ravel()))
        breaks = breaks[breaks <= self._trajectory.duration]
        motions = np.array([self._trajectory.at_time(t)[:3] for t in breaks.tolist()])
        motions[0] = motion_3J
        return Curve.from_motions(breaks, motions)
