"""Scripted expert for `handover_block`: the right arm picks the block, the left takes it in the air and places it.

Reactive like `expert_place`, whose rules it uses for picking and placing: what to do follows from the present state
alone (who holds what, where the hands are). The right hand holds the block from above; the left hand comes level, away
from its own base, with its fingers above and below, so that the two pairs of finger pads press on different faces.

Shapes: A = 6 arm joints, J = joints in contract order, K = plan steps. Metres, radians, world frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from starry_ros.sim.cell import BLOCK_HALF_M, Cell
from starry_ros.sim.expert_place import CLOSED_M, OPEN_M, TICK_S, Motion, PlaceExpert, Ramp, Scene, limited, toward
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
HandoverStage = Literal["pick", "handover", "place", "done"]


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


class HandoverExpert:
    """Both arms, one rule."""

    arm = GIVER

    def __init__(self, cell: Cell) -> None:
        spec = cell.spec
        self._giver, self._taker = PlaceExpert(cell, GIVER), PlaceExpert(cell, TAKER)
        self._slices = {arm: spec.arm_slice(arm) for arm in (GIVER, TAKER)}
        self._home_J = spec.limit("home")
        self._lower_J, self._upper_J = spec.limit("lower"), spec.limit("upper")
        self._spec, self._steps, self._step_s = spec, spec.action.chunk_steps, spec.action.step_s
        base = self._taker.kinematics
        self.kinematics = self._giver.kinematics
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

    def follow(self, command_J: F64, motion: dict[str, Motion]) -> F64:
        """Targets [J] one tick after `command_J`, not ramped."""
        target = command_J.copy()
        for arm, part in self._slices.items():
            target[part][:-1] += TICK_S * motion[arm].velocity_A
            target[part][-1] = toward(command_J[part][-1], motion[arm].jaw_goal_m)
        return np.clip(target, self._lower_J, self._upper_J)

    def plan(self, cell: Cell, colour: str) -> F64:
        """The next positions [K, J], the first one step ahead, from a kinematic roll-out of the present state."""
        scene, command, ramp = self.look(cell), cell.command_J, Ramp(self._spec)
        steps = np.empty((self._steps, len(command)))
        for k in range(self._steps):
            for _ in range(round(self._step_s / TICK_S)):
                command = ramp.toward(command, self.follow(command, self.motion(scene, colour)))
                scene = self.imagine(scene, command)
            steps[k] = command
        return steps

    def imagine(self, scene: BothScenes, command_J: F64) -> BothScenes:
        """The scenes one tick on. A block that the giver lets go stays with the taker that holds it."""
        giver = self._giver.imagine(scene.giver, command_J[self._slices[GIVER]])
        blocks = dict(giver.blocks)
        kept = scene.taker.held
        if kept is not None:
            blocks[kept] = scene.blocks[kept]
        taker = self._taker.imagine(replace(scene.taker, blocks=blocks), command_J[self._slices[TAKER]])
        return BothScenes(replace(giver, blocks=taker.blocks), taker)

    def motion(self, scene: BothScenes, colour: str) -> dict[str, Motion]:
        """The rule itself: present scene and named colour to the motion of both arms."""
        if scene.taker.held is not None:
            return self._taken(scene, colour)
        taker = self._wait(scene)
        if scene.giver.held == colour:
            return {GIVER: self._offer(scene.giver, colour), TAKER: self._take(scene, colour) or taker}
        if self._taker.placed(scene.taker, colour):
            taker = self._taker.motion(scene.taker, colour)
            return {GIVER: self._go_home(GIVER, scene.giver), TAKER: taker}
        return {GIVER: self._giver.motion(scene.giver, colour), TAKER: taker}

    def _taken(self, scene: BothScenes, colour: str) -> dict[str, Motion]:
        """The taker holds a block: the giver lets go and leaves, then the taker carries it to the pad."""
        leave = self._leave(scene)
        if leave is not None:
            return {GIVER: leave, TAKER: Motion(np.zeros_like(scene.taker.arm_A), CLOSED_M)}
        return {GIVER: self._go_home(GIVER, scene.giver), TAKER: self._carry(scene.taker, colour)}

    def _leave(self, scene: BothScenes) -> Motion | None:
        """Open, then straight up, until the giver's hand is clear of the taken block."""
        giver = scene.giver
        pinch, (block, _) = self._giver.kinematics.pinch(giver.arm_A), scene.blocks[scene.taker.held or ""]
        if float(np.linalg.norm(pinch - block)) > CLEAR_M:
            return None
        if giver.jaw_m < BLOCK_HALF_M + 0.008:
            return Motion(np.zeros_like(giver.arm_A), OPEN_M)
        yaw = float(giver.arm_A[0] - giver.arm_A[5])
        goal = self._giver.kinematics.solve_down(float(pinch[0]), float(pinch[1]), float(pinch[2]) + 0.06, yaw)
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
            return self._go_home(TAKER, scene.taker)
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

    def _go_home(self, arm: str, scene: Scene) -> Motion:
        return Motion(limited(self._home_J[self._slices[arm]][:-1] - scene.arm_A), OPEN_M)


def hand_pitch(arm_A: F64) -> float:
    """How far the hand points below the horizontal, for a forearm that is not rolled."""
    return float(arm_A[1] + arm_A[2] + arm_A[4])
