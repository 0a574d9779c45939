"""Scripted expert for `place_block_pad`: a reactive, memory-light policy in joint space.

What to do next follows from the present state alone (commanded arm joints, jaw, block poses, which block is held), so
the expert recovers from any disturbance without knowing of it. The height of the hand is a funnel of its horizontal
error: wide apart it travels high, over the goal it comes down. `plan` rolls the same rule out kinematically from the
present state; that roll-out is the training label.

Shapes: A = 6 arm joints, J = joints in contract order, K = plan steps. Metres, radians, world frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from starry_ros.sim.cell import BLOCK_HALF_M, PAD_TOP_M, Cell
from starry_ros.sim.choices import COLOURS
from starry_ros.sim.kinematics import ArmKinematics
from starry_ros.sim.motion import CLOSED_M, OPEN_M, TICK_S, Motion, hand_yaw, limited, roll_out, still, to_go_s, toward
from starry_ros.sim.task import NextContact
from starry_ros.types import F64

GRASP_Z_M = 0.021
"""Height of the pads' middle when they grasp a block on the table: a millimetre above its own."""
TRAVEL_Z_M = 0.13
"""High enough that a carried block clears those that stand."""
REST_Z_M = BLOCK_HALF_M + PAD_TOP_M
RISE_BAND_M = 0.04
"""A hand this far below its funnel, or further, rises without moving sideways."""
FUNNEL_ERROR_M = (0.006, 0.022, 0.07)
"""Horizontal errors at which the funnel is at its lowest, clears a block's top, and is at travel height."""
PLACED_M = 0.042
"""A block whose middle is this near the pad's along each side counts as placed: inside the test's own 0.05."""
Stage = Literal["pick", "place", "done"]


@dataclass(frozen=True)
class Scene:
    """What the expert looks at: its own command, the measured jaw, and the objects."""

    arm_A: F64
    jaw_command_m: float
    jaw_m: float
    blocks: dict[str, tuple[F64, float]]
    pad: F64
    held: str | None


def quarter_yaw(rotation: F64) -> float:
    """Yaw of a cube folded into -45..45 degrees."""
    yaw = math.atan2(rotation[1, 0], rotation[0, 0])
    return (yaw + math.pi / 4) % (math.pi / 2) - math.pi / 4


