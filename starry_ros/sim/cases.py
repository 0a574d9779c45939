"""What an episode of the closed loop starts from: the task's layout of a seed, or one of the forced cases.

| kind | what happens |
|---|---|
| normal | the arms start at home |
| closed_jaw | the arm starts with a closed, empty jaw somewhere over the table |
| swap | on the way to the first block the sentence changes to another block, which then has to end on the pad |
| push | the block to take is nudged before it is grasped |
| dropped | on the way the jaw is forced open once, and the block falls where it is |
| missed | when the jaw begins to close on the block, it is knocked out from between the fingers once |

A sentence can be swapped, and an arm start with a closed jaw, where the right arm takes the one block that the sentence
names; the others are of all tasks of blocks. `mishaps` makes happen what happens on the way; the task's time counts
anew from then on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from starry_ros.errors import ConfigError
from starry_ros.robot_spec import RobotSpec
from starry_ros.sim.cell import Cell, Layout
from starry_ros.sim.choices import COLOURS, FORCED, KINDS, Kind
from starry_ros.sim.kinematics import ArmKinematics
from starry_ros.sim.tasks import REGION_X_M, REGION_Y_M, Split, episode_rng
from starry_ros.types import F64

PUSH_M_S = (0.35, 0.7)
PUSH_AFTER_S = (0.3, 1.0)
SWAP_SHARE = 0.5
"""The sentence changes when the hand has come this share of the way to the first block."""


@dataclass(frozen=True)
class Case:
    """One episode of the closed loop: of those for evaluation, or of those for training.

    Raises ConfigError on a forced case that the task does not have.
    """

    seed: int
    kind: Kind = "normal"
    task: str = "place_block_pad"
    setting: str = "easy"
    split: Split = "eval"

    def __post_init__(self) -> None:
        require_case(self.task, self.kind)

    def rng(self) -> np.random.Generator:
        """Random stream of everything that the forced case adds to the layout."""
        return episode_rng(self.split, self.seed, KINDS.index(self.kind))


def require_case(task: str, kind: Kind) -> None:
    """Raises ConfigError on a forced case that the task does not have."""
    if kind != "normal" and task not in FORCED[kind]:
        raise ConfigError(f"case {kind}", "does not exist in this task", got=task,
                          expected=", ".join(FORCED[kind]), fix="choose one of these tasks; all tasks have case normal")


def other_colour(colour: str, rng: np.random.Generator) -> str:
    """A colour that is not `colour`."""
    return str(rng.choice([name for name in COLOURS if name != colour]))


def closed_jaw_start(cell: Cell, layout: Layout, colour: str, rng: np.random.Generator, arm: str = "right") -> F64:
    """Start joints [J]: home, but `arm` over the table with its jaw closed on nothing, often near the named block."""
    spec: RobotSpec = cell.spec
    start, block = spec.limit("home"), layout.blocks[colour]
    near = bool(rng.random() < 0.5)
    while True:
        angle, radius = rng.uniform(-math.pi, math.pi), rng.uniform(0.0, 0.09)
        x = block.x_m + radius * math.cos(angle) if near else rng.uniform(*REGION_X_M)
        y = block.y_m + radius * math.sin(angle) if near else rng.uniform(*REGION_Y_M)
        z = rng.uniform(0.03, 0.12 if near else 0.2)
        if z > 0.065 or min(math.hypot(x - b.x_m, y - b.y_m) for b in layout.blocks.values()) > 0.055:
            break
    part = spec.arm_slice(arm)
    start[part][:-1] = ArmKinematics.from_model(cell.model, arm).solve_down(x, y, z, rng.uniform(-0.4, 0.4))
    start[part][-1] = 0.0
    return np.clip(start, spec.limit("lower"), spec.limit("upper"))


def push_velocity(rng: np.random.Generator) -> tuple[float, float]:
    """A nudge in any horizontal direction, m/s."""
    angle, speed = rng.uniform(-math.pi, math.pi), rng.uniform(*PUSH_M_S)
    return float(speed * math.cos(angle)), float(speed * math.sin(angle))
