"""Node action_executor with a contract of `position_forward`: set-points inside every limit, into a stop."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from executor_kit import Robot
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Float64MultiArray

from starry_ros.paths import robot_file
from starry_ros.robot_spec import load_robot_spec

EVERY_ONE = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=2000, reliability=ReliabilityPolicy.RELIABLE)
MOVING = "right_waist"


class ForwardRobot(Robot):
    """Joints behind a forward controller, which holds the newest set-point."""

    def hear_commands(self) -> dict[str, list[Any]]:
        self.numbers: dict[str, list[int]] = {arm.name: [] for arm in self.spec.arms}
        heard: dict[str, list[Any]] = {arm.name: [] for arm in self.spec.arms}

        def listener(arm: str) -> Any:
            def hear(message: Float64MultiArray, info: Any) -> None:
                heard[arm].append(np.array(message.data))
                self.numbers[arm].append(info["publication_sequence_number"])

            return hear

        for arm in self.spec.arms:
            self.world.node.create_subscription(
                Float64MultiArray, arm.command_topic, listener(arm.name), EVERY_ONE)
        return heard

    def follow(self) -> None:
        for arm in self.spec.arms:
            if self.commands[arm.name]:
                names = [joint.name for joint in arm.joints]
                self.position |= zip(names, self.commands[arm.name][-1].tolist(), strict=True)

    def forget(self) -> None:
        for arm in self.spec.arms:
            self.commands[arm.name].clear()
            self.numbers[arm.name].clear()

    def swing(self, to_rad: float) -> None:
        """A plan that takes one joint there as fast as a plan may ask."""
        chunk = self.chunk()
        rows = np.reshape(chunk.positions, (-1, len(self.spec.joint_names)))
        j = self.spec.joint_names.index(MOVING)
        rows[:, j] = np.linspace(self.position[MOVING], to_rad, len(rows))
        chunk.positions = array("d", rows.ravel().tolist())
        self.chunks.publish(chunk)

    def worst_shares(self) -> tuple[float, float, float]:
        """Greatest shares of the limits of velocity, acceleration and jerk between set-points that follow each other;
        raises where one is outside its range."""
        period_s, worst = 1 / self.spec.rates.control_hz, np.zeros(3)
        for arm in self.spec.arms:
            part = self.spec.arm_slice(arm.name)
            points_NA, numbers = np.array(self.commands[arm.name]), np.array(self.numbers[arm.name])
            assert (points_NA >= self.spec.limit("lower")[part]).all()
            assert (points_NA <= self.spec.limit("upper")[part]).all()
            for order, name in enumerate(("velocity", "acceleration", "jerk"), start=1):
                rates = np.diff(points_NA, order, axis=0) / period_s**order
                whole = numbers[order:] - numbers[:-order] == order  # none was lost on its way
                assert whole.sum() > 50
                worst[order - 1] = max(worst[order - 1], (np.abs(rates[whole]) / self.spec.limit(name)[part]).max())
        velocity, acceleration, jerk = worst.tolist()
        return velocity, acceleration, jerk


@pytest.fixture(scope="module")
def robot(shared_world: Any, tmp_path_factory: pytest.TempPathFactory) -> ForwardRobot:
    text = robot_file("bimanual_sim").read_text(encoding="utf-8")
    contract: Path = tmp_path_factory.mktemp("contract") / "forward.yaml"
    contract.write_text(text.replace("command_interface: joint_trajectory", "command_interface: position_forward"))
    return ForwardRobot(shared_world, load_robot_spec(contract), robot=str(contract))


def test_set_points_follow_a_plan_inside_every_limit(robot: ForwardRobot) -> None:
    robot.armed()
    robot.forget()
    start = robot.position[MOVING]
    robot.swing(start + 1.0)
    robot.run(3.0)
    assert robot.mode in ("RUN", "SLOW")
    assert robot.position[MOVING] == pytest.approx(start + 1.0, abs=1e-3)
    velocity, acceleration, jerk = robot.worst_shares()
    assert 0.2 < velocity <= 1 + 1e-6
    assert acceleration <= 1 + 1e-6
    assert jerk <= 1.05, "differences of a jerk that changes between set-points"


@pytest.mark.parametrize("service", ["stop", "hold"])
def test_a_stop_in_motion_comes_to_rest_inside_every_limit_and_stays_there(robot: ForwardRobot, service: str) -> None:
    robot.armed()
    robot.forget()
    start = robot.position[MOVING]
    robot.swing(start - 1.0)
    robot.run(0.8)
    assert abs(robot.position[MOVING] - start) > 0.1, "in motion"
    assert robot.trigger(service).success
    robot.run(0.8)
    rest = dict(robot.position)
    assert abs(rest[MOVING] - start) < 0.95, "the plan was not run to its end"
    robot.run(0.5)
    assert robot.position == rest
    velocity, acceleration, _ = robot.worst_shares()
    assert velocity <= 1 + 1e-6
    assert acceleration <= 1 + 1e-6
    assert robot.trigger("arm").success
    robot.run(0.3)
    assert robot.position == pytest.approx(rest, abs=1e-9), "arm alone moves nothing"
