"""`place_dual_blocks`: both arms at once, each puts its named block on the pad of its side."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from starry_ros.sim.cell import BlockPose, Cell, Layout
from starry_ros.sim.choices import COLOURS
from starry_ros.sim.expert_place import Scene
from starry_ros.sim.pair import ARMS, Motions, PairExpert
from starry_ros.sim.task import NextContact, PlaceCheck, Task, colours_in, draw_apart, poses
from starry_ros.types import F64

SIDE_X_M, SIDE_Y_M = (0.04, 0.22), (0.09, 0.25)
MIDDLE = ((0.24, 0.30), (-0.02, 0.02))
PADS = {"left": "pad_left", "right": "pad"}


def target_of(text: str) -> str | None:
    """`red and blue`: the left arm's block, then the right arm's, as the sentence names them."""
    found = colours_in(text)
    return f"{found[0]} and {found[1]}" if len(found) == 2 and found[0] != found[1] else None


def draw(rng: np.random.Generator, target: str) -> Layout:
    """Each side has its block and its pad; the third block lies in the middle."""
    left, right = target.split(" and ")
    third = next(colour for colour in COLOURS if colour not in (left, right))
    mirrored = (-SIDE_Y_M[1], -SIDE_Y_M[0])
    sides = [(SIDE_X_M, SIDE_Y_M)] * 2 + [(SIDE_X_M, mirrored)] * 2 + [MIDDLE]
    points = draw_apart(rng, sides, np.full((5, 5), 0.095))
    made = poses(points, rng)
    blocks = {left: made[0], right: made[2], third: made[4]}
    pad_left = BlockPose(float(points[1, 0]), float(points[1, 1]), 0.0)
    return Layout(
        {colour: blocks[colour] for colour in COLOURS}, float(points[3, 0]), float(points[3, 1]), "cell+pads",
        {"left_pad_target": pad_left},
    )


class DualCheck:
    """Both blocks lie on their pads, untouched for half a second."""

    def __init__(self, target: str) -> None:
        self.colour = target
        self._parts = [PlaceCheck(colour, PADS[arm]) for arm, colour in zip(ARMS, target.split(" and "), strict=True)]

    def update(self, cell: Cell) -> bool:
        """Look at the cell; True once both hold."""
        return all([part.update(cell) for part in self._parts])


@dataclass(frozen=True)
class Both:
    """What each arm looks at, with its own pad."""

    arms: dict[str, Scene]

    @property
    def held(self) -> str | None:
        """A block in a hand."""
        return self.arms["left"].held or self.arms["right"].held

    @property
    def blocks(self) -> dict[str, tuple[F64, float]]:
        """Position and yaw of every block."""
        return self.arms["right"].blocks


class DualExpert(PairExpert[Both]):
    """Two place experts side by side."""

    def look(self, cell: Cell) -> Both:
        """Read the cell's ground truth."""
        scenes = {arm: rule.look(cell) for arm, rule in self.arms.items()}
        scenes["left"] = replace(scenes["left"], pad=cell.geom_position("pad_left"))
        return Both(scenes)

    def stage(self, scene: Both, colour: str) -> Literal["pick", "place", "done"]:
        """The stage of the arm that is behind."""
        named = dict(zip(ARMS, colour.split(" and "), strict=True))
        stages = [self.arms[arm].stage(scene.arms[arm], named[arm]) for arm in ARMS]
        return "pick" if "pick" in stages else "place" if "place" in stages else "done"

    def motion(self, scene: Both, colour: str) -> Motions:
        """Each arm's own rule."""
        named = zip(ARMS, colour.split(" and "), strict=True)
        return {arm: self.arms[arm].motion(scene.arms[arm], block) for arm, block in named}

    def imagine(self, scene: Both, command_J: F64) -> Both:
        """Each arm moves its own block."""
        moved = {arm: rule.imagine(scene.arms[arm], command_J[self.slices[arm]]) for arm, rule in self.arms.items()}
        return Both(moved)

    def contacts(self, scene: Both, colour: str) -> list[NextContact]:
        """The next contact of each arm."""
        found = []
        for arm, block in zip(ARMS, colour.split(" and "), strict=True):
            own = scene.arms[arm]
            stage = self.arms[arm].stage(own, block)
            if stage == "place":
                found.append(NextContact(PADS[arm], own.pad, block))
            elif stage == "pick":
                found.append(NextContact(block, own.blocks[block][0]))
        return found


DUAL = Task(
    templates=(
        "put the {} block on the left pad and the {} block on the right pad",
        "place {} on the left pad and {} on the right pad",
        "left arm takes the {} block, right arm takes the {} block, each to its pad",
    ),
    wordings=(
        "the {} block goes on the left pad, the {} block on the right pad",
        "move the {} cube to the left pad and the {} cube to the right pad",
        "with both arms, put {} on the left pad and {} on the right pad",
        "{} left, {} right: each block on its pad",
        "take the {} block with the left hand and the {} block with the right hand and put them on their pads",
        "place both blocks at once, {} at the left and {} at the right",
        "use the left arm for the {} cube and the right arm for the {} cube, and fill both pads",
        "set the {} one down on the left side and the {} one on the right side",
        "the left pad gets the {} cube while the right pad gets the {} cube",
        "carry {} and {} to the left and the right pad",
    ),
    hard_templates=("bring the {} cube to the pad at the left while the {} cube goes to the right one",),
    blocks=(SIDE_X_M, SIDE_Y_M), pad=(SIDE_X_M, SIDE_Y_M), time_limit_s=14.0, named_first=False,
    targets=tuple(f"{a} and {b}" for a in COLOURS for b in COLOURS if a != b), named=target_of, draw=draw,
    check=DualCheck,
)
