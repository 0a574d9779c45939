"""A process that is held up between its tick and its messages: a trajectory that begins in the past is never sent."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="the ROS 2 wheels are not installed: make setup")

from control_kit import SPEC, START_NS, make_chunk, smooth_plan

from starry_ros.control.executor import Executor
from starry_ros.control.status import ExecutorConfig
from starry_ros.ros import action_executor_node
from starry_ros.ros.action_executor_node import LATE_S, ActionExecutorNode
from starry_ros.ros.clock_watch import ClockWatch
from starry_ros.timing import nanoseconds
from starry_ros.types import RobotState


class Clock:
    """Says each time in turn, then the last one."""

    def __init__(self, *times_ns: int) -> None:
        self.times_ns = list(times_ns)

    def now_ns(self) -> int:
        return self.times_ns.pop(0) if len(self.times_ns) > 1 else self.times_ns[0]


def moving_node(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A node without ROS, its arms in motion 0.5 s after the start."""
    monkeypatch.setattr(action_executor_node, "trajectory_message", lambda *args: args)
    node: Any = SimpleNamespace(_control=Executor(SPEC), _rest_J=None, _spec=SPEC, _values={"stamp_commands": True},
                                _clocks=ClockWatch())
    node._messages = partial(ActionExecutorNode._messages, node)
    state = RobotState(START_NS, smooth_plan(0.0), np.zeros(len(SPEC.joints)))
    node._control.step(START_NS, state)
    assert node._control.arm(START_NS).ok
    node._control.submit(make_chunk(smooth_plan(0.1 * np.arange(1, 17)), START_NS, 1), START_NS)
    for tick in range(1, 51):
        now_ns = START_NS + tick * 10_000_000
        node._newest = RobotState(now_ns, smooth_plan(tick * 0.01), np.zeros(len(SPEC.joints)))
        node._control.step(now_ns, node._newest)
    node.sent = []
    publisher = SimpleNamespace(publish=node.sent.append)
    node._commands = {arm.name: publisher for arm in SPEC.arms}
    return node


TICK_NS = START_NS + 500_000_000
LATE_NS = nanoseconds(LATE_S) + 1


def publish(node: Any, *times_ns: int) -> None:
    node._edge = Clock(*times_ns)
    ActionExecutorNode._publish_commands(node, TICK_NS)


def test_in_time_one_trajectory_goes_to_each_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    node = moving_node(monkeypatch)
    publish(node, TICK_NS + 1000)
    assert len(node.sent) == 2


def test_held_up_before_it_is_made_it_begins_later(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt, late = moving_node(monkeypatch), moving_node(monkeypatch)
    publish(prompt, TICK_NS + 1000)
    publish(late, TICK_NS + 10 * LATE_NS)
    start_ns, later_ns = prompt.sent[0][3], late.sent[0][3]
    lead_ns = nanoseconds(ExecutorConfig.lead_s)  # what was commanded before the hold-up is no part of the late one
    assert later_ns - start_ns == pytest.approx(10 * LATE_NS + lead_ns, abs=20_000_000)


def test_held_up_after_it_was_made_it_is_not_sent_and_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    node = moving_node(monkeypatch)
    publish(node, TICK_NS + 1000)
    sent = node._control._outlook.last
    publish(node, TICK_NS + 20_000_000, TICK_NS + 20_000_000 + 2 * LATE_NS)
    assert len(node.sent) == 2
    assert node._control._outlook.last is sent
