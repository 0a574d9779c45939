"""Node `canvas_packer`: the camera images of one instant, packed into one canvas.

Publishes `canvas` and `canvas_info` with equal stamps whenever a new set of frames belongs together. A camera that is
silent, late or refused, or repeats a picture while what it must show moves, leaves its tile black and marked invalid;
diagnostics say why.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from functools import partial

from rclpy.clock import Clock, ClockType
from sensor_msgs.msg import CompressedImage, Image, JointState

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.canvas.pack import CanvasPacker
from starry_ros.canvas.sync import CameraHealth, CameraState, FrameSync, Outcome
from starry_ros.errors import InputError
from starry_ros.kinematics.mounts import shown_joints
from starry_ros.msg import CanvasInfo
from starry_ros.paths import robot_file
from starry_ros.robot_spec import CameraSpec, load_robot_spec
from starry_ros.ros.convert import EdgeClock, canvas_messages, frame_of, state_of
from starry_ros.ros.diagnostics import ERROR, OK, WARN, Diagnostics, Health
from starry_ros.ros.params import ROBOT, Parameter, declare
from starry_ros.ros.qos import SENSOR
from starry_ros.ros.run import StarryNode, run
from starry_ros.timing import seconds
from starry_ros.types import CameraFrame

PARAMETERS = (
    ROBOT,
    Parameter("image_transport", "raw", "What to subscribe to for each camera.", choices=("raw", "compressed")),
    Parameter("max_skew_s", 0.03, "Largest spread of stamps on one canvas, in seconds.", 0.0, 1.0),
    Parameter("max_age_s", 0.3, "A camera without a frame younger than this is invalid, in seconds.", 0.01, 10.0),
)
TWO_PUBLISHERS = "two_publishers"
STATES_APART_NS = 20_000_000
"""Joint states that come faster are passed over unread: whether arms move is told by fewer."""


class CanvasPackerNode(StarryNode):
    """Subscribes to every camera of the contract and publishes canvases."""

    def __init__(self) -> None:
        super().__init__("canvas_packer")
        values = declare(self, *PARAMETERS)
        self._spec = load_robot_spec(robot_file(values["robot"]))
        self._edge = EdgeClock(self.get_clock())
        self._packer = CanvasPacker(t_pose_layout(self._spec))
        cameras = [camera.name for camera in self._spec.cameras]
        self._sync = FrameSync(cameras, values["max_skew_s"], values["max_age_s"], shows=shown_joints(self._spec))
        self._heard_ns = 0
        self._refused: dict[str, Counter[str]] = {camera: Counter() for camera in cameras}
        self._reason: dict[str, str] = {}
        self._published = 0
        self._canvas = self.create_publisher(Image, "canvas", SENSOR)
        self._info = self.create_publisher(CanvasInfo, "canvas_info", SENSOR)
        transport = values["image_transport"]
        self._topics = {camera.name: self._subscribe(camera, transport) for camera in self._spec.cameras}
        self.create_subscription(JointState, self._spec.joint_state_topic, self._on_state, SENSOR)
        self._doubled: set[str] = set()
        self.create_timer(0.5, self._count_publishers, clock=Clock(clock_type=ClockType.STEADY_TIME))
        Diagnostics(self, self._health, self._spec.name)

    def _subscribe(self, camera: CameraSpec, transport: str) -> str:
        compressed = transport == "compressed"
        topic = f"{camera.topic}/compressed" if compressed else camera.topic
        kind = CompressedImage if compressed else Image
        return str(self.create_subscription(kind, topic, partial(self._on_image, camera), SENSOR).topic_name)

    def _count_publishers(self) -> None:
        """Two drivers on one topic would alternate two views in one tile: neither is believed."""
        self._doubled = {name for name, topic in self._topics.items() if self.count_publishers(topic) > 1}

    def _on_image(self, camera: CameraSpec, message: Image | CompressedImage) -> None:
        if camera.name in self._doubled:
            self._refuse(camera.name, TWO_PUBLISHERS, f"more than one publisher on {self._topics[camera.name]}")
            return
        try:
            frame = frame_of(camera.name, message, self._edge)
            _check_size(camera, frame)
        except InputError as error:
            self._refuse(camera.name, error.what, str(error))
            return
        self._reason.pop(camera.name, None)
        if self._sync.push(frame) is None:
            self._publish_newest()

    def _on_state(self, message: JointState) -> None:
        stamp_ns = self._edge.local_ns(message.header.stamp)
        if 0 <= stamp_ns - self._heard_ns < STATES_APART_NS:
            return
        with contextlib.suppress(InputError):  # executor and planner tell of it
            state = state_of(self._spec, message, self._edge)
            self._sync.hear(state.stamp_ns, state.position_J)
            self._heard_ns = stamp_ns

    def _refuse(self, camera: str, reason: str, text: str) -> None:
        self._refused[camera][reason] += 1
        self._reason[camera] = text
        self.get_logger().error(f"refused: {text}", throttle_duration_sec=5.0)

    def _publish_newest(self) -> None:
        now_ns = self._edge.now_ns()
        frame_set = self._sync.newest(now_ns)
        if frame_set is None:
            return
        canvas = self._packer.pack(frame_set, now_ns)
        image, info = canvas_messages(canvas, self._packer.layout, self._spec.content_hash, self._edge)
        self._canvas.publish(image)
        self._info.publish(info)
        self._published += 1

    def _health(self) -> Health:
        status = self._sync.status(self._edge.now_ns())
        values: dict[str, object] = {"canvases": self._published, "clock_jumps": status.resets}
        values["last_look"] = status.outcome.value
        for health in status.cameras:
            values |= self._camera_values(health)
        bad = [f"{health.camera}: {self._why(health)}" for health in status.cameras if health.state != CameraState.OK]
        if not bad and status.outcome is Outcome.SKEW:
            return Health(WARN, "no instant at which all cameras are within max_skew_s: synchronise them, or raise it",
                          values)
        if not bad:
            return Health(OK, "all cameras ok", values)
        blind = any(health.state not in (CameraState.OK, CameraState.SAME_IMAGE) for health in status.cameras)
        return Health(ERROR if blind else WARN, "; ".join(bad), values)

    def _why(self, health: CameraHealth) -> str:
        refused = health.state in (CameraState.NEVER_SEEN, CameraState.SILENT)
        return self._reason.get(health.camera, health.state.value) if refused else health.state.value

    def _camera_values(self, health: CameraHealth) -> dict[str, object]:
        camera, counters = health.camera, health.counters
        values: dict[str, object] = {
            f"{camera}.state": health.state.value,
            f"{camera}.age_s": "never" if health.age_ns is None else seconds(health.age_ns),
            f"{camera}.accepted": counters.accepted,
            f"{camera}.dropped": counters.dropped,
        }
        for reason, count in self._refused[camera].items():
            values[f"{camera}.refused.{reason}"] = count
        return values


def _check_size(camera: CameraSpec, frame: CameraFrame) -> None:
    height, width = frame.image_HWC.shape[:2]
    if (height, width) != (camera.height_px, camera.width_px):
        raise InputError(
            f"camera {camera.name}", "image has the wrong size", got=f"{width} x {height}",
            expected=f"{camera.width_px} x {camera.height_px}", fix="match the robot contract with the camera driver",
        )


def main() -> None:
    """Entry point."""
    raise SystemExit(run(CanvasPackerNode))


if __name__ == "__main__":
    main()
