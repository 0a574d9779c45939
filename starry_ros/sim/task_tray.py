"""`lift_tray`: both arms take the tray by its handles and lift it together, level, with a block on it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from starry_ros.sim.cell import BlockPose, Cell, Layout
from starry_ros.sim.choices import COLOURS
from starry_ros.sim.expert_place import Scene, quarter_yaw
from starry_ros.sim.motion import CLOSED_M, OPEN_M, Motion, hand_yaw, still
from starry_ros.sim.pair import ARMS, Motions, PairExpert
from starry_ros.sim.task import NextContact, Settled, Task
from starry_ros.types import F64

TRAY_X_M, TRAY_Y_M, TRAY_YAW_RAD = (0.08, 0.20), (-0.03, 0.03), math.radians(10)
GRASP_ABOVE_M = 0.010
LIFTED_M, LIFT_TO_M, LEVEL_RAD = 0.08, 0.13, math.radians(10)
STEP_M = 0.012
ASIDE_M = ((0.34, -0.26), (0.34, 0.26))


def draw(rng: np.random.Generator, target: str) -> Layout:
    """The tray, one block on it, two aside."""
    x, y, yaw = rng.uniform(*TRAY_X_M), rng.uniform(*TRAY_Y_M), rng.uniform(-TRAY_YAW_RAD, TRAY_YAW_RAD)
    on_tray = str(rng.choice(COLOURS))
    ahead, aside = rng.uniform(-0.03, 0.03), rng.uniform(-0.035, 0.035)
    cos, sin = math.cos(yaw), math.sin(yaw)
    cargo = BlockPose(float(x + ahead * cos - aside * sin), float(y + ahead * sin + aside * cos), float(yaw))
    rest = iter(ASIDE_M)
    blocks = {colour: cargo if colour == on_tray else BlockPose(*next(rest), 0.0) for colour in COLOURS}
    tray = {"tray": BlockPose(float(x), float(y), float(yaw))}
    return Layout(blocks, 0.38, 0.0, "cell+tray", tray, {on_tray: 0.008})


class TrayCheck:
    """The tray is up and level in both hands, its block on it, for half a second.

    Two arms that hold one thing pull at it: often one finger of each hand carries its handle, and the other hardly
    touches it.
    """

    def __init__(self, target: str) -> None:
        self.colour, self._settled = target, Settled()

    def update(self, cell: Cell) -> bool:
        """Look at the cell."""
        position, rotation = cell.body_pose("tray")
        level = rotation[2, 2] > math.cos(LEVEL_RAD)
        carried = all(cell.touches(arm, f"handle_{arm}") for arm in ARMS)
        loaded = any(_on_tray(cell.block_position(colour), position, rotation) for colour in COLOURS)
        return self._settled.update(cell, bool(position[2] > LIFTED_M and level and carried and loaded))


def _on_tray(block: F64, tray: F64, rotation: F64) -> bool:
    x, y, z = rotation.T @ (block - tray)
    return bool(abs(x) < 0.07 and abs(y) < 0.08 and 0.0 < z < 0.05)


@dataclass(frozen=True)
class Tray:
    """Both arms, the places of the handles, the tray's yaw, and which hands grip."""

    arms: dict[str, Scene]
    handles: dict[str, F64]
    yaw: float
    grips: dict[str, bool]
    tray_z: float

    @property
    def held(self) -> str | None:
        """`tray` once both hands grip."""
        return "tray" if all(self.grips.values()) else None

    @property
    def blocks(self) -> dict[str, tuple[F64, float]]:
        """The tray stands in for a block."""
        return {"tray": (np.mean(list(self.handles.values()), axis=0), self.yaw)}


