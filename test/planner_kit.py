"""A planner on a machine as slow as a test says, on a fake clock: a plan takes the time of the stages that it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from wam_kit import CONFIG, LAYOUT, SPEC, LetterEncoder, make_canvas, make_checkpoint, make_state

from starry_ros.timing import NS_PER_S, FakeClock
from starry_ros.types import ActionChunk
from starry_ros.wam.ladder import LadderConfig, Rung
from starry_ros.wam.planner import Planner, PlannerConfig
from starry_ros.wam.runtimes.base import WHOLE_PLAN, Effort, Noise, Prediction
from starry_ros.wam.runtimes.torch_runtime import torch_runtime
from starry_ros.wam.session import Session

RED = "put the red block on the pad"


def stages_of(stages_s: Mapping[str, float], effort: Effort) -> dict[str, float]:
    """What of these times an effort costs."""
    return {"video": stages_s["video"] * effort.video, "value": stages_s["value"] * effort.value,
            "action": stages_s["action"]}


class SlowPlanner:
    """Plans when a plan is due, like the node; `times_s` and `rungs` tell when each was asked for and what came."""

    def __init__(self, stages_s: Mapping[str, float], ladder: LadderConfig, coupling: str = "intent_causal") -> None:
        checkpoint = make_checkpoint()
        runtime = torch_runtime(checkpoint.build_model(), checkpoint.autoencoder)
        session = Session(runtime, checkpoint.stats, LetterEncoder(), SPEC, LAYOUT.layout_hash)
        self.stages_s, self.clock = stages_s, FakeClock(NS_PER_S)
        self._predict, runtime.predict = runtime.predict, self._slowly  # type: ignore[method-assign]
        runtime.config = replace(CONFIG, coupling=coupling)
        self.planner = Planner(session, PlannerConfig(ladder=ladder), self.clock)
        runtime.config = CONFIG
        self.planner.reset(RED)
        self.times_s: list[float] = []
        self.rungs: list[Rung] = []
        self.chunks: list[ActionChunk] = []

    def _slowly(self, noise: Noise, state_J: np.ndarray, effort: Effort = WHOLE_PLAN) -> Prediction:
        took = stages_of(self.stages_s, effort)
        self.clock.advance_s(sum(took.values()))
        return replace(self._predict(noise, state_J, effort), seconds=took)

    def plan(self) -> Rung:
        """Wait until a plan is due, observe and plan; returns the rung."""
        while not self.planner.due(self.clock.now_ns()):
            self.clock.advance_s(0.02)
        now_ns = self.clock.now_ns()
        self.planner.observe(make_canvas(now_ns), make_state(now_ns))
        plan = self.planner.plan(now_ns, now_ns)
        self.clock.advance_s(0.001)
        self.times_s.append((now_ns - NS_PER_S) * 1e-9)
        self.rungs.append(self.planner.ladder.rung)
        if plan is not None:
            self.chunks.append(plan.chunk)
        return self.rungs[-1]

    def until(self, rung: Rung, most: int = 60) -> None:
        """Plan until this rung has been taken twice in turn, so that it is no probe."""
        for _ in range(most):
            if self.plan() is rung and self.rungs[-2:] == [rung, rung]:
                return
        raise AssertionError(f"never {rung}: {self.rungs}")

    def graphs_of(self, act: Callable[[], Any]) -> list[str]:
        """The graphs that run while something is done, in order."""
        engines, ran = self.planner.session.runtime.engines, list[str]()  # type: ignore[attr-defined]
        whole = dict(engines)

        def listened(name: str) -> Callable[[Any], Any]:
            return lambda arrays: ran.append(name) or whole[name](arrays)

        engines.update({name: listened(name) for name in whole})
        act()
        engines.update(whole)
        return ran
