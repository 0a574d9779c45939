"""A planner in the simulated cell that sees more than colour: depth beside it, the hands' paths, or the scene."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from starry_ros.canvas.depth import depth_cells, rgbd_canvas
from starry_ros.canvas.layout import t_pose_layout
from starry_ros.canvas.paths import LENGTH, draw_paths
from starry_ros.errors import ConfigError
from starry_ros.sim.cell import Cell
from starry_ros.sim.choices import LoopConfig
from starry_ros.training.planner_policy import PlannerPolicy
from starry_ros.training.scenes import metres, observe_scene, seen_layout
from starry_ros.types import F64, U8, Canvas, Plan, RobotState
from starry_ros.wam.config import WamConfig
from starry_ros.wam.gasam import Scene, scene_of
from starry_ros.wam.session import Session


class ScenePolicy(PlannerPolicy):
    """A policy of the closed loop. Must plan while the cell is at the instant of the observation."""

    def __init__(self, session: Session, cell: Cell, loop: LoopConfig) -> None:
        super().__init__(session, loop)
        self.cell = cell
        self._layout = t_pose_layout(cell.spec)
        config = session.runtime.config
        if not isinstance(config, WamConfig):
            raise ConfigError("policy", "models of Wan's size see colour alone", got=config.name)
        self._config = config
        self._hash = seen_layout(cell.spec, config.layout).layout_hash
        self._hands: list[tuple[float, F64]] = []

    def reset(self, instruction: str) -> int:
        """Start an episode."""
        self._hands = []
        return super().reset(instruction)

    def plan(self, canvas: Canvas, state: RobotState) -> Plan:
        """Look at the cell's depth, cameras and hands, observe, and plan from it."""
        config, seen = self._config, observe_scene(self.cell, self._layout)
        depth_HW = metres(seen["depth_THW"])
        image = self._with_paths(canvas.image_HWC, seen["hands_TA3"].astype(np.float64))
        image = rgbd_canvas(image, depth_HW) if config.layout == "rgbd" else image
        scene = None if config.geometry is None else self._scene(depth_HW, seen["hands_TA3"], config.geometry.cell_px)
        plan = self._planned(dataclasses.replace(canvas, image_HWC=image, layout_hash=self._hash), state, scene)
        if plan.imagined_HWC is None:
            return plan
        return dataclasses.replace(plan, imagined_HWC=plan.imagined_HWC[:, : self._layout.width_px])

    def _with_paths(self, image_HWC: U8, hands_A3: F64) -> U8:
        """The canvas with the hands' paths, if the model was trained on those."""
        config, now_s = self._config, self.cell.sim_time_s
        if not config.paths:
            return image_HWC
        oldest_s = now_s - 2 * LENGTH * config.step_s
        self._hands = [*((at, hands) for at, hands in self._hands if oldest_s < at < now_s), (now_s, hands_A3)]
        cameras = [self.cell.camera_model(camera) for camera in self._layout.cameras]
        return draw_paths(image_HWC, self._layout, cameras, at_steps(self._hands, config.step_s))

    def _scene(self, depth_HW: np.ndarray, hands_A3: np.ndarray, cell_px: int) -> Scene:
        cells = depth_cells(depth_HW, cell_px)
        columns = self._config.canvas_width_px // cell_px
        cells = np.pad(cells, ((0, 0), (0, columns - cells.shape[1])))
        cameras = [self.cell.camera_model(camera) for camera in self._layout.cameras]
        return scene_of(cells, cameras, hands_A3, self._layout)


def at_steps(hands: Sequence[tuple[float, F64]], step_s: float) -> F64:
    """Positions [T, A, 3] of the hands at the newest time and at up to LENGTH - 1 steps before it, oldest first.

    Training has one a step; plans come more rarely, so that what lies between is interpolated.
    """
    times_N, flat_ND = np.array([at for at, _ in hands]), np.stack([points.ravel() for _, points in hands])
    steps_T = times_N[-1] - step_s * np.arange(LENGTH)[::-1]
    steps_T = steps_T[steps_T > times_N[0] - step_s / 2]
    columns = [np.interp(steps_T, times_N, column) for column in flat_ND.T]
    return np.stack(columns, axis=1).reshape(len(steps_T), *hands[0][1].shape)
