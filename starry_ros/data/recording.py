"""One recorded episode on its way in: any rate, any camera size; `to_episode` brings it to the form of `store`.

Shapes: T frames as recorded, J joints in contract order, h w = a view's size on the canvas, H W = a camera's size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from starry_ros.canvas.layout import CanvasLayout, t_pose_layout
from starry_ros.canvas.pack import CanvasPacker
from starry_ros.data.calibration import CALIBRATION, calibration_array
from starry_ros.data.contacts import DepthAt, annotate, future_plan
from starry_ros.data.depth import DepthTrack
from starry_ros.errors import ContractError, DataError
from starry_ros.kinematics.robot import RobotKinematics, check_aspect
from starry_ros.robot_spec import RobotSpec
from starry_ros.training.form import Arrays, frame_names
from starry_ros.types import F32, F64, U8, CameraModel

POSITION_SLACK, COMMAND_SLACK = 0.05, 0.25
"""Shares of a joint's range beyond its limits. A jaw that presses is told to close further than it can, and what it
holds may force it open: its positions get the slack of commands."""
AWAY_SHARE, NEARER = 0.03, 0.5
"""Commands farther than this share of the joints' ranges from the joints, on average, are no targets if they are this
much nearer to zero or to the velocities."""
GRID_TOLERANCE_S = 0.004
"""Times this near to the model's are the model's: single precision and jitter lose no frame."""


@dataclass(frozen=True)
class Recording:
    """`views` hold each camera shrunk to its place on the canvas; `depths` those of cameras that have any.

    `command_TJ` may be unknown. `calibration` is as recorded, of any size.
    `known` are arrays of `store` that came with the recording, such as value labels; they are kept as they are.
    """

    where: str
    time_s_T: F64
    views: dict[str, U8]
    position_TJ: F32
    texts: Sequence[str]
    command_TJ: F32 | None = None
    velocity_TJ: F32 | None = None
    depths: dict[str, DepthTrack] = field(default_factory=dict)
    calibration: dict[str, CameraModel] = field(default_factory=dict)
    known: Arrays = field(default_factory=dict)


class Shrinker:
    """Images of any size to the view's size on the canvas, by the packer that serving uses; depth to the contract's."""

    def __init__(self, spec: RobotSpec) -> None:
        self._spec, self._layout = spec, t_pose_layout(spec)
        self._packers: dict[tuple[str, tuple[int, ...]], CanvasPacker] = {}

    def shrink(self, where: str, camera: str, image_HWC: U8) -> U8:
        """The view [h, w, 3]; an image that has this size already stays as it is. DataError on another aspect."""
        content = self._layout.tile(camera).content
        if image_HWC.shape[:2] == (content.height_px, content.width_px):
            return image_HWC
        key = camera, image_HWC.shape
        if key not in self._packers:
            self._packers[key] = self._packer(where, camera, *image_HWC.shape[:2])
        view: U8 = self._packers[key].pack_images({camera: image_HWC})[content.slices]
        return view.copy()

    def sample(self, where: str, camera: str, depth_HW: F32) -> F32:
        """Depth [H, W] at the contract's size: sampled, for a mean across an edge is a distance at which nothing is.

        DataError on another aspect.
        """
        spec, (height_px, width_px) = self._spec.camera(camera), depth_HW.shape
        check_aspect(where, "depth", spec, width_px, height_px)
        size = spec.width_px, spec.height_px
        sampled: F32 = np.asarray(cv2.resize(depth_HW, size, interpolation=cv2.INTER_NEAREST_EXACT))
        return sampled

    def _packer(self, where: str, camera: str, height_px: int, width_px: int) -> CanvasPacker:
        check_aspect(where, "image", self._spec.camera(camera), width_px, height_px)
        cameras = tuple(
            dataclasses.replace(one, width_px=width_px, height_px=height_px) if one.name == camera else one
            for one in self._spec.cameras
        )
        return CanvasPacker(t_pose_layout(dataclasses.replace(self._spec, cameras=cameras)))


def views_of(canvas_THWC: U8, layout: CanvasLayout) -> dict[str, U8]:
    """Each camera's part of the canvases: what `Recording.views` holds."""
    return {tile.camera: canvas_THWC[(slice(None), *tile.content.slices)] for tile in layout.tiles}


