"""Contacts of a recording that has no simulator: from gripper events, forward kinematics and, where given, depth.

A hand has grasped when its jaw stands still, neither shut nor wide open, while it is told to close further; the contact
is then at the point between its pads. It lets go when that ends. Until its contact an object lies still, so the contact
is carried back over the stage in the world; the cameras move by forward kinematics. This is AIM's labelling (3.5) with
the jaw in place of the simulator's contact list.

Shapes: T frames, J joints in contract order, E = 2 events, V views, F = 5 as in `store`, H x W depth image in m.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starry_ros.canvas.layout import CanvasLayout
from starry_ros.kinematics.robot import RobotKinematics
from starry_ros.robot_spec import RobotSpec
from starry_ros.sim.choices import STAGES
from starry_ros.training.annotate import EVENTS, FIELDS, project
from starry_ros.training.form import Arrays
from starry_ros.types import F32, F64, CameraModel

STILL_SHARE_S = 0.25
"""A jaw that moves slower than this share of its range a second stands still."""
SHUT_SHARE, WIDE_SHARE, PRESS_SHARE = 0.06, 0.9, 0.04
SHORTEST_S, GAP_S = 0.35, 0.25
HANDED_OVER_M = 0.08
DEPTH_TOLERANCE_M = 0.02
DROP_STEPS = 4
EMPTY_SHARE = 0.375
WITH_DEPTH = "labelled_with_depth"
"""Array of an episode whose contacts were labelled with depth, which it does not store."""

DepthAt = Callable[[int, str], "NDArray[np.floating] | None"]
"""Depth image [H, W] in m of a frame and camera at the contract's size, or None."""


@dataclass(frozen=True)
class Grasp:
    """One arm holds something from frame `start` to frame `end` (exclusive)."""

    arm: str
    start: int
    end: int


@dataclass(frozen=True)
class ContactEvent:
    """A contact to come: frame, kind (`pick`, `handover` for a take from the other hand, `place`), world point [3]."""

    frame: int
    kind: str
    point: F64


def grasps(spec: RobotSpec, position_TJ: F32, command_TJ: F32 | None, step_s: float) -> list[Grasp]:
    """When each arm held something, in order of time.

    An arm whose commands are its positions throughout was sent none, or none was recorded: then its jaw alone counts.
    """
    found = []
    for arm in spec.arms:
        part = spec.arm_slice(arm.name)
        jaw = part.stop - 1
        lower, upper = arm.joints[-1].lower, arm.joints[-1].upper
        share_T = (position_TJ[:, jaw].astype(np.float64) - lower) / (upper - lower)
        speed_T = np.abs(np.gradient(share_T, step_s)) if len(share_T) > 1 else np.zeros_like(share_T)
        holds_T = (speed_T < STILL_SHARE_S) & (share_T > SHUT_SHARE) & (share_T < WIDE_SHARE)
        if command_TJ is not None and not np.array_equal(command_TJ[:, part], position_TJ[:, part]):
            told_T = (command_TJ[:, jaw].astype(np.float64) - lower) / (upper - lower)
            holds_T &= told_T < share_T - PRESS_SHARE
        found += [Grasp(arm.name, start, end) for start, end in _spans(holds_T, step_s)]
    return sorted(found, key=lambda grasp: grasp.start)


def _spans(holds_T: NDArray[np.bool_], step_s: float) -> list[tuple[int, int]]:
    """Runs of True, short gaps closed, short runs dropped."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], holds_T.astype(np.int8), [0]])))
    spans: list[tuple[int, int]] = []
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if spans and (start - spans[-1][1]) * step_s < GAP_S:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return [(start, end) for start, end in spans if (end - start) * step_s >= SHORTEST_S]


def contact_events(
    robot: RobotKinematics, position_TJ: F32, held: Sequence[Grasp], depth_at: DepthAt | None = None
) -> list[ContactEvent]:
    """The contacts of an episode in order: grasps, takes, and places. A grasp that lasts to the end has no place."""
    events = []
    for grasp in held:
        giver = _other_holder(robot, position_TJ, held, grasp, grasp.start)
        point = _hand(robot, position_TJ[grasp.start], grasp.arm)
        events.append(ContactEvent(grasp.start, "handover" if giver else "pick", point))
        if grasp.end < len(position_TJ) and not _other_holder(robot, position_TJ, held, grasp, grasp.end - 1):
            point = _hand(robot, position_TJ[grasp.end - 1], grasp.arm)
            if depth_at is not None:
                point = dropped(robot, position_TJ, grasp, point, depth_at)
            events.append(ContactEvent(grasp.end, "place", point))
    return sorted(events, key=lambda event: event.frame)


def _hand(robot: RobotKinematics, position_J: F32, arm: str) -> F64:
    robot.place(position_J.astype(np.float64))
    return robot.hand(arm)


def _other_holder(
    robot: RobotKinematics, position_TJ: F32, held: Sequence[Grasp], grasp: Grasp, frame: int
) -> Grasp | None:
    """Another arm's grasp in force at `frame` with its hand close by."""
    here = _hand(robot, position_TJ[frame], grasp.arm)
    for other in held:
        if other.arm != grasp.arm and other.start <= frame <= other.end and other.start != grasp.start:
            there = _hand(robot, position_TJ[min(frame, other.end - 1)], other.arm)
            if float(np.linalg.norm(there - here)) < HANDED_OVER_M:
                return other
    return None


