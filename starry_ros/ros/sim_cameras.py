"""The cameras of the simulated robot are a process of their own, as a camera's driver is one.

It (`sim_camera_process.py`) renders what the cell looked like at the instants that it is told. So physics, and with it
joint states, never wait for a picture: to be drawn, or to be sent. Pictures go through memory that processes share
(`transport.py`); when a reader dies at a lock of it, or is frozen there, whoever writes stands for up to 1 s. Instants
that come while pictures of the one before are still being made are left out, and counted.
"""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from starry_ros.errors import StarryError
from starry_ros.ros.run import EXIT_USER_ERROR
from starry_ros.ros.transport import sharing_environment
from starry_ros.ros.worker import Slot, Worker
from starry_ros.sim.cell import Sight

Topics = tuple[str, str]
"""Of the picture and of the calibration, after remapping."""
TAKE_S, END_S = 0.2, 2.0
CUT_OFF = EOFError, pickle.UnpicklingError
"""What reading from a process that has ended raises: between two words, or in the middle of one."""


@dataclass(frozen=True)
class Instant:
    """What the cameras shall see, and its ROS time."""

    stamp_ns: int
    sight: Sight


@dataclass(frozen=True)
class Shown:
    """A picture was published. `left_out`: instants so far that had to be."""

    camera: str
    stamp_ns: int
    left_out: int


class Cameras:
    """Publishes what the cameras of a robot's file see until closed. `on_failure` is told when the process ends."""

    def __init__(
        self, robot: Path, namespace: str, topics: Mapping[str, Topics], on_failure: Callable[[Exception], None]
    ) -> None:
        self.published = dict.fromkeys(topics, 0)
        self.last_ns = dict.fromkeys(topics, 0)
        self._left_out, self._closing = 0, False
        self._next: Slot[Instant] = Slot()
        names = (name for camera, pair in topics.items() for name in (camera, *pair))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "starry_ros.ros.sim_camera_process", str(robot), namespace, *names],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=sharing_environment(), start_new_session=True,
        )
        self._pipe, self._answers = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)
        self._workers = Worker("cameras", self._hand_over, on_failure), Worker("shown", self._hear, on_failure)
        for worker in self._workers:
            worker.start()

    def show(self, instant: Instant) -> None:
        """Publish pictures of this instant soon, unless a newer one comes before."""
        self._next.put(instant)

    @property
    def left_out(self) -> int:
        """Instants of which there are no pictures, because those before were still being made."""
        return self._left_out + self._next.replaced

    def _hand_over(self) -> None:
        instant = self._next.take(TAKE_S)
        if instant is not None:
            with contextlib.suppress(BrokenPipeError):  # `_hear` tells why
                pickle.dump(instant, self._pipe, protocol=pickle.HIGHEST_PROTOCOL)
                self._pipe.flush()

    def _hear(self) -> None:
        try:
            shown: Shown = pickle.load(self._answers)
        except CUT_OFF:
            if not self._closing:
                self._tell_end(self._process.wait(END_S))
            return
        self.published[shown.camera] += 1
        self.last_ns[shown.camera], self._left_out = shown.stamp_ns, shown.left_out

    @staticmethod
    def _tell_end(code: int) -> None:
        text = f"the process of the cameras has ended by itself, with exit code {code}"
        if code == EXIT_USER_ERROR:
            raise StarryError("sim_robot", text, fix="see above what it says")
        raise RuntimeError(text)

    def close(self) -> None:
        """End the process, if need be by force."""
        force = threading.Timer(END_S, self._process.kill)
        force.start()
        self._closing = True
        self._workers[0].close(2 * END_S)
        with contextlib.suppress(OSError):
            self._pipe.close()
        self._process.wait()
        self._workers[1].close(END_S)
        self._answers.close()
        force.cancel()