def canvases_of(views: dict[str, U8], layout: CanvasLayout) -> U8:
    """Inverse of `views_of`: canvases [T, H, W, 3], black where there is no view."""
    frames = len(next(iter(views.values())))
    canvas = np.zeros((frames, layout.height_px, layout.width_px, 3), dtype=np.uint8)
    for tile in layout.tiles:
        canvas[(slice(None), *tile.content.slices)] = views[tile.camera]
    return canvas


def to_episode(recording: Recording, spec: RobotSpec, kind: str = "recorded") -> Arrays:
    """The episode at the model's rate with all labels. DataError names the recording and what is wrong with it."""
    _check(recording, spec)
    if "events_TEVF" not in recording.known or "plan_TKJ" not in recording.known:
        recording = resampled(recording, spec.action.step_s)
    if len(recording.time_s_T) < 2:
        raise DataError(recording.where, "is shorter than two frames at the model's rate", got=len(recording.time_s_T))
    layout, command = t_pose_layout(spec), recording.command_TJ
    plain = command if command is not None else _next(recording.position_TJ)
    texts = list(dict.fromkeys(recording.texts))
    arrays: Arrays = {
        "canvas_THWC": canvases_of(recording.views, layout), "position_TJ": recording.position_TJ,
        "velocity_TJ": _velocity(recording), "command_TJ": plain,
        "plan_TKJ": future_plan(recording.position_TJ, plain, spec.action.chunk_steps),
        "time_s_T": (recording.time_s_T - recording.time_s_T[0]).astype(np.float32),
        "text_T": np.array([texts.index(text) for text in recording.texts], dtype=np.int32),
        "texts": np.array(texts), "kind": np.array(kind), "failed": np.array(0),
    }
    if recording.calibration:
        arrays[CALIBRATION] = calibration_array(spec, recording.calibration)
    if not {"events_TEVF", "stage_T", "empty_closed_T"} <= set(recording.known):
        robot = RobotKinematics(spec, recording.calibration)
        arrays = annotate(robot, layout, arrays, _depth_at(recording), trust_command=command is not None)
    return {**arrays, **recording.known}


def _depth_at(recording: Recording) -> DepthAt | None:
    def depth_at(frame: int, camera: str) -> F32 | None:
        track = recording.depths.get(camera)
        return None if track is None else track.at(frame)

    return depth_at if recording.depths else None


def _check(recording: Recording, spec: RobotSpec) -> None:
    where, joints = recording.where, len(spec.joints)
    missing = sorted({camera.name for camera in spec.cameras} - set(recording.views))
    if missing:
        raise DataError(where, f"lacks cameras {missing}", got=sorted(recording.views),
                        fix="record every camera of the contract under its name there")
    for name, array in (("joint positions", recording.position_TJ), ("commands", recording.command_TJ)):
        if array is None:
            continue
        if array.shape[1:] != (joints,):
            raise DataError(where, f"has {name} of another width", got=array.shape[1:], expected=joints)
        bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
        if len(bad):
            raise DataError(where, f"has non-finite {name}, first in frame {bad[0]}")
    times = recording.time_s_T
    if len(times) < 2 or not (np.diff(times) > 0).all():
        raise DataError(where, "has fewer than two frames, or times that do not increase", got=f"{len(times)} frames")
    if not recording.known:  # else this project wrote it for this robot: order, sign and unit are right
        _check_ranges(recording, spec)


def _check_ranges(recording: Recording, spec: RobotSpec) -> None:
    """DataError if joints or commands are not where the contract's can be."""
    jaws = np.isin(np.arange(len(spec.joints)), spec.gripper_indices)
    slack_J = np.where(jaws, COMMAND_SLACK, POSITION_SLACK)
    _check_limits(recording.where, "joint", recording.position_TJ, slack_J, spec)
    if recording.command_TJ is not None:
        _check_targets(recording, recording.command_TJ, spec)
        _check_limits(recording.where, "the command for joint", recording.command_TJ, COMMAND_SLACK, spec)


