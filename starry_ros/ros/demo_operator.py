"""The operator of a demonstration: calls services, listens to topics, and counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

from starry_ros.errors import InputError
from starry_ros.msg import ActionChunk, CanvasInfo, ExecutorStatus, WorldActionStatus
from starry_ros.robot_spec import RobotSpec
from starry_ros.ros.convert import image_of, stamp_ns
from starry_ros.ros.overlay_topics import overlay_topic
from starry_ros.ros.qos import LATCHED, NEWEST, PLAN, SENSOR, STATE
from starry_ros.srv import ResetEpisode, ResetSession, SetInstruction
from starry_ros.timing import seconds
from starry_ros.types import U8

TRIGGERS = ("arm", "hold", "stop", "reset_fault")


@dataclass
class Heard:
    """The newest message of each kind (empty before the first), and counts since the start."""

    executor: Any = field(default_factory=ExecutorStatus)
    session: Any = field(default_factory=WorldActionStatus)
    placed: tuple[str, ...] = ()
    canvases: int = 0
    canvas_complete: bool = False
    chunk_ages_s: list[float] = field(default_factory=list)
    camera_stamps_ns: Mapping[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    simulation: dict[str, str] = field(default_factory=dict)
    overlays: dict[str, U8] = field(default_factory=dict)
    diagnosed: dict[str, str] = field(default_factory=dict)


class Operator(Node):
    """Call `pump` often: nothing happens in between. Without `on_pictures` no overlay is asked for, nor painted."""

    def __init__(self, spec: RobotSpec, on_pictures: Callable[[list[U8]], None] | None = None) -> None:
        super().__init__("demo_operator")
        self.heard = Heard()
        self._spec, self._on_pictures = spec, on_pictures
        self._executor_loop = SingleThreadedExecutor()
        self._executor_loop.add_node(self)
        self._triggers = {name: self.create_client(Trigger, name) for name in TRIGGERS}
        self._reset_episode = self.create_client(ResetEpisode, "reset_episode")
        self._reset_session = self.create_client(ResetSession, "reset_session")
        self._set_instruction = self.create_client(SetInstruction, "set_instruction")
        self._listen()

    def _listen(self) -> None:
        hear_executor, hear_session = partial(setattr, self.heard, "executor"), partial(setattr, self.heard, "session")
        self.create_subscription(ExecutorStatus, "executor_status", hear_executor, LATCHED)
        self.create_subscription(WorldActionStatus, "world_action_status", hear_session, STATE)
        self.create_subscription(String, "ground_truth/placed", self._on_placed, LATCHED)
        self.create_subscription(CanvasInfo, "canvas_info", self._on_canvas, SENSOR)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, STATE)
        for camera in self._spec.cameras if self._on_pictures is not None else ():
            self.create_subscription(Image, overlay_topic(camera.name), partial(self._on_overlay, camera.name), NEWEST)

    def hear_plans(self) -> None:
        """Also note the age of every plan."""
        self.create_subscription(ActionChunk, "action_chunk", self._on_chunk, PLAN)

    def pump(self, timeout_s: float) -> None:
        """Handle one waiting message, or wait for one for up to `timeout_s`."""
        self._executor_loop.spin_once(timeout_sec=timeout_s)

    def missing(self) -> list[str]:
        """What is not ready yet, in words."""
        heard, waits = self.heard, []
        for name, client in (*self._triggers.items(), ("reset_episode", self._reset_episode),
                             ("reset_session", self._reset_session)):
            if not client.service_is_ready():
                waits.append(name)
        if not heard.canvas_complete:
            waits.append("cameras")
        if heard.session.reason == "loading" or not heard.session.state:
            waits.append("model")
        if not heard.executor.mode_name:
            waits.append("executor")
        if self._on_pictures is not None and len(heard.overlays) < len(self._spec.cameras) and heard.session.plans:
            waits.append("value maps")
        return waits

    # Services: each returns a future

    def trigger(self, name: str) -> Any:
        """Call arm, hold, stop or reset_fault."""
        return self._triggers[name].call_async(Trigger.Request())

    def reset_episode(self, task: str, setting: str, seed: int) -> Any:
        """Lay out the scene of a seed."""
        return self._reset_episode.call_async(ResetEpisode.Request(task=task, setting=setting, seed=seed))

    def reset_session(self, text: str) -> Any:
        """Begin a session with a sentence."""
        return self._reset_session.call_async(ResetSession.Request(text=text))

    def set_instruction(self, text: str) -> Any:
        """Change the sentence."""
        return self._set_instruction.call_async(SetInstruction.Request(text=text))

    # Topics

    def _on_placed(self, message: String) -> None:
        self.heard.placed = tuple(message.data.split(",")) if message.data else ()

    def _on_canvas(self, message: CanvasInfo) -> None:
        self.heard.canvases += 1
        self.heard.canvas_complete = all(tile.valid for tile in message.tiles)
        for tile in message.tiles:
            if tile.valid:
                self.heard.camera_stamps_ns[tile.camera].add(stamp_ns(tile.stamp))

    def _on_chunk(self, message: ActionChunk) -> None:
        self.heard.chunk_ages_s.append(seconds(self.get_clock().now().nanoseconds - stamp_ns(message.header.stamp)))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            node = status.name.rpartition("/")[2]
            self.heard.diagnosed[node] = status.message
            if node == "sim_robot":
                self.heard.simulation = {pair.key: pair.value for pair in status.values}

    def _on_overlay(self, camera: str, message: Image) -> None:
        try:
            self.heard.overlays[camera] = image_of(camera, message)
        except InputError:
            return
        complete = len(self.heard.overlays) == len(self._spec.cameras)
        if self._on_pictures is not None and complete and camera == self._spec.cameras[-1].name:
            self._on_pictures([self.heard.overlays[spec.name] for spec in self._spec.cameras])


@dataclass(frozen=True)
class FrameCount:
    """Publishers' counters at one moment: frames published and the stamp of the last one, by camera."""

    published: Mapping[str, int]
    last_ns: Mapping[str, int]

    @staticmethod
    def of(values: Mapping[str, str], cameras: list[str]) -> FrameCount | None:
        """From the simulated robot's diagnostics; None before they came."""
        if any(f"{camera}.last_ns" not in values for camera in cameras):
            return None
        return FrameCount({camera: int(values[f"{camera}.published"]) for camera in cameras},
                          {camera: int(values[f"{camera}.last_ns"]) for camera in cameras})


def frames_lost(begin: FrameCount, end: FrameCount, seen_ns: Mapping[str, set[int]]) -> dict[str, float]:
    """Share of the frames published after `begin` and up to `end` that never reached a canvas, by camera."""
    lost = {}
    for camera, last_ns in end.last_ns.items():
        published = end.published[camera] - begin.published[camera]
        arrived = sum(begin.last_ns[camera] < at_ns <= last_ns for at_ns in seen_ns.get(camera, ()))
        lost[camera] = max(0.0, 1.0 - arrived / published) if published else 0.0
    return lost
