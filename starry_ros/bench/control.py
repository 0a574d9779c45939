"""What control costs and how exact it is, on a plan inside the limits that a planner renews every 0.5 s.

Costs are CPU time of this thread (what other processes take from the core is left out); jitter is wall time, of the
executor's loop and of a bare one that take turns in the same run. Shapes: J joints, K steps of a chunk, N times.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np

from starry_ros.bench import splices
from starry_ros.bench.fuzz import ExecutorFuzzer
from starry_ros.control.executor import Executor
from starry_ros.control.limits import Limits
from starry_ros.errors import StarryError
from starry_ros.report import bench_row
from starry_ros.robot_spec import RobotSpec
from starry_ros.timing import NS_PER_S, nanoseconds, seconds
from starry_ros.types import F64, ActionChunk, Record, RobotState

T = TypeVar("T")

RATE_HZ = 200.0
REPLAN_S, LATENCY_S = 0.5, 0.2
BLOCK_S = 0.5
MS_PER_S = 1e3
PULSE_RAD_S = 1.5
FUZZ_CHUNKS = 400
SPLICES = 1000


def run(robot: RobotSpec, seconds: float = 8.0) -> list[Record]:
    """Rows `control/step`, `/look_ahead`, `/submit` in ms, `/tick_jitter` in ms, `/lag` in ticks, `/splice_*`, ..."""
    everywhere = {axis: (-9.0, 9.0) for axis in robot.workspace_m}
    fast = replace(
        robot, rates=replace(robot.rates, control_hz=RATE_HZ), workspace_m=everywhere, arm_distance_m=-1.0
    )  # the swing crosses the table; what it costs to look is measured all the same
    return [*_costs(fast, seconds / 2), _jitter(fast, seconds / 2), *splices.rows(robot, SPLICES), *_fuzz(robot)]


class SmoothPlan:
    """A swing of every joint that uses at most a third of each limit and begins at rest."""

    def __init__(self, spec: RobotSpec) -> None:
        limits = Limits.of(spec)
        self._middle_J = (limits.lower_J + limits.upper_J) / 2
        self._size_J = np.minimum.reduce([
            0.3 * (limits.upper_J - limits.lower_J), limits.velocity_J / PULSE_RAD_S / 3,
            limits.acceleration_J / PULSE_RAD_S**2 / 3, limits.jerk_J / PULSE_RAD_S**3 / 3,
        ])

    def at(self, t_s: F64) -> F64:
        """Positions [N, J]."""
        ease = np.clip(t_s / 2, 0, 1)[:, None]
        ease = ease**3 * (10 - 15 * ease + 6 * ease**2)
        phase_J = np.arange(len(self._size_J))
        position: F64 = self._middle_J + ease * self._size_J * np.sin(PULSE_RAD_S * t_s[:, None] + phase_J)
        return position


class Rehearsal:
    """An executor under way on a plan, its clock moved by hand. Times what it does."""

    def __init__(self, spec: RobotSpec) -> None:
        self._spec, self._plan, self._hash = spec, SmoothPlan(spec), spec.content_hash
        self.executor = Executor(spec)
        self._period_ns = round(NS_PER_S / spec.rates.control_hz)
        self._step_ns = nanoseconds(spec.action.step_s)
        self.now_ns = self._begin_ns = NS_PER_S
        self._position_J = self._plan.at(np.zeros(1))[0]
        self._next_plan_ns, self._pending = self.now_ns, list[ActionChunk]()
        self.step_s: list[float] = []
        self.bare_s: list[float] = []
        self.submit_s: list[float] = []
        self.look_ahead_s: list[float] = []
        self.lag: list[float] = []
        self.executor.step(self.now_ns, self._state())
        reply = self.executor.arm(self.now_ns)
        if not reply.ok:
            raise StarryError("bench control", reply.message)

    def _state(self) -> RobotState:
        return RobotState(self.now_ns, self._position_J, np.zeros_like(self._position_J))

    def tick(self, now_ns: int | None = None) -> None:
        """One period; plan, hand over and look ahead when due."""
        self.now_ns = now_ns if now_ns is not None else self.now_ns + self._period_ns
        self.replan()
        _timed(self.bare_s, self._state)
        command = _timed(self.step_s, lambda: self.executor.step(self.now_ns, self._state()))
        if command is not None:
            moved_J = np.abs(command.position_J - self._position_J)
            wanted_J = self._plan.at(np.array([seconds(command.time_ns - self._begin_ns)]))[0]
            if self.now_ns - self._begin_ns > 3 * NS_PER_S:
                self.lag.append(float(np.abs(command.position_J - wanted_J).max() / max(moved_J.max(), 1e-9)))
            self._position_J = command.position_J

    def replan(self) -> None:
        """Observe and hand over chunks on time."""
        while self._pending and self._pending[0].observation_ns + nanoseconds(LATENCY_S) <= self.now_ns:
            _timed(self.submit_s, lambda: self.executor.submit(self._pending.pop(0), self.now_ns))
        if self.now_ns >= self._next_plan_ns:
            self._next_plan_ns += nanoseconds(REPLAN_S)
            start_ns = self.now_ns + self._step_ns
            count = self._spec.action.chunk_steps
            steps_s: F64 = seconds(start_ns - self._begin_ns) + self._spec.action.step_s * np.arange(float(count))
            self._pending.append(ActionChunk(
                chunk_id=self.now_ns, epoch=1, instruction_id=1, observation_ns=self.now_ns, start_ns=start_ns,
                step_ns=self._step_ns, joint_names=self._spec.joint_names, positions_KJ=self._plan.at(steps_s),
                contract_hash=self._hash,
            ))

    def look(self) -> None:
        """Look ahead once."""
        _timed(self.look_ahead_s, lambda: self.executor.look_ahead(self.now_ns))


def _timed(samples_s: list[float], call: Callable[[], T]) -> T:
    begin_s = time.thread_time()
    result = call()
    samples_s.append(time.thread_time() - begin_s)
    return result


def _costs(spec: RobotSpec, duration_s: float) -> list[Record]:
    rehearsal, end_s = Rehearsal(spec), time.perf_counter() + duration_s
    every = round(spec.rates.control_hz / 25)
    ticks, warm_ticks, objects = 0, round(5 * spec.rates.control_hz), 0
    while time.perf_counter() < end_s or ticks < 4 * warm_ticks:
        rehearsal.tick()
        ticks += 1
        if ticks % every == 0:
            rehearsal.look()
        if ticks == warm_ticks:
            objects = _objects()
    growth = _objects() - objects
    period_s = 1 / spec.rates.control_hz
    status = rehearsal.executor.status(rehearsal.now_ns)
    return [
        _cost("control/step", rehearsal.step_s, period_s, baseline=float(np.median(rehearsal.bare_s)) * MS_PER_S),
        _cost("control/look_ahead", rehearsal.look_ahead_s, every * period_s),
        _cost("control/submit", rehearsal.submit_s, REPLAN_S),
        bench_row("control/growth", growth, "objects", simulated_s=(ticks - warm_ticks) / spec.rates.control_hz),
        bench_row("control/lag", max(rehearsal.lag), "ticks", stall_share=status.stall_share),
    ]


def _objects() -> int:
    """How many objects live that may hold others."""
    gc.collect()
    return len(gc.get_objects())


def _cost(name: str, samples_s: list[float], period_s: float, baseline: float | None = None) -> Record:
    """Median and 99th percentile, and the median's share of the time there is."""
    median_s, p99_s = np.percentile(samples_s, [50, 99]).tolist()
    return bench_row(
        name, median_s * MS_PER_S, "ms", baseline, p99=p99_s * MS_PER_S, share_of_period=median_s / period_s
    )


