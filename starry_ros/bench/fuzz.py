"""Random plans and events against the executor, with judges that know nothing of how commands are made.

`streams` takes every command as a sample of one motion inside the limits: across odd times, where commands catch up
with the clock, and where they go back to what the arms carry out. `fuzz_oracle` says which plans must not be accepted.
The arms are looked at in space, and a mode that moves is led to by `arm` alone. A seed replays a run exactly:
`starry fuzz executor --seed S`. Shapes: J joints.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np

from starry_ros.bench.fuzz_chunks import ChunkMaker
from starry_ros.bench.fuzz_oracle import MergeOracle
from starry_ros.bench.fuzz_report import FuzzReport
from starry_ros.bench.rehearsal import looks_ns
from starry_ros.bench.streams import TOLERANCE, Run, Stream, carried_out, run_of, worst_use
from starry_ros.control.executor import Executor
from starry_ros.control.safety import CONDITIONS, SERVICES, SLOWING, Event, Mode, Reply
from starry_ros.control.schedule import Merge, Refusal
from starry_ros.control.space import Space
from starry_ros.control.status import ExecutorConfig, ExecutorStatus, LookAhead
from starry_ros.control.waiting import WaitingPlans
from starry_ros.control.watch import UNTOUCHED_M
from starry_ros.robot_spec import NO_KINEMATICS, RobotSpec
from starry_ros.timing import NS_PER_S, nanoseconds
from starry_ros.types import F64, ActionChunk, JointCommand, RobotState

__all__ = ["ExecutorFuzzer", "FuzzReport", "worst_use"]

LOOK_EVERY = 3
"""Every how many commands a look-ahead is sent."""
REMEMBERED = 64
"""Look-aheads, the newest, that arms may still carry out."""
REFUSALS, REFUSED_TICKS = 0.01, (10, 60)
"""Share of ticks in which a driver begins to refuse what it is sent, and for how long it does."""
UNSENT = 0.02
"""Share of look-aheads that do not reach one arm, or both."""
LEAPS, STALL_S, JUMP_S = 0.002, (0.031, 0.9), (1.1, 5.0)
"""Share of ticks before which everything stands still, or the clock jumps, and for how long."""
HEARTBEAT_S = 1.0
ANSWERED_TICKS = 1000
"""By then there is an answer to every plan."""
WAIT = 3
BEGIN_NS = 1000 * NS_PER_S
REPORTED = tuple(event for event in Event if event not in SERVICES and event not in SLOWING)


class ExecutorFuzzer:
    """One executor, one robot that follows with a lag and refuses at times, and random chunks, services and faults.

    Half of the seeds join plans a slice at a time, as a slow machine does, if `by_slices` does not say which do.
    """

    def __init__(self, spec: RobotSpec, seed: int, *, by_slices: bool | None = None) -> None:
        self._spec, self._rng = spec, np.random.default_rng(seed)
        self._streaming = spec.command_interface == "joint_trajectory"
        watched = HEARTBEAT_S if self._rng.random() < 0.3 else None
        self._config = ExecutorConfig(heartbeat_timeout_s=watched)
        self._executor, self._maker = Executor(spec, self._config), ChunkMaker(spec, self._rng)
        self._recalls = dict(self._executor.recalls)
        self._period_ns = round(NS_PER_S / spec.rates.control_hz)
        self._pauses = np.random.default_rng((seed, 1))
        self._by_slices = bool(self._pauses.random() < 0.5) if by_slices is None else by_slices
        self._waiting = WaitingPlans(self._executor, self._period_ns)
        lead_ns = nanoseconds(self._config.lead_s) if self._streaming else 0
        early_ns, late_ns = max(0, 2 * self._period_ns - lead_ns), 2 * self._period_ns + lead_ns
        self._oracle = MergeOracle(spec, self._config.schedule, early_ns, late_ns)
        self._arms = {arm.name: Stream(spec, spec.arm_slice(arm.name)) for arm in spec.arms}
        self._aheads = {name: deque[LookAhead](maxlen=REMEMBERED) for name in self._arms}
        self._refused: dict[str, LookAhead] = {}
        self._refused_ticks = 0
        self._now_ns, self._last_ns = BEGIN_NS, 0
        self._measured_J = self._seen_J = self._armed_J = self._target_J = self._last_J = spec.limit("home")
        self._moving = self._armed = self._told = False
        slack_J = self._config.astray_share * (spec.limit("upper") - spec.limit("lower"))
        jaws = list(spec.gripper_indices)  # let go of in mid-stop, a jaw resumes where that stop ends
        slack_J[jaws] = UNTOUCHED_M + (spec.limit("velocity") ** 2 / spec.limit("acceleration"))[jaws]
        self._slack_J = slack_J
        self._space = None if spec.kinematics.format == NO_KINEMATICS else Space(spec, margin_m=0.0)
        self.report = FuzzReport(seed)

    def run(self, chunks: int) -> FuzzReport:
        """Offer this many chunks; a crash ends the run and is a problem."""
        try:
            for _ in range(chunks):
                for _ in range(int(self._rng.choice([0, 0, 1, 3, 10, 40]))):
                    self._tick()
                self._offer()
                self._disturb()
            self._wait()
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.report.problems.append(f"crash at {self._now_ns}: {error!r} in {where.filename}:{where.lineno}")
        for stream in self._arms.values():
            for kind, share in stream.worst.items():
                self.report.worst_use[kind] = max(self.report.worst_use.get(kind, 0.0), share)
        self.report.gate_interventions = self._executor.status(self._now_ns).gate_interventions
        self.report.recalls = sum(self._executor.recalls.values())
        return self.report

    # ---- time, arms, drivers ---------------------------------------------------------------------------------------

    def _tick(self) -> None:
        odd = self._later()
        self._measured_J = self._measured_J + 0.5 * (self._target_J - self._measured_J)
        position_J = self._measured_J
        if self._rng.random() < 0.0005:
            position_J = np.full_like(position_J, np.nan)
        state = None if self._rng.random() < 0.05 else RobotState(self._now_ns, position_J, np.zeros_like(position_J))
        usable = state is not None and bool(np.isfinite(position_J).all())
        self._seen_J = position_J if usable else self._seen_J
        self.report.events += odd or not usable
        self.report.odd_ticks += odd or not usable
        command = self._executor.step(self._now_ns, state)
        self._watch_mode()
        self._carry_out(command)
        self._join()

    def _carry_out(self, command: JointCommand | None) -> None:
        """The arms do as they are told."""
        if command is None:
            self._rest_if_disarmed()
            return
        self.report.commands += 1
        self._judge(command)
        if self.report.commands % LOOK_EVERY == 0:
            self._look_ahead()
        self._target_J = command.position_J.copy()
        self._refuse()
        self._look_around("command", [command.position_J])

    def _later(self) -> bool:
        """Let time pass; whether it was an odd time."""
        if self._rng.random() < LEAPS:
            leap_s = [self._rng.uniform(*STALL_S), self._rng.uniform(*JUMP_S), -self._rng.uniform(0, JUMP_S[1])]
            self._now_ns += nanoseconds(leap_s[int(self._rng.integers(3))])
            self._told = False
            self._carry_on()
            return True
        periods = float(self._rng.choice([1.0, 1.0, 1.0, 1.0, 0.8, 1.2, 0.3, 3.0]))
        self._now_ns += int(self._period_ns * periods)
        return periods != 1.0

    def _carry_on(self) -> None:
        """Arms that nobody calls for go on with what they took last."""
        for name, stream in self._arms.items():
            ahead = self._refused.get(name) or (self._aheads[name][-1] if self._aheads[name] else None)
            if ahead is not None:
                self._target_J[stream.joints] = carried_out(ahead, self._now_ns)[stream.joints]
                self._measured_J[stream.joints] = self._target_J[stream.joints]

    def _look_ahead(self) -> None:
        """What the arms are told, and may carry out for a while."""
        ahead = self._executor.look_ahead(self._now_ns) if self._streaming else None
        if ahead is None:
            return
        self._check_look_ahead(ahead)
        self._look_around("look-ahead", ahead.position_NJ)
        unsent: tuple[str, ...] = ()
        if self._rng.random() < UNSENT:
            names = tuple(self._arms)
            unsent = (names, names[:1], names[1:])[int(self._rng.integers(3))]
            self._executor.take_back(unsent)
            self.report.events += 1
        for name in self._arms.keys() - set(unsent):
            self._told = True
            self._aheads[name].append(ahead)

    def _refuse(self) -> None:
        """A driver that refuses goes on with the look-ahead that it took last, and so to rest: one arm, or both."""
        if self._refused_ticks == 0:
            self._refused = {}
            if self._streaming and all(self._aheads.values()) and self._rng.random() < REFUSALS:
                self._refused_ticks, names = int(self._rng.integers(*REFUSED_TICKS)), list(self._arms)
                chosen = (names, names, names[:1], names[1:])[int(self._rng.integers(4))]
                self._refused = {name: self._aheads[name][-1] for name in chosen}
                self.report.events += 1
        for name, ahead in self._refused.items():
            joints = self._arms[name].joints
            self._target_J[joints] = carried_out(ahead, self._now_ns)[joints]
        self._refused_ticks = max(0, self._refused_ticks - 1)

    # ---- plans and events ------------------------------------------------------------------------------------------

    def _offer(self) -> None:
        chunk = self._maker.make(self._target_J, self._now_ns, self.report.chunks)
        self.report.chunks += 1
        self.report.events += 1
        if self._by_slices:
            self._waiting.add(chunk)
            return
        before = self._executor.status(self._now_ns)
        self._check_answers(before, [(chunk, self._executor.submit(chunk, self._now_ns))])

    def _wait(self) -> None:
        """Until there is an answer to every plan."""
        for _ in range(ANSWERED_TICKS):
            if self._waiting:
                self._tick()
        if self._waiting:
            self.report.problems.append(f"at {self._now_ns}: {len(self._waiting)} plans got no answer")

    def _join(self) -> None:
        """Join what waits, in the time that is left by a clock that goes on at random."""
        if not self._waiting:
            return
        clock = looks_ns(self._now_ns, self._period_ns, self._pauses).__next__
        before = self._executor.status(self._now_ns)
        self._check_answers(before, self._waiting.join(self._now_ns + self._period_ns, clock))

    def _check_answers(self, before: ExecutorStatus, answers: list[tuple[ActionChunk, Merge]]) -> None:
        """Refusals are counted; what is accepted is without fault, and in force."""
        after, in_force = self._executor.status(self._now_ns), before.chunk_id
        for chunk, merge in answers:
            wrong, faults = list[str](), self._oracle.faults(chunk, self._now_ns)
            if merge.accepted:
                self.report.accepted += 1
                wrong += [] if before.mode in (Mode.RUN, Mode.SLOW) else ["accepted in a mode that does not move"]
                wrong += [f"accepted although {fault}" for fault in faults]
                in_force = chunk.chunk_id
                self._oracle.accepted(chunk)
                self._maker.epoch = chunk.epoch
            else:
                wrong += [] if merge.reason is not None else ["refused without a reason"]
                self.report.refused[merge.reason.value if merge.reason is not None else "?"] += 1
            self.report.problems += [f"chunk {chunk.chunk_id}: {what}" for what in wrong]
        counted = sum(after.refused.values()) - sum(before.refused.values())
        if counted != (refused := sum(not merge.accepted for _, merge in answers)):
            self.report.problems.append(f"at {self._now_ns}: {counted} refusals counted, {refused} answered")
        if after.chunk_id != in_force:
            self.report.problems.append(f"at {self._now_ns}: {after.chunk_id} is in force, not {in_force}")
        self._watch_mode()

    def _disturb(self) -> None:
        executor, rng = self._executor, self._rng
        likely: list[tuple[float, Callable[[], None]]] = [
            (0.01, lambda: self._serve((executor.hold, executor.stop, executor.arm, executor.reset_fault)[
                int(rng.integers(4))])),
            (0.005, lambda: self._act(partial(executor.set_estop, True))),
            (0.3, lambda: self._act(partial(executor.set_estop, False))),
            (0.02, lambda: self._condition(sorted(SLOWING & CONDITIONS))),
            (0.002, lambda: self._condition(sorted(CONDITIONS))),
            (0.003, lambda: self._act(partial(executor.report, REPORTED[int(rng.integers(len(REPORTED)))]))),
            (0.01, self._begin_session), (0.01, self._ask), (0.003, self._give_away),
            (0.5, lambda: self._act(executor.heartbeat)), (0.3, self._recover),
        ]
        for share, event in likely:
            if rng.random() < share:
                event()
        self._look_ahead()

    def _serve(self, service: Callable[[int], Reply]) -> None:
        """Call a service."""
        reply = service(self._now_ns)
        armed = reply.ok and service == self._executor.arm
        if armed:
            self._oracle.armed(self._now_ns)
            self._armed, self._told, self._armed_J = True, False, self._seen_J
        self.report.events += 1
        self._watch_mode(armed=armed)
        self._rest_if_disarmed()

    def _act(self, event: Callable[[int], object]) -> None:
        event(self._now_ns)
        self.report.events += 1
        self._watch_mode()

    def _condition(self, events: list[Event]) -> None:
        present = bool(self._rng.random() < 0.3)
        self._act(partial(self._executor.set_condition, events[int(self._rng.integers(len(events)))], present))

    def _begin_session(self) -> None:
        """A session that is new, or the one that was announced before."""
        self._maker.epoch += int(self._rng.integers(2))
        self._act(lambda _: self._executor.set_epoch(self._maker.epoch))
        self._oracle.session(self._maker.epoch)

    def _ask(self) -> None:
        """A sentence that is new, or the one that was asked for before."""
        self._maker.sentence += int(self._rng.integers(2))
        self._act(partial(self._executor.set_instruction, self._maker.sentence))
        self._oracle.sentence(self._maker.sentence, self._now_ns)

    def _give_away(self) -> None:
        """Somebody else takes the arms, and moves them a little."""
        if not self._moving:
            self._act(lambda _: self._executor.let_go())
            range_J = self._spec.limit("upper") - self._spec.limit("lower")
            there_J = self._target_J + self._rng.normal(0, 0.01, len(range_J)) * range_J
            self._target_J = np.clip(there_J, self._spec.limit("lower"), self._spec.limit("upper"))

    def _recover(self) -> None:
        if not self._moving:
            self._serve(self._executor.reset_fault)
            self._serve(self._executor.arm)

    # ---- judges ----------------------------------------------------------------------------------------------------

    def _judge(self, command: JointCommand) -> None:
        """Every arm goes on from its last command or from a look-ahead; after `arm`, from where it stands."""
        time_ns = command.time_ns if self._streaming else self._last_ns + self._period_ns
        recalls, self._recalls = self._recalls, dict(self._executor.recalls)
        known = self._seen_J, self._armed_J, self._last_J  # another owner may still be moving the arm that is armed
        off_J = np.min([np.abs(command.position_J - each_J) for each_J in known], axis=0)
        near_J, steady = off_J <= self._slack_J, time_ns - self._last_ns == self._period_ns
        for name, stream in self._arms.items():
            others, recalled = tuple[Run, ...](), recalls[name] != self._recalls[name]
            if not self._armed and (recalled or (self._told and not steady)):
                others = tuple(self._elsewhere(name, time_ns - self._period_ns))
            if not (steady or self._told or self._armed):
                self._waited(name, time_ns, command.position_J)
            wrong = stream.add(time_ns, command.position_J, others)
            if self._armed:  # a motion begins, where the last one ended or where the arm is measured
                wrong = None if near_J[stream.joints].all() else wrong or "begins away from the arm"
                stream.forget()
                stream.add(time_ns, command.position_J)
            if wrong is not None:
                self.report.problems.append(f"command at {self._now_ns}: {name} {wrong}{'' if steady else ', late'}")
        self._last_ns, self._last_J = time_ns, command.position_J
        self._armed = False

    def _elsewhere(self, name: str, before_ns: int) -> Iterator[Run]:
        """Motions that the next command to an arm may go on from a period before it, if not from the last command."""
        joints = self._arms[name].joints
        yield from (run_of(ahead, joints, before_ns) for ahead in reversed(self._aheads[name]))

    def _waited(self, name: str, time_ns: int, position_J: F64) -> None:
        """Arms that were told nothing since `arm`, or since the clock jumped, wait where commands come late.

        How many periods of the way were left out is not told, so a motion begins here, and near: within what WAIT
        periods at full speed take from the last command, or from a look-ahead that the arm went on along: the last one,
        or the one that a driver held to which refuses.
        """
        stream = self._arms[name]
        reach_J = self._spec.limit("velocity") * WAIT / self._spec.rates.control_hz * (1 + TOLERANCE)
        taken = [*list(self._aheads[name])[-1:], *([self._refused[name]] if name in self._refused else [])]
        there = [self._last_J, *(carried_out(ahead, time_ns) for ahead in taken)]
        if not any((np.abs(position_J - each_J) <= reach_J)[stream.joints].all() for each_J in there):
            self.report.problems.append(f"command at {self._now_ns}: {name} jumps where the clock did")
        stream.forget()

    def _check_look_ahead(self, ahead: LookAhead) -> None:
        rules = {
            "its times do not increase": not (np.diff(ahead.time_s_N, prepend=0.0) > 0).all(),
            "it does not end at rest": ahead.velocity_NJ[-1].any() or ahead.acceleration_NJ[-1].any(),
        }
        broken = [rule for rule, true in rules.items() if true]
        for name, stream in self._arms.items() if not self._armed else ():
            recalled = self._executor.recalls[name] != self._recalls[name]
            wrong = stream.continued(ahead, tuple(self._elsewhere(name, ahead.start_ns)) if recalled else ())
            broken += [f"{name} {wrong}"] if wrong is not None else []
        self.report.problems += [f"look-ahead at {self._now_ns}: {text}" for text in broken]

    def _look_around(self, what: str, positions: Iterable[F64]) -> None:
        """An arm that refuses stays where it is: too near the other one, it may be, whatever is commanded."""
        found = (self._space.breach(position_J) for position_J in positions) if self._space is not None else ()
        breach = next((refusal for refusal, _ in filter(None, found)), None)
        refusing = Event.NOT_FOLLOWING in self._executor.status(self._now_ns).conditions
        if breach is not None and not (refusing and breach is Refusal.ARMS_TOO_CLOSE):
            self.report.problems.append(f"{what} {breach} at {self._now_ns}")

    def _watch_mode(self, *, armed: bool = False) -> None:
        """Nothing but `arm` leads to a mode that moves."""
        before, self._moving = self._moving, self._executor.status(self._now_ns).mode in (Mode.RUN, Mode.SLOW)
        if self._moving and not before and not armed:
            self.report.problems.append(f"moves at {self._now_ns} without arm")

    def _rest_if_disarmed(self) -> None:
        """The next `arm` starts a new motion."""
        if self._executor.status(self._now_ns).mode is Mode.DISARMED:
            self._refused_ticks, self._refused = 0, {}
            for name, stream in self._arms.items():
                stream.forget()
                self._aheads[name].clear()
