"""`press_button`: the right arm presses the named one of three buttons; it lights up and stays lit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from starry_ros.sim.cell import BlockPose, Cell, Layout
from starry_ros.sim.choices import COLOURS
from starry_ros.sim.expert_place import Scene
from starry_ros.sim.motion import CLOSED_M, Motion
from starry_ros.sim.pair import Motions, PairExpert
from starry_ros.sim.task import REGION_X_M, REGION_Y_M, NextContact, Settled, Task, draw_apart
from starry_ros.types import F64

CAP_Z_M, PRESS_Z_M = 0.038, 0.033
TIP_M = 0.012
AWAY_M = 0.06
BLOCKS_M = ((0.33, -0.24), (0.36, 0.0), (0.33, 0.24))


def draw(rng: np.random.Generator, target: str) -> Layout:
    """Three buttons apart; the blocks lie out of the way, the pad too."""
    points = draw_apart(rng, [((0.04, REGION_X_M[1]), REGION_Y_M)] * 3, np.full((3, 3), 0.10))
    turns = rng.uniform(-0.5, 0.5, 3)
    names = (f"{colour}_housing" for colour in COLOURS)
    fixtures = {
        name: BlockPose(float(x), float(y), float(yaw)) for name, (x, y), yaw in zip(names, points, turns, strict=True)
    }
    blocks = {colour: BlockPose(x, y, 0.0) for colour, (x, y) in zip(COLOURS, BLOCKS_M, strict=True)}
    return Layout(blocks, 0.36, -0.12, "cell+buttons", fixtures)


class ButtonCheck:
    """The named button is lit, no other one is, and the hand has left it."""

    def __init__(self, target: str) -> None:
        self.colour, self._settled = target, Settled(0.1)

    def update(self, cell: Cell) -> bool:
        """Look at the cell."""
        gap = cell.pinch_position("right") - cell.geom_position(f"{self.colour}_button")
        return self._settled.update(cell, cell.lit == (self.colour,) and float(np.linalg.norm(gap)) > AWAY_M)


@dataclass(frozen=True)
class Buttons:
    """Both arms, the caps' places, and which buttons are lit."""

    arms: dict[str, Scene]
    caps: dict[str, F64]
    lit: tuple[str, ...]
    held: str | None = None

    @property
    def blocks(self) -> dict[str, tuple[F64, float]]:
        """The buttons stand in for blocks."""
        return {colour: (cap, 0.0) for colour, cap in self.caps.items()}


class ButtonExpert(PairExpert[Buttons]):
    """Over the button with a closed jaw, down until it lights up, up and home."""

    def look(self, cell: Cell) -> Buttons:
        """Read the cell's ground truth."""
        caps = {colour: np.array([*cell.geom_position(f"{colour}_housing")[:2], CAP_Z_M]) for colour in COLOURS}
        return Buttons({arm: rule.look(cell) for arm, rule in self.arms.items()}, caps, cell.lit)

    def stage(self, scene: Buttons, colour: str) -> Literal["pick", "done"]:
        """`pick` until the named button is lit."""
        return "done" if colour in scene.lit else "pick"

    def motion(self, scene: Buttons, colour: str) -> Motions:
        """The rule."""
        left, right = self.go_home("left", scene.arms["left"]), scene.arms["right"]
        if colour in scene.lit:
            return {"left": left, "right": replace(self.go_home("right", right), jaw_goal_m=CLOSED_M)}
        cap = scene.caps[colour]
        pinch = self.arms["right"].kinematics.pinch(right.arm_A)
        error = float(np.hypot(*(cap[:2] - pinch[:2])))
        lowest = PRESS_Z_M + TIP_M - 0.008 if error < 0.008 and right.jaw_command_m < 0.01 else CAP_Z_M + TIP_M + 0.02
        press = self.over("right", right, cap, 0.0, lowest, CLOSED_M)
        slow = 0.5 if error < 0.008 else 1.0
        return {"left": left, "right": Motion(slow * press.velocity_A, CLOSED_M)}

    def imagine(self, scene: Buttons, command_J: F64) -> Buttons:
        """The arms move; a button under a hand that is low enough lights up."""
        arms = {arm: rule.imagine(scene.arms[arm], command_J[self.slices[arm]]) for arm, rule in self.arms.items()}
        pinch = self.arms["right"].kinematics.pinch(arms["right"].arm_A)
        low = pinch[2] < PRESS_Z_M + TIP_M - 0.006
        pressed = tuple(c for c, cap in scene.caps.items() if low and np.hypot(*(cap[:2] - pinch[:2])) < 0.015)
        return replace(scene, arms=arms, lit=tuple(dict.fromkeys((*scene.lit, *pressed))))

    def contacts(self, scene: Buttons, colour: str) -> list[NextContact]:
        """The top of the named button."""
        return [] if colour in scene.lit else [NextContact(f"{colour}_button", scene.caps[colour])]


BUTTON = Task(
    templates=(
        "press the {} button", "push the {} button", "press down the {} button once", "switch on the {} button",
    ),
    wordings=(
        "activate the {} button",
        "turn the {} button on",
        "touch and press the {} button",
        "give the {} button a push",
        "click the {} button",
        "tap the {} button down",
        "use the {} button",
        "light the {} one up by pressing it",
    ),
    hard_templates=("hit the {} button", "make the {} button light up"),
    blocks=(REGION_X_M, REGION_Y_M), pad=(REGION_X_M, REGION_Y_M), time_limit_s=8.0, draw=draw, check=ButtonCheck,
)
