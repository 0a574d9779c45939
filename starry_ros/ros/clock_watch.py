"""Does ROS time jump while arms move? It is set on machines that synchronise their clocks, and by simulators.

Trajectories say by ROS time when they begin. On a driver whose clock stands elsewhere than ours they would begin at a
wrong moment: in the past, or in seconds, until when a controller swings through far beyond where it was going.
"""

from __future__ import annotations

from starry_ros.timing import nanoseconds

JUMP_S = 0.5
"""A smaller step between stamps is that of a busy machine, or one that the age of joint states tells."""


class ClockWatch:
    """Sees jumps of our own clock, and of the robot's against ours. All times are local, in ns.

    `doubted` from a jump on, until it is reset: nobody knows whether the other side has jumped as well. `own_step_s` is
    the least step of our own clock that is a jump: trajectories begin that much ahead of it.
    """

    def __init__(self, own_step_s: float = JUMP_S) -> None:
        self.doubted, self._own_step_ns = False, nanoseconds(own_step_s)
        self._offset_ns: int | None = None
        self._newest_ns: int | None = None

    def look(self, offset_ns: int) -> bool:
        """Whether our clock has jumped: what ROS time is ahead of local time. Call it before stamps are made."""
        before_ns, self._offset_ns = self._offset_ns, offset_ns
        return self._judge(before_ns is not None and abs(offset_ns - before_ns) > self._own_step_ns)

    def hear(self, stamp_ns: int, now_ns: int) -> bool:
        """Whether the stamp of a joint state says so: it is of the future, or long before the last one."""
        before_ns, self._newest_ns = self._newest_ns, stamp_ns
        fell = before_ns is not None and stamp_ns < before_ns - nanoseconds(JUMP_S)
        return self._judge(fell or stamp_ns > now_ns + nanoseconds(JUMP_S))

    def _judge(self, jumped: bool) -> bool:
        self.doubted |= jumped
        return jumped
