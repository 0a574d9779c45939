"""Node `value_map_visualizer`: what the model is about to do, for people to watch.

Per camera: the value map over the camera's own image, and the raw values on its pixels, both with the stamp, frame and
calibration of the image. In space: the planned paths of both hands, where they would come to rest, the contacts
expected, the workspace. And what was imagined beside what came. Nothing depends on this node, and what nobody
subscribes to costs nothing: its inputs are not even received.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from rclpy.clock import Clock, ClockType
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.errors import InputError, StarryError
from starry_ros.msg import ActionChunk as ActionChunkMessage
from starry_ros.msg import ExecutorStatus, WorldActionStatus
from starry_ros.msg import ValueMap as ValueMapMessage
from starry_ros.paths import robot_file
from starry_ros.robot_spec import CameraSpec, load_robot_spec
from starry_ros.ros.convert import (
    EdgeClock,
    chunk_of,
    float_image_message,
    image_message,
    image_of,
    state_of,
    value_map_of,
)
from starry_ros.ros.diagnostics import OK, WARN, Diagnostics, Health
from starry_ros.ros.markers import WORLD_FRAME
from starry_ros.ros.on_demand import OnDemand
from starry_ros.ros.overlay_topics import (
    EVENT_NAMES,
    IMAGINED_BESIDE_REAL,
    PLAN_MARKERS,
    overlay_info_topic,
    overlay_topic,
    raw_topic,
)
from starry_ros.ros.pairing import StateHistory
from starry_ros.ros.params import ROBOT, Parameter, declare
from starry_ros.ros.plan_markers import PlanMarkers
from starry_ros.ros.qos import COMMAND, LATCHED, NEWEST, PLAN, SENSOR, STATE
from starry_ros.ros.run import StarryNode, run
from starry_ros.timing import nanoseconds
from starry_ros.types import ActionChunk, ValueMap
from starry_ros.value.colour import RAMPS_LCH
from starry_ros.value.imagined import ImaginedPairs, compare, whole
from starry_ros.value.overlay import MODE_RGB, NO_EXECUTOR, PLAIN_RGB, SILENT_S, Caption, OverlayPainter, Style

MAPS = tuple(sorted(RAMPS_LCH))
PARAMETERS = (
    ROBOT,
    Parameter("image_transport", "raw", "What to subscribe to for each camera.", choices=("raw", "compressed")),
    Parameter("alpha", 0.8, "Opacity of the highest value, 0 to 1.", 0.0, 1.0, live=True),
    Parameter("caption", True, "Whether to write the sentence and the mode under each image.", live=True),
    Parameter("scale_bar", False, "Whether to draw which colour means which value.", live=True),
    Parameter("colour_next", "ember", "Colour map of the next contact.", choices=MAPS, live=True),
    Parameter("colour_after", "tide", "Colour map of the contact after it.", choices=MAPS, live=True),
    Parameter("range", "fixed", "fixed: colours span range_low to range_high; robust: 0 to a percentile of each map.",
              choices=("fixed", "robust"), live=True),
    Parameter("range_low", 0.0, "Value of the dark end when the range is fixed.", 0.0, 1.0, live=True),
    Parameter("range_high", 1.0, "Value of the bright end when the range is fixed.", 0.0, 1.0, live=True),
    Parameter("robust_percent", 99.5, "Percentile of the bright end when the range is robust.", 50.0, 100.0, live=True),
    Parameter("min_confidence", 0.15, "Contacts expected with less confidence get no mark.", 0.0, 1.0, live=True),
    Parameter("max_age_s", 2.0, "A value map or plan older than this is not shown, in seconds.", 0.1, 60.0, live=True),
    Parameter("surface_z_m", 0.02, "Height at which contacts lie when only one view sees them, in m.", -5.0, 5.0,
              live=True),
    Parameter("imagined_ahead_s", 0.8, "How far ahead the model imagines, in seconds.", 0.0, 10.0, live=True),
    Parameter("world_frame", WORLD_FRAME, "Frame of the markers: the world of the contract's kinematics."),
)
LOOK_FOR_VIEWERS_S = 0.5
MARKERS_S = 0.2
TAIL_AGE_S = 0.5


def check_range(values: Mapping[str, Any]) -> str:
    """What is wrong with the fixed range, if anything."""
    return "" if values["range_low"] < values["range_high"] else "range_low is not below range_high"


def style_of(values: Mapping[str, Any]) -> Style:
    """The parameters as a style."""
    robust = values["robust_percent"] if values["range"] == "robust" else None
    return Style(
        alpha=values["alpha"], colour_maps=(values["colour_next"], values["colour_after"]), low=values["range_low"],
        high=values["range_high"], robust_percent=robust, scale_bar=values["scale_bar"],
        min_confidence=values["min_confidence"],
    )


class View:
    """One camera's publishers and newest calibration."""

    def __init__(self, node: StarryNode, camera: CameraSpec) -> None:
        self.camera = camera
        self.image = node.create_publisher(Image, overlay_topic(camera.name), SENSOR)
        self.raw = [node.create_publisher(Image, raw_topic(camera.name, i), SENSOR) for i in range(len(EVENT_NAMES))]
        self.info = node.create_publisher(CameraInfo, overlay_info_topic(camera.name), SENSOR)
        self.calibration: CameraInfo | None = None


