"""What a robot offers to the executor when set-points are sent one by one.

Robots behind a trajectory controller get `Executor.look_ahead` instead, one message an arm.
"""

from __future__ import annotations

from typing import Protocol

from starry_ros.control.executor import Executor
from starry_ros.types import JointCommand, RobotState


class Arms(Protocol):
    """Both arms of one robot, joints in contract order."""

    def read(self) -> RobotState | None:
        """Newest measured state, or None before the first."""
        ...

    def send(self, command: JointCommand) -> JointCommand:
        """Send a set-point; returns what was really sent, after anything the driver did to it."""
        ...


def tick(executor: Executor, arms: Arms, now_ns: int) -> JointCommand | None:
    """One control period: read, step, send. Returns what was really sent, or None when nothing was."""
    command = executor.step(now_ns, arms.read())
    return None if command is None else arms.send(command)
