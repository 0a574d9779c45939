"""Disturbances of the scripted expert, so that a clone of it learns to recover.

The labels stay the undisturbed expert's plan from the disturbed state. Pushes and jitter move the joints away from the
expert's path. A delusion lets the robot act for a while on a scene that is not there: a block beside or above the real
one, one turned the wrong way, or one held in a jaw that is empty. That is what a policy does when it grasps badly, and
no joint noise reaches it.

Shapes: A = 6 arm joints, J = joints in contract order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from starry_ros.robot_spec import RobotSpec
from starry_ros.sim.cell import Cell, Layout
from starry_ros.sim.choices import COLOURS
from starry_ros.sim.expert_place import PlaceExpert, Scene
from starry_ros.sim.experts import Expert
from starry_ros.sim.motion import CLOSED_M, OPEN_M, TICK_S
from starry_ros.sim.tasks import REGION_X_M, REGION_Y_M
from starry_ros.types import F64

KINDS = {
    "clean": 0.16, "disturbed": 0.34, "switch": 0.12,
    "closed_start": 0.09, "miss": 0.10, "drop": 0.08, "twist": 0.11,
}
"""Kinds of episode and their shares; the last four are the recovery kinds."""
HANDOVER_KINDS = {"clean": 0.4, "disturbed": 0.6}
AT_HOME = 0.4
"""Share of episodes that start at home exactly, as a robot does that has just been switched on."""
PUSH_RAD_S = 0.55
JITTER_RAD = 0.0025
FLOOR_M = 0.014


@dataclass
class _Delusion:
    """A scene the robot believes in, until `until_s`; `until_s` is set when the jaw closes on nothing."""

    scene: Scene
    hold_s: float
    until_s: float = math.inf


class Disturber:
    """The disturbances of one episode, drawn from `rng`."""

    def __init__(self, rng: np.random.Generator, kind: str, expert: PlaceExpert, colour: str) -> None:
        self.kind, self.colour = kind, colour
        self._rng, self._expert = rng, expert
        self._other = str(rng.choice([c for c in COLOURS if c != colour]))
        self._pushing_until_s, self._next_push_s = 0.0, float(rng.exponential(1.0))
        self._push_A = np.zeros(6)
        self._nudge_s = float(rng.uniform(0.3, 1.2)) if kind == "disturbed" and rng.random() < 0.2 else math.inf
        self._delusion: _Delusion | None = None
        self._armed = kind in ("switch", "miss", "drop", "closed_start", "twist")
        self._delay_s = float(rng.uniform(0.0, 0.7))
        self._before_grasp = rng.random() < 0.5
        self._held_since_s = math.inf
        self._open_until_s = 0.0

    def start(self, spec: RobotSpec, layout: Layout) -> F64:
        """Start joints [J]: home, mostly with noise; for `closed_start` an empty closed jaw over the table."""
        rng, start = self._rng, spec.limit("home")
        arm = spec.arm_slice(self._expert.arm)
        if rng.random() > AT_HOME:
            noise = rng.normal(0.0, 0.03, len(start))
            noise[arm] = rng.normal(0.0, rng.uniform(0.02, 0.12), arm.stop - arm.start)
            noise[list(spec.gripper_indices)] = 0.0
            start += noise
        if self.kind == "closed_start":
            x, y, z = self._empty_hand(layout)
            yaw = float(rng.uniform(-0.4, 0.4))
            start[arm][:-1] = self._expert.kinematics.solve_down(x, y, z, yaw)
            start[arm][-1] = CLOSED_M if rng.random() < 0.8 else rng.uniform(CLOSED_M, OPEN_M)
        return np.clip(start, spec.limit("lower"), spec.limit("upper"))

    def _empty_hand(self, layout: Layout) -> tuple[float, float, float]:
        """A point for a closed jaw: anywhere, or near the named block (above or beside it), clear of all blocks."""
        block, near = layout.blocks[self.colour], self._rng.random() < 0.6
        while True:
            if near:
                angle, radius = self._rng.uniform(-math.pi, math.pi), self._rng.uniform(0.0, 0.09)
                x, y = block.x_m + radius * math.cos(angle), block.y_m + radius * math.sin(angle)
            else:
                x, y = self._rng.uniform(*REGION_X_M), self._rng.uniform(*REGION_Y_M)
            z = float(self._rng.uniform(0.02, 0.12 if near else 0.2))
            gap = min(math.hypot(x - b.x_m, y - b.y_m) for b in layout.blocks.values())
            if z > 0.062 or gap > 0.05:
                return float(x), float(y), z

    def wish(self, cell: Cell, scene: Scene, wish_J: F64) -> F64:
        """What a misled expert wishes [J] instead of `wish_J`; may change `colour` and push a block."""
        now = cell.sim_time_s
        if self.kind == "clean":
            return wish_J
        self._held_since_s = min(self._held_since_s, now) if scene.held else math.inf
        self._trigger(now, scene)
        if now >= self._nudge_s and scene.held is None:
            angle, speed = self._rng.uniform(-math.pi, math.pi), self._rng.uniform(0.35, 0.7)
            cell.push_block(self.colour, speed * math.cos(angle), speed * math.sin(angle))
            self._nudge_s = math.inf
        wish = self._deluded(cell, wish_J) if self._delusion else wish_J
        if now < self._open_until_s:
            wish = wish.copy()
            wish[cell.spec.arm_slice(self._expert.arm)][-1] = OPEN_M
        return wish

    def _trigger(self, now: float, scene: Scene) -> None:
        """Start this kind's one special disturbance when its moment has come."""
        if not self._armed:
            return
        rng, block = self._rng, scene.blocks[self.colour]
        pinch = self._expert.kinematics.pinch(scene.arm_A)
        error = float(np.hypot(*(block[0][:2] - pinch[:2])))
        carried = scene.held == self.colour and now - self._held_since_s >= self._delay_s
        if self.kind == "closed_start":
            self._believe(self._pretend_held(scene, pinch), rng.uniform(0.2, 2.0))
        elif self.kind == "miss" and error < 0.12 and scene.held is None:
            shifted = {**scene.blocks, self.colour: (block[0] + self._offset(), block[1])}
            believed = replace(scene, blocks=shifted)
            if self._expert.stage(believed, self.colour) == "pick":
                self._believe(believed, rng.uniform(0.4, 2.4))
        elif self.kind == "twist" and error < 0.12 and scene.held is None:
            turned = block[0] + np.array([*rng.normal(0.0, 0.005, 2), 0.0]), block[1] + self._turn()
            self._believe(replace(scene, blocks={**scene.blocks, self.colour: turned}), rng.uniform(0.2, 0.6))
        elif self.kind == "drop" and carried:
            self._open_until_s = now + 0.14
            if rng.random() < 0.7:
                self._believe(self._pretend_held(scene, pinch), rng.uniform(0.5, 2.0))
        elif self.kind == "switch" and (carried or (self._before_grasp and error < 0.05 and scene.held is None)):
            self.colour, self._armed = self._other, False

    def _believe(self, scene: Scene, hold_s: float) -> None:
        self._delusion, self._armed = _Delusion(scene, float(hold_s)), False

    def _pretend_held(self, scene: Scene, pinch: F64) -> Scene:
        blocks = {**scene.blocks, self.colour: (pinch.copy(), 0.0)}
        return replace(scene, blocks=blocks, held=self.colour, jaw_command_m=CLOSED_M)

    def _turn(self) -> float:
        """How far the believed block is turned: enough to grasp it by its corners."""
        return float(self._rng.choice([-1, 1]) * self._rng.uniform(0.25, 0.8))

    def _offset(self) -> F64:
        """How far off the believed block is: above it, short or long of it, or well to its side."""
        rng, kind = self._rng, self._rng.random()
        if kind < 0.4:
            return np.array([*rng.normal(0.0, 0.008, 2), rng.uniform(0.03, 0.08)])
        if kind < 0.75:
            return np.array([rng.choice([-1, 1]) * rng.uniform(0.034, 0.055), rng.normal(0.0, 0.012), 0.0])
        return np.array([rng.normal(0.0, 0.02), rng.choice([-1, 1]) * rng.uniform(0.075, 0.095), 0.0])

    def _deluded(self, cell: Cell, wish_J: F64) -> F64:
        """Follow the expert's rule on the believed scene until `hold_s` after its jaw closed, or a block is held."""
        delusion = self._delusion
        if delusion is None:
            return wish_J
        arm = cell.spec.arm_slice(self._expert.arm)
        command = cell.command_J
        believed = replace(delusion.scene, arm_A=command[arm][:-1])
        target = self._expert.follow(command, self._expert.motion(believed, self.colour))
        target[arm][-1] = target[arm][-1] if believed.held is None else CLOSED_M
        scene = self._expert.imagine(believed, target[arm])
        if scene.held and math.isinf(delusion.until_s):
            delusion.until_s = cell.sim_time_s + delusion.hold_s
        delusion.scene = scene
        dropped = cell.sim_time_s >= self._open_until_s + 0.1
        if cell.sim_time_s >= delusion.until_s or (dropped and cell.held(self._expert.arm)):
            self._delusion = None
        return target

    def push(self, cell: Cell, scene: Scene, target_J: F64) -> F64:
        """Targets [J] with the joint push in force and jitter, unless that would drive the hand into the table."""
        now, rng = cell.sim_time_s, self._rng
        if self.kind == "clean":
            return target_J
        if now >= self._next_push_s:
            self._push_A = rng.normal(0.0, PUSH_RAD_S, 6)
            self._pushing_until_s = now + float(rng.uniform(0.2, 0.5))
            self._next_push_s = self._pushing_until_s + 0.3 + float(rng.exponential(1.0))
        arm = cell.spec.arm_slice(self._expert.arm)
        pushed = target_J.copy()
        pushed[arm][:-1] += rng.normal(0.0, JITTER_RAD, 6)
        if now < self._pushing_until_s:
            pushed[arm][:-1] += TICK_S * self._push_A
        low = self._expert.kinematics.pinch(pushed[arm][:-1])[2] < FLOOR_M
        return target_J if low else pushed