class ValueMapVisualizerNode(StarryNode):
    """Images, maps and plans in; overlays, markers and comparisons out."""

    def __init__(self) -> None:
        super().__init__("value_map_visualizer")
        self._values = declare(self, *PARAMETERS, check=check_range)
        self._spec = load_robot_spec(robot_file(self._values["robot"]))
        self._edge = EdgeClock(self.get_clock())
        self._layout = t_pose_layout(self._spec)
        self._painter: OverlayPainter | None = None
        self._map: ValueMap | None = None
        self._chunk: ActionChunk | None = None
        self._commands: dict[str, tuple[int, JointTrajectory]] = {}
        self._states = StateHistory()
        self._imagined = ImaginedPairs(nanoseconds(self._values["imagined_ahead_s"]), nanoseconds(0.05))
        self._sentence, self._mode, self._mode_ns = "", "", 0
        self._painted, self._problem = 0, ""
        self._plan_markers: PlanMarkers | None = None
        self._markers = self.create_publisher(MarkerArray, PLAN_MARKERS, STATE)
        self._beside = self.create_publisher(Image, IMAGINED_BESIDE_REAL, SENSOR)
        self._views = [View(self, camera) for camera in self._spec.cameras]
        self._groups = self._make_groups()
        self.create_timer(LOOK_FOR_VIEWERS_S, self._look_for_viewers, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._marker_timer = self.create_timer(MARKERS_S, self._publish_markers,
                                               clock=Clock(clock_type=ClockType.STEADY_TIME), autostart=False)
        Diagnostics(self, self._health, self._spec.name)

    def _make_groups(self) -> dict[str, OnDemand]:
        """What lives while somebody watches: one group a camera, the markers, the imagined, and what several need."""
        views = {
            view.camera.name: OnDemand(self, [view.image, *view.raw], partial(self._begin_view, view))
            for view in self._views
        }
        shown = [publisher for view in self._views for publisher in (view.image, *view.raw)]
        return {
            **views,
            "markers": OnDemand(self, [self._markers], self._begin_markers),
            "imagined": OnDemand(self, [self._beside], self._begin_imagined),
            "maps": OnDemand(self, [*shown, self._markers], self._begin_maps),
        }

    # Subscriptions, made on demand

    def _begin_view(self, view: View) -> list[Any]:
        kind, topic = Image, view.camera.topic
        if self._values["image_transport"] == "compressed":
            kind, topic = CompressedImage, f"{topic}/compressed"
        return [
            self.create_subscription(CameraInfo, view.camera.info_topic, partial(setattr, view, "calibration"), NEWEST),
            self.create_subscription(kind, topic, partial(self._on_image, view), NEWEST),
        ]

    def _begin_maps(self) -> list[Any]:
        return [
            self.create_subscription(ValueMapMessage, "value_map", self._on_map, PLAN),
            self.create_subscription(WorldActionStatus, "world_action_status", self._on_session, STATE),
            self.create_subscription(ExecutorStatus, "executor_status", self._on_executor, LATCHED),
        ]

    def _begin_markers(self) -> list[Any]:
        infos = [
            self.create_subscription(CameraInfo, view.camera.info_topic, partial(setattr, view, "calibration"), NEWEST)
            for view in self._views
        ]
        commands = [
            self.create_subscription(JointTrajectory, arm.command_topic, partial(self._on_command, arm.name), COMMAND)
            for arm in self._spec.arms if self._spec.command_interface == "joint_trajectory"
        ]
        return [
            *infos, *commands,
            self.create_subscription(ActionChunkMessage, "action_chunk", self._on_chunk, PLAN),
            self.create_subscription(JointState, self._spec.joint_state_topic, self._on_state, STATE),
        ]

    def _begin_imagined(self) -> list[Any]:
        return [
            self.create_subscription(Image, "imagined_canvas", self._on_imagined, NEWEST),
            self.create_subscription(Image, "canvas", self._on_canvas, NEWEST),
        ]

    def _look_for_viewers(self) -> None:
        for group in self._groups.values():
            group.look()
        if self._groups["markers"].watched and self._marker_timer.is_canceled():
            self._marker_timer.reset()
        elif not self._groups["markers"].watched:
            self._marker_timer.cancel()

    # Inputs

    def _on_map(self, message: ValueMapMessage) -> None:
        try:
            value_map = value_map_of(message, self._edge)
            if self._painter is None or self._map is None or value_map.stride_px != self._map.stride_px:
                self._painter = OverlayPainter(self._layout, value_map.stride_px)
        except InputError as error:
            self._complain(error)
            return
        self._map, self._problem = value_map, ""

    def _on_session(self, message: WorldActionStatus) -> None:
        self._sentence = message.instruction

    def _on_executor(self, message: ExecutorStatus) -> None:
        self._mode, self._mode_ns = message.mode_name, self._edge.now_ns()

    def _on_chunk(self, message: ActionChunkMessage) -> None:
        try:
            chunk = chunk_of(message, self._edge)
            if chunk.joint_names == self._spec.joint_names:
                self._chunk = chunk
        except InputError as error:
            self._complain(error)

    def _on_command(self, arm: str, message: JointTrajectory) -> None:
        self._commands[arm] = (self._edge.now_ns(), message)

    def _on_state(self, message: JointState) -> None:
        try:
            self._states.add(state_of(self._spec, message, self._edge))
        except InputError as error:
            self._complain(error)

    # Overlays

    def _on_image(self, view: View, message: Image | CompressedImage) -> None:
        name, header = view.camera.name, message.header
        silent = self._mode and self._edge.now_ns() - self._mode_ns > nanoseconds(SILENT_S)
        mode = NO_EXECUTOR if silent else self._mode
        caption = Caption(self._sentence, mode, MODE_RGB.get(mode, PLAIN_RGB))
        value_map = self._fresh_map()
        try:
            if view.image.get_subscription_count():
                picture = image_of(name, message)
                if self._painter is not None:
                    self._painter.style = style_of(self._values)
                    text = caption if self._values["caption"] else None
                    picture = self._painter.paint(name, picture, value_map, text)
                view.image.publish(image_message(picture, header.stamp, header.frame_id))
            for event, publisher in enumerate(view.raw):
                if publisher.get_subscription_count() and self._painter is not None and value_map is not None:
                    values_hw = self._painter.projector.project(value_map, name, event)
                    publisher.publish(float_image_message(values_hw, header.stamp, header.frame_id))
        except InputError as error:
            self._complain(error)
            return
        if view.calibration is not None:
            view.calibration.header = header
            view.info.publish(view.calibration)
        self._painted += 1

    def _fresh_map(self) -> ValueMap | None:
        """The newest value map; the painter draws only the caption when it is too old."""
        return self._map if self._map is not None and self._fresh(self._map.observation_ns) else None

    def _fresh(self, made_ns: int) -> bool:
        return self._edge.now_ns() - made_ns <= nanoseconds(self._values["max_age_s"])

    # Markers

    def _publish_markers(self) -> None:
        stamp, now_ns = self.get_clock().now().to_msg(), self._edge.now_ns()
        try:
            drawn = self._plan_markers or self._load_markers()
            markers = drawn.workspace(stamp)
            if self._chunk is not None and self._fresh(self._chunk.observation_ns):
                markers += drawn.paths(self._chunk, stamp)
            recent = {arm: command for arm, (at_ns, command) in self._commands.items()
                      if now_ns - at_ns < nanoseconds(TAIL_AGE_S)}
            markers += drawn.tails(recent, stamp)
            value_map = self._fresh_map()
            if value_map is not None:
                markers += self._contacts(drawn, value_map, stamp)
        except StarryError as error:
            self._complain(error)
            return
        self._markers.publish(MarkerArray(markers=markers))

    def _load_markers(self) -> PlanMarkers:
        self._plan_markers = PlanMarkers(self._spec, self._layout, self._values["world_frame"])
        return self._plan_markers

    def _contacts(self, drawn: PlanMarkers, value_map: ValueMap, stamp: Any) -> list[Any]:
        state = self._states.nearest(value_map.observation_ns)
        if state is None:
            return []
        cameras = [
            drawn.camera_model(view.camera.name, np.asarray(view.calibration.k), state.position_J)
            for view in self._views if view.calibration is not None
        ]
        known = [camera for camera in cameras if camera is not None]
        return drawn.contacts(value_map, known, self._values["min_confidence"], self._values["surface_z_m"], stamp)

    # Imagined

    def _on_imagined(self, message: Image) -> None:
        try:
            self._imagined.imagined(self._edge.local_ns(message.header.stamp), image_of("imagined canvas", message))
        except InputError as error:
            self._complain(error)

    def _on_canvas(self, message: Image) -> None:
        self._imagined.horizon_ns = nanoseconds(self._values["imagined_ahead_s"])
        try:
            real = image_of("canvas", message)
            at_ns = self._edge.local_ns(message.header.stamp)
            imagined = self._imagined.real(at_ns) if whole(self._layout, real) else None
            if imagined is None:
                return
            picture, _ = compare(imagined.image_HWC, real)
        except InputError as error:
            self._complain(error)
            return
        self._beside.publish(image_message(picture, message.header.stamp, message.header.frame_id))

    # Health

    def _complain(self, error: StarryError) -> None:
        self._problem = str(error)
        self.get_logger().error(f"refused: {error}", throttle_duration_sec=5.0)

    def _health(self) -> Health:
        """WARN: an input was refused, or the kinematics for the markers cannot be loaded. Never ERROR."""
        watched = [name for name, group in self._groups.items() if group.watched and name != "maps"]
        values = {"painted": self._painted, "watched": ",".join(watched), "map": "fresh" if self._fresh_map() else "no"}
        return Health(WARN if self._problem else OK, self._problem or f"{len(watched)} views watched", values)


def main() -> None:
    """Entry point."""
    raise SystemExit(run(ValueMapVisualizerNode))


if __name__ == "__main__":
    main()
