"""Random plans and events against the executor, with a limit checker that knows nothing of how commands are made.

The checker differentiates the emitted positions at the control rate and looks at the arms in space. Where commands
catch up with the clock, or go back to what the arms carry out, they have to go on from the last one or from a
look-ahead. A seed replays a run exactly: `starry fuzz executor --seed S`.
Shapes: K steps of a chunk, J joints, N commands.
"""

from __future__ import annotations

import argparse
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from starry_ros.control.executor import Executor
from starry_ros.control.safety import Event, Mode
from starry_ros.control.schedule import Refusal
from starry_ros.control.space import Space
from starry_ros.control.status import LookAhead
from starry_ros.paths import robot_file
from starry_ros.ranges import COUNT, WHOLE
from starry_ros.report import BENCH_COLUMNS, add_json_argument, bench_row, print_table, write_report
from starry_ros.robot_spec import COMMAND_INTERFACES, NO_KINEMATICS, KinematicsSpec, RobotSpec, load_robot_spec
from starry_ros.timing import NS_PER_S, nanoseconds, seconds
from starry_ros.types import F64, ActionChunk, JointCommand, RobotState

SPACE_STRIDE = 2
"""Every how many commands the arms are looked at in space."""
CHUNKS_A_SEED = 1000
LOOK_EVERY = 3
"""Every how many commands a look-ahead is sent."""
TOLERANCE = 1e-6
"""Share of a limit that rounding may add to a third difference at the control rate."""
REMEMBERED = 64
"""Look-aheads, the newest, that arms may still carry out."""
REFUSALS, REFUSED_TICKS = 0.01, (10, 60)
"""Share of ticks in which a driver begins to refuse what it is sent, and for how long it does."""


def worst_use(positions_NJ: F64, spec: RobotSpec, rate_hz: float) -> dict[str, float]:
    """Greatest share of every limit that a sequence of positions uses, by finite differences; inf when not finite."""
    lower_J, upper_J = spec.limit("lower"), spec.limit("upper")
    names = ("position", "velocity", "acceleration", "jerk")
    if not np.isfinite(positions_NJ).all():
        return dict.fromkeys(names, np.inf)
    use = dict.fromkeys(names, 0.0)
    if len(positions_NJ):
        from_middle = np.abs(positions_NJ - (lower_J + upper_J) / 2) / ((upper_J - lower_J) / 2)
        use["position"] = float(from_middle.max())
    for order, name in enumerate(names[1:], start=1):
        derivative = np.diff(positions_NJ, n=order, axis=0) * rate_hz**order
        if len(derivative):
            use[name] = float((np.abs(derivative) / spec.limit(name)).max())
    return use


def carried_out(ahead: LookAhead, now_ns: int) -> F64:
    """Where arms are that carry out a look-ahead."""
    at_s = seconds(now_ns - ahead.start_ns)
    return np.array([np.interp(at_s, ahead.time_s_N, position_N) for position_N in ahead.position_NJ.T])


def strayed(ahead: LookAhead, command: JointCommand, after_s: float, jerk_J: F64) -> F64:
    """How far a command lies from a look-ahead, in shares [J] of what the jerk limits [J] explain: 1 is all of it.

    Both leave one motion `after_s` before the command, each within the limits, which takes them jerk T^3 / 3 apart at
    most; a point of the look-ahead is carried d on to the command's time by its own acceleration: jerk d^3 / 6.
    """
    at_s = seconds(command.time_ns - ahead.start_ns)
    i = max(0, int(np.searchsorted(ahead.time_s_N, at_s, side="right")) - 1)
    d = at_s - float(ahead.time_s_N[i])
    there_J = ahead.position_NJ[i] + d * ahead.velocity_NJ[i] + d * d / 2 * ahead.acceleration_NJ[i]
    explained_J = jerk_J * (after_s**3 / 3 + (abs(d) ** 3 / 6 if i + 1 < len(ahead.time_s_N) else 0.0))
    share_J: F64 = np.abs(command.position_J - there_J) / explained_J
    return share_J


