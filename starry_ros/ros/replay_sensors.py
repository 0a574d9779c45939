"""A recording's cameras and joint states on the topics of a graph that runs, stamped as if they were measured now."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.serialization import deserialize_message

from starry_ros.errors import ConfigError, DataError
from starry_ros.recording.reader import Recording
from starry_ros.robot_spec import RobotSpec
from starry_ros.ros.convert import stamp_ns, to_stamp
from starry_ros.ros.definitions import message_class
from starry_ros.ros.qos import SENSOR, STATE
from starry_ros.ros.run import ros_session
from starry_ros.ros.transport import dds_environment
from starry_ros.timing import NS_PER_S

DISCOVERY_S = 3.0
POLL_S = 0.05
SETTLE_S = 0.5
"""A listener may know of a publisher this much later than the publisher of it; the last message travels as long."""


def replay_sensors(recording: Recording, spec: RobotSpec, rate: float) -> int:
    """Publish until the end of the recording, or Ctrl-C."""
    for name, value in dds_environment().items():
        os.environ.setdefault(name, value)
    with contextlib.suppress(KeyboardInterrupt), ros_session():
        count = SensorPlayer(rclpy.create_node("replay"), recording, spec).play(rate)
        print(f"{count} messages published")
    return 0


class SensorPlayer:
    """Publishes what the robot measured."""

    def __init__(self, node: Node, recording: Recording, spec: RobotSpec) -> None:
        self._node, self._recording = node, recording
        of_cameras = [(c.topic, f"{c.topic}/compressed", c.info_topic) for c in spec.cameras]
        topics = [spec.joint_state_topic, *(topic for three in of_cameras for topic in three)]
        self._wanted = {recording.namespace + topic: topic for topic in topics}
        self._joint_states = spec.joint_state_topic
        self._publishers: dict[str, tuple[type, Any]] = {}

    def play(self, rate: float, wait: Callable[[float], None] = time.sleep) -> int:
        """Publish at `rate` times the recorded speed; the number of messages.

        DataError when there are none, ConfigError where a robot or cameras speak already.
        """
        present = [topic for topic in self._wanted if self._recording.counts.get(topic)]
        if not present:
            raise DataError(str(self._recording.path), "holds no sensor of this robot", expected=sorted(self._wanted))
        for topic in present:
            self._open(topic, next(self._recording.raw([topic]))[1])
        self._await_listeners(wait)
        self._refuse_others()
        begin_ns = first_ns = count = 0
        for topic, _, received_ns, data in self._recording.raw(present):
            if not rclpy.ok():
                break
            if not first_ns:
                first_ns, begin_ns = received_ns, self._node.get_clock().now().nanoseconds
            due_ns = begin_ns + round((received_ns - first_ns) / rate)
            late_ns = self._node.get_clock().now().nanoseconds - due_ns
            if late_ns < 0:
                wait(-late_ns / NS_PER_S)
            message_type, publisher = self._publishers[topic]
            message = deserialize_message(data, message_type)
            age_ns = received_ns - stamp_ns(message.header.stamp)
            message.header.stamp = to_stamp(max(0, due_ns - round(age_ns / rate)))
            publisher.publish(message)
            count += 1
        wait(SETTLE_S)
        return count

    def _refuse_others(self) -> None:
        """A second publisher of joint states would have an executor start from where the arms are not."""
        names = {publisher.topic_name for _, publisher in self._publishers.values()}
        spoken = sorted(name for name in names if self._node.count_publishers(name) > 1)
        if spoken:
            raise ConfigError("starry replay", "somebody publishes these topics already", got=spoken,
                              expected="no robot and no cameras",
                              fix="end them, or replay in a ROS_DOMAIN_ID of its own")

    def _await_listeners(self, wait: Callable[[float], None]) -> None:
        """Until every topic is listened to, or DISCOVERY_S have passed: what is sent before is lost."""
        end_s = time.monotonic() + DISCOVERY_S
        while time.monotonic() < end_s and not all(p.get_subscription_count() for _, p in self._publishers.values()):
            wait(POLL_S)
        wait(SETTLE_S)

    def _open(self, topic: str, kind: str) -> None:
        name, message_type = self._wanted[topic], message_class(kind)
        qos = STATE if name == self._joint_states else SENSOR
        self._publishers[topic] = (message_type, self._node.create_publisher(message_type, name, qos))
