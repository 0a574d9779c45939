"""Messages to the package's values and back. Nothing else knows the fields of a message.

Stamps are on the ROS clock; inside a process time is monotonic. `EdgeClock` maps one to the other at this edge.
Shapes: H rows, W columns, C colour channels, J joints in contract order, K steps or points, E events.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable, Mapping

import numpy as np
from builtin_interfaces.msg import Duration as DurationMsg
from builtin_interfaces.msg import Time as TimeMsg
from rclpy.clock import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray, Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from starry_ros import msg as messages
from starry_ros.canvas.layout import CanvasLayout
from starry_ros.canvas.pack import decode_compressed, decode_image
from starry_ros.control.status import ExecutorStatus
from starry_ros.errors import InputError
from starry_ros.robot_spec import ArmSpec, RobotSpec
from starry_ros.sim.trajectory_controller import Trajectory, TrajectoryPoint
from starry_ros.timing import NS_PER_S, nanoseconds, seconds
from starry_ros.types import (
    F32,
    F64,
    U8,
    ActionChunk,
    CameraFrame,
    CameraModel,
    Canvas,
    LandingPoint,
    RobotState,
    TileStatus,
    ValueMap,
)

CLOCK_SLACK_NS = 5_000_000
"""A smaller change between the two clocks is their reading jitter; following it would make stamps not round-trip."""

LONGEST_STEP_S = 10.0


class EdgeClock:
    """Local monotonic time from and to ROS stamps: local = mono_now - (ros_now - stamp). Exact both ways."""

    def __init__(self, clock: Clock, monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock, self._monotonic_ns = clock, monotonic_ns
        self._offset_ns: int | None = None

    def now_ns(self) -> int:
        """Local monotonic time."""
        return self._monotonic_ns()

    def local_ns(self, stamp: TimeMsg) -> int:
        """Local time of a ROS stamp."""
        return stamp_ns(stamp) - self._offset()

    def stamp(self, local_ns: int) -> TimeMsg:
        """ROS stamp of a local time."""
        return to_stamp(max(0, local_ns + self._offset()))

    def _offset(self) -> int:
        """ROS time minus local time; follows a jump of the ROS clock (simulation, time synchronisation).

        A reading that was interrupted for long, as on a busy machine, is no jump and tells nothing.
        """
        before_ns = self._monotonic_ns()
        ros_ns = self._clock.now().nanoseconds
        took_ns = self._monotonic_ns() - before_ns
        now_ns = ros_ns - before_ns - took_ns // 2
        if self._offset_ns is None or (took_ns < CLOCK_SLACK_NS and abs(now_ns - self._offset_ns) > CLOCK_SLACK_NS):
            self._offset_ns = now_ns
        return self._offset_ns


def stamp_ns(stamp: TimeMsg) -> int:
    """Nanoseconds since the ROS clock's origin."""
    return stamp.sec * NS_PER_S + stamp.nanosec


