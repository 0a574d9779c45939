"""An executor under way, its clock moved by hand, on a swing that is planned anew every 0.5 s or on recorded plans.

Costs are CPU time of this thread: what other processes take from the core is left out.
Shapes: J joints, N times.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

import numpy as np

from starry_ros.control.executor import Executor
from starry_ros.control.limits import Limits
from starry_ros.control.waiting import WaitingPlans
from starry_ros.errors import StarryError
from starry_ros.robot_spec import RobotSpec
from starry_ros.timing import NS_PER_S, nanoseconds, seconds
from starry_ros.types import F64, ActionChunk, RobotState

T = TypeVar("T")
BEGIN_NS = NS_PER_S
REPLAN_S, LATENCY_S = 0.5, 0.2
LOOK_HZ = 50.0
"""Look-aheads a second, as the node sends them."""
PULSE_RAD_S = 1.5
SETTLED_S = 3.0
PAUSE_SHARE = 1 / 6
"""Which share of a period passes at most from one look at a clock that goes on at random to the next."""


def looks_ns(begin_ns: int, period_ns: int, rng: np.random.Generator) -> Iterator[int]:
    """What a clock that goes on at random says, one look after the other."""
    while True:
        begin_ns += int(rng.integers(round(PAUSE_SHARE * period_ns)))
        yield begin_ns


class Plans(Protocol):
    """Plans for a rehearsal."""

    start_J: F64

    def due(self, now_ns: int) -> list[ActionChunk]:
        """What arrives now."""


class Swing:
    """A swing of every joint that uses at most a third of each limit and begins at rest."""

    def __init__(self, spec: RobotSpec) -> None:
        limits, self._spec = Limits.of(spec), spec
        self._middle_J = (limits.lower_J + limits.upper_J) / 2
        self._size_J = np.minimum.reduce([
            0.3 * (limits.upper_J - limits.lower_J), limits.velocity_J / PULSE_RAD_S / 3,
            limits.acceleration_J / PULSE_RAD_S**2 / 3, limits.jerk_J / PULSE_RAD_S**3 / 3,
        ])
        self._hash, self._next_ns, self._pending = spec.content_hash, BEGIN_NS, list[ActionChunk]()
        self.start_J = self.at(np.zeros(1))[0]

    def at(self, t_s: F64) -> F64:
        """Positions [N, J]."""
        ease = np.clip(t_s / 2, 0, 1)[:, None]
        ease = ease**3 * (10 - 15 * ease + 6 * ease**2)
        phase_J = np.arange(len(self._size_J))
        position: F64 = self._middle_J + ease * self._size_J * np.sin(PULSE_RAD_S * t_s[:, None] + phase_J)
        return position

    def due(self, now_ns: int) -> list[ActionChunk]:
        """Plans of REPLAN_S, LATENCY_S after they were seen."""
        if now_ns >= self._next_ns:
            self._next_ns += nanoseconds(REPLAN_S)
            self._pending.append(self._chunk(now_ns))
        arrived = [chunk for chunk in self._pending if chunk.observation_ns + nanoseconds(LATENCY_S) <= now_ns]
        self._pending = self._pending[len(arrived):]
        return arrived

    def _chunk(self, now_ns: int) -> ActionChunk:
        action, step_ns = self._spec.action, nanoseconds(self._spec.action.step_s)
        steps_s: F64 = seconds(now_ns + step_ns - BEGIN_NS) + action.step_s * np.arange(float(action.chunk_steps))
        return ActionChunk(
            chunk_id=now_ns, epoch=1, instruction_id=1, observation_ns=now_ns, start_ns=now_ns + step_ns,
            step_ns=step_ns, joint_names=self._spec.joint_names, positions_KJ=self.at(steps_s),
            contract_hash=self._hash,
        )


class Tape:
    """Plans of an episode that was played, at the times at which they arrived."""

    def __init__(self, spec: RobotSpec, arrivals: Sequence[tuple[int, ActionChunk]]) -> None:
        self._left = [(at_ns, replace(chunk, contract_hash=spec.content_hash)) for at_ns, chunk in arrivals]
        self.start_J = spec.limit("home")

    def due(self, now_ns: int) -> list[ActionChunk]:
        """What arrived by now."""
        arrived = [chunk for at_ns, chunk in self._left if at_ns <= now_ns]
        self._left = self._left[len(arrived):]
        return arrived


class Rehearsal:
    """Arms that do what they are told, on plans that come in time. With `timed`, keeps what everything cost.

    What joining a plan costs is only known where it is done at once: without `timed` it is done a slice a tick.
    """

    def __init__(self, spec: RobotSpec, plans: Plans, *, timed: bool = True) -> None:
        self._timed, self._plans = timed, plans
        self.executor, self.now_ns, self._position_J = Executor(spec), BEGIN_NS, plans.start_J
        self._period_ns = round(NS_PER_S / spec.rates.control_hz)
        self._waiting, self._pauses = WaitingPlans(self.executor, self._period_ns), np.random.default_rng(0)
        self._look_every, self._ticks = max(1, round(spec.rates.control_hz / LOOK_HZ)), 0
        self._still_J = np.zeros_like(self._position_J)
        self.step_s, self.bare_s, self.lag = list[float](), list[float](), list[float]()
        self.submit_s, self.look_ahead_s = list[float](), list[float]()
        self.executor.step(self.now_ns, self._state())
        reply = self.executor.arm(self.now_ns)
        if not reply.ok:
            raise StarryError("bench control", reply.message)

    def _state(self) -> RobotState:
        return RobotState(self.now_ns, self._position_J, self._still_J)

    def tick(self, now_ns: int | None = None) -> None:
        """One period; look ahead when due, and then join what has arrived, as the node does.

        Given the time, what arrived is joined in what is left of the period by the machine's clock; otherwise at once
        if that is timed, and by a clock that goes on at random if it is not.
        """
        begin_ns = time.monotonic_ns()
        self.now_ns = now_ns if now_ns is not None else self.now_ns + self._period_ns
        self._call(self.bare_s, self._state)
        command = self._call(self.step_s, lambda: self.executor.step(self.now_ns, self._state()))
        if command is not None:
            self._follow(command.time_ns, command.position_J)
        self._ticks += 1
        if self._ticks % self._look_every == 0:
            self._call(self.look_ahead_s, lambda: self.executor.look_ahead(self.now_ns))
        if now_ns is not None:
            self._join(lambda: time.monotonic_ns() - begin_ns + now_ns)
        elif self._timed:
            self._submit()
        else:
            self._join(looks_ns(self.now_ns, self._period_ns, self._pauses).__next__)

    def _submit(self) -> None:
        for chunk in self._plans.due(self.now_ns):
            self._call(self.submit_s, lambda chunk=chunk: self.executor.submit(chunk, self.now_ns))  # type: ignore[misc]

    def _join(self, clock: Callable[[], int]) -> None:
        for chunk in self._plans.due(self.now_ns):
            self._waiting.add(chunk)
        self._waiting.join(self.now_ns + self._period_ns, clock)

    def _follow(self, time_ns: int, position_J: F64) -> None:
        if self._timed and isinstance(self._plans, Swing) and seconds(self.now_ns - BEGIN_NS) > SETTLED_S:
            wanted_J = self._plans.at(np.array([seconds(time_ns - BEGIN_NS)]))[0]
            moved_J = np.abs(position_J - self._position_J)
            self.lag.append(float(np.abs(position_J - wanted_J).max() / max(moved_J.max(), 1e-9)))
        self._position_J = position_J

    def _call(self, samples_s: list[float], call: Callable[[], T]) -> T:
        if not self._timed:
            return call()
        begin_s = time.thread_time()
        result = call()
        samples_s.append(time.thread_time() - begin_s)
        return result
