"""Messages of the graph that runs, as they come, into a view."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from starry_ros.msg import ActionChunk, ExecutorStatus, ValueMap, WorldActionStatus
from starry_ros.robot_spec import RobotSpec
from starry_ros.ros.picture_topics import PictureTopics
from starry_ros.ros.qos import COMMAND, LATCHED, NEWEST, PLAN, STATE
from starry_ros.ros.run import ros_session
from starry_ros.ros.transport import dds_environment

KINDS = {
    "canvas": (Image, NEWEST), "imagined_canvas": (Image, NEWEST), "action_chunk": (ActionChunk, PLAN),
    "value_map": (ValueMap, PLAN), "executor_status": (ExecutorStatus, LATCHED),
    "world_action_status": (WorldActionStatus, STATE), "/diagnostics": (DiagnosticArray, STATE),
}


def run_live(spec: RobotSpec, sink: Any, namespace: str, ended: Callable[[], bool]) -> None:
    """Feed `sink` until it has `ended`, or Ctrl-C."""
    for name, value in dds_environment().items():
        os.environ.setdefault(name, value)
    with contextlib.suppress(KeyboardInterrupt), ros_session():
        node = rclpy.create_node("view", namespace=namespace or None)
        kinds: dict[str, tuple[Any, Any]] = {**KINDS, spec.joint_state_topic: (JointState, STATE)}
        command = JointTrajectory if spec.command_interface == "joint_trajectory" else Float64MultiArray
        kinds |= {arm.command_topic: (command, COMMAND) for arm in spec.arms}

        def on_message(topic: str, message: Any) -> None:
            sink.take(topic, node.get_clock().now().nanoseconds, message)

        for topic in sink.topics:
            kind, qos = kinds[topic]
            node.create_subscription(kind, topic, partial(on_message, topic), qos)
        PictureTopics(node, spec, lambda _, topic, kind: node.create_subscription(
            kind, topic, partial(on_message, topic), NEWEST))
        while rclpy.ok() and not ended():
            rclpy.spin_once(node, timeout_sec=0.2)
