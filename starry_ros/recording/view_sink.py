"""Messages into a Rerun viewer: cameras with overlays, canvas, imagined beside real, plans, joints, executor, texts.

Takes messages of a live graph and of a recording alike: both have the same fields. Times are ROS nanoseconds.
Shapes: J joints in contract order, K chunk steps.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import rerun as rr

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.errors import StarryError
from starry_ros.recording.figures import disagreement
from starry_ros.recording.reader import chunk_of, commanded, image_of, stamp_ns, state_of, value_map_of
from starry_ros.recording.view_layout import short
from starry_ros.recording.view_plans import PlanBars, log_axes
from starry_ros.robot_spec import RobotSpec
from starry_ros.timing import nanoseconds
from starry_ros.types import F64, U8, RobotState, ValueMap
from starry_ros.value.colour import LEVELS, table
from starry_ros.value.imagined import ImaginedPairs, beside, compare, whole
from starry_ros.value.overlay import MODE_RGB, NO_EXECUTOR, PLAIN_RGB, SILENT_S, Caption, OverlayPainter, Style

APPLICATION = "starry_ros"
JPEG_QUALITY = 85
USUAL_STRIDE_PX = 4
MAP_AGE_NS = 2_000_000_000
BATCH_NS, ARMS_NS, BARS_NS, IMAGINATION_NS = 1_000_000_000, 90_000_000, 90_000_000, 20_000_000_000
COMMANDED_RGB, MEASURED_RGB, LIMIT_RGB = (240, 160, 70), (90, 170, 240), (214, 72, 58)
JOINT_RGB = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66), (204, 121, 167), (213, 94, 0), (0, 114, 178))
LEVEL_RGB = {"planning": (90, 220, 130), "waiting": (240, 200, 80), "refused": (240, 140, 60)}
SENTENCE_RGB = ((142, 122, 196), (186, 162, 224))
LOG_LEVEL = {"FAULT": "ERROR", "STOP": "WARN", "SLOW": "WARN"}
PLOTS = {
    "latency/plan_age_ms": "age of a plan when it comes", "latency/age_followed_ms": "age of the plan followed",
    "latency/slack_ms": "slack: how long it still lasts", "splice/change_of_plan": "from plan to plan",
    "surprise/imagined_apart": "imagined off by, grey levels", "surprise/surprise": "surprise: 1 slows, 2 stops",
    "limits/shaped_share": "share of ticks shaped by a limit", "limits/refused": "plans refused",
    "executor/speed_scale": "speed in use", "executor/tick_jitter_ms": "tick jitter p99, ms",
}
PLOT_RGB = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (204, 121, 167))
DARK = 22
NO_IMAGINATION = ("not published: start world_action", "with publish_imagined:=true")


class ViewSink:
    """Logs into the Rerun stream that is open. Not thread-safe."""

    def __init__(self, spec: RobotSpec) -> None:
        self._spec, self._layout = spec, t_pose_layout(spec)
        self._cameras = {f"{camera.topic}{form}": camera for camera in spec.cameras for form in ("", "/compressed")}
        self._commands = {arm.command_topic: arm for arm in spec.arms}
        self._painter = OverlayPainter(self._layout, USUAL_STRIDE_PX, style=Style())
        self._map: ValueMap | None = None
        self._plans, self._pairs = PlanBars(), ImaginedPairs(800_000_000, 50_000_000)
        self._states: dict[str, str] = {}
        self._mode_ns = 0
        self._warnings, self._sentences = {""}, list[str]()
        self._samples: dict[str, list[tuple[int, float]]] = {}
        self._now_ns = self._sent_ns = self._arms_ns = self._bars_ns = self._first_canvas_ns = 0
        self._imagination_seen = False
        self._robot = _kinematics(spec)
        self._lower_J, self._upper_J = spec.limit("lower"), spec.limit("upper")
        self._handlers: dict[str, Any] = {
            "canvas": self._canvas, "imagined_canvas": self._imagined, spec.joint_state_topic: self._state,
            "action_chunk": self._chunk, "value_map": self._value_map, "executor_status": self._executor,
            "world_action_status": self._session, "/diagnostics": self._diagnostics,
        }
        self._log_static()

    @property
    def topics(self) -> tuple[str, ...]:
        """What this view wants to hear beside the cameras' pictures, relative to the namespace."""
        return (*self._handlers, *self._commands)

    def take(self, topic: str, time_ns: int, message: Any) -> None:
        """Show one message; one that cannot be read is said in the log instead."""
        rr.set_time("time", timestamp=np.datetime64(time_ns, "ns"))
        self._now_ns = time_ns
        if time_ns - self._sent_ns > BATCH_NS:
            self.flush()
        try:
            if topic in self._cameras:
                self._camera(self._cameras[topic].name, message)
            elif topic in self._commands:
                self._command(self._commands[topic].name, message)
            else:
                self._handlers[topic](message)
        except (StarryError, ValueError) as error:
            rr.log("log", rr.TextLog(f"{topic}: {error}", level="ERROR"))

    def flush(self) -> None:
        """Send the samples of plots that wait. Sent one by one, they would cost the viewer more than all pictures."""
        self._plot_limits()
        for path, samples in self._samples.items():
            times = np.array([time_ns for time_ns, _ in samples], dtype="datetime64[ns]")
            values = rr.Scalars.columns(scalars=[value for _, value in samples])
            rr.send_columns(path, indexes=[rr.TimeColumn("time", timestamp=times)], columns=values)
        for lane, value in self._states.items():  # said again for a page that is opened late
            rr.log(f"states/{lane}", rr.StateChange(state=value))
        self._samples, self._sent_ns = {}, self._now_ns

    def _plot(self, path: str, value: float) -> None:
        self._samples.setdefault(path, []).append((self._now_ns, float(value)))

    def _plot_joint(self, arm: str, index: int, kind: str, value: float) -> None:
        """A joint's position, in rad (grippers m) and as a share of its range in percent."""
        joint, lower, upper = self._spec.joint_names[index], self._lower_J[index], self._upper_J[index]
        self._plot(f"joints/{arm}/{joint}/{kind}", value)
        self._plot(f"range/{arm}/{joint}/{kind}", 100 * (value - lower) / (upper - lower))

    def _plot_limits(self) -> None:
        """Limits as flat lines: a sample a batch is enough."""
        for arm in self._spec.arms:
            part = self._spec.arm_slice(arm.name)
            for joint, lower, upper in zip(arm.joints, self._lower_J[part], self._upper_J[part], strict=True):
                self._plot(f"joints/{arm.name}/{joint.name}/lower", lower)
                self._plot(f"joints/{arm.name}/{joint.name}/upper", upper)
            self._plot(f"range/{arm.name}/lower", 0.0)
            self._plot(f"range/{arm.name}/upper", 100.0)

    # Styles

    def _log_static(self) -> None:
        def style(path: str, name: str, rgb: tuple[int, ...], width: float) -> None:
            rr.log(path, rr.SeriesLines(colors=[rgb], names=name, widths=width), static=True)

        for arm in self._spec.arms:
            for index, joint in enumerate(arm.joints):
                path, rgb = f"{arm.name}/{joint.name}", JOINT_RGB[index % len(JOINT_RGB)]
                style(f"joints/{path}/commanded", "commanded", COMMANDED_RGB, 2.5)
                style(f"joints/{path}/measured", "measured", MEASURED_RGB, 1.2)
                style(f"joints/{path}/lower", "lower limit", LIMIT_RGB, 1.0)
                style(f"joints/{path}/upper", "upper limit", LIMIT_RGB, 1.0)
                style(f"range/{path}/commanded", "commanded (thick)", (*rgb, 90), 4.0)
                style(f"range/{path}/measured", short(arm, joint.name), rgb, 1.2)
            style(f"range/{arm.name}/lower", "limits", LIMIT_RGB, 1.0)
            style(f"range/{arm.name}/upper", "limits", LIMIT_RGB, 1.0)
        for index, (path, name) in enumerate(PLOTS.items()):
            style(f"plots/{path}", name, PLOT_RGB[index % len(PLOT_RGB)], 1.6)
        self._log_states()
        log_axes("chunks")
        bounds = np.array([self._spec.workspace_m[axis] for axis in "xyz"])
        rr.log("world/workspace", rr.Boxes3D(mins=[bounds[:, 0]], sizes=[bounds[:, 1] - bounds[:, 0]],
                                             colors=[(120, 125, 135)],
                                             fill_mode=rr.components.FillMode.MajorWireframe), static=True)

    def _log_states(self) -> None:
        for path, colours in (("states/mode", MODE_RGB), ("states/model", LEVEL_RGB)):
            rr.log(path, rr.StateConfiguration(values=list(colours), labels=list(colours),
                                               colors=list(colours.values())), static=True)

    # Pictures

    def _camera(self, name: str, message: Any) -> None:
        picture = image_of(name, message)
        fresh = self._map is not None and stamp_ns(message.header.stamp) - self._map.observation_ns < MAP_AGE_NS
        caption = None
        if name == self._spec.cameras[0].name:
            if "mode" in self._states and self._now_ns - self._mode_ns > nanoseconds(SILENT_S):
                self._change("mode", NO_EXECUTOR, LOG_LEVEL["FAULT"])
            mode = self._states.get("mode", "")
            caption = Caption(self._states.get("sentence", ""), mode, MODE_RGB.get(mode, PLAIN_RGB))
        rr.log(f"cameras/{name}", _jpeg(self._painter.paint(name, picture, self._map if fresh else None, caption)))

    def _canvas(self, message: Any) -> None:
        real = image_of("canvas", message)
        rr.log("canvas", _jpeg(real))
        self._first_canvas_ns = self._first_canvas_ns or self._now_ns
        if not self._imagination_seen and self._now_ns - self._first_canvas_ns > IMAGINATION_NS:
            self._imagination_seen = True
            rr.log("imagined", _jpeg(_note(real)))
        imagined = self._pairs.real(stamp_ns(message.header.stamp)) if whole(self._layout, real) else None
        if imagined is not None and imagined.image_HWC.shape == real.shape:
            picture, apart = compare(imagined.image_HWC, real)
            rr.log("imagined", _jpeg(picture))
            self._plot("plots/surprise/imagined_apart", apart)

    def _imagined(self, message: Any) -> None:
        self._imagination_seen = True
        self._pairs.imagined(stamp_ns(message.header.stamp), image_of("imagined canvas", message))

    def _value_map(self, message: Any) -> None:
        value_map = value_map_of(message)
        if self._painter.projector.stride_px != value_map.stride_px:
            self._painter = OverlayPainter(self._layout, value_map.stride_px, style=Style())
        self._map = value_map

    # Motion

    def _state(self, message: Any) -> None:
        state = state_of(self._spec, message)
        for arm in self._spec.arms:
            part = self._spec.arm_slice(arm.name)
            for index in range(part.start, part.stop):
                self._plot_joint(arm.name, index, "measured", float(state.position_J[index]))
        if self._now_ns - self._bars_ns > BARS_NS:
            self._bars_ns = self._now_ns
            self._plans.log(self._now_ns, "chunks")
        if self._robot is not None and self._now_ns - self._arms_ns > ARMS_NS:
            self._arms_ns = self._now_ns
            self._draw_arms(state)

    def _draw_arms(self, state: RobotState) -> None:
        self._robot.place(state.position_J)
        for arm in self._spec.arms:
            chain = self._links(arm.name)
            rr.log(f"world/arms/{arm.name}", rr.LineStrips3D([chain], colors=[(196, 202, 212)], radii=0.012))
            rr.log(f"world/joints/{arm.name}", rr.Points3D(chain, colors=[(120, 130, 145)], radii=0.02))

    def _links(self, arm: str) -> F64:
        """World positions [N, 3] of the bodies from an arm's base to its hand."""
        model, body, points = self._robot.model, self._robot.hand_body(arm), [self._robot.hand(arm)]
        while body > 0:
            points.append(np.array(self._robot.data.xpos[body]))
            body = int(model.body_parentid[body])
        return np.array(points[::-1])

    def _command(self, arm: str, message: Any) -> None:
        for index, value in enumerate(commanded(self._spec, arm, message), self._spec.arm_slice(arm).start):
            self._plot_joint(arm, index, "commanded", float(value))

    def _chunk(self, message: Any) -> None:
        chunk, before = chunk_of(message), self._plans.newest
        self._plot("plots/latency/plan_age_ms", (self._now_ns - chunk.observation_ns) / 1e6)
        if before is not None and before.epoch == chunk.epoch:
            apart = disagreement(before, chunk, self._now_ns)
            if apart is not None:
                self._plot("plots/splice/change_of_plan", apart)
        self._plans.add(chunk, self._now_ns)
        if self._robot is not None:
            rgb = table("fern")[np.linspace(LEVELS - 1, LEVELS // 4, len(chunk.positions_KJ)).astype(int)]
            for arm, path in zip(self._spec.arms, self._robot.paths(chunk.positions_KJ), strict=True):
                segments = np.stack([path[:-1], path[1:]], axis=1)
                rr.log(f"world/plan/{arm.name}", rr.LineStrips3D(segments, colors=rgb[:-1], radii=0.006))

    # Status

    def _change(self, lane: str, value: str, level: str = "INFO", more: str = "") -> None:
        """Note a change of a state, on its lane and in the log."""
        if value and value != self._states.get(lane):
            self._states[lane] = value
            rr.log(f"states/{lane}", rr.StateChange(state=value))
            rr.log("log", rr.TextLog(f"{lane}: {value} {more}".rstrip(), level=level))

    def _executor(self, message: Any) -> None:
        self._mode_ns = self._now_ns
        self._change("mode", message.mode_name, LOG_LEVEL.get(message.mode_name, "INFO"), f"({message.reason})")
        if message.chunk_id:
            self._plot("plots/latency/slack_ms", 1000 * message.slack_s)
            self._plot("plots/latency/age_followed_ms", 1000 * message.chunk_age_s)
        self._plot("plots/limits/shaped_share", max(message.limit_share, default=0.0))
        self._plot("plots/limits/refused", float(sum(message.refused_counts)))
        self._plot("plots/executor/speed_scale", message.speed_scale)
        self._plot("plots/executor/tick_jitter_ms", 1000 * message.tick_jitter_p99_s)

    def _session(self, message: Any) -> None:
        self._change("model", message.state, more=message.reason)
        if message.instruction and message.instruction not in self._sentences:
            self._sentences.append(message.instruction)
            colours = [SENTENCE_RGB[index % len(SENTENCE_RGB)] for index in range(len(self._sentences))]
            rr.log("states/sentence", rr.StateConfiguration(values=self._sentences, labels=self._sentences,
                                                            colors=colours), static=True)
        self._change("sentence", message.instruction)
        for value in message.surprise:
            self._plot("plots/surprise/surprise", float(value))

    def _diagnostics(self, message: Any) -> None:
        for status in message.status:
            level = status.level if isinstance(status.level, int) else status.level[0]
            text = f"{status.name}: {status.message}"
            if level and text not in self._warnings:
                self._warnings.add(text)
                rr.log("log", rr.TextLog(text, level="WARN" if level == 1 else "ERROR"))


def _jpeg(picture_HWC: U8) -> Any:
    """As JPEG: a tenth of the bytes between the processes and in the viewer's memory."""
    done, data = cv2.imencode(".jpg", picture_HWC[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return rr.EncodedImage(contents=data.tobytes(), media_type="image/jpeg") if done else rr.Image(picture_HWC)


def _note(real_HWC: U8) -> U8:
    """What is shown as long as nothing imagined was published."""
    blank = np.full_like(real_HWC, DARK)
    picture = beside([("imagined", blank), ("what came", real_HWC), ("apart", blank)])
    for row, text in enumerate(NO_IMAGINATION):
        cv2.putText(picture, text, (12, 200 + 22 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.5, PLAIN_RGB, 1, cv2.LINE_AA)
    return picture


def _kinematics(spec: RobotSpec) -> Any:
    """Where hands and links are; None where it cannot be had."""
    try:
        from starry_ros.kinematics.robot import RobotKinematics

        return RobotKinematics(spec)
    except StarryError:
        return None
