"""A planner that tells every step it takes, and one that takes the same steps again.

What a plan is made of is not only its observation: frames that were only taken in, sentences, the effort that the clock
allowed, and what was and would be commanded. With these told, a session can be made again bit for bit on any machine.

Shapes: U actions a history slot, J joints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from starry_ros.types import F64, Canvas, Plan, RobotState
from starry_ros.wam.choices import PlanMode, SpliceMethod
from starry_ros.wam.gasam import Scene
from starry_ros.wam.ladder import Ladder, Rung
from starry_ros.wam.planner import Commitment, Planner, PlannerConfig
from starry_ros.wam.runtimes.base import Effort
from starry_ros.wam.session import Session
from starry_ros.wam.steps import OBSERVE, OPEN, PLAN, RESET, SENTENCE, Step, checksum


class TracingPlanner(Planner):
    """A planner whose `tell` hears every step that changed something."""

    def __init__(self, session: Session, config: PlannerConfig, *, tell: Callable[[Step], None], **more: Any) -> None:
        super().__init__(session, config, **more)
        self._tell, self._tied_to = tell, Commitment(np.zeros((0, 0)))
        values = {"mode": self.config.mode.value, "splice": config.splice.value, "execute_s": config.execute_s}
        tell(Step(OPEN, values, {}))

    def reset(self, instruction: str) -> int:
        """Start an episode; returns its epoch."""
        epoch = super().reset(instruction)
        self._tell(Step(RESET, {"text": instruction, "epoch": epoch}, {}))
        return epoch

    def set_instruction(self, text: str) -> int:
        """Swap the sentence; returns its id."""
        instruction_id = super().set_instruction(text)
        self._tell(Step(SENTENCE, {"text": text}, {}))
        return instruction_id

    def observe(
        self, canvas: Canvas, state: RobotState, executed_UJ: F64 | None = None, scene: Scene | None = None
    ) -> None:
        """Take a real frame into the history."""
        super().observe(canvas, state, executed_UJ, scene)
        executed_UJ = self.session.executed_UJ
        values = {"crc": checksum(canvas), "executed": None if executed_UJ is None else executed_UJ.tolist()}
        self._tell(Step(OBSERVE, values, {"canvas": canvas.stamp_ns, "state": state.stamp_ns}))

    def plan(self, now_ns: int, asked_ns: int | None = None) -> Plan | None:
        """Plan from the newest observation."""
        plan = super().plan(now_ns, asked_ns)
        if plan is not None:
            committed = self._tied_to.steps
            known = self._tied_to.known_KJ.tolist() if committed else []
            values = {"chunk": plan.chunk.chunk_id, "rung": self.ladder.rung.value, "committed": committed}
            self._tell(Step(PLAN, {**values, "known": known}, {}))
        return plan

    def commitment(self) -> Commitment:
        """What a plan made now is tied to."""
        self._tied_to = super().commitment()
        return self._tied_to


class RetracingPlanner(Planner):
    """A planner that is told the rung of each plan, what it knew, and how many steps of that were committed."""

    def __init__(self, session: Session, mode: str, splice: str, execute_s: float) -> None:
        super().__init__(session, PlannerConfig(PlanMode(mode), SpliceMethod(splice), execute_s=execute_s))
        self._fixed = _FixedLadder(self.ladder)
        self.ladder = self._fixed
        self._tied_to = Commitment(self._nothing)

    def plan_as(self, rung: str, committed: int, known: Sequence[Sequence[float]]) -> Plan | None:
        """Plan as it was planned."""
        self._fixed.rung = Rung(rung)
        known_KJ = np.array(known, dtype=np.float64).reshape(-1, len(self.session.spec.joint_names))
        self._tied_to = Commitment(known_KJ, committed)
        return self.plan(0)

    def commitment(self) -> Commitment:
        """What the plan was tied to."""
        return self._tied_to


class _FixedLadder(Ladder):
    """A ladder that stays where it is put."""

    def __init__(self, like: Ladder) -> None:
        self.__dict__.update(vars(like))
        self.rung = Rung.FULL

    def choose(self, now_ns: int, known_s: float = 0.0) -> Rung:
        return self.rung

    def effort(self, rung: Rung) -> Effort:
        return super().effort(rung)

    def add(self, rung: Rung, stages_s: Mapping[str, float], total_s: float, now_ns: int) -> None:
        """Times of another day say nothing."""
