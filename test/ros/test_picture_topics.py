"""Viewers listen to a camera as it is sent, and once."""

from __future__ import annotations

from typing import Any

from sensor_msgs.msg import CompressedImage, Image

from starry_ros.ros.picture_topics import PictureTopics
from starry_ros.ros.qos import SENSOR


def test_a_camera_is_heard_raw_or_compressed_where_only_that_is_sent(world: Any, spec: Any) -> None:
    heard: list[tuple[str, str, type[Any]]] = []
    PictureTopics(world.node, spec, lambda camera, topic, kind: heard.append((camera.name, topic, kind)))
    head, left, right = spec.cameras
    for topic, kind in ((f"{head.topic}/compressed", CompressedImage), (left.topic, Image),
                        (f"{left.topic}/compressed", CompressedImage)):
        world.node.create_publisher(kind, topic, SENSOR)
    world.until(lambda: len(heard) == 2, 20, "two cameras")
    world.node.create_publisher(Image, right.topic, SENSOR)
    world.until(lambda: len(heard) == 3, 20, "the third, which comes later")
    world.spin(1.2)
    assert sorted(heard, key=lambda found: found[0]) == sorted([
        (head.name, f"{head.topic}/compressed", CompressedImage), (left.name, left.topic, Image),
        (right.name, right.topic, Image)], key=lambda found: found[0])
