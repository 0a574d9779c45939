"""What an episode can be: names of colours, tasks, settings and forced cases, and the timing of the closed loop.

Imports nothing heavy, so that the command line can offer these names without a simulator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

COLOURS = ("red", "green", "blue")
TASKS = (
    "place_block_pad", "handover_block", "stack_blocks_two", "place_dual_blocks", "lift_tray", "press_button",
    "put_block_drawer",
)
"""`tasks` says what each of them is."""
SETTINGS = ("easy", "hard")
STAGES = ("pick", "place", "done", "handover")
"""What is being done about the named object. Data hold the index into this, so new ones go to the end."""
Kind = Literal["normal", "closed_jaw", "swap", "push", "dropped", "missed"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""`cases` says what happens in each of them. Random streams hold the index into this, so new ones go to the end."""
_ONE_BLOCK = ("place_block_pad", "handover_block", "put_block_drawer")
_BLOCKS = (*_ONE_BLOCK, "stack_blocks_two", "place_dual_blocks")
FORCED: Mapping[Kind, tuple[str, ...]] = {
    "closed_jaw": _ONE_BLOCK, "swap": _ONE_BLOCK, "push": _BLOCKS, "dropped": _BLOCKS, "missed": _BLOCKS,
}
"""Forced cases and the tasks that have them: a button cannot be dropped; what slides off a dropped tray is lost."""


def cases_of(task: str) -> list[str]:
    """The forced cases that a task has."""
    return [kind for kind, tasks in FORCED.items() if task in tasks]


@dataclass(frozen=True)
class LoopConfig:
    """`latency_s` is from the observation to the arrival of its chunk, `replan_s` from observation to observation.

    `limit_s` ends an episode; None takes the task's own limit. After success it goes on for `after_s`. `mode` and
    `splice` are the planner's, for policies that have one; in mode "sync" the next observation is taken when the last
    chunk is over, and `replan_s` means nothing.
    """

    latency_s: float = 0.15
    replan_s: float = 0.4
    command_hz: float = 25.0
    limit_s: float | None = None
    after_s: float = 0.0
    keep_frames: bool = False
    mode: str = "async_grounded"
    splice: str = "auto"
