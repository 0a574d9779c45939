"""Strangers that flood the graph's topics: a process of their own, which loads and waits for the word.

They publish what executor, planner and visualiser take in and can be told from the real thing: pictures that no camera
makes, plans, courses and value maps that are not for this robot, and heartbeats, which move nothing. Not joint states,
pictures of cameras, commands or the emergency stop: a stranger there is a second driver, or an operator, and the arms
must stop.
"""

from __future__ import annotations

import contextlib
import select
import subprocess
import sys
import time
from typing import IO, cast

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
ALONE = 3
"""Exit code where they do not find all whom they flood."""
HEARD_S = 10.0
"""How long to look for those who shall be flooded; once it has begun, they are harder to find."""


class Strangers:
    """Their process, in a session of its own: Linux shares cores between sessions, as it does with true strangers.

    On a busy machine loading it takes longer than the arms move: load it before.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "starry_ros.ros.flood"], env=sharing_environment(), preexec_fn=end_with_parent(),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )
        self._pipe, self._answer = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)

    @property
    def loaded(self) -> bool:
        """Whether it waits for the word, or has ended."""
        return bool(select.select([self._answer], [], [], 0)[0])

    def flood(self, duration_s: float) -> None:
        """Begin, and end after so long. A process that has ended does neither."""
        with contextlib.suppress(BrokenPipeError):
            self._pipe.write(f"{duration_s}\n".encode())
            self._pipe.flush()

    @property
    def ended(self) -> int | None:
        """Exit code, once the process has ended."""
        return self._process.poll()

    def leave(self) -> None:
        """End the process. Killed, it might die inside a lock of the memory that others share with it."""
        self._process.terminate()
        self._process.wait()
        for pipe in (self._pipe, self._answer):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _flood(duration_s: float) -> bool:
    node = Node("stranger")
    junk = Image(width=640, height=480, step=1920, encoding="rgb8", data=bytes(640 * 480 * 3))
    broken = ActionChunk(contract_hash="flood", positions=[1e9] * 64)
    said = (
        ("world_action", Image, "canvas", SENSOR, junk, 1),
        ("action_executor", ActionChunk, PLAN_TOPIC, PLAN, broken, CHUNKS),
        ("world_action", ActionChunk, "executor_course", LATCHED, broken, 1),
        ("recorder", ValueMap, "value_map", PLAN, ValueMap(rows=9), 1),
        ("action_executor", Empty, "heartbeat", SAFETY, Empty(), 1),
    )
    burst = [(node.create_publisher(kind, topic, qos), serialize_message(message), count)
             for _, kind, topic, qos, message, count in said]
    end_s = time.monotonic() + HEARD_S
    while not all(_listens(node, listener, topic) for listener, _, topic, _, _, _ in said):
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


def _listens(node: Node, listener: str, topic: str) -> bool:
    return any(found.node_name == listener for found in node.get_subscriptions_info_by_topic(topic))


def main() -> None:
    """Entry point: says a word once it has loaded, waits for the seconds to flood in a line of standard input."""
    heard = False
    with contextlib.suppress(KeyboardInterrupt):
        print("loaded", flush=True)
        said = sys.stdin.readline()
        with ros_session():
            heard = bool(said) and _flood(float(said))
    raise SystemExit(0 if heard else ALONE)


if __name__ == "__main__":
    main()