class TrayExpert(PairExpert[Tray]):
    """Each hand over its handle and down; both close when both are there; both rise together."""

    def look(self, cell: Cell) -> Tray:
        """Read the cell's ground truth."""
        position, rotation = cell.body_pose("tray")
        handles = {arm: cell.geom_position(f"handle_{arm}") for arm in ARMS}
        grips = {arm: cell.grips(arm, f"handle_{arm}") for arm in ARMS}
        scenes = {arm: rule.look(cell) for arm, rule in self.arms.items()}
        return Tray(scenes, handles, quarter_yaw(rotation), grips, float(position[2]))

    def stage(self, scene: Tray, colour: str) -> Literal["pick", "place", "done"]:
        """`place` stands for the lift."""
        if scene.held is None:
            return "pick"
        return "done" if scene.tray_z > LIFTED_M + 0.01 else "place"

    def motion(self, scene: Tray, colour: str) -> Motions:
        """The rule."""
        if scene.held is not None:
            lowest = min(self._pinch(scene, arm)[2] for arm in ARMS)
            return {arm: self._lift(scene, arm, lowest) for arm in ARMS}
        ready = all(self._error(scene, arm) < 0.012 for arm in ARMS)
        return {arm: self._approach(scene, arm, ready) for arm in ARMS}

    def _pinch(self, scene: Tray, arm: str) -> F64:
        return self.arms[arm].kinematics.pinch(scene.arms[arm].arm_A)

    def _goal(self, scene: Tray, arm: str) -> F64:
        return scene.handles[arm] + [0.0, 0.0, GRASP_ABOVE_M]

    def _error(self, scene: Tray, arm: str) -> float:
        return float(np.linalg.norm(self._goal(scene, arm) - self._pinch(scene, arm)))

    def _approach(self, scene: Tray, arm: str, ready: bool) -> Motion:
        own, goal = scene.arms[arm], self._goal(scene, arm)
        closing = own.jaw_command_m < 0.036
        if ready or (closing and self._error(scene, arm) < 0.02):
            return still(CLOSED_M)
        return self.over(arm, own, goal, scene.yaw, float(goal[2]), OPEN_M)

    def _lift(self, scene: Tray, arm: str, lowest_m: float) -> Motion:
        """A small step above the lower hand, so that neither runs ahead."""
        own, pinch = scene.arms[arm], self._pinch(scene, arm)
        height = min(lowest_m + STEP_M, LIFT_TO_M + GRASP_ABOVE_M + 0.03)
        yaw = hand_yaw(own.arm_A)
        goal = self.arms[arm].kinematics.solve_down(float(pinch[0]), float(pinch[1]), float(height), yaw)
        return Motion(4.0 * (goal - own.arm_A), CLOSED_M)

    def imagine(self, scene: Tray, command_J: F64) -> Tray:
        """Jaws that close about the handles grip; what is gripped rises with the hands."""
        before = {arm: self._pinch(scene, arm) for arm in ARMS}
        arms, grips = {}, {}
        for arm, rule in self.arms.items():
            command = command_J[self.slices[arm]]
            arms[arm] = replace(rule.imagine(scene.arms[arm], command), held=None)
            grips[arm] = bool(command[-1] < 0.009 and self._error(scene, arm) < 0.03)
        moved = replace(scene, arms=arms, grips=grips)
        if scene.held is None:
            return moved
        rise = {arm: self._pinch(moved, arm) - before[arm] for arm in ARMS}
        handles = {arm: scene.handles[arm] + rise[arm] for arm in ARMS}
        return replace(moved, handles=handles, tray_z=scene.tray_z + min(float(step[2]) for step in rise.values()))

    def contacts(self, scene: Tray, colour: str) -> list[NextContact]:
        """Both handles, until they are gripped."""
        return [NextContact(f"handle_{arm}", self._goal(scene, arm)) for arm in ARMS] if scene.held is None else []


def named_tray(text: str) -> str | None:
    """`tray`, if the sentence speaks of it."""
    return "tray" if "tray" in text.lower().split() else None


TRAY = Task(
    templates=(
        "lift the tray", "lift the tray with both arms", "pick up the tray and hold it level",
        "raise the tray with the block on it",
    ),
    wordings=(
        "raise the tray",
        "use both hands to lift the tray",
        "bring the tray up level",
        "pick the tray up",
        "lift up the tray with the block on top",
        "both arms: raise the tray and keep it level",
        "elevate the tray",
    ),
    hard_templates=("take the tray by its handles and lift it", "hold the tray up"),
    blocks=(TRAY_X_M, TRAY_Y_M), pad=(TRAY_X_M, TRAY_Y_M), time_limit_s=12.0, targets=("tray",), named=named_tray,
    draw=draw, check=TrayCheck,
)
