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

from dataclasses import replace
from types import MappingProxyType

import numpy as np

from starry_ros.control.course import course_of
from starry_ros.control.figures import RunFigures
from starry_ros.control.limits import Gate, Limits
from starry_ros.control.outlook import Outlook, Sent
from starry_ros.control.safety import BLOCKING, SERVICES, SLOWING, TABLE, Event, Mode, Reply, SafetyMachine
from starry_ros.control.schedule import Knots, Merge, Refusal, Schedule
from starry_ros.control.space import Space
from starry_ros.control.splice import Splice, Splicer
from starry_ros.control.status import ExecutorConfig, ExecutorStatus, LookAhead
from starry_ros.control.stop import StopPlanner
from starry_ros.control.trajectory import Curve
from starry_ros.control.watch import StateWatch
from starry_ros.errors import ConfigError
from starry_ros.robot_spec import RobotSpec
from starry_ros.timing import NS_PER_S, nanoseconds, seconds
from starry_ros.types import F64, ActionChunk, JointCommand, RobotState

CONDITIONS = (BLOCKING | SLOWING) - {Event.NOT_FOLLOWING}
"""Events that last and may be reported from outside with `set_condition`."""


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
        self._splicer = Splicer(limits)
        self._stopper = StopPlanner(limits.for_planning(), self._space)
        self._outlook = Outlook(spec, self._config, self._stopper, self._lead_ns)
        self._gate = Gate(limits, self._period_s)
        self._safety = SafetyMachine()
        self._watch = StateWatch(spec, self._config)
        self._last_call_ns: int | None = None
        self._heartbeat_ns: int | None = None
        self._gate_until_ns: int | None = None
        self._ticks = self._missed_ticks = self._gate_interventions = 0
        self._begin_run(np.zeros(self._joints), 0)

    def _begin_run(self, start_J: F64 | None, now_ns: int) -> None:
        """Start anew; given a position, forget all motion: the arms stand there and nothing was commanded yet."""
        self._stopping, self._silent, self._slower = False, False, 1.0
        self._run = RunFigures(self._joints)
        if start_J is None:
            return
        self._command_ns: int | None = None
        self._outlook.forget()
        self._watch.start(start_J, now_ns)
        self._motion_3J = np.stack([start_J, np.zeros_like(start_J), np.zeros_like(start_J)])
        self._set_curve(Curve.hold(start_J))

    def _set_curve(self, curve: Curve) -> None:
        self._curve, self._curve_ticks, self._turned = curve, 0, True

    @property
    def _curve_s(self) -> float:
        """Where on the active curve the last command was."""
        return self._curve_ticks * self._period_s

    @property
    def _at_rest(self) -> bool:
        return self._curve_s >= self._curve.duration_s

    def step(self, now_ns: int, state: RobotState | None) -> JointCommand | None:
        """One control period. `state` is the newest measured state or None.

        Returns the set-point to send, or None while disarmed, after the stop of a tracking error, or when called before
        the next period is due. The first set-point after `arm` is the measured position.
        """
        self._observe(now_ns, state)
        if self._safety.mode is Mode.DISARMED or (self._silent and self._stopping and self._at_rest):
            return None
        self._apply_mode(now_ns)
        if self._command_ns is None:
            self._command_ns = now_ns + self._lead_ns
        elif not self._next_period(self._command_ns, now_ns):
            return None
        self._count()
        self._outlook.commanded(self._command_ns, self._motion_3J)
        position_J = np.clip(self._motion_3J[0], self._lower_J, self._upper_J)
        self._watch.commanded(self._command_ns, position_J)
        return JointCommand(self._command_ns, position_J, self._motion_3J[1], self._motion_3J[2])

    def _next_period(self, last_ns: int, now_ns: int) -> bool:
        """Advance to the command that is due, if one is. Periods that passed without a call are counted."""
        periods = (now_ns + self._lead_ns - last_ns + self._period_ns // 2) // self._period_ns
        if periods < 1:
            return False
        self._missed_ticks += periods - 1
        self._command_ns = last_ns + periods * self._period_ns
        if not self._streams:
            self._advance(now_ns)
            return True
        if periods > 1 and self._outlook.in_its_stop(now_ns):
            self._adopt_sent(self._command_ns)
            self._rejoin(now_ns)
            return True
        for left in range(periods - 1, -1, -1):
            self._advance(now_ns)
            if left:
                self._outlook.commanded(self._command_ns - left * self._period_ns, self._motion_3J)
        return True

    def _adopt_sent(self, at_ns: int) -> None:
        """Arms that began the stop of the last look-ahead are where it took them, not where the plan would have."""
        if (sent := self._outlook.taken()) is not None:
            self._adopt(sent, at_ns)
            self._outlook.forget()

    def _adopt(self, sent: Sent, at_ns: int) -> None:
        """Go on from where a look-ahead is at a moment."""
        self._set_curve(sent.ahead.cut(seconds(at_ns - sent.command_ns)))
        self._motion_3J = self._curve.at(0.0)

    def _advance(self, now_ns: int) -> None:
        """One period along the active curve; a step that breaks a limit is replaced by the beginning of a stop."""
        motion_3J = self._curve.at(self._curve_s + self._period_s)
        if self._gate.violations(self._motion_3J, motion_3J) is not None:
            self._gate_interventions += 1
            self._gate_until_ns = now_ns + nanoseconds(self._config.gate_slow_s)
            self._begin_stop()
            motion_3J = self._curve.at(self._period_s)
        self._motion_3J = motion_3J
        self._curve_ticks += 1

    def _count(self) -> None:
        self._ticks, waiting = self._ticks + 1, self._at_rest
        if not self._safety.moving_allowed:
            return
        if waiting is not self._run.waiting:
            self._run.waiting = waiting
            self._safety.handle(Event.NO_CHUNK if waiting else Event.CHUNK_AVAILABLE)
        at_ns, known = self._command_ns or 0, self._schedule.chunk is not None
        self._run.ticked(at_ns, self._schedule.slack_s(at_ns) if known else None)
        if self._config.patience_s is not None and self._run.waited_ticks * self._period_s > self._config.patience_s:
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
        follows = self._streams and self._safety.moving_allowed and at_ns == self._command_ns
        sent = self._outlook.still_on(state) if follows and state is not None else None
        if sent is not None:
            self._outlook.recall(sent, at_ns)
            self._adopt(sent, at_ns)
            self._rejoin(now_ns)
        self._safety.set_condition(Event.NOT_FOLLOWING, armed and self._outlook.refusing)
        if armed and (self._watch.off_track(now_ns) or self._outlook.refused_s >= self._config.stuck_time_s):
            self._safety.handle(Event.TRACKING_ERROR)
            self._silent = True

    def _watch_clock(self, now_ns: int) -> None:
        """A clock that jumped makes every stored time meaningless: stop, and forget them."""
        last_ns, self._last_call_ns = self._last_call_ns, now_ns
        if last_ns is None or 0 <= now_ns - last_ns <= nanoseconds(self._config.clock_jump_s):
            return
        self._safety.handle(Event.CLOCK_JUMP)
        if now_ns > last_ns:
            self._adopt_sent(now_ns)
        self._watch.forget()
        self._gate_until_ns = None
        self._heartbeat_ns = now_ns if self._heartbeat_ns is not None else None
        if self._command_ns is not None:
            self._command_ns = now_ns + self._lead_ns - self._period_ns
        self._outlook.forget()

    def _apply_mode(self, now_ns: int) -> None:
        """Bring the motion in line with the mode."""
        if not self._safety.moving_allowed:
            if not self._stopping:
                self._schedule.reset(self._schedule.epoch)
                self._watch.leave()
                self._begin_stop()
            return
        slower = self._config.slow_factor if self._safety.mode is Mode.SLOW else 1.0
        if slower != self._slower:
            self._slower = slower
            if not self._rejoin(now_ns) and slower > 1 and not self._at_rest:
                self._begin_stop()  # limits have delayed the plan beyond its end: nothing is left to follow slowly

    def _rejoin(self, now_ns: int) -> bool:
        """Follow what is known of the plan from here on, if anything is."""
        at_ns = self._splice_time(now_ns)
        knots = self._schedule.ahead(at_ns)
        if knots is not None and self._safety.moving_allowed:
            splice = self._reachable(knots, at_ns)
            if isinstance(splice, Splice):
                self._follow(splice)
                return True
        return False

    def _begin_stop(self) -> None:
        self._set_curve(self._stopper.stop(self._curve, self._curve_s))
        self._stopping = not self._safety.moving_allowed

    # ---- plans ---------------------------------------------------------------------------------------------------

    def submit(self, chunk: ActionChunk, now_ns: int) -> Merge:
        """Offer a chunk. An accepted one is in force with the next step; a refused one changes nothing but a count."""
        if not self._safety.moving_allowed:
            return self._schedule.refuse(Refusal.NOT_RUNNING)
        if self._streams and self._command_ns not in (None, self._splice_time(now_ns)):
            self._next_period(self._command_ns or 0, now_ns)  # the controller went on meanwhile
        at_ns = self._splice_time(now_ns)
        if (reason := self._schedule.judge(chunk, at_ns)) is not None:
            return self._schedule.refuse(reason)
        self._run.offered(chunk.end_ns)
        knots = self._schedule.merged(chunk, at_ns, standing=not self._motion_3J[1:].any())
        splice = self._reachable(knots, at_ns)
        if isinstance(splice, Refusal):
            return self._schedule.refuse(splice)
        self._follow(splice)
        return self._schedule.commit(chunk, knots, at_ns, splice.border)

    def _reachable(self, knots: Knots, at_ns: int) -> Splice | Refusal:
        splice = self._splicer.splice(self._motion_3J, knots.relative_s(at_ns), knots.position_KJ, self._slower)
        if splice is None:
            return Refusal.UNREACHABLE
        if splice.delay_s > self._config.max_delay_s * self._slower:
            return Refusal.TOO_FAST
        breach = self._space.first_breach(splice.curve) if self._space is not None else None
        if breach is None:
            return splice
        stopped = self._stopper.stop_before(splice.curve, breach[0])
        return breach[1] if stopped is None else replace(splice, curve=stopped, border=breach[1])

    def _splice_time(self, now_ns: int) -> int:
        """The time that the last command stands for: the command's own, unless the calls stopped coming."""
        due_ns = now_ns + self._lead_ns
        if self._command_ns is None or abs(due_ns - self._command_ns) > 2 * self._period_ns:
            return due_ns
        return self._command_ns

    def _follow(self, splice: Splice) -> None:
        """Make a splice the active curve."""
        self._set_curve(splice.curve)
        self._run.followed(splice)

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
        start_J = self._watch.start_of(self._motion_3J[0], anew=mode is Mode.DISARMED)
        if TABLE[mode, Event.ARM] is not None:
            obstacle = self._watch.obstacle_to_start(now_ns) or self._breach_at(start_J)
            if obstacle is None and mode is not Mode.DISARMED and not self._at_rest:
                obstacle = "the arms are still stopping"
            if obstacle is not None:
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
        if self._safety.mode is Mode.FAULT and not (self._stopping and self._at_rest):
            return Reply(False, "reset_fault refused: the arms are still stopping")
        if self._safety.reason != Event.ESTOP_PRESSED or self._silent:
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

    def heartbeat(self, now_ns: int) -> None:
        """Whoever must be alive for the arms to move is alive."""
        self._heartbeat_ns = now_ns

    # ---- what others see -----------------------------------------------------------------------------------------

    def look_ahead(self, now_ns: int) -> LookAhead | None:
        """The next motion as a trajectory that ends at rest inside the limits, or None while disarmed.

        Sent as one message an arm, it makes a robot whose executor died decelerate and hold by itself. After a tracking
        error there is none either: what the arms took last ends at rest, and nothing sets them off again.
        """
        if self._safety.mode is Mode.DISARMED or self._silent:
            return None
        command_ns = self._command_ns if self._command_ns is not None else now_ns + self._lead_ns
        return self._outlook.make(self._curve, self._curve_s, command_ns, moving=self._safety.moving_allowed)

    def new_course(self) -> ActionChunk | None:
        """What will be commanded if nothing new comes, with the ids of its plan, or 0; None while nothing changed."""
        if self._command_ns is None or not self._turned:
            return None
        self._turned = False
        return course_of(self._spec, self._schedule.chunk, self._command_ns, self._curve.cut(self._curve_s))

    @property
    def recalls(self) -> int:
        """How often commands went back to an older look-ahead that the arms were still on."""
        return self._outlook.recalls

    def status(self, now_ns: int) -> ExecutorStatus:
        """Everything worth publishing about this moment."""
        safety, schedule, run, chunk = self._safety, self._schedule, self._run, self._schedule.chunk
        waiting = safety.moving_allowed and run.waiting
        return ExecutorStatus(
            mode=safety.mode,
            reason=Event.NO_CHUNK.value if waiting else safety.reason,
            conditions=tuple(sorted(safety.conditions)),
            epoch=schedule.epoch, chunk_id=chunk.chunk_id if chunk is not None else None,
            instruction_id=chunk.instruction_id if chunk is not None else None,
            chunk_age_s=seconds(now_ns - chunk.observation_ns) if chunk is not None else None,
            slack_s=schedule.slack_s(now_ns), delay_s=run.delay_s, stall_share=run.stall_share,
            splices=MappingProxyType(dict(run.splices)), borders=MappingProxyType(dict(run.borders)),
            splice_jump=run.jump, splice_jump_worst=run.jump_worst, refused=schedule.refused,
            limit_activity_J=run.limit_activity(), tracking_error_J=self._watch.error_J.copy(),
            gate_interventions=self._gate_interventions, ticks=self._ticks, missed_ticks=self._missed_ticks,
        )
