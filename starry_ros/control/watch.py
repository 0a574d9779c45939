"""What the joint states say: are they valid, are they fresh, do the arms follow.

Shapes: J joints, W ticks of a window.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from starry_ros.control.limits import Limits
from starry_ros.control.status import ExecutorConfig
from starry_ros.robot_spec import RobotSpec
from starry_ros.timing import NS_PER_S, nanoseconds, seconds
from starry_ros.types import F64, RobotState

LAG_SLACK_S = 0.1
"""Of the window beyond what a drive may be behind: the age of a joint state, and a tick or two."""
UNTOUCHED_M = 0.002
"""A jaw that moved by less since it was left still holds what it held."""
STILL_S = 0.1
"""A joint whose velocity nobody reports stands still where it was so long ago, if it does."""


class StateWatch:
    """Newest valid joint state, and the distance between measured and commanded positions.

    An *error* is the distance from the range that was commanded within the last `tracking_window_s`, so that the lag of
    a drive is none but a joint that is held or pushed is one: a fault when it is much, or lasts. Joints that are
    *astray* are away from every command since the state's own moment. Grippers are exempt: a jaw on an object stands
    off its command by design.
    """

    def __init__(self, spec: RobotSpec, config: ExecutorConfig) -> None:
        self._config, self._limits, self._names = config, Limits.of(spec), spec.joint_names
        joints = len(self._names)
        self._range_J = self._limits.upper_J - self._limits.lower_J
        outside = {"rad": config.arm_outside_rad, "m": config.arm_outside_m}
        self._outside_J = np.array([outside[joint.unit] for joint in spec.joints])
        self._threshold_J = config.tracking_share * self._range_J
        self._stuck_J, self._astray_J = config.stuck_share * self._range_J, config.astray_share * self._range_J
        for share_J in (self._threshold_J, self._stuck_J, self._astray_J):
            share_J[list(spec.gripper_indices)] = np.inf
        window_s = max(config.tracking_window_s, config.drive_lag_s + config.lead_s + LAG_SLACK_S)
        ticks = max(1, round(window_s * spec.rates.control_hz))
        self._period_ns = round(NS_PER_S / spec.rates.control_hz)
        self._window_WJ, self._time_ns_W = np.zeros((ticks, joints)), np.zeros(ticks, dtype=np.int64)
        self._next = 0
        self._off_since_ns: int | None = None
        self._stuck_since_ns: int | None = None
        self._jaws_J = np.isin(np.arange(joints), spec.gripper_indices)
        self.left_J: F64 | None = None
        self.state: RobotState | None = None
        self._states: deque[RobotState] = deque()
        self.valid = True
        self.error_J = np.zeros(joints)
        self.astray_J = np.zeros(joints, dtype=bool)

    def forget(self) -> None:
        """Drop the newest state: its stamp means nothing any more."""
        self.state, self._off_since_ns, self._stuck_since_ns = None, None, None
        self._states.clear()

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
            self._states.append(state)
            while len(self._states) > 2 and state.stamp_ns - self._states[1].stamp_ns >= nanoseconds(STILL_S):
                self._states.popleft()
            self._compare(state)

    def _compare(self, state: RobotState) -> None:
        """Which joints are astray."""
        since = self._time_ns_W >= min(state.stamp_ns - self._period_ns, int(self._time_ns_W.max()))
        commanded_WJ = self._window_WJ[since]
        below_J, above_J = commanded_WJ.min(axis=0) - state.position_J, state.position_J - commanded_WJ.max(axis=0)
        self.astray_J = np.maximum(below_J, above_J) > self._astray_J

    def stale(self, now_ns: int) -> bool:
        """Whether there is no state that is young enough."""
        return self.state is None or seconds(now_ns - self.state.stamp_ns) > self._config.state_timeout_s

    def start(self, position_J: F64, now_ns: int) -> None:
        """Commands start anew at this position."""
        self._window_WJ[:], self._time_ns_W[:] = position_J, now_ns
        self._off_since_ns = self._stuck_since_ns = self.left_J = None
        self.astray_J = np.zeros_like(self.astray_J)

    def leave(self, *, armed: bool) -> None:
        """A stop begins: remember where the joints are before anybody else may move them, if they were armed."""
        self.left_J = None if self.state is None or not armed else self.state.position_J

    def start_of(self, command_J: F64, *, anew: bool) -> F64 | None:
        """Where a run starts, if not at the last command: joints that are elsewhere start where they are.

        A run that begins `anew` starts where all joints are measured, but for jaws that have not moved since the
        stop began: from its measured opening, a jaw would let go of what it holds. What is held keeps a jaw further
        open than it was told; one that is further closed holds nothing, and was told in vain.
        """
        if self.state is None:
            return None
        shut_J = self._jaws_J & (command_J - self.state.position_J > UNTOUCHED_M)
        moved_J = self.astray_J | anew
        if anew and self.left_J is not None:
            moved_J &= ~(self._jaws_J & (np.abs(self.state.position_J - self.left_J) < UNTOUCHED_M))
        moved_J |= shut_J
        if not moved_J.any():
            return None
        return np.clip(np.where(moved_J, self.state.position_J, command_J), self._limits.lower_J, self._limits.upper_J)

    def commanded(self, command_ns: int, position_J: F64) -> None:
        """Remember a commanded position and its time."""
        self._window_WJ[self._next], self._time_ns_W[self._next] = position_J, command_ns
        self._next = (self._next + 1) % len(self._window_WJ)

    def off_track(self, now_ns: int) -> bool:
        """Whether a joint has been too far from what was commanded for too long. Updates `error_J`."""
        if self.state is None:
            return False
        measured_J = self.state.position_J
        self.error_J = np.maximum(
            0.0, np.maximum(measured_J - self._window_WJ.max(axis=0), self._window_WJ.min(axis=0) - measured_J)
        )
        self._off_since_ns = self._since(self._off_since_ns, self._threshold_J, now_ns)
        self._stuck_since_ns = self._since(self._stuck_since_ns, self._stuck_J, now_ns)
        config = self._config
        spans = (self._off_since_ns, config.tracking_time_s), (self._stuck_since_ns, config.stuck_time_s)
        return any(begin_ns is not None and seconds(now_ns - begin_ns) >= time_s for begin_ns, time_s in spans)

    def _since(self, since_ns: int | None, threshold_J: F64, now_ns: int) -> int | None:
        """Since when the error has been above a threshold without a break."""
        if not (self.error_J > threshold_J).any():
            return None
        return now_ns if since_ns is None else since_ns

    def obstacle_to_start(self, now_ns: int) -> str | None:
        """Why the arms must not be armed now, in words, or None."""
        if self.state is None or self.stale(now_ns):
            return "no fresh joint state; check the robot's joint_states"
        measured_J, slack_J = self.state.position_J, self._outside_J
        outside = (measured_J < self._limits.lower_J - slack_J) | (measured_J > self._limits.upper_J + slack_J)
        if outside.any():
            j = int(np.flatnonzero(outside)[0])
            return (
                f"{self._names[j]} stands at {measured_J[j]:.4f}, outside "
                f"[{self._limits.lower_J[j]:.4f}, {self._limits.upper_J[j]:.4f}]; move it inside by hand"
            )
        moving = self._speed(self.state) > self._config.arm_speed_share * self._limits.velocity_J
        if moving.any():
            return f"{self._names[int(np.flatnonzero(moving)[0])]} is moving; wait until the arms stand still"
        return None

    def _speed(self, state: RobotState) -> F64:
        """How fast the joints are: as reported, and from where they were before for those reported to be at rest."""
        before, reported_J = self._states[0], np.abs(state.velocity_J)
        span_s = max(seconds(state.stamp_ns - before.stamp_ns), STILL_S)
        speed_J: F64 = np.where(reported_J > 0, reported_J, np.abs(state.position_J - before.position_J) / span_s)
        return speed_J
