"""Jumps of clocks: what is seen of them, and that a doubted clock still sends each arm one stop that begins now."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("rclpy", reason="the ROS 2 wheels are not installed: make setup")

import numpy as np
from control_kit import SPEC, smooth_plan
from test_ros_late_commands import TICK_NS, moving_node, publish

from starry_ros.ros.clock_watch import JUMP_S, ClockWatch
from starry_ros.sim.trajectory_controller import Trajectory, TrajectoryController, TrajectoryPoint
from starry_ros.timing import nanoseconds

SECOND_NS = 1_000_000_000


@pytest.mark.parametrize(("step_s", "jumps"), [(0.0, False), (0.04, False), (0.06, True), (-0.3, True), (5.0, True)])
def test_a_step_of_our_own_clock_is_a_jump_where_it_is_more_than_commands_are_ahead(step_s: float, jumps: bool) -> None:
    watch = ClockWatch(own_step_s=0.05)
    assert not watch.look(7 * SECOND_NS)
    assert watch.look(7 * SECOND_NS + nanoseconds(step_s)) is jumps
    assert watch.doubted is jumps
    assert not watch.look(7 * SECOND_NS + nanoseconds(step_s)), "it is a jump once"


@pytest.mark.parametrize(("stamp_s", "jumps"), [(10.1, False), (9.8, False), (10.4, False), (10.6, True), (9.4, True)])
def test_stamps_of_the_robot_that_are_of_the_future_or_fall_far_back_tell_a_jump(stamp_s: float, jumps: bool) -> None:
    watch = ClockWatch()
    assert not watch.hear(nanoseconds(10.0), nanoseconds(10.0))
    assert watch.hear(nanoseconds(stamp_s), nanoseconds(10.05)) is (jumps and abs(stamp_s - 10.0) > JUMP_S)


def doubting_node(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Arms in motion when a joint state comes that is stamped five seconds ahead."""
    node = moving_node(monkeypatch)
    publish(node, TICK_NS)
    del node.sent[:]
    assert node._clocks.hear(TICK_NS + 5 * SECOND_NS, TICK_NS)
    return node


def test_after_a_jump_every_arm_gets_one_stop_that_begins_now_and_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    node = doubting_node(monkeypatch)
    publish(node, TICK_NS + 20_000_000)
    assert [message[3] for message in node.sent] == [None, None], "stamp 0, which every clock understands"
    publish(node, TICK_NS + 40_000_000)
    assert len(node.sent) == 2


@pytest.mark.parametrize("began", ["in motion", "almost at rest"])
@pytest.mark.parametrize("late_s", [0.0, 0.1, 0.2])
def test_arms_that_went_on_by_another_clock_join_the_stop_within_their_speed(
    monkeypatch: pytest.MonkeyPatch, late_s: float, began: str
) -> None:
    """They went on as fast as the plan ever goes while the stop was on its way; then the controller takes it."""
    node = doubting_node(monkeypatch)
    node._control.stop(TICK_NS)
    passed_ns = 0 if began == "in motion" else 300_000_000
    for now_ns in range(TICK_NS, TICK_NS + passed_ns + 1, 10_000_000):
        node._control.step(now_ns, node._newest)
    publish(node, TICK_NS + passed_ns)
    _, arm, _, start_ns, time_s_N, points_N3J = node.sent[1]
    part = SPEC.arm_slice(arm.name)
    assert start_ns is None
    plan_NJ = smooth_plan(np.arange(0.0, 1.6, 0.01))
    speed_J = np.abs(np.diff(plan_NJ, axis=0)).max(axis=0)[part] * 100
    begin_J = smooth_plan(0.5)[part] + late_s * speed_J
    names = tuple(joint.name for joint in arm.joints)
    controller = TrajectoryController(names, begin_J, 0)
    going = TrajectoryPoint(1, tuple(begin_J), tuple(speed_J), tuple(np.zeros(len(names))))
    rest = TrajectoryPoint(2_000_000_000, tuple(begin_J + speed_J), (0.0,) * len(names), (0.0,) * len(names))
    assert controller.accept(Trajectory(names, 0, (going, rest)), 0) is None
    points = tuple(TrajectoryPoint(nanoseconds(time_s), *(tuple(row) for row in point_3J[:, part]))
                   for time_s, point_3J in zip(time_s_N.tolist(), points_N3J, strict=True))
    assert controller.accept(Trajectory(names, None, points), 2) is None
    asked = [controller.sample(2 + tick * 1_000_000) for tick in range(1000)]
    assert (np.abs([point.velocity_J for point in asked]) <= 1.05 * SPEC.limit("velocity")[part]).all()
    assert not np.any(asked[600].velocity_J), "at rest well before 0.8 s"