class Shaker:
    """Disturbances of the other tasks: start poses with noise, pushes and jitter of both arms."""

    def __init__(self, rng: np.random.Generator, kind: str, expert: Expert, colour: str) -> None:
        self.kind, self.colour = kind, colour
        self._rng, self._expert = rng, expert
        self._until_s, self._next_s = 0.0, float(rng.exponential(1.0))
        self._push_J = np.zeros(0)

    def start(self, spec: RobotSpec, layout: Layout) -> F64:
        """Start joints [J]: home, mostly with noise, jaws open."""
        scale = 0.0 if self._rng.random() < AT_HOME else 0.06
        noise = self._rng.normal(0.0, scale, len(spec.joints))
        noise[list(spec.gripper_indices)] = 0.0
        return np.clip(spec.limit("home") + noise, spec.limit("lower"), spec.limit("upper"))

    def wish(self, cell: Cell, scene: Any, wish_J: F64) -> F64:
        """What the expert wishes [J]: this task misleads nobody."""
        return wish_J

    def push(self, cell: Cell, scene: Any, target_J: F64) -> F64:
        """Targets [J] that the robot really gets. A block in a hand is not pushed about."""
        if self.kind == "clean" or scene.held is not None:
            return target_J
        now, grippers = cell.sim_time_s, list(cell.spec.gripper_indices)
        if now >= self._next_s:
            self._push_J = self._rng.normal(0.0, PUSH_RAD_S, len(target_J))
            self._until_s = now + float(self._rng.uniform(0.2, 0.5))
            self._next_s = self._until_s + 0.3 + float(self._rng.exponential(1.0))
        noise = self._rng.normal(0.0, JITTER_RAD, len(target_J))
        if now < self._until_s:
            noise += TICK_S * self._push_J
        noise[grippers] = 0.0
        low = self._expert.kinematics.pinch((target_J + noise)[cell.spec.arm_slice(self._expert.arm)][:-1])[2] < FLOOR_M
        return target_J if low else target_J + noise


def kinds_of(task: str) -> dict[str, float]:
    """Kinds of episode of a task and their shares."""
    return KINDS if task == "place_block_pad" else HANDOVER_KINDS


def make_disturber(task: str, rng: np.random.Generator, kind: str, expert: Any, colour: str) -> Disturber | Shaker:
    """The disturbances of one episode of a task."""
    return (Disturber if task == "place_block_pad" else Shaker)(rng, kind, expert, colour)
