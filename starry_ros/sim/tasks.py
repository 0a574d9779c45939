"""What the simulated robot can be asked to do: the list of all tasks, and one evaluation episode of each seed.

Training and evaluation layouts are drawn from random streams that differ in their first entropy word, so no
evaluation layout can occur in training. In the hard setting the cell looks and feels different in every episode
(`look`), and evaluation speaks in sentences that training never sees.

| task | arms | asked for |
|---|---|---|
| place_block_pad | right | the named block on the pad |
| handover_block | both | the right arm hands the named block to the left arm, which puts it on the pad at the left |
| stack_blocks_two | right | one named block on another |
| place_dual_blocks | both at once | the left arm's block on the left pad, the right arm's on the right pad |
| lift_tray | both, coupled | the tray lifted level, its block on it |
| press_button | right | the named button pressed |
| put_block_drawer | both | the left arm opens the drawer, the right arm puts the named block in |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from starry_ros.errors import ConfigError
from starry_ros.sim.cell import BlockPose, Layout
from starry_ros.sim.choices import COLOURS, SETTINGS, TASKS
from starry_ros.sim.look import Look
from starry_ros.sim.task import (
    BLOCK_GAP_M,
    PAD_GAP_M,
    REGION_X_M,
    REGION_Y_M,
    UNTOUCHED_S,
    YAW_RAD,
    Check,
    PlaceCheck,
    Region,
    Split,
    Task,
    colours_in,
    episode_rng,
    named_colour,
)
from starry_ros.sim.task_button import BUTTON
from starry_ros.sim.task_drawer import DRAWER
from starry_ros.sim.task_dual import DUAL
from starry_ros.sim.task_handover import HANDOVER, HandoverCheck
from starry_ros.sim.task_stack import STACK
from starry_ros.sim.task_tray import TRAY

__all__ = [
    "BLOCK_GAP_M", "HANDOVER", "PAD_GAP_M", "PLACE", "REGION_X_M", "REGION_Y_M", "SETTINGS", "TASKS", "TEMPLATES",
    "UNTOUCHED_S", "YAW_RAD", "Check", "HandoverCheck", "PlaceCheck", "Region", "Split", "Task", "draw_layout",
    "drawn_case", "episode_rng", "evaluation_case", "make_check", "named_colour", "named_target", "sentence", "task_of",
]

PLACE = Task(
    templates=(
        "put the {} block on the pad",
        "place the {} block on the white pad",
        "move the {} block onto the pad",
        "pick up the {} block and put it on the pad",
        "take the {} block to the pad",
        "set the {} cube down on the white pad",
    ),
    wordings=(
        "drop the {} block off on the pad",
        "the pad is where the {} block belongs",
        "get the {} cube and lay it on the white pad",
        "carry the {} cube to the pad",
        "i want the {} block on the pad",
        "please put the {} cube onto the white square",
        "grab the {} one and move it to the pad",
        "transfer the {} block to the white pad",
    ),
    hard_templates=("bring the {} block over to the white square", "the {} cube goes on the pad"),
    blocks=(REGION_X_M, REGION_Y_M), pad=(REGION_X_M, REGION_Y_M), time_limit_s=12.0,
)
_TASKS: Mapping[str, Task] = {
    "place_block_pad": PLACE, "handover_block": HANDOVER, "stack_blocks_two": STACK, "place_dual_blocks": DUAL,
    "lift_tray": TRAY, "press_button": BUTTON, "put_block_drawer": DRAWER,
}
TEMPLATES = PLACE.templates


def task_of(name: str) -> Task:
    """A task by name; ConfigError if it is unknown."""
    if name not in _TASKS:
        raise ConfigError("task", "is unknown", got=repr(name), expected=list(TASKS))
    return _TASKS[name]


def sentence(target: str, template: int = 0, task: str = "place_block_pad", unseen: bool = False) -> str:
    """An instruction; `template` counts through the task's sentences, or those that training never sees."""
    spec = task_of(task)
    if target not in spec.targets:
        raise ConfigError(task, "unknown colour", got=target, expected=list(spec.targets))
    templates = spec.hard_templates if unseen and spec.hard_templates else spec.templates
    return templates[template % len(templates)].format(*colours_in(target))


def named_target(text: str, task: str = "place_block_pad") -> str | None:
    """What a sentence asks for in a task, or None if that is not clear."""
    found = task_of(task).named(text)
    return found if found in task_of(task).targets else None


def named_first(text: str) -> bool:
    """Whether the first contact depends on what a sentence names; True for sentences of no task."""
    return all(task.named_first for task in _TASKS.values() if text in _sentences(task))


def same_meaning(text: str) -> tuple[str, ...]:
    """Everything that training says for what this sentence asks for; empty for a sentence that training never says."""
    for task in _TASKS.values():
        for target in task.targets:
            told = _told(task, target)
            if text in told:
                return told
    return ()


def _told(task: Task, target: str) -> tuple[str, ...]:
    return tuple(template.format(*colours_in(target)) for template in (*task.templates, *task.wordings))


def _sentences(task: Task) -> set[str]:
    return {text for target in task.targets for text in _told(task, target)}


def draw_layout(
    rng: np.random.Generator, task: str = "place_block_pad", target: str = "", setting: str = "easy"
) -> Layout:
    """Where things lie in one episode: apart from each other, turned a little; a new look in the hard setting."""
    spec = task_of(task)
    layout = _blocks_and_pad(rng, spec) if spec.draw is None else spec.draw(rng, target or spec.targets[0])
    if setting == "easy":
        return layout
    return dataclasses.replace(layout, scene=f"{layout.scene}+clutter", look=Look(int(rng.integers(2**31))))


def _blocks_and_pad(rng: np.random.Generator, spec: Task) -> Layout:
    """Three blocks and the pad in the task's regions. Not by `draw_apart`: another order of draws is other layouts."""
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


def drawn_case(
    split: Split, seed: int, task: str = "place_block_pad", setting: str = "easy"
) -> tuple[Layout, str, str]:
    """Layout, target and sentence of one episode of a split; targets and sentences take turns."""
    rng, targets = episode_rng(split, seed), task_of(task).targets
    target = targets[seed % len(targets)]
    text = sentence(target, seed // len(targets), task, unseen=split == "eval" and setting == "hard")
    return draw_layout(rng, task, target, setting), target, text


def evaluation_case(seed: int, task: str = "place_block_pad", setting: str = "easy") -> tuple[Layout, str, str]:
    """Layout, target and sentence of one evaluation episode."""
    return drawn_case("eval", seed, task, setting)


def make_check(task: str, target: str) -> Check:
    """The success test of a task for the named target."""
    check = task_of(task).check
    return PlaceCheck(target) if check is None else check(target)
