"""The judge and the faults of `starry chaos`, without a graph."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from control_kit import FULL_SPEC

pytest.importorskip("rclpy", reason="the ROS 2 wheels are not installed: make setup")

from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image, JointState

from starry_ros.ros import arguments, chaos, chaos_faults
from starry_ros.ros.chaos_faults import GOES_ON, RESTS, SCENARIOS, Scenario
from starry_ros.ros.graph import build_graph
from starry_ros.ros.relay import remappings

HOME = FULL_SPEC.limit("home")
LIMIT = FULL_SPEC.limit("velocity")


class Watched:
    """A theatre whose simulated robot did what a test says."""

    def __init__(
        self, speed_of_t: Any, mode: str = "RUN", position_J: np.ndarray = HOME,
        told_of_t: Any = lambda _: 0.0,
    ) -> None:
        self.spec, self.mode, self.reason = FULL_SPEC, mode, ""
        times = np.arange(0.0, 5.0, 0.02)
        speeds = np.array([speed_of_t(t) for t in times])[:, None] * LIMIT
        seen = times, np.tile(position_J, (len(times), 1)), speeds
        told = np.array([told_of_t(t) for t in times])[:, None] * LIMIT
        steps = np.cumsum(told * 0.02, axis=0)
        self.relays = SimpleNamespace(since=lambda _: seen, asked_since=lambda _: (times, HOME + steps, speeds))
        executor = SimpleNamespace(reason="x", conditions=["joint_state_stale"], refused_reasons=["not_finite"])
        self.refusals = {"not_finite": 3, "duplicate": 2}
        self.operator = SimpleNamespace(heard=SimpleNamespace(executor=executor, session=SimpleNamespace(reason="")))

    def wait(self, duration_s: float) -> None:
        pass

    def refused(self) -> dict[str, int]:
        return self.refusals


def judge(watched: Watched, outcome: str = RESTS, **more: Any) -> Any:
    return chaos._judge(watched, Scenario(outcome, lambda _: None, within_s=1.0, **more), 0.0, {"duplicate": 2})


def test_arms_that_come_to_rest_in_time_pass_and_the_time_is_told() -> None:
    row = judge(Watched(lambda t: max(0.0, 0.5 - t)))
    assert row["rest_s"] == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(("watched", "outcome", "words"), [
    (Watched(lambda t: 0.5 * (t < 2.0)), RESTS, "still moving"),
    (Watched(lambda t: 1.2 * (t < 0.5), told_of_t=lambda t: -1.2 * (t < 0.1)), RESTS, "is asked to move at"),
    (Watched(lambda t: 0.5 * (t < 0.5), told_of_t=lambda t: 1.2 * (0.2 < t < 0.23)), RESTS, "is asked to move at"),
    (Watched(lambda t: 0.5 * (t < 0.5), told_of_t=lambda t: 0.5 * (t < 0.5)), RESTS, "is asked to stand off"),
    (Watched(lambda t: 3.1 * (t < 0.5)), RESTS, "outside the limits.* moves at"),
    (Watched(lambda t: 0.0, position_J=FULL_SPEC.limit("upper") + 0.1), RESTS, "outside the limits"),
    (Watched(lambda t: 0.5, mode="FAULT"), GOES_ON, "did not go on"),
])
def test_the_judge_goes_by_what_the_arms_did(watched: Watched, outcome: str, words: str) -> None:
    with pytest.raises(chaos.Failed, match=words):
        judge(watched, outcome)


@pytest.mark.parametrize(("joint", "velocity", "off", "words"), [
    ("left_gripper", 7.9, 0.0, ""),
    ("left_gripper", 8.1, 0.0, "left_gripper moves at"),
    ("left_gripper", 0.0, 0.007, ""),
    ("left_gripper", 0.0, 0.013, "left_gripper stands off"),
    ("left_waist", 2.9, 0.01, ""),
    ("left_waist", 3.1, 0.0, "left_waist moves at"),
    ("left_waist", 0.0, 0.03, "left_waist stands off"),
])
def test_jaws_and_arms_are_held_to_their_own_limits(joint: str, velocity: float, off: float, words: str) -> None:
    j, times = FULL_SPEC.joint_names.index(joint), np.arange(3.0)
    positions, velocities = np.tile(HOME, (3, 1)), np.zeros((3, len(HOME)))
    velocities[1, j], positions[1, j] = -velocity * LIMIT[j], FULL_SPEC.limit("lower")[j] - off
    told, seen = (times, np.tile(HOME, (3, 1)), velocities), (times, positions, velocities)
    if words:
        with pytest.raises(chaos.Failed, match=words + ".* 1.00 s after"):
            chaos._within_limits(FULL_SPEC, told, seen, 0.0)
    else:
        worst = chaos._within_limits(FULL_SPEC, told, seen, 0.0)
        assert worst["worst_velocity"] == pytest.approx(0.0 if "gripper" in joint else velocity)


def test_a_robot_that_does_not_say_what_is_asked_of_its_joints_fails() -> None:
    still = Watched(lambda t: 0.0)
    still.relays.asked_since = lambda _: (np.zeros(0), np.zeros((0, len(HOME))), np.zeros((0, len(HOME))))
    with pytest.raises(chaos.Failed, match="was asked"):
        judge(still)


def test_where_commands_are_lost_what_the_arms_did_counts() -> None:
    j, times = FULL_SPEC.joint_names.index("left_waist"), np.arange(3) * 0.02
    asked = np.tile(HOME, (3, 1))
    asked[1:, j] -= 8 * 0.02 * LIMIT[j]
    speeds = np.zeros((3, len(HOME)))
    seen = times, np.tile(HOME, (3, 1)), speeds
    with pytest.raises(chaos.Failed, match="is asked to move at"):
        chaos._within_limits(FULL_SPEC, (times, asked, asked), seen, 0.0)
    row = chaos._within_limits(FULL_SPEC, (times, asked, asked), seen, 0.0, commands_lost=True)
    assert row == {"worst_asked": pytest.approx(8.0), "worst_velocity": 0.0}
    speeds[1, j] = -3.1 * LIMIT[j]
    with pytest.raises(chaos.Failed, match="left_waist moves at"):
        chaos._within_limits(FULL_SPEC, (times, asked, asked), seen, 0.0, commands_lost=True)


def test_a_reason_that_is_not_told_fails() -> None:
    still = Watched(lambda t: 0.0)
    judge(still, told=("estop_pressed", "not_finite"))
    judge(still, told=("joint_state_stale",))
    for untold in ("estop_pressed", "duplicate"):  # the second is of an earlier play
        with pytest.raises(chaos.Failed, match="was not published"):
            judge(still, told=(untold,))


def image(k: int) -> bytes:
    message = Image(width=320, height=240, step=960, encoding="rgb8", data=bytes(320 * 240 * 3))
    message.header.stamp.sec, message.header.stamp.nanosec = 10, k
    return bytes(serialize_message(message))


def test_faults_do_to_messages_what_their_names_say() -> None:
    def changed(change: Any) -> Image:
        return deserialize_message(chaos_faults._edit(Image, change)()(image(7))[0], Image)

    def sent(fault: Any, count: int) -> list[list[int]]:
        """Which of the pictures are sent on as each arrives. Bytes are not compared: CDR's padding is arbitrary."""
        passed = [fault(image(k)) for k in range(count)]
        return [[deserialize_message(data, Image).header.stamp.nanosec for data in datas] for datas in passed]

    assert sent(chaos_faults._frozen(), 3) == [[0], [0], [0]]
    assert sent(chaos_faults._reordered(), 4) == [[], [1, 0], [], [3, 2]]
    assert changed(chaos_faults._skew).header.stamp.sec == 9
    assert len(changed(chaos_faults._truncate).data) == 320 * 240 * 3 // 2
    assert changed(chaos_faults._shrink).width == 160
    states = bytes(serialize_message(JointState(name=["a"], position=[0.5], velocity=[0.0])))
    jumped = deserialize_message(chaos_faults._edit(JointState, chaos_faults._jump)()(states)[0], JointState)
    assert jumped.position[0] == 1.5


def test_every_relayed_topic_ends_at_the_relays() -> None:
    graph = build_graph({})
    assert {node.name for node in graph.nodes} >= {"sim_robot", "action_executor"}
    sensors, commands = dict(remappings(FULL_SPEC, "sim_robot")), dict(remappings(FULL_SPEC, "action_executor"))
    assert set(commands) == {arm.command_topic for arm in FULL_SPEC.arms}
    assert FULL_SPEC.joint_state_topic in sensors
    assert {camera.topic for camera in FULL_SPEC.cameras} <= set(sensors)


def test_what_latches_must_rest_and_every_scenario_has_a_summary() -> None:
    assert list(arguments.SCENARIOS) == list(SCENARIOS)
    for scenario in SCENARIOS.values():
        assert scenario.outcome in (RESTS, GOES_ON)
        assert not scenario.latched or scenario.outcome == RESTS