class ChunkMaker:
    """Chunks of every kind, good and bad, near the arms and anywhere."""

    def __init__(self, spec: RobotSpec, rng: np.random.Generator) -> None:
        self._spec, self._rng = spec, rng
        self._lower_J, self._upper_J = spec.limit("lower"), spec.limit("upper")
        self._range_J = self._upper_J - self._lower_J
        self._hash, self._step_ns = spec.content_hash, nanoseconds(spec.action.step_s)
        self._kinds: list[Callable[[ActionChunk, int], ActionChunk]] = [
            self._near, self._near, self._near, self._calm, self._calm, self._calm, self._jump, self._wild, self._edges,
            self._jaws, self._late, self._reversed, self._strange_times, self._not_finite, self._wrong_shape,
            self._wrong_names, self._foreign, self._old_epoch, self._replayed, self._outside,
        ]

    def make(self, position_J: F64, now_ns: int, chunk_id: int) -> ActionChunk:
        """One random chunk, observed up to 0.3 s ago."""
        observation_ns = now_ns - int(self._rng.uniform(0, 0.3) * NS_PER_S)
        still = np.repeat(position_J[None], self._spec.action.chunk_steps, axis=0)
        chunk = ActionChunk(
            chunk_id=chunk_id, epoch=1, instruction_id=1, observation_ns=observation_ns,
            start_ns=observation_ns + self._step_ns, step_ns=self._step_ns, joint_names=self._spec.joint_names,
            positions_KJ=still, contract_hash=self._hash,
        )
        return self._kinds[int(self._rng.integers(len(self._kinds)))](chunk, now_ns)

    def _walk(self, chunk: ActionChunk, share: float) -> ActionChunk:
        steps = self._rng.standard_normal(chunk.positions_KJ.shape) * share * self._range_J
        walk = chunk.positions_KJ + np.cumsum(steps, axis=0)
        return replace(chunk, positions_KJ=np.clip(walk, self._lower_J, self._upper_J))

    def _calm(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        return self._walk(chunk, self._rng.uniform(0, 0.002))

    def _near(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        return self._walk(chunk, self._rng.uniform(0, 0.02))

    def _jump(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        there = np.repeat(self._rng.uniform(self._lower_J, self._upper_J)[None], len(chunk.positions_KJ), axis=0)
        return self._walk(replace(chunk, positions_KJ=there), 0.005)

    def _wild(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        anywhere = self._rng.uniform(self._lower_J, self._upper_J, chunk.positions_KJ.shape)
        return replace(chunk, positions_KJ=anywhere)

    def _edges(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        low = self._rng.random(chunk.positions_KJ.shape) < 0.5
        return replace(chunk, positions_KJ=np.where(low, self._lower_J, self._upper_J))

    def _jaws(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        positions = np.array(chunk.positions_KJ)
        turn = int(self._rng.integers(len(positions)))
        for j in self._spec.gripper_indices:
            positions[:turn, j], positions[turn:, j] = self._upper_J[j], self._lower_J[j]
        return replace(chunk, positions_KJ=positions)

    def _late(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        seen_ns = now_ns - int(self._rng.uniform(0, 4) * NS_PER_S)
        return self._walk(replace(chunk, observation_ns=seen_ns, start_ns=seen_ns + self._step_ns), 0.005)

    def _reversed(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        return replace(chunk, step_ns=-chunk.step_ns, start_ns=chunk.start_ns + NS_PER_S)

    def _strange_times(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        start_ns = [0, -5, 2**63, 10**40, now_ns + 10**12, now_ns - 10**12, now_ns + int(self._rng.uniform(0, 2e9))]
        step_ns = [self._step_ns, self._step_ns, 0, 1, 10**15]
        return replace(chunk, start_ns=self._pick(start_ns), step_ns=self._pick(step_ns))

    def _not_finite(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        positions = np.array(chunk.positions_KJ)
        k, j = (int(self._rng.integers(size)) for size in positions.shape)
        positions[k, j] = self._rng.choice([np.nan, np.inf, -np.inf])
        return replace(chunk, positions_KJ=positions)

    def _outside(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        return replace(chunk, positions_KJ=chunk.positions_KJ + self._rng.choice([1e308, -1e308, 7.0, -7.0]))

    def _wrong_shape(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        rows, columns = (int(size) for size in self._rng.integers(0, 20, 2))
        shapes: list[F64] = [np.float64(3.0) + np.zeros(()), np.zeros((rows, columns)), np.zeros((2, 3, 4))]
        return replace(chunk, positions_KJ=shapes[int(self._rng.integers(3))])

    def _wrong_names(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        names = list(chunk.joint_names)
        wrong = [(), tuple(names[:-1]), (*names, "extra"), ("x", *names[1:]), (names[0], names[0], *names[2:])]
        return replace(chunk, joint_names=wrong[int(self._rng.integers(len(wrong)))])

    def _foreign(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        return replace(chunk, contract_hash=self._hash[::-1])

    def _old_epoch(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        return replace(chunk, epoch=self._pick([0, -1, -(2**70)]))

    def _replayed(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        return replace(chunk, chunk_id=int(self._rng.integers(0, chunk.chunk_id + 1)))

    def _pick(self, values: list[int]) -> int:
        return values[int(self._rng.integers(len(values)))]


@dataclass
class FuzzReport:
    """What a fuzzed run showed. `problems` is empty when every command and every look-ahead was in order.

    `events`: chunks, services, the emergency stop, conditions, refusals by the driver, and control ticks at an odd time
    or without a usable state; ticks in good order do not count.
    """

    seed: int
    chunks: int = 0
    events: int = 0
    commands: int = 0
    accepted: int = 0
    gate_interventions: int = 0
    recalls: int = 0
    worst_use: dict[str, float] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


class ExecutorFuzzer:
    """One executor, one robot that follows with a lag and refuses at times, and random chunks, services and faults."""

    def __init__(self, spec: RobotSpec, seed: int) -> None:
        self._spec, self._rng = spec, np.random.default_rng(seed)
        self._streams = spec.command_interface == "joint_trajectory"
        self._last: JointCommand | None = None
        self._refused_ticks = 0
        self._refused: list[tuple[slice, LookAhead]] = []
        self._arms = [spec.arm_slice(arm.name) for arm in spec.arms]
        self._aheads: deque[LookAhead] = deque(maxlen=REMEMBERED)
        self._executor, self._maker = Executor(spec), ChunkMaker(spec, self._rng)
        self._recalls = dict(self._executor.recalls)
        self._period_ns = round(NS_PER_S / spec.rates.control_hz)
        self._now_ns = NS_PER_S
        self._measured_J = spec.limit("home")
        self._target_J = self._measured_J
        self._run_NJ: list[F64] = []
        self._space = None if spec.kinematics.format == NO_KINEMATICS else Space(spec, margin_m=0.0)
        self.report = FuzzReport(seed)

    def run(self, chunks: int) -> FuzzReport:
        """Offer this many chunks."""
        for _ in range(chunks):
            for _ in range(int(self._rng.choice([0, 0, 1, 3, 10, 40]))):
                self._tick()
            self._offer()
            self._disturb()
        self._close_run()
        self.report.gate_interventions = self._executor.status(self._now_ns).gate_interventions
        self.report.recalls = sum(self._executor.recalls.values())
        return self.report

    def _tick(self) -> None:
        periods = float(self._rng.choice([1.0, 1.0, 1.0, 1.0, 0.8, 1.2, 0.3, 3.0]))
        self._now_ns += int(self._period_ns * periods)
        self._measured_J = self._measured_J + 0.5 * (self._target_J - self._measured_J)
        position_J = self._measured_J
        if self._rng.random() < 0.0005:
            position_J = np.full_like(position_J, np.nan)
        state = None if self._rng.random() < 0.05 else RobotState(self._now_ns, position_J, np.zeros_like(position_J))
        self.report.events += periods != 1.0 or state is None or not np.isfinite(position_J).all()
        command = self._executor.step(self._now_ns, state)
        if command is not None:
            self.report.commands += 1
            if self._streams and self.report.commands % LOOK_EVERY == 0:
                self._look_ahead()
            self._target_J = command.position_J.copy()
            self._refuse()
            self._continue(command)
            self._run_NJ.append(command.position_J)
        else:
            self._close_if_disarmed()

    def _look_ahead(self) -> LookAhead | None:
        """What the arms are told, and may carry out for a while."""
        ahead = self._executor.look_ahead(self._now_ns)
        if ahead is not None:
            self._aheads.append(ahead)
        return ahead

    def _refuse(self) -> None:
        """A driver that refuses goes on with the look-ahead that it took last, and so to rest: one arm, or both."""
        if self._streams and self._refused_ticks == 0 and self._aheads and self._rng.random() < REFUSALS:
            self._refused_ticks = int(self._rng.integers(*REFUSED_TICKS))
            chosen = (self._arms, self._arms, self._arms[:1], self._arms[1:])[int(self._rng.integers(4))]
            self._refused = [(joints, self._aheads[-1]) for joints in chosen]
            self.report.events += 1
        for joints, ahead in self._refused if self._refused_ticks > 0 else ():
            self._target_J[joints] = carried_out(ahead, self._now_ns)[joints]
        self._refused_ticks = max(0, self._refused_ticks - 1)

    def _continue(self, command: JointCommand) -> None:
        """Where there is no uniform sequence across this command, it goes on from the last one or a look-ahead."""
        last, self._last = self._last, command
        recalls, self._recalls = self._recalls, dict(self._executor.recalls)
        passed_ns = 0 if last is None else command.time_ns - last.time_ns
        if last is None or not self._streams or (passed_ns == self._period_ns and recalls == self._recalls):
            return
        self._close_run()
        passed_s, jerk_J, step_J = seconds(passed_ns), self._spec.limit("jerk"), command.position_J - last.position_J
        near_J = np.abs(step_J) <= self._spec.limit("velocity") * passed_s * (1 + TOLERANCE)
        carried = [strayed(ahead, command, passed_s, jerk_J) <= 1 + TOLERANCE for ahead in self._aheads]
        for joints, (arm, count) in zip(self._arms, self._recalls.items(), strict=True):
            near = count == recalls[arm] and near_J[joints].all()
            if not near and not any(on_J[joints].all() for on_J in carried):
                self.report.problems.append(f"command at {self._now_ns}: goes on from nowhere")

    def _offer(self) -> None:
        chunk = self._maker.make(self._target_J, self._now_ns, self.report.chunks)
        self.report.chunks += 1
        self.report.events += 1
        merge = self._executor.submit(chunk, self._now_ns)
        if merge.accepted:
            self.report.accepted += 1
            if not np.isfinite(chunk.positions_KJ).all() or chunk.contract_hash != self._spec.content_hash:
                self.report.problems.append(f"chunk {chunk.chunk_id}: accepted although broken")
        elif merge.reason is None:
            self.report.problems.append(f"chunk {chunk.chunk_id}: refused without a reason")
        else:
            self.report.refused[merge.reason.value] += 1

    def _disturb(self) -> None:
        executor, rng, now_ns = self._executor, self._rng, self._now_ns
        if rng.random() < 0.01:
            services = (executor.hold, executor.stop, executor.arm, executor.reset_fault)
            self._act(services[int(rng.integers(4))])
            self._close_if_disarmed()
        if rng.random() < 0.005:
            self._act(partial(executor.set_estop, True))
        if rng.random() < 0.3:
            self._act(partial(executor.set_estop, False))
        if rng.random() < 0.02:
            self._act(partial(executor.set_condition, Event.PLANNER_DEGRADED, bool(rng.random() < 0.3)))
        if rng.random() < 0.3 and executor.status(now_ns).mode not in (Mode.RUN, Mode.SLOW):
            self._act(executor.reset_fault)
            self._close_if_disarmed()
            self._act(executor.arm)
        ahead = self._look_ahead()
        if ahead is not None:
            self._check_look_ahead(ahead)

    def _act(self, event: Callable[[int], object]) -> None:
        event(self._now_ns)
        self.report.events += 1

    def _check_look_ahead(self, ahead: LookAhead) -> None:
        step_s = float(ahead.time_s_N[0])
        rules = {
            "times increase": bool((np.diff(ahead.time_s_N) > 0).all()) and step_s > 0,
            "ends at rest": not ahead.velocity_NJ[-1].any(),
            "ends without acceleration": not ahead.acceleration_NJ[-1].any(),
        }
        if np.ptp(np.diff(ahead.time_s_N, prepend=0.0)) < TOLERANCE * step_s:  # else it reaches back across a late call
            rules["obeys limits"] = max(worst_use(ahead.position_NJ, self._spec, 1 / step_s).values()) <= 1 + TOLERANCE
        broken = [rule for rule, good in rules.items() if not good]
        self.report.problems += [f"look-ahead at {self._now_ns}: not {rule}" for rule in broken]

    def _breach(self, position_J: F64) -> tuple[Refusal, str] | None:
        return self._space.breach(position_J) if self._space is not None else None

    def _close_if_disarmed(self) -> None:
        """The next `arm` starts a new sequence, from the measured position."""
        if self._executor.status(self._now_ns).mode is Mode.DISARMED:
            self._close_run()
            self._last, self._refused_ticks = None, 0
            self._aheads.clear()

    def _close_run(self) -> None:
        """Check one unbroken sequence of commands."""
        if self._run_NJ:
            use = worst_use(np.array(self._run_NJ), self._spec, self._spec.rates.control_hz)
            breaches = {found[0] for found in map(self._breach, self._run_NJ[::SPACE_STRIDE]) if found is not None}
            self.report.problems += [f"{reason} before {self._now_ns}" for reason in sorted(breaches)]
            self._run_NJ = []
            worst = self.report.worst_use
            for name, value in use.items():
                worst[name] = max(worst.get(name, 0.0), value)
                if value > 1 + TOLERANCE:
                    self.report.problems.append(f"{name} limit exceeded: {value:.9f} of it before {self._now_ns}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `starry fuzz executor`."""
    parser.add_argument("--robot", default="bimanual_sim", help="contract: a name or a file (default: %(default)s)")
    parser.add_argument("--chunks", type=COUNT, default=20_000, help="chunks to offer in all (default: %(default)s)")
    parser.add_argument("--seed", type=WHOLE, default=0, help="first seed; every 1000 chunks take another (default: 0)")
    add_json_argument(parser)


def fuzz_command(args: argparse.Namespace) -> int:
    """`starry fuzz executor`: random plans and events; 1 when anything was not in order.

    Seeds take turns: both command interfaces, in the contract's space and free of it (which tries more of the limits).
    """
    robot = load_robot_spec(robot_file(args.robot))
    free = replace(robot, kinematics=KinematicsSpec(NO_KINEMATICS, ""))
    specs = [replace(spec, command_interface=way) for spec in (robot, free) for way in COMMAND_INTERFACES]
    total, worst, problems = Counter[str](), 0.0, 0
    for i, seed in enumerate(range(args.seed, args.seed - (-args.chunks // CHUNKS_A_SEED))):
        report = ExecutorFuzzer(specs[seed % len(specs)], seed).run(min(CHUNKS_A_SEED, args.chunks - i * CHUNKS_A_SEED))
        counted = {"chunks": report.chunks, "events": report.events, "commands": report.commands}
        total.update(counted, accepted=report.accepted, **report.refused)
        worst, problems = max(worst, *report.worst_use.values()), problems + len(report.problems)
        counted["problems"] = len(report.problems)
        print(f"seed {seed}: {', '.join(f'{count} {name}' for name, count in counted.items())}", flush=True)
        for problem in report.problems[:5]:
            print(f"  {problem}; replay: starry fuzz executor --seed {seed} --chunks {report.chunks}")
    refused = {name: count for name, count in sorted(total.items()) if name in set(Refusal)}
    rows = [
        bench_row("fuzz/problems", problems, "", refused=refused),
        bench_row("fuzz/events", total["events"], "", commands=total["commands"]),
        bench_row("fuzz/chunks", total["chunks"], "", accepted=total["accepted"]),
        bench_row("fuzz/worst_limit_use", worst, "of the limit"),
    ]
    print_table(rows, BENCH_COLUMNS)
    if args.json is not None:
        write_report(args.json, rows, seed=args.seed, robot=robot.name, passed=not problems)
    return int(problems > 0)
