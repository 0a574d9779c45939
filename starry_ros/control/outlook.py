"""Look-aheads: what the arms are told about the next moments, and what they do with that should nothing follow.

Shapes: N samples, J joints, a motion is [3, J].
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from starry_ros.control.following import Following, Sent
from starry_ros.control.status import ExecutorConfig, LookAhead
from starry_ros.control.stop import StopPlanner
from starry_ros.control.track import Track
from starry_ros.control.trajectory import Curve
from starry_ros.robot_spec import RobotSpec
from starry_ros.timing import NS_PER_S, seconds
from starry_ros.types import F64, RobotState

Old = Mapping[str, Sent]
"""The look-ahead that each arm carries out which is not on the newest, by the arm's name."""


class Outlook:
    """Makes look-aheads for one robot; remembers the last commands and the last look-aheads."""

    def __init__(self, spec: RobotSpec, config: ExecutorConfig, stopper: StopPlanner, lead_ns: int) -> None:
        self._lead_s = seconds(lead_ns)
        period_ns = round(NS_PER_S / spec.rates.control_hz)
        self._config, self._stopper = config, stopper
        self._lower_J, self._upper_J = spec.limit("lower"), spec.limit("upper")
        self._stride = max(1, round(config.look_ahead_step_s / seconds(period_ns)))
        self._period_ns = period_ns
        self._recent: deque[tuple[int, F64]] = deque(maxlen=lead_ns // period_ns + 1)
        self._last: Sent | None = None
        self._before: Sent | None = None
        self._arms = {arm.name: Following(spec, config, spec.arm_slice(arm.name), lead_ns) for arm in spec.arms}
        self.recalls = dict.fromkeys(self._arms, 0)

    def forget(self) -> None:
        """Nothing was commanded or sent."""
        self._recent.clear()
        self._last = self._before = None
        for arm in self._arms.values():
            arm.forget()

    def trust(self) -> None:
        """A run begins: what drives refused before does not count."""
        for arm in self._arms.values():
            arm.trust()

    def commanded(self, command_ns: int, motion_3J: F64) -> None:
        """Remember a command. After a gap those before it are no part of the same motion."""
        if self._recent and command_ns - self._recent[-1][0] > 1.5 * self._period_ns:
            self._recent.clear()
        self._recent.append((command_ns, motion_3J))

    def make(self, track: Track, command_ns: int, *, moving: bool) -> LookAhead:
        """The next motion from the last command on: along the curve and, while `moving`, into a stop."""
        config, step_s, follow_s = self._config, self._config.look_ahead_step_s, np.inf
        least_s, rest_s = max(0.0, config.bridge_s - self._lead_s), config.rest_within_s - self._lead_s
        if moving:
            follow_s = self._stopper.turn_s(track.curve, track.s, least_s, rest_s)
        ahead, follow_s = self._stopper.follow_then_stop(track.curve, track.s, least_s, follow_s)
        self._before, self._last = self._last, Sent(command_ns, ahead, follow_s, track.curve)
        for arm in self._arms.values():
            arm.send(self._last)
        steps = max(1, int(np.ceil(ahead.duration_s / step_s - 1e-6)))
        future_s = np.arange(1, steps + 1, dtype=np.float64) * step_s
        motion_N3J = ahead.sample(np.append(future_s[:-1], max(future_s[-1], ahead.duration_s)))
        start_ns, past = self._already_commanded(command_ns)
        time_s_N = np.concatenate(([seconds(t - start_ns) for t, _ in past], future_s + seconds(command_ns - start_ns)))
        motion_N3J = np.concatenate(([motion for _, motion in past], motion_N3J)) if past else motion_N3J
        position_NJ = np.clip(motion_N3J[:, 0], self._lower_J, self._upper_J)
        return LookAhead(start_ns, time_s_N, position_NJ, motion_N3J[:, 1], motion_N3J[:, 2])

    def take_back(self, arms: Sequence[str]) -> None:
        """The last look-ahead was not sent to these arms after all: they are on the one before."""
        last, before = self._last, self._before
        for name in arms:
            self._arms[name].take_back()
            if last is not None and before is not None and len(arms) < len(self._arms):
                told = last.ahead.with_joints(self._arms[name].joints, before.after(last.command_ns))
                last = Sent(last.command_ns, told, np.inf, of=told)
        self._last = last if len(arms) < len(self._arms) else before

    def _already_commanded(self, command_ns: int) -> tuple[int, list[tuple[int, F64]]]:
        """Start of a look-ahead and its points up to the last command, which a controller may not have reached yet."""
        recent = list(self._recent)[:: -self._stride][::-1]
        return (recent[0][0], recent[1:]) if recent else (command_ns, [])

    def left(self, track: Track, now_ns: int) -> Sent | None:
        """The last look-ahead, if arms that got nothing since are on it and not on the curve any more.

        That is so once its stop has begun, or where it was made of another curve: of this one they know nothing.
        """
        last = self._last
        on_it = last is not None and (last.of is not track.curve or seconds(now_ns - last.command_ns) > last.follow_s)
        return last if on_it else None

    def rest(self, track: Track, now_ns: int) -> Curve:
        """What is left for arms that were left alone: of what they were last told, or of the last set-point."""
        return Curve.hold(track.motion_3J[0]) if self._last is None else self._last.after(now_ns)

    @property
    def last(self) -> Sent | None:
        """What arms carry out that got nothing since; None when nothing was sent."""
        return self._last

    def still_on(self, state: RobotState) -> Old:
        """Which arms carry out an older look-ahead than the newest, and which one."""
        found = {name: arm.still_on(state) for name, arm in self._arms.items()}
        return {name: sent for name, sent in found.items() if sent is not None}

    @property
    def refusing(self) -> bool:
        """Whether an arm that was on an old look-ahead has not been seen to take a newer one since."""
        return any(arm.refusing for arm in self._arms.values())

    @property
    def refused_s(self) -> float:
        """From the first to the last sight of that, in seconds: the longest of the arms."""
        return max(arm.refused_s for arm in self._arms.values())

    def recall(self, old: Old, track: Track, command_ns: int) -> None:
        """The last commands to these arms were those of an older look-ahead; `recalls` counts how often."""
        curve = track.ahead()
        told = curve if self._last is None else self._last.after(command_ns)
        for name, sent in old.items():
            self.recalls[name] += 1
            joints = self._arms[name].joints
            curve, told = (each.with_joints(joints, sent.after(command_ns)) for each in (curve, told))
            for i, (time_ns, motion_3J) in enumerate(self._recent):
                motion_3J = motion_3J.copy()
                motion_3J[:, joints] = sent.at(time_ns)[:, joints]
                self._recent[i] = time_ns, motion_3J
        self._last = Sent(command_ns, told, np.inf, of=told)
        track.take_over(curve)