def dropped(robot: RobotKinematics, position_TJ: F32, grasp: Grasp, point: F64, depth_at: DepthAt) -> F64:
    """`point` moved straight down onto the surface that the cameras saw under it before the hand came."""
    robot.place(position_TJ[max(0, grasp.start - 1)].astype(np.float64))
    for camera in robot.spec.cameras:
        depth = depth_at(max(0, grasp.start - 1), camera.name)
        if depth is None:
            continue
        model, here = robot.camera(camera.name), point.copy()
        for _ in range(DROP_STEPS):
            seen = surface(model, here, depth)
            if seen is None:
                break
            here[2] = min(float(point[2]), float(seen[2]))
        else:
            return here
    return point


def surface(camera: CameraModel, point: F64, depth_HW: NDArray[np.floating]) -> F64 | None:
    """World position [3] of what the camera sees in the pixel of `point`; None outside its view or without depth."""
    u_px, v_px, depth_m = to_camera(camera, point)
    if depth_m <= 0 or not (-0.5 <= u_px < camera.width_px - 0.5 and -0.5 <= v_px < camera.height_px - 0.5):
        return None
    seen_m = float(depth_HW[round(v_px), round(u_px)])
    if not np.isfinite(seen_m) or seen_m <= 0:
        return None
    ray = np.array([(u_px - camera.cx_px) / camera.fx_px, (v_px - camera.cy_px) / camera.fy_px, 1.0])
    pose = camera.T_world_cam
    seen: F64 = pose[:3, :3] @ (ray * seen_m) + pose[:3, 3]
    return seen


def to_camera(camera: CameraModel, point: F64) -> tuple[float, float, float]:
    """Pixel (u, v) and depth in m of a world point; the pixel is meaningless behind the camera."""
    x, y, z = camera.T_world_cam[:3, :3].T @ (point - camera.T_world_cam[:3, 3])
    scale = max(abs(float(z)), 1e-9)
    return camera.fx_px * x / scale + camera.cx_px, camera.fy_px * y / scale + camera.cy_px, float(z)


def label_frames(
    robot: RobotKinematics, layout: CanvasLayout, position_TJ: F32, events: Sequence[ContactEvent],
    depth_at: DepthAt | None = None,
) -> F32:
    """Labels [T, E, V, F]: the next contacts in every view. Without depth a contact in view counts as visible."""
    labels = np.zeros((len(position_TJ), EVENTS, len(layout.cameras), FIELDS), dtype=np.float32)
    for frame, row in enumerate(labels):
        robot.place(position_TJ[frame].astype(np.float64))
        coming = [event for event in events if event.frame > frame][:EVENTS]
        for view, name in enumerate(layout.cameras):
            camera = robot.camera(name)
            depth = depth_at(frame, name) if depth_at is not None else None
            for slot, event in enumerate(coming):
                row[slot, view] = project(event.point, camera, layout, _visible(camera, event.point, depth))
    return labels


def _visible(camera: CameraModel, point: F64, depth_HW: NDArray[np.floating] | None) -> bool:
    """Whether nothing lies clearly before the point."""
    if depth_HW is None:
        return True
    seen = surface(camera, point, depth_HW)
    return seen is not None and to_camera(camera, seen)[2] > to_camera(camera, point)[2] - DEPTH_TOLERANCE_M


def stages(frames: int, events: Sequence[ContactEvent]) -> tuple[NDArray[np.int8], F32]:
    """Stage [T], the kind of the next contact, and progress [T]: 0 at the start, 1 once the last contact has come."""
    stage = np.full(frames, STAGES.index("done"), dtype=np.int8)
    progress = np.ones(frames, dtype=np.float32)
    begin = 0
    for number, event in enumerate(events):
        end = max(begin, min(frames, event.frame))
        stage[begin:end] = STAGES.index(event.kind)
        progress[begin:end] = (number + np.arange(end - begin) / max(1, end - begin)) / len(events)
        begin = end
    return stage, progress


def empty_closed(spec: RobotSpec, position_TJ: F32, held: Sequence[Grasp]) -> NDArray[np.bool_]:
    """Frames [T] in which some jaw is nearly closed and holds nothing."""
    empty = np.zeros(len(position_TJ), dtype=bool)
    for arm in spec.arms:
        jaw, gripper = spec.arm_slice(arm.name).stop - 1, arm.joints[-1]
        closed = position_TJ[:, jaw] < gripper.lower + EMPTY_SHARE * (gripper.upper - gripper.lower)
        for grasp in held:
            if grasp.arm == arm.name:
                closed[grasp.start : grasp.end] = False
        empty |= closed
    return empty


def future_plan(position_TJ: F32, command_TJ: F32, steps: int) -> F32:
    """Plans [T, K, J] from what was done: step k is the command k + 1 frames on; the end of the episode is held."""
    later = np.minimum(np.arange(len(command_TJ))[:, None] + 1 + np.arange(steps), len(command_TJ) - 1)
    plan: F32 = command_TJ[later].astype(np.float32)
    return plan


def annotate(
    robot: RobotKinematics, layout: CanvasLayout, arrays: Arrays, depth_at: DepthAt | None = None,
    trust_command: bool = True,
) -> Arrays:
    """The episode with events, stage, progress and empty jaws from joints (and depth) alone."""
    position, step_s = arrays["position_TJ"].astype(np.float32), robot.spec.action.step_s
    command = arrays["command_TJ"].astype(np.float32) if trust_command else None
    held = grasps(robot.spec, position, command, step_s)
    events = contact_events(robot, position, held, depth_at)
    stage, progress = stages(len(position), events)
    depth = {} if depth_at is None else {WITH_DEPTH: np.array(True)}
    return {
        **arrays, **depth, "events_TEVF": label_frames(robot, layout, position, events, depth_at), "stage_T": stage,
        "progress_T": progress, "empty_closed_T": empty_closed(robot.spec, position, held),
    }