def _jitter(spec: RobotSpec, duration_s: float) -> Record:
    """p99 lateness of a timed loop with the executor in it, and of one without, in turns."""
    rehearsal, late_s = Rehearsal(spec), ([], [])  # type: tuple[Rehearsal, tuple[list[float], list[float]]]
    period_ns = round(NS_PER_S / spec.rates.control_hz)
    for block in range(max(2, round(duration_s / BLOCK_S)) // 2 * 2):
        due_ns = time.monotonic_ns() + period_ns
        offset_ns = rehearsal.now_ns + period_ns - due_ns
        for tick in range(round(BLOCK_S * spec.rates.control_hz)):
            time.sleep(max(0.0, seconds(due_ns - time.monotonic_ns())))
            late_s[block % 2].append(seconds(time.monotonic_ns() - due_ns))
            if block % 2 == 0:
                rehearsal.tick(time.monotonic_ns() + offset_ns)
                if tick % 8 == 0:
                    rehearsal.look()
            due_ns = max(due_ns + period_ns, time.monotonic_ns())
    value, baseline = (float(np.percentile(samples, 99)) * MS_PER_S for samples in late_s)
    return bench_row("control/tick_jitter", value, "ms", baseline)


def _fuzz(robot: RobotSpec) -> list[Record]:
    reports = [ExecutorFuzzer(robot, seed).run(FUZZ_CHUNKS // 2) for seed in range(2)]
    worst = max(max(report.worst_use.values()) for report in reports)
    return [
        bench_row("control/violations", sum(len(report.problems) for report in reports), "", chunks=FUZZ_CHUNKS),
        bench_row("control/worst_limit_use", worst, "of the limit", chunks=FUZZ_CHUNKS),
    ]
