"""Listening to the cameras as they are sent: raw, or compressed where only that is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from starry_ros.robot_spec import CameraSpec, RobotSpec

LOOK_S = 0.5


class PictureTopics:
    """Calls `subscribe(camera, topic, kind)` once a camera, as soon as somebody publishes its pictures."""

    def __init__(self, node: Node, spec: RobotSpec, subscribe: Callable[[CameraSpec, str, type[Any]], object]) -> None:
        self._node, self._subscribe, self._missing = node, subscribe, list(spec.cameras)
        self._timer = node.create_timer(LOOK_S, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _look(self) -> None:
        for camera in tuple(self._missing):
            for topic, kind in ((camera.topic, Image), (f"{camera.topic}/compressed", CompressedImage)):
                if self._node.count_publishers(topic):
                    self._missing.remove(camera)
                    self._subscribe(camera, topic, kind)
                    break
        if not self._missing:
            self._timer.cancel()
