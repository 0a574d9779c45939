"""`put_block_drawer`: the left arm pulls the drawer open and goes, then the right arm puts the named block in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from starry_ros.sim.cell import BlockPose, Cell, Layout
from starry_ros.sim.choices import COLOURS
from starry_ros.sim.expert_place import Scene
from starry_ros.sim.motion import CLOSED_M, OPEN_M, Motion, hand_yaw, still
from starry_ros.sim.pair import Motions, PairExpert
from starry_ros.sim.task import NextContact, Settled, Task, draw_apart, poses
from starry_ros.types import F64

CABINET_X_M, CABINET_Y_M = (0.27, 0.31), (0.07, 0.15)
BLOCKS = ((0.03, 0.20), (-0.24, -0.06))
PULLED_M, PULL_TO_M = 0.095, 0.112
GRASP_M, FLOOR_M = np.array([0.0, 0.0, 0.008]), np.array([0.004, 0.0, 0.0])
"""Where the knob is gripped, from its centre; the middle of the free floor, from the drawer's."""
INSIDE_X_M, INSIDE_Y_M = 0.050, 0.058
CLEAR_M, NEAR_M, KNOB_HALF_M = 0.09, 0.03, 0.008
PULL_M_S = 0.10


def draw(rng: np.random.Generator, target: str) -> Layout:
    """The cabinet at the left, its drawer shut; three blocks at the right."""
    x, y = rng.uniform(*CABINET_X_M), rng.uniform(*CABINET_Y_M)
    points = draw_apart(rng, [BLOCKS] * 3, np.full((3, 3), 0.085))
    blocks = dict(zip(COLOURS, poses(points, rng), strict=True))
    return Layout(blocks, 0.36, -0.24, "cell+drawer", {"cabinet": BlockPose(float(x), float(y), 0.0)})


class DrawerCheck:
    """The named block lies in the drawer, untouched for half a second."""

    def __init__(self, target: str) -> None:
        self.colour, self._settled = target, Settled()

    def update(self, cell: Cell) -> bool:
        """Look at the cell."""
        inside = in_drawer(cell.block_position(self.colour), cell.body_pose("drawer")[0])
        return self._settled.update(cell, inside and not cell.touched(self.colour))


def in_drawer(block: F64, drawer: F64) -> bool:
    """Whether a block's centre lies between the drawer's walls, near its floor."""
    x, y, z = block - drawer
    return bool(abs(x) < INSIDE_X_M and abs(y) < INSIDE_Y_M and 0.0 < z < 0.032)


@dataclass(frozen=True)
class Drawer:
    """Both arms (their pad is the drawer's floor), knob, opening, and whether the left hand grips the knob."""

    arms: dict[str, Scene]
    knob: F64
    opening_m: float
    grips: bool

    @property
    def held(self) -> str | None:
        """What is in a hand."""
        return self.arms["right"].held or ("knob" if self.grips else None)

    @property
    def blocks(self) -> dict[str, tuple[F64, float]]:
        """Position and yaw of every block."""
        return self.arms["right"].blocks


