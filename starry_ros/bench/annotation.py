"""How far value labels lie from where a camera sees the contact: `starry bench annotation`.

The scripted expert plays one episode of every task. At every label a ball is put at the contact in the world and
rendered alone by OpenGL at 640 x 480; its segmented middle is what the camera sees of that point. The label has gone
the whole way instead: contact log, pose of the object at that frame, camera model, canvas, and back to the camera.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass

import numpy as np

from starry_ros.canvas.layout import CanvasLayout, t_pose_layout
from starry_ros.errors import RuntimeUnavailable
from starry_ros.kinematics.backend import mujoco
from starry_ros.report import bench_row
from starry_ros.robot_spec import RobotSpec
from starry_ros.sim.cell import Cell
from starry_ros.sim.experts import make_expert
from starry_ros.sim.motion import TICK_S, Ramp
from starry_ros.sim.tasks import TASKS, evaluation_case, make_check, task_of
from starry_ros.training.annotate import ContactLog, Snapshot, label, targets
from starry_ros.training.annotate import snapshot as take
from starry_ros.types import F64, Record

WIDTH_PX, HEIGHT_PX = 640, 480
SHOT_TICKS = 25
BALL_M = 0.004
BALL_ID = 10**6
"""Above every geom of a cell."""


@dataclass(frozen=True)
class Played:
    """An episode: what its labels need and the state of the physics at every shot, and its contacts."""

    shots: list[Snapshot]
    states: list[mujoco.MjData]
    log: ContactLog


def run(robot: RobotSpec) -> list[Record]:
    """Rows `annotation/<task>`: mean distance in camera pixels; the worst one and the mean of each camera beside it."""
    if os.environ["MUJOCO_GL"] == "disable":
        raise RuntimeUnavailable("annotation", "needs OpenGL", fix="install libegl1, or libosmesa6")
    cameras = tuple(dataclasses.replace(one, width_px=WIDTH_PX, height_px=HEIGHT_PX) for one in robot.cameras)
    spec = dataclasses.replace(robot, cameras=cameras)
    cell, rows = Cell(spec), []
    for task in TASKS:
        found = distances(cell, play(cell, task), task)
        every = np.concatenate(list(found.values()))
        row = bench_row(f"annotation/{task}", float(every.mean()), "px", worst=float(every.max()), labels=len(every))
        rows.append(row | {camera: float(np.mean(px)) if len(px) else None for camera, px in found.items()})
    return rows


def play(cell: Cell, task: str) -> Played:
    """The expert's episode of evaluation seed 0."""
    layout, target, _ = evaluation_case(0, task)
    cell.reset(layout)
    expert, check, ramp, tick = make_expert(task, cell), make_check(task, target), Ramp(cell.spec), 0
    played = Played([], [], ContactLog())
    cameras = t_pose_layout(cell.spec).cameras
    while cell.sim_time_s < task_of(task).time_limit_s:
        scene = expert.look(cell)
        if tick % SHOT_TICKS == 0:
            named = played.log.name(cell, expert.contacts(scene, target))
            played.shots.append(take(cell, cameras, target, expert.stage(scene, target), named))
            played.states.append(mujoco.MjData(cell.model))
            mujoco.mj_copyData(played.states[-1], cell.model, cell.data)
        cell.apply(ramp.toward(cell.command_J, expert.follow(cell.command_J, expert.motion(scene, target))))
        cell.advance(TICK_S)
        played.log.update(cell)
        tick += 1
        if check.update(cell):
            break
    return played


def distances(cell: Cell, played: Played, task: str) -> dict[str, list[float]]:
    """By camera, how far each label in its view lies from the ball at its contact."""
    layout = t_pose_layout(cell.spec)
    labels = label(played.shots, played.log, layout, task)
    found: dict[str, list[float]] = {camera: [] for camera in layout.cameras}
    renderer = mujoco.Renderer(cell.model, HEIGHT_PX, WIDTH_PX)
    renderer.enable_segmentation_rendering()
    for shot, state, row in zip(played.shots, played.states, labels, strict=True):
        for event, (_, point, _) in enumerate(targets(shot, played.log, task)):
            for view, camera in enumerate(layout.cameras):
                seen = ball_middle(renderer, state, camera, point) if row[event, view, 3] else None
                if seen is not None:
                    found[camera].append(float(np.linalg.norm(seen - labelled(layout, camera, row[event, view]))))
    renderer.close()
    return found


def labelled(layout: CanvasLayout, camera: str, fields: np.ndarray) -> F64:
    """A label in pixels [2] of the camera."""
    place: F64 = layout.canvas_to_camera(camera, fields[:2].astype(np.float64))
    return place


def ball_middle(renderer: mujoco.Renderer, state: mujoco.MjData, camera: str, point: F64) -> F64 | None:
    """Middle [2] of a ball at a world point as the camera sees it, alone; None if it does not lie wholly in view."""
    renderer.update_scene(state, camera=camera)
    scene = renderer.scene
    ball = scene.geoms[0]
    size, upright, white = np.full(3, BALL_M), np.eye(3).ravel(), np.ones(4, np.float32)
    mujoco.mjv_initGeom(ball, mujoco.mjtGeom.mjGEOM_SPHERE, size, point, upright, white)
    ball.objtype, ball.objid, ball.segid = mujoco.mjtObj.mjOBJ_GEOM, BALL_ID, 0
    scene.ngeom = 1
    rows, columns = np.nonzero(renderer.render()[..., 0] == BALL_ID)
    if not len(rows) or rows.min() == 0 or columns.min() == 0:
        return None
    if rows.max() == HEIGHT_PX - 1 or columns.max() == WIDTH_PX - 1:
        return None
    return np.array([columns.mean(), rows.mean()])
