"""What the simulated robot can be asked to do: sentences, layouts from seeds, and success on physics state.

Training and evaluation layouts are drawn from random streams that differ in their first entropy word, so no
evaluation layout can occur in training.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from starry_ros.errors import ConfigError
from starry_ros.sim.cell import BLOCK_HALF_M, COLOURS, PAD_HALF_M, PAD_TOP_M, BlockPose, Cell, Layout

Split = Literal["train", "eval"]
TASKS = ("place_block_pad",)
SETTINGS = ("easy",)
TIME_LIMIT_S = 12.0
TEMPLATES = (
    "put the {} block on the pad",
    "place the {} block on the white pad",
    "move the {} block onto the pad",
    "pick up the {} block and put it on the pad",
    "take the {} block to the pad",
    "set the {} cube down on the white pad",
)
REGION_X_M = (0.03, 0.26)
REGION_Y_M = (-0.17, 0.12)
BLOCK_GAP_M = 0.085
PAD_GAP_M = 0.09
YAW_RAD = math.radians(23.0)
UNTOUCHED_S = 0.5
_SPLIT_WORD = {"train": 0x7261, "eval": 0x6576}


def sentence(colour: str, template: int = 0) -> str:
    """An instruction for `place_block_pad`; `template` counts through TEMPLATES, wrapping around."""
    if colour not in COLOURS:
        raise ConfigError("place_block_pad", "unknown colour", got=colour, expected=list(COLOURS))
    return TEMPLATES[template % len(TEMPLATES)].format(colour)


def named_colour(text: str) -> str | None:
    """The one block colour a sentence names, or None if it names none or several."""
    found = [colour for colour in COLOURS if colour in text.lower().split()]
    return found[0] if len(found) == 1 else None


def episode_rng(split: Split, seed: int, *extra: int) -> np.random.Generator:
    """Random stream of one episode; streams of the two splits are disjoint by construction."""
    return np.random.default_rng(np.random.SeedSequence([_SPLIT_WORD[split], seed, *extra]))


def draw_layout(rng: np.random.Generator) -> Layout:
    """Three blocks and the pad in the region, apart from each other, blocks turned a little."""
    while True:
        points = np.column_stack([rng.uniform(*REGION_X_M, 4), rng.uniform(*REGION_Y_M, 4)])
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


def evaluation_case(seed: int) -> tuple[Layout, str, str]:
    """Layout, colour and sentence of one evaluation episode; colours and sentences take turns."""
    rng = episode_rng("eval", seed)
    colour = COLOURS[seed % len(COLOURS)]
    return draw_layout(rng), colour, sentence(colour, seed // len(COLOURS))


class PlaceCheck:
    """Success of `place_block_pad`: the block's centre inside the pad, lying on it, untouched for half a second."""

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
