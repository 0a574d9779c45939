"""A planner as a policy of the closed loop, with the loop's latency known to it. Every plan is made whole."""

from __future__ import annotations

import math

from starry_ros.errors import StarryError
from starry_ros.sim.choices import LoopConfig
from starry_ros.types import ActionChunk, Canvas, Plan, RobotState
from starry_ros.wam.choices import PlanMode, SpliceMethod
from starry_ros.wam.gasam import Scene
from starry_ros.wam.ladder import LadderConfig
from starry_ros.wam.planner import Planner, PlannerConfig
from starry_ros.wam.session import Session


class PlannerPolicy:
    """Plans in the mode of a loop's configuration."""

    def __init__(self, session: Session, loop: LoopConfig) -> None:
        self.planner = Planner(session, PlannerConfig(
            PlanMode(loop.mode), SpliceMethod(loop.splice), loop.replan_s, latency_s=loop.latency_s,
            ladder=LadderConfig(budget_s=math.inf),
        ))

    def reset(self, instruction: str) -> int:
        """Start an episode."""
        return self.planner.reset(instruction)

    def set_instruction(self, text: str) -> int:
        """Swap the sentence."""
        return self.planner.set_instruction(text)

    def told(self, course: ActionChunk) -> None:
        """Hear what the executor makes of the plans."""
        self.planner.told(course)

    def plan(self, canvas: Canvas, state: RobotState) -> Plan:
        """Observe, and plan from it."""
        return self._planned(canvas, state)

    def _planned(self, canvas: Canvas, state: RobotState, scene: Scene | None = None) -> Plan:
        self.planner.observe(canvas, state, scene=scene)
        plan = self.planner.plan(canvas.stamp_ns)
        if plan is None:
            raise StarryError("planner", "made no plan although it has no deadline")
        return plan
