"""Two arms that follow rules of their own side by side: what the experts of two-arm tasks have in common.

Shapes: J = joints in contract order, K = plan steps, A = 6 arm joints.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from starry_ros.sim.cell import Cell
from starry_ros.sim.expert_place import OPEN_M, TICK_S, Motion, PlaceExpert, Ramp, Scene, limited, toward
from starry_ros.types import F64

ARMS = ("left", "right")
Motions = dict[str, Motion]


class PairExpert(ABC):
    """A rule for both arms. A task's expert gives `look`, `stage`, `motion`, `imagine` and `contacts`."""

    arm = "right"

    def __init__(self, cell: Cell) -> None:
        spec = cell.spec
        self.arms = {arm: PlaceExpert(cell, arm) for arm in ARMS}
        self.slices = {arm: spec.arm_slice(arm) for arm in ARMS}
        self.kinematics = self.arms[self.arm].kinematics
        self._spec, self._home_J = spec, spec.limit("home")
        self._lower_J, self._upper_J = spec.limit("lower"), spec.limit("upper")

    @abstractmethod
    def look(self, cell: Cell) -> Any:
        """The scene in the task's own terms."""

    @abstractmethod
    def motion(self, scene: Any, colour: str) -> Motions:
        """The rule."""

    @abstractmethod
    def imagine(self, scene: Any, command_J: F64) -> Any:
        """The scene one tick on."""

    def empty_jaw(self, scene: Any, pinch: F64) -> bool:
        """Whether a jaw is closed on nothing: not looked at here."""
        return False

    def follow(self, command_J: F64, motion: Motions) -> F64:
        """Targets [J] one tick after `command_J`, not ramped."""
        target = command_J.copy()
        for arm, part in self.slices.items():
            target[part][:-1] += TICK_S * motion[arm].velocity_A
            target[part][-1] = toward(command_J[part][-1], motion[arm].jaw_goal_m)
        return np.clip(target, self._lower_J, self._upper_J)

    def plan(self, cell: Cell, colour: str) -> F64:
        """The next positions [K, J], the first one step ahead, from a kinematic roll-out of the present state."""
        scene, command, ramp, action = self.look(cell), cell.command_J, Ramp(self._spec), self._spec.action
        steps = np.empty((action.chunk_steps, len(command)))
        for k in range(action.chunk_steps):
            for _ in range(round(action.step_s / TICK_S)):
                command = ramp.toward(command, self.follow(command, self.motion(scene, colour)))
                scene = self.imagine(scene, command)
            steps[k] = command
        return steps

    def go_home(self, arm: str, scene: Scene) -> Motion:
        """Straight up first, then home, jaw open."""
        pinch = self.arms[arm].kinematics.pinch(scene.arm_A)
        home = self._home_J[self.slices[arm]][:-1]
        up = float(np.clip((pinch[2] - 0.09) / 0.05, 0.0, 1.0))
        if up >= 1.0:
            return Motion(limited(home - scene.arm_A), OPEN_M)
        yaw = float(scene.arm_A[0] - scene.arm_A[5])
        goal = self.arms[arm].kinematics.solve_down(float(pinch[0]), float(pinch[1]), 0.15, yaw)
        return Motion(limited((1 - up) * goal + up * home - scene.arm_A), OPEN_M)

    def still(self, arm: str, jaw_m: float) -> Motion:
        """Stand, with the jaw going to `jaw_m`."""
        return Motion(np.zeros(6), jaw_m)

    def over(self, arm: str, scene: Scene, point: F64, yaw_rad: float, lowest_m: float, jaw_m: float) -> Motion:
        """Down the funnel of `PlaceExpert` onto a point."""
        rule = self.arms[arm]
        pinch = rule.kinematics.pinch(scene.arm_A)
        error = float(np.hypot(*(point[:2] - pinch[:2])))
        height = funnel(error, lowest_m)
        return Motion(rule.toward_point(scene, pinch, float(point[0]), float(point[1]), height, yaw_rad), jaw_m)


def funnel(error_m: float, lowest_m: float, clearance_m: float = 0.035) -> float:
    """Height of a hand over its goal: low when it is above it, `clearance_m` higher near it, high further off."""
    heights = (lowest_m, lowest_m + clearance_m, max(lowest_m + 0.05, 0.15))
    return float(np.interp(error_m, (0.005, 0.022, 0.07), heights))
