"""The cameras of the simulated robot speak through a process of their own, as a camera's driver is one.

Pictures go through memory that processes share (`transport.py`). When a reader dies at a lock of it, or is frozen
there, whoever writes stands for up to 1 s, with all that it has to send: joint states must not. Pictures that the
process does not take in time are dropped, and counted.
"""

from __future__ import annotations

import contextlib
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from itertools import chain
from typing import IO, cast

from rclpy.node import Node
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, Image

from starry_ros.ros.dead_ports import keep_off_dead_ports
from starry_ros.ros.qos import SENSOR
from starry_ros.ros.run import ros_session
from starry_ros.ros.transport import sharing_environment
from starry_ros.ros.worker import Worker

Topics = tuple[str, str]
"""Of the picture and of the calibration, after remapping."""
ROUNDS = 2
"""How many pictures of each camera may wait."""
TAKE_S, END_S = 0.2, 2.0


class Cameras:
    """Publishes what the cameras see until closed. `on_failure` is told when the process has ended by itself."""

    def __init__(self, topics: Mapping[str, Topics], on_failure: Callable[[Exception], None]) -> None:
        self._number = {camera: number for number, camera in enumerate(topics)}
        self._waiting: queue.Queue[tuple[int, Image, CameraInfo]] = queue.Queue(ROUNDS * len(topics))
        command = [sys.executable, "-m", "starry_ros.ros.sim_cameras", *chain(*topics.values())]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, env=sharing_environment(), start_new_session=True
        )
        self._pipe = cast(IO[bytes], self._process.stdin)
        self._writer = Worker("cameras", self._hand_over, on_failure)
        self._writer.start()

    def show(self, camera: str, image: Image, info: CameraInfo) -> bool:
        """Publish a picture and its calibration soon; False if it is dropped, because those before still wait."""
        try:
            self._waiting.put_nowait((self._number[camera], image, info))
        except queue.Full:
            return False
        return True

    def _hand_over(self) -> None:
        with contextlib.suppress(queue.Empty):
            number, image, info = self._waiting.get(timeout=TAKE_S)
            said = number, bytes(serialize_message(image)), bytes(serialize_message(info))
            pickle.dump(said, self._pipe, protocol=pickle.HIGHEST_PROTOCOL)
            self._pipe.flush()

    def close(self) -> None:
        """End the process, if need be by force."""
        force = threading.Timer(END_S, self._process.kill)
        force.start()
        self._writer.close(2 * END_S)
        with contextlib.suppress(OSError):
            self._pipe.close()
        self._process.wait()
        force.cancel()


def main() -> None:
    """Entry point of the process: topics as arguments, pictures by standard input, with whose end it ends."""
    names = iter(sys.argv[1:])
    keep_off_dead_ports()
    with ros_session(signals=False):
        node = Node("sim_cameras")
        publishers = [
            (node.create_publisher(Image, picture, SENSOR), node.create_publisher(CameraInfo, info, SENSOR))
            for picture, info in zip(names, names, strict=True)
        ]
        with contextlib.suppress(EOFError):
            while True:
                number, picture, info = pickle.load(sys.stdin.buffer)
                for publisher, message in zip(publishers[number], (picture, info), strict=True):
                    publisher.publish(message)


if __name__ == "__main__":
    main()