class DrawerExpert(PairExpert[Drawer]):
    """First the drawer, then the block; which of the two follows from how far the drawer is open."""

    def look(self, cell: Cell) -> Drawer:
        """Read the cell's ground truth."""
        floor = cell.geom_position("drawer") + FLOOR_M
        scenes = {arm: replace(rule.look(cell), pad=floor) for arm, rule in self.arms.items()}
        knob, left = cell.geom_position("knob"), scenes["left"]
        near = float(np.linalg.norm(cell.pinch_position("left") - knob)) < NEAR_M
        # A pad may lose touch for an instant: a jaw that is told to shut and cannot has the knob between its pads.
        stuck = near and left.jaw_command_m < KNOB_HALF_M and left.jaw_m > KNOB_HALF_M - 0.002
        return Drawer(scenes, knob, cell.slide("drawer"), cell.grips("left", "knob") or stuck)

    def stage(self, scene: Drawer, colour: str) -> Literal["pick", "place", "done"]:
        """Of the block; opening the drawer is part of `pick`."""
        return self.arms["right"].stage(scene.arms["right"], colour)

    def motion(self, scene: Drawer, colour: str) -> Motions:
        """The rule."""
        right = scene.arms["right"]
        pinch = self.arms["left"].kinematics.pinch(scene.arms["left"].arm_A)
        clear = float(np.linalg.norm(pinch - scene.knob)) > CLEAR_M
        if scene.opening_m < PULLED_M:
            return {"left": self._open(scene, pinch), "right": self._wait(right)}
        left = self.go_home("left", scene.arms["left"])
        if scene.grips or (scene.arms["left"].jaw_m < 0.02 and not clear):
            left = still(OPEN_M)
        return {"left": left, "right": self.arms["right"].motion(right, colour) if clear else self._wait(right)}

    def _wait(self, right: Scene) -> Motion:
        """The right arm at home, or standing with what it holds."""
        return self.go_home("right", right) if right.held is None else still(CLOSED_M)

    def _open(self, scene: Drawer, pinch: F64) -> Motion:
        """Onto the knob, close, pull."""
        own, goal = scene.arms["left"], scene.knob + GRASP_M
        if scene.grips:
            x = float(pinch[0]) - min(PULL_M_S, 2.5 * (PULL_TO_M + 0.01 - scene.opening_m) + 0.02) * 0.12
            yaw = hand_yaw(own.arm_A) * 0.9
            to = self.arms["left"].kinematics.solve_down(x, float(pinch[1]), float(pinch[2]), yaw)
            return Motion(8.0 * (to - own.arm_A), CLOSED_M)
        error = float(np.linalg.norm(goal - pinch))
        if error < (0.010 if own.jaw_command_m > 0.036 else 0.02):
            return still(CLOSED_M)
        return self.over("left", own, goal, 0.0, float(goal[2]), OPEN_M)

    def imagine(self, scene: Drawer, command_J: F64) -> Drawer:
        """A gripped knob moves with the hand, the drawer with the knob; the right arm moves its block."""
        before = self.arms["left"].kinematics.pinch(scene.arms["left"].arm_A)
        arms = {arm: rule.imagine(scene.arms[arm], command_J[self.slices[arm]]) for arm, rule in self.arms.items()}
        after = self.arms["left"].kinematics.pinch(arms["left"].arm_A)
        jaw = command_J[self.slices["left"]][-1]
        grips = bool(jaw < KNOB_HALF_M and np.linalg.norm(after - scene.knob) < NEAR_M)
        pull = float(np.clip(before[0] - after[0], -scene.opening_m, 0.12 - scene.opening_m)) if grips else 0.0
        back = np.array([-pull, 0.0, 0.0])
        arms = {arm: replace(one, pad=one.pad + back) for arm, one in arms.items()}
        return Drawer(arms, scene.knob + back, scene.opening_m + pull, grips)

    def contacts(self, scene: Drawer, colour: str) -> list[NextContact]:
        """Knob, then block; block, then drawer floor; drawer floor."""
        right = scene.arms["right"]
        block, floor = NextContact(colour, right.blocks[colour][0]), NextContact("drawer", right.pad, colour)
        if scene.opening_m < PULLED_M:
            return [NextContact("knob", scene.knob + GRASP_M), block]
        stage = self.stage(scene, colour)
        return [] if stage == "done" else [floor] if stage == "place" else [block, floor]


DRAWER = Task(
    templates=(
        "put the {} block in the drawer", "open the drawer and put the {} block in",
        "place the {} block inside the drawer", "pull the drawer open, then put the {} cube into it",
    ),
    wordings=(
        "drop the {} block into the drawer",
        "open the drawer, then move the {} cube inside",
        "the {} block goes into the drawer",
        "hide the {} block in the drawer",
        "lay the {} cube into the open drawer",
        "get the {} block into the drawer",
        "with one hand open the drawer, with the other put the {} block in",
    ),
    hard_templates=("store the {} block in the drawer", "the {} cube belongs in the drawer, put it there"),
    blocks=BLOCKS, pad=BLOCKS, time_limit_s=20.0, draw=draw, check=DrawerCheck, named_first=False,
)
