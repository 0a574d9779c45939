"""Two arms that follow rules of their own side by side: what the experts of two-arm tasks have in common.

Shapes: J = joints in contract order, K = plan steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import numpy as np

from starry_ros.sim.cell import Cell
from starry_ros.sim.expert_place import PlaceExpert, Scene
from starry_ros.sim.motion import TICK_S, Motion, funnel, roll_out, to_go_s, toward
from starry_ros.sim.task import NextContact
from starry_ros.types import F64

ARMS = ("left", "right")
Motions = dict[str, Motion]
"""What an expert wants of each arm."""
S = TypeVar("S")
"""What an expert looks at."""


class PairExpert(ABC, Generic[S]):
    """An `experts.Expert` of both arms: a task gives the scene, its stages, the rule, and how the scene goes on.

    `arms` are the rules of one arm that a task may build on; `arm` is the one that picks.
    """

    arm = "right"

    def __init__(self, cell: Cell) -> None:
        spec = cell.spec
        self.arms = {arm: PlaceExpert(cell, arm) for arm in ARMS}
        self.slices = {arm: spec.arm_slice(arm) for arm in ARMS}
        self.kinematics = self.arms[self.arm].kinematics
        self._lower_J, self._upper_J = spec.limit("lower"), spec.limit("upper")

    @abstractmethod
    def look(self, cell: Cell) -> S:
        """Read the cell's ground truth."""

    @abstractmethod
    def stage(self, scene: S, colour: str) -> str:
        """`pick`, `handover`, `place` or `done`."""

    @abstractmethod
    def motion(self, scene: S, colour: str) -> Motions:
        """The rule: present scene and what the sentence names to the motion of both arms."""

    @abstractmethod
    def imagine(self, scene: S, command_J: F64) -> S:
        """The scene one tick on."""

    def contacts(self, scene: S, colour: str) -> list[NextContact] | None:
        """What will be touched next, in order; None: the log of contacts finds that out by itself."""
        return None

    def empty_jaw(self, scene: S, pinch: F64) -> bool:
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
        return roll_out(self, self.imagine, cell, colour)

    def to_go_s(self, cell: Cell, colour: str, most_s: float) -> float:
        """Seconds to the end of such a roll-out, at most `most_s`."""
        return to_go_s(self, self.imagine, cell, colour, most_s)

    def go_home(self, arm: str, scene: Scene) -> Motion:
        """Straight up first, clear of what stands on the table, then home, jaw open."""
        return self.arms[arm].go_home(scene, 0.09, 0.05, 0.15)

    def over(self, arm: str, scene: Scene, point: F64, yaw_rad: float, lowest_m: float, jaw_m: float) -> Motion:
        """Down the funnel onto a point."""
        rule = self.arms[arm]
        pinch = rule.kinematics.pinch(scene.arm_A)
        height = funnel(float(np.hypot(*(point[:2] - pinch[:2]))), lowest_m)
        return Motion(rule.toward_point(scene, pinch, float(point[0]), float(point[1]), height, yaw_rad), jaw_m)
