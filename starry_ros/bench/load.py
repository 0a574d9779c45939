"""What a robot's computer does besides control: cameras rendered and plans made, in processes of their own."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.canvas.pack import CanvasPacker
from starry_ros.errors import StarryError
from starry_ros.paths import model_dir
from starry_ros.robot_spec import RobotSpec
from starry_ros.sim.cell import Cell
from starry_ros.sim.loop import observe
from starry_ros.timing import NS_PER_S, nanoseconds
from starry_ros.wam.load import load_session
from starry_ros.wam.planner import Planner, PlannerConfig

PLANNER_NICENESS = 5
"""As `world_action` runs."""
READY_S = 180.0


def cameras(robot: RobotSpec, counted: Any, ended: Any) -> None:
    """Render all cameras at their rate until the end; `counted` counts the rounds."""
    cell = Cell(robot)
    while not ended.wait(_rest_s(1 / robot.rates.camera_hz)):
        cell.advance(0.01)
        for camera in robot.cameras:
            cell.render(camera.name)
        counted.value += 1
    cell.close()


def plans(robot: RobotSpec, model: str, counted: Any, ended: Any) -> None:
    """Observe and plan at the planner's rate until the end; `counted` counts the plans."""
    os.nice(PLANNER_NICENESS)
    cell, session = Cell(robot), load_session(model_dir(model), robot)
    canvas = observe(cell, CanvasPacker(t_pose_layout(robot)), NS_PER_S)
    state, now_ns = cell.state(NS_PER_S), NS_PER_S
    planner = Planner(session)
    planner.reset("put the red block on the pad")
    while not ended.wait(_rest_s(PlannerConfig.replan_s)):
        now_ns += nanoseconds(PlannerConfig.replan_s)
        planner.observe(replace(canvas, stamp_ns=now_ns), replace(state, stamp_ns=now_ns))
        planner.plan(now_ns)
        counted.value += 1
    cell.close()


def _rest_s(period_s: float) -> float:
    """Until the next multiple of a period."""
    return period_s - time.monotonic() % period_s


@contextmanager
def beside(robot: RobotSpec, model: str) -> Iterator[dict[str, Any]]:
    """Both at work; counts of `frames` and `plans` so far. Raises StarryError when one does not start or ends early."""
    context = get_context("spawn")
    ended, counts = context.Event(), {"frames": context.Value("l", 0), "plans": context.Value("l", 0)}
    processes = [
        context.Process(target=cameras, args=(robot, counts["frames"], ended), daemon=True),
        context.Process(target=plans, args=(robot, model, counts["plans"], ended), daemon=True),
    ]
    try:
        for process in processes:
            process.start()
        begin_s = time.monotonic()
        while not all(count.value for count in counts.values()):
            if time.monotonic() - begin_s > READY_S or not all(process.is_alive() for process in processes):
                raise StarryError("bench control", "cameras and planner beside the loops did not start")
            time.sleep(0.1)
        yield counts
        if not all(process.is_alive() for process in processes):
            raise StarryError("bench control", "cameras or planner beside the loops ended early")
    finally:
        ended.set()
        for process in processes:
            process.join(10.0)
            process.kill()
