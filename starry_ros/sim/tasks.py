"""What the simulated robot can be asked to do: sentences, layouts from seeds, and success on physics state.

Training and evaluation layouts are drawn from random streams that differ in their first entropy word, so no
evaluation layout can occur in training.

| task | arms | asked for |
|---|---|---|
| place_block_pad | right | the named block on the pad |
| handover_block | both | the right arm hands the named block to the left arm, which puts it on the pad at the left |
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from starry_ros.errors import ConfigError
from starry_ros.sim.cell import BLOCK_HALF_M, COLOURS, PAD_HALF_M, PAD_TOP_M, BlockPose, Cell, Layout

Split = Literal["train", "eval"]
Region = tuple[tuple[float, float], tuple[float, float]]
SETTINGS = ("easy",)
BLOCK_GAP_M = 0.085
PAD_GAP_M = 0.09
YAW_RAD = math.radians(23.0)
UNTOUCHED_S = 0.5
IN_THE_AIR_M = 0.06
_SPLIT_WORD = {"train": 0x7261, "eval": 0x6576}
REGION_X_M = (0.03, 0.26)
REGION_Y_M = (-0.17, 0.12)


@dataclass(frozen=True)
class Task:
    """Sentences with a gap for the colour, where (x, y ranges in m) blocks and pad may lie, the time that counts."""

    templates: tuple[str, ...]
    blocks: Region
    pad: Region
    time_limit_s: float


PLACE = Task(
    templates=(
        "put the {} block on the pad",
        "place the {} block on the white pad",
        "move the {} block onto the pad",
        "pick up the {} block and put it on the pad",
        "take the {} block to the pad",
        "set the {} cube down on the white pad",
    ),
    blocks=(REGION_X_M, REGION_Y_M), pad=(REGION_X_M, REGION_Y_M), time_limit_s=12.0,
)
HANDOVER = Task(
    templates=(
        "hand the {} block to the left arm and put it on the pad",
        "give the {} block to the left hand, then place it on the pad",
        "pass the {} block from right to left and set it on the white pad",
        "take the {} block, hand it over and put it on the pad at the left",
    ),
    blocks=((0.03, 0.24), (-0.21, -0.04)), pad=((0.06, 0.22), (0.08, 0.17)), time_limit_s=20.0,
)
_TASKS: Mapping[str, Task] = {"place_block_pad": PLACE, "handover_block": HANDOVER}
TASKS = tuple(_TASKS)
TEMPLATES = PLACE.templates


def task_of(name: str) -> Task:
    """A task by name; ConfigError if it is unknown."""
    if name not in _TASKS:
        raise ConfigError("task", "is unknown", got=repr(name), expected=list(TASKS))
    return _TASKS[name]


def sentence(colour: str, template: int = 0, task: str = "place_block_pad") -> str:
    """An instruction; `template` counts through the task's sentences, wrapping around."""
    if colour not in COLOURS:
        raise ConfigError(task, "unknown colour", got=colour, expected=list(COLOURS))
    templates = task_of(task).templates
    return templates[template % len(templates)].format(colour)


def named_colour(text: str) -> str | None:
    """The one block colour a sentence names, or None if it names none or several."""
    found = [colour for colour in COLOURS if colour in text.lower().split()]
    return found[0] if len(found) == 1 else None


def episode_rng(split: Split, seed: int, *extra: int) -> np.random.Generator:
    """Random stream of one episode; streams of the two splits are disjoint by construction."""
    return np.random.default_rng(np.random.SeedSequence([_SPLIT_WORD[split], seed, *extra]))


def draw_layout(rng: np.random.Generator, task: str = "place_block_pad") -> Layout:
    """Three blocks and the pad in the task's regions, apart from each other, blocks turned a little."""
    spec = task_of(task)
    while True:
        points = _draw_points(rng, spec)
        gaps = np.linalg.norm(points[:, None] - points[None], axis=2)
        block_gaps, pad_gaps = gaps[:3, :3] + np.eye(3), gaps[3, :3]
        if block_gaps.min() >= BLOCK_GAP_M and pad_gaps.min() >= PAD_GAP_M:
            break
    yaws = rng.uniform(-YAW_RAD, YAW_RAD, 3)
    blocks = {
        colour: BlockPose(float(x), float(y), float(yaw))
        for colour, (x, y), yaw in zip(COLOURS, points[:3], yaws, strict=True)
    }
    return Layout(blocks, float(points[3, 0]), float(points[3, 1]))


def _draw_points(rng: np.random.Generator, spec: Task) -> np.ndarray:
    """Three blocks and the pad [4, 2]."""
    (block_x, block_y), (pad_x, pad_y) = spec.blocks, spec.pad
    low_x, high_x = np.array([*[block_x] * 3, pad_x]).T
    low_y, high_y = np.array([*[block_y] * 3, pad_y]).T
    return np.column_stack([rng.uniform(low_x, high_x), rng.uniform(low_y, high_y)])


def evaluation_case(seed: int, task: str = "place_block_pad") -> tuple[Layout, str, str]:
    """Layout, colour and sentence of one evaluation episode; colours and sentences take turns."""
    rng = episode_rng("eval", seed)
    colour = COLOURS[seed % len(COLOURS)]
    return draw_layout(rng, task), colour, sentence(colour, seed // len(COLOURS), task)


class Check(Protocol):
    """A success test that is asked again and again."""

    colour: str

    def update(self, cell: Cell) -> bool:
        """Look at the cell; True once the task is done."""


def make_check(task: str, colour: str) -> Check:
    """The success test of a task for the named block."""
    task_of(task)
    return HandoverCheck(colour) if task == "handover_block" else PlaceCheck(colour)


class PlaceCheck:
    """The block's centre inside the pad, lying on it, untouched for half a second."""

    def __init__(self, colour: str) -> None:
        self.colour = colour
        self._since_s: float | None = None

    def update(self, cell: Cell) -> bool:
        """Look at the cell; True once the condition has held long enough."""
        x, y, z = cell.block_position(self.colour)
        pad = cell.pad_position
        inside = abs(x - pad[0]) < PAD_HALF_M and abs(y - pad[1]) < PAD_HALF_M
        lying = z < BLOCK_HALF_M + PAD_TOP_M + 0.004
        if not (inside and lying) or cell.touched(self.colour):
            self._since_s = None
        elif self._since_s is None:
            self._since_s = cell.sim_time_s
        return self._since_s is not None and cell.sim_time_s - self._since_s >= UNTOUCHED_S


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
