# ruff: noqa: E402 - the signal handler comes before the slow imports
"""The fake session on a machine that a sentence makes slow: `SLOW_STAGES` says in which stages of a plan.

Run as a program.
"""

import signal

signal.signal(signal.SIGINT, lambda *_: exit(0))  # quiet while the libraries are loading

import time
from dataclasses import replace
from typing import Any

from fake_world_action import FakeSession

from starry_ros.ros.run import run
from starry_ros.ros.world_action_node import WorldActionNode
from starry_ros.types import Plan
from starry_ros.wam.runtimes.base import WHOLE_PLAN, Effort

SLOW_S = 0.6
SLOW_STAGES = {"imagine slowly": ("video",), "imagine and act slowly": ("video", "action")}


class SlowSession(FakeSession):
    """Sleeps in the slow stages that a plan goes through; one whose effort leaves them out is quick."""

    slow: tuple[str, ...] = ()

    def set_instruction(self, text: str) -> int:
        self.slow = SLOW_STAGES.get(text, ())
        return super().set_instruction(text)

    def plan(self, effort: Effort = WHOLE_PLAN, *more: Any) -> Plan:
        run_through = {"video": effort.video, "action": True}
        stages_s = {stage: SLOW_S for stage in self.slow if run_through[stage]}
        time.sleep(sum(stages_s.values()))
        return replace(super().plan(effort, *more), timing_s=stages_s)


if __name__ == "__main__":
    raise SystemExit(run(lambda: WorldActionNode(lambda values, spec: SlowSession(spec))))