def _check_limits(where: str, what: str, rows_TJ: F32, slack_share: float | F64, spec: RobotSpec) -> None:
    lower, upper = spec.limit("lower"), spec.limit("upper")
    slack = slack_share * (upper - lower)
    outside = (rows_TJ < lower - slack) | (rows_TJ > upper + slack)
    if outside.any():
        joint = int(np.flatnonzero(outside.any(axis=0))[0])
        values = rows_TJ[:, joint]
        raise DataError(
            where, f"{what} {spec.joint_names[joint]} leaves the contract's limits",
            got=f"{values.min():.3g} to {values.max():.3g}", expected=f"{lower[joint]:.3g} to {upper[joint]:.3g}",
            fix="check joint order, sign and unit; for LeRobot data --degrees and --gripper-range convert units",
        )


def _check_targets(recording: Recording, command_TJ: F32, spec: RobotSpec) -> None:
    """DataError if the commands look like differences or velocities. Grippers say little: their zero is a target."""
    joints = [i for i in range(len(spec.joints)) if i not in spec.gripper_indices]
    span = (spec.limit("upper") - spec.limit("lower"))[joints]

    def apart(rows_TJ: F32 | float) -> float:
        return float((np.abs(command_TJ - rows_TJ)[:, joints] / span).mean())

    from_joints, from_zero, from_velocity = apart(recording.position_TJ), apart(0.0), apart(_velocity(recording))
    if from_joints > AWAY_SHARE and min(from_zero, from_velocity) < NEARER * from_joints:
        kind = "velocities" if from_velocity < from_zero else "differences or velocities: they stay near zero"
        raise DataError(
            recording.where, f"its actions look like {kind}, while the joints are elsewhere",
            got=f"actions {from_joints:.1%} of the joints' ranges away from the joints, {from_zero:.1%} from zero, "
            f"{from_velocity:.1%} from the velocities",
            expected="absolute joint positions as actions",
            fix="write positions as actions, or leave actions out: then the joints themselves are learned",
        )


def resampled(recording: Recording, step_s: float) -> Recording:
    """The recording at times 0, step, 2 step, ...: joints interpolated, images and sentences the latest at that time.

    A recording that has these times already is returned as it is.
    """
    times = recording.time_s_T - recording.time_s_T[0]
    count = int((times[-1] + GRID_TOLERANCE_S) / step_s) + 1
    grid: F64 = np.arange(count, dtype=np.float64) * step_s
    if len(times) == count and np.abs(times - grid).max() <= GRID_TOLERANCE_S:
        return recording
    latest = np.clip(np.searchsorted(times, grid + GRID_TOLERANCE_S, side="right") - 1, 0, len(times) - 1)

    def blend(array: F32 | None) -> F32 | None:
        if array is None:
            return None
        return np.column_stack([np.interp(grid, times, column) for column in array.T]).astype(np.float32)

    position = blend(recording.position_TJ)
    if position is None:
        raise ContractError(recording.where, "has no joints")
    return dataclasses.replace(
        recording, time_s_T=grid, position_TJ=position, command_TJ=blend(recording.command_TJ),
        velocity_TJ=blend(recording.velocity_TJ), texts=[recording.texts[int(i)] for i in latest],
        views={name: view[latest] for name, view in recording.views.items()},
        depths={name: depth.taken(latest) for name, depth in recording.depths.items()},
        known={name: array[latest] if name in frame_names(recording.known) else array
               for name, array in recording.known.items()},
    )


def _velocity(recording: Recording) -> F32:
    if recording.velocity_TJ is not None:
        return recording.velocity_TJ
    velocity: F32 = np.gradient(recording.position_TJ, recording.time_s_T, axis=0).astype(np.float32)
    return velocity


def _next(position_TJ: F32) -> F32:
    """Without commands, a frame's target is where the joints are (nothing better is known)."""
    return position_TJ.copy()