def to_stamp(time_ns: int) -> TimeMsg:
    """Inverse of `stamp_ns`."""
    return TimeMsg(sec=time_ns // NS_PER_S, nanosec=time_ns % NS_PER_S)


def to_duration(duration_ns: int) -> DurationMsg:
    """Duration message of a span."""
    return DurationMsg(sec=duration_ns // NS_PER_S, nanosec=duration_ns % NS_PER_S)


# Images and canvas


def image_message(image_HWC: U8, stamp: TimeMsg, frame_id: str) -> Image:
    """rgb8 image. `data` is set from an array.array: every other type costs a pass over each byte."""
    height, width, channels = image_HWC.shape
    return Image(
        header=Header(stamp=stamp, frame_id=frame_id), height=height, width=width, encoding="rgb8", is_bigendian=0,
        step=width * channels, data=array("B", image_HWC.tobytes()),
    )


def float_image_message(values_hw: F32, stamp: TimeMsg, frame_id: str) -> Image:
    """32FC1 image of raw values."""
    height, width = values_hw.shape
    return Image(
        header=Header(stamp=stamp, frame_id=frame_id), height=height, width=width, encoding="32FC1", is_bigendian=0,
        step=4 * width, data=array("B", np.ascontiguousarray(values_hw, dtype="<f4").tobytes()),
    )


def image_of(camera: str, message: Image | CompressedImage) -> U8:
    """RGB view of an image message's pixels; InputError on an unknown encoding or wrong sizes."""
    if isinstance(message, CompressedImage):
        return decode_compressed(camera, message.data)
    return decode_image(camera, message.encoding, message.height, message.width, message.step, message.data)


def frame_of(camera: str, message: Image | CompressedImage, clock: EdgeClock) -> CameraFrame:
    """Decoded frame of one camera."""
    return CameraFrame(camera, clock.local_ns(message.header.stamp), clock.now_ns(), image_of(camera, message))


def camera_info_message(model: CameraModel, stamp: TimeMsg, frame_id: str) -> CameraInfo:
    """Calibration of an undistorted pinhole camera."""
    fx, fy, cx, cy = model.fx_px, model.fy_px, model.cx_px, model.cy_px
    return CameraInfo(
        header=Header(stamp=stamp, frame_id=frame_id), height=model.height_px, width=model.width_px,
        distortion_model="plumb_bob", d=[0.0] * 5, k=[fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0], p=[fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0],
    )


def canvas_messages(
    canvas: Canvas, layout: CanvasLayout, contract_hash: str, clock: EdgeClock
) -> tuple[Image, messages.CanvasInfo]:
    """The canvas image and what lies where on it; both carry the stamp of the oldest view."""
    stamp = clock.stamp(canvas.stamp_ns)
    oldest_ns = min(tile.stamp_ns for tile in canvas.tiles)
    tiles = [_tile_message(status, layout, oldest_ns, clock) for status in canvas.tiles]
    info = messages.CanvasInfo(
        header=Header(stamp=stamp, frame_id="canvas"), layout_hash=canvas.layout_hash, contract_hash=contract_hash,
        height=layout.height_px, width=layout.width_px, tiles=tiles,
    )
    return image_message(canvas.image_HWC, stamp, "canvas"), info


def _tile_message(status: TileStatus, layout: CanvasLayout, oldest_ns: int, clock: EdgeClock) -> messages.CanvasTile:
    tile = layout.tile(status.camera)
    return messages.CanvasTile(
        camera=status.camera, x=tile.rect.x_px, y=tile.rect.y_px, width=tile.rect.width_px, height=tile.rect.height_px,
        inner_x=tile.content.x_px, inner_y=tile.content.y_px, inner_width=tile.content.width_px,
        inner_height=tile.content.height_px, stamp=clock.stamp(status.stamp_ns), age_s=seconds(status.age_ns),
        skew_s=seconds(status.stamp_ns - oldest_ns), valid=status.valid,
    )


def canvas_of(image: Image, info: messages.CanvasInfo, clock: EdgeClock) -> Canvas:
    """Inverse of `canvas_messages`."""
    if image.header.stamp != info.header.stamp:
        raise InputError("canvas", "image and info are not of the same instant")
    if not all(math.isfinite(tile.age_s) for tile in info.tiles):
        raise InputError("canvas", "the age of a tile is not finite")
    tiles = tuple(
        TileStatus(tile.camera, clock.local_ns(tile.stamp), nanoseconds(tile.age_s), tile.valid) for tile in info.tiles
    )
    return Canvas(clock.local_ns(info.header.stamp), info.layout_hash, image_of("canvas", image), tiles)


# Joints and arms


def state_of(spec: RobotSpec, message: JointState, clock: EdgeClock) -> RobotState:
    """Joint state in contract order and sign. A velocity that is not reported is taken for rest.

    Raises InputError on missing or duplicate names, wrong lengths or values that are not finite.
    """
    position_J, velocity_J = spec.joint_state(message.name, message.position, message.velocity)
    return RobotState(clock.local_ns(message.header.stamp), position_J, np.nan_to_num(velocity_J, nan=0.0))


def state_message(spec: RobotSpec, state: RobotState, clock: EdgeClock) -> JointState:
    """Joint state as a driver publishes it: in the driver's sign."""
    sign_J = spec.limit("sign")
    return JointState(
        header=Header(stamp=clock.stamp(state.stamp_ns)), name=list(spec.joint_names),
        position=(sign_J * state.position_J).tolist(), velocity=(sign_J * state.velocity_J).tolist(),
    )


def trajectory_message(
    spec: RobotSpec, arm: ArmSpec, clock: EdgeClock, start_ns: int | None, time_s_K: F64, points_K3J: F64
) -> JointTrajectory:
    """One arm's part of positions, velocities and accelerations [K, 3, J] at times after `start_ns` (None: now)."""
    part = spec.arm_slice(arm.name)
    signed = points_K3J[:, :, part] * spec.limit("sign")[part]
    start = TimeMsg() if start_ns is None else clock.stamp(start_ns)
    return JointTrajectory(
        header=Header(stamp=start), joint_names=[joint.name for joint in arm.joints],
        points=[
            JointTrajectoryPoint(
                positions=position, velocities=velocity, accelerations=acceleration,
                time_from_start=to_duration(nanoseconds(time_s)),
            )
            for time_s, (position, velocity, acceleration) in zip(time_s_K.tolist(), signed.tolist(), strict=True)
        ],
    )


def set_point_message(spec: RobotSpec, arm: ArmSpec, position_J: F64) -> Float64MultiArray:
    """One arm's set-points, for `command_interface: position_forward`."""
    part = spec.arm_slice(arm.name)
    return Float64MultiArray(data=(position_J[part] * spec.limit("sign")[part]).tolist())


def trajectory_of(message: JointTrajectory, clock: EdgeClock) -> Trajectory:
    """The message as it came, unchecked; a zero stamp means start now."""
    start = message.header.stamp
    points = tuple(
        TrajectoryPoint(
            point.time_from_start.sec * NS_PER_S + point.time_from_start.nanosec,
            tuple(point.positions), tuple(point.velocities), tuple(point.accelerations), tuple(point.effort),
        )
        for point in message.points
    )
    return Trajectory(tuple(message.joint_names), clock.local_ns(start) if stamp_ns(start) else None, points)


def executor_status_message(
    spec: RobotSpec, status: ExecutorStatus, accepted: int, malformed: Mapping[str, int], jitter_s: float
) -> messages.ExecutorStatus:
    """The executor's status without stamp and speed. `malformed` counts messages that were no chunk at all."""
    counts: dict[str, int] = {reason.value: count for reason, count in status.refused.items()}
    refused = {reason: count for reason, count in {**counts, **malformed}.items() if count}
    return messages.ExecutorStatus(
        mode=getattr(messages.ExecutorStatus, status.mode.name), mode_name=status.mode.value, reason=status.reason,
        conditions=[str(condition) for condition in status.conditions], contract_hash=spec.content_hash,
        chunk_id=status.chunk_id or 0, epoch=status.epoch or 0, instruction_id=status.instruction_id or 0,
        slack_s=status.slack_s, chunk_age_s=status.chunk_age_s or 0.0, stall_share=status.stall_share,
        splice_position=status.splice_jump_worst,
        splice_velocity=status.velocity_jump_worst, delay_s=status.delay_s,
        tick_jitter_p99_s=jitter_s, ticks=status.ticks, missed_ticks=status.missed_ticks,
        joint_names=list(spec.joint_names), tracking_error=status.tracking_error_J.tolist(),
        limit_share=status.limit_activity_J.tolist(), gate_interventions=status.gate_interventions, accepted=accepted,
        refused_reasons=list(refused), refused_counts=list(refused.values()),
    )


# Plans


def chunk_message(chunk: ActionChunk, clock: EdgeClock) -> messages.ActionChunk:
    """A chunk with ROS times."""
    return messages.ActionChunk(
        header=Header(stamp=clock.stamp(chunk.observation_ns)), chunk_id=chunk.chunk_id, epoch=chunk.epoch,
        instruction_id=chunk.instruction_id, contract_hash=chunk.contract_hash, start=clock.stamp(chunk.start_ns),
        step_s=seconds(chunk.step_ns), joint_names=list(chunk.joint_names),
        positions=array("d", np.ascontiguousarray(chunk.positions_KJ, dtype="<f8").tobytes()),
    )


def chunk_of(message: messages.ActionChunk, clock: EdgeClock) -> ActionChunk:
    """A chunk with local times. Values are checked where plans are merged; here only that they form a table."""
    joints, count = len(message.joint_names), len(message.positions)
    if joints == 0 or count == 0 or count % joints:
        raise InputError("action chunk", "positions are not rows of joints", got=count, expected=f"rows of {joints}")
    if not message.step_s <= LONGEST_STEP_S or nanoseconds(message.step_s) < 1:
        raise InputError("action chunk", "step is wrong", got=message.step_s, expected=f"0 to {LONGEST_STEP_S} s")
    return ActionChunk(
        chunk_id=message.chunk_id, epoch=message.epoch, instruction_id=message.instruction_id,
        observation_ns=clock.local_ns(message.header.stamp), start_ns=clock.local_ns(message.start),
        step_ns=nanoseconds(message.step_s), joint_names=tuple(message.joint_names),
        positions_KJ=np.asarray(message.positions, dtype=np.float64).reshape(-1, joints),
        contract_hash=message.contract_hash,
    )


def value_map_message(value: ValueMap, chunk: ActionChunk, clock: EdgeClock) -> messages.ValueMap:
    """A value map and the plan that it belongs to."""
    events, rows, cols = value.values_EHW.shape
    return messages.ValueMap(
        header=Header(stamp=clock.stamp(value.observation_ns), frame_id="canvas"), chunk_id=chunk.chunk_id,
        epoch=chunk.epoch, layout_hash=value.layout_hash, stride_px=value.stride_px,
        rows=rows, cols=cols, events=events,
        values=array("f", np.ascontiguousarray(value.values_EHW, dtype="<f4").tobytes()),
        landing=[
            messages.LandingPoint(
                camera=point.camera, event=point.event, u_px=point.u_px, v_px=point.v_px, confidence=point.confidence
            )
            for point in value.landing
        ],
    )


def value_map_of(message: messages.ValueMap, clock: EdgeClock) -> ValueMap:
    """Inverse of `value_map_message`."""
    shape = (message.events, message.rows, message.cols)
    if len(message.values) != shape[0] * shape[1] * shape[2]:
        raise InputError("value map", "values do not fill the map", got=len(message.values), expected=shape)
    landing = tuple(
        LandingPoint(point.camera, point.event, point.u_px, point.v_px, point.confidence) for point in message.landing
    )
    values_EHW = np.asarray(message.values, dtype=np.float32).reshape(shape)
    return ValueMap(clock.local_ns(message.header.stamp), message.layout_hash, message.stride_px, values_EHW, landing)
