"""Node `action_executor`: the executor behind topics. Its own process, without images.

In: plans, joint states, emergency stop, heartbeat, and the services `arm`, `hold`, `stop`, `reset_fault`. Out: a short
trajectory an arm, about 50 times a second, that follows the plan and ends at rest: should this process die, the
controller in the driver stops the arm by itself. With `command_interface: position_forward`, a set-point an arm every
control period instead: second best, for such a controller holds still at once when nothing comes. Nothing is sent while
another node commands an arm: what was sent last ends at rest by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Empty, Float64MultiArray
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from starry_ros.control.advice import Advice
from starry_ros.control.executor import Executor
from starry_ros.control.safety import Event, Mode, Reply
from starry_ros.control.status import ExecutorConfig, LookAhead
from starry_ros.control.status import ExecutorStatus as Status
from starry_ros.control.waiting import WaitingPlans
from starry_ros.errors import ConfigError, InputError
from starry_ros.msg import ActionChunk, ExecutorStatus, WorldActionStatus
from starry_ros.paths import robot_file
from starry_ros.robot_spec import load_robot_spec
from starry_ros.ros.clock_watch import JUMP_S, ClockWatch
from starry_ros.ros.convert import (
    EdgeClock,
    chunk_message,
    chunk_of,
    executor_status_message,
    set_point_message,
    stamp_ns,
    state_of,
    trajectory_message,
)
from starry_ros.ros.diagnostics import ERROR, OK, WARN, Diagnostics, Health
from starry_ros.ros.params import ROBOT, Parameter, declare
from starry_ros.ros.priority import hear_first
from starry_ros.ros.qos import COMMAND, LATCHED, PLAN, SAFETY, STATE
from starry_ros.ros.rates import Every
from starry_ros.ros.run import StarryNode, run
from starry_ros.ros.speakers import Planners, Speakers
from starry_ros.ros.stop_causes import (
    PRESSED,
    SECOND_OWNER,
    SILENT,
    TWO_DRIVERS,
    TWO_ESTOPS,
    TWO_HEARTBEATS,
    TWO_PLANNERS,
    StopCauses,
)
from starry_ros.timing import LatencyWindow, nanoseconds, seconds
from starry_ros.turns import PRIORITY, ask_for_real_time
from starry_ros.types import RobotState

PARAMETERS = (
    ROBOT,
    Parameter("command_hz", 50.0, "Rate of trajectories to each arm, in hertz; each bridges 0.08 s.", 20.0, 100.0),
    Parameter("status_hz", 10.0, "Rate of executor_status, in hertz.", 1.0, 100.0),
    Parameter("stamp_commands", True, "Stamp trajectories with their start; false sends stamp 0, which means now."),
    Parameter("drive_lag_s", 0.05, "How far drives are behind at most, in s: 1.5 time constants.", 0.0, 0.5),
    Parameter("state_timeout_s", 0.25, "Joint states older than this stop the arms, in seconds.", 0.02, 2.0),
    Parameter("patience_s", 2.0, "Arms that stood so long without a further plan wait for arm, in s; 0 never.",
              0.0, 3600.0),
    Parameter("require_heartbeat", False, "Whether a heartbeat that is silent stops the arms."),
    Parameter("heartbeat_timeout_s", 1.0, "A required heartbeat is silent after so long, in seconds.", 0.05, 10.0),
    Parameter("require_estop", False, "Whether an estop that is silent counts as pressed."),
    Parameter("estop_timeout_s", 0.5, "A required estop is silent after so long, in seconds.", 0.05, 10.0),
    Parameter("real_time_priority", PRIORITY, "Priority of ticks, where the system grants it; 0 asks for none.", 0, 99),
    Parameter("owner_check_s", 1.5, "How long to look for another owner of the arms at start, in seconds.", 0.0, 30.0),
)
MALFORMED, SEQUENCE = "malformed", "publication_sequence_number"
LATE_S = 0.03
"""A trajectory that is so late would begin in the past, and controllers step onto such a one."""
ROW_S = 1.0
"""A tick that is so far from its place begins a new row."""
JOIN_S = 0.3
"""In which arms that ran by another clock join a stop, at no more than their speed: they may be 0.3 rad from it."""
LEVELS = {Mode.FAULT: ERROR, Mode.STOP: WARN, Mode.SLOW: WARN}


class ActionExecutorNode(StarryNode):
    """One timer at the control rate; everything runs in the executor's thread."""

    def __init__(self) -> None:
        super().__init__("action_executor")
        self._values = declare(self, *PARAMETERS)
        self._spec = load_robot_spec(robot_file(self._values["robot"]))
        self._edge = EdgeClock(self.get_clock())
        config = ExecutorConfig(
            heartbeat_timeout_s=self._values["heartbeat_timeout_s"] if self._values["require_heartbeat"] else None,
            state_timeout_s=self._values["state_timeout_s"], drive_lag_s=self._values["drive_lag_s"],
            patience_s=self._values["patience_s"] or None,
        )
        self._control = Executor(self._spec, config)
        self._advice = Advice(self._control)
        self._speeds = {Mode.RUN: 1.0, Mode.SLOW: 1.0 / config.slow_factor}
        self._newest: RobotState | None = None
        self._plans = WaitingPlans(self._control, nanoseconds(1.0 / self._spec.rates.control_hz))
        self._accepted = self._epoch = 0
        self._malformed: Counter[str] = Counter()
        self._unheard: set[str] = set()
        self._causes, self._estop_ns = StopCauses(), None  # type: StopCauses, int | None
        self._planners, self._drivers, self._clocks = Planners(), Speakers(), ClockWatch(self._own_step_s())
        self._commands: dict[str, Any] = {}
        self._take_arms_ns = self._edge.now_ns() + nanoseconds(self._values["owner_check_s"])
        self._told, self._real_time, self._rest_J = None, False, None  # type: Mode | None, bool, Any
        self._lateness, self._due_ns = LatencyWindow(512), 0
        self._command_rate, self._status_rate = (Every(self._values[rate]) for rate in ("command_hz", "status_hz"))
        self._make_interfaces()

    def begin(self) -> None:
        """Ticks go before what others compute."""
        priority = self._values["real_time_priority"]
        self._real_time = bool(priority) and ask_for_real_time(priority)
        hear_first(below=priority)
        if priority and not self._real_time:
            self.get_logger().info("no real-time priority is granted (docs/safety.md, when cores are short)")

    def _own_step_s(self) -> float:
        """Steps of our clock from here on are jumps; time on /clock comes in steps of its own."""
        return JUMP_S if self.get_parameter("use_sim_time").value else ExecutorConfig.lead_s

    def _make_interfaces(self) -> None:
        self._streams = self._spec.command_interface == "joint_trajectory"
        self._kind = JointTrajectory if self._streams else Float64MultiArray
        self._topics = {arm.name: self.resolve_topic_name(arm.command_topic) for arm in self._spec.arms}
        self._statuses = self.create_publisher(ExecutorStatus, "executor_status", LATCHED)
        self._courses = self.create_publisher(ActionChunk, "executor_course", LATCHED)
        self.create_subscription(ActionChunk, "action_chunk", self._on_chunk, PLAN)
        self.create_subscription(WorldActionStatus, "world_action_status", self._on_session, STATE)
        self._hear(JointState, self._spec.joint_state_topic, self._on_state, STATE)
        self._hear(Bool, "estop", self._on_estop, SAFETY)
        self._hear(Empty, "heartbeat", lambda *_: self._control.heartbeat(self._edge.now_ns()), SAFETY)
        for name in ("arm", "hold", "stop", "reset_fault"):
            self.create_service(Trigger, name, self._service(name))
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0 / self._spec.rates.control_hz, self._tick, clock=steady)
        self.create_timer(0.2, self._watch_owners, clock=steady)
        Diagnostics(self, self._health, self._spec.name)

    # Inputs

    def _hear(self, kind: Any, topic: str, on_message: Any, qos: QoSProfile) -> None:
        """Listen to what the arms depend on; publishers that cannot be heard are told, for they look silent."""
        def unheard(_event: Any) -> None:
            self._unheard.add(topic)
            self.get_logger().error(f"{topic} is offered as best effort and cannot be heard: publish it reliable")

        def heard(message: Any, info: Mapping[str, Any]) -> None:
            self._unheard.discard(topic)
            on_message(message, info)

        events = SubscriptionEventCallbacks(incompatible_qos=unheard)
        self.create_subscription(kind, topic, heard, qos, event_callbacks=events)

    def _on_state(self, message: JointState, info: Mapping[str, Any]) -> None:
        now_ns = self._edge.now_ns()
        self._drivers.hear(info.get(SEQUENCE), now_ns)
        try:
            self._newest = state_of(self._spec, message, self._edge)
        except InputError as error:
            self._control.report(Event.STATE_INVALID, now_ns)
            self.get_logger().error(f"refused: {error}", throttle_duration_sec=5.0)
            return
        if self._clocks.hear(self._newest.stamp_ns, now_ns):
            self._control.report(Event.CLOCK_JUMP, now_ns)

    def _on_chunk(self, message: ActionChunk) -> None:
        try:
            self._plans.add(chunk_of(message, self._edge))
        except InputError as error:
            self._malformed[MALFORMED] += 1
            self.get_logger().error(f"refused: {error}", throttle_duration_sec=5.0)

    def _take_plans(self) -> None:
        for chunk, merge in self._plans.join(self._due_ns, self._edge.now_ns):
            self._accepted += merge.accepted
            if not merge.accepted:
                self.get_logger().debug(f"chunk {chunk.chunk_id} refused: {merge.reason}")

    def _on_session(self, message: WorldActionStatus, info: Mapping[str, Any]) -> None:
        """The session's word on which epoch and sentence are in force, so that plans of old ones are refused."""
        now_ns = self._edge.now_ns()
        if message.contract_hash != self._spec.content_hash:
            return
        self._planners.hear_epoch(message.epoch, info.get(SEQUENCE), now_ns)
        if message.instruction_id:
            self._control.set_instruction(message.instruction_id, now_ns)
        if message.epoch != self._epoch and self._control.status(now_ns).epoch != message.epoch:
            self._control.set_epoch(message.epoch)
        self._epoch = message.epoch
        self._advice.hear(message.rung, max(message.surprise, default=None), now_ns)

    def _on_estop(self, message: Bool, _info: Mapping[str, Any]) -> None:
        self._estop_ns = self._edge.now_ns()
        self._causes.put(PRESSED, message.data)
        self._apply_estop(self._estop_ns)

    def _apply_estop(self, now_ns: int) -> None:
        """Stop for every cause that holds."""
        heard = self._estop_ns is not None and seconds(now_ns - self._estop_ns) <= self._values["estop_timeout_s"]
        self._causes.put(SILENT, self._values["require_estop"] and not heard)
        self._control.set_estop(self._causes.any, now_ns)

    def _silence(self) -> str:
        """Which required inputs say nothing, and who speaks who must not, in words for whoever wants to arm."""
        blocking = set(self._control.status(self._edge.now_ns()).conditions)
        if self._causes.reason or self._causes.holds(PRESSED):
            blocking.discard(Event.ESTOP_PRESSED)
        silent = {"estop": Event.ESTOP_PRESSED, "heartbeat": Event.HEARTBEAT_LOST}
        words = [
            f"; {topic} is silent: publish it, or start with {topic}:=off where there is none"
            for topic, condition in silent.items() if condition in blocking and topic not in self._unheard
        ]
        words += [f"; {topic} is offered as best effort: publish it reliable" for topic in sorted(self._unheard)]
        return "".join(words) + self._causes.words

    def _service(self, name: str) -> object:
        def answer(_request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            reply: Reply = getattr(self._control, name)(self._edge.now_ns()) if self._commands else Reply(
                False, f"{name} refused: still looking for another owner of the arms; try again in a moment"
            )
            if name == "arm" and reply.ok:
                self._clocks.doubted = False
            response.success, response.message = reply.ok, reply.message
            if name in ("arm", "reset_fault") and not reply.ok:
                response.message += self._silence()
            self.get_logger().info(f"{name}: {response.message}")
            return response

        return answer

    def _watch_owners(self) -> None:
        others = {topic: self.count_publishers(topic) - (arm in self._commands) for arm, topic in self._topics.items()}
        taken = [topic for topic, count in others.items() if count > 0]
        if not self._commands and taken:
            self.fail(ConfigError(
                "action_executor", "another node commands the same arms", got=taken, expected="no other publisher",
                fix="stop the other node; an arm has one owner",
            ))
        elif not self._commands and self._edge.now_ns() >= self._take_arms_ns:
            self._commands = {
                arm.name: self.create_publisher(self._kind, arm.command_topic, COMMAND) for arm in self._spec.arms
            }
        now_ns = self._edge.now_ns()
        for speakers in (self._planners, self._drivers):
            speakers.look(now_ns)
        for cause, holds in (
            (TWO_PLANNERS, self._planners.two), (SECOND_OWNER, bool(taken)), (TWO_DRIVERS, self._drivers.two),
            (TWO_ESTOPS, self._speakers_of("estop") > 1),
            (TWO_HEARTBEATS, self._values["require_heartbeat"] and self._speakers_of("heartbeat") > 1),
        ):
            self._causes.put(cause, holds)
        self._apply_estop(now_ns)
        if taken:
            self._control.let_go()

    def _speakers_of(self, topic: str) -> int:
        return self.count_publishers(self.resolve_topic_name(topic))

    # Outputs

    def _tick(self) -> None:
        now_ns = self._edge.now_ns()
        if self._values["require_estop"]:  # silence is noticed within a tick
            self._apply_estop(now_ns)
        if self._clocks.look(stamp_ns(self._edge.stamp(now_ns)) - now_ns):
            self._control.report(Event.CLOCK_JUMP, now_ns)
        command = self._control.step(now_ns, self._newest)
        self._judge_tick(now_ns)
        if (course := self._control.new_course()) is not None:  # planners hear of it as soon as it changes
            self._courses.publish(chunk_message(course, self._edge))
        ours = bool(self._commands) and not self._causes.holds(SECOND_OWNER)
        if ours and self._streams and self._command_rate.due(now_ns):
            self._publish_commands(now_ns)
        elif ours and not self._streams and command is not None:
            for arm in self._spec.arms:
                self._commands[arm.name].publish(set_point_message(self._spec, arm, command.position_J))
        if self._status_rate.due(now_ns):
            self._publish_status(now_ns)
        self._take_plans()

    def _judge_tick(self, now_ns: int) -> None:
        """How late the tick came after its place in one unbroken row; what it overran is late too."""
        period_ns = nanoseconds(1.0 / self._spec.rates.control_hz)
        if not self._due_ns or abs(now_ns - self._due_ns) > nanoseconds(ROW_S):
            self._due_ns = now_ns
        self._due_ns = min(self._due_ns, now_ns)  # an early tick is where the row really stands
        self._lateness.add(seconds(now_ns - self._due_ns))
        self._due_ns += period_ns * max(1, 1 + (now_ns - self._due_ns) // period_ns)

    def _publish_commands(self, tick_ns: int) -> None:
        """A trajectory an arm. One that only holds a place is sent once: the controller holds by itself."""
        now_ns = self._edge.now_ns()
        if seconds(now_ns - tick_ns) > LATE_S:
            self._control.step(now_ns, self._newest)
        ahead = self._control.look_ahead(now_ns)
        rest_J = ahead.position_NJ[-1] if ahead is not None and not ahead.velocity_NJ.any() else None
        if ahead is not None and (rest_J is None or not np.array_equal(rest_J, self._rest_J)):
            messages = self._messages(ahead)
            for name, message in tuple(messages.items()):
                if seconds(self._edge.now_ns() - now_ns) > LATE_S:
                    break
                self._commands[name].publish(message)
                del messages[name]
            if messages:
                self._control.take_back(tuple(messages))
                return
            if self._clocks.doubted:
                self._control.let_go()
        self._rest_J = rest_J

    def _messages(self, ahead: LookAhead) -> dict[str, JointTrajectory]:
        """A look-ahead for each arm. While clocks are doubted it is a stop that begins now, which every clock
        understands, wherever the arm has come to.
        """
        points_N3J = np.stack([ahead.position_NJ, ahead.velocity_NJ, ahead.acceleration_NJ], axis=1)
        start_ns, time_s_N = ahead.start_ns if self._values["stamp_commands"] else None, ahead.time_s_N
        if self._clocks.doubted:
            kept = time_s_N >= min(JOIN_S, time_s_N[-1])
            start_ns, time_s_N, points_N3J = None, np.maximum(time_s_N[kept], JOIN_S), points_N3J[kept]
        return {arm.name: trajectory_message(self._spec, arm, self._edge, start_ns, time_s_N, points_N3J)
                for arm in self._spec.arms}

    def _publish_status(self, now_ns: int) -> None:
        status = self._control.status(now_ns)
        self._tell(status, now_ns)
        jitter_s = self._lateness.percentile_s(99) or 0.0
        message = executor_status_message(self._spec, status, self._accepted, self._malformed, jitter_s)
        message.header.stamp = self._edge.stamp(now_ns)
        message.speed_scale, message.reason = self._speeds.get(status.mode, 0.0), self._reason(status)
        self._statuses.publish(message)

    def _reason(self, status: Status) -> str:
        if self._clocks.doubted and status.reason == Event.STATE_STALE:  # by their stamps, and this is why
            return Event.CLOCK_JUMP
        return self._causes.why(status.reason, latched=status.mode is Mode.FAULT)

    def _tell(self, status: Status, now_ns: int) -> None:
        """Every stop goes to the log, with what a person would look at first."""
        before, self._told = self._told, status.mode
        if status.mode == before or status.mode not in (Mode.FAULT, Mode.STOP):
            return
        age = "none" if self._newest is None else f"{seconds(now_ns - self._newest.stamp_ns):.2f} s old"
        worst = int(np.argmax(status.tracking_error_J))
        text = (f"{status.mode} {self._reason(status)}: newest joint state {age}, {self._spec.joint_names[worst]} "
                f"{status.tracking_error_J[worst]:.3f} off its command, {status.missed_ticks} ticks missed so far")
        if status.mode == Mode.FAULT:  # a logger takes one severity a line of code
            self.get_logger().error(text)
        else:
            self.get_logger().warning(text)

    def _health(self) -> Health:
        status = self._control.status(self._edge.now_ns())
        refused: dict[str, int] = {**self._malformed}
        refused |= {reason.value: count for reason, count in status.refused.items()}
        values = {
            "mode": status.mode, "reason": self._reason(status),
            "conditions": ",".join(status.conditions), "slack_s": status.slack_s, "stall_share": status.stall_share,
            "ticks": status.ticks, "missed_ticks": status.missed_ticks, "accepted": self._accepted,
            "real_time": self._real_time,
            "gate_interventions": status.gate_interventions, "recalls": sum(self._control.recalls.values()),
            **{f"refused.{reason}": count for reason, count in refused.items() if count},
            **{f"border.{reason}": count for reason, count in status.borders.items() if count},
        }
        level, text = LEVELS.get(status.mode, OK), f"{status.mode} {values['reason']}"
        if self._unheard and level == OK:
            return Health(WARN, f"{text}; offered as best effort: {', '.join(sorted(self._unheard))}", values)
        return Health(level, text, values)


def main() -> None:
    """Entry point."""
    raise SystemExit(run(ActionExecutorNode))


if __name__ == "__main__":
    main()
