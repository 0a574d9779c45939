"""Random plans against a moving executor: does any splice make the command jump?

A third of the plans arrives late, a tenth out of order. Half of the splices are joined at once, the others a slice a
tick, as the node does, by a clock that goes on at random. Measured from outside of what makes curves: the left and the
right limit of the commanded position, from the polynomials themselves, at every splice and at every breakpoint of every
curve that is followed; and second differences of the commands that were sent, across splices and everywhere else.
Shapes: B pieces of a curve, J joints, K steps of a chunk.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from starry_ros.bench.rehearsal import looks_ns
from starry_ros.control.executor import Executor
from starry_ros.control.schedule import Merge
from starry_ros.control.trajectory import Curve
from starry_ros.control.waiting import WaitingPlans
from starry_ros.errors import StarryError
from starry_ros.report import bench_row
from starry_ros.robot_spec import NO_KINEMATICS, KinematicsSpec, RobotSpec
from starry_ros.timing import NS_PER_S, nanoseconds
from starry_ros.types import F64, ActionChunk, JointCommand, Record, RobotState

LATE, OUT_OF_ORDER = 1 / 3, 0.1


def position_at(curve: Curve, piece: int, time_s: float) -> F64:
    """Position [J] of one piece of a curve at a time, inside of the piece or not."""
    d = time_s - curve.time_s_B[piece]
    position, velocity, acceleration, jerk = curve.pieces_B4J[piece]
    value: F64 = position + d * (velocity + d * (acceleration / 2 + d * jerk / 6))
    return value


def seam(curve: Curve) -> float:
    """Greatest difference of the left and the right limit of the position at the breakpoints inside a curve."""
    return max((float(np.abs(position_at(curve, b - 1, float(curve.time_s_B[b])) - curve.pieces_B4J[b, 0]).max())
                for b in range(1, len(curve.time_s_B))), default=0.0)


def step_over(before: Curve, at_s: float, after: Curve) -> float:
    """Greatest difference of the position of a curve at a time and the beginning of the one that takes its place."""
    piece = int(np.searchsorted(before.time_s_B, at_s, side="right")) - 1
    return float(np.abs(position_at(before, max(piece, 0), at_s) - position_at(after, 0, 0.0)).max())


class Continuity:
    """Looks on while an executor is called every period. `jump` in rad, `velocity_step` in ticks of the limit."""

    def __init__(self, executor: Executor, spec: RobotSpec) -> None:
        self._track, self._rate_hz = executor._track, spec.rates.control_hz
        self._tick_J = spec.limit("acceleration") / self._rate_hz
        self._curve, self._at_s = self._track.curve, self._track.s
        self._sent: list[F64] = []
        self.jump = self.velocity_step = 0.0
        self.curves = 0

    def look(self) -> None:
        """Call it after everything that may change the curve, and before the next step."""
        curve = self._track.curve
        if curve is not self._curve:
            self.curves += 1
            self.jump = max(self.jump, seam(curve), step_over(self._curve, self._at_s, curve))
        self._curve, self._at_s = curve, self._track.s

    def sent(self, command: JointCommand) -> None:
        """A command, one period after the last one: on the curve, and reached at a speed that the last one led to."""
        self.look()
        piece = int(np.searchsorted(self._curve.time_s_B, self._at_s, side="right")) - 1
        off_J = np.abs(command.position_J - position_at(self._curve, piece, self._at_s))
        self.jump = max(self.jump, float(off_J.max()))
        self._sent = [*self._sent[-2:], command.position_J]
        if len(self._sent) == 3:
            step_J = np.abs(np.diff(np.array(self._sent), n=2, axis=0)[0]) * self._rate_hz
            self.velocity_step = max(self.velocity_step, float((step_J / self._tick_J).max()))


class Splices:
    """Plays random plans; `watch` looks on. `over_ticks`: how many splices took the work of more than one tick."""

    def __init__(self, robot: RobotSpec, seed: int, *, by_slices: bool) -> None:
        self._spec = replace(robot, kinematics=KinematicsSpec(NO_KINEMATICS, ""))
        self._rng, self._by_slices = np.random.default_rng((seed, by_slices)), by_slices
        self._executor, self._now_ns = Executor(self._spec), NS_PER_S
        self._position_J = self._spec.limit("home")
        self._period_ns = round(NS_PER_S / self._spec.rates.control_hz)
        self._waiting = WaitingPlans(self._executor, self._period_ns)
        self.answers, self.over_ticks = Counter[str](), 0
        self._step()
        if not self._executor.arm(self._now_ns).ok:
            raise StarryError("bench control", "the executor could not be armed")
        self.watch = Continuity(self._executor, self._spec)

    def play(self, splices: int) -> None:
        """Offer plans, and go on for some periods after each, until so many are accepted."""
        number = 0
        while self.answers["accepted"] < splices:
            chunk = _random_chunk(self._spec, self._rng, self._position_J, self._now_ns, number)
            number += 1
            if self._by_slices:
                self._waiting.add(chunk)
            else:
                self._answered(self._executor.submit(chunk, self._now_ns))
            for _ in range(int(self._rng.integers(1, 30))):
                self._tick()

    def _step(self) -> JointCommand | None:
        state = RobotState(self._now_ns, self._position_J, np.zeros_like(self._position_J))
        return self._executor.step(self._now_ns, state)

    def _tick(self) -> None:
        self._now_ns += self._period_ns
        command = self._step()
        if command is None:
            raise StarryError("bench control", "the executor stopped", got=self._executor.status(self._now_ns).reason)
        self.watch.sent(command)
        self._position_J = command.position_J
        self._join()

    def _join(self) -> None:
        """Join what waits, in the time that is left of the period."""
        clock, begun = looks_ns(self._now_ns, self._period_ns, self._rng).__next__, self._executor.joining
        for chunk, merge in self._waiting.join(self._now_ns + self._period_ns, clock):
            self._answered(merge)
            self.over_ticks += merge.accepted and chunk is begun

    def _answered(self, merge: Merge) -> None:
        self.answers["accepted" if merge.reason is None else merge.reason.value] += 1
        self.watch.look()


def rows(robot: RobotSpec, splices: int, seed: int = 0) -> list[Record]:
    """`control/splice_position` in rad and `control/splice_velocity` in ticks of the acceleration limit."""
    at_once, by_slices = (Splices(robot, seed, by_slices=way) for way in (False, True))
    at_once.play(splices - splices // 2)
    by_slices.play(splices // 2)
    answers = at_once.answers + by_slices.answers
    more: Record = {
        "splices": answers["accepted"], "by_slices": by_slices.answers["accepted"], "over_ticks": by_slices.over_ticks,
        "offered": answers.total(), "answers": dict(answers), "seed": seed,
    }
    watched = at_once.watch, by_slices.watch
    jump, step = max(watch.jump for watch in watched), max(watch.velocity_step for watch in watched)
    return [
        bench_row("control/splice_position", jump, "rad", curves=sum(watch.curves for watch in watched), **more),
        bench_row("control/splice_velocity", step, "ticks", **more),
    ]


def _random_chunk(spec: RobotSpec, rng: np.random.Generator, position_J: F64, now_ns: int, number: int) -> ActionChunk:
    """A walk from where the arms are."""
    lower_J, upper_J = spec.limit("lower"), spec.limit("upper")
    steps = rng.standard_normal((spec.action.chunk_steps, len(lower_J))) * rng.choice([0.003, 0.01, 0.03])
    walk_KJ = np.clip(position_J + np.cumsum(steps * (upper_J - lower_J), axis=0), lower_J, upper_J)
    late_s = rng.uniform(0.2, 1.2) if rng.random() < LATE else rng.uniform(0, 0.2)
    observed_ns = now_ns - nanoseconds(late_s) - (NS_PER_S if rng.random() < OUT_OF_ORDER else 0)
    step_ns = nanoseconds(spec.action.step_s)
    return ActionChunk(
        number, 1, 1, observed_ns, observed_ns + step_ns, step_ns, spec.joint_names, walk_KJ, spec.content_hash,
    )
