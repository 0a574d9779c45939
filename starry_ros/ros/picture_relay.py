"""The relay of the cameras' pictures, in a process of its own.

Pictures go through memory that processes share, joint states and commands do not (`transport.py`): who is killed at a
lock of that memory may hold up who writes pictures, as on a robot whose cameras are no part of its drivers. Faults come
through a pipe, as functions that make them, and are answered once they are in place.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection

from sensor_msgs.msg import CameraInfo, Image

from starry_ros.robot_spec import RobotSpec
from starry_ros.ros.dead_ports import keep_off_dead_ports
from starry_ros.ros.qos import SENSOR
from starry_ros.ros.relay import SIM_SIDE, MakeFault, Relay
from starry_ros.ros.run import ros_session

START_S, ANSWER_S, END_S = 60.0, 5.0, 5.0
READY, DONE = "ready", "done"


class RigError(Exception):
    """What makes the faults has failed, and no node of the graph."""


class PictureRelay:
    """Passes on what the cameras say until closed; its process also ends with this one. A context manager."""

    def __init__(self, spec: RobotSpec) -> None:
        topics = [(camera.topic, camera.info_topic) for camera in spec.cameras]
        self.topics = frozenset(name for pair in topics for name in pair)
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(topics, theirs), name="picture_relay", daemon=True)
        self._process.start()
        self.exit_code: int | None = None
        theirs.close()
        self._expect(READY, START_S)

    def spoil(self, topic: str, make: MakeFault | None) -> None:
        """Put a fault on a topic, or take it away. RigError when the process does not answer, or has ended."""
        with contextlib.suppress(BrokenPipeError):
            self._pipe.send((topic, make))
        self._expect(DONE, ANSWER_S)

    def _expect(self, answer: str, within_s: float) -> None:
        said: object = "nothing"
        with contextlib.suppress(EOFError, ConnectionResetError):
            said = self._pipe.recv() if self._pipe.poll(within_s) else said
        if said != answer:
            raise RigError(f"the relay of the pictures says {said} instead of {answer}")

    def __enter__(self) -> PictureRelay:
        return self

    def __exit__(self, *exc: object) -> None:
        self._pipe.close()
        self._process.join(END_S)
        self.exit_code = self._process.exitcode
        self._process.kill()


def _serve(topics: list[tuple[str, str]], pipe: Connection) -> None:
    os.setsid()  # Linux shares cores between sessions: what relays joint states and commands does not wait for pictures
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who has started this process ends it, by closing the pipe
    keep_off_dead_ports()
    with ros_session(signals=False):
        relay = Relay("picture_relay")
        for picture, info in topics:
            relay.relay(Image, picture, SIM_SIDE, SENSOR)
            relay.relay(CameraInfo, info, SIM_SIDE, SENSOR)
        relay.begin()
        pipe.send(READY)
        with contextlib.suppress(EOFError):
            while True:
                topic, make = pipe.recv()
                relay.spoil(topic, make)
                pipe.send(DONE if relay.alive else "the relay has ended")
    relay.join()
