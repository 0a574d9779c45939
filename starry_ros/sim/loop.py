"""The closed loop without ROS: one episode of a policy in the simulated cell, in simulated time.

The path is the one of the ROS graph: rendered views are packed into a canvas, the policy plans on it, its chunk reaches
the executor one latency later, the executor's look-ahead goes to the trajectory controllers of the simulated driver.
Planning is serial: an observation is taken when `replan_s` has passed since the last one and its chunk was handed over.

Times are simulated nanoseconds; only `plan_s` is measured on the wall clock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.canvas.pack import CanvasPacker
from starry_ros.control.executor import Executor
from starry_ros.control.safety import Mode
from starry_ros.control.status import ExecutorConfig
from starry_ros.sim.cases import SWAP_SHARE, Case, closed_jaw_start, other_colour
from starry_ros.sim.cell import Cell
from starry_ros.sim.choices import LoopConfig
from starry_ros.sim.driver import Scene, SimulatedDriver
from starry_ros.sim.mishaps import make_mishap
from starry_ros.sim.task import colours_in
from starry_ros.sim.tasks import task_of
from starry_ros.sim.trajectory_controller import Trajectory, TrajectoryPoint
from starry_ros.timing import NS_PER_S, nanoseconds, seconds
from starry_ros.types import U8, ActionChunk, CameraFrame, Canvas, FrameSet, Plan, RobotState

USUAL = LoopConfig()
ENDED = (Mode.FAULT, Mode.STOP)
"""Modes that nobody leads the executor out of here."""
LATENCIES_WAITED = 2
"""Arms wait so many latencies for a plan before they ask for `arm`, where that is more than the executor's patience:
what whoever runs so slow a planner has to set."""
LOOK_EVERY_TICKS = 2
"""Joint states and the success test run at half the control rate, as in the simulated robot."""


class Policy(Protocol):
    """Whatever turns observations into plans."""

    def reset(self, instruction: str) -> int:
        """Start an episode; returns its epoch."""

    def set_instruction(self, text: str) -> int:
        """Swap the sentence; returns the new instruction id."""

    def plan(self, canvas: Canvas, state: RobotState) -> Plan:
        """Observe, and plan from it."""


@runtime_checkable
class Listener(Protocol):
    """A policy that hears what the executor makes of its plans."""

    def told(self, course: ActionChunk) -> None:
        """What will be commanded if nothing new comes."""


class Watcher(Protocol):
    """Looks on for measurements that need the truth; `colour` is the block that the sentence names."""

    def looked(self, cell: Cell) -> None:
        """Called at half the control rate."""

    def planned(self, cell: Cell, canvas: Canvas, plan: Plan, colour: str) -> None:
        """Called at the observation that `plan` was made from."""


@dataclass(frozen=True)
class EpisodeResult:
    """One episode. `failure` is empty on success, else `wrong_block`, `dropped`, `timeout` or `stopped: <reason>`.

    `duration_s` counts from the sentence that has to be followed, or from what was forced. `stall_share` is of the
    executor's running ticks, `delay_s` the worst delay that limits added to a plan. `plan_s` holds the measured time
    of every plan, `frames` the canvases if they were kept. `splice_jump` and `velocity_jump` are the worst
    differences of a plan from the command at its border, `chunk_age_s` the mean age of the observation behind the plan
    in force. `forced` says whether what the case forces came about: a block that nobody takes cannot be dropped.
    """

    case: Case
    colour: str
    instruction: str
    success: bool
    failure: str
    duration_s: float
    stall_share: float
    delay_s: float
    refused: Mapping[str, int]
    plan_s: tuple[float, ...]
    frames: tuple[U8, ...] = ()
    splice_jump: float = 0.0
    velocity_jump: float = 0.0
    chunk_age_s: float = 0.0
    forced: bool = True


def run_episode(
    policy: Policy, cell: Cell, case: Case, config: LoopConfig = USUAL, watcher: Watcher | None = None
) -> EpisodeResult:
    """Run one episode to success or the time limit. `cell` may be used again afterwards."""
    return _Episode(policy, cell, case, config, watcher).run()


class _Episode:
    """The state of one run."""

    def __init__(self, policy: Policy, cell: Cell, case: Case, config: LoopConfig, watcher: Watcher | None) -> None:
        self.policy, self.cell, self.case, self.config, self.watcher = policy, cell, case, config, watcher
        self.scene, self._rng = Scene(cell), case.rng()
        self.scene.reset(case.task, case.setting, case.seed, case.split)
        if case.kind == "closed_jaw":
            self.scene.restart(closed_jaw_start(cell, self.scene.layout, self.scene.colour, self._rng))
        self._limit_s = task_of(case.task).time_limit_s if config.limit_s is None else config.limit_s
        self.driver = SimulatedDriver(cell.spec, cell, NS_PER_S)
        self.driver.restart()
        usual_s, slow_s = ExecutorConfig.patience_s, LATENCIES_WAITED * config.latency_s
        self.executor = Executor(cell.spec, ExecutorConfig(patience_s=usual_s and max(usual_s, slow_s)))
        self._listener = policy if isinstance(policy, Listener) else None
        self._packer = CanvasPacker(t_pose_layout(cell.spec))
        self._period_ns = nanoseconds(1 / cell.spec.rates.control_hz)
        self._command_ticks = max(1, round(cell.spec.rates.control_hz / config.command_hz))
        self._pending: tuple[int, ActionChunk] | None = None
        self._observe_ns = self._start_ns = self.driver.time_ns
        self._swap_at_m = self._hand_to_block() * (1 - SWAP_SHARE) if case.kind == "swap" else -math.inf
        self._mishap = make_mishap(case, self.scene, self.driver, self._rng)
        self._plan_s: list[float] = []
        self._frames: list[U8] = []
        self._delay_s, self._was_held = 0.0, False
        self._ages_s: list[float] = []
        self._done_ns: int | None = None

    def run(self) -> EpisodeResult:
        """Tick until the end."""
        policy, executor = self.policy, self.executor
        policy.reset(self.scene.instruction)
        executor.step(self.driver.time_ns, self.driver.state())
        executor.arm(self.driver.time_ns)
        tick, state = 0, self.driver.state()
        while not self._over():
            now_ns = self.driver.time_ns
            if tick % LOOK_EVERY_TICKS == 0:
                state = self.driver.state()
                self._look(now_ns)
            self._plan(now_ns, state)
            executor.step(now_ns, state)
            if tick % self._command_ticks == 0:
                self._command(now_ns)
            self.driver.tick()
            tick += 1
        return self._result()

    def _over(self) -> bool:
        late = seconds(self.driver.time_ns - self._start_ns) >= self._limit_s
        if self.scene.success and self._done_ns is None:
            self._done_ns = self.driver.time_ns
        done = self._done_ns is not None and seconds(self.driver.time_ns - self._done_ns) >= self.config.after_s
        return done or late or self.executor.status(self.driver.time_ns).mode in ENDED

    def _look(self, now_ns: int) -> None:
        """The scene's success test, and what the forced cases do to it."""
        self.scene.update()
        age_s = self.executor.status(now_ns).chunk_age_s
        self._ages_s += [age_s] if age_s is not None else []
        self._was_held |= self._holds_what_is_asked_for()
        if self.case.kind == "swap" and not any(self._held()) and self._hand_to_block() <= self._swap_at_m:
            self._swap(now_ns)
        self._look_for_mishap(now_ns)
        if self.watcher is not None:
            self.watcher.looked(self.cell)

    def _look_for_mishap(self, now_ns: int) -> None:
        """What comes upon the arms sets them back: their time counts anew, as after a swapped sentence."""
        happened = self._mishap.happened
        self._mishap.look()
        if self._mishap.happened and not happened:
            self._start_ns = now_ns

    def _held(self) -> set[str | None]:
        """What each hand holds."""
        return {self.cell.held(arm.name) for arm in self.cell.spec.arms}

    def _holds_what_is_asked_for(self) -> bool:
        return not self._held().isdisjoint(colours_in(self.scene.colour))

    def _hand_to_block(self) -> float:
        """Horizontal distance from the hand to the named block, in m."""
        hand, block = self.cell.pinch_position("right"), self.cell.block_position(self.scene.colour)
        return float(np.hypot(*(hand - block)[:2]))

    def _swap(self, now_ns: int) -> None:
        self.scene.ask_for(other_colour(self.scene.colour, self._rng))
        self._mishap.happened = True
        self.executor.set_instruction(self.policy.set_instruction(self.scene.instruction), now_ns)
        self._swap_at_m, self._start_ns, self._observe_ns, self._was_held = -math.inf, now_ns, now_ns, False

    def _plan(self, now_ns: int, state: RobotState) -> None:
        """Hand over the chunk that has become due, or plan if an observation is due and no chunk is under way."""
        if self._pending is not None:
            due_ns, chunk = self._pending
            if now_ns < due_ns:
                return
            self._pending = None
            if self.executor.submit(chunk, now_ns).accepted:
                self._delay_s = max(self._delay_s, self.executor.status(now_ns).delay_s)
        if self._listener is not None and (course := self.executor.new_course()) is not None:
            self._listener.told(course)
        if now_ns >= self._observe_ns:
            self._observe_ns = now_ns + nanoseconds(self.config.replan_s)
            chunk = self._observed(now_ns, state).chunk
            self._pending = now_ns + nanoseconds(self.config.latency_s), chunk
            if self.config.mode == "sync":
                self._observe_ns = chunk.end_ns

    def _observed(self, now_ns: int, state: RobotState) -> Plan:
        canvas = observe(self.cell, self._packer, now_ns)
        begin_s = time.perf_counter()
        plan = self.policy.plan(canvas, state)
        self._plan_s.append(time.perf_counter() - begin_s)
        if self.config.keep_frames:
            self._frames.append(canvas.image_HWC)
        if self.watcher is not None:
            self.watcher.planned(self.cell, canvas, plan, self.scene.colour)
        return plan

    def _command(self, now_ns: int) -> None:
        """The look-ahead to the controllers, one trajectory an arm."""
        ahead = self.executor.look_ahead(now_ns)
        if ahead is None:
            return
        times_ns = [nanoseconds(time_s) for time_s in ahead.time_s_N.tolist()]
        for arm in self.cell.spec.arms:
            part = self.cell.spec.arm_slice(arm.name)
            motions = (ahead.position_NJ[:, part], ahead.velocity_NJ[:, part], ahead.acceleration_NJ[:, part])
            points = tuple(
                TrajectoryPoint(time_ns, *(tuple(motion) for motion in row))
                for time_ns, *row in zip(times_ns, *(motion.tolist() for motion in motions), strict=True)
            )
            names = tuple(joint.name for joint in arm.joints)
            self.driver.accept(arm.name, Trajectory(names, ahead.start_ns, points))

    def _failure(self) -> str:
        if self.scene.success:
            return ""
        status = self.executor.status(self.driver.time_ns)
        if status.mode in ENDED:
            return f"stopped: {status.reason}"
        if self.scene.placed:
            return "wrong_block"
        return "dropped" if self._was_held and not self._holds_what_is_asked_for() else "timeout"

    def _result(self) -> EpisodeResult:
        status = self.executor.status(self.driver.time_ns)
        refused = {str(reason): count for reason, count in status.refused.items() if count}
        refused |= {f"controller.{reason}": count for reason, count in self.driver.rejected.items()}
        return EpisodeResult(
            case=self.case, colour=self.scene.colour, instruction=self.scene.instruction, success=self.scene.success,
            failure=self._failure(), duration_s=seconds(self.driver.time_ns - self._start_ns),
            stall_share=status.stall_share, delay_s=self._delay_s,
            refused=refused, plan_s=tuple(self._plan_s), frames=tuple(self._frames),
            splice_jump=status.splice_jump_worst, velocity_jump=status.velocity_jump_worst,
            chunk_age_s=float(np.mean(self._ages_s)) if self._ages_s else 0.0,
            forced=self._mishap.happened,
        )


def observe(cell: Cell, packer: CanvasPacker, now_ns: int) -> Canvas:
    """The canvas of this instant."""
    names = [camera.name for camera in cell.spec.cameras]
    frames = {name: CameraFrame(name, now_ns, now_ns, cell.render(name)) for name in names}
    return packer.pack(FrameSet(now_ns, 0, frames), now_ns)
