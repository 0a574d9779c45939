"""The executor: one call a control period, from plans and measured states to set-points. No threads, no waiting.

The active curve always ends at rest and obeys every limit from where the arms are (`splice`, `stop`), so whatever
happens next, a stop is in hand. `step` samples it once a period; chunks, services and faults replace it between
samples, always by a curve that starts with the last commanded motion.

Two kinds of robots, by the contract's command interface. Behind a trajectory controller, motion runs on the clock:
commands are made `lead_s` ahead of it, sent as look-aheads, and periods that passed without a call are caught up with,
because the controller went on by itself. With set-points one by one, motion advances by one period a call: a late call
delays it and never makes it faster. Shapes: J joints in contract order, N samples, a motion is [3, J] (position,
velocity, acceleration).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from starry_ros.control.course import course_of
from starry_ros.control.figures import RunFigures
from starry_ros.control.intake import Here, Intake
from starry_ros.control.joining import Joiner
from starry_ros.control.limits import Gate, Limits
from starry_ros.control.outlook import Outlook
from starry_ros.control.report import Totals, status_of
from starry_ros.control.safety import CONDITIONS, SERVICES, SLOWING, TABLE, Event, Mode, Reply, SafetyMachine
from starry_ros.control.schedule import BORDERS, Merge, Refusal, Schedule
from starry_ros.control.slices import at_once
from starry_ros.control.space import Space
from starry_ros.control.splice import Splice
from starry_ros.control.status import ExecutorConfig, ExecutorStatus, LookAhead
from starry_ros.control.stop import StopPlanner
from starry_ros.control.track import Track
from starry_ros.control.watch import StateWatch
from starry_ros.errors import ConfigError
from starry_ros.robot_spec import RobotSpec
from starry_ros.timing import NS_PER_S, nanoseconds, seconds
from starry_ros.types import F64, ActionChunk, JointCommand, RobotState


class Executor:
    """Control of one robot. Not thread-safe: call everything from one thread. Starts DISARMED."""

    def __init__(self, spec: RobotSpec, config: ExecutorConfig | None = None) -> None:
        self._spec, self._config = spec, config or ExecutorConfig()
        self._joints = len(spec.joint_names)
        self._period_s = 1 / spec.rates.control_hz
        self._period_ns = round(NS_PER_S / spec.rates.control_hz)
        self._streams = spec.command_interface == "joint_trajectory"
        self._lead_ns = nanoseconds(self._config.lead_s) if self._streams else 0
        self._space = Space.of(spec)
        limits = Limits.of(spec)
        self._lower_J, self._upper_J = limits.lower_J, limits.upper_J
        self._schedule = Schedule(spec, self._config.schedule)
        self._stopper = StopPlanner(limits.for_planning(), self._space)
        self._joiner = Joiner(limits, self._space, self._stopper, self._config.max_delay_s)
        self._outlook = Outlook(spec, self._config, self._stopper, self._lead_ns)
        self._gate = Gate(limits, self._period_s)
        self._safety, self._watch = SafetyMachine(), StateWatch(spec, self._config)
        self._last_call_ns = self._heartbeat_ns = self._gate_until_ns = None  # type: int | None
        self._totals = Totals()
        self._track = Track(self._period_s, np.zeros(self._joints))
        self._intake = Intake(self._schedule, self._joiner, self._track, self._period_ns, self._take)
        self._begin_run(np.zeros(self._joints), 0)

    def _begin_run(self, start_J: F64 | None, now_ns: int) -> None:
        """Start anew; given a position, forget all motion: the arms stand there and nothing was commanded yet."""
        self._stopping, self._silent, self._let_go, self._slower = False, False, False, 1.0
        self._run = RunFigures(self._joints)
        self._outlook.trust()
        if start_J is None:
            return
        self._command_ns: int | None = None
        self._outlook.forget()
        self._watch.start(start_J, now_ns)
        self._track.stand(start_J)

    def step(self, now_ns: int, state: RobotState | None) -> JointCommand | None:
        """One control period. `state` is the newest measured state or None.

        Returns the set-point to send, or None while disarmed, once let go, after the stop of a tracking error, or when
        called before the next period is due. The first set-point after `arm` is the measured position.
        """
        self._catch_up(now_ns)
        self._observe(now_ns, state)
        if self._ended:
            return None
        self._apply_mode(now_ns)
        if self._command_ns is None:
            self._command_ns = now_ns + self._lead_ns
        elif not self._next_period(self._command_ns, now_ns):
            return None
        self._count()
        position_J = self._commanded(self._command_ns)
        if self._let_go:
            return None
        return JointCommand(self._command_ns, position_J, *self._track.motion_3J[1:])

    @property
    def _ended(self) -> bool:
        """Whether nothing is commanded any more: disarmed, or at rest after a tracking error."""
        return self._safety.mode is Mode.DISARMED or (self._silent and self._stopping and self._track.at_rest)

    def _commanded(self, command_ns: int) -> F64:
        """Remember what is commanded for a time; the set-point."""
        self._outlook.commanded(command_ns, self._track.motion_3J)
        position_J: F64 = np.clip(self._track.motion_3J[0], self._lower_J, self._upper_J)
        self._watch.commanded(command_ns, position_J)
        return position_J

    def _catch_up(self, now_ns: int) -> None:
        """What came between the last call and this one happens to arms that went on meanwhile, all but one period."""
        if not self._streams or self._command_ns is None or self._ended:
            return
        behind_ns = now_ns + self._lead_ns - self._command_ns
        if 2 * self._period_ns < behind_ns <= nanoseconds(self._config.clock_jump_s):
            self._next_period(self._command_ns, now_ns - self._period_ns)
            self._totals.missed_ticks += 1
            self._commanded(self._command_ns)

    def _next_period(self, last_ns: int, now_ns: int) -> bool:
        """Advance to the command that is due, if one is. Periods that passed without a call are counted."""
        periods = (now_ns + self._lead_ns - last_ns + self._period_ns // 2) // self._period_ns
        if periods < 1:
            return False
        self._totals.missed_ticks += periods - 1
        self._command_ns = last_ns + periods * self._period_ns
        if not self._streams or self._outlook.last is None:  # nobody goes on along a curve that was not told
            self._advance(now_ns)
            return True
        if periods > 1 and (sent := self._outlook.left(self._track, now_ns)) is not None:
            self._track.take_over(sent.after(self._command_ns))
            self._go_on(now_ns)
            return True
        for left in range(periods - 1, -1, -1):
            self._advance(now_ns)
            if left:
                self._commanded(self._command_ns - left * self._period_ns)
        return True

    def _go_on(self, now_ns: int) -> None:
        """Once the commands are where the arms are: follow the plan again, or stop from there."""
        if not (self._safety.moving_allowed and self._rejoin(now_ns)):
            self._begin_stop()

    def _advance(self, now_ns: int) -> None:
        """One period along the active curve; a step that breaks a limit is replaced by the beginning of a stop."""
        motion_3J = self._track.next()
        if self._gate.violations(self._track.motion_3J, motion_3J) is not None:
            self._totals.gate_interventions += 1
            self._gate_until_ns = now_ns + nanoseconds(self._config.gate_slow_s)
            self._begin_stop()
            motion_3J = self._track.next()
        self._track.advance(motion_3J)

    def _count(self) -> None:
        self._totals.ticks, waiting = self._totals.ticks + 1, self._track.at_rest
        if not self._safety.moving_allowed:
            return
        if waiting is not self._run.waiting:
            self._run.waiting = waiting
            self._safety.handle(Event.NO_CHUNK if waiting else Event.CHUNK_AVAILABLE)
        at_ns, known = self._command_ns or 0, self._schedule.chunk is not None
        self._run.ticked(at_ns, self._schedule.slack_s(at_ns) if known else None)
        waited_s = self._run.waited_ticks * self._period_s if self.joining is None else 0.0
        if self._config.patience_s is not None and waited_s > self._config.patience_s:
            self._safety.handle(Event.PLANNER_LOST)

    def _observe(self, now_ns: int, state: RobotState | None) -> None:
        """Everything that is watched becomes events."""
        self._watch_clock(now_ns)
        if state is not None:
            self._watch.take(state, now_ns)
        config, heartbeat_ns = self._config, self._heartbeat_ns
        beat_age_s = seconds(now_ns - heartbeat_ns) if heartbeat_ns is not None else np.inf
        lost = config.heartbeat_timeout_s is not None and beat_age_s > config.heartbeat_timeout_s
        self._safety.set_condition(Event.HEARTBEAT_LOST, lost)
        self._safety.set_condition(Event.STATE_INVALID, not self._watch.valid)
        self._safety.set_condition(Event.STATE_STALE, self._watch.stale(now_ns))
        gated = self._gate_until_ns is not None and now_ns < self._gate_until_ns
        self._safety.set_condition(Event.LIMIT_ACTIVE, gated)
        self._watch_arms(now_ns)

    def _watch_arms(self, now_ns: int) -> None:
        """Commands go on from where arms are that did not take them; where that is much or lasts, it is a fault."""
        armed, state, at_ns = self._safety.mode is not Mode.DISARMED, self._watch.state, self._splice_time(now_ns)
        told = armed and self._streams and not self._silent and not self._let_go and at_ns == self._command_ns
        moving = self._safety.moving_allowed or not self._track.at_rest
        if told and moving and state is not None and (old := self._outlook.still_on(state)):
            self._outlook.recall(old, self._track, at_ns)
            self._go_on(now_ns)
        self._safety.set_condition(Event.NOT_FOLLOWING, armed and self._outlook.refusing)
        if armed and (self._watch.off_track(now_ns) or self._outlook.refused_s >= self._config.stuck_time_s):
            self._safety.handle(Event.TRACKING_ERROR)
            self._silent = True

    def _watch_clock(self, now_ns: int) -> None:
        """A clock that jumped makes stored times meaningless: stop, and forget them. After a hold-up, send nothing."""
        last_ns, self._last_call_ns = self._last_call_ns, now_ns
        if last_ns is None or 0 <= now_ns - last_ns <= nanoseconds(self._config.clock_jump_s):
            return
        self._safety.handle(Event.CLOCK_JUMP)
        if now_ns > last_ns and self._command_ns is not None:  # nobody knows which messages were still in time
            self._track.take_over(self._outlook.rest(self._track, now_ns))
            self._let_go = True
        self._watch.forget()
        self._gate_until_ns = None
        self._heartbeat_ns = now_ns if self._heartbeat_ns is not None else None
        if self._command_ns is not None:
            self._command_ns = now_ns + self._lead_ns - self._period_ns
        self._outlook.forget()

    def _apply_mode(self, now_ns: int) -> None:
        """Bring the motion in line with the mode."""
        self._catch_up(now_ns)
        if not self._safety.moving_allowed:
            if not self._stopping:
                self._begin_stop()
            return
        slower = self._config.slow_factor if self._safety.mode is Mode.SLOW else 1.0
        if slower != self._slower:
            self._slower = slower
            if not self._rejoin(now_ns) and slower > 1 and not self._track.at_rest:
                self._begin_stop()  # limits have delayed the plan beyond its end: nothing is left to follow slowly

    def _rejoin(self, now_ns: int) -> bool:
        """Follow what is known of the plan from here on, if anything is."""
        at_ns = self._splice_time(now_ns)
        knots = self._schedule.ahead(at_ns)
        if knots is None or not self._safety.moving_allowed:
            return False
        splice = at_once(self._joiner.work(self._track.motion_3J, knots, at_ns, self._slower))
        if isinstance(splice, Splice):
            self._follow(splice)
        return isinstance(splice, Splice)

    def _begin_stop(self) -> None:
        self._track.follow(self._stopper.stop(self._track.curve, self._track.s))
        before, self._stopping = self._stopping, not self._safety.moving_allowed
        if self._stopping and not before:
            self._schedule.reset(self._schedule.epoch)
            self._watch.leave(armed=self._safety.mode is not Mode.DISARMED)

    # ---- plans ---------------------------------------------------------------------------------------------------

    def submit(self, chunk: ActionChunk, now_ns: int) -> Merge:
        """Offer a chunk. An accepted one is in force with the next step; a refused one changes nothing but a count."""
        return self._intake.submit(chunk, self._here(now_ns))

    def offer(self, chunk: ActionChunk, now_ns: int) -> Merge | None:
        """Offer a chunk for `go_on_joining` to join, one at a time: None, or the answer where there is one at once."""
        return self._intake.offer(chunk, self._here(now_ns))

    def go_on_joining(self, now_ns: int, more: Callable[[], bool]) -> Merge | None:
        """Go on joining what was offered, after a step and as long as there is time for `more`: what came of it."""
        return self._intake.go_on(self._here(now_ns), more)

    @property
    def joining(self) -> ActionChunk | None:
        """What was offered and is still being joined."""
        return self._intake.current.chunk if self._intake.current is not None else None

    def _here(self, now_ns: int) -> Here:
        self._catch_up(now_ns)
        return Here(self._splice_time(now_ns), self._slower, self._safety.moving_allowed)

    def _take(self, chunk: ActionChunk, splice: Splice | Refusal) -> None:
        """A chunk was joined, or cannot be."""
        self._run.offered(chunk.end_ns, leads_on=isinstance(splice, Splice) or splice in BORDERS)
        if isinstance(splice, Splice):
            self._follow(splice)

    def _follow(self, splice: Splice) -> None:
        """Make a splice the active curve."""
        self._track.follow(splice.curve)
        self._run.followed(splice)

    def _splice_time(self, now_ns: int) -> int:
        """The time that the last command stands for: the command's own, unless the calls stopped coming."""
        due_ns = now_ns + self._lead_ns
        if self._command_ns is None or abs(due_ns - self._command_ns) > 2 * self._period_ns:
            return due_ns
        return self._command_ns

    def set_epoch(self, epoch: int) -> None:
        """A new session: chunks of older epochs are refused; the known plan is run to its end."""
        self._schedule.set_epoch(epoch)

    def set_instruction(self, instruction_id: int, now_ns: int) -> None:
        """A new instruction: chunks of the old one are refused after a bounded hand-over."""
        self._schedule.set_instruction(instruction_id, now_ns)

    # ---- services and inputs -------------------------------------------------------------------------------------

    def arm(self, now_ns: int) -> Reply:
        """Start to follow plans, from where the arms stand. Plans observed before this moment are refused."""
        mode = self._safety.mode
        start_J = self._watch.start_of(self._track.motion_3J[0], anew=mode is Mode.DISARMED or self._let_go)
        if TABLE[mode, Event.ARM] is not None:
            stopping = mode is not Mode.DISARMED and not self._track.at_rest
            obstacle = "the arms are still stopping" if stopping else self._watch.obstacle_to_start(now_ns)
            if (obstacle := obstacle or self._breach_at(start_J)) is not None:
                return Reply(False, f"arm refused: {obstacle}")
        reply = self._safety.request(Event.ARM)
        if reply.ok:
            self._schedule.reset(None, now_ns)
            self._begin_run(start_J, now_ns)
        return reply

    def _breach_at(self, start_J: F64 | None) -> str | None:
        """Why arms that were moved without us must not start from where they stand, in words, or None."""
        breach = self._space.breach(start_J) if self._space is not None and start_J is not None else None
        return None if breach is None else f"{breach[1]} ({breach[0]}); move the arms apart and inside by hand"

    def hold(self, now_ns: int) -> Reply:
        """Decelerate and stand still until `arm`."""
        return self._request(Event.HOLD, now_ns)

    def stop(self, now_ns: int) -> Reply:
        """Decelerate and stand still until `arm`; allowed in every mode."""
        return self._request(Event.STOP, now_ns)

    def reset_fault(self, now_ns: int) -> Reply:
        """Leave FAULT for DISARMED once its cause is gone and the arms have stopped."""
        if self._safety.mode is Mode.FAULT and not (self._stopping and self._track.at_rest):
            return Reply(False, "reset_fault refused: the arms are still stopping")
        if self._safety.mode is Mode.FAULT and (self._safety.reason != Event.ESTOP_PRESSED or self._silent):
            self._watch.left_J = None  # the drives may not have done what they were told
        return self._request(Event.RESET_FAULT, now_ns)

    def _request(self, service: Event, now_ns: int) -> Reply:
        reply = self._safety.request(service)
        self._apply_mode(now_ns)
        return reply

    def set_estop(self, pressed: bool, now_ns: int) -> None:
        """The emergency stop input. Its release alone resumes nothing."""
        self.set_condition(Event.ESTOP_PRESSED, pressed, now_ns)

    def set_condition(self, event: Event, present: bool, now_ns: int) -> None:
        """Report a lasting condition from outside (surprise, degraded planner). Raises ConfigError for other events."""
        if event not in CONDITIONS:
            raise ConfigError("executor", "is no condition", got=event.value, expected=sorted(CONDITIONS))
        self._safety.set_condition(event, present)
        self._apply_mode(now_ns)

    def report(self, event: Event, now_ns: int) -> None:
        """Report a single event from outside. Raises ConfigError for services and for what lasts and slows down."""
        if event in SERVICES or event in SLOWING:
            fix = "call the service, or set_condition for what lasts"
            raise ConfigError("executor", "is no single event", got=event.value, fix=fix)
        self._safety.handle(event)
        self._apply_mode(now_ns)

    def let_go(self) -> None:
        """Somebody else commands the arms: what they took last ends at rest, and nothing is sent any more until `arm`.

        Call it in a mode that does not move, such as with the emergency stop pressed.
        """
        self._let_go = True

    def heartbeat(self, now_ns: int) -> None:
        """Whoever must be alive for the arms to move is alive."""
        self._heartbeat_ns = now_ns

    # ---- what others see -----------------------------------------------------------------------------------------

    def look_ahead(self, now_ns: int) -> LookAhead | None:
        """The next motion as a trajectory that ends at rest inside the limits; None while disarmed or let go.

        Sent as one message an arm, it makes a robot whose executor died decelerate and hold by itself. None after a
        tracking error: what the arms took last ends at rest, and nothing sets them off again.
        """
        if self._safety.mode is Mode.DISARMED or self._silent or self._let_go:
            return None
        command_ns = self._command_ns if self._command_ns is not None else now_ns + self._lead_ns
        return self._outlook.make(self._track, command_ns, moving=self._safety.moving_allowed)

    def take_back(self, arms: Sequence[str]) -> None:
        """The last look-ahead was not sent to these arms after all."""
        self._outlook.take_back(arms)

    def new_course(self) -> ActionChunk | None:
        """What will be commanded if nothing new comes, with the ids of its plan, or 0; None while nothing changed."""
        if self._command_ns is None or not self._track.turned:
            return None
        self._track.turned = False
        return course_of(self._spec, self._schedule.chunk, self._command_ns, self._track.ahead())

    @property
    def recalls(self) -> Mapping[str, int]:
        """How often the commands of an arm went back to an older look-ahead that it was still on."""
        return self._outlook.recalls

    def status(self, now_ns: int) -> ExecutorStatus:
        """Everything worth publishing about this moment."""
        return status_of(now_ns, self._safety, self._schedule, self._run, self._watch, self._totals)
