"""Node `value_map_visualizer`: the newest value map over every camera's own image, for people to watch.

Nothing depends on it. An overlay keeps the stamp and frame of its image and has its own copy of the calibration. A
camera whose overlay nobody subscribes to costs nothing: its images are not even received.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rclpy.clock import Clock, ClockType
from sensor_msgs.msg import CameraInfo, Image

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.errors import InputError
from starry_ros.msg import ExecutorStatus, WorldActionStatus
from starry_ros.msg import ValueMap as ValueMapMessage
from starry_ros.paths import robot_file
from starry_ros.robot_spec import CameraSpec, load_robot_spec
from starry_ros.ros.convert import EdgeClock, image_message, image_of, value_map_of
from starry_ros.ros.diagnostics import OK, WARN, Diagnostics, Health
from starry_ros.ros.overlay_topics import overlay_info_topic, overlay_topic
from starry_ros.ros.params import ROBOT, Parameter, declare
from starry_ros.ros.qos import LATCHED, NEWEST, PLAN, SENSOR, STATE
from starry_ros.ros.run import StarryNode, run
from starry_ros.timing import nanoseconds
from starry_ros.types import ValueMap
from starry_ros.value.overlay import Caption, OverlayPainter

PARAMETERS = (
    ROBOT,
    Parameter("alpha", 0.8, "Opacity of the highest value, 0 to 1.", 0.0, 1.0),
    Parameter("caption", True, "Whether to write the sentence and the mode under each image."),
    Parameter("max_age_s", 2.0, "A value map older than this is not shown, in seconds.", 0.1, 60.0),
)
LOOK_FOR_VIEWERS_S = 0.5
MODE_RGB = {"RUN": (90, 220, 130), "SLOW": (240, 200, 80), "HOLD": (120, 170, 250), "STOP": (240, 140, 60),
            "FAULT": (250, 80, 80)}
PLAIN_RGB = (168, 176, 188)


@dataclass
class View:
    """One camera: its two publishers, its two subscriptions while somebody watches, and its newest calibration."""

    camera: CameraSpec
    image: Any
    info: Any
    subscriptions: list[Any] = field(default_factory=list)
    calibration: CameraInfo | None = None


class ValueMapVisualizerNode(StarryNode):
    """Images and value maps in, overlays out."""

    def __init__(self) -> None:
        super().__init__("value_map_visualizer")
        self._values = declare(self, *PARAMETERS)
        self._spec = load_robot_spec(robot_file(self._values["robot"]))
        self._edge = EdgeClock(self.get_clock())
        self._layout = t_pose_layout(self._spec)
        self._painter: OverlayPainter | None = None
        self._map: ValueMap | None = None
        self._sentence, self._mode = "", ""
        self._painted, self._problem = 0, ""
        self._captions: bool = self._values["caption"]
        self._views = [self._view(camera) for camera in self._spec.cameras]
        self.create_subscription(ValueMapMessage, "value_map", self._on_map, PLAN)
        self.create_subscription(WorldActionStatus, "world_action_status", self._on_session, STATE)
        self.create_subscription(ExecutorStatus, "executor_status", self._on_executor, LATCHED)
        self.create_timer(LOOK_FOR_VIEWERS_S, self._look_for_viewers, clock=Clock(clock_type=ClockType.STEADY_TIME))
        Diagnostics(self, self._health, self._spec.name)

    def _view(self, camera: CameraSpec) -> View:
        image = self.create_publisher(Image, overlay_topic(camera.name), SENSOR)
        return View(camera, image, self.create_publisher(CameraInfo, overlay_info_topic(camera.name), SENSOR))

    def _look_for_viewers(self) -> None:
        for view in self._views:
            watched = view.image.get_subscription_count() > 0
            if watched and not view.subscriptions:
                on_image, on_info = partial(self._on_image, view), partial(setattr, view, "calibration")
                view.subscriptions = [
                    self.create_subscription(CameraInfo, view.camera.info_topic, on_info, NEWEST),
                    self.create_subscription(Image, view.camera.topic, on_image, NEWEST),
                ]
            elif not watched and view.subscriptions:
                for subscription in view.subscriptions:
                    self.destroy_subscription(subscription)
                view.subscriptions = []

    def _on_map(self, message: ValueMapMessage) -> None:
        try:
            value_map = value_map_of(message, self._edge)
            if self._map is None or value_map.stride_px != self._map.stride_px:
                self._painter = OverlayPainter(self._layout, value_map.stride_px, alpha=self._values["alpha"])
        except InputError as error:
            self._complain(error)
            return
        self._map, self._problem = value_map, ""

    def _on_session(self, message: WorldActionStatus) -> None:
        self._sentence = message.instruction

    def _on_executor(self, message: ExecutorStatus) -> None:
        self._mode = message.mode_name

    def _on_image(self, view: View, message: Image) -> None:
        caption = Caption(self._sentence, self._mode, MODE_RGB.get(self._mode, PLAIN_RGB))
        try:
            picture = image_of(view.camera.name, message)
            if self._painter is not None:
                text = caption if self._captions else None
                picture = self._painter.paint(view.camera.name, picture, self._fresh_map(), text)
        except InputError as error:
            self._complain(error)
            return
        view.image.publish(image_message(picture, message.header.stamp, message.header.frame_id))
        if view.calibration is not None:
            view.calibration.header = message.header
            view.info.publish(view.calibration)
        self._painted += 1

    def _fresh_map(self) -> ValueMap | None:
        """The newest value map; the painter draws only the caption when it is too old."""
        if self._map is None:
            return None
        old = self._edge.now_ns() - self._map.observation_ns > nanoseconds(self._values["max_age_s"])
        return None if old else self._map

    def _complain(self, error: InputError) -> None:
        self._problem = str(error)
        self.get_logger().error(f"refused: {error}", throttle_duration_sec=5.0)

    def _health(self) -> Health:
        watched = [view.camera.name for view in self._views if view.subscriptions]
        values = {"painted": self._painted, "watched": ",".join(watched), "map": "fresh" if self._fresh_map() else "no"}
        return Health(WARN if self._problem else OK, self._problem or f"{len(watched)} views watched", values)


def main() -> None:
    """Entry point."""
    raise SystemExit(run(ValueMapVisualizerNode))


if __name__ == "__main__":
    main()
