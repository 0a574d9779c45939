"""The scripted expert as a policy of the closed loop: it reads the cell's ground truth instead of the canvas."""

from __future__ import annotations

import numpy as np

from starry_ros.errors import InputError
from starry_ros.robot_spec import RobotSpec
from starry_ros.sim.cell import Cell
from starry_ros.sim.experts import make_expert
from starry_ros.sim.tasks import named_target
from starry_ros.timing import nanoseconds
from starry_ros.types import F64, ActionChunk, Canvas, Plan, RobotState, ValueMap

VALUE_STRIDE_PX = 4
EVENTS = 2


class ExpertPolicy:
    """Plans by the expert's kinematic roll-out. Its value maps are empty."""

    def __init__(self, cell: Cell, task: str = "place_block_pad") -> None:
        self._cell, self._task, self._expert = cell, task, make_expert(task, cell)
        self._colour = ""
        self._epoch = self._instruction_id = self._chunk_id = 0

    def reset(self, instruction: str) -> int:
        """Start an episode. Raises InputError if the sentence does not name a target."""
        self.set_instruction(instruction)
        self._epoch += 1
        return self._epoch

    def set_instruction(self, text: str) -> int:
        """Follow another sentence from the next plan on."""
        colour = named_target(text, self._task)
        if colour is None:
            raise InputError("instruction", "does not say what to do in this task", got=repr(text))
        self._colour = colour
        self._instruction_id += 1
        return self._instruction_id

    def plan(self, canvas: Canvas, state: RobotState) -> Plan:
        """The expert's next positions from the present command."""
        self._chunk_id += 1
        positions_KJ = self._expert.plan(self._cell, self._colour)
        names = self._chunk_id, self._epoch, self._instruction_id
        chunk = chunk_at(self._cell.spec, canvas.stamp_ns, positions_KJ, *names)
        height, width = (size // VALUE_STRIDE_PX for size in canvas.image_HWC.shape[:2])
        values = np.zeros((EVENTS, height, width), dtype=np.float32)
        return Plan(chunk, ValueMap(canvas.stamp_ns, canvas.layout_hash, VALUE_STRIDE_PX, values, ()), None)


def chunk_at(
    spec: RobotSpec, stamp_ns: int, positions_KJ: F64, chunk_id: int, epoch: int, instruction_id: int
) -> ActionChunk:
    """A chunk whose first step lies one step after the observation."""
    step_ns = nanoseconds(spec.action.step_s)
    return ActionChunk(
        chunk_id, epoch, instruction_id, stamp_ns, stamp_ns + step_ns, step_ns, spec.joint_names, positions_KJ,
        spec.content_hash,
    )
