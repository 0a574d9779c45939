"""How scripted experts move: velocities toward joint goals, jaws, a ramp on commands, and roll-outs of a rule.

Shapes: A = 6 arm joints, J = joints in contract order, K = plan steps. Metres, radians.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np

from starry_ros.robot_spec import RobotSpec
from starry_ros.sim.cell import Cell
from starry_ros.types import F64

TICK_S = 0.02
"""How long one command of an expert lasts."""
VELOCITY_RAD_S, GAIN_PER_S, BRAKE_RAD_S2 = 1.3, 7.0, 4.5
"""Speed toward a joint goal: at most constant, below that what the brake can stop, near the goal proportional to it."""
RAMP_SHARE = 0.5
"""Share of the contract's acceleration limits that the expert uses: a clone's plans are rougher than its own."""
JAW_M_S, JAW_BRAKE_M_S2 = 0.15, 0.9
"""The same for jaws."""
OPEN_M, CLOSED_M = 0.04, 0.0
ARM_JOINTS = 6


@dataclass(frozen=True)
class Motion:
    """What an expert wants of one arm: joint velocity [A] and where the jaw should go."""

    velocity_A: F64
    jaw_goal_m: float


def still(jaw_m: float) -> Motion:
    """Stand, with the jaw going to `jaw_m`."""
    return Motion(np.zeros(ARM_JOINTS), jaw_m)


def limited(error_A: F64) -> F64:
    """Velocity toward a joint goal, all joints scaled together."""
    error = max(float(np.abs(error_A).max()), 1e-9)
    return error_A * (_speed(error, VELOCITY_RAD_S, BRAKE_RAD_S2) / error)


def toward(jaw_m: float, goal_m: float) -> float:
    """The jaw one tick on."""
    error = goal_m - jaw_m
    return jaw_m + math.copysign(TICK_S * _speed(abs(error), JAW_M_S, JAW_BRAKE_M_S2), error)


def _speed(error: float, most: float, brake: float) -> float:
    """Proportional to the error where it is small, then what `brake` can stop in time, at most `most`."""
    near = brake / GAIN_PER_S**2
    return min(GAIN_PER_S * error if error < near else math.sqrt(2 * brake * (error - near / 2)), most)


def hand_yaw(arm_A: F64) -> float:
    """Yaw of a hand that points straight down."""
    return float(arm_A[0] - arm_A[5])


def funnel(error_m: float, lowest_m: float, clearance_m: float = 0.035) -> float:
    """Height of a hand over its goal: low when it is above it, `clearance_m` higher near it, high further off."""
    heights = (lowest_m, lowest_m + clearance_m, max(lowest_m + 0.05, 0.15))
    return float(np.interp(error_m, (0.005, 0.022, 0.07), heights))


class Ramp:
    """Bounds how fast commanded velocities change, all joints together, so that the hand keeps its direction.

    The first step is taken as it is: what an arm should do follows from where it stands, not from how fast it moves, so
    that a picture is enough to learn it; the executor blends the arm's own motion into it.
    """

    def __init__(self, spec: RobotSpec) -> None:
        self._change_J = RAMP_SHARE * spec.limit("acceleration") * TICK_S**2
        self._lower_J, self._upper_J = spec.limit("lower"), spec.limit("upper")
        self._step_J: F64 | None = None

    def toward(self, command_J: F64, wish_J: F64) -> F64:
        """The targets [J] one tick after `command_J` on the way to `wish_J`."""
        step = wish_J - command_J
        if self._step_J is not None:
            change = step - self._step_J
            step = self._step_J + change * min(1.0, 1.0 / max(float((np.abs(change) / self._change_J).max()), 1e-9))
        self._step_J = step
        return np.clip(command_J + step, self._lower_J, self._upper_J)


class Rule(Protocol):
    """What a roll-out asks of an expert; see `experts.Expert`."""

    def look(self, cell: Cell) -> Any: ...

    def stage(self, scene: Any, colour: str) -> str: ...

    def motion(self, scene: Any, colour: str) -> Any: ...

    def follow(self, command_J: F64, motion: Any) -> F64: ...


Imagine = Callable[[Any, F64], Any]
"""The scene one tick on, once all joints have got their command [J]."""


def roll_out(rule: Rule, imagine: Imagine, cell: Cell, colour: str) -> F64:
    """The next positions [K, J], the first one step ahead: the rule followed kinematically from the present state."""
    action = cell.spec.action
    ticks = round(action.step_s / TICK_S)
    ends = islice(_imagined(rule, imagine, cell, colour), ticks, action.chunk_steps * ticks + 1, ticks)
    return np.stack([command for _, command in ends])


def to_go_s(rule: Rule, imagine: Imagine, cell: Cell, colour: str, most_s: float) -> float:
    """How long the rule, followed kinematically from the present state, takes until its stage is `done`."""
    ticks = islice(_imagined(rule, imagine, cell, colour), math.ceil(most_s / TICK_S))
    done = (tick * TICK_S for tick, (scene, _) in enumerate(ticks) if rule.stage(scene, colour) == "done")
    return next(done, most_s)


def _imagined(rule: Rule, imagine: Imagine, cell: Cell, colour: str) -> Iterator[tuple[Any, F64]]:
    """Scene and command [J] now and after every tick."""
    scene, command, ramp = rule.look(cell), cell.command_J, Ramp(cell.spec)
    while True:
        yield scene, command
        command = ramp.toward(command, rule.follow(command, rule.motion(scene, colour)))
        scene = imagine(scene, command)
