"""A planner that tells every step it takes, and one that takes the same steps again.

What a plan is made of is not only its observation: frames that were only taken in, sentences, the effort that the clock
allowed, and how many steps were committed. With these told, a session can be made again bit for bit on any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from starry_ros.types import F64, Canvas, Plan, RobotState
from starry_ros.wam.choices import PlanMode, SpliceMethod
from starry_ros.wam.ladder import Ladder, Rung
from starry_ros.wam.planner import Planner, PlannerConfig
from starry_ros.wam.runtimes.base import Effort
from starry_ros.wam.session import Session
from starry_ros.wam.steps import OBSERVE, OPEN, PLAN, RESET, SENTENCE, Step, checksum


class TracingPlanner(Planner):
    """A planner whose `tell` hears every step that changed something."""

    def __init__(self, session: Session, config: PlannerConfig, *, tell: Callable[[Step], None], **more: Any) -> None:
        super().__init__(session, config, **more)
        self._tell, self._committed = tell, 0
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

    def observe(self, canvas: Canvas, state: RobotState) -> None:
        """Take a real frame into the history."""
        super().observe(canvas, state)
        self._tell(Step(OBSERVE, {"crc": checksum(canvas)}, {"canvas": canvas.stamp_ns, "state": state.stamp_ns}))

    def plan(self, now_ns: int, asked_ns: int | None = None) -> Plan | None:
        """Plan from the newest observation."""
        plan = super().plan(now_ns, asked_ns)
        if plan is not None:
            values = {"chunk": plan.chunk.chunk_id, "rung": self.ladder.rung.value, "committed": self._committed}
            self._tell(Step(PLAN, values, {}))
        return plan

    def committed(self) -> F64:
        """What will be commanded until a plan made now is in force."""
        rows = super().committed()
        self._committed = len(rows)
        return rows


class RetracingPlanner(Planner):
    """A planner that is told the rung and the number of committed steps of each plan."""

    def __init__(self, session: Session, mode: str, splice: str, execute_s: float) -> None:
        super().__init__(session, PlannerConfig(PlanMode(mode), SpliceMethod(splice), execute_s=execute_s))
        self._fixed = _FixedLadder(self.ladder)
        self.ladder = self._fixed
        self._wanted = 0

    def plan_as(self, rung: str, committed: int) -> Plan | None:
        """Plan as it was planned."""
        self._fixed.rung, self._wanted = Rung(rung), committed
        return self.plan(0)

    def committed(self) -> F64:
        """As many of the last chunk's steps as were committed."""
        last, observed_ns = self._running, self.session.observed_ns
        if not self._wanted or last is None or observed_ns is None:
            none: F64 = np.zeros((0, len(self.session.spec.joint_names)))
            return none
        return self._known(last, observed_ns)[: self._wanted]


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
