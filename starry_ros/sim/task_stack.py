"""`stack_blocks_two`: the right arm puts one named block on another; the order of the sentence counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from starry_ros.sim.cell import BLOCK_HALF_M, Cell, Layout
from starry_ros.sim.choices import COLOURS
from starry_ros.sim.expert_place import PlaceExpert, Scene, Stage
from starry_ros.sim.motion import CLOSED_M, OPEN_M, Motion, funnel, still
from starry_ros.sim.task import (
    BLOCK_GAP_M,
    PAD_GAP_M,
    REGION_X_M,
    REGION_Y_M,
    NextContact,
    Settled,
    Task,
    colours_in,
    draw_apart,
    poses,
)
from starry_ros.types import F64

ON_TOP_M, LEVEL_M = 0.017, 0.008
DROP_M = 0.004


def target_of(text: str) -> str | None:
    """`red on blue` of a sentence that names the upper block first."""
    found = colours_in(text)
    return f"{found[0]} on {found[1]}" if len(found) == 2 and found[0] != found[1] else None


def draw(rng: np.random.Generator, target: str) -> Layout:
    """Three blocks and the pad apart from each other."""
    gaps = np.full((4, 4), BLOCK_GAP_M + 0.01)
    gaps[3, :3] = gaps[:3, 3] = PAD_GAP_M
    points = draw_apart(rng, [(REGION_X_M, REGION_Y_M)] * 4, gaps)
    blocks = dict(zip(COLOURS, poses(points[:3], rng), strict=True))
    return Layout(blocks, float(points[3, 0]), float(points[3, 1]))


class StackCheck:
    """The first block lies on the second, untouched for half a second."""

    def __init__(self, target: str) -> None:
        self.colour = target
        self._top, self._bottom = target.split(" on ")
        self._settled = Settled()

    def update(self, cell: Cell) -> bool:
        """Look at the cell; True once the condition has held long enough."""
        gap = cell.block_position(self._top) - cell.block_position(self._bottom)
        stacked = float(np.hypot(*gap[:2])) < ON_TOP_M and abs(gap[2] - 2 * BLOCK_HALF_M) < LEVEL_M
        return self._settled.update(cell, stacked and not cell.touched(self._top))


class StackExpert(PlaceExpert):
    """`PlaceExpert` whose pad is the top of another block."""

    def stage(self, scene: Scene, colour: str) -> Stage:
        """As when placing, of the upper block."""
        top, bottom = colour.split(" on ")
        return super().stage(self._onto(scene, bottom), top)

    def motion(self, scene: Scene, colour: str) -> Motion:
        """The rule of placing, with the lower block for a pad."""
        top, bottom = colour.split(" on ")
        if scene.held == bottom:
            return super().motion(scene, top)
        return super().motion(self._onto(scene, bottom), top)

    def contacts(self, scene: Scene, colour: str) -> list[NextContact]:
        """The next contacts: on the upper block, then on top of the lower one."""
        top, bottom = colour.split(" on ")
        pick = NextContact(top, scene.blocks[top][0])
        place = NextContact(bottom, scene.blocks[bottom][0] + [0.0, 0.0, BLOCK_HALF_M], top)
        stage = self.stage(scene, colour)
        return [] if stage == "done" else [place] if stage == "place" else [pick, place]

    def _retreat(self, scene: Scene) -> Motion:
        """As when placing, from higher: the fingers have to clear the upper block."""
        return self.go_home(scene, 0.10, 0.04, 0.16)

    def imagine(self, scene: Scene, command: F64) -> Scene:
        """As when placing; a block that is let go stays at its height."""
        after = super().imagine(scene, command)
        if scene.held is None or after.held is not None:
            return after
        return replace(after, blocks={**after.blocks, scene.held: scene.blocks[scene.held]})

    @staticmethod
    def _onto(scene: Scene, bottom: str) -> Scene:
        return replace(scene, pad=scene.blocks[bottom][0])

    @staticmethod
    def placed(scene: Scene, colour: str) -> bool:
        """Whether the block lies on what stands in for the pad."""
        gap = scene.blocks[colour][0] - scene.pad
        return scene.held != colour and float(np.hypot(*gap[:2])) < ON_TOP_M and abs(gap[2] - 0.04) < LEVEL_M

    def _carry(self, scene: Scene, held: str, pinch: F64, colour: str) -> Motion:
        if held != colour:
            return super()._carry(scene, held, pinch, colour)
        block, _ = scene.blocks[held]
        rest_z, error = scene.pad[2] + 2 * BLOCK_HALF_M, float(np.hypot(*(scene.pad[:2] - block[:2])))
        if error < 0.006 and block[2] < rest_z + DROP_M:
            return still(OPEN_M)
        offset = pinch - block
        height = funnel(error, float(rest_z) + 0.001, 0.02) + offset[2]
        x, y = scene.pad[:2] + offset[:2]
        return Motion(self.toward_point(scene, pinch, float(x), float(y), float(height), 0.0), CLOSED_M)


STACK = Task(
    templates=(
        "put the {} block on the {} block", "stack the {} block on top of the {} block",
        "place the {} block on the {} one", "set the {} cube on the {} cube",
    ),
    wordings=(
        "move the {} block onto the {} one",
        "lay the {} cube on top of the {} block",
        "the {} block goes on the {} block",
        "take the {} block and put it on top of the {} block",
        "build a tower: the {} block on the {} block",
        "rest the {} cube on the {} cube",
        "pick up the {} one and stack it on the {} one",
        "{} on top of {}",
    ),
    hard_templates=("pile the {} block onto the {} block", "balance the {} cube on top of the {} cube"),
    blocks=(REGION_X_M, REGION_Y_M), pad=(REGION_X_M, REGION_Y_M), time_limit_s=14.0,
    targets=tuple(f"{a} on {b}" for a in COLOURS for b in COLOURS if a != b), named=target_of, draw=draw,
    check=StackCheck,
)
