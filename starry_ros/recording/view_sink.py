"""Messages into a Rerun viewer: cameras with overlays, canvas, imagined beside real, plans, joints, executor, texts.

Takes messages of a live graph and of a recording alike: both have the same fields. Times are ROS nanoseconds.
Shapes: J joints in contract order, K chunk steps.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import rerun as rr

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.errors import StarryError
from starry_ros.recording.figures import disagreement
from starry_ros.recording.reader import arm_positions, chunk_of, image_of, stamp_ns, state_of, value_map_of
from starry_ros.robot_spec import RobotSpec
from starry_ros.types import U8, ActionChunk, ValueMap
from starry_ros.value.colour import LEVELS, table
from starry_ros.value.imagined import ImaginedPairs, compare
from starry_ros.value.overlay import OverlayPainter, Style

APPLICATION = "starry_ros"
JPEG_QUALITY = 80
MAP_AGE_NS = 2_000_000_000
CHUNKS_SHOWN = 8
LIVE_S = 15.0
BATCH_NS = 1_000_000_000
NS = 1e9
USED_RGB, DROPPED_RGB, LATE_RGB, NOW_RGB = (47, 111, 179), (150, 170, 195), (192, 57, 43), (240, 240, 240)
COMMANDED_RGB, MEASURED_RGB, LIMIT_RGB = (240, 160, 70), (90, 170, 240), (200, 70, 60)
MODE_LEVEL = {"FAULT": "ERROR", "STOP": "WARN", "SLOW": "WARN"}


@dataclass(frozen=True)
class Arrived:
    """A plan and when it came."""

    chunk: ActionChunk
    at_ns: int


class ViewSink:
    """Logs into the Rerun stream that is open. Not thread-safe."""

    def __init__(self, spec: RobotSpec) -> None:
        self._spec, self._layout = spec, t_pose_layout(spec)
        self._cameras = {camera.topic: camera for camera in spec.cameras}
        self._commands = {arm.command_topic: arm.name for arm in spec.arms}
        self._painter: OverlayPainter | None = None
        self._map: ValueMap | None = None
        self._arrived: deque[Arrived] = deque(maxlen=CHUNKS_SHOWN)
        self._pairs = ImaginedPairs(800_000_000, 50_000_000)
        self._mode, self._sentence, self._warnings = "", "", {""}
        self._samples: dict[str, list[tuple[int, float]]] = {}
        self._now_ns = self._sent_ns = 0
        self._forward = _forward(spec)
        self._limits = spec.limit("lower"), spec.limit("upper")
        self._handlers: dict[str, Any] = {
            "canvas": self._canvas, "imagined_canvas": self._imagined, spec.joint_state_topic: self._state,
            "action_chunk": self._chunk, "value_map": self._value_map, "executor_status": self._executor,
            "world_action_status": self._session, "/diagnostics": self._diagnostics,
        }
        self._log_static()

    @property
    def topics(self) -> tuple[str, ...]:
        """What this view wants to hear, relative to the namespace."""
        return (*self._handlers, *self._cameras, *self._commands)

    def take(self, topic: str, time_ns: int, message: Any) -> None:
        """Show one message; one that cannot be read is said in the log instead."""
        rr.set_time("time", timestamp=np.datetime64(time_ns, "ns"))
        self._now_ns = time_ns
        if time_ns - self._sent_ns > BATCH_NS:
            self.flush()
        try:
            if topic in self._cameras:
                self._camera(self._cameras[topic].name, time_ns, message)
            elif topic in self._commands:
                self._command(self._commands[topic], message)
            else:
                self._handlers[topic](time_ns, message)
        except (StarryError, ValueError) as error:
            rr.log("log", rr.TextLog(f"{topic}: {error}", level="ERROR"))

    def flush(self) -> None:
        """Send the samples of plots that wait. Sent one by one, they would cost the viewer more than all pictures."""
        for path, samples in self._samples.items():
            times = np.array([time_ns for time_ns, _ in samples], dtype="datetime64[ns]")
            values = rr.Scalars.columns(scalars=[value for _, value in samples])
            rr.send_columns(path, indexes=[rr.TimeColumn("time", timestamp=times)], columns=values)
        self._samples, self._sent_ns = {}, self._now_ns

    def _plot(self, path: str, value: float) -> None:
        self._samples.setdefault(path, []).append((self._now_ns, float(value)))

    def _log_static(self) -> None:
        for joint in self._spec.joint_names:
            path = f"joints/{joint}"
            for name, rgb in (("commanded", COMMANDED_RGB), ("measured", MEASURED_RGB)):
                rr.log(f"{path}/{name}", rr.SeriesLines(colors=rgb, names=name), static=True)
            for name in ("lower", "upper"):
                rr.log(f"{path}/{name}", rr.SeriesLines(colors=LIMIT_RGB, names=name, widths=0.7), static=True)
        bounds = np.array([self._spec.workspace_m[axis] for axis in "xyz"])
        rr.log("world/workspace", rr.Boxes3D(mins=[bounds[:, 0]], sizes=[bounds[:, 1] - bounds[:, 0]],
                                             colors=[(120, 125, 135)],
                                             fill_mode=rr.components.FillMode.MajorWireframe), static=True)

    # Pictures

    def _camera(self, name: str, time_ns: int, message: Any) -> None:
        picture = image_of(name, message)
        if self._map is not None and self._painter is not None:
            fresh = stamp_ns(message.header.stamp) - self._map.observation_ns < MAP_AGE_NS
            picture = self._painter.paint(name, picture, self._map if fresh else None)
        rr.log(f"cameras/{name}", _jpeg(picture))

    def _canvas(self, time_ns: int, message: Any) -> None:
        real = image_of("canvas", message)
        rr.log("canvas", _jpeg(real))
        imagined = self._pairs.real(stamp_ns(message.header.stamp))
        if imagined is not None and imagined.image_HWC.shape == real.shape:
            picture, apart = compare(imagined.image_HWC, real)
            rr.log("imagined", _jpeg(picture))
            self._plot("plots/surprise/imagined_apart", apart)

    def _imagined(self, time_ns: int, message: Any) -> None:
        self._pairs.imagined(stamp_ns(message.header.stamp), image_of("imagined canvas", message))

    def _value_map(self, time_ns: int, message: Any) -> None:
        self._map = value_map_of(message)
        if self._painter is None:
            self._painter = OverlayPainter(self._layout, self._map.stride_px, style=Style())

    # Motion

    def _state(self, time_ns: int, message: Any) -> None:
        state, (lower, upper) = state_of(self._spec, message), self._limits
        for index, joint in enumerate(self._spec.joint_names):
            self._plot(f"joints/{joint}/measured", float(state.position_J[index]))
            self._plot(f"joints/{joint}/lower", float(lower[index]))
            self._plot(f"joints/{joint}/upper", float(upper[index]))

    def _command(self, arm: str, message: Any) -> None:
        if len(message.points):
            first = arm_positions(self._spec, arm, message.joint_names, message.points[0].positions)
            for joint, value in zip(self._spec.joints[self._spec.arm_slice(arm)], first, strict=True):
                self._plot(f"joints/{joint.name}/commanded", float(value))

    def _chunk(self, time_ns: int, message: Any) -> None:
        chunk = chunk_of(message)
        self._plot("plots/latency/plan_age_ms", (time_ns - chunk.observation_ns) / 1e6)
        if self._arrived and self._arrived[-1].chunk.epoch == chunk.epoch:
            apart = disagreement(self._arrived[-1].chunk, chunk, time_ns)
            if apart is not None:
                self._plot("plots/splice/change_of_plan", apart)
        self._arrived.append(Arrived(chunk, time_ns))
        self._log_chunks(time_ns)
        if self._forward is not None:
            rgb = table("fern")[np.linspace(LEVELS - 1, LEVELS // 4, len(chunk.positions_KJ)).astype(int)]
            for arm, path in zip(self._spec.arms, self._forward.hands(chunk.positions_KJ), strict=True):
                segments = np.stack([path[:-1], path[1:]], axis=1)
                rr.log(f"world/plan/{arm.name}", rr.LineStrips3D(segments, colors=rgb[:-1], radii=0.004))

    def _log_chunks(self, now_ns: int) -> None:
        """The last plans as bars around now: past when they came, followed, replaced by the next."""
        boxes: list[tuple[float, float, int, tuple[int, int, int], str]] = []
        for row, arrived in enumerate(self._arrived):
            chunk, name = arrived.chunk, f"chunk {arrived.chunk.chunk_id}"
            later = self._arrived[row + 1].at_ns if row + 1 < len(self._arrived) else chunk.end_ns
            spans = ((chunk.start_ns, arrived.at_ns, LATE_RGB, ""), (arrived.at_ns, later, USED_RGB, name),
                     (later, chunk.end_ns, DROPPED_RGB, ""))
            for begin_ns, end_ns, rgb, text in spans:
                begin_ns = max(begin_ns, chunk.start_ns)
                if end_ns > begin_ns:
                    boxes.append(((begin_ns - now_ns) / NS, (end_ns - now_ns) / NS, row, rgb, text))
        mins = np.array([[begin, row + 0.1] for begin, _, row, _, _ in boxes])
        sizes = np.array([[end - begin, 0.8] for begin, end, _, _, _ in boxes])
        rr.log("chunks/bars", rr.Boxes2D(mins=mins, sizes=sizes, colors=[box[3] for box in boxes],
                                         labels=[box[4] for box in boxes], show_labels=False))
        rr.log("chunks/now", rr.LineStrips2D([[[0.0, 0.0], [0.0, float(CHUNKS_SHOWN)]]], colors=[NOW_RGB], radii=0.01))

    # Status

    def _executor(self, time_ns: int, message: Any) -> None:
        if message.mode_name != self._mode:
            self._mode = message.mode_name
            level = MODE_LEVEL.get(self._mode, "INFO")
            rr.log("log", rr.TextLog(f"{self._mode}: {message.reason}", level=level))
        self._plot("plots/mode", float(message.mode))
        if message.chunk_id:
            self._plot("plots/latency/slack_ms", 1000 * message.slack_s)
            self._plot("plots/latency/age_followed_ms", 1000 * message.chunk_age_s)
        self._plot("plots/limits/shaped_share", max(message.limit_share, default=0.0))
        refused = sum(message.refused_counts)
        self._plot("plots/limits/refused", float(refused))

    def _session(self, time_ns: int, message: Any) -> None:
        if message.instruction and message.instruction != self._sentence:
            self._sentence = message.instruction
            rr.log("log", rr.TextLog(f"sentence: {self._sentence}", level="INFO"))
        for value in message.surprise:
            self._plot("plots/surprise/surprise", float(value))

    def _diagnostics(self, time_ns: int, message: Any) -> None:
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


def _forward(spec: RobotSpec) -> Any:
    """Kinematics for the paths of the hands; None where they cannot be had."""
    try:
        from starry_ros.sim.forward import ForwardKinematics

        return ForwardKinematics(spec)
    except StarryError:
        return None


def blueprint(spec: RobotSpec, *, live: bool) -> Any:
    """The layout of the screen. Live, it follows the newest moment and plots the last seconds; else it loops."""
    import rerun.blueprint as rrb

    begin, now = (rrb.TimeRangeBoundary.cursor_relative(seconds=s) for s in (-LIVE_S, 0.0))
    shown = [rrb.VisibleTimeRange("time", start=begin, end=now)] if live else None

    def plot(origin: str, name: str) -> Any:
        return rrb.TimeSeriesView(origin=origin, name=name, time_ranges=shown)

    cameras = [rrb.Spatial2DView(origin=f"cameras/{camera.name}", name=camera.name) for camera in spec.cameras]
    bounds = rrb.VisualBounds2D(x_range=[-3.0, 2.2], y_range=[-0.2, CHUNKS_SHOWN + 0.2])
    chunks = rrb.Spatial2DView(origin="chunks", name="Plans: late, followed, replaced", visual_bounds=bounds)
    arms = [
        rrb.Tabs(*(plot(f"joints/{joint.name}", joint.name) for joint in arm.joints), name=f"{arm.name} arm")
        for arm in spec.arms
    ]
    return rrb.Blueprint(
        rrb.Vertical(
            rrb.Horizontal(*cameras, rrb.Spatial2DView(origin="imagined", name="Imagined beside real"),
                           column_shares=[1, 1, 1, 1.9]),
            rrb.Horizontal(
                rrb.Spatial3DView(origin="world", name="Plan in space"), chunks,
                rrb.TextLogView(origin="log", name="Log"),
                column_shares=[1.2, 1.6, 1.2],
            ),
            rrb.Horizontal(
                *arms,
                rrb.Tabs(plot("plots/latency", "Age and slack, ms"), plot("plots/splice", "Change of plan, rad"),
                         plot("plots/surprise", "Surprise"), plot("plots/limits", "Limits and refusals"),
                         plot("plots/mode", "Mode")),
            ),
            row_shares=[1.25, 1, 1],
        ),
        rrb.TimePanel(state="collapsed", timeline="time", play_state="following" if live else "playing",
                      loop_mode="off" if live else "all"),
        rrb.BlueprintPanel(state="collapsed"), rrb.SelectionPanel(state="collapsed"),
    )
