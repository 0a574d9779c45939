"""What a canvas size costs and shows: the figures that the tiny model's size was chosen by.

A row a size for the time of a plan (random weights, PyTorch, one thread) and for each view the millimetres of table
under one canvas pixel, at the middle of the task's region. `baseline` is the robot's own size. Sizes have to be
multiples of the size at which the tiny model's tokens tile both the head view and the wrist views.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from starry_ros.bench.model import LEAST_ROUNDS, PLAN, Subject
from starry_ros.canvas.layout import CanvasLayout, t_pose_layout
from starry_ros.report import bench_row
from starry_ros.robot_spec import RobotSpec
from starry_ros.sim.cell import Cell
from starry_ros.sim.tasks import REGION_X_M, REGION_Y_M, evaluation_case
from starry_ros.types import F64, Record
from starry_ros.wam.autoencoder import Autoencoder, AutoencoderConfig
from starry_ros.wam.config import tiny
from starry_ros.wam.model import WorldActionModel
from starry_ros.wam.runtimes.torch_runtime import torch_runtime

FACTORS = (1, 2)
STEP_M = 0.01
ABOVE_M = 0.10
"""How far above the table a wrist camera's hand is when it looks for its block."""


def run(robot: RobotSpec) -> list[Record]:
    """Rows `canvas_size/<height>x<width>/plan` in ms, and `.../<camera>` in mm of table a pixel."""
    cell, rows = Cell(robot), []
    cell.reset(evaluation_case(0)[0])
    first: dict[str, tuple[float, str]] = {}
    for factor in FACTORS:
        canvas = dataclasses.replace(
            robot.canvas, height_px=factor * robot.canvas.height_px, width_px=factor * robot.canvas.width_px)
        spec = dataclasses.replace(robot, canvas=canvas)
        found = {PLAN: (plan_ms(spec), "ms")} | {
            camera.name: (mm_a_pixel(cell, t_pose_layout(spec), camera.name), "mm") for camera in robot.cameras
        }
        first = first or found
        name = f"canvas_size/{canvas.height_px}x{canvas.width_px}"
        rows += [bench_row(f"{name}/{what}", value, unit, None if found is first else first[what][0])
                 for what, (value, unit) in found.items()]
    return rows


def plan_ms(spec: RobotSpec) -> float:
    """Median time of a plan of the tiny model on this canvas."""
    layout, threads = t_pose_layout(spec), torch.get_num_threads()
    config = tiny(layout, len(spec.joints), spec.action.step_s)
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng():
            model = WorldActionModel(config)
            autoencoder = Autoencoder(AutoencoderConfig(layout.height_px, layout.width_px, config.latent_channels))
        subject = Subject(torch_runtime(model.eval(), autoencoder.eval()))
        for _ in range(LEAST_ROUNDS):
            subject.round()
        return subject.percentile_ms(PLAN, 50)
    finally:
        torch.set_num_threads(threads)


def mm_a_pixel(cell: Cell, layout: CanvasLayout, camera: str) -> float:
    """Millimetres that a pixel covers in front of the camera: on the table, or ABOVE_M below a wrist."""
    model = cell.camera_model(camera)
    table = np.array([np.mean(REGION_X_M), np.mean(REGION_Y_M), 0.0])
    world_to_camera = np.linalg.inv(model.T_world_cam)
    depth_m = float((world_to_camera[:3, :3] @ table + world_to_camera[:3, 3])[2])
    if camera != layout.cameras[0]:
        depth_m = ABOVE_M
    u_px: F64 = layout.camera_to_canvas(camera, [[0.0, 0.0], [model.fx_px * STEP_M / depth_m, 0.0]])[:, 0]
    return 1e3 * STEP_M / float(u_px[1] - u_px[0])
