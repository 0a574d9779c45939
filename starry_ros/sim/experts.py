"""The scripted expert of each task, behind one protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from starry_ros.sim.cell import Cell
from starry_ros.sim.expert_place import PlaceExpert
from starry_ros.sim.kinematics import ArmKinematics
from starry_ros.sim.task import NextContact
from starry_ros.sim.task_button import ButtonExpert
from starry_ros.sim.task_drawer import DrawerExpert
from starry_ros.sim.task_dual import DualExpert
from starry_ros.sim.task_handover import HandoverExpert
from starry_ros.sim.task_stack import StackExpert
from starry_ros.sim.task_tray import TrayExpert
from starry_ros.sim.tasks import task_of
from starry_ros.types import F64


class Expert(Protocol):
    """`look` reads the truth; everything else follows from what was seen."""

    arm: str
    """The arm that picks."""
    kinematics: ArmKinematics

    def look(self, cell: Cell) -> Any:
        """The scene, in the expert's own terms."""

    def stage(self, scene: Any, colour: str) -> str:
        """`pick`, `handover`, `place` or `done`."""

    def empty_jaw(self, scene: Any, pinch: F64) -> bool:
        """Whether the picking arm's jaw is closed or closing on nothing; `pinch` is where its pads are."""

    def motion(self, scene: Any, colour: str) -> Any:
        """What the expert wants now."""

    def follow(self, command_J: F64, motion: Any) -> F64:
        """Position targets [J] one tick after `command_J`."""

    def plan(self, cell: Cell, colour: str) -> F64:
        """The next positions [K, J]."""

    def to_go_s(self, cell: Cell, colour: str, most_s: float) -> float:
        """How long it would take from the present state until its stage is `done`, at most `most_s`."""

    def contacts(self, scene: Any, colour: str) -> list[NextContact] | None:
        """What will be touched next, in order; None: the log of contacts finds that out by itself."""


def make_expert(task: str, cell: Cell) -> Expert:
    """The expert of a task; ConfigError if the task is unknown."""
    task_of(task)
    return _EXPERTS[task](cell)


_EXPERTS: dict[str, Callable[[Cell], Expert]] = {
    "place_block_pad": PlaceExpert, "handover_block": HandoverExpert, "stack_blocks_two": StackExpert,
    "place_dual_blocks": DualExpert, "lift_tray": TrayExpert, "press_button": ButtonExpert,
    "put_block_drawer": DrawerExpert,
}
