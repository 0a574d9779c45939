"""How far value labels lie from where a camera sees the contact: `starry bench annotation`.

The scripted expert plays some episodes of every task, easy and hard, which turns the cameras. At every label a ball is
put into the world where the simulator's contact list says that the contact came, carried to that frame by the object,
and rendered alone by OpenGL at 640 x 480; its segmented middle is what the camera sees of that point. The label has
gone the whole way instead: camera model, canvas, and back to the camera. A contact that something hides from a camera
counts as others do, since it is labelled where it is; one that lies outside the view, or that never came, does not.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from itertools import product

import numpy as np

from starry_ros.canvas.layout import CanvasLayout, t_pose_layout
from starry_ros.errors import RuntimeUnavailable
from starry_ros.kinematics.backend import mujoco
from starry_ros.report import bench_row
from starry_ros.robot_spec import RobotSpec
from starry_ros.sim.cell import Cell
from starry_ros.sim.choices import SETTINGS
from starry_ros.sim.experts import make_expert
from starry_ros.sim.motion import TICK_S, Ramp
from starry_ros.sim.tasks import TASKS, evaluation_case, make_check, task_of
from starry_ros.training.annotate import ContactLog, Snapshot, label, targets
from starry_ros.training.annotate import snapshot as take
from starry_ros.types import F64, Record

WIDTH_PX, HEIGHT_PX = 640, 480
SEEDS = 3
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


@dataclass(frozen=True)
class Distance:
    """How far a label lies from its contact in a camera's pixels, and whether something hides that from the camera."""

    camera: str
    px: float
    hidden: bool


def run(robot: RobotSpec) -> list[Record]:
    """Rows `annotation/<task>/<setting>`: mean distance in camera pixels; beside it the worst one, how many labels of
    how many episodes were measured, how many of them are `hidden`, and the mean of each camera."""
    if os.environ["MUJOCO_GL"] == "disable":
        raise RuntimeUnavailable("annotation", "needs OpenGL", fix="install libegl1, or libosmesa6")
    cameras = tuple(dataclasses.replace(one, width_px=WIDTH_PX, height_px=HEIGHT_PX) for one in robot.cameras)
    spec = dataclasses.replace(robot, cameras=cameras)
    cell, rows = Cell(spec), []
    for task, setting in product(TASKS, SETTINGS):
        found = [one for seed in range(SEEDS) for one in distances(cell, play(cell, task, seed, setting), task)]
        px = [one.px for one in found]
        row = bench_row(f"annotation/{task}/{setting}", float(np.mean(px)), "px", worst=max(px), labels=len(px),
                        episodes=SEEDS, hidden=sum(one.hidden for one in found))
        by_camera = {name: [one.px for one in found if one.camera == name] for name in t_pose_layout(spec).cameras}
        rows.append(row | {name: float(np.mean(px)) if px else None for name, px in by_camera.items()})
    return rows


def play(cell: Cell, task: str, seed: int = 0, setting: str = "easy") -> Played:
    """The expert's episode of an evaluation seed."""
    layout, target, _ = evaluation_case(seed, task, setting)
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


def distances(cell: Cell, played: Played, task: str) -> list[Distance]:
    """How far each label in a camera's view lies from the ball at its contact, if that came. The cell is as played."""
    layout = t_pose_layout(cell.spec)
    labels = label(played.shots, played.log, layout, task)
    found: list[Distance] = []
    renderer = mujoco.Renderer(cell.model, HEIGHT_PX, WIDTH_PX)
    renderer.enable_segmentation_rendering()
    for shot, state, row in zip(played.shots, played.states, labels, strict=True):
        for event, view in np.argwhere(row[..., 3]):
            target, camera = targets(shot, played.log, task)[event], layout.cameras[view]
            seen = ball_middle(renderer, state, camera, target.point) if target.came else None
            if seen is not None:
                px = float(np.linalg.norm(seen - labelled(layout, camera, row[event, view])))
                found.append(Distance(camera, px, hidden=not row[event, view, 4]))
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
