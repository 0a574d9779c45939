"""Node action_executor when ROS time jumps: it stops, in the terms of no clock, and waits for arm."""

from __future__ import annotations

import time
from typing import Any

import pytest
from executor_kit import Robot
from rosgraph_msgs.msg import Clock

from starry_ros.ros.convert import stamp_ns, to_stamp
from starry_ros.ros.qos import CLOCK
from starry_ros.timing import NS_PER_S

ORIGIN_NS = 1_000 * NS_PER_S
MOVING = "right_waist"


class TimedRobot(Robot):
    """Joints and a simulated clock: `offset_s` is what the clock has jumped by, `behind_s` how far the robot's own
    stamps are behind it."""

    def __init__(self, world: Any, spec: Any) -> None:
        self.begin_ns, self.offset_s, self.behind_s = time.monotonic_ns(), 0.0, 0.0
        self.clock = world.node.create_publisher(Clock, "/clock", CLOCK)
        super().__init__(world, spec, use_sim_time=True)

    def clock_ns(self) -> int:
        return ORIGIN_NS + time.monotonic_ns() - self.begin_ns + round(self.offset_s * NS_PER_S)

    def now_ns(self) -> int:
        return self.clock_ns() - round(self.behind_s * NS_PER_S)

    def run(self, duration_s: float, change: Any = lambda message: message) -> None:
        for _ in range(max(1, round(duration_s / 0.02))):
            self.clock.publish(Clock(clock=to_stamp(self.clock_ns())))
            super().run(0.02, change)

    def in_motion(self) -> None:
        if self.mode in ("STOP", "FAULT"):
            self.run(0.5)
        self.armed()
        for heard in self.commands.values():
            heard.clear()
        start = self.position[MOVING]
        self.chunks.publish(self.chunk())
        self.run(0.8)
        assert abs(self.position[MOVING] - start) > 0.02, "in motion"
        assert all(stamp_ns(message.header.stamp) for message in self.commands["right"])
        self.commands["right"].clear()

    def came_to_rest(self) -> None:
        """What was sent since the jump begins now, by whatever clock, ends at rest, and is all that is sent."""
        sent = [message for message in self.commands["right"] if not stamp_ns(message.header.stamp)]
        stamped = [message for message in self.commands["right"] if stamp_ns(message.header.stamp)]
        assert len(stamped) <= 3, "only what was on its way"
        assert all(not any(message.points[-1].velocities) for message in sent)
        count = len(self.commands["right"])
        self.run(0.5)
        assert len(self.commands["right"]) == count


@pytest.fixture(scope="module")
def robot(shared_world: Any, spec: Any) -> TimedRobot:
    return TimedRobot(shared_world, spec)


@pytest.mark.parametrize("by_s", [5.0, -5.0])
def test_when_the_clock_of_all_jumps_the_arms_stop_and_run_again_after_arm(robot: TimedRobot, by_s: float) -> None:
    robot.in_motion()
    robot.offset_s += by_s
    robot.run(0.6)
    assert (robot.mode, robot.reason) == ("STOP", "clock_jump")
    robot.came_to_rest()
    assert robot.trigger("arm").success
    robot.run(0.3)
    assert robot.mode == "RUN"


@pytest.mark.parametrize("behind_s", [5.0, -5.0])
def test_when_the_robot_alone_is_set_to_another_time_the_arms_stop_until_its_clock_is_right(
    robot: TimedRobot, behind_s: float
) -> None:
    robot.in_motion()
    robot.behind_s = behind_s
    robot.run(1.6)
    assert (robot.mode, robot.reason) == ("FAULT", "clock_jump")
    robot.came_to_rest()
    assert not robot.trigger("reset_fault").success
    robot.behind_s = 0.0
    robot.run(0.5)
    assert robot.mode == "FAULT"
    assert robot.trigger("reset_fault").success
    assert robot.trigger("arm").success
    robot.run(0.3)
    assert robot.mode == "RUN"
