"""Node action_executor over real DDS: bad joint states, bad chunks, services in wrong modes, a second owner."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from executor_kit import Robot
from sensor_msgs.msg import JointState
from starry_ros.msg import ActionChunk, WorldActionStatus
from std_msgs.msg import Bool
from trajectory_msgs.msg import JointTrajectory

from starry_ros.ros.convert import EdgeClock, stamp_ns, to_stamp, trajectory_of
from starry_ros.ros.qos import COMMAND, LATCHED, SAFETY, STATE
from starry_ros.sim.trajectory_controller import TrajectoryController

ASK = "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))"


@pytest.fixture(scope="module")
def robot(shared_world: Any, spec: Any) -> Robot:
    return Robot(shared_world, spec)


def test_it_starts_disarmed_and_sends_nothing(robot: Robot) -> None:
    robot.run(0.5)
    assert robot.mode == "DISARMED"
    assert not any(robot.commands.values())


def test_its_ticks_go_before_what_it_hears_and_both_before_what_others_compute_where_the_system_grants_that(
    robot: Robot,
) -> None:
    """By the kernel's own word on the node's threads."""
    granted = subprocess.run([sys.executable, "-c", ASK], check=False, capture_output=True).returncode == 0
    child = robot.world.children["action_executor"]
    threads = Path(f"/proc/{child.process.pid}/task")
    priorities = {int(thread.name): os.sched_getparam(int(thread.name)).sched_priority for thread in threads.iterdir()}
    hearing = {number for number in priorities if (threads / str(number) / "comm").read_text().startswith("dds.udp")}
    ticking = priorities.pop(child.process.pid)
    assert 0 < len(hearing) < len(priorities)
    assert ticking == (40 if granted else 0)
    assert {priorities.pop(number) for number in hearing} == {5 if granted else 0}
    assert set(priorities.values()) == {0}
    assert granted or "no real-time priority is granted" in child.text()


@pytest.mark.parametrize("service", ["hold", "reset_fault"])
def test_a_service_in_a_wrong_mode_is_refused_with_the_modes_it_works_in(robot: Robot, service: str) -> None:
    robot.calm()
    reply = robot.trigger(service)
    assert not reply.success
    assert "refused in DISARMED" in reply.message


def test_arming_twice_is_refused(robot: Robot) -> None:
    robot.armed()
    assert "refused in RUN" in robot.trigger("arm").message


def test_every_command_passes_the_rules_of_joint_trajectory_controller(robot: Robot) -> None:
    robot.armed()
    for heard in robot.commands.values():
        heard.clear()
    robot.chunks.publish(robot.chunk())
    robot.run(2.2)
    clock = EdgeClock(robot.world.node.get_clock())
    for arm in robot.spec.arms:
        names = tuple(joint.name for joint in arm.joints)
        controller = TrajectoryController(names, np.zeros(len(names)), 0)
        assert robot.commands[arm.name]
        for message in robot.commands[arm.name]:
            trajectory = trajectory_of(message, clock)
            assert trajectory.start_ns is not None
            assert controller.check(trajectory, trajectory.start_ns) is None
    ends = [message.points[-1].positions[0] for message in robot.commands["right"]]
    assert max(ends) - min(ends) > 0.15, "the chunk was followed"


def test_it_says_where_the_arms_are_going_and_they_go_there(robot: Robot) -> None:
    robot.armed()
    courses = robot.world.listen(ActionChunk, "executor_course", LATCHED)
    offered = robot.chunk()
    robot.chunks.publish(offered)
    robot.run(0.3)
    course = courses[-1]
    assert (course.chunk_id, course.contract_hash) == (offered.chunk_id, robot.spec.content_hash)
    rows = np.reshape(course.positions, (-1, len(robot.spec.joint_names)))
    end = dict(zip(course.joint_names, rows[-1].tolist(), strict=True))
    heard = len(courses)
    robot.run(2.5)
    assert robot.position == pytest.approx(end, abs=1e-6)
    assert len(courses) == heard, "nothing new came"
    assert end["right_waist"] - rows[0][robot.spec.joint_names.index("right_waist")] > 0.15


def test_joint_names_that_come_in_another_order_every_time_are_matched_by_name(robot: Robot) -> None:
    draw = random.Random(0)

    def jumbled(message: JointState) -> JointState:
        order = draw.sample(range(len(message.name)), len(message.name))
        message.name = [message.name[i] for i in order]
        message.position = [message.position[i] for i in order]
        return message

    robot.armed()
    robot.run(1.0, jumbled)
    assert robot.mode == "RUN"
    assert max(map(abs, robot.statuses[-1].tracking_error)) < 1e-6


def unknown_joint(message: JointState) -> JointState:
    message.name = [*message.name[:-1], "tail"]
    return message


def short(message: JointState) -> JointState:
    message.position = message.position[:-1]
    return message


def nan(message: JointState) -> JointState:
    message.position[3] = float("nan")
    return message


@pytest.mark.parametrize("change", [unknown_joint, short, nan])
def test_an_invalid_joint_state_is_a_fault(robot: Robot, change: Callable[[JointState], JointState]) -> None:
    robot.armed()
    robot.run(0.3, change)
    assert (robot.mode, robot.reason) == ("FAULT", "joint_state_invalid")
    assert not robot.trigger("arm").success


def test_stale_joint_states_are_a_fault_and_block_arming(robot: Robot) -> None:
    robot.armed()
    robot.world.spin(1.5)
    assert (robot.mode, robot.reason) == ("FAULT", "joint_state_stale")
    reply = robot.world.trigger("reset_fault")
    assert not reply.success
    assert "joint_state_stale" in reply.message


def row_short(robot: Robot) -> ActionChunk:
    chunk = robot.chunk()
    chunk.positions = chunk.positions[:-1]
    return chunk


def with_nan(robot: Robot) -> ActionChunk:
    chunk = robot.chunk()
    chunk.positions[5] = float("nan")
    return chunk


def too_old(robot: Robot) -> ActionChunk:
    chunk = robot.chunk()
    chunk.header.stamp, chunk.start = to_stamp(stamp_ns(chunk.header.stamp) - 60 * 10**9), to_stamp(
        stamp_ns(chunk.start) - 60 * 10**9
    )
    return chunk


@pytest.mark.parametrize(
    ("make", "reasons"),
    [
        (row_short, {"malformed"}), (lambda r: r.chunk(positions=array("d")), {"malformed"}),
        (lambda r: r.chunk(step_s=float("nan")), {"malformed"}), (with_nan, {"not_finite"}),
        (lambda r: r.chunk(epoch=0), {"stale_epoch"}), (too_old, {"past", "old_observation", "before_arm"}),
        (lambda r: r.chunk(contract_hash="0" * 16), {"foreign_contract"}),
        (lambda r: r.chunk(joint_names=["tail", *r.spec.joint_names[1:]]), {"wrong_joints"}),
    ],
)
def test_a_bad_chunk_is_counted_by_reason_and_moves_nothing(
    robot: Robot, make: Callable[[Robot], ActionChunk], reasons: set[str]
) -> None:
    robot.armed()
    still = robot.chunk(epoch=1)
    still.positions = array("d", np.tile([robot.position[n] for n in robot.spec.joint_names], (16, 1)).ravel().tolist())
    robot.chunks.publish(still)
    robot.run(0.3)
    before, place = robot.refused(), dict(robot.position)
    robot.chunks.publish(make(robot))
    robot.run(0.5)
    grown = {reason for reason, count in robot.refused().items() if count > before.get(reason, 0)}
    assert grown
    assert grown <= reasons
    assert max(abs(robot.position[name] - place[name]) for name in place) < 1e-6
    assert robot.mode == "RUN"


def test_estop_is_a_latched_fault_that_needs_release_and_reset(robot: Robot) -> None:
    robot.armed()
    robot.estop.publish(Bool(data=True))
    robot.run(0.4)
    assert (robot.mode, robot.reason) == ("FAULT", "estop_pressed")
    assert not robot.trigger("reset_fault").success
    robot.estop.publish(Bool(data=False))
    robot.run(0.3)
    assert robot.mode == "FAULT"
    assert robot.trigger("reset_fault").success


def test_a_second_executor_refuses_to_start_and_the_first_goes_on(robot: Robot) -> None:
    robot.armed()
    second = robot.world.start_as("second", ["-m", "starry_ros.ros.start", "action_executor"], owner_check_s=5.0)
    for _ in range(300):
        robot.run(0.1)
        if second.process.poll() is not None:
            break
    assert second.process.poll() == 2
    assert "another node commands the same arms" in second.text()
    assert "Traceback" not in second.text()
    assert robot.mode == "RUN", robot.reason


def test_another_publisher_on_a_command_topic_is_a_fault(robot: Robot) -> None:
    robot.armed()
    intruder = robot.world.node.create_publisher(JointTrajectory, robot.spec.arms[0].command_topic, COMMAND)
    robot.run(1.5)
    assert (robot.mode, robot.reason) == ("FAULT", "second_owner")
    before = {arm: len(heard) for arm, heard in robot.commands.items()}
    robot.run(0.5)
    assert {arm: len(heard) for arm, heard in robot.commands.items()} == before, "the arm is another's now"
    robot.world.node.destroy_publisher(intruder)
    robot.run(1.0)
    assert {arm: len(heard) for arm, heard in robot.commands.items()} == before, "nobody has armed it"
    assert robot.trigger("reset_fault").success
    assert robot.trigger("arm").success
    robot.run(1.0)
    assert all(len(heard) > before[arm] for arm, heard in robot.commands.items())


def test_joint_states_of_two_nodes_are_a_fault(robot: Robot) -> None:
    robot.armed()
    stranger = robot.world.node.create_publisher(JointState, robot.spec.joint_state_topic, STATE)
    for _ in range(25):
        stranger.publish(robot.good_state())
        robot.run(0.02)
    robot.run(0.3)
    assert (robot.mode, robot.reason) == ("FAULT", "two_drivers")
    reply = robot.trigger("reset_fault")
    assert not reply.success
    assert "two nodes publish the joint states" in reply.message
    robot.world.node.destroy_publisher(stranger)
    robot.run(3.5)
    assert robot.trigger("reset_fault").success


def test_two_who_speak_for_the_emergency_stop_are_a_fault(robot: Robot) -> None:
    robot.armed()
    another = robot.world.node.create_publisher(Bool, "estop", SAFETY)
    robot.run(1.0)
    assert (robot.mode, robot.reason) == ("FAULT", "two_estops")
    robot.world.node.destroy_publisher(another)
    robot.run(1.0)
    assert robot.trigger("reset_fault").success


def test_two_planners_that_take_turns_are_a_fault_and_one_of_another_robot_is_not_heard(robot: Robot) -> None:
    robot.armed()
    said = robot.world.publisher(WorldActionStatus, "world_action_status", STATE)
    for epoch in (7, 8, 7, 8):
        said.publish(WorldActionStatus(epoch=epoch, contract_hash="of another robot"))
        robot.run(0.2)
    assert robot.mode == "RUN"
    for epoch in (3, 4, 3, 4):
        said.publish(WorldActionStatus(epoch=epoch, contract_hash=robot.spec.content_hash))
        robot.run(0.2)
    robot.run(0.3)
    assert (robot.mode, robot.reason) == ("FAULT", "two_planners")
    robot.run(3.5)
    assert robot.trigger("reset_fault").success


def test_a_required_estop_counts_as_pressed_until_it_is_heard(world: Any, spec: Any) -> None:
    robot = Robot(world, spec, require_estop=True, estop_timeout_s=9.0)
    robot.run(0.3)
    reply = robot.trigger("arm")
    assert not reply.success
    assert "estop is silent" in reply.message
    robot.estop.publish(Bool(data=False))
    robot.run(0.3)
    reply = robot.trigger("arm")
    assert reply.success, reply.message


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_without_a_traceback(robot: Robot, number: int) -> None:
    name = "action_executor" if number == signal.SIGTERM else "value_map_visualizer"
    child = robot.world.children.get(name) or robot.world.start(name)
    robot.world.until(lambda: name in robot.world.health, 40, name)
    assert child.stop(number) == 0
    assert "Traceback" not in child.text()
