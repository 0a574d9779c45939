"""Which look-ahead an arm carries out, by where its joints are.

A drive that refuses messages, or gets them late, still carries out the last one that it took, and that is known to the
last digit. So arms that are away from the newest look-ahead, and on an older one, tell which one that is. Every arm
has a controller of its own, and refuses by itself.

Shapes: A joints of one arm, the jaw last; T times, a motion is [3, J].
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from starry_ros.control.status import ExecutorConfig
from starry_ros.control.trajectory import Curve
from starry_ros.robot_spec import RobotSpec
from starry_ros.timing import NS_PER_S, nanoseconds, seconds
from starry_ros.types import F64, RobotState

REMEMBERED_S = 0.6
"""Look-aheads are remembered for longer than it takes to see that the arms carry out an old one."""
SURE = 0.2
"""An older look-ahead must explain where an arm has been all the time since it was sent, up to this share of what is
allowed: arms that are held back by what they touch may cross an older one, or stop on it, but did not follow it."""
AGAIN = 0.5
"""An arm that refused before is doubted so much earlier: share of what is allowed."""
ANEW_S = 1.0
"""Refusals that are so far apart do not add up."""
JAW_M = 0.002
"""A jaw that is so near the newest look-ahead, and farther from the old one, has taken the newest."""


@dataclass(frozen=True)
class Sent:
    """A look-ahead: motion from the command at `command_ns` on, along the curve `of` for `follow_s`, then to rest."""

    command_ns: int
    ahead: Curve
    follow_s: float
    of: Curve

    def at(self, time_ns: int) -> F64:
        """Motion [3, J] at a time."""
        return self.ahead.at(seconds(time_ns - self.command_ns))

    def after(self, time_ns: int) -> Curve:
        """What is left of it at a time."""
        return self.ahead.cut(seconds(time_ns - self.command_ns))


class Following:
    """One arm: the look-aheads that it may have taken, oldest first, and what is seen of it."""

    def __init__(self, spec: RobotSpec, config: ExecutorConfig, joints: slice, lead_ns: int) -> None:
        self.joints, self._lead_ns, self._lag_ns = joints, lead_ns, nanoseconds(config.drive_lag_s)
        self._slack_A = config.astray_share * (spec.limit("upper") - spec.limit("lower"))[joints][:-1]
        period_ns = round(NS_PER_S / spec.rates.control_hz)
        remembered = 1 + (nanoseconds(REMEMBERED_S) + self._lag_ns) // period_ns
        self._sent: deque[Sent] = deque(maxlen=remembered)
        self._seen: deque[RobotState] = deque(maxlen=remembered)
        self._held: Sent | None = None
        self._refused_ns = 0, 0

    def forget(self) -> None:
        """Nothing was sent."""
        self._sent.clear()
        self._seen.clear()
        self._held = None

    def trust(self) -> None:
        """A run begins: what was refused before does not count."""
        self._held = None

    def send(self, sent: Sent) -> None:
        """The arm is told this now."""
        self._sent.append(sent)

    def take_back(self) -> None:
        """The newest was not sent after all."""
        if self._sent:
            self._sent.pop()

    def still_on(self, state: RobotState) -> Sent | None:
        """The look-ahead that the arm carries out although newer ones lead elsewhere; None while it follows.

        A drive is up to `drive_lag_s` behind; what only begins in that time cannot be judged yet. A state that was seen
        before says nothing more.
        """
        if self._seen and state.stamp_ns <= self._seen[-1].stamp_ns:
            return None
        self._seen.append(state)
        begun_ns = state.stamp_ns - self._lag_ns
        judged = [sent for sent in self._sent if sent.command_ns <= begun_ns]
        if not judged or self._doubt(judged[-1], state) <= (AGAIN if self.refusing else 1.0):
            if self._held is not None and judged and self._doubt(self._held, state) > 1:
                self._held = None
            return None
        best = judged[int(np.argmin([self._doubt(sent, state) for sent in judged]))]
        if not self._carries_out(best, judged[-1], state):
            return None
        self._sent = deque([best, *(sent for sent in self._sent if sent.command_ns > begun_ns)], self._sent.maxlen)
        begin_ns, last_ns = self._refused_ns
        goes_on = self.refusing and state.stamp_ns - last_ns <= nanoseconds(ANEW_S)
        self._refused_ns = begin_ns if goes_on else state.stamp_ns, state.stamp_ns
        self._held = best
        return best

    @property
    def refusing(self) -> bool:
        """Whether an arm that was on an old look-ahead has not been seen to take a newer one since."""
        return self._held is not None

    @property
    def refused_s(self) -> float:
        """From the first to the last sight of that, in seconds."""
        begin_ns, last_ns = self._refused_ns
        return seconds(last_ns - begin_ns) if self.refusing else 0.0

    def _carries_out(self, sent: Sent, newest: Sent, state: RobotState) -> bool:
        first_ns = sent.command_ns + self._lag_ns
        if any(self._doubt(sent, seen) > SURE for seen in self._seen if seen.stamp_ns >= first_ns):
            return False
        return not (self._off(newest, state)[-1] <= JAW_M < self._off(sent, state)[-1])

    def _doubt(self, sent: Sent, state: RobotState) -> float:
        """How far the arm is from a look-ahead, in shares of what is allowed: the worst joint's. Jaws do not count."""
        return float((self._off(sent, state)[:-1] / self._slack_A).max())

    def _off(self, sent: Sent, state: RobotState) -> F64:
        """How far each joint is from all that a look-ahead passes while a drive may be behind, or ahead."""
        times_ns = state.stamp_ns - self._lag_ns, state.stamp_ns, state.stamp_ns + self._lead_ns
        passed_TA = np.stack([sent.at(time_ns)[0, self.joints] for time_ns in times_ns])
        measured_A = state.position_J[self.joints]
        off: F64 = np.maximum(passed_TA.min(axis=0) - measured_A, measured_A - passed_TA.max(axis=0))
        return off
