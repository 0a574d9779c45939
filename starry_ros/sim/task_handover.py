"""`handover_block`: the right arm picks the named block, the left takes it in the air and places it.

The expert is reactive like `expert_place`, whose rules it uses for picking and placing: what to do follows from the
present state alone (who holds what, where the hands are). The right hand holds the block from above; the left hand
comes level, away from its own base, with its fingers above and below, so that the two pairs of finger pads press on
different faces.

Shapes: A = 6 arm joints, J = joints in contract order. Metres, radians, world frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from starry_ros.sim.cell import BLOCK_HALF_M, Cell
from starry_ros.sim.expert_place import Scene
from starry_ros.sim.motion import CLOSED_M, OPEN_M, Motion, hand_yaw, limited, still
from starry_ros.sim.pair import Motions, PairExpert
from starry_ros.sim.task import PlaceCheck, Task
from starry_ros.types import F64

GIVER, TAKER = "right", "left"
MEET_M = np.array([0.12, 0.0, 0.17])
"""Where the block is handed over."""
MET_M = 0.012
BACK_OFF_M = 0.10
CLEAR_M = 0.10
GRASP_ERROR_M = 0.007
LINED_UP_M = 0.012
TURN_M = np.array([0.11, 0.03, 0.20])
"""Over this point the taker turns its hand down."""
TURNED_RAD = 0.25
IN_THE_AIR_M = 0.06
HandoverStage = Literal["pick", "handover", "place", "done"]


class HandoverCheck:
    """`PlaceCheck` for a block that went from the right hand to the left hand in the air."""

    def __init__(self, colour: str) -> None:
        self.colour = colour
        self._placed = PlaceCheck(colour)
        self._given = self._taken = False

    def update(self, cell: Cell) -> bool:
        """Look at the cell; True once the block was handed over and then placed."""
        in_the_air = cell.block_position(self.colour)[2] > IN_THE_AIR_M
        if in_the_air and cell.held("right") == self.colour:
            self._given = True
        if not in_the_air and not self._taken:
            self._given = False
        if in_the_air and self._given and cell.held("left") == self.colour:
            self._taken = True
        return self._placed.update(cell) and self._taken


@dataclass(frozen=True)
class BothScenes:
    """What each arm looks at; the objects are the same."""

    giver: Scene
    taker: Scene

    @property
    def blocks(self) -> dict[str, tuple[F64, float]]:
        """Position and yaw of every block."""
        return self.giver.blocks

    @property
    def held(self) -> str | None:
        """The block in a hand."""
        return self.taker.held or self.giver.held


class HandoverExpert(PairExpert[BothScenes]):
    """Both arms, one rule."""

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        self._giver, self._taker = self.arms[GIVER], self.arms[TAKER]
        self._home_J = cell.spec.limit("home")
        base = self._taker.kinematics
        away = MEET_M[:2] - (base.base_x_m, base.base_y_m)
        self._away = away / np.linalg.norm(away)
        self._away_yaw = math.atan2(self._away[1], self._away[0])

    def look(self, cell: Cell) -> BothScenes:
        """Read the cell's ground truth."""
        return BothScenes(self._giver.look(cell), self._taker.look(cell))

    def stage(self, scene: BothScenes, colour: str) -> HandoverStage:
        """What is being done about the named block."""
        if scene.taker.held == colour:
            return "place"
        if scene.giver.held == colour:
            return "handover"
        return "done" if self._taker.placed(scene.taker, colour) else "pick"

    def empty_jaw(self, scene: BothScenes, pinch: F64) -> bool:
        """Whether the giver's jaw is closed or closing on nothing."""
        return self._giver.empty_jaw(scene.giver, pinch)

    def imagine(self, scene: BothScenes, command_J: F64) -> BothScenes:
        """The scenes one tick on. A block that the giver lets go stays with the taker that holds it."""
        giver = self._giver.imagine(scene.giver, command_J[self.slices[GIVER]])
        blocks = dict(giver.blocks)
        kept = scene.taker.held
        if kept is not None:
            blocks[kept] = scene.blocks[kept]
        taker = self._taker.imagine(replace(scene.taker, blocks=blocks), command_J[self.slices[TAKER]])
        return BothScenes(replace(giver, blocks=taker.blocks), taker)

    def motion(self, scene: BothScenes, colour: str) -> Motions:
        """The rule itself: present scene and named colour to the motion of both arms."""
        if scene.taker.held is not None:
            return self._taken(scene, colour)
        taker = self._wait(scene)
        if scene.giver.held == colour:
            return {GIVER: self._offer(scene.giver, colour), TAKER: self._take(scene, colour) or taker}
        if self._taker.placed(scene.taker, colour):
            taker = self._taker.motion(scene.taker, colour)
            return {GIVER: self._straight_home(GIVER, scene.giver), TAKER: taker}
        return {GIVER: self._giver.motion(scene.giver, colour), TAKER: taker}

    def _taken(self, scene: BothScenes, colour: str) -> Motions:
        """The taker holds a block: the giver lets go and leaves, then the taker carries it to the pad."""
        leave = self._leave(scene)
        if leave is not None:
            return {GIVER: leave, TAKER: still(CLOSED_M)}
        return {GIVER: self._straight_home(GIVER, scene.giver), TAKER: self._carry(scene.taker, colour)}

    def _leave(self, scene: BothScenes) -> Motion | None:
        """Open, then straight up, until the giver's hand is clear of the taken block."""
        giver = scene.giver
        pinch, (block, _) = self._giver.kinematics.pinch(giver.arm_A), scene.blocks[scene.taker.held or ""]
        if float(np.linalg.norm(pinch - block)) > CLEAR_M:
            return None
        if giver.jaw_m < BLOCK_HALF_M + 0.008:
            return still(OPEN_M)
        x, y, z = (float(v) for v in pinch)
        goal = self._giver.kinematics.solve_down(x, y, z + 0.06, hand_yaw(giver.arm_A))
        return Motion(limited(goal - giver.arm_A), OPEN_M)

    def _offer(self, scene: Scene, colour: str) -> Motion:
        """Bring the held block to the meeting point, up first, its free faces toward the taker."""
        block, pinch = scene.blocks[colour][0], self._giver.kinematics.pinch(scene.arm_A)
        x, y, z = MEET_M + (pinch - block)
        return Motion(self._giver.toward_point(scene, pinch, float(x), float(y), float(z), self._away_yaw), CLOSED_M)

    def _take(self, scene: BothScenes, colour: str) -> Motion | None:
        """Level with the offered block: line up behind it, come forward, close. None while it is not offered yet."""
        block, taker = scene.blocks[colour][0], scene.taker
        if float(np.linalg.norm(block - MEET_M)) > MET_M:
            return None
        pinch = self._taker.kinematics.pinch(taker.arm_A)
        gap = block - pinch
        behind = float(gap[:2] @ self._away)
        aside = float(np.linalg.norm(gap - [*(behind * self._away), 0.0]))
        level = abs(hand_pitch(taker.arm_A)) < 0.1 and abs(taker.arm_A[5] - math.pi / 2) < 0.1
        if level and float(np.linalg.norm(gap)) < GRASP_ERROR_M * (1.0 if taker.jaw_command_m > 0.036 else 2.5):
            return Motion(limited(self._level(block) - taker.arm_A), CLOSED_M)
        if not level or aside > LINED_UP_M:
            return Motion(limited(self._level(block - [*(BACK_OFF_M * self._away), 0.0]) - taker.arm_A), OPEN_M)
        return Motion(0.6 * limited(self._level(block) - taker.arm_A), OPEN_M)

    def _wait(self, scene: BothScenes) -> Motion:
        """Behind the meeting point while the giver holds a block, else at home."""
        if scene.giver.held is None:
            return self._straight_home(TAKER, scene.taker)
        return Motion(limited(self._level(MEET_M - [*(BACK_OFF_M * self._away), 0.0]) - scene.taker.arm_A), OPEN_M)

    def _carry(self, scene: Scene, colour: str) -> Motion:
        """Turn the hand down in the air, then place as with one arm."""
        if math.pi / 2 - hand_pitch(scene.arm_A) > TURNED_RAD:
            x, y, z = TURN_M
            goal = self._taker.kinematics.solve(float(x), float(y), float(z), math.pi / 2, math.pi / 2)
            return Motion(limited(goal - scene.arm_A), CLOSED_M)
        return self._taker.motion(scene, colour)

    def _level(self, point: F64) -> F64:
        """The taker's joints [A] with the pinch point there, hand level, fingers above and below."""
        return self._taker.kinematics.solve(float(point[0]), float(point[1]), float(point[2]), 0.0, math.pi / 2)

    def _straight_home(self, arm: str, scene: Scene) -> Motion:
        """Home from the air, where nothing is in the way."""
        return Motion(limited(self._home_J[self.slices[arm]][:-1] - scene.arm_A), OPEN_M)


def hand_pitch(arm_A: F64) -> float:
    """How far the hand points below the horizontal, for a forearm that is not rolled."""
    return float(arm_A[1] + arm_A[2] + arm_A[4])


HANDOVER = Task(
    templates=(
        "hand the {} block to the left arm and put it on the pad",
        "give the {} block to the left hand, then place it on the pad",
        "pass the {} block from right to left and set it on the white pad",
        "take the {} block, hand it over and put it on the pad at the left",
    ),
    wordings=(
        "the left hand gets the {} block from the right hand and puts it on the pad",
        "move the {} cube from the right arm to the left arm, then onto the pad",
        "right arm picks the {} block, left arm places it on the pad",
        "pass the {} cube over to the left, which lays it on the white pad",
        "deliver the {} block to the left hand and have it placed on the pad",
        "grasp the {} block on the right, give it to the left, put it down on the pad",
        "transfer the {} block between the hands and leave it on the left pad",
    ),
    hard_templates=("let the left arm take the {} block from the right one and set it on the pad",),
    blocks=((0.03, 0.24), (-0.21, -0.04)), pad=((0.06, 0.22), (0.08, 0.17)), time_limit_s=20.0,
    check=HandoverCheck,
)
