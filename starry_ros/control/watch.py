"""What the joint states say: are they valid, are they fresh, do the arms follow.

Shapes: J joints, W ticks of a window.
"""

from __future__ import annotations

import numpy as np

from starry_ros.control.limits import Limits
from starry_ros.control.status import ExecutorConfig
from starry_ros.robot_spec import RobotSpec
from starry_ros.timing import nanoseconds, seconds
from starry_ros.types import F64, RobotState


class StateWatch:
    """Newest valid joint state, and the distance between measured and commanded positions.

    A measured position is compared with the range that was commanded within the last `tracking_window_s`, so that the
    lag of a drive is no error but a joint that is held or pushed is. Grippers are exempt: a jaw on an object stands off
    its command by design.
    """

    def __init__(self, spec: RobotSpec, config: ExecutorConfig) -> None:
        self._config, self._limits, self._names = config, Limits.of(spec), spec.joint_names
        joints = len(self._names)
        self._range_J = self._limits.upper_J - self._limits.lower_J
        self._threshold_J = config.tracking_share * self._range_J
        self._threshold_J[list(spec.gripper_indices)] = np.inf
        ticks = max(1, round(config.tracking_window_s * spec.rates.control_hz))
        self._window_WJ = np.zeros((ticks, joints))
        self._next = 0
        self._off_since_ns: int | None = None
        self.state: RobotState | None = None
        self.valid = True
        self.error_J = np.zeros(joints)

    def forget(self) -> None:
        """Drop the newest state: its stamp means nothing any more."""
        self.state, self._off_since_ns = None, None

    def take(self, state: RobotState, now_ns: int) -> None:
        """Take a state that is newer than the last one; `valid` says whether it could be used."""
        if state.stamp_ns > now_ns + nanoseconds(self._config.schedule.max_clock_skew_s):
            return
        if self.state is not None and state.stamp_ns <= self.state.stamp_ns:
            return
        shape = (len(self._names),)
        self.valid = (
            state.position_J.shape == shape and state.velocity_J.shape == shape
            and bool(np.isfinite(state.position_J).all() and np.isfinite(state.velocity_J).all())
        )
        if self.valid:
            self.state = state

    def stale(self, now_ns: int) -> bool:
        """Whether there is no state that is young enough."""
        return self.state is None or seconds(now_ns - self.state.stamp_ns) > self._config.state_timeout_s

    def start(self, position_J: F64) -> None:
        """The arms stand at this commanded position."""
        self._window_WJ[:] = position_J
        self._off_since_ns = None

    def commanded(self, position_J: F64) -> None:
        """Remember a commanded position."""
        self._window_WJ[self._next] = position_J
        self._next = (self._next + 1) % len(self._window_WJ)

    def off_track(self, now_ns: int) -> bool:
        """Whether a joint has been too far from what was commanded for too long. Updates `error_J`."""
        if self.state is None:
            return False
        measured_J = self.state.position_J
        self.error_J = np.maximum(
            0.0, np.maximum(measured_J - self._window_WJ.max(axis=0), self._window_WJ.min(axis=0) - measured_J)
        )
        if not (self.error_J > self._threshold_J).any():
            self._off_since_ns = None
            return False
        if self._off_since_ns is None:
            self._off_since_ns = now_ns
        return seconds(now_ns - self._off_since_ns) >= self._config.tracking_time_s

    def obstacle_to_start(self, now_ns: int) -> str | None:
        """Why the arms must not be armed now, in words, or None."""
        if self.state is None or self.stale(now_ns):
            return "no fresh joint state; check the robot's joint_states"
        config, measured_J = self._config, self.state.position_J
        slack_J = config.arm_outside_share * self._range_J
        outside = (measured_J < self._limits.lower_J - slack_J) | (measured_J > self._limits.upper_J + slack_J)
        if outside.any():
            j = int(np.flatnonzero(outside)[0])
            return (
                f"{self._names[j]} stands at {measured_J[j]:.4f}, outside "
                f"[{self._limits.lower_J[j]:.4f}, {self._limits.upper_J[j]:.4f}]; move it inside by hand"
            )
        moving = np.abs(self.state.velocity_J) > config.arm_speed_share * self._limits.velocity_J
        if moving.any():
            return f"{self._names[int(np.flatnonzero(moving)[0])]} is moving; wait until the arms stand still"
        return None
