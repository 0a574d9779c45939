"""Strangers that flood the graph's topics: `python -m starry_ros.ros.flood SECONDS`, a process of their own.

They publish pictures that no camera makes and plans that are not for this robot, for as long as told.
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

from starry_ros.msg import ActionChunk
from starry_ros.ros.parent import end_with_parent
from starry_ros.ros.qos import PLAN, SENSOR
from starry_ros.ros.run import ros_session

EVERY_S = 0.01
"""Between bursts of a picture and `CHUNKS` plans: 90 MB and 2,000 plans a second."""
CHUNKS = 20
HEARD_S = 10.0
"""How long to look for somebody who listens."""


def start_flood(duration_s: float) -> subprocess.Popen[bytes]:
    """Start the process; it ends by itself, with 0 if it was heard."""
    command = [sys.executable, "-m", "starry_ros.ros.flood", str(duration_s)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=end_with_parent())


def _flood(duration_s: float) -> bool:
    node = Node("stranger")
    pictures = node.create_publisher(Image, "canvas", SENSOR)
    chunks = node.create_publisher(ActionChunk, "action_chunk", PLAN)
    junk = serialize_message(Image(width=640, height=480, step=1920, encoding="rgb8", data=bytes(640 * 480 * 3)))
    broken = serialize_message(ActionChunk(contract_hash="flood", positions=[1e9] * 64))
    end_s = time.monotonic() + HEARD_S
    while not (pictures.get_subscription_count() and chunks.get_subscription_count()):
        if time.monotonic() > end_s:
            return False
        time.sleep(0.05)
    end_s = time.monotonic() + duration_s
    while time.monotonic() < end_s and rclpy.ok():
        pictures.publish(junk)
        for _ in range(CHUNKS):
            chunks.publish(broken)
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
