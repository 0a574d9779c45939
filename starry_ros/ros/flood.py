"""Strangers that flood the graph's topics: `python -m starry_ros.ros.flood SECONDS`, a process of their own.

They publish what executor, planner and visualiser take in and can be told from the real thing: pictures that no camera
makes, plans, courses and value maps that are not for this robot, and heartbeats, which move nothing. Not joint states,
pictures of cameras, commands or the emergency stop: a stranger there is a second driver, or an operator, and the arms
must stop.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time

import rclpy
from rclpy.node import Node
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Empty

from starry_ros.msg import ActionChunk, ValueMap
from starry_ros.ros.parent import end_with_parent
from starry_ros.ros.qos import LATCHED, PLAN, SAFETY, SENSOR
from starry_ros.ros.relay import PLAN_TOPIC
from starry_ros.ros.run import ros_session
from starry_ros.ros.transport import sharing_environment

EVERY_S = 0.01
"""Between bursts: 90 MB of pictures, 2,000 plans and 100 of everything else a second."""
CHUNKS = 20
HEARD_S = 10.0
"""How long to look for somebody who listens."""


def start_flood(duration_s: float) -> subprocess.Popen[bytes]:
    """Start the process; it ends by itself, with 0 if somebody was there to hear it."""
    command = [sys.executable, "-m", "starry_ros.ros.flood", str(duration_s)]
    return subprocess.Popen(
        command, env=sharing_environment(), stdin=subprocess.DEVNULL, preexec_fn=end_with_parent()
    )


def _flood(duration_s: float) -> bool:
    node = Node("stranger")
    junk = Image(width=640, height=480, step=1920, encoding="rgb8", data=bytes(640 * 480 * 3))
    broken = ActionChunk(contract_hash="flood", positions=[1e9] * 64)
    burst = [
        (node.create_publisher(kind, topic, qos), serialize_message(message), count)
        for kind, topic, qos, message, count in (
            (Image, "canvas", SENSOR, junk, 1), (ActionChunk, PLAN_TOPIC, PLAN, broken, CHUNKS),
            (ActionChunk, "executor_course", LATCHED, broken, 1), (ValueMap, "value_map", PLAN, ValueMap(rows=9), 1),
            (Empty, "heartbeat", SAFETY, Empty(), 1),
        )
    ]
    end_s = time.monotonic() + HEARD_S
    while not all(publisher.get_subscription_count() for publisher, _, _ in burst):
        if time.monotonic() > end_s:
            return False
        time.sleep(0.05)
    end_s = time.monotonic() + duration_s
    while time.monotonic() < end_s and rclpy.ok():
        for publisher, data, count in burst:
            for _ in range(count):
                publisher.publish(data)
        time.sleep(EVERY_S)
    return True


def main() -> None:
    """Entry point."""
    heard = False
    with contextlib.suppress(KeyboardInterrupt), ros_session():
        heard = _flood(float(sys.argv[1]))
    raise SystemExit(0 if heard else 1)


if __name__ == "__main__":
    main()
