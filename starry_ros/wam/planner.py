"""When to plan, from what, and how a new chunk is tied to the running one.

| mode | plans |
|---|---|
| sync | when the executed part of a chunk is over; the arms wait meanwhile |
| async_naive | while the last chunk runs, as if the arms stood still until the plan is there |
| async_grounded | while the last chunk runs, knowing what will be commanded until the plan is there |

The grounded mode takes what will be commanded within the expected latency, as the executor says, as a *committed
prefix*: it is put at the head of the new chunk unchanged, and with `trained_prefix` the model knows it as clean tokens
after the newest real frame, so that the future it imagines is the one these actions lead to. The tokens are written
into a speculative part of the history and dropped after the plan; when their time has come, what really happened is
committed instead. A model is told no more steps than it was trained with: where more are committed, all are put back
as well, so that what is decoded goes on from the last of them.

| splice | the steps after the prefix |
|---|---|
| trained_prefix | decoded by a model that was trained with random prefixes |
| guided | pulled towards the last chunk by the gradient of the denoiser (PyTorch, streams one after the other) |
| put_back | the prefix is put back, noised, at every denoising step; for models without training for prefixes |
| linear_blend | faded linearly from the last chunk to the new one where both are known |
| hard_switch | as decoded; the prefix is cut over to |

Shapes: K chunk steps, D committed steps, J joints.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field, replace

import numpy as np

from starry_ros.errors import ConfigError
from starry_ros.timing import Clock, LatencyWindow, MonotonicClock, nanoseconds, seconds
from starry_ros.types import F64, ActionChunk, Canvas, Plan, RobotState
from starry_ros.wam.aim import aim_of, hands_free
from starry_ros.wam.choices import PlanMode, SpliceMethod
from starry_ros.wam.gasam import Scene
from starry_ros.wam.guidance import soft_weights
from starry_ros.wam.ladder import PLANNING, Ladder, LadderConfig, Rung
from starry_ros.wam.runtimes.base import Effort, Runtime
from starry_ros.wam.session import Session
from starry_ros.wam.surprise import Calibration, Monitor


@dataclass(frozen=True)
class PlannerConfig:
    """Times in seconds. `replan_s` is from one observation to the next while moving, `execute_s` the part of a chunk
    that the sync mode executes. The committed prefix covers `latency_s`, or the measured percentile where it is None,
    and `lead_s`, by which an executor commands ahead of the clock.
    """

    mode: PlanMode = PlanMode.ASYNC_GROUNDED
    splice: SpliceMethod = SpliceMethod.AUTO
    replan_s: float = 0.4
    execute_s: float = 0.8
    latency_s: float | None = None
    latency_percentile: float = 95.0
    lead_s: float = 0.05
    ladder: LadderConfig = field(default_factory=LadderConfig)


@dataclass(frozen=True)
class Commitment:
    """What will be commanded from the moment that a plan starts from: what is known of it [<= K, J], in steps of a
    chunk, and how many of these will have been commanded when a plan made now is in force.
    """

    known_KJ: F64
    steps: int = 0

    @property
    def prefix(self) -> F64:
        """The steps that the new chunk must begin with [D, J]."""
        return self.known_KJ[: self.steps]


class Planner:
    """One session, planned for in one mode. Not thread-safe."""

    def __init__(
        self, session: Session, config: PlannerConfig | None = None, clock: Clock | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.session, self.config = session, config or PlannerConfig()
        self._clock = clock or MonotonicClock()
        model = session.runtime.config
        rungs = (Rung.FULL,) if model.coupling == "joint" else PLANNING
        self.ladder = Ladder(self.config.ladder, model.video_steps, rungs)
        self.method = _method(self.config.splice, session.runtime)
        self._most_told = min(model.prefix_steps, model.history_actions)
        self._nothing: F64 = np.zeros((0, len(session.spec.joint_names)))
        self._latency = LatencyWindow(32)
        self.monitor = Monitor(calibration, nanoseconds(session.spec.action.step_s) // 2)
        still = {camera.name for camera in session.spec.cameras if camera.role == "head"}
        self._still = next((view for view in model.views if view.camera in still), None)
        self._free = False
        self._running: ActionChunk | None = None
        self._next_ns: int | None = None

    def reset(self, instruction: str) -> int:
        """Start an episode; returns its epoch. Where arms still move, tell the course again that they are on."""
        epoch = self.session.reset(instruction)
        self.monitor.forget()
        self.ladder.forget_dream()
        self._running = self._next_ns = None
        return epoch

    def set_instruction(self, text: str) -> int:
        """Swap the sentence and plan at once, all anew; the committed prefix of the old one is still carried out.

        Raises InputError on an unusable sentence, and keeps the old one.
        """
        instruction_id = self.session.set_instruction(text)
        self._next_ns = None
        self.monitor.forget_aim()
        self.ladder.forget_dream()
        return instruction_id

    @property
    def next_ns(self) -> int | None:
        """When the next plan is due; None where that is at once."""
        return self._next_ns

    def due(self, now_ns: int) -> bool:
        """Whether it is time to observe and plan."""
        return self._next_ns is None or now_ns >= self._next_ns

    def observe(
        self, canvas: Canvas, state: RobotState, executed_UJ: F64 | None = None, scene: Scene | None = None
    ) -> None:
        """Take a real frame into the history. Done between plans too, so that only the last frame is left to a plan.

        `executed_UJ`, if given, overrides what is known of the commands since the frame before; `scene` is the frame's,
        for a model with geometry-aware attention.
        """
        self.session.observe(canvas, state, scene, executed_UJ)
        self._free = hands_free(self.session.spec, state)
        self.monitor.compare(canvas.stamp_ns, self.session.runtime.latents())

    def plan(self, now_ns: int, asked_ns: int | None = None) -> Plan | None:
        """Plan from the newest observation, which was asked for at `asked_ns`; None on the rungs that make no plan."""
        known_s = seconds(self._running.end_ns - now_ns) if self._running is not None else math.inf
        rung = self.ladder.choose(now_ns, known_s if known_s > 0 else math.inf)
        if rung in (Rung.HOLD, Rung.STOP):
            self._next_ns = now_ns + nanoseconds(self.config.replan_s)
            return None
        begin_ns = self._clock.now_ns()
        plan = self._planned(self.ladder.effort(rung))
        took_s = seconds(self._clock.now_ns() - begin_ns)
        waited_s = seconds(now_ns - asked_ns) if asked_ns is not None else 0.0
        self.ladder.add(rung, plan.timing_s, waited_s + took_s, now_ns)
        newest_ns = self.session.newest_ns
        age_s = 0.0 if newest_ns is None else seconds(now_ns - newest_ns)
        self._latency.add(max(waited_s, age_s) + took_s)
        if self.config.mode is PlanMode.SYNC:
            plan = replace(plan, chunk=self._from_arrival(plan.chunk))
        # without grounding arms wait first, or are elsewhere by then: what was imagined comes late or not at all
        grounded = self.config.mode is PlanMode.ASYNC_GROUNDED
        if grounded and self.session.dream is not None and self.ladder.effort(rung).video:
            self.monitor.expect(self.session.dream)
        self.monitor.aim(aim_of(plan.value_map, self._still, self._free) if self._still is not None else None)
        self._running = plan.chunk
        sync = self.config.mode is PlanMode.SYNC
        self._next_ns = plan.chunk.end_ns if sync else now_ns + nanoseconds(self._pause_s())
        return plan

    def _pause_s(self) -> float:
        """Time to the next plan. Where the world has moved, that is made of the next frame of the history."""
        surprised = self.monitor.score is not None and self.monitor.score.level >= 1
        return min(self.config.replan_s, self.session.spacing_s) if surprised else self.config.replan_s

    def _from_arrival(self, chunk: ActionChunk) -> ActionChunk:
        """The same steps from the moment on at which the chunk is in force: the arms have waited for it."""
        latency_s, newest_ns = self.config.latency_s, self.session.newest_ns or chunk.observation_ns
        arrival_ns = self._clock.now_ns() if latency_s is None else newest_ns + nanoseconds(latency_s)
        return replace(chunk, start_ns=max(newest_ns, arrival_ns) + chunk.step_ns)

    def arrived(self, latency_s: float) -> None:
        """Tell how long a plan took from its observation until it was in force, where that is known from outside."""
        self._latency.add(latency_s)

    def told(self, course: ActionChunk) -> None:
        """Hear what the executor makes of the plans."""
        self.session.courses.add(course)

    def commitment(self) -> Commitment:
        """What a plan made now is tied to: nothing but in the grounded mode.

        It is what the executor said, or what the last chunk asked for where no executor tells its course. A plan may
        start `lag_steps` before the newest observation, from which latency counts.
        """
        observed_ns = self.session.observed_ns
        if self.config.mode is not PlanMode.ASYNC_GROUNDED or observed_ns is None:
            return Commitment(self._nothing)
        expected_s, step_s = self.config.latency_s, self.session.spec.action.step_s
        if expected_s is None:
            expected_s = self._latency.percentile_s(self.config.latency_percentile) or 0.0
        wanted = self.session.runtime.lag_steps + math.ceil((expected_s + self.config.lead_s) / step_s - 1e-9)
        known_KJ = self._known(observed_ns)
        return Commitment(known_KJ, min(wanted, len(known_KJ)))

    def _known(self, observed_ns: int) -> F64:
        """What is known of the steps after an observation [<= K, J], as long as the last chunk lasts.

        In the first plan of an episode, as long as the arms move on a course that was told since it began.
        """
        last = self._running
        if last is None or self.session.courses.awaited:
            return self._told_since(observed_ns)
        steps = self.session.runtime.config.chunk_steps
        step_s = seconds(last.step_ns)
        times_K = seconds(observed_ns - last.start_ns) + step_s * np.arange(1.0, steps + 1)
        own_K = step_s * np.arange(len(last.positions_KJ))
        if times_K[0] < -step_s:
            return self._nothing
        inside = times_K <= own_K[-1] + 1e-9
        told = [self.session.courses.at(observed_ns + (k + 1) * last.step_ns) for k in range(int(inside.sum()))]
        if told and all(row is not None for row in told):
            return np.stack([row for row in told if row is not None])
        return np.stack([np.interp(times_K[inside], own_K, column) for column in last.positions_KJ.T], axis=1)

    def _told_since(self, observed_ns: int) -> F64:
        """What the executor said of the steps after an observation, until the arms stand; nothing of standing arms."""
        courses, step_ns = self.session.courses, nanoseconds(self.session.spec.action.step_s)
        times_ns = (observed_ns + (k + 1) * step_ns for k in range(self.session.runtime.config.chunk_steps))
        rows = [courses.at(time_ns) for time_ns in times_ns if time_ns <= courses.end_ns]
        known = [row for row in rows if row is not None]
        return np.stack(known) if known and len(known) == len(rows) else self._nothing

    def _planned(self, effort: Effort) -> Plan:
        commitment = self.commitment()
        suppose: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if commitment.steps:
            effort = self._bound(effort, commitment)
            if self.method is SpliceMethod.TRAINED_PREFIX:
                suppose = self.session.supposing(commitment.prefix[: self._most_told])
        with suppose:
            return self.session.plan(effort, lambda chunk_KJ: self._tied(chunk_KJ, commitment), commitment.steps)

    def _bound(self, effort: Effort, commitment: Commitment) -> Effort:
        """The effort with what denoising has to know of the committed steps."""
        known_KJ, committed = commitment.known_KJ, commitment.steps
        untold = self.method is SpliceMethod.TRAINED_PREFIX and committed > self._most_told
        if untold or self.method is SpliceMethod.PUT_BACK:
            return replace(effort, known_DJ=self.session.in_model_units(commitment.prefix))
        if self.method is SpliceMethod.GUIDED:
            steps = self.session.runtime.config.chunk_steps
            whole = np.concatenate((known_KJ, np.repeat(known_KJ[-1:], steps - len(known_KJ), axis=0)))
            weights_K = soft_weights(steps, committed, len(known_KJ))
            return replace(effort, target_KJ=self.session.in_model_units(whole), weight_K=weights_K)
        return effort

    def _tied(self, positions_KJ: F64, commitment: Commitment) -> F64:
        """The decoded chunk behind its committed prefix; in sync mode only the part that is executed."""
        positions, known_KJ, committed = np.array(positions_KJ), commitment.known_KJ, commitment.steps
        if self.method is SpliceMethod.LINEAR_BLEND and committed:
            shares = np.clip((np.arange(len(known_KJ)) - committed + 1) / max(1, len(known_KJ) - committed), 0, 1)
            positions[: len(known_KJ)] = known_KJ + shares[:, None] * (positions[: len(known_KJ)] - known_KJ)
        positions[:committed] = commitment.prefix
        if self.config.mode is PlanMode.SYNC:
            positions = positions[: max(1, round(self.config.execute_s / self.session.spec.action.step_s))]
        return positions


def _method(asked: SpliceMethod, runtime: Runtime) -> SpliceMethod:
    """The way that was asked for; `auto` is what the model was trained for. ConfigError on one that it cannot go."""
    trained = runtime.config.prefix_steps > 0
    if asked is SpliceMethod.AUTO:
        return SpliceMethod.TRAINED_PREFIX if trained else SpliceMethod.PUT_BACK
    others = [method.value for method in SpliceMethod if method is not asked]
    if asked is SpliceMethod.TRAINED_PREFIX and not trained:
        raise ConfigError("splice", "the model was not trained with prefixes", got=asked.value, expected=others,
                          fix="choose another, or train with --prefix")
    if asked is SpliceMethod.GUIDED and not runtime.guides:
        raise ConfigError("splice", f"model {runtime.config.name} gives no gradient on runtime {runtime.name}",
                          got=asked.value, expected=others,
                          fix="choose another; runtime torch gives one for models trained here, but for coupling joint")
    return asked
