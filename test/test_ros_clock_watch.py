"""Jumps of clocks: what is seen of them, and that a doubted clock still sends each arm one stop that begins now."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("rclpy", reason="the ROS 2 wheels are not installed: make setup")

from test_ros_late_commands import TICK_NS, moving_node, publish

from starry_ros.ros.clock_watch import JUMP_S, ClockWatch
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