class PlaceExpert:
    """Puts the named block on the pad with one arm; the other arm goes home and stays there."""

    def __init__(self, cell: Cell, arm: str = "right") -> None:
        self.arm = arm
        self._slice = cell.spec.arm_slice(arm)
        self._home_J = cell.spec.limit("home")
        self._lower_J, self._upper_J = cell.spec.limit("lower"), cell.spec.limit("upper")
        self.kinematics = ArmKinematics.from_model(cell.model, arm)

    def look(self, cell: Cell) -> Scene:
        """Read the cell's ground truth."""
        command = cell.command_J[self._slice]
        blocks = {c: (cell.block_position(c), quarter_yaw(cell.block_rotation(c))) for c in COLOURS}
        jaw = float(cell.state(0).position_J[self._slice][-1])
        return Scene(command[:-1], float(command[-1]), jaw, blocks, cell.pad_position, cell.held(self.arm))

    def stage(self, scene: Scene, colour: str) -> Stage:
        """`place` while the named block is held, `done` when it lies on the pad, else `pick`."""
        if scene.held == colour:
            return "place"
        return "done" if self.placed(scene, colour) else "pick"

    def contacts(self, scene: Scene, colour: str) -> list[NextContact] | None:
        """Not named: the log of contacts finds them out by itself."""
        return None

    def empty_jaw(self, scene: Scene, pinch: F64) -> bool:
        """Whether the jaw is closed or closing with no block between the pads at `pinch`."""
        between = self.between(scene, pinch, 0.02)
        return scene.held is None and (scene.jaw_m < 0.015 or (scene.jaw_command_m < 0.02 and between is None))

    def follow(self, command_J: F64, motion: Motion) -> F64:
        """Targets [J] one tick after `command_J` under `motion`, not ramped; the parked arm moves home."""
        target = command_J + TICK_S * limited(self._home_J - command_J)
        target[self._slice][:-1] = command_J[self._slice][:-1] + TICK_S * motion.velocity_A
        target[self._slice][-1] = toward(command_J[self._slice][-1], motion.jaw_goal_m)
        parked = [i for i in range(len(target)) if not self._slice.start <= i < self._slice.stop]
        jaw = parked[-1]
        target[jaw] = toward(command_J[jaw], self._home_J[jaw])
        return np.clip(target, self._lower_J, self._upper_J)

    def plan(self, cell: Cell, colour: str) -> F64:
        """The next positions [K, J], the first one step ahead, from a kinematic roll-out of the present state."""
        return roll_out(self, self._imagine, cell, colour)

    def to_go_s(self, cell: Cell, colour: str, most_s: float) -> float:
        """Seconds to the end of such a roll-out, at most `most_s`."""
        return to_go_s(self, self._imagine, cell, colour, most_s)

    def motion(self, scene: Scene, colour: str) -> Motion:
        """The rule itself: present scene and named colour to motion."""
        pinch = self.kinematics.pinch(scene.arm_A)
        if scene.held is not None:
            return self._carry(scene, scene.held, pinch, colour)
        between = self.between(scene, pinch, 0.016)
        letting_go = scene.jaw_command_m > 0.95 * BLOCK_HALF_M and scene.jaw_m < 0.030
        if between is not None and letting_go and (between != colour or self.placed(scene, colour)):
            return still(OPEN_M)
        if self.placed(scene, colour):
            return self._retreat(scene)
        return self._approach(scene, pinch, colour)

    def _approach(self, scene: Scene, pinch: F64, colour: str) -> Motion:
        """Open, travel over the named block, come down the funnel, close."""
        block, yaw = scene.blocks[colour]
        closing = scene.jaw_command_m < 0.037
        tolerance = 0.016 if closing else 0.0055
        grasp_z = max(block[2], BLOCK_HALF_M) + GRASP_Z_M - BLOCK_HALF_M
        error = float(np.hypot(*(block[:2] - pinch[:2])))
        ready = error < tolerance and abs(pinch[2] - grasp_z) < max(tolerance, 0.008)
        if ready:
            return Motion(self.toward_point(scene, pinch, block[0], block[1], grasp_z, yaw), CLOSED_M)
        floor = grasp_z if scene.jaw_command_m > 0.036 else max(grasp_z, 0.075)
        height = max(floor, self._funnel(error, grasp_z))
        return Motion(self.toward_point(scene, pinch, block[0], block[1], height, yaw), OPEN_M)

    def _carry(self, scene: Scene, held: str, pinch: F64, colour: str) -> Motion:
        """Bring the held block to the pad, or put a wrong one down on the nearest free spot, and let go."""
        block, _ = scene.blocks[held]
        spot = scene.pad[:2] if held == colour else self._free_spot(scene, block[:2])
        rest_z = REST_Z_M if held == colour else BLOCK_HALF_M
        error = float(np.hypot(*(spot - block[:2])))
        if error < 0.012 and block[2] < rest_z + 0.007:
            return still(OPEN_M)
        offset = pinch - block
        height = self._funnel(error, rest_z + 0.003) + offset[2]
        x, y = spot + offset[:2]
        return Motion(self.toward_point(scene, pinch, float(x), float(y), height, 0.0), CLOSED_M)

    def _retreat(self, scene: Scene) -> Motion:
        """Off the placed block and home."""
        return self.go_home(scene, 0.05, 0.06, TRAVEL_Z_M)

    def go_home(self, scene: Scene, from_m: float, band_m: float, over_m: float) -> Motion:
        """Up toward `over_m`, turning home while the hand rises through `band_m` above `from_m`; jaw open."""
        pinch, home_A = self.kinematics.pinch(scene.arm_A), self._home_J[self._slice][:-1]
        up = float(np.clip((pinch[2] - from_m) / band_m, 0.0, 1.0))
        if up >= 1.0:
            return Motion(limited(home_A - scene.arm_A), OPEN_M)
        goal_A = self.kinematics.solve_down(float(pinch[0]), float(pinch[1]), over_m, hand_yaw(scene.arm_A))
        return Motion(limited((1 - up) * goal_A + up * home_A - scene.arm_A), OPEN_M)

    def toward_point(self, scene: Scene, pinch: F64, x: float, y: float, z: float, yaw: float) -> F64:
        """Joint velocity [A] toward a hand pose; rises in place first when the hand is below the funnel."""
        share = float(np.clip(1.0 - (z - pinch[2]) / RISE_BAND_M, 0.0, 1.0))
        here_yaw = hand_yaw(scene.arm_A)
        goal = self.kinematics.solve_down(
            pinch[0] + share * (x - pinch[0]), pinch[1] + share * (y - pinch[1]), z, here_yaw + share * (yaw - here_yaw)
        )
        return limited(goal - scene.arm_A)

    @staticmethod
    def _funnel(error_m: float, lowest_m: float) -> float:
        return float(np.interp(error_m, FUNNEL_ERROR_M, (lowest_m, max(lowest_m, 0.058), max(lowest_m, TRAVEL_Z_M))))

    @staticmethod
    def between(scene: Scene, pinch: F64, tolerance_m: float) -> str | None:
        """Colour of the block whose centre is at the pinch point within `tolerance_m`, else None."""
        for colour, (block, _) in scene.blocks.items():
            if np.hypot(*(block[:2] - pinch[:2])) < tolerance_m and abs(block[2] - pinch[2]) < tolerance_m + 0.004:
                return colour
        return None

    @staticmethod
    def placed(scene: Scene, colour: str) -> bool:
        block, _ = scene.blocks[colour]
        inside = float(np.abs(block[:2] - scene.pad[:2]).max()) < PLACED_M
        return scene.held != colour and inside and bool(block[2] < REST_Z_M + 0.008)

    @staticmethod
    def _free_spot(scene: Scene, near: F64) -> F64:
        """Table point [2] nearest to `near` that is clear of the pad and of the blocks on the table."""
        others = [block[:2] for colour, (block, _) in scene.blocks.items() if colour != scene.held]
        clear = [(scene.pad[:2], 0.085), *((other, 0.075) for other in others)]
        rings = [near]
        for radius in np.arange(0.01, 0.20, 0.01):
            angles = np.arange(0.0, 2 * math.pi, math.pi / 12)
            rings.extend(near + radius * np.column_stack([np.cos(angles), np.sin(angles)]))
        for spot in rings:
            on_table = -0.02 < spot[0] < 0.30 and -0.22 < spot[1] < 0.16
            if on_table and all(np.hypot(*(spot - centre)) >= gap for centre, gap in clear):
                return spot
        return near

    def _imagine(self, scene: Scene, command_J: F64) -> Scene:
        return self.imagine(scene, command_J[self._slice])

    def imagine(self, scene: Scene, command: F64) -> Scene:
        """The scene one tick on: the jaw stops at a block between the pads, a held block moves with the hand."""
        before, after = self.kinematics.pinch(scene.arm_A), self.kinematics.pinch(command[:-1])
        blocks = dict(scene.blocks)
        between = self.between(scene, before, 0.018)
        jaw = max(float(command[-1]), BLOCK_HALF_M) if between else float(command[-1])
        closed = command[-1] < 0.95 * BLOCK_HALF_M
        held = (scene.held or between) if closed else None
        if held is not None:
            block, yaw = blocks[held]
            turn = hand_yaw(command) - hand_yaw(scene.arm_A)
            blocks[held] = (block + (after - before), yaw + turn)
        elif scene.held is not None:
            block, yaw = blocks[scene.held]
            over_pad = float(np.abs(block[:2] - scene.pad[:2]).max()) < 0.06
            blocks[scene.held] = (np.array([*block[:2], REST_Z_M if over_pad else BLOCK_HALF_M]), yaw)
        return replace(
            scene, arm_A=command[:-1].copy(), jaw_command_m=float(command[-1]), jaw_m=jaw, blocks=blocks, held=held
        )
