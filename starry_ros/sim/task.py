"""What a task is: sentences, layouts from seeds, a success test on physics state. `tasks` lists them all.

A target says which of the task's objects are meant: `red`, `red on blue`, `red and green`, `tray`. Its colours fill the
gaps of a sentence in order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import numpy as np

from starry_ros.sim.cell import BLOCK_HALF_M, PAD_HALF_M, PAD_TOP_M, BlockPose, Cell, Layout
from starry_ros.sim.choices import COLOURS
from starry_ros.types import F64

Split = Literal["train", "eval"]
Region = tuple[tuple[float, float], tuple[float, float]]
BLOCK_GAP_M = 0.085
PAD_GAP_M = 0.09
YAW_RAD = math.radians(23.0)
UNTOUCHED_S = 0.5
_SPLIT_WORD = {"train": 0x7261, "eval": 0x6576}
REGION_X_M = (0.03, 0.26)
REGION_Y_M = (-0.17, 0.12)


class Check(Protocol):
    """A success test that is asked again and again."""

    colour: str

    def update(self, cell: Cell) -> bool:
        """Look at the cell; True once the task is done."""


class NextContact(NamedTuple):
    """A contact that a script is about to make: with which geom, at which world point [3] it would be, and which block
    is put down there; None if a hand grasps or presses the geom itself."""

    geom: str
    point: F64
    block: str | None = None


def named_colour(text: str) -> str | None:
    """The one block colour a sentence names, or None if it names none or several."""
    found = colours_in(text)
    return found[0] if len(set(found)) == 1 else None


def colours_in(text: str) -> list[str]:
    """Colours in the order in which a sentence names them."""
    return [word for word in text.lower().replace(",", " ").split() if word in COLOURS]


@dataclass(frozen=True)
class Task:
    """Sentences with gaps for colours, where (x, y ranges in m) blocks and pad may lie, the time that counts.

    `wordings` say the same in other words; training may mix them in. `hard_templates` are sentences that training never
    sees. `targets` are what can be asked for, `named` finds the
    target of a sentence, `named_first` says whether the first contact is with what is named, `draw` lays an episode out
    for a target, `check` is its success test.
    """

    templates: tuple[str, ...]
    blocks: Region
    pad: Region
    time_limit_s: float
    wordings: tuple[str, ...] = ()
    hard_templates: tuple[str, ...] = ()
    targets: tuple[str, ...] = COLOURS
    named: Callable[[str], str | None] = named_colour
    named_first: bool = True
    draw: Callable[[np.random.Generator, str], Layout] | None = None
    check: Callable[[str], Check] | None = field(default=None)


def episode_rng(split: Split, seed: int, *extra: int) -> np.random.Generator:
    """Random stream of one episode; streams of the two splits are disjoint by construction."""
    return np.random.default_rng(np.random.SeedSequence([_SPLIT_WORD[split], seed, *extra]))


def draw_apart(rng: np.random.Generator, regions: list[Region], gaps_m: F64) -> F64:
    """Points [N, 2], one a region, at least `gaps_m` [N, N] from each other."""
    low, high = (np.array([[axis[end] for axis in region] for region in regions]) for end in (0, 1))
    while True:
        points: F64 = rng.uniform(low, high)
        distance = np.linalg.norm(points[:, None] - points[None], axis=2)
        if (distance + 9 * np.eye(len(points)) >= gaps_m).all():
            return points


def poses(points_N2: F64, rng: np.random.Generator, yaw_rad: float = YAW_RAD) -> list[BlockPose]:
    """Poses at these points, turned a little."""
    turns = rng.uniform(-yaw_rad, yaw_rad, len(points_N2))
    return [BlockPose(float(x), float(y), float(yaw)) for (x, y), yaw in zip(points_N2, turns, strict=True)]


class Settled:
    """Whether something has held without a break for half a second."""

    def __init__(self, needed_s: float = UNTOUCHED_S) -> None:
        self._needed_s = needed_s
        self._since_s: float | None = None

    def update(self, cell: Cell, holds: bool) -> bool:
        """Look once more; True once it has held long enough."""
        if not holds:
            self._since_s = None
        elif self._since_s is None:
            self._since_s = cell.sim_time_s
        return self._since_s is not None and cell.sim_time_s - self._since_s >= self._needed_s


class PlaceCheck:
    """The block's centre inside a pad, lying on it, untouched for half a second."""

    def __init__(self, colour: str, pad: str = "pad") -> None:
        self.colour, self._pad, self._settled = colour, pad, Settled()

    def update(self, cell: Cell) -> bool:
        """Look at the cell; True once the condition has held long enough."""
        x, y, z = cell.block_position(self.colour)
        pad = cell.pad_position if self._pad == "pad" else cell.geom_position(self._pad)
        inside = abs(x - pad[0]) < PAD_HALF_M and abs(y - pad[1]) < PAD_HALF_M
        lying = z < BLOCK_HALF_M + PAD_TOP_M + 0.004
        return self._settled.update(cell, inside and lying and not cell.touched(self.colour))
