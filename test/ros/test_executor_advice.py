"""What planner and supervisor say over real DDS acts on the executor: surprise, rungs of the ladder, the heartbeat."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from executor_kit import Robot
from starry_ros.msg import WorldActionStatus
from std_msgs.msg import Empty

from starry_ros.ros.qos import SAFETY, STATE

FAKE_WORLD_ACTION = Path(__file__).with_name("fake_world_action.py")


class Planner:
    """Says what a planner would, five times a second."""

    def __init__(self, robot: Robot) -> None:
        self.robot = robot
        self.topic = robot.world.publisher(WorldActionStatus, "world_action_status", STATE)

    def says(self, until: Callable[[], bool], rung: str = "full", surprise: float = 0.0, most_s: float = 4.0) -> bool:
        """Say it until something is so; whether it came to that."""
        for _ in range(round(most_s / 0.2)):
            self.topic.publish(WorldActionStatus(
                epoch=1, contract_hash=self.robot.spec.content_hash, rung=rung, surprise=[surprise]))
            self.robot.run(0.2)
            if until():
                return True
        return False

    def calm(self) -> None:
        """The arms have followed plans for long enough that surprise counts."""
        self.says(lambda: False, most_s=0.4)
        self.robot.armed()
        self.says(lambda: False, most_s=1.8)
        assert self.robot.mode == "RUN", self.robot.reason


@pytest.fixture(scope="module")
def planner(shared_world: Any, spec: Any) -> Planner:
    return Planner(Robot(shared_world, spec, patience_s=0.0))


def stopped(robot: Robot, mode: str, reason: str) -> Callable[[], bool]:
    return lambda: (robot.mode, robot.reason) == (mode, reason)


def slowed(robot: Robot, condition: str) -> Callable[[], bool]:
    return lambda: robot.mode == "SLOW" and list(robot.statuses[-1].conditions) == [condition]


def test_surprise_above_one_slows_and_passes_by_itself(planner: Planner) -> None:
    planner.calm()
    assert planner.says(slowed(planner.robot, "model_surprise"), surprise=1.2)
    assert planner.robot.statuses[-1].speed_scale == pytest.approx(0.5)
    assert planner.says(lambda: planner.robot.mode == "RUN", surprise=0.5)


def test_surprise_above_two_stops_until_arm(planner: Planner) -> None:
    planner.calm()
    assert planner.says(stopped(planner.robot, "STOP", "surprise_high"), surprise=2.5)
    assert not planner.says(lambda: planner.robot.mode != "STOP", surprise=0.0, most_s=1.5)
    assert planner.robot.trigger("arm").success


def test_surprise_just_after_arm_is_not_believed(planner: Planner) -> None:
    planner.robot.armed()
    assert not planner.says(lambda: planner.robot.mode != "RUN", surprise=2.5, most_s=0.6)


@pytest.mark.parametrize("rung", ["reuse_latents", "action_only", "hold"])
def test_a_planner_on_a_lower_rung_slows_the_arms_as_long_as_it_is_there(planner: Planner, rung: str) -> None:
    planner.calm()
    assert planner.says(slowed(planner.robot, "planner_degraded"), rung=rung)
    assert not planner.says(lambda: planner.robot.mode != "SLOW", rung=rung, most_s=1.5)
    assert planner.says(lambda: planner.robot.mode == "RUN", rung="full")


def test_a_planner_that_gives_up_stops_the_arms(planner: Planner) -> None:
    planner.calm()
    assert planner.says(stopped(planner.robot, "STOP", "planner_lost"), rung="stop")


def test_what_a_planner_of_another_robot_says_is_not_heard(planner: Planner) -> None:
    planner.calm()
    for _ in range(5):
        planner.topic.publish(WorldActionStatus(epoch=1, contract_hash="of another robot", rung="stop", surprise=[9.0]))
        planner.robot.run(0.2)
    assert planner.robot.mode == "RUN"


def test_two_planners_that_were_told_everything_alike_are_a_fault_until_one_has_gone(planner: Planner) -> None:
    robot = planner.robot
    planner.calm()
    names = ("first", "second")
    children = {name: robot.world.start_as(name, [str(FAKE_WORLD_ACTION)]) for name in names}
    waited = []

    def both_are_told() -> bool:
        waited.append(robot.run(0.2))
        return stopped(robot, "FAULT", "two_planners")()

    robot.world.until(both_are_told, 150, "two_planners")  # they import for long on a busy machine
    children["second"].stop(signal.SIGKILL)
    robot.run(4.0)
    assert stopped(robot, "FAULT", "two_planners")(), "what stopped the arms is told until that is reset"
    assert robot.trigger("reset_fault").success
    robot.run(0.3)
    assert robot.reason == "reset_fault"
    assert robot.trigger("arm").success
    robot.run(2.0)
    assert robot.mode == "RUN", "one planner is one"


def test_a_required_heartbeat_that_falls_silent_stops_the_arms_until_arm(world: Any, spec: Any) -> None:
    robot = Robot(world, spec, require_heartbeat=True, heartbeat_timeout_s=1.0)
    reply = robot.trigger("arm")
    assert not reply.success
    assert "heartbeat is silent" in reply.message
    heartbeat = world.publisher(Empty, "heartbeat", SAFETY)

    def beat(duration_s: float) -> None:
        for _ in range(round(duration_s / 0.2)):
            heartbeat.publish(Empty())
            robot.run(0.2)

    beat(0.6)
    reply = robot.trigger("arm")
    assert reply.success, reply.message
    robot.chunks.publish(robot.chunk())
    beat(0.8)
    assert robot.mode == "RUN"
    robot.run(2.5)
    assert (robot.mode, robot.reason) == ("STOP", "heartbeat_lost")
    rest = dict(robot.position)
    beat(1.0)
    assert robot.mode == "STOP", "a heartbeat that comes back moves nothing"
    assert robot.position == rest
    assert robot.trigger("arm").success
    beat(0.4)
    assert robot.mode == "RUN"
