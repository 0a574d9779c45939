"""Look-aheads: what an arm is told about the next moments, and what it does with that should nothing follow.

A drive that refuses messages, or gets them late, still carries out the last one that it took, and that is known to the
last digit. So arms that are away from the newest look-ahead, and on an older one, tell which one that is: from there
the commands go on.

Shapes: N samples, J joints, a motion is [3, J].
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from starry_ros.control.status import ExecutorConfig, LookAhead
from starry_ros.control.stop import StopPlanner
from starry_ros.control.trajectory import Curve
from starry_ros.robot_spec import RobotSpec
from starry_ros.timing import NS_PER_S, nanoseconds, seconds
from starry_ros.types import F64, RobotState

REMEMBERED_S = 0.6
"""Look-aheads are remembered for longer than it takes to see that the arms carry out an old one."""
SURE = 0.2
"""An older look-ahead must explain the arms so well, as a share of what is allowed, and ..."""
SURE_FOR_S = 0.1
"""... for so long: arms that are held back by what they touch may cross an older one, but do not follow it."""


@dataclass(frozen=True)
class Sent:
    """A look-ahead: the motion from the command at `command_ns` on, along the plan for `follow_s` and then to rest."""

    command_ns: int
    ahead: Curve
    follow_s: float

    def at(self, time_ns: int) -> F64:
        """Motion [3, J] at a time."""
        return self.ahead.at(seconds(time_ns - self.command_ns))


class Outlook:
    """Makes look-aheads for one robot; remembers the last commands and the last look-ahead."""

    def __init__(self, spec: RobotSpec, config: ExecutorConfig, stopper: StopPlanner, lead_ns: int) -> None:
        self._lead_s = seconds(lead_ns)
        period_ns = round(NS_PER_S / spec.rates.control_hz)
        self._config, self._stopper = config, stopper
        self._lower_J, self._upper_J = spec.limit("lower"), spec.limit("upper")
        self._period_ns, self._lag_ns = period_ns, nanoseconds(config.drive_lag_s)
        self._slack_J = config.astray_share * (self._upper_J - self._lower_J)
        self._slack_J[list(spec.gripper_indices)] = np.inf
        self._stride = max(1, round(config.look_ahead_step_s / seconds(period_ns)))
        self._recent: deque[tuple[int, F64]] = deque(maxlen=lead_ns // period_ns + 1)
        remembered = 1 + (nanoseconds(REMEMBERED_S) + self._lag_ns) // period_ns
        self._sent: deque[Sent] = deque(maxlen=remembered)
        self._seen: deque[RobotState] = deque(maxlen=1 + nanoseconds(SURE_FOR_S) // period_ns)
        self._held: Sent | None = None
        self._refused_ns = 0, 0
        self.recalls = 0

    def forget(self) -> None:
        """Nothing was commanded or sent."""
        self._recent.clear()
        self._sent.clear()
        self._seen.clear()
        self._held = None

    def commanded(self, command_ns: int, motion_3J: F64) -> None:
        """Remember a command."""
        self._recent.append((command_ns, motion_3J))

    def make(self, curve: Curve, curve_s: float, command_ns: int, *, moving: bool) -> LookAhead:
        """The next motion from the last command on: along the curve and, while `moving`, into a stop."""
        config, step_s, follow_s = self._config, self._config.look_ahead_step_s, np.inf
        least_s, rest_s = max(0.0, config.bridge_s - self._lead_s), config.rest_within_s - self._lead_s
        if moving:
            follow_s = self._stopper.turn_s(curve, curve_s, least_s, rest_s)
        ahead, follow_s = self._stopper.follow_then_stop(curve, curve_s, least_s, follow_s)
        self._sent.append(Sent(command_ns, ahead, follow_s))
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
        return bool(self._sent) and seconds(now_ns - self._sent[-1].command_ns) > self._sent[-1].follow_s

    def taken(self) -> Sent | None:
        """What such arms carry out; None when nothing was sent."""
        return self._sent[-1] if self._sent else None

    def still_on(self, state: RobotState) -> Sent | None:
        """The look-ahead that the arms carry out although newer ones lead elsewhere; None while they follow.

        A drive is up to `drive_lag_s` behind; what only begins in that time cannot be judged yet.
        """
        begun_ns = state.stamp_ns - self._lag_ns
        if not self._seen or state.stamp_ns > self._seen[-1].stamp_ns:
            self._seen.append(state)
        judged = [sent for sent in self._sent if sent.command_ns <= begun_ns]
        doubt = self._doubt(judged[-1], state) if judged else 0.0
        if doubt <= 1:
            if self._held is not None and self._doubt(self._held, state) > 1:
                self._held = None
            return None
        best = int(np.argmin([self._doubt(sent, state) for sent in judged]))
        if not self._follows(judged[best], state.stamp_ns):
            return None
        later = [sent for sent in self._sent if sent.command_ns > begun_ns]
        self._sent = deque([judged[best], *later], maxlen=self._sent.maxlen)
        self._refused_ns = self._refused_ns[0] if self._held is not None else state.stamp_ns, state.stamp_ns
        self._held = judged[best]
        return self._held

    def _follows(self, sent: Sent, now_ns: int) -> bool:
        """Whether the arms have been on a look-ahead for a while, as far back as it can be judged."""
        first_ns = max(now_ns - nanoseconds(SURE_FOR_S), sent.command_ns + self._lag_ns)
        return all(self._doubt(sent, state) <= SURE for state in self._seen if state.stamp_ns >= first_ns)

    @property
    def refusing(self) -> bool:
        """Whether arms that were on an old look-ahead have not been seen to take a newer one since."""
        return self._held is not None

    @property
    def refused_s(self) -> float:
        """From the first to the last sight of that, in seconds."""
        begin_ns, last_ns = self._refused_ns
        return seconds(last_ns - begin_ns) if self.refusing else 0.0

    def _doubt(self, sent: Sent, state: RobotState) -> float:
        """How far the arms are from a look-ahead, in shares of what is allowed: the worst joint's."""
        first_ns, last_ns = state.stamp_ns - self._lag_ns, state.stamp_ns + nanoseconds(self._lead_s)
        passed_3J = np.stack([sent.at(time_ns)[0] for time_ns in (first_ns, state.stamp_ns, last_ns)])
        below_J, above_J = passed_3J.min(axis=0) - state.position_J, state.position_J - passed_3J.max(axis=0)
        return float((np.maximum(below_J, above_J) / self._slack_J).max())

    def recall(self, sent: Sent, command_ns: int) -> None:
        """The last commands were those of an older look-ahead; `recalls` counts how often."""
        self.recalls += 1
        count = len(self._recent)
        self._recent.clear()
        for i in range(count - 1, -1, -1):
            self.commanded(command_ns - i * self._period_ns, sent.at(command_ns - i * self._period_ns))
