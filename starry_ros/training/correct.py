"""Demonstrations that begin with a model's own doing (DAgger: Ross, Gordon and Bagnell, AISTATS 2011).

The model acts in the closed loop that serves it. In every frame the expert says what it would do from there, and after
a while it takes over and finishes. So the data hold the states that the model's mistakes lead to, such as an arm that
went home although its block lies beside the pad, with the way out of them; the expert alone never gets there. With a
kind, such as "dropped", that case comes upon the model in every episode, or upon the expert if it has taken over.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from starry_ros.robot_spec import RobotSpec
from starry_ros.sim.cases import Case
from starry_ros.sim.cell import Cell
from starry_ros.sim.choices import Kind, LoopConfig
from starry_ros.sim.expert_policy import ExpertPolicy
from starry_ros.sim.experts import make_expert
from starry_ros.sim.loop import Listener, Policy, run_episode
from starry_ros.sim.tasks import episode_rng, named_target, task_of
from starry_ros.timing import nanoseconds
from starry_ros.training.episodes import ATTEMPTS, EXTRA_S, FRAME_S, Recorder, Source
from starry_ros.training.film import films
from starry_ros.training.planner_policy import PlannerPolicy
from starry_ros.types import ActionChunk, Canvas, Plan, RobotState
from starry_ros.wam.load import load_session
from starry_ros.wam.session import Session, SessionConfig

KIND = "corrected"
FORCED = 0.1
"""Share of each forced case, where the task has such cases."""
PLAYED: tuple[Kind, ...] = ("normal", "closed_jaw", "swap", "push")
"""Further ones would change which episodes a seed gives."""
ACTS_FOR = (0.3, 1.0)
"""How long the model acts at most, as a share of the task's time limit."""
STILL_S, STILL_RAD_S = 1.0, 0.03
"""Arms that rest for so long have given up, or take themselves for finished: then the expert takes over at once."""
ALONE = 0.25
"""Share of the episodes that the model finishes by itself which are kept: they show little that is new."""
LATENCY_S, REPLAN_S = (0.1, 0.65), (0.4, 0.65)


class Relay:
    """The model until `after_s` from its first plan or until the arms rest, then the expert for good.

    Plans are numbered through both. `taken_over` says whether the expert has planned.
    """

    def __init__(self, model: Policy, expert: Policy, after_s: float) -> None:
        self._policies, self._after_ns = (model, expert), nanoseconds(after_s)
        self._begin_ns: int | None = None
        self._moved_ns = 0
        self.taken_over = False
        self._chunk_id = self._instruction_id = 0
        self.instruction = ""

    def reset(self, instruction: str) -> int:
        """Start the episode."""
        self._begin_ns, self.instruction, self.taken_over = None, instruction, False
        for policy in self._policies:
            policy.reset(instruction)
        return 1

    def set_instruction(self, text: str) -> int:
        """Swap the sentence."""
        self.instruction = text
        self._instruction_id += 1
        for policy in self._policies:
            policy.set_instruction(text)
        return self._instruction_id

    def told(self, course: ActionChunk) -> None:
        """Hear what the executor makes of the plans."""
        for policy in self._policies:
            if isinstance(policy, Listener):
                policy.told(course)

    def plan(self, canvas: Canvas, state: RobotState) -> Plan:
        """The plan of whose turn it is."""
        now_ns = canvas.stamp_ns
        if self._begin_ns is None:
            self._begin_ns = self._moved_ns = now_ns
        if np.abs(state.velocity_J).max() > STILL_RAD_S:
            self._moved_ns = now_ns
        rests = now_ns - self._moved_ns >= nanoseconds(STILL_S)
        self.taken_over |= rests or now_ns - self._begin_ns >= self._after_ns
        plan = self._policies[self.taken_over].plan(canvas, state)
        self._chunk_id += 1
        chunk = replace(plan.chunk, chunk_id=self._chunk_id, epoch=1, instruction_id=self._instruction_id)
        return replace(plan, chunk=chunk)


class _Watcher:
    """Records a frame every `FRAME_S`."""

    def __init__(self, recorder: Recorder, relay: Relay, cell: Cell, task: str) -> None:
        self._recorder, self._relay, self._task = recorder, relay, task
        self._expert = make_expert(task, cell)
        self._due_s = 0.0

    def looked(self, cell: Cell) -> None:
        """Record what is due."""
        if cell.sim_time_s >= self._due_s - 1e-6:
            text = self._relay.instruction
            colour = named_target(text, self._task)
            assert colour is not None, text
            self._recorder.frame(self._expert.look(cell), colour, text)
            self._due_s += FRAME_S
        self._recorder.log.update(cell)

    def planned(self, cell: Cell, canvas: Canvas, plan: Plan, colour: str) -> None:
        """Nothing: the frames are recorded at their own rate."""


def record_corrected(cell: Cell, source: Source, episode: int, attempt: int) -> tuple[Recorder, str, bool]:
    """Run and record one motion; returns its record, its kind and whether the task succeeded."""
    assert source.model is not None
    task, rng = source.task, episode_rng("train", source.seed, episode, attempt)
    seed, kind = int(source.seed * 2**20 + attempt * 2**16 + episode), _kind(rng, task)
    case = Case(seed, kind if source.kind is None else cast(Kind, source.kind), task, source.setting, "train")
    limit_s = task_of(task).time_limit_s
    acts_s = float(rng.uniform(*ACTS_FOR)) * limit_s
    loop = LoopConfig(float(rng.uniform(*LATENCY_S)), float(rng.uniform(*REPLAN_S)), limit_s=limit_s + acts_s + EXTRA_S)
    session = _session(source.model, cell.spec)
    session.epoch = case.seed
    relay = Relay(PlannerPolicy(session, loop), ExpertPolicy(cell, task), acts_s)
    shots = films(cell, source.further_looks(episode, attempt), source.depth)
    recorder = Recorder(cell, task, make_expert(task, cell), shots)
    result = run_episode(relay, cell, case, loop, _Watcher(recorder, relay, cell, task))
    if source.kind is not None:  # worth showing, whoever makes it good
        return recorder, source.kind, result.success and result.forced
    wanted = relay.taken_over or attempt == ATTEMPTS - 1 or rng.random() < ALONE
    return recorder, KIND, result.success and wanted


def _kind(rng: np.random.Generator, task: str) -> Kind:
    """Mostly the usual start; only placing has forced cases."""
    shares = [1 - FORCED * (len(PLAYED) - 1), *[FORCED] * (len(PLAYED) - 1)]
    return PLAYED[rng.choice(len(PLAYED), p=shares)] if task == "place_block_pad" else "normal"


_SESSIONS: dict[tuple[Path, str], Session] = {}
"""Models of a worker process, each loaded once."""


def _session(folder: Path, spec: RobotSpec) -> Session:
    key = folder, spec.content_hash
    if key not in _SESSIONS:
        _SESSIONS[key] = load_session(folder, spec, config=SessionConfig(imagine=False))
    return _SESSIONS[key]
