"""Look-aheads: what an arm is told about the next moments, and what it does with that should nothing follow.

Shapes: N samples, J joints, a motion is [3, J].
"""

from __future__ import annotations

from collections import deque

import numpy as np

from starry_ros.control.status import ExecutorConfig, LookAhead
from starry_ros.control.stop import StopPlanner
from starry_ros.control.trajectory import Curve
from starry_ros.robot_spec import RobotSpec
from starry_ros.timing import NS_PER_S, seconds
from starry_ros.types import F64


class Outlook:
    """Makes look-aheads for one robot; remembers the last commands and the last look-ahead."""

    def __init__(self, spec: RobotSpec, config: ExecutorConfig, stopper: StopPlanner, lead_ns: int) -> None:
        self._lead_s = seconds(lead_ns)
        period_ns = round(NS_PER_S / spec.rates.control_hz)
        self._config, self._stopper = config, stopper
        self._lower_J, self._upper_J = spec.limit("lower"), spec.limit("upper")
        self._stride = max(1, round(config.look_ahead_step_s / seconds(period_ns)))
        self._recent: deque[tuple[int, F64]] = deque(maxlen=lead_ns // period_ns + 1)
        self._sent: tuple[int, Curve, float] | None = None

    def forget(self) -> None:
        """Nothing was commanded or sent."""
        self._recent.clear()
        self._sent = None

    def commanded(self, command_ns: int, motion_3J: F64) -> None:
        """Remember a command."""
        self._recent.append((command_ns, motion_3J))

    def make(self, curve: Curve, curve_s: float, command_ns: int, *, moving: bool) -> LookAhead:
        """The next motion from the last command on: along the curve and, while `moving`, into a stop."""
        config, step_s, follow_s = self._config, self._config.look_ahead_step_s, np.inf
        if moving:
            least_s, rest_s = max(0.0, config.bridge_s - self._lead_s), config.rest_within_s - self._lead_s
            follow_s = self._stopper.turn_s(curve, curve_s, least_s, rest_s)
        ahead = self._stopper.follow_then_stop(curve, curve_s, follow_s)
        self._sent = command_ns, ahead, follow_s
        steps = max(1, int(np.ceil(ahead.duration_s / step_s - 1e-6)))
        future_s = np.arange(1, steps + 1, dtype=np.float64) * step_s
        motion_N3J = ahead.sample(np.append(future_s[:-1], max(future_s[-1], ahead.duration_s)))
        start_ns, past = self._already_commanded(command_ns)
        time_s_N = np.concatenate(([seconds(t - start_ns) for t, _ in past], future_s + seconds(command_ns - start_ns)))
        motion_N3J = np.concatenate(([motion for _, motion in past], motion_N3J)) if past else motion_N3J
        position_NJ = np.clip(motion_N3J[:, 0], self._lower_J, self._upper_J)
        return LookAhead(start_ns, time_s_N, position_NJ, motion_N3J[:, 1], motion_N3J[:, 2])

    def _already_commanded(self, command_ns: int) -> tuple[int, list[tuple[int, F64]]]:
        """Start of a look-ahead and its points up to the last command, which a controller may not have reached yet."""
        recent = list(self._recent)[:: -self._stride][::-1]
        return (recent[0][0], recent[1:]) if recent else (command_ns, [])

    def in_its_stop(self, now_ns: int) -> bool:
        """Whether arms that got nothing since the last look-ahead have begun its stop."""
        return self._sent is not None and seconds(now_ns - self._sent[0]) > self._sent[2]

    def taken(self, at_ns: int) -> Curve | None:
        """What such arms do from a moment on; None when nothing was sent."""
        if self._sent is None:
            return None
        sent_ns, ahead, _ = self._sent
        return ahead.cut(seconds(at_ns - sent_ns))
